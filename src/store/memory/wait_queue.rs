//! One lock's queue: waiters in order of their score, as a Redis sorted set keeps them.
//!
//! Scores are places, half a place more for a waiter that was offered the lock (rule 8). Equal scores are in the byte
//! order of the members' text. This file knows nothing of locks, leases or who is alive.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use crate::store::{Acquisition, Request};

/// A waiter: `<acquisition>@<claim ms>@<channel>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// Who waits.
    pub acquisition: Acquisition,
    /// The lease that a hand-off gives it.
    pub claim_ms: u64,
    /// Its locker's channel.
    pub channel: Arc<str>,
}

impl Member {
    /// The member that stands for the acquisition of this request.
    pub fn of(request: &Request) -> Self {
        Member {
            acquisition: request.acquisition,
            claim_ms: request.seat.claim_ms,
            channel: Arc::clone(&request.seat.channel),
        }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}@{}", self.acquisition, self.claim_ms, self.channel)
    }
}

impl Ord for Member {
    fn cmp(&self, other: &Self) -> Ordering {
        // Owner ids in text are in the order of their bytes. What follows them is not in the order of its numbers, but
        // one owner with the same place twice is rare: only then is the text written out.
        self.acquisition
            .owner
            .cmp(&other.acquisition.owner)
            .then_with(|| if self == other { Ordering::Equal } else { self.to_string().cmp(&other.to_string()) })
    }
}

impl PartialOrd for Member {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Where a member stands: by place, a marked one half a place behind an unmarked one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score {
    /// The number that it drew.
    pub place: u64,
    /// Was it offered the lock?
    pub marked: bool,
}

/// A queue and the time at which the server forgets it.
#[derive(Clone, Debug, Default)]
pub struct WaitQueue {
    order: BTreeSet<(Score, Member)>,
    scores: HashMap<Member, Score>,
    /// When it expires, in microseconds of the server's time.
    pub expires_us: u64,
}

impl WaitQueue {
    /// How many waiters there are.
    pub fn len(&self) -> usize {
        self.scores.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.scores.is_empty()
    }

    /// Puts a member at its place, unmarked, wherever it was before.
    pub fn put(&mut self, member: Member, place: u64) {
        self.set(member, Score { place, marked: false });
    }

    /// Marks a member as offered the lock.
    pub fn mark(&mut self, member: &Member) {
        if let Some(&score) = self.scores.get(member) {
            self.set(member.clone(), Score { marked: true, ..score });
        }
    }

    /// Takes a member out.
    pub fn remove(&mut self, member: &Member) {
        if let Some((member, score)) = self.scores.remove_entry(member) {
            self.order.remove(&(score, member));
        }
    }

    /// The first member, with its score.
    pub fn first(&self) -> Option<(Score, &Member)> {
        self.iter().next()
    }

    /// The members in order, with their scores.
    pub fn iter(&self) -> impl Iterator<Item = (Score, &Member)> {
        self.order.iter().map(|(score, member)| (*score, member))
    }

    fn set(&mut self, member: Member, score: Score) {
        self.remove(&member);
        self.scores.insert(member.clone(), score);
        self.order.insert((score, member));
    }
}
