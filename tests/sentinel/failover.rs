//! Failovers while locks are held and waited for.

use std::time::{Duration, Instant};

use dlock::{Locker, Status};

use crate::deployment::{DOWN_AFTER_MS, Deployment, Victim, Ways};
use crate::eventually::eventually;
use crate::recorder::{Recorder, tells_of_a_loss};
use crate::replaced::{all_were_served, four_wait, holds_on, is_told_of_the_loss};
use crate::{lock, locker, locker_with_lease};

const NAME: &str = "n";
const KEY: &str = "g:n";
const LONG_MS: u64 = 20_000;

fn queued(deployment: &Deployment, server: usize) -> u64 {
    let queues: Vec<String> = deployment.servers[server].cmd(&["KEYS", ":dlock:wait:*"]);
    queues.iter().map(|queue| deployment.servers[server].cmd::<u64>(&["ZCARD", queue])).sum()
}

/// A holder, four waiters, and the primary killed. `survives`: did the replicas know of the lock?
fn primary_killed(survives: bool) {
    let deployment = Deployment::new();
    let url = deployment.url(&[]);
    let recorder = Recorder::new();
    let own = locker_with_lease(&url, 10_000);
    let lockers = [locker_with_lease(&url, 10_000), locker_with_lease(&url, 10_000)];
    let holder = recorder.witness(lock(&own, NAME), NAME, "holder");
    let held = holder.acquire(LONG_MS).unwrap();
    let next = std::thread::scope(|scope| {
        let next = four_wait(scope, &recorder, &lockers, NAME, LONG_MS);
        eventually("four wait", || queued(&deployment, 0) == 4);
        if survives {
            deployment.wait_copied(0, 2);
        } else {
            deployment.lose_on_replicas(0, KEY);
        }
        let at = recorder.fault("primary killed");
        let killed = Instant::now();
        deployment.servers[0].kill();
        let new = deployment.wait_failed_over(0, &[0, 1, 2]);
        let switched = killed.elapsed();
        if survives {
            // The renewals have moved over: the lease grows there, and the holder keeps its lock.
            let after = holds_on(&holder, held, &next, || deployment.servers[new].cmd::<i64>(&["PTTL", KEY]) > 9_000);
            println!("switched after {switched:?}; held on; the next holder {after:?} after the release");
        } else {
            recorder.disturbed_since(at);
            let at = is_told_of_the_loss(&holder, held, &next);
            println!(
                "down-after {DOWN_AFTER_MS} ms; switched after {switched:?}; the next acquisition {:?} after the kill",
                at - killed
            );
        }
        next
    });
    all_were_served(&recorder, &next, survives);
    let new = deployment.named_by(0);
    eventually("nothing is left", || deployment.servers[new].keys().is_empty());
}

#[test]
fn a_lock_that_was_copied_survives_the_primary_and_all_who_wait_are_served() {
    primary_killed(true);
}

#[test]
fn a_holder_whose_lock_was_not_copied_is_told_and_all_who_wait_are_served_with_greater_tokens() {
    primary_killed(false);
}

/// What `replicas=2` is for, where there are two: whichever is promoted has what was acquired.
#[test]
fn what_every_replica_acknowledged_survives_a_primary_killed_at_once() {
    let deployment = Deployment::new();
    let locker = locker_with_lease(&deployment.url(&["replicas=2", "replicas_timeout_ms=2500"]), LONG_MS);
    let locks: Vec<_> = (0..20).map(|number| lock(&locker, &format!("n{number}"))).collect();
    for lock in &locks {
        lock.acquire().unwrap();
    }
    deployment.servers[0].kill();
    let new = deployment.wait_failed_over(0, &[0, 1, 2]);
    for (number, lock) in locks.iter().enumerate() {
        let holder: Option<String> = deployment.servers[new].cmd(&["GET", &format!("g:n{number}")]);
        let holder = holder.unwrap_or_else(|| panic!("lock {number} did not survive"));
        assert!(holder.starts_with(&lock.id().unwrap().to_string()));
    }
    for lock in &locks {
        lock.release().unwrap();
    }
    assert!(deployment.servers[new].keys().is_empty());
}

