//! Invariants 5 and 6: a reply that was lost, and an acquire that failed.

use std::time::{Duration, Instant};

use dlock::{Locker, Status, WAIT_FOREVER};

use crate::eventually::{PATIENCE, eventually, within};
use crate::on_each;
use crate::proxy::Direction;
use crate::world::{World, handle, locker_behind, options_behind, start_acquire, start_waiting};

/// A lease so long that nothing in these tests ends by one.
const LONG_LEASE_MS: u64 = 60_000;

#[test]
fn invariant_5_an_acquire_whose_reply_was_lost_finds_that_it_is_the_owner_on_redis() {
    let world = World::redis();
    let proxy = world.proxy();
    let (locker, other) = (locker_behind(&proxy, LONG_LEASE_MS), world.locker(LONG_LEASE_MS));
    for round in 0..10 {
        let lock = handle(&locker);
        let id = lock.id().unwrap().to_string();
        proxy.drop_reply_to(&id);
        match round % 4 {
            0 => lock.acquire().unwrap(),
            1 => assert!(lock.try_acquire().unwrap(), "it was taken, and nobody else has it"),
            2 => lock.acquire_timeout(10_000).unwrap(),
            _ => lock.acquire_retry_backoff(0, 1).unwrap(),
        }
        assert_eq!(proxy.dropped(), round + 1, "the reply was lost");
        assert_eq!(world.holder(), Some(format!("{id}:1")), "one acquisition, this one");
        assert_eq!(world.queued(), 0);
        assert!(lock.remaining_ms().unwrap() > 0 && lock.fencing_token().unwrap() > 0);
        assert!(lock.is_locked_by_me().unwrap());
        assert!(!handle(&other).try_acquire().unwrap());
        lock.release().unwrap();
        world.wait_clean();
    }
}

#[test]
fn invariant_5_a_waiter_whose_reply_to_the_join_was_lost_waits_once_and_is_served_on_redis() {
    let world = World::redis();
    let proxy = world.proxy();
    let (locker, other) = (locker_behind(&proxy, LONG_LEASE_MS), world.locker(LONG_LEASE_MS));
    let (holder, lock) = (handle(&other), handle(&locker));
    holder.acquire().unwrap();
    // The subscription is up after a first wait, so that the next one joins at once.
    assert_eq!(lock.acquire_timeout(300).unwrap_err().status, Status::LockTimeout);
    world.wait_queued(0);
    // The member in the queue, which only the join names, ends so.
    proxy.drop_reply_to(":dlock:wake:");
    let waiting = start_waiting(&world, &lock, 0);
    eventually("the reply is lost", || proxy.dropped() == 1);
    holder.release().unwrap();
    waiting.answer("it is still in the queue").0.unwrap();
    assert_eq!(world.holder(), Some(format!("{}:2", lock.id().unwrap())));
    lock.release().unwrap();
    world.wait_clean();
}

#[test]
fn invariant_5_a_release_whose_reply_was_lost_reports_no_false_error_on_redis() {
    let world = World::redis();
    let proxy = world.proxy();
    let locker = locker_behind(&proxy, LONG_LEASE_MS);
    for round in 0..10 {
        let lock = handle(&locker);
        lock.acquire().unwrap();
        proxy.drop_reply_to(&lock.id().unwrap().to_string());
        lock.release().expect("the first sending released it");
        assert_eq!(proxy.dropped(), round + 1, "the reply was lost");
        assert_eq!(world.holder(), None);
        // Asked once more, the truth.
        assert_eq!(lock.release().unwrap_err().status, Status::UnlockUnlocked);
    }
    world.wait_clean();
}

/// The first sending handed the lock on: the repeated one finds another's lock, leaves it alone, and is no error.
#[test]
fn invariant_5_a_hand_off_whose_reply_was_lost_is_neither_repeated_nor_an_error_on_redis() {
    let world = World::redis();
    let proxy = world.proxy();
    let (locker, other) = (locker_behind(&proxy, LONG_LEASE_MS), world.locker(LONG_LEASE_MS));
    for waiter_of_the_same_locker in [false, true] {
        let holder = handle(&locker);
        let waiter = handle(if waiter_of_the_same_locker { &locker } else { &other });
        let last = handle(&other);
        holder.acquire().unwrap();
        let waiting = start_waiting(&world, &waiter, 0);
        let last_waits = start_waiting(&world, &last, 1);
        let dropped = proxy.dropped();
        proxy.drop_reply_to(&format!("{}:1", holder.id().unwrap()));
        let released = Instant::now();
        holder.release().expect("the first sending released it");
        assert_eq!(proxy.dropped(), dropped + 1, "the reply was lost");
        // The reply may have named a waiter of the same locker: it asks at once, not at its slow re-check.
        let (answer, at) = waiting.answer("the waiter is handed the lock");
        answer.unwrap();
        assert!(at - released < Duration::from_secs(4), "{:?}", at - released);
        assert!(waiter.is_locked_by_me().unwrap());
        assert!(!last_waits.is_over());
        waiter.release().unwrap();
        last_waits.answer("the last one is handed the lock").0.unwrap();
        last.release().unwrap();
        world.wait_clean();
    }
}

