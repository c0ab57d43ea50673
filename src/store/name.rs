//! A lock's name, and the keys that it has on the server.

use crate::error::{Error, Result, Status};

/// The longest lock name and the longest group, in bytes.
pub const NAME_MAX_BYTES: usize = 512;

/// The pair (group, name): two handles with the same pair compete for the same lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    key: String,
    waiters: String,
}

impl Name {
    /// Checks the pair. An empty name or group, one over 512 bytes, and a `:` in the group are refused.
    pub fn new(name: &str, group: &str) -> Result<Self> {
        for (what, text) in [("name", name), ("group", group)] {
            if text.is_empty() {
                return Err(Error::new(Status::InvalidArgument, format!("{what}: must not be empty")));
            }
            if text.len() > NAME_MAX_BYTES {
                let n = text.len();
                return Err(Error::new(
                    Status::InvalidArgument,
                    format!("{what}: {n} bytes, at most {NAME_MAX_BYTES}"),
                ));
            }
        }
        if group.contains(':') {
            return Err(Error::new(Status::InvalidArgument, format!("group: must not contain ':' (it is {group:?})")));
        }
        let key = format!("{group}:{name}");
        let waiters = format!(":dlock:wait:{{{}}}:{key}", crate::store::redis::slot::tag(&key));
        Ok(Name { key, waiters })
    }

    /// The key that holds the acquisition: `group:name`.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The key of the queue: `:dlock:wait:{tag}:group:name`.
    pub fn waiters(&self) -> &str {
        &self.waiters
    }

    /// What puts other keys into the slot of this name's: `{tag}`.
    pub fn tag(&self) -> &str {
        let tagged = &self.waiters[":dlock:wait:".len()..];
        &tagged[..=tagged.find('}').unwrap_or_default()]
    }
}

/// The counter of fencing tokens, one a server. (On a cluster one a slot: `:dlock:fence:{tag}`.)
pub const FENCE: &str = ":dlock:fence";
/// Where there are replicas: the replication id of the primary for which the counter was lifted last (rule 5).
/// (On a cluster for each counter: `:dlock:fence:life:{tag}`.)
pub const FENCE_LIFE: &str = ":dlock:fence:life";

/// Of a server of a quorum: whether it counts, and since when (`docs/quorum.md`).
pub const MEMBERSHIP: &str = ":dlock:quorum";

/// What the channels of lockers begin with.
pub const CHANNEL_PREFIX: &str = ":dlock:wake:";
/// The same, as a user is given the right to them.
pub const CHANNELS: &str = "the channels :dlock:wake:*";

impl Name {
    /// The name that has this key; `None` if no legal name has.
    pub fn from_key(key: &str) -> Option<std::sync::Arc<Self>> {
        let (group, name) = key.split_once(':')?;
        Name::new(name, group).ok().map(std::sync::Arc::new)
    }
}
