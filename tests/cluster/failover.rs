//! Primaries that are killed or stand still, while their locks are held and waited for.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dlock::store::Name;
use dlock::{Locker, Status};

use crate::deployment::{Cluster, Ends};
use crate::eventually::eventually;
use crate::recorder::{Recorder, tells_of_a_loss};
use crate::replaced::{all_were_served, four_wait, holds_on, is_told_of_the_loss};
use crate::waiting::waiters;
use crate::{lock, locker, locker_with_lease};

const LONG_MS: u64 = 25_000;

/// Waits until the replica has all that its primary has.
fn wait_copied(cluster: &Cluster, primary: usize) {
    let offset = |server: usize| {
        let info: String = cluster.servers[server].cmd(&["INFO", "replication"]);
        let line = info.lines().find_map(|line| line.strip_prefix("master_repl_offset:")).unwrap();
        line.trim().parse::<u64>().unwrap()
    };
    let wanted = offset(primary);
    eventually("the replica has it", || offset(primary + 3) >= wanted);
}

/// From now on the replica hears nothing from its primary.
fn cut_off(cluster: &Cluster, primary: usize) {
    let replica = primary + 3;
    eventually("the replica is cut off", || {
        let _: i64 = cluster.servers[replica].cmd(&["CLIENT", "KILL", "TYPE", "master"]);
        cluster.stop(replica);
        let alone = cluster.servers[primary].cmd::<String>(&["INFO", "replication"]).contains("connected_slaves:0");
        if !alone {
            cluster.go_on(replica); // it has connected anew already
        }
        alone
    });
}

/// A holder, four waiters, and the primary of their lock killed. `survives`: did the replica know of the lock?
fn primary_killed(survives: bool) {
    let cluster = Cluster::start(3, 1, &[]);
    let (url, name) = (cluster.url(), cluster.name_on(0));
    let key = format!("g:{name}");
    let recorder = Recorder::new();
    let own = locker_with_lease(&url, 10_000);
    let lockers = [locker_with_lease(&url, 10_000), locker_with_lease(&url, 10_000)];
    // One on another node, that must not notice anything.
    let (elsewhere, untouched) = (cluster.name_on(1), locker_with_lease(&url, 10_000));
    let apart = lock(&untouched, &elsewhere);
    apart.acquire().unwrap();
    if !survives {
        wait_copied(&cluster, 0);
        cut_off(&cluster, 0);
        // Ahead of the clock, so that the clock alone does not bring the new primary's counter above it.
        let ahead = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() + 12_000_000;
        let fence = format!(":dlock:fence:{}", Name::new(&name, "g").unwrap().tag());
        let _: () = cluster.servers[0].cmd(&["SET", &fence, &ahead.to_string()]);
    }
    let holder = recorder.witness(lock(&own, &name), &name, "holder");
    let held = holder.acquire(LONG_MS).unwrap();
    let next = std::thread::scope(|scope| {
        let next = four_wait(scope, &recorder, &lockers, &name, LONG_MS);
        eventually("four wait", || waiters(&cluster, 0) == 4);
        if survives {
            wait_copied(&cluster, 0);
            // And one whose request is under way when it happens.
            let under_way = lock(&own, &cluster.names_on(0, 2)[1]);
            let beside = lock(&own, &cluster.names_on(1, 2)[1]); // that connection stands
            beside.acquire().unwrap();
            beside.release().unwrap();
            let _: () = cluster.servers[0].cmd(&["CLIENT", "PAUSE", "60000", "WRITE"]);
            scope.spawn(move || {
                under_way.acquire_timeout(LONG_MS).unwrap_or_else(|error| panic!("the one under way: {error}"));
                under_way.release().unwrap();
            });
            eventually("its request is there", || {
                let clients: String = cluster.servers[0].cmd(&["CLIENT", "LIST"]);
                clients.lines().any(|line| line.contains("name=dlock") && line.contains("flags=b"))
            });
        }
        let at = recorder.fault("primary killed");
        let killed = Instant::now();
        cluster.kill(0);
        cluster.go_on(3);
        let new = cluster.wait_failed_over(0);
        let switched = killed.elapsed();
        if survives {
            let after = holds_on(&holder, held, &next, || cluster.servers[new].cmd::<i64>(&["PTTL", &key]) > 9_000);
            println!("switched after {switched:?}; held on; the next holder {after:?} after the release");
        } else {
            recorder.disturbed_since(at);
            let at = is_told_of_the_loss(&holder, held, &next);
            println!("switched after {switched:?}; the next acquisition {:?} after the kill", at - killed);
        }
        next
    });
    all_were_served(&recorder, &next, survives);
    assert!(apart.remaining_ms().unwrap() > 0);
    apart.release().unwrap();
    eventually("nothing is left", || cluster.keys(&[3, 1, 2]).is_empty());
}