#[test]
fn a_first_connection_waits_for_a_failover_that_is_under_way() {
    let deployment = Deployment::new();
    let url = deployment.url(&[]);
    let before = locker(&url);
    let one = lock(&before, "first");
    one.acquire().unwrap();
    let token = one.fencing_token().unwrap();
    deployment.servers[0].kill();
    let begun = Instant::now();
    let mut patient = crate::options(&url);
    patient.set_connect_timeout_ms(LONG_MS).unwrap(); // an election may need a second round
    let after = Locker::new(&patient).unwrap();
    let two = lock(&after, "second");
    two.acquire().unwrap();
    println!("a new locker has a lock {:?} after the primary was killed", begun.elapsed());
    assert!(two.fencing_token().unwrap() > token);
    two.release().unwrap();
}

/// A primary that stands still is replaced, goes on, and does not know. Its old clients cannot know either.
#[test]
fn a_primary_that_was_isolated_and_comes_back_misleads_its_clients_until_it_is_told_and_tokens_order_the_holders() {
    // With the default periods: the sentinels tell it some 8 s later.
    let deployment = Deployment::with(Ways { unhurried: true, ..Ways::default() });
    let url = deployment.url(&[]);
    let recorder = Recorder::new();
    let lockers = [locker_with_lease(&url, 6_000), locker_with_lease(&url, 6_000)];
    let holder = recorder.witness(lock(&lockers[0], NAME), NAME, "holder");
    // Connected, and idle while the primary stands still: it has nothing from which to know.
    let idle = recorder.witness(lock(&lockers[1], "other"), "other", "idle");
    let held = holder.acquire(LONG_MS).unwrap();
    idle.acquire(LONG_MS).unwrap();
    idle.release().unwrap();
    deployment.lose_on_replicas(0, KEY);
    let at = recorder.fault("primary stopped");
    deployment.servers[0].stop();
    let new = deployment.wait_failed_over(0, &[0, 1, 2]);
    deployment.servers[0].go_on();
    let back = Instant::now();

    // The old primary gives the idle one a lock that the new one gives to another: two holders.
    let misled = idle.acquire(LONG_MS).unwrap();
    assert_eq!(deployment.role(0), "master", "the sentinels were quicker than the test: {:?}", back.elapsed());
    let newcomers = locker(&url);
    let other = recorder.witness(lock(&newcomers, "other"), "other", "newcomer");
    let right = other.acquire(LONG_MS).unwrap();
    assert!(right > misled, "the token of the new primary, {right}, is above that of the old one, {misled}");
    assert!(idle.look(), "two holders, each by its own view");
    idle.write(misled);
    // And the lock that was not copied goes to a newcomer as well.
    let next = recorder.witness(lock(&newcomers, NAME), NAME, "next");
    let token = next.acquire(LONG_MS).unwrap();
    assert!(token > held);
    recorder.disturbed_since(at);

    // The old primary is told to be a replica; it drops its clients, which find the new one, and learn.
    eventually("the old primary is a replica", || deployment.role(0) == "slave");
    println!("the sentinels told the old primary {:?} after it went on", back.elapsed());
    for (former, token) in [(&holder, held), (&idle, misled)] {
        eventually("a former holder is told", || !former.lock().remaining_ms().is_ok_and(|ms| ms > 0));
        assert!(!former.look());
        assert!(tells_of_a_loss(&former.lock().release()));
        former.write(token);
    }
    println!("both former holders know {:?} after it went on", back.elapsed());
    for current in [&other, &next] {
        assert!(current.look());
        current.release().unwrap();
    }
    let verdict = recorder.judge();
    assert_eq!(verdict.counts.lost, 2);
    assert!(verdict.counts.writes_refused >= 3, "{verdict}");
    assert!(deployment.servers[new].keys().is_empty());
}

