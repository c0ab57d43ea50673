//! Servers that lost their data do not count for the longest lease; fewer than a majority is nothing.

use std::time::{Duration, Instant};

use dlock::Status;

use crate::eventually::{PATIENCE, eventually};
use crate::redis_server::RedisServer;
use crate::world::World;

/// A whole lease, as long as a server that lost its data must keep out.
fn out_for(lease_ms: u64) -> Duration {
    Duration::from_millis(lease_ms + lease_ms / 100 + 10)
}

fn restarts(arguments: &[&str]) {
    let mut world = World::with(3, 1_000, arguments);
    let locker = world.locker();
    let lock = world.handle(&locker);
    eventually("all servers count", || {
        lock.acquire().unwrap();
        lock.release().unwrap();
        (0..3).all(|server| world.counts(server))
    });
    let before: u64 = world.servers[2].cmd(&["GET", ":dlock:fence"]);
    let restarted = Instant::now();
    world.servers[2].start_again();
    eventually("it is found to have lost its data", || {
        lock.acquire().unwrap(); // who uses the lock looks
        lock.release().unwrap();
        !world.counts(2)
    });
    // The other two go on without it.
    lock.acquire().unwrap();
    assert!(world.holders()[2].is_none());
    lock.release().unwrap();
    eventually("it counts again", || world.counts(2));
    assert!(restarted.elapsed() >= out_for(1_000), "it counts after {:?}", restarted.elapsed());
    let after: u64 = world.servers[2].cmd(&["GET", ":dlock:fence"]);
    assert!(after > before, "{after} after {before}");
    lock.acquire().unwrap();
    eventually("it is asked again", || {
        let all = world.holders().iter().all(|holder| holder.is_some());
        if !all {
            lock.release().unwrap();
            lock.acquire().unwrap();
        }
        all
    });
    lock.release().unwrap();
}

#[test]
fn a_server_that_restarts_empty_does_not_count_for_a_lease() {
    restarts(&[]);
}

#[test]
fn a_server_that_restarts_with_its_data_does_not_count_for_a_lease() {
    restarts(&["--appendonly", "yes", "--appendfsync", "always"]);
}

#[test]
fn a_held_lock_survives_that_all_servers_are_restarted_one_after_the_other() {
    let mut world = World::new(3, 900);
    let locker = world.locker();
    let lock = world.handle(&locker);
    lock.acquire().unwrap();
    let token = lock.fencing_token().unwrap();
    for server in 0..3 {
        eventually("all servers have the key", || world.holders().iter().all(|holder| holder.is_some()));
        world.servers[server].start_again();
        assert!(lock.remaining_ms().is_ok(), "lost with server {server}");
        eventually("it counts again", || world.counts(server));
    }
    eventually("all servers have the key", || world.holders().iter().all(|holder| holder.is_some()));
    assert_eq!(lock.fencing_token().unwrap(), token);
    lock.release().unwrap();
}

#[test]
fn with_fewer_than_a_majority_the_servers_that_are_missing_are_named() {
    let mut world = World::new(3, 900);
    let (one, two) = (world.locker(), world.locker());
    let (held, lock) = (world.handle(&one), world.handle(&two));
    held.acquire().unwrap();
    world.servers[0].kill();
    assert!(!lock.try_acquire().unwrap(), "two servers are enough to see that it is held");
    world.servers[1].kill();
    let error = two.lock("other", "g").and_then(|other| other.acquire()).unwrap_err();
    assert_eq!(error.status, Status::NotConnected, "{error}");
    for server in [0, 1] {
        let name = format!("127.0.0.1:{}", world.servers[server].port());
        assert!(error.message.contains(&name), "{error} does not name {name}");
    }
    assert!(!error.message.contains(&format!(":{}", world.servers[2].port())), "{error}");
    eventually("the holder knows that it has lost the lock", || held.remaining_ms().is_err());
    assert_eq!(held.remaining_ms().unwrap_err().status, Status::Lost);
    // One that restarted does not count yet: it is named as well, with the reason.
    world.servers[0].start_again();
    let mut message = String::new();
    eventually("the reason is told", || {
        message = two.lock("other", "g").and_then(|other| other.acquire()).unwrap_err().message;
        message.contains("does not count")
    });
    world.servers[1].start_again();
    eventually("it can be had again", || two.lock("other", "g").is_ok_and(|lock| lock.acquire_timeout(100).is_ok()));
}