#[test]
fn a_lock_that_was_copied_survives_its_primary_and_all_who_wait_are_served() {
    primary_killed(true);
}

#[test]
fn a_holder_whose_lock_was_not_copied_is_told_and_all_who_wait_are_served_with_greater_tokens() {
    primary_killed(false);
}

/// Six contend for a lock on each node; one of the primaries is killed.
#[test]
fn contenders_are_excluded_and_tokens_rise_while_a_primary_is_replaced() {
    let cluster = Cluster::start(3, 1, &["--cluster-require-full-coverage", "no"]);
    let names: Vec<String> = (0..3).map(|server| cluster.name_on(server)).collect();
    let recorder = Recorder::new();
    let (over, taken) = (AtomicBool::new(false), [const { AtomicUsize::new(0) }; 3]);
    std::thread::scope(|scope| {
        let _over = Ends(&over);
        for contender in 0..6 {
            let (names, url, recorder, over, taken) = (&names, cluster.url(), &recorder, &over, &taken);
            scope.spawn(move || {
                let own = locker_with_lease(&url, 10_000);
                let which = contender % 3;
                let name = &names[which];
                let witness = recorder.witness(lock(&own, name), name, format!("c{contender}"));
                while !over.load(Ordering::Relaxed) {
                    witness.acquire(LONG_MS).unwrap_or_else(|error| panic!("{error}"));
                    witness.look();
                    let released = witness.release();
                    assert!(released.is_ok() || which == 0 && tells_of_a_loss(&released), "{name}: {released:?}");
                    taken[which].fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let grows = |which: usize| {
            let before = taken[which].load(Ordering::Relaxed);
            eventually("it is taken again and again", || taken[which].load(Ordering::Relaxed) > before + 50);
        };
        (0..3).for_each(grows);
        let at = recorder.fault("primary killed");
        cluster.kill(0);
        (1..3).for_each(grows);
        cluster.wait_failed_over(0);
        grows(0);
        recorder.disturbed_since(at);
        (0..3).for_each(grows);
    });
    let verdict = recorder.judge();
    assert!(verdict.counts.acquisitions > 350, "{verdict}");
    eventually("nothing is left", || cluster.keys(&[3, 1, 2]).is_empty());
}

/// One that stands still says nothing: its requests are lost after the response timeout, and those of the other nodes
/// go on meanwhile.
#[test]
fn a_primary_that_stands_still_holds_up_nobody_elses_locks_and_is_followed_when_it_goes_on() {
    // With full coverage the servers themselves refuse all slots for as long as one has no primary.
    let cluster = Cluster::start(3, 1, &["--cluster-require-full-coverage", "no"]);
    let (here, there) = (cluster.name_on(0), cluster.name_on(1));
    let recorder = Recorder::new();
    let mut options = crate::options(&cluster.url());
    options.set_lease_ms(1_500).unwrap();
    options.set_response_timeout_ms(1_000).unwrap();
    let own = Locker::new(&options).unwrap();
    let other = locker_with_lease(&cluster.url(), 1_500);
    let (stuck, fine) =
        (recorder.witness(lock(&own, &here), &here, "stuck"), recorder.witness(lock(&own, &there), &there, "fine"));
    let held = stuck.acquire(LONG_MS).unwrap();
    fine.acquire(LONG_MS).unwrap();
    wait_copied(&cluster, 0);
    let at = recorder.fault("primary stopped");
    cluster.stop(0);
    let stopped = Instant::now();
    // A pair on the other node takes no longer than ever, whatever this locker waits for at the silent one.
    let beside = lock(&own, &cluster.names_on(1, 2)[1]);
    let mut longest = Duration::ZERO;
    let new = std::thread::scope(|scope| {
        let failed_over = scope.spawn(|| cluster.wait_failed_over(0));
        while !failed_over.is_finished() {
            let begun = Instant::now();
            beside.acquire().unwrap();
            beside.release().unwrap();
            longest = longest.max(begun.elapsed());
            assert!(fine.look(), "the lock on the other node was not renewed");
        }
        failed_over.join().unwrap()
    });
    println!("switched {:?} after it was stopped; a pair elsewhere took {longest:?} at most", stopped.elapsed());
    assert!(longest < Duration::from_millis(500), "{longest:?}");
    recorder.disturbed_since(at);
    // Whoever comes next gets it from the new primary, with a greater token.
    let next = recorder.witness(lock(&other, &here), &here, "next");
    let token = next.acquire(LONG_MS).unwrap();
    assert!(token > held);
    eventually("the former holder knows", || !stuck.look());
    cluster.go_on(0);
    eventually("the old primary is a replica", || {
        cluster.servers[0].cmd::<String>(&["INFO", "replication"]).contains("role:slave")
    });
    assert!(next.look() && fine.look());
    next.release().unwrap();
    fine.release().unwrap();
    // And back again, by order: a locker follows. The servers may hold back writes for longer than the leases above.
    let patient = locker_with_lease(&cluster.url(), 10_000);
    let again = recorder.witness(lock(&patient, &here), &here, "again");
    assert!(again.acquire(LONG_MS).unwrap() > token);
    eventually("the replica follows", || {
        cluster.servers[0].cmd::<String>(&["INFO", "replication"]).contains("master_link_status:up")
    });
    cluster.fail_over_to(0, 0);
    let key = format!("g:{here}");
    eventually("a renewal there", || {
        assert!(again.look());
        cluster.servers[0].cmd::<i64>(&["PTTL", &key]) > 9_000
    });
    again.release().unwrap();
    recorder.judge();
    assert!(cluster.keys(&[0, 1, 2]).is_empty(), "{new}");
}

#[test]
fn where_nobody_takes_its_place_calls_say_so_in_time_and_other_nodes_go_on() {
    let cluster = Cluster::start(3, 0, &["--cluster-require-full-coverage", "no"]);
    let mut options = crate::options(&cluster.url());
    options.set_response_timeout_ms(1_000).unwrap();
    let own = Locker::new(&options).unwrap();
    let (here, there) = (lock(&own, &cluster.name_on(0)), lock(&own, &cluster.name_on(1)));
    there.acquire().unwrap();
    here.acquire().unwrap();
    here.release().unwrap();
    cluster.kill(0);
    let begun = Instant::now();
    let error = here.acquire_timeout(700).unwrap_err();
    assert!(begun.elapsed() < Duration::from_millis(1_500), "{:?}", begun.elapsed());
    assert_eq!(error.status, Status::NotConnected, "{error}");
    let address = format!("127.0.0.1:{}", cluster.servers[0].port());
    assert!(error.message.contains(&address), "{error}");
    let begun = Instant::now();
    let error = here.acquire().unwrap_err();
    assert!(begun.elapsed() < Duration::from_millis(3_000), "{:?}", begun.elapsed());
    assert!(matches!(error.status, Status::NotConnected | Status::Locker), "{error}");
    println!("{error}");
    assert!(there.remaining_ms().unwrap() > 0);
    there.release().unwrap();
    there.acquire().unwrap();
    there.release().unwrap();
}

#[test]
fn a_new_locker_finds_the_cluster_past_nodes_of_its_url_that_are_gone_or_silent() {
    let cluster = Cluster::start(3, 1, &[]);
    let url = cluster.url();
    cluster.kill(0);
    cluster.wait_failed_over(0);
    cluster.stop(1);
    cluster.wait_failed_over(1);
    let begun = Instant::now();
    let own = locker(&url);
    for server in 0..3 {
        let one = lock(&own, &cluster.name_on(server));
        one.acquire().unwrap();
        one.release().unwrap();
    }
    println!("{:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    cluster.go_on(1);
}
