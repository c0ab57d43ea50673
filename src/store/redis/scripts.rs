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
    /// `floor.lua`
    pub floor: Script,
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
            floor: Script::new(body!("floor")),
        }
    }

    /// Those that a connection uses again and again.
    pub fn steps(&self) -> [&Script; 4] {
        [&self.join, &self.renew, &self.release, &self.leave]
    }
}
