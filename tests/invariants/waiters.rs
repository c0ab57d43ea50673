//! Invariants 7 and 8: no waiter is forgotten, and the dead cost little.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dlock::store::{Acquisition, Name, Op, Push, Reply, Request, Seat, Store};
use dlock::{Lock, Locker, Result, Status, WAIT_FOREVER};
use uuid::Uuid;

use crate::eventually::eventually;
use crate::on_each;
use crate::proxy::{Direction, Proxy};
use crate::redis_server::RedisServer;
use crate::world::{
    GROUP, NAME, Running, World, handle, locker_behind, options_behind, start, start_acquire, start_waiting,
};

/// A waiter asks by itself after 5 to 6.25 s at the latest; one that is woken, or whose connection is renewed, at once.
const AT_ONCE: Duration = Duration::from_millis(3_500);
/// The longest re-check of a few waiters, and what a busy machine may add.
const RECHECK: Duration = Duration::from_millis(6_250 + 2_500);

/// Waits for the lock, in a thread; holds it for an instant, releases it.
fn take_turn(lock: &Arc<Lock>) -> Running<Result<()>> {
    let lock = Arc::clone(lock);
    start(move || {
        lock.acquire()?;
        // The lock may have been lost to a fault meanwhile; the next one is served all the same.
        match lock.release() {
            Err(error) if !matches!(error.status, Status::Lost | Status::UnlockUnlocked | Status::NotOwner) => {
                Err(error)
            }
            _ => Ok(()),
        }
    })
}

/// So many waiters of each of the lockers, queued.
fn queue_up(queued: impl Fn(usize), lockers: &[Locker], each: usize) -> Vec<Running<Result<()>>> {
    let mut waiting = Vec::new();
    for _ in 0..each {
        for locker in lockers {
            waiting.push(take_turn(&handle(locker)));
            queued(waiting.len());
        }
    }
    waiting
}

fn all_served(waiting: Vec<Running<Result<()>>>, since: Instant, bound: Duration) {
    let count = waiting.len();
    for (n, waiter) in waiting.into_iter().enumerate() {
        let (answer, at) = waiter.answer(&format!("waiter {n} of {count} is served"));
        answer.unwrap();
        assert!(at - since < bound, "waiter {n} of {count} was served after {:?}", at - since);
    }
}

fn a_fault_and_a_release(world: &World, lockers: &[Locker], bound: Duration, fault_and_release: impl FnOnce()) {
    let waiting = queue_up(|count| world.wait_queued(count), lockers, 3);
    let since = Instant::now();
    fault_and_release();
    all_served(waiting, since, bound);
    world.wait_clean();
}

/// A holder, six waiters of two lockers, a fault, the release.
fn served_after(world: &World, bound: Duration, fault: impl FnOnce()) {
    let holders = world.locker(30_000);
    let holder = handle(&holders);
    holder.acquire().unwrap();
    a_fault_and_a_release(world, &[world.locker(30_000), world.locker(30_000)], bound, || {
        fault();
        if let Err(error) = holder.release() {
            assert!(matches!(error.status, Status::Lost | Status::UnlockUnlocked | Status::NotOwner), "{error}");
        }
    });
}

fn without_a_fault(world: &World) {
    served_after(world, AT_ONCE, || {});
}

fn queue_deleted(world: &World) {
    served_after(world, RECHECK, || world.delete_queue());
}

fn flushed(world: &World) {
    served_after(world, RECHECK, || world.flush());
}

/// A holder that never releases: its lease ends.
fn holder_gone(world: &World) {
    let holders = world.locker_without_renewal(700);
    let holder = handle(&holders);
    holder.acquire().unwrap();
    let lockers = [world.locker(30_000), world.locker(30_000)];
    // A waiter asks again when the holder's lease is over.
    a_fault_and_a_release(world, &lockers, Duration::from_millis(700 + 200) + AT_ONCE, || {});
}

