//! What the fuzzer runs, and a bounded test on the stable compiler: everything that comes from outside as bytes. For tests
//! only (the feature `fuzzing`); never in a library that is shipped.
//!
//! Each function takes any bytes and panics where a property does not hold.

use uuid::Uuid;

use crate::Options;
use crate::error::Status;
use crate::store::name::{NAME_MAX_BYTES, Name};
use crate::store::redis::fuzzing as redis;
use crate::store::{Acquisition, Op};

/// A URL is taken or refused as an invalid argument, and neither what is refused nor what is printed shows the password.
pub fn url(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let with_secret = text.replacen('@', ":hunter2@", 1);
    // Elsewhere what stands before an @ is part of a path, a name or a parameter.
    let scheme = |scheme: &str| ["redis", "redis-sentinel", "redis-cluster", "redis-quorum"].contains(&scheme);
    let parts = text.split_once("://").filter(|parts| scheme(&parts.0.replacen("rediss", "redis", 1)));
    let authority = parts.unwrap_or_default().1;
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    let secret = authority.contains('@') && !text.contains("hunter2");
    for url in [text, &with_secret] {
        let mut options = Options::new();
        if let Err(error) = options.set_url(url) {
            assert_eq!(error.status, Status::InvalidArgument);
            assert!(!error.message.is_empty());
            assert!(!secret || !error.message.contains("hunter2"), "{error}");
        }
        assert!(!secret || !format!("{options:?}").contains("hunter2"), "{options:?}");
    }
}

/// A name is legal exactly by its documented rules, and is read back from its key.
pub fn name(data: &[u8]) {
    let at = data.first().map_or(0, |&at| usize::from(at)).min(data.len());
    let (group, name) = data.split_at(at);
    let (Ok(group), Ok(name)) = (std::str::from_utf8(group), std::str::from_utf8(name)) else { return };
    let fits = |text: &str| (1..=NAME_MAX_BYTES).contains(&text.len());
    let legal = fits(name) && fits(group) && !group.contains(':');
    let made = Name::new(name, group);
    assert_eq!(made.is_ok(), legal, "{name:?} {group:?}");
    if let Ok(made) = made {
        assert_eq!(Name::from_key(made.key()).as_deref(), Some(&made));
        assert!(made.waiters().ends_with(made.key()));
    }
}

/// An acquisition's text is read back, and nothing else is read as one.
pub fn acquisition(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(read) = Acquisition::parse(text) {
        assert_eq!(read.to_string(), text);
    }
    let owner = Uuid::from_u128(data.iter().fold(0, |n, &b| n << 8 | u128::from(b)));
    let written = Acquisition { owner, attempt: data.len() as u64 };
    assert_eq!(Acquisition::parse(&written.to_string()), Some(written));
}

/// Answers to some requests, as a connection reads them.
pub fn replies(data: &[u8]) {
    const OPS: [Op; 7] = [
        Op::Try { lease_ms: 1 },
        Op::Join { lease_ms: 1, place: 0, queue: true },
        Op::Join { lease_ms: 1, place: 1, queue: false },
        Op::Renew { lease_ms: 1 },
        Op::Release { leave: true },
        Op::Leave { lease_ms: 1 },
        Op::Inspect,
    ];
    let Some((&first, rest)) = data.split_first() else { return };
    let ops = OPS.iter().cycle().skip(usize::from(first)).copied();
    redis::replies(rest, ops);
    redis::cut_anywhere(rest);
}

/// Messages of a subscription.
pub fn messages(data: &[u8]) {
    redis::messages(data);
}

/// What takes any bytes.
pub type Target = fn(&[u8]);

/// All of them; each has a file in `fuzz/fuzz_targets/`.
pub const TARGETS: [Target; 5] = [url, name, acquisition, replies, messages];

#[cfg(test)]
mod tests {
    use super::*;

    const RUNS: usize = 40_000;

    /// What the mutations start from.
    const SEEDS: [&[u8]; 21] = [
        b"redis://user:pass@host:6379/3",
        b"redis+unix:///tmp/socket?db=1",
        b"memory://name",
        b"rediss://u:p%40@h:1/2?ca=/a%20b&cert=c&key=k&server_name=s.example",
        b"redis+unix:///s?user=u&pass=p&client_name=n&keepalive_ms=100",
        b"rediss://[::1]:1/",
        b"redis-cluster://user:pass@host:7000,host:7001,[::1]?client_name=n",
        b"redis-quorum://user:pass@host:7000,host:7001,[::1]/2?client_name=n",
        b"\x05groupname of a lock",
        b"6ba7b810-9dad-11d1-80b4-00c04fd430c8:17",
        b"\x00+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n:1795523967000000\r\n",
        b"\x01*2\r\n$5\r\ntaken\r\n$16\r\n1795523967000000\r\n",
        b"\x01*4\r\n$6\r\nqueued\r\n$16\r\n1795523967000000\r\n:3000\r\n:1\r\n",
        b"\x04*3\r\n$4\r\nnext\r\n$38\r\n6ba7b810-9dad-11d1-80b4-00c04fd430c8:1\r\n$16\r\n1795523967000000\r\n",
        b"\x04$8\r\nreleased\r\n-BUSY Redis is busy\r\n$-1\r\n*-1\r\n",
        b"\x06$38\r\n6ba7b810-9dad-11d1-80b4-00c04fd430c8:1\r\n",
        b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$70\r\nhandoff 6ba7b810-9dad-11d1-80b4-00c04fd430c8:1 1795523967000000 g:name\r\n",
        b"-MOVED 3999 127.0.0.1:6381\r\n-ASK 3999 :6381\r\n",
        b"*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$9\r\n127.0.0.1\r\n:7000\r\n$2\r\nid\r\n",
        b"*3\r\n$8\r\nsmessage\r\n$1\r\nc\r\n$11\r\ndropped g:n\r\n*3\r\n$12\r\nsunsubscribe\r\n$1\r\nc\r\n:0\r\n",
        b"*2\r\n$4\r\npong\r\n$2\r\n42\r\n*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$11\r\ndropped g:n\r\n",
    ];

    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % bound.max(1) as u64) as usize
        }

        fn mutated(&mut self) -> Vec<u8> {
            let mut data = SEEDS[self.below(SEEDS.len())].to_vec();
            for _ in 0..self.below(6) {
                let at = self.below(data.len() + 1);
                match self.below(5) {
                    0 => data.insert(at, self.below(256) as u8),
                    1 => drop(data.drain(at..(at + self.below(8)).min(data.len()))),
                    2 if at < data.len() => {
                        data[at] = *b"0123456789-+:$*\r\n@/ %\xff".get(self.below(22)).unwrap_or(&0)
                    }
                    3 => {
                        let other = SEEDS[self.below(SEEDS.len())];
                        data.splice(at..at, other[self.below(other.len())..].iter().copied());
                    }
                    _ => data.truncate(at),
                }
            }
            data
        }
    }

    #[test]
    fn whatever_comes_from_outside_keeps_the_properties() {
        let mut random = Random(0x9E37_79B9_7F4A_7C15);
        for target in TARGETS {
            SEEDS.into_iter().for_each(target);
            for _ in 0..RUNS {
                target(&random.mutated());
            }
        }
    }
}