#[test]
fn a_deadline_is_kept_where_a_majority_is_silent() {
    let world = World::new(3, 900);
    let locker = world.locker();
    let lock = world.handle(&locker);
    lock.acquire().unwrap();
    lock.release().unwrap();
    let _stopped = [world.stop(0), world.stop(1)];
    let begun = Instant::now();
    let error = lock.acquire_timeout(300).unwrap_err();
    let took = begun.elapsed();
    assert!(matches!(error.status, Status::LockTimeout | Status::NotConnected), "{error}");
    assert!(took >= Duration::from_millis(300) && took < Duration::from_millis(1_500), "{took:?}");
}

#[test]
fn a_longer_lease_is_noted_on_all_servers_before_it_is_relied_on() {
    let world = World::new(3, 900);
    let locker = world.locker();
    let lock = world.handle(&locker);
    lock.acquire().unwrap();
    lock.extend(PATIENCE.as_millis() as u64).unwrap();
    let noted = |server: usize| world.servers[server].cmd::<u64>(&["HGET", ":dlock:quorum", "lease"]);
    eventually("all servers have noted it", || (0..3).all(|server| noted(server) == PATIENCE.as_millis() as u64));
    lock.release().unwrap();
}

/// The line of the documentation that gives a user the least rights, and what a quorum's servers need besides.
fn least_rights() -> Vec<String> {
    let page = include_str!("../../docs/deployments.md");
    let line = page.lines().find(|line| line.starts_with("ACL SETUSER billing ")).expect("the line to paste");
    let (_, besides) = page.split_once("asked for these besides: `").expect("what a quorum needs");
    let words = line.split(' ').chain(besides.split('`').next().unwrap().split(' '));
    words.map(str::to_owned).collect()
}

#[test]
fn the_documented_rights_are_enough_and_each_is_needed() {
    let world = World::new(3, 500);
    let url = world.url().replace("redis-quorum://", "redis-quorum://billing:password@");
    let set = |without: &str| {
        let rights = least_rights();
        let words: Vec<&str> = rights.iter().map(String::as_str).filter(|word| *word != without).collect();
        for server in &world.servers {
            let reset = [&words[..3], &["reset"], &words[3..]].concat();
            server.cmd::<()>(&reset);
        }
    };
    let mut options = world.options();
    options.set_url(&url).unwrap();
    set("");
    let locker = dlock::Locker::new(&options).unwrap();
    let (one, two) = (locker.lock("n", "billing").unwrap(), locker.lock("n", "billing").unwrap());
    one.acquire().unwrap();
    one.extend(1_000).unwrap();
    assert_eq!(two.acquire_timeout(50).unwrap_err().status, Status::LockTimeout);
    one.release().unwrap();
    two.acquire().unwrap();
    two.release().unwrap();
    for server in &world.servers {
        let denied: Vec<redis::Value> = server.cmd(&["ACL", "LOG"]);
        assert!(denied.is_empty(), "{denied:?}");
    }
    for (right, named) in [("+hset", "HSET"), ("+hmget", "HMGET"), ("+hget", "HGET"), ("+hdel", "HDEL"), ("+info", "")]
    {
        set(right);
        let locker = dlock::Locker::new(&options).unwrap();
        let Err(error) = locker.lock("n", "billing") else { panic!("connected without {right}") };
        assert!(error.status == Status::NotConnected && error.message.contains(named), "without {right}: {error}");
    }
}