on_each! {
    invariant_7_every_waiter_is_served_on_redis,
    invariant_7_every_waiter_is_served_in_memory,
    invariant_7_every_waiter_is_served_in_a_cluster => without_a_fault;
    invariant_7_no_waiter_is_forgotten_with_the_queue_deleted_on_redis,
    invariant_7_no_waiter_is_forgotten_with_the_queue_deleted_in_memory,
    invariant_7_no_waiter_is_forgotten_with_the_queue_deleted_in_a_cluster => queue_deleted;
    invariant_7_no_waiter_is_forgotten_past_a_flush_on_redis,
    invariant_7_no_waiter_is_forgotten_past_a_flush_in_memory,
    invariant_7_no_waiter_is_forgotten_past_a_flush_in_a_cluster => flushed;
    invariant_7_no_waiter_is_forgotten_behind_a_holder_that_never_releases_on_redis,
    invariant_7_no_waiter_is_forgotten_behind_a_holder_that_never_releases_in_memory,
    invariant_7_no_waiter_is_forgotten_behind_a_holder_that_never_releases_in_a_cluster => holder_gone;
}

fn kill_clients(server: &RedisServer, kind: &str) {
    assert!(server.cmd::<usize>(&["CLIENT", "KILL", "TYPE", kind]) > 0, "{kind} connections were killed");
}

#[test]
fn invariant_7_no_waiter_is_forgotten_whose_subscription_was_killed_on_redis() {
    let world = World::redis();
    served_after(&world, AT_ONCE, || kill_clients(world.server(), "pubsub"));
}

/// The release comes while the waiters subscribe anew: it finds no subscriber and drops them all from the queue. Only
/// that they ask again once the subscription is confirmed serves them at once (rule 6).
#[test]
fn invariant_7_no_waiter_is_forgotten_that_was_subscribing_anew_during_the_release_on_redis() {
    let world = World::redis();
    let proxy = world.proxy();
    let (holders, lockers) = (world.locker(30_000), [locker_behind(&proxy, 30_000), locker_behind(&proxy, 30_000)]);
    let holder = handle(&holders);
    holder.acquire().unwrap();
    a_fault_and_a_release(&world, &lockers, AT_ONCE, || {
        proxy.set_silent(Direction::Requests, true);
        kill_clients(world.server(), "pubsub");
        holder.release().unwrap();
        assert_eq!((world.holder(), world.queued()), (None, 0), "the server has forgotten them");
        proxy.set_silent(Direction::Requests, false);
    });
}

#[test]
fn invariant_7_no_waiter_is_forgotten_whose_command_connection_was_killed_on_redis() {
    let world = World::redis();
    served_after(&world, AT_ONCE, || kill_clients(world.server(), "normal"));
}

#[test]
fn invariant_7_no_waiter_is_forgotten_whose_connections_are_killed_again_and_again_on_redis() {
    let world = World::redis();
    served_after(&world, RECHECK, || {
        for _ in 0..20 {
            let _: usize = world.server().cmd(&["CLIENT", "KILL", "TYPE", "pubsub"]);
            let _: usize = world.server().cmd(&["CLIENT", "KILL", "TYPE", "normal"]);
        }
    });
}

#[test]
fn invariant_7_no_waiter_is_forgotten_past_an_empty_restart_on_redis() {
    let first = RedisServer::start(&[]);
    let proxy = Proxy::start(first.port());
    let lockers = [locker_behind(&proxy, 30_000), locker_behind(&proxy, 30_000)];
    let holder = handle(&lockers[0]);
    holder.acquire().unwrap();
    let queue = Name::new(NAME, GROUP).unwrap().waiters().to_owned();
    let queued = |count| eventually("queued", || first.cmd::<usize>(&["ZCARD", &queue]) == count);
    let waiting = queue_up(queued, &lockers, 3);
    proxy.set_server(None);
    drop(first);
    let world = World::redis();
    let since = Instant::now();
    proxy.set_server(Some(world.server().port()));
    all_served(waiting, since, AT_ONCE);
    // The old holder is told, not the server's new one.
    let told = holder.release().map_err(|error| error.status);
    assert!(matches!(told, Err(Status::UnlockUnlocked | Status::Lost)), "{told:?}");
    world.wait_clean();
}