/// Cancelled and timed out: the lock is free as soon as its holder has released it.
fn failed_acquires_leave_nothing(world: &World) {
    let (holders, others) = (world.locker(LONG_LEASE_MS), world.locker(LONG_LEASE_MS));
    let holder = handle(&holders);
    for _ in 0..5 {
        holder.acquire().unwrap();
        let cancelled = handle(&others);
        let waiting = start_waiting(world, &cancelled, 0);
        cancelled.cancel().unwrap();
        assert_eq!(waiting.answer("cancelled").0.unwrap_err().status, Status::Cancelled);
        assert_eq!(handle(&others).acquire_timeout(30).unwrap_err().status, Status::LockTimeout);
        assert_eq!(handle(&others).acquire_retry_backoff(2, 1).unwrap_err().status, Status::LockTimeout);
        assert!(!handle(&others).try_acquire().unwrap());
        let dropped = handle(&others);
        let queue = others.queue().unwrap();
        queue.submit_acquire(&dropped, WAIT_FOREVER, 1).unwrap();
        world.wait_queued(1);
        drop(dropped);
        world.wait_queued(0);
        holder.release().unwrap();
        assert_eq!(world.holder(), None, "free at once");
    }
    // In the instant of the hand-off: whoever is cancelled then hands the lock on.
    for round in 0..200 {
        holder.acquire().unwrap();
        let cancelled = handle(&others);
        let waiting = start_acquire(&cancelled);
        if round % 2 == 0 {
            world.wait_queued(1);
        }
        let releasing = {
            let holder = std::sync::Arc::clone(&holder);
            crate::world::start(move || holder.release())
        };
        cancelled.cancel().unwrap();
        releasing.answer("the release").0.unwrap();
        match waiting.answer("cancelled or acquired").0 {
            Ok(()) => cancelled.release().unwrap(),
            Err(error) => assert_eq!(error.status, Status::Cancelled),
        }
        let free = within(PATIENCE, || world.holder().is_none() && world.queued() == 0);
        assert!(free, "round {round}: {:?} of {:?}", world.holder(), cancelled.id());
    }
}

on_each! {
    invariant_6_an_acquire_that_failed_is_released_on_redis,
    invariant_6_an_acquire_that_failed_is_released_in_memory,
    invariant_6_an_acquire_that_failed_is_released_in_a_cluster => failed_acquires_leave_nothing;
}

#[test]
fn invariant_6_an_acquire_that_timed_out_on_a_silent_network_is_released_in_the_background_on_redis() {
    let world = World::redis();
    let proxy = world.proxy();
    let (locker, other) = (locker_behind(&proxy, LONG_LEASE_MS), world.locker(LONG_LEASE_MS));
    let lock = handle(&locker);
    proxy.set_silent(Direction::Replies, true);
    let began = Instant::now();
    let error = lock.acquire_timeout(300).unwrap_err();
    assert!(matches!(error.status, Status::LockTimeout | Status::NotConnected), "{error}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(world.holder(), Some(format!("{}:1", lock.id().unwrap())), "the server has carried it out");
    // The connection lives: as soon as it speaks again, and by no lease.
    proxy.set_silent(Direction::Replies, false);
    eventually("released in the background", || world.holder().is_none());
    assert!(handle(&other).try_acquire().unwrap());
}

#[test]
fn invariant_6_an_acquire_cancelled_on_a_silent_network_is_released_in_the_background_on_redis() {
    let world = World::redis();
    let proxy = world.proxy();
    let mut options = options_behind(&proxy, LONG_LEASE_MS);
    options.set_response_timeout_ms(500).unwrap();
    let locker = Locker::new(&options).unwrap();
    let lock = handle(&locker);
    proxy.set_silent(Direction::Replies, true);
    let trying = start_acquire(&lock);
    eventually("the server has carried it out", || world.holder().is_some());
    lock.cancel().unwrap();
    // During a round trip a cancel acts when the reply is there, or when the connection is given up.
    assert_eq!(trying.answer("cancelled").0.unwrap_err().status, Status::Cancelled);
    proxy.set_silent(Direction::Replies, false);
    eventually("released in the background", || world.holder().is_none());
    world.wait_clean();
}

#[test]
fn invariant_6_at_worst_its_lease_ends_it_on_redis() {
    let world = World::redis();
    let proxy = world.proxy();
    let lease = Duration::from_millis(1_500);
    let (locker, other) = (locker_behind(&proxy, lease.as_millis() as u64), world.locker(LONG_LEASE_MS));
    let lock = handle(&locker);
    proxy.set_silent(Direction::Replies, true);
    let sent = Instant::now();
    lock.acquire_timeout(200).unwrap_err();
    assert!(world.holder().is_some());
    // No way back, ever.
    proxy.set_server(None);
    proxy.cut();
    let next = handle(&other);
    next.acquire().unwrap();
    // The lease, and the waiter's re-check after it.
    let bound = lease + lease / 4 + Duration::from_secs(2);
    assert!(sent.elapsed() < bound, "{:?}", sent.elapsed());
    next.release().unwrap();
}
