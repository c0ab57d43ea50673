//! Servers that die, stand still, and come back without their data, under load.

use std::time::{Duration, Instant};

use crate::contest;
use crate::eventually::eventually;
use crate::world::World;

const LEASE_MS: u64 = 500;

#[test]
fn nothing_goes_wrong_where_nothing_fails() {
    let mut world = World::new(3, LEASE_MS);
    let counts = contest::run(&mut world, 3, 3, |_, contest| contest.go_on(500));
    assert!(counts.acquisitions > 500 && counts.lost == 0, "{counts:?}");
}

#[test]
fn never_two_holders_and_rising_tokens_while_servers_die_and_come_back_empty() {
    let mut world = World::new(3, LEASE_MS);
    let counts = contest::run(&mut world, 3, 3, |world, contest| {
        for round in 0..3 {
            let server = round % 3;
            world.servers[server].kill();
            contest.go_on(20);
            world.servers[server].start_again();
            contest.go_on(20);
            eventually("it counts again", || world.counts(server));
        }
    });
    assert_eq!(counts.overlaps, 0, "{counts:?}");
}

#[test]
fn never_two_holders_and_rising_tokens_while_servers_are_flushed() {
    let mut world = World::new(3, LEASE_MS);
    let counts = contest::run(&mut world, 3, 3, |world, contest| {
        for round in 0..3 {
            let server = round % 3;
            world.servers[server].cmd::<()>(&["FLUSHALL"]);
            contest.go_on(20);
            eventually("it counts again", || world.counts(server));
        }
    });
    assert_eq!(counts.overlaps, 0, "{counts:?}");
}

#[test]
fn never_two_holders_and_rising_tokens_while_servers_stand_still() {
    let mut world = World::new(3, LEASE_MS);
    let counts = contest::run(&mut world, 3, 3, |world, contest| {
        for round in 0..4 {
            let stopped = world.stop(round % 3);
            contest.go_on(50);
            drop(stopped);
            contest.go_on(20);
        }
    });
    assert_eq!(counts.overlaps, 0, "{counts:?}");
}

#[test]
fn two_of_five_die_and_stand_still() {
    let mut world = World::new(5, LEASE_MS);
    let counts = contest::run(&mut world, 3, 2, |world, contest| {
        for round in 0..3 {
            world.servers[round].kill();
            let stopped = world.stop((round + 2) % 5);
            contest.go_on(20);
            drop(stopped);
            world.servers[round].start_again();
            contest.go_on(20);
            eventually("it counts again", || world.counts(round));
        }
    });
    assert_eq!(counts.overlaps, 0, "{counts:?}");
}

/// The longest of so many acquisitions and releases, each alone.
fn slowest_pair(world: &World, pairs: usize) -> Duration {
    let locker = world.locker();
    let lock = world.handle(&locker);
    let pair = || {
        let begun = Instant::now();
        lock.acquire().unwrap();
        lock.release().unwrap();
        begun.elapsed()
    };
    let mut all: Vec<Duration> = (0..pairs).map(|_| pair()).collect();
    all.sort_unstable();
    all[pairs * 9 / 10]
}

#[test]
fn dead_and_stopped_servers_cost_no_time() {
    let mut world = World::new(5, LEASE_MS);
    let healthy = slowest_pair(&world, 200);
    let stopped = world.stop(0);
    let one_stopped = slowest_pair(&world, 200);
    world.servers[3].kill();
    let one_dead_too = slowest_pair(&world, 200);
    let limit = Duration::from_millis(100); // a timeout is 5 s
    assert!(one_stopped < limit && one_dead_too < limit, "{healthy:?} {one_stopped:?} {one_dead_too:?}");
    // A locker that is connecting to servers that do not answer can be freed all the same.
    let locker = world.locker();
    world.handle(&locker);
    let begun = Instant::now();
    drop(locker);
    assert!(begun.elapsed() < Duration::from_secs(3), "freed after {:?}", begun.elapsed());
    drop(stopped);
}