#[test]
fn invariant_7_no_waiter_is_forgotten_whose_hand_off_message_is_lost_on_redis() {
    let world = World::redis();
    let proxy = world.proxy();
    let (holders, lockers) = (world.locker(30_000), [locker_behind(&proxy, 30_000), world.locker(30_000)]);
    let holder = handle(&holders);
    holder.acquire().unwrap();
    // One claim lease of 3 s for the message, and one re-check.
    let bound = Duration::from_secs(3) + RECHECK;
    a_fault_and_a_release(&world, &lockers, bound, || {
        proxy.swallow("handoff ");
        holder.release().unwrap();
        eventually("the message is lost", || proxy.dropped() == 1);
    });
}

/// A waiter that the lock was offered to, whose locker does not answer and keeps its sockets.
enum Dead {
    Frozen { proxy: Proxy, locker: Locker, locks: Vec<Arc<Lock>> },
    Memory { _subscription: Box<dyn dlock::store::Subscription> },
}

const DEAD_WAITERS: usize = 3;
const CLAIM: Duration = Duration::from_secs(3);

/// The first in the queue, as dead as the store allows.
fn dead_waiters(world: &World) -> Dead {
    match world {
        World::Redis(_) | World::Cluster(_) => {
            let proxy = world.proxy();
            let locker = locker_behind(&proxy, 30_000);
            let queue = locker.queue().unwrap();
            let locks: Vec<_> = (0..DEAD_WAITERS).map(|_| handle(&locker)).collect();
            for (n, lock) in locks.iter().enumerate() {
                queue.submit_acquire(lock, WAIT_FOREVER, n as u64).unwrap();
                world.wait_queued(n + 1);
            }
            proxy.set_black_hole(true);
            // Nobody collects; the operations go on.
            std::mem::forget(queue);
            Dead::Frozen { proxy, locker, locks }
        }
        World::Memory { store, .. } => {
            let channel: Arc<str> = Arc::from(":dlock:wake:nobody-reads-this");
            let subscription = store.subscribe(&channel, Arc::new(|| ())).unwrap();
            let name = Arc::new(Name::new(NAME, GROUP).unwrap());
            for _ in 0..DEAD_WAITERS {
                let acquisition = Acquisition { owner: Uuid::new_v4(), attempt: 1 };
                let seat = Seat { claim_ms: CLAIM.as_millis() as u64, channel: Arc::clone(&channel) };
                let op = Op::Join { lease_ms: 30_000, place: 0, queue: true };
                let request = Request { name: Arc::clone(&name), acquisition, seat, op };
                let mut published: Vec<(Arc<str>, Push)> = Vec::new();
                let reply = store.with_server(|server, now| server.execute(now, &request, &mut published));
                assert!(matches!(reply, Reply::Queued { .. }), "{reply:?}");
            }
            Dead::Memory { _subscription: subscription }
        }
    }
}

fn dead_locker_first_in_the_queue(world: &World) {
    let (holders, live) = (world.locker(30_000), world.locker(30_000));
    let (holder, first, second) = (handle(&holders), handle(&live), handle(&holders));
    holder.acquire().unwrap();
    let dead = dead_waiters(world);
    let first_waits = start_waiting(world, &first, DEAD_WAITERS);
    let second_waits = start_waiting(world, &second, DEAD_WAITERS + 1);
    let released = Instant::now();
    holder.release().unwrap();
    assert_ne!(world.holder(), None, "offered to the dead one");
    // Whichever of the two asks first after the claim.
    eventually("a live waiter is served", || first_waits.is_over() || second_waits.is_over());
    let took = released.elapsed();
    assert!(took < CLAIM + RECHECK, "one claim lease and one re-check, not {took:?}");
    let mut waits = [(first, first_waits), (second, second_waits)];
    if waits[1].1.is_over() {
        waits.reverse();
    }
    let [(lock, served), (next, next_waits)] = waits;
    served.answer("served").0.unwrap();
    assert!(!next_waits.is_over());
    // The dead locker's other waiters are dropped with it: no claim lease for each.
    let released = Instant::now();
    lock.release().unwrap();
    let (answer, at) = next_waits.answer("the next live waiter");
    answer.unwrap();
    assert!(at - released < CLAIM / 2, "the other dead waiters cost {:?}", at - released);
    next.release().unwrap();
    if let Dead::Frozen { proxy, locker, locks } = dead {
        // It comes back: whatever it had asked for comes to an end.
        drop(locks);
        proxy.set_black_hole(false);
        locker.close().unwrap();
    }
    world.wait_clean();
}

