//! What all links of one locker to its quorum know in common: the highest number seen, which acquisitions are given up
//! while something of them is under way, and which releases a server has yet to be told. Does no I/O.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::{Acquisition, Request, TOKEN_FLOOR};

/// Microseconds.
type Time = u64;

/// See the module's documentation.
pub struct Ledger {
    highest: AtomicU64,
    /// How long a key may live after all that was asked for it, in milliseconds.
    lease_ms: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Acquisitions with rounds of which an answer is outstanding.
    open: HashMap<Acquisition, Open>,
    /// For each server, what it has not answered, and until when it is of use to say it again.
    owed: Vec<Vec<(Request, Time)>>,
}

#[derive(Default)]
struct Open {
    rounds: usize,
    given_up: bool,
}

/// More than that is not kept for one server: the leases see to the rest.
const OWED_MAX: usize = 10_000;

impl Ledger {
    /// Of a locker with leases of that length.
    pub fn new(servers: usize, lease_ms: u64) -> Self {
        let inner = Inner { owed: vec![Vec::new(); servers], ..Inner::default() };
        let highest = AtomicU64::new(TOKEN_FLOOR);
        Ledger { highest, lease_ms: AtomicU64::new(lease_ms), inner: Mutex::new(inner) }
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

    pub(super) fn opens(&self, acquisition: Acquisition) {
        self.inner().open.entry(acquisition).or_default().rounds += 1;
    }

    pub(super) fn closes(&self, acquisition: Acquisition) {
        let mut inner = self.inner();
        if let Some(open) = inner.open.get_mut(&acquisition) {
            open.rounds -= 1;
            if open.rounds == 0 {
                inner.open.remove(&acquisition);
            }
        }
    }

    /// What of it may still come in is to be undone.
    pub(super) fn gives_up(&self, acquisition: Acquisition) {
        if let Some(open) = self.inner().open.get_mut(&acquisition) {
            open.given_up = true;
        }
    }

    pub(super) fn is_given_up(&self, acquisition: Acquisition) -> bool {
        self.inner().open.get(&acquisition).is_some_and(|open| open.given_up)
    }

    /// That server has not answered a release: it is to be told again, until nothing is left there to be released.
    pub(super) fn owes(&self, now: Time, server: usize, request: Request) {
        let until = now + self.lease_ms() * 1_000;
        let mut inner = self.inner();
        let owed = &mut inner.owed[server];
        owed.retain(|(_, until)| *until > now);
        if owed.len() < OWED_MAX {
            owed.push((request, until));
        }
    }

    /// What that server is to be told.
    pub(super) fn takes_owed(&self, now: Time, server: usize) -> Vec<Request> {
        let owed = std::mem::take(&mut self.inner().owed[server]);
        owed.into_iter().filter(|(_, until)| *until > now).map(|(request, _)| request).collect()
    }
}
