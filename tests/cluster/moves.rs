//! Slots that move to another node and back, under locks that are held and waited for.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dlock::store::redis::slot::slot;
use dlock::{Locker, Status};

use crate::deployment::{Cluster, Ends};
use crate::eventually::{PATIENCE, eventually};
use crate::recorder::Recorder;
use crate::waiting::{AT_ONCE, on_each_server, waiters};
use crate::{lock, locker, locker_with_lease};

/// A held and awaited lock, whose slot moves key by key while it is renewed, and back; then it is released.
fn moved_while_held(cluster: &Cluster, name: &str, sharded: bool) {
    let (key, slot) = (format!("g:{name}"), slot(&format!("g:{name}")));
    let lease_ms = 1_000;
    let mut patient = crate::options(&cluster.url());
    patient.set_response_timeout_ms(20_000).unwrap();
    let (own, other) = (locker_with_lease(&cluster.url(), lease_ms), Locker::new(&patient).unwrap());
    let (holder, waiter) = (lock(&own, name), lock(&other, name));
    holder.acquire().unwrap();
    let token = holder.fencing_token().unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            waiter.acquire_timeout(60_000).unwrap();
            (waiter.fencing_token().unwrap(), Instant::now())
        });
        eventually("it is queued", || waiters(cluster, 0) == 1);
        for (from, to) in [(0, 1), (1, 0), (0, 2)] {
            cluster.begin_move(slot, from, to);
            cluster.move_key(&key, from, to);
            // Its keys are on two nodes now, for longer than the lease.
            let begun = Instant::now();
            eventually("a lease goes by", || {
                assert!(holder.remaining_ms().unwrap_or_else(|error| panic!("{error}")) > 0);
                begun.elapsed() > Duration::from_millis(lease_ms * 3 / 2)
            });
            cluster.end_move(slot, from, to);
            eventually("a renewal there", || cluster.servers[to].cmd::<i64>(&["PTTL", &key]) > 800);
        }
        // The waiter reads its messages at the new node: sharded ones as soon as the old one told, plain ones by a look
        // around.
        eventually("the waiter is subscribed there", || {
            let command: &[&str] = if sharded { &["PUBSUB", "SHARDCHANNELS"] } else { &["PUBSUB", "CHANNELS"] };
            !cluster.servers[2].cmd::<Vec<String>>(command).is_empty()
        });
        assert_eq!(holder.fencing_token().unwrap(), token);
        let released = Instant::now();
        holder.release().unwrap();
        let (next, at) = waiting.join().unwrap();
        assert!(next > token);
        assert!(at - released < AT_ONCE, "{:?} after the release", at - released);
    });
    waiter.release().unwrap();
    for server in 0..3 {
        assert!(cluster.keys(&[server]).is_empty());
    }
}

#[test]
fn a_lock_that_is_held_and_awaited_outlives_moves_of_its_slot_on_every_server() {
    on_each_server(|cluster, sharded| moved_while_held(cluster, &cluster.name_on(0), sharded));
}

#[test]
fn a_release_in_the_middle_of_a_move_waits_for_its_end() {
    let cluster = Cluster::start(3, 0, &[]);
    let name = cluster.name_on(0);
    let slot = slot(&format!("g:{name}"));
    let own = locker(&cluster.url());
    let holder = lock(&own, &name);
    holder.acquire().unwrap();
    cluster.begin_move(slot, 0, 1);
    cluster.move_key(&format!("g:{name}"), 0, 1);
    std::thread::scope(|scope| {
        let released = scope.spawn(|| holder.release());
        eventually("it was refused", || {
            let stats = |i: usize| cluster.servers[i].cmd::<String>(&["INFO", "errorstats"]);
            stats(0).contains("TRYAGAIN") || stats(1).contains("TRYAGAIN")
        });
        cluster.end_move(slot, 0, 1);
        released.join().unwrap().unwrap();
    });
    assert!(!holder.is_locked().unwrap());
}

#[test]
fn a_move_that_does_not_end_is_told_in_the_servers_words() {
    let cluster = Cluster::start(3, 0, &[]);
    let name = cluster.name_on(0);
    let slot = slot(&format!("g:{name}"));
    let mut options = crate::options(&cluster.url());
    options.set_response_timeout_ms(500).unwrap();
    let own = Locker::new(&options).unwrap();
    let one = lock(&own, &name);
    one.acquire().unwrap();
    one.release().unwrap();
    cluster.begin_move(slot, 0, 1);
    let error = one.acquire().unwrap_err();
    assert_eq!(error.status, Status::Locker);
    assert!(error.message.contains("TRYAGAIN"), "{error}");
    cluster.end_move(slot, 0, 1);
    one.acquire().unwrap();
    one.release().unwrap();
}

/// Eight contend for six locks whose slots are moved all the time.
#[test]
fn contenders_are_excluded_and_tokens_rise_while_slots_move_to_and_fro() {
    let cluster = Cluster::start(3, 0, &[]);
    let url = cluster.url();
    let recorder = Recorder::new();
    let names: Vec<String> =
        (0..3).flat_map(|server| [cluster.name_on(server), cluster.names_on(server, 2)[1].clone()]).collect();
    let (over, taken) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let _over = Ends(&over);
        for contender in 0..8 {
            let (names, url, recorder, over, taken) = (&names, &url, &recorder, &over, &taken);
            scope.spawn(move || {
                let own = locker_with_lease(url, 5_000);
                let witnesses: Vec<_> = names
                    .iter()
                    .map(|name| recorder.witness(lock(&own, name), name, format!("c{contender}")))
                    .collect();
                let mut turn = contender;
                while !over.load(Ordering::Relaxed) {
                    let witness = &witnesses[turn % witnesses.len()];
                    witness.acquire(20_000).unwrap_or_else(|error| panic!("{error}"));
                    witness.look();
                    witness.release().unwrap_or_else(|error| panic!("{error}"));
                    taken.fetch_add(1, Ordering::Relaxed);
                    turn += 1;
                }
            });
        }
        let mut at: Vec<usize> = (0..6).map(|i| i / 2).collect();
        let begun = Instant::now();
        // At least so many moves, and at least so many acquisitions between them.
        for i in 0.. {
            if i >= 40 && taken.load(Ordering::Relaxed) >= 150 {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "{i} moves, {} acquisitions", taken.load(Ordering::Relaxed));
            let (which, slot) = (i % names.len(), slot(&format!("g:{}", names[i % names.len()])));
            let to = (at[which] + 1 + i % 2) % 3;
            cluster.begin_move(slot, at[which], to);
            for key in cluster.keys_in(slot, at[which]) {
                cluster.move_key(&key, at[which], to);
            }
            cluster.end_move(slot, at[which], to);
            at[which] = to;
        }
    });
    let verdict = recorder.judge();
    assert!(verdict.counts.acquisitions >= 150, "{verdict}");
    assert_eq!(verdict.counts.writes_refused, 0);
    eventually("nothing is left", || cluster.keys(&[0, 1, 2]).is_empty());
}
