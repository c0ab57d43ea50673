//! Invariants 9 and 10: nothing is left but the counter, and scripts may vanish at any time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use dlock::{Lock, Status};

use crate::eventually::eventually;
use crate::on_each;
use crate::redis_server::RedisServer;
use crate::world::{World, handle, start, start_waiting};

fn nothing_left(world: &World) {
    world.wait_clean();
    world.assert_only_counters();
}

/// Every way to hold, wait and give up, each followed by a look at the keys.
fn everything_released(world: &World) {
    let lockers = [world.locker(30_000), world.locker(30_000)];
    let [a, b, c] = [handle(&lockers[0]), handle(&lockers[1]), handle(&lockers[1])];
    for _ in 0..10 {
        a.acquire().unwrap();
        assert_eq!(world.all_keys().len(), 2);
        a.extend(20_000).unwrap();
        a.release().unwrap();
        // A release that was answered has left nothing: no waiting.
        world.assert_only_counters();

        a.acquire().unwrap();
        let waiting = [start_waiting(world, &b, 0), start_waiting(world, &c, 1)];
        a.release().unwrap();
        for (waiting, lock) in waiting.into_iter().zip([&b, &c]) {
            waiting.answer("handed over").0.unwrap();
            lock.release().unwrap();
        }
        world.assert_only_counters();

        a.acquire().unwrap();
        assert_eq!(b.acquire_timeout(20).unwrap_err().status, Status::LockTimeout);
        assert_eq!(c.acquire_retry_backoff(1, 1).unwrap_err().status, Status::LockTimeout);
        let waiting = start_waiting(world, &b, 0);
        b.cancel().unwrap();
        assert_eq!(waiting.answer("cancelled").0.unwrap_err().status, Status::Cancelled);
        a.release().unwrap();
        nothing_left(world);
    }
    // Handed over and released before the first renewal or after it; freed while held, while waiting.
    let freed = handle(&lockers[0]);
    freed.acquire().unwrap();
    let waiting = start_waiting(world, &b, 0);
    drop(freed);
    waiting.answer("handed over by the drop").0.unwrap();
    eventually("the first renewal confirms the claim", || world.queued() == 0);
    b.release().unwrap();
    nothing_left(world);
    // A lease that ran out, released or not, and a flush under a holder.
    let unrenewed = world.locker_without_renewal(100);
    let lost = handle(&unrenewed);
    lost.acquire().unwrap();
    eventually("the lease ends", || world.holder().is_none());
    lost.release().unwrap_err();
    a.acquire().unwrap();
    world.flush();
    a.release().unwrap_err();
    // Lockers that are dropped while they hold and while they wait.
    let [first, second] = lockers;
    let (third, d) = (world.locker(30_000), handle(&first));
    let e = handle(&third);
    d.acquire().unwrap();
    let c_waits = start_waiting(world, &c, 0);
    let e_waits = start_waiting(world, &e, 1);
    drop(third);
    assert_eq!(e_waits.answer("closed").0.unwrap_err().status, Status::Closed);
    drop(first);
    c_waits.answer("handed over by the locker's end").0.unwrap();
    drop(second);
    nothing_left(world);
}

/// Many names, much contention, and then quiet.
fn after_contention(world: &World) {
    let lockers = [world.locker(30_000), world.locker(1_000)];
    let acquired = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (lockers, acquired) = (&lockers, &acquired);
            scope.spawn(move || {
                for round in 0..60 {
                    let lock = lockers[thread % 2].lock(&format!("n{}", (thread + round) % 3), "many").unwrap();
                    let got = match round % 4 {
                        0 => lock.acquire().is_ok(),
                        1 => lock.acquire_timeout(3).is_ok(),
                        2 => lock.try_acquire().unwrap(),
                        _ => lock.acquire_retry_backoff(3, 1).is_ok(),
                    };
                    acquired.fetch_add(usize::from(got), Ordering::Relaxed);
                    // Some are released by being dropped.
                    if got && round % 8 != 0 {
                        lock.release().unwrap();
                    }
                }
            });
        }
    });
    assert!(acquired.into_inner() >= 8 * 15);
    nothing_left(world);
}

on_each! {
    invariant_9_after_everything_is_released_only_the_counter_is_left_on_redis,
    invariant_9_after_everything_is_released_only_the_counter_is_left_in_memory,
    invariant_9_after_everything_is_released_only_the_counter_is_left_in_a_cluster => everything_released;
    invariant_9_after_contention_over_many_names_only_the_counter_is_left_on_redis,
    invariant_9_after_contention_over_many_names_only_the_counter_is_left_in_memory,
    invariant_9_after_contention_over_many_names_only_the_counter_is_left_in_a_cluster => after_contention;
}