#[test]
fn a_new_server_says_that_it_is_younger_than_it_is_and_never_older() {
    let begun = Instant::now();
    let server = RedisServer::start(&[]);
    let look = include_str!("../../src/store/redis/scripts/look.lua");
    let mut ages = Vec::new();
    // The server counts whole seconds of its clock: in some of this time it is nearly one ahead.
    while begun.elapsed() < Duration::from_millis(2_500) {
        let answer: Vec<i64> = server.cmd(&["EVAL", look, "2", ":dlock:fence", ":dlock:quorum", "1000"]);
        let (age, most) = (answer[5], begun.elapsed().as_millis() as i64);
        assert!((0..=most).contains(&age), "{age} ms, {most} ms after it was started");
        ages.push(age);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(ages.last().is_some_and(|age| *age >= 1_000), "{ages:?}");
}

#[test]
fn one_of_new_servers_that_is_flushed_is_not_taken_for_one_of_which_nothing_was_known() {
    let world = World::new(3, 2_000);
    eventually("all have been up for a lease", || {
        let up = |server: &RedisServer| {
            let info: String = server.cmd(&["INFO", "server"]);
            let seconds = info.lines().find_map(|line| line.strip_prefix("uptime_in_seconds:"));
            seconds.expect("how long it is up").parse::<u64>().unwrap() >= 4
        };
        world.servers.iter().all(up)
    });
    let (one, two) = (world.locker(), world.locker());
    let (held, other) = (world.handle(&one), world.handle(&two));
    held.acquire().unwrap();
    // They are let in as new until a majority counts, and the third as well where it was looked at at the same time.
    let counting: Vec<usize> = (0..3).filter(|&server| world.counts(server)).collect();
    assert!(counting.len() >= 2, "{counting:?}");
    counting[1..].iter().for_each(|&server| world.servers[server].cmd::<()>(&["FLUSHALL"]));
    eventually("the other gets it", || other.try_acquire().unwrap_or(false));
    let left = held.remaining_ms();
    assert!(left.is_err(), "two holders: {left:?} ms are left to the first");
    assert!(other.remaining_ms().unwrap() > 0);
    other.release().unwrap();
}

#[test]
fn old_data_that_contain_an_older_delay_do_not_shorten_the_new_one() {
    let mut world = World::new(3, 900);
    let locker = world.locker();
    let lock = world.handle(&locker);
    let used = |world: &World| {
        lock.acquire().unwrap();
        lock.release().unwrap();
        (0..3).all(|server| world.counts(server))
    };
    eventually("all servers count", || used(&world));
    world.servers[2].cmd::<()>(&["FLUSHALL"]);
    let since = |world: &World| world.servers[2].cmd::<Option<u64>>(&["HGET", ":dlock:quorum", "since"]);
    eventually("its delay begins", || {
        used(&world);
        since(&world).is_some()
    });
    world.servers[2].cmd::<()>(&["SAVE"]);
    let saved = since(&world).expect("saved within the delay");
    eventually("it counts again", || used(&world));
    let restarted = Instant::now();
    world.servers[2].start_again();
    eventually("a delay of its own begins", || {
        used(&world);
        since(&world).is_some_and(|since| since > saved)
    });
    assert!(!world.counts(2), "it counts at once, by a delay that was over before");
    eventually("it counts again", || used(&world));
    assert!(restarted.elapsed() >= out_for(900), "it counts after {:?}", restarted.elapsed());
}

#[test]
fn a_server_that_is_flushed_while_another_new_one_is_yet_to_be_admitted_does_not_count_for_a_lease() {
    const LEASE_MS: u64 = 2_000;
    let world = World::new(3, LEASE_MS);
    // So old that they may count at once, when they are looked at.
    let is_old = |server: &RedisServer| {
        let info: String = server.cmd(&["INFO", "server"]);
        let uptime = info.lines().find_map(|line| line.strip_prefix("uptime_in_seconds:")).expect("an uptime");
        uptime.trim().parse::<u64>().unwrap() > 1 + LEASE_MS.div_ceil(1_000)
    };
    eventually("all are old enough", || world.servers.iter().all(is_old));
    // All are new. The last is known not to count, and then is kept from being admitted: it has no memory for it.
    {
        let _stopped = [world.stop(0), world.stop(1)];
        let mut options = world.options();
        options.set_connect_timeout_ms(200).unwrap();
        options.set_response_timeout_ms(200).unwrap();
        let locker = dlock::Locker::new(&options).unwrap();
        assert!(locker.lock("n", "g").is_err());
    }
    let _: () = world.servers[2].cmd(&["CONFIG", "SET", "maxmemory", "1"]);
    let (one, two) = (world.locker(), world.locker());
    let first = world.handle(&one);
    first.acquire().unwrap();
    assert_eq!([world.counts(0), world.counts(1), world.counts(2)], [true, true, false]);
    let second = world.handle(&two);
    let flushed = Instant::now();
    world.servers[0].cmd::<()>(&["FLUSHALL"]);
    let _: () = world.servers[2].cmd(&["CONFIG", "SET", "maxmemory", "0"]);
    let has_it = |lock: &dlock::Lock| lock.remaining_ms().is_ok_and(|remaining_ms| remaining_ms > 0);
    eventually("the other gets it", || second.try_acquire().unwrap_or(false));
    assert!(!has_it(&first) && has_it(&second), "two holders");
    eventually("it counts again", || world.counts(0));
    assert!(flushed.elapsed() >= out_for(LEASE_MS), "it counts after {:?}", flushed.elapsed());
}
