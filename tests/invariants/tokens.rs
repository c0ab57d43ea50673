//! Invariant 2: tokens strictly increase per lock.

use dlock::Locker;
use dlock::store::TOKEN_FLOOR;

use crate::on_each;
use crate::proxy::Proxy;
use crate::redis_server::RedisServer;
use crate::world::{World, handle, locker_behind, start_waiting};

/// A number that is redrawn without end fails a test rather than stopping it.
const PATIENCE_MS: u64 = 20_000;

/// The highest token so far.
#[derive(Default)]
struct Highest(u64);

impl Highest {
    #[track_caller]
    fn rises_to(&mut self, token: u64) {
        assert!(token > self.0, "token {token} after {}", self.0);
        assert!(token >= TOKEN_FLOOR, "token {token}");
        self.0 = token;
    }

    #[track_caller]
    fn take_and_release(&mut self, locker: &Locker) {
        let lock = handle(locker);
        lock.acquire_timeout(PATIENCE_MS).unwrap();
        self.rises_to(lock.fencing_token().unwrap());
        lock.release().unwrap();
    }

    /// An acquisition, one by hand-off to the other locker, one by hand-off within that locker.
    #[track_caller]
    fn take_in_turns(&mut self, world: &World, lockers: &[Locker; 2]) {
        let locks = [handle(&lockers[0]), handle(&lockers[1]), handle(&lockers[1])];
        locks[0].acquire_timeout(PATIENCE_MS).unwrap();
        let waiting = [start_waiting(world, &locks[1], 0), start_waiting(world, &locks[2], 1)];
        self.rises_to(locks[0].fencing_token().unwrap());
        locks[0].release().unwrap();
        for (waiting, lock) in waiting.into_iter().zip(&locks[1..]) {
            waiting.answer("a hand-off").0.unwrap();
            self.rises_to(lock.fencing_token().unwrap());
            lock.release().unwrap();
        }
    }
}

fn every_way_to_acquire(world: &World) {
    let lockers = [world.locker(30_000), world.locker(30_000)];
    let mut highest = Highest::default();
    for _ in 0..20 {
        highest.take_and_release(&lockers[0]);
        highest.take_and_release(&lockers[1]);
        highest.take_in_turns(world, &lockers);
        // One handle again and again, by every call that acquires.
        let lock = handle(&lockers[0]);
        for call in 0..4 {
            match call {
                0 => assert!(lock.try_acquire().unwrap()),
                1 => lock.acquire_timeout(0).unwrap(),
                2 => lock.acquire_retry_backoff(1, 1).unwrap(),
                _ => lock.acquire_timeout(1_000).unwrap(),
            }
            highest.rises_to(lock.fencing_token().unwrap());
            lock.release().unwrap();
        }
    }
    // A locker that has never seen a token.
    highest.take_and_release(&world.locker(30_000));
}

on_each! {
    invariant_2_tokens_strictly_increase_on_redis,
    invariant_2_tokens_strictly_increase_in_memory,
    invariant_2_tokens_strictly_increase_in_a_cluster => every_way_to_acquire;
}

fn counter_lost(world: &World) {
    let lockers = [world.locker(30_000), world.locker(30_000)];
    let mut highest = Highest::default();
    highest.take_in_turns(world, &lockers);
    // On connections that stay open; what the counter says by then is of every kind below the floor.
    for counter in [0, 1, 41, TOKEN_FLOOR - 3] {
        for locker in &lockers {
            world.set_counter(counter);
            highest.take_and_release(locker);
        }
        world.set_counter(counter);
        highest.take_in_turns(world, &lockers);
    }
    for _ in 0..3 {
        world.flush();
        highest.take_and_release(&lockers[0]);
        world.flush();
        highest.take_in_turns(world, &lockers);
    }
    // Lost while somebody waits, so that the hand-off is what draws below the floor.
    let locks = [handle(&lockers[0]), handle(&lockers[1])];
    locks[0].acquire_timeout(PATIENCE_MS).unwrap();
    highest.rises_to(locks[0].fencing_token().unwrap());
    let waiting = start_waiting(world, &locks[1], 0);
    world.set_counter(5);
    locks[0].release().unwrap();
    waiting.answer("a hand-off").0.unwrap();
    highest.rises_to(locks[1].fencing_token().unwrap());
    locks[1].release().unwrap();
    // New connections lift the counter, they never lower it.
    let before = world.counter();
    highest.take_and_release(&world.locker(30_000));
    assert!(world.counter() > before);
}

on_each! {
    invariant_2_tokens_increase_past_a_flush_and_a_counter_that_was_lost_on_redis,
    invariant_2_tokens_increase_past_a_flush_and_a_counter_that_was_lost_in_memory,
    invariant_2_tokens_increase_past_a_flush_and_a_counter_that_was_lost_in_a_cluster => counter_lost;
}

#[test]
fn invariant_2_tokens_increase_past_an_empty_restart_and_script_flushes_on_redis() {
    let mut server = RedisServer::start(&[]);
    let proxy = Proxy::start(server.port());
    let locker = locker_behind(&proxy, 30_000);
    let mut highest = Highest::default();
    for _ in 0..3 {
        highest.take_and_release(&locker);
        let held = handle(&locker);
        held.acquire_timeout(PATIENCE_MS).unwrap();
        highest.rises_to(held.fencing_token().unwrap());
        proxy.set_server(None);
        server = RedisServer::start(&[]);
        proxy.set_server(Some(server.port()));
        proxy.cut();
        highest.take_and_release(&locker);
        let _: () = server.cmd(&["SCRIPT", "FLUSH"]);
        highest.take_and_release(&locker);
    }
}

/// A server whose clock is behind the tokens that this locker has seen (rule 5).
#[test]
fn invariant_2_tokens_increase_past_a_restart_though_the_counter_was_ahead_of_the_clock_on_redis() {
    let server = RedisServer::start(&[]);
    let proxy = Proxy::start(server.port());
    let locker = locker_behind(&proxy, 30_000);
    let mut highest = Highest::default();
    highest.take_and_release(&locker);
    let _: () = server.cmd(&["SET", ":dlock:fence", &(highest.0 + (1 << 45)).to_string()]);
    highest.take_and_release(&locker);
    let empty = RedisServer::start(&[]);
    proxy.set_server(Some(empty.port()));
    proxy.cut();
    highest.take_and_release(&locker);
}