/// Timed-out, cancelled, dropped: the queue forgets them while the lock is still held.
fn waiters_that_left(world: &World) {
    let (holders, others) = (world.locker(30_000), world.locker(30_000));
    let holder = handle(&holders);
    holder.acquire().unwrap();
    let locks: Vec<_> = (0..8).map(|_| handle(&others)).collect();
    let timing_out: Vec<_> = locks[..4]
        .iter()
        .map(|lock| {
            let lock = Arc::clone(lock);
            start(move || lock.acquire_timeout(400))
        })
        .collect();
    let cancelled: Vec<_> = locks[4..].iter().map(start_acquire).collect();
    eventually("both kinds are queued", || world.queued() > 4);
    for waiter in timing_out {
        assert_eq!(waiter.answer("timed out").0.unwrap_err().status, Status::LockTimeout);
    }
    world.wait_queued(4);
    locks[4..].iter().for_each(|lock| lock.cancel().unwrap());
    for waiter in cancelled {
        assert_eq!(waiter.answer("cancelled").0.unwrap_err().status, Status::Cancelled);
    }
    world.wait_queued(0);
    assert_eq!(world.holder(), Some(format!("{}:1", holder.id().unwrap())));
    // A locker that is dropped takes its waiters along.
    let gone = world.locker(30_000);
    let waits = start_waiting(world, &handle(&gone), 0);
    drop(gone);
    assert_eq!(waits.answer("closed").0.unwrap_err().status, Status::Closed);
    world.wait_queued(0);
    // Nothing of them delays whoever waits now.
    let next = handle(&others);
    let waits = start_waiting(world, &next, 0);
    let released = Instant::now();
    holder.release().unwrap();
    let (answer, at) = waits.answer("handed over");
    answer.unwrap();
    assert!(at - released < AT_ONCE);
    next.release().unwrap();
    world.wait_clean();
}

on_each! {
    invariant_8_a_dead_locker_costs_at_most_one_claim_lease_and_one_recheck_on_redis,
    invariant_8_a_dead_locker_costs_at_most_one_claim_lease_and_one_recheck_in_memory => dead_locker_first_in_the_queue;
    invariant_8_timed_out_and_cancelled_waiters_leave_nothing_behind_on_redis,
    invariant_8_timed_out_and_cancelled_waiters_leave_nothing_behind_in_memory,
    invariant_8_timed_out_and_cancelled_waiters_leave_nothing_behind_in_a_cluster => waiters_that_left;
}

/// A locker whose connections end (its process died): its waiters cost nothing at all.
#[test]
fn invariant_8_a_locker_whose_sockets_are_closed_costs_nothing_on_redis() {
    let world = World::redis();
    let proxy = world.proxy();
    let mut options = options_behind(&proxy, 30_000);
    options.set_response_timeout_ms(1_000).unwrap(); // closing it, with no way to the server, takes that long
    let (holders, live, dead) = (world.locker(30_000), world.locker(30_000), Locker::new(&options).unwrap());
    let (holder, next) = (handle(&holders), handle(&live));
    holder.acquire().unwrap();
    let locks: Vec<_> = (0..40).map(|_| handle(&dead)).collect();
    let queue = dead.queue().unwrap();
    for lock in &locks {
        queue.submit_acquire(lock, WAIT_FOREVER, 0).unwrap();
    }
    world.wait_queued(40);
    let waits = start_waiting(&world, &next, 40);
    proxy.set_server(None);
    proxy.cut();
    let gone = || world.server().cmd::<Vec<String>>(&["PUBSUB", "CHANNELS", ":dlock:*"]).len() == 1;
    eventually("the server has noticed", gone);
    let released = Instant::now();
    holder.release().unwrap();
    let (answer, at) = waits.answer("the live waiter, though more than a batch of dead ones came first");
    answer.unwrap();
    assert!(at - released < CLAIM / 2, "{:?}", at - released);
    next.release().unwrap();
    world.wait_clean();
}
