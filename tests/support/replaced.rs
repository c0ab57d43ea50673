//! What is the same wherever a server is replaced: a holder whose lock survives or does not, and four who wait for it.

use std::sync::mpsc::{Receiver, channel};
use std::thread::Scope;
use std::time::{Duration, Instant};

use dlock::Locker;

use crate::eventually::{PATIENCE, eventually};
use crate::lock;
use crate::recorder::{Recorder, Witness, tells_of_a_loss};

const WAITERS: usize = 4;

/// Those who were served: the token, and when.
pub type Served = Receiver<(u64, Instant)>;

/// They wait for the lock on two lockers, for so long at most. Each gives it back at once.
pub fn four_wait<'scope, 'recorder: 'scope>(
    scope: &'scope Scope<'scope, '_>,
    recorder: &'recorder Recorder,
    lockers: &[Locker; 2],
    name: &'recorder str,
    timeout_ms: u64,
) -> Served {
    let (served, next) = channel();
    for i in 0..WAITERS {
        let waiter = recorder.witness(lock(&lockers[i % 2], name), name, format!("locker{}.waiter{i}", i % 2));
        let served = served.clone();
        scope.spawn(move || {
            let token = waiter.acquire(timeout_ms).unwrap_or_else(|error| panic!("a waiter: {error}"));
            served.send((token, Instant::now())).unwrap();
            waiter.release().unwrap_or_else(|error| panic!("a waiter's release: {error}"));
        });
    }
    next
}

/// Its lock survived: it is renewed there, and given back to the next. Answers how long after the release that one has it.
pub fn holds_on(holder: &Witness, held: u64, next: &Served, mut is_renewed: impl FnMut() -> bool) -> Duration {
    eventually("a renewal on the new primary", || {
        assert!(holder.look(), "the lock was copied and is lost all the same");
        is_renewed()
    });
    assert_eq!(holder.lock().fencing_token().unwrap(), held);
    let released = Instant::now();
    holder.release().unwrap();
    let (token, at) = next.recv_timeout(PATIENCE).unwrap();
    assert!(token > held);
    at - released
}

/// Its lock did not survive: the next has it, and the holder is told. Answers since when the next has it.
pub fn is_told_of_the_loss(holder: &Witness, held: u64, next: &Served) -> Instant {
    let (token, at) = next.recv_timeout(PATIENCE).unwrap();
    assert!(token > held, "{token} after {held}");
    eventually("the holder is told", || !holder.lock().remaining_ms().is_ok_and(|ms| ms > 0));
    assert!(!holder.look());
    let answer = holder.lock().release();
    assert!(tells_of_a_loss(&answer), "{answer:?}");
    holder.write(held); // what fencing is for
    at
}

/// When all is over and one of the waiters was seen: the others were served as well, and nobody was misled.
pub fn all_were_served(recorder: &Recorder, next: &Served, survived: bool) {
    assert_eq!(next.iter().count(), WAITERS - 1, "all are served");
    let verdict = recorder.judge();
    assert_eq!(verdict.counts.acquisitions, WAITERS as u64 + 1);
    assert_eq!(verdict.counts.writes_refused, u64::from(!survived), "the late write of the former holder");
}
