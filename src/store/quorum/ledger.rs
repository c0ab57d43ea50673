//! What all links of one locker to its quorum know in common: the highest number seen, which acquisitions are given up
//! while something of them is under way, and which releases a server has yet to be told. Does no I/O.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::Time;
use crate::store::{Acquisition, Request, TOKEN_FLOOR};

/// See the module's documentation.
pub struct Ledger {
    highest: AtomicU64,
    /// How long a key may live after all that was asked for it, in milliseconds.
    lease_ms: AtomicU64,
    links: AtomicU64,
    /// How many acquisitions have something that is to be undone, should it come in.
    to_undo: AtomicUsize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Acquisitions with rounds of which an answer is outstanding.
    open: HashMap<Acquisition, Open>,
    /// Released at some servers, but not at a majority: the release will be repeated.
    partly_released: VecDeque<Acquisition>,
    /// For each server, what it has not answered, and until when it is of use to say it again.
    owed: Vec<VecDeque<(Request, Time)>>,
}

/// Links are told apart by a bit each; those of more than 64 share some.
#[derive(Default)]
struct Open {
    rounds: usize,
    /// On which links there were rounds.
    links: u64,
    /// On which of them something went out behind the rounds that gives the acquisition up.
    given_up: u64,
}

impl Open {
    /// May an answer come in that has to be undone?
    fn is_to_undo(&self) -> bool {
        self.given_up != 0 && self.links & !self.given_up != 0
    }
}

/// More than that is not kept for one server: the leases see to the rest.
const OWED_MAX: usize = 10_000;
/// More releases are not repeated at a time.
const PARTLY_MAX: usize = 1_000;

impl Ledger {
    /// Of a locker with leases of that length.
    pub fn new(servers: usize, lease_ms: u64) -> Self {
        let inner = Inner { owed: vec![VecDeque::new(); servers], ..Inner::default() };
        let highest = AtomicU64::new(TOKEN_FLOOR);
        Ledger {
            highest,
            lease_ms: AtomicU64::new(lease_ms),
            links: AtomicU64::new(0),
            to_undo: AtomicUsize::new(0),
            inner: Mutex::new(inner),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number was seen.
    pub fn saw(&self, number: u64) {
        self.highest.fetch_max(number, Ordering::Relaxed);
    }

    /// A place behind all that were seen, for one who has none.
    pub fn place(&self) -> u64 {
        self.highest.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A lease of that length is in use.
    pub fn uses(&self, lease_ms: u64) {
        self.lease_ms.fetch_max(lease_ms, Ordering::Relaxed);
    }

    /// The longest lease in use, in milliseconds.
    pub fn lease_ms(&self) -> u64 {
        self.lease_ms.load(Ordering::Relaxed)
    }

    /// The bit of a new link.
    pub(super) fn link(&self) -> u64 {
        1 << (self.links.fetch_add(1, Ordering::Relaxed) % 64)
    }

    /// Changes what is known of an acquisition, and counts.
    fn change(&self, acquisition: Acquisition, change: impl FnOnce(&mut Open)) {
        let mut inner = self.inner();
        let open = inner.open.entry(acquisition).or_default();
        let before = open.is_to_undo();
        change(open);
        let gone = open.rounds == 0;
        match (before, open.is_to_undo() && !gone) {
            (false, true) => self.to_undo.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.to_undo.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
        if gone {
            inner.open.remove(&acquisition);
        }
    }

    pub(super) fn opens(&self, acquisition: Acquisition, link: u64) {
        self.change(acquisition, |open| {
            open.rounds += 1;
            open.links |= link;
        });
    }

    pub(super) fn closes(&self, acquisition: Acquisition) {
        self.change(acquisition, |open| open.rounds -= 1);
    }

    /// What of it may still come in on other links is to be undone; on this one that is on its way.
    pub(super) fn gives_up(&self, acquisition: Acquisition, link: u64) {
        self.change(acquisition, |open| open.given_up |= link);
    }

    /// Is what has come in on this link to be undone?
    pub(super) fn is_to_undo(&self, acquisition: Acquisition, link: u64) -> bool {
        self.inner().open.get(&acquisition).is_some_and(|open| open.given_up != 0 && open.given_up & link == 0)
    }

    pub(super) fn is_given_up(&self, acquisition: Acquisition) -> bool {
        self.inner().open.get(&acquisition).is_some_and(|open| open.given_up != 0)
    }

    /// May any answer come in, on whatever link, that has to be undone?
    pub(super) fn awaits_undoing(&self) -> bool {
        self.to_undo.load(Ordering::Relaxed) > 0
    }

    /// A release has been carried out at fewer than a majority.
    pub(super) fn partly_released(&self, acquisition: Acquisition) {
        let partly = &mut self.inner().partly_released;
        if partly.len() == PARTLY_MAX {
            partly.pop_front();
        }
        partly.push_back(acquisition);
    }

    /// Has it? Asked once.
    pub(super) fn was_partly_released(&self, acquisition: Acquisition) -> bool {
        let partly = &mut self.inner().partly_released;
        let before = partly.len();
        partly.retain(|other| *other != acquisition);
        partly.len() < before
    }

    /// That server has not answered a release: it is to be told again, until nothing is left there to be released.
    pub(super) fn owes(&self, now: Time, server: usize, request: Request) {
        let until = now + self.lease_ms() * 1_000;
        let mut inner = self.inner();
        let owed = &mut inner.owed[server];
        while owed.front().is_some_and(|(_, until)| *until <= now) || owed.len() >= OWED_MAX {
            owed.pop_front();
        }
        owed.push_back((request, until));
    }

    /// What that server is to be told.
    pub(super) fn takes_owed(&self, now: Time, server: usize) -> Vec<Request> {
        let owed = std::mem::take(&mut self.inner().owed[server]);
        owed.into_iter().filter(|(_, until)| *until > now).map(|(request, _)| request).collect()
    }
}