/// What `min-replicas-to-write` is for: the old primary refuses writes as soon as its replicas follow another, and whoever it
/// refuses asks the sentinels again.
#[test]
fn a_primary_that_refuses_writes_for_want_of_replicas_is_left_at_once() {
    // With the default periods: the sentinels tell the old primary to be a replica some 8 s later.
    let deployment = Deployment::with(Ways { unhurried: true, ..Ways::default() });
    for server in &deployment.servers {
        let _: String = server.cmd(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    }
    let idle = locker(&deployment.url(&[]));
    let lock = lock(&idle, NAME);
    lock.acquire().unwrap();
    lock.release().unwrap();
    let (old, new) = deployment.fail_over();
    let refused = || deployment.servers[old].try_cmd::<redis::Value>(&["SET", "x", "y"]).is_err();
    eventually("the old primary has lost its replicas", refused);
    lock.acquire_timeout(LONG_MS).unwrap();
    assert_eq!(deployment.servers[new].keys(), [KEY]);
    assert_eq!(deployment.role(old), "master", "the sentinels were quicker than the test");
    lock.release().unwrap();
}

/// And with no other primary to go to, the reason is told.
#[test]
fn a_primary_without_replicas_is_named_with_the_reason() {
    let deployment = Deployment::new();
    let locker = locker(&deployment.url(&[]));
    let lock = lock(&locker, NAME);
    let _: String = deployment.servers[0].cmd(&["CONFIG", "SET", "min-replicas-to-write", "3"]);
    let error = lock.acquire_timeout(1_000).unwrap_err();
    assert_eq!(error.status, Status::NotConnected);
    assert!(error.message.contains("fewer replicas than it needs to take writes"), "{error}");
    let _: String = deployment.servers[0].cmd(&["CONFIG", "SET", "min-replicas-to-write", "2"]);
    lock.acquire_timeout(LONG_MS).unwrap();
}

/// A primary that stands still says nothing, not even that it is gone: who has asked it something knows after the
/// response timeout.
#[test]
fn a_primary_that_stands_still_is_left_when_its_answers_stay_out() {
    let deployment = Deployment::new();
    let timeout_ms = std::env::var("DLOCK_RESPONSE_TIMEOUT").map_or(1_000, |text| text.parse().unwrap());
    let mut options = crate::options(&deployment.url(&[]));
    options.set_response_timeout_ms(timeout_ms).unwrap();
    let lockers = [Locker::new(&options).unwrap(), Locker::new(&options).unwrap()];
    let (holder, waiter) = (lock(&lockers[0], NAME), lock(&lockers[1], NAME));
    holder.acquire().unwrap();
    let held = holder.fencing_token().unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| waiter.acquire_timeout(LONG_MS).map(|()| Instant::now()));
        eventually("the waiter is queued", || queued(&deployment, 0) == 1);
        deployment.lose_on_replicas(0, KEY);
        let stopped = Instant::now();
        deployment.servers[0].stop();
        deployment.wait_failed_over(0, &[0, 1, 2]);
        let switched = stopped.elapsed();
        let served = waiting.join().unwrap().unwrap() - stopped;
        println!(
            "response timeout {timeout_ms} ms; switched after {switched:?}; the next acquisition after {served:?}"
        );
        // A ping is sent every 0.75 s; the rest is the machine's.
        assert!(served < switched + Duration::from_millis(timeout_ms + 3_000), "{served:?}");
    });
    assert!(waiter.fencing_token().unwrap() > held);
    deployment.servers[0].go_on();
    waiter.release().unwrap();
}

#[test]
fn a_call_with_a_deadline_keeps_it_where_there_is_no_primary() {
    let deployment = Deployment::new();
    let locker = locker(&deployment.url(&[]));
    let lock = lock(&locker, NAME);
    lock.acquire().unwrap();
    lock.release().unwrap();
    // Two of three sentinels are needed for a failover: none comes.
    deployment.sentinels[0].kill();
    deployment.sentinels[1].kill();
    deployment.servers[0].kill();
    let begun = Instant::now();
    let error = lock.acquire_timeout(1_000).unwrap_err();
    assert_eq!(error.status, Status::NotConnected, "{error}");
    println!("{error}");
    assert!(begun.elapsed() < Duration::from_millis(1_500), "{:?}", begun.elapsed());
    let primary = format!("names 127.0.0.1:{}: connection refused", deployment.ports[0]);
    assert!(error.message.contains(&primary) && error.message.contains("no connection to the primary"), "{error}");
}
