//! Keys of other programs: one of them writes a lock's key, whoever holds the lock, and deletes it some time later unless
//! it expires before. Such a key counts as held by somebody else: no step of ours changes it, nobody acquires while it is
//! there, who held before is told of the loss, and who waits polls.

use std::collections::BTreeMap;

use dlock::store::{Acquisition, Holder, Op, Reply, Request, RequestId};
use dlock_history::checker::Time;

use super::network::ConnId;
use super::plan::{Fault, MS, SECOND};
use super::trace::trace;
use super::world::{Event, World};

/// In calm, another program keeps the key at most so long.
const CALM_MAX_US: Time = 200 * MS;

/// A foreign key as a step finds it: its value, and how long it has to live.
pub type Found = (Holder, Option<u64>);

/// What is known of each lock's foreign key.
#[derive(Default)]
pub struct Foreign {
    locks: Vec<Known>,
    /// How many there were.
    number: u64,
    /// Renewals that found a foreign key, whose holder is to be told by the reply.
    to_tell: BTreeMap<(ConnId, RequestId), Acquisition>,
}

#[derive(Clone, Copy, Default)]
struct Known {
    /// The last one: its number, since when it was certainly there, and until when it was at most.
    number: u64,
    since: Time,
    gone_at: Time,
}

impl Foreign {
    pub fn new(locks: usize) -> Self {
        Foreign { locks: vec![Known::default(); locks], ..Foreign::default() }
    }

    /// Was there one at some time since then?
    pub fn was_there_since(&self, lock: usize, at: Time) -> bool {
        self.locks[lock].number > 0 && self.locks[lock].gone_at >= at
    }
}

impl World {
    /// Another program writes the key, and keeps it for at most that long.
    pub fn set_foreign(&mut self, lock: usize, longest: Time) {
        let text = match self.rng.below(3) {
            0 => None,
            1 => Some("somebody".to_string()),
            _ => Some(uuid::Uuid::from_u128(u128::MAX - self.foreign.number as u128).to_string()),
        };
        let keeps = self.rng.spread(MS, longest);
        let expiry = if self.rng.flip() { Some(self.server_now() + self.rng.spread(MS, longest)) } else { None };
        let key = self.names[lock].key();
        if matches!(self.server.holder(self.server_now(), key), Holder::Acquisition(_)) {
            self.history.disturbed(self.now, self.now, lock);
        }
        self.server.set_foreign(key, text);
        self.server.set_expiry(key, expiry);
        trace!(self, "another program sets the key of lock {lock}, until {expiry:?}, and keeps it for {keeps}");
        self.note_foreign(lock, keeps);
    }

    /// At the beginning of the calm, on locks that nobody holds or waits for: those who come meanwhile poll.
    pub fn set_foreign_in_calm(&mut self) {
        if !self.plan.faults.contains(&Fault::ForeignKey) {
            return;
        }
        for lock in 0..self.names.len() {
            let now = self.server_now();
            let free = self.server.holder(now, self.names[lock].key()) == Holder::Nobody
                && self.server.queue(now, self.names[lock].waiters()).is_empty();
            let waited_for = self.processes.iter().any(|process| process.waits_for(lock));
            if free && !waited_for && self.rng.flip() {
                self.stats.count("fault", Fault::ForeignKey.name());
                self.set_foreign(lock, CALM_MAX_US);
            }
        }
    }

    fn note_foreign(&mut self, lock: usize, keeps: Time) {
        self.foreign.number += 1;
        let number = self.foreign.number;
        let gone_at = self.now + keeps;
        self.foreign.locks[lock] = Known { number, since: self.now, gone_at };
        self.at(gone_at, Event::ForeignGone(lock, number));
    }

    pub fn delete_foreign(&mut self, lock: usize, number: u64) {
        let key = self.names[lock].key();
        // At time 0 nothing has expired: a clock that goes back brings back what has.
        if self.foreign.locks[lock].number == number && matches!(self.server.holder(0, key), Holder::Foreign(_)) {
            trace!(self, "another program deletes the key of lock {lock}");
            self.server.remove(key);
        }
    }

    /// The server's data or clock is another: which foreign keys are there now?
    pub fn look_for_foreign(&mut self) {
        for lock in 0..self.names.len() {
            if matches!(self.server.holder(0, self.names[lock].key()), Holder::Foreign(_)) {
                let keeps = self.rng.spread(MS, SECOND);
                self.note_foreign(lock, keeps);
            }
        }
    }

    pub fn is_foreign(&self, lock: usize) -> bool {
        self.foreign_key(lock).is_some()
    }

    /// What another program has under that lock's key.
    pub fn foreign_key(&self, lock: usize) -> Option<Found> {
        if self.foreign.locks[lock].number == 0 {
            return None;
        }
        let (now, key) = (self.server_now(), self.names[lock].key());
        let holder = self.server.holder(now, key);
        matches!(holder, Holder::Foreign(_)).then(|| (holder, self.server.remaining_ms(now, key)))
    }

    /// What has been there from before that time until now.
    pub fn foreign_since(&self, lock: usize, at: Time) -> Option<Holder> {
        let (holder, _) = self.foreign_key(lock)?;
        (self.foreign.locks[lock].since <= at).then_some(holder)
    }

    /// A step met a foreign key: it must have left it alone, and say so.
    pub fn check_foreign(
        &mut self,
        conn: ConnId,
        id: RequestId,
        request: &Request,
        lock: usize,
        found: Found,
        reply: &Reply,
    ) {
        let says_so = match (request.op, reply) {
            (Op::Try { .. }, reply) => matches!(reply, Reply::Held { remaining_ms: None, .. } | Reply::Error(_)),
            (Op::Join { .. }, reply) => *reply == Reply::Foreign { remaining_ms: found.1 },
            (Op::Inspect, reply) => *reply == Reply::Holder(found.0.clone()),
            (_, reply) => *reply == Reply::NotMine(found.0.clone()),
        };
        self.stats.count("foreign key", "met");
        let (op, left) = (request.op, self.foreign_key(lock));
        if left.as_ref() != Some(&found) {
            self.fail(format!("(h) foreign key: {op:?} changed lock {lock} from {found:?} to {left:?}"));
        } else if !says_so {
            self.fail(format!("(h) foreign key: {op:?} met {found:?} and answered {reply:?}"));
        }
        if matches!(request.op, Op::Renew { .. }) {
            self.foreign.to_tell.insert((conn, id), request.acquisition);
        }
    }

    /// A reply was read: if it was that of a renewal that found a foreign key, its handle holds nothing any more.
    pub fn check_told(&mut self, conn: ConnId, id: RequestId) {
        if self.foreign.to_tell.is_empty() {
            return;
        }
        if let Some(acquisition) = self.foreign.to_tell.remove(&(conn, id))
            && self.believes(acquisition)
        {
            self.fail(format!("(f) {acquisition} was told that another program has the key, and holds on"));
        }
    }
}