fn flush_scripts(server: &RedisServer) {
    let _: () = server.cmd(&["SCRIPT", "FLUSH"]);
}

/// The server has no script before each step; the step succeeds in its one call.
#[test]
fn invariant_10_noscript_after_a_script_flush_is_handled_inside_every_call_on_redis() {
    let world = World::redis();
    let flush = || flush_scripts(world.server());
    let lockers = [world.locker(30_000), world.locker(30_000)];
    let [a, b, c] = [handle(&lockers[0]), handle(&lockers[1]), handle(&lockers[1])];
    for _ in 0..5 {
        flush();
        a.acquire().unwrap();
        flush();
        a.extend(30_000).unwrap();
        flush();
        assert!(!b.try_acquire().unwrap() && b.is_locked().unwrap() && a.is_locked_by_me().unwrap());
        flush();
        let b_waits = start_waiting(&world, &b, 0);
        flush();
        let c_waits = start_waiting(&world, &c, 1);
        flush();
        a.release().unwrap();
        b_waits.answer("handed over").0.unwrap();
        flush();
        b.release().unwrap();
        c_waits.answer("handed over within the locker").0.unwrap();
        flush();
        c.release().unwrap();
        world.assert_only_counters();
        // A number below the floor is redrawn by a script.
        world.set_counter(1);
        flush();
        assert!(a.try_acquire().unwrap() && a.fencing_token().unwrap() > 1 << 50);
        flush();
        assert_eq!(b.acquire_timeout(0).unwrap_err().status, Status::LockTimeout);
        flush();
        assert_eq!(b.acquire_retry_backoff(1, 5).unwrap_err().status, Status::LockTimeout);
        // The queue forgets those who leave.
        let leaving = {
            let b = Arc::clone(&b);
            start(move || b.acquire_timeout(200))
        };
        world.wait_queued(1);
        flush();
        assert_eq!(leaving.answer("timed out").0.unwrap_err().status, Status::LockTimeout);
        assert_eq!(world.queued(), 0);
        let cancelled = start_waiting(&world, &b, 0);
        flush();
        b.cancel().unwrap();
        assert_eq!(cancelled.answer("cancelled").0.unwrap_err().status, Status::Cancelled);
        world.wait_queued(0);
        flush();
        a.release().unwrap();
        world.assert_only_counters();
    }
}

/// The renewal, in the background: the lock outlives its lease several times.
#[test]
fn invariant_10_a_renewal_survives_a_script_flush_on_redis() {
    let world = World::redis();
    let locker = world.locker(600);
    let lock = handle(&locker);
    lock.acquire().unwrap();
    for _ in 0..4 {
        flush_scripts(world.server());
        let mut lowest = lock.remaining_ms().expect("still held");
        eventually("a renewal", || {
            let remaining = lock.remaining_ms().expect("still held");
            lowest = lowest.min(remaining);
            remaining > lowest
        });
    }
    lock.release().unwrap();
}

/// Flushes without end while two lockers contend: no call fails.
#[test]
fn invariant_10_script_flushes_at_any_moment_disturb_nobody_on_redis() {
    let world = World::redis();
    let lockers = [world.locker(30_000), world.locker(30_000)];
    let over = AtomicBool::new(false);
    let inside = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let flushing = scope.spawn(|| {
            let mut connection = world.server().connection();
            let mut flushes = 0;
            while !over.load(Ordering::Acquire) {
                let _: () = redis::cmd("SCRIPT").arg("FLUSH").query(&mut connection).unwrap();
                flushes += 1;
            }
            flushes
        });
        let contenders: Vec<_> = (0..6)
            .map(|n| {
                let (lock, inside): (Arc<Lock>, _) = (handle(&lockers[n % 2]), &inside);
                scope.spawn(move || {
                    for _ in 0..100 {
                        lock.acquire().unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        lock.release().unwrap();
                    }
                })
            })
            .collect();
        let served: Vec<_> = contenders.into_iter().map(|contender| contender.join()).collect();
        over.store(true, Ordering::Release);
        assert!(flushing.join().unwrap() > 100);
        served.into_iter().for_each(|outcome| outcome.unwrap());
    });
    world.assert_only_counters();
}
