//! The scripts: their texts and hashes. What they do is said at the top of each `.lua` file.

/// One script.
pub struct Script {
    /// Its text.
    pub body: &'static str,
    /// What `EVALSHA` calls it.
    pub sha: String,
}

impl Script {
    fn new(body: &'static str) -> Self {
        Script { body, sha: sha1_smol::Sha1::from(body).digest().to_string() }
    }
}

/// All scripts.
pub struct Scripts {
    /// `join.lua`
    pub join: Script,
    /// `renew.lua`
    pub renew: Script,
    /// `release.lua`
    pub release: Script,
    /// `leave.lua`
    pub leave: Script,
    /// `back.lua`
    pub back: Script,
    /// `confirm.lua`
    pub confirm: Script,
    /// `floor.lua`
    pub floor: Script,
    /// What only a server of a quorum is sent.
    pub quorum: Option<OfQuorum>,
}

/// The scripts about a server's membership.
pub struct OfQuorum {
    /// `look.lua`
    pub look: Script,
    /// `admit.lua`
    pub admit: Script,
}

/// A script's text: its file behind the shared ones that it needs.
macro_rules! body {
    ($($file:literal),+) => { concat!($(include_str!(concat!("scripts/", $file, ".lua"))),+) };
}

impl Scripts {
    pub fn new() -> Self {
        Scripts {
            join: Script::new(body!("draw", "join")),
            renew: Script::new(body!("notmine", "renew")),
            release: Script::new(body!("draw", "notmine", "release")),
            leave: Script::new(body!("draw", "notmine", "leave")),
            back: Script::new(body!("notmine", "back")),
            confirm: Script::new(body!("notmine", "confirm")),
            floor: Script::new(body!("floor")),
            quorum: None,
        }
    }

    /// For a server of a quorum: the same steps, refused where it does not count.
    pub fn of_quorum() -> Self {
        Scripts {
            join: Script::new(body!("member", "raise", "draw", "join")),
            renew: Script::new(body!("member", "note", "notmine", "renew")),
            release: Script::new(body!("member", "draw", "notmine", "release")),
            leave: Script::new(body!("member", "draw", "notmine", "leave")),
            back: Script::new(body!("notmine", "back")),
            confirm: Script::new(body!("member", "notmine", "confirm")),
            floor: Script::new(body!("floor")),
            quorum: Some(OfQuorum { look: Script::new(body!("look")), admit: Script::new(body!("admit")) }),
        }
    }

    /// Those that a connection uses again and again.
    pub fn steps(&self) -> impl Iterator<Item = &Script> {
        let of_quorum = self.quorum.iter().flat_map(|_| [&self.back, &self.confirm]);
        [&self.join, &self.renew, &self.release, &self.leave].into_iter().chain(of_quorum)
    }
}
