//! What a server says about itself that endangers locks without forbidding them, and which rights are missed but not
//! needed. Knows no socket.

use std::sync::{Mutex, PoisonError};

/// Those of the connection made last, by subject.
#[derive(Default)]
pub struct Warnings(Mutex<Vec<(&'static str, String)>>);

impl Warnings {
    /// Replaces what was said about that subject.
    pub fn set(&self, subject: &'static str, text: Option<String>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(other, _)| *other != subject);
        all.extend(text.map(|text| (subject, text)));
    }

    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(_, text)| text.clone()).collect()
    }
}

/// Of an `INFO memory`: does this server throw keys away when memory is short? `None`: it does not, or does not tell.
pub fn eviction(info: &str) -> Option<String> {
    let field = |name: &str| {
        let value = |line: &str| line.trim().strip_prefix(name)?.strip_prefix(':').map(str::to_owned);
        info.lines().find_map(value)
    };
    let policy = field("maxmemory_policy")?;
    let evicts = policy != "noeviction" && field("maxmemory")? != "0";
    evicts.then(|| {
        format!(
            "maxmemory-policy is {policy}: when memory is short the server may throw locks away while they are held \
             (they have an expiry); set noeviction"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eviction_is_warned_of_where_a_limit_and_a_policy_make_it_possible() {
        let info = |limit: &str, policy: &str| {
            eviction(&format!("# Memory\r\nused_memory:1\r\nmaxmemory:{limit}\r\nmaxmemory_policy:{policy}\r\n"))
        };
        for policy in ["allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru", "volatile-ttl"] {
            assert!(info("1000", policy).unwrap().contains(policy));
            assert_eq!(info("0", policy), None);
        }
        assert_eq!(info("1000", "noeviction"), None);
        assert_eq!((eviction(""), eviction("maxmemory_policy:allkeys-lru")), (None, None));
    }

    #[test]
    fn a_later_word_on_the_same_subject_replaces_the_earlier() {
        let warnings = Warnings::default();
        warnings.set("a", Some("1".into()));
        warnings.set("b", Some("2".into()));
        warnings.set("a", Some("3".into()));
        assert_eq!(warnings.all(), ["2", "3"]);
        warnings.set("a", None);
        assert_eq!(warnings.all(), ["2"]);
    }
}
