//! One server of a quorum: whether it counts, and its admission after it has lost its data (`docs/quorum.md`). Knows
//! nothing of the other servers.

use super::scripts::Scripts;
use super::{Config, RedisStore, handshake};
use crate::store::{Connection, Unreachable};

/// What a server says of its membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Does it count?
    pub counts: bool,
    /// Its counter, or the one that it had when it was found to have lost its data.
    pub counter: u64,
    /// The longest lease in use that is noted there, in milliseconds.
    pub lease_ms: u64,
    /// How long its delay has run, in milliseconds.
    pub age_ms: u64,
    /// When its delay began: stands for this loss of data.
    pub since: u64,
    /// Where nothing was known of it: the age of its process, in milliseconds; or since when it counts.
    pub fresh_ms: Option<u64>,
    /// Where it was let in as new: [`Look::since`] of those that did not count then.
    pub beside: Vec<u64>,
}

/// What a server is let in again with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The largest counter of the others.
    pub counter: u64,
    /// [`Look::since`], seen before the others' counters were read.
    pub since: u64,
    /// How long its delay must have run, in milliseconds.
    pub delay_ms: u64,
    /// The longest lease in use, in milliseconds.
    pub lease_ms: u64,
    /// Nothing was known of it, nor of the others: [`Look::since`] of those that do not count.
    pub fresh: Option<Vec<u64>>,
}

impl RedisStore {
    /// A server of a quorum. No I/O.
    pub(in crate::store) fn member(config: Config) -> Self {
        Self::with_scripts(config, Scripts::of_quorum())
    }

    /// Connects, and asks whether the server counts. `lease_ms`: the longest lease that this locker uses. Blocks as
    /// [`connect`](crate::store::Store::connect) does.
    pub(in crate::store) fn connect_member(&self, lease_ms: u64) -> Result<(Box<dyn Connection>, Look), Unreachable> {
        let script = &self.scripts.quorum.as_ref().expect("a server of a quorum").look;
        let (stream, answer) = handshake::for_member(&self.site, &self.scripts, script, &[lease_ms])?;
        let [counts, counter, lease_ms, age_ms, since, fresh_ms, beside @ ..] = &answer[..] else {
            return Err(Unreachable(format!("{}: the script about its membership answered nonsense", self.address)));
        };
        let positive = |n: &i64| u64::try_from(*n).unwrap_or(0);
        let look = Look {
            counts: *counts == 1,
            counter: positive(counter),
            lease_ms: positive(lease_ms),
            age_ms: positive(age_ms),
            since: positive(since),
            fresh_ms: u64::try_from(*fresh_ms).ok(),
            beside: beside.iter().map(positive).collect(),
        };
        Ok((self.connection(stream, self.reached()), look))
    }

    /// Lets the server count. False: it has lost its data again meanwhile, or its delay is not over.
    pub(in crate::store) fn admit(&self, with: &Admission) -> Result<bool, Unreachable> {
        let script = &self.scripts.quorum.as_ref().expect("a server of a quorum").admit;
        let mut arguments =
            vec![with.counter, with.since, with.delay_ms, with.lease_ms, u64::from(with.fresh.is_some())];
        arguments.extend(with.fresh.iter().flatten());
        let (_, answer) = handshake::for_member(&self.site, &self.scripts, script, &arguments)?;
        Ok(answer == [1])
    }
}
