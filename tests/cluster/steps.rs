//! Pairs, renewals, inspections, and which keys and connections they make.

use std::sync::Arc;

use dlock::Status;
use dlock::store::Name;
use dlock::store::name::FENCE;
use dlock::store::redis::slot::slot;

use crate::deployment::Cluster;
use crate::eventually::eventually;
use crate::{lock, locker, locker_with_lease};

fn connections(cluster: &Cluster, server: usize) -> usize {
    let list: String = cluster.servers[server].cmd(&["CLIENT", "LIST"]);
    list.lines().filter(|line| line.contains(" name=dlock ")).count()
}

#[test]
fn pairs_on_every_node_leave_one_counter_for_each_slot_and_their_tokens_rise() {
    let cluster = Arc::new(Cluster::start(3, 0, &[]));
    let own = locker(&cluster.url());
    for i in 0..60 {
        let one = lock(&own, &format!("a {{{i}}}"));
        one.acquire().unwrap();
        let first = one.fencing_token().unwrap();
        assert!(one.is_locked().unwrap() && one.is_locked_by_me().unwrap());
        one.release().unwrap();
        assert!(!one.is_locked().unwrap());
        one.acquire().unwrap();
        assert!(one.fencing_token().unwrap() > first);
        one.release().unwrap();
        assert_eq!(one.release().unwrap_err().status, Status::UnlockUnlocked);
    }
    for server in 0..3 {
        let keys: Vec<String> = cluster.servers[server].cmd(&["KEYS", "*"]);
        assert!(!keys.is_empty(), "no lock was on server {server}");
        assert!(keys.iter().all(|key| key.starts_with(":dlock:fence:{")), "{keys:?}");
        assert_eq!(connections(&cluster, server), 1, "of one thread, on server {server}");
    }
}

#[test]
fn a_held_lock_is_renewed_where_it_is() {
    let cluster = Cluster::shared();
    let own = locker_with_lease(&cluster.url(), 900);
    let locks: Vec<_> = (0..3).map(|server| lock(&own, &cluster.name_on(server))).collect();
    locks.iter().for_each(|lock| lock.acquire().unwrap());
    let begun = std::time::Instant::now();
    eventually("three leases go by", || {
        locks.iter().for_each(|lock| assert!(lock.remaining_ms().unwrap() > 0));
        begun.elapsed().as_millis() > 3 * 900
    });
    locks.iter().for_each(|lock| lock.release().unwrap());
}

#[test]
fn the_keys_of_every_legal_name_share_one_slot() {
    let odd = [
        "{", "}", "{}", "{{", "}}", "{a}", "{a", "a}", "}{", "{}{a}", "{{a}}", " ", "ü{ß}", "\r\n", "%", "\"", "@", "*",
    ];
    let parts = odd.iter().map(|part| (*part).to_owned());
    let long = ["{".repeat(512), "}".repeat(512), "a".repeat(511) + "{", "{a}".repeat(170)];
    let parts: Vec<String> = parts.chain(long).collect();
    let cluster = Cluster::shared();
    let mut client = cluster.servers[0].connection();
    let mut tried = 0;
    for group in &parts {
        for name in parts.iter().chain(&[":".to_owned(), "a:{b}:c".to_owned()]) {
            let legal = Name::new(name, group).unwrap();
            let fence = format!(":dlock:fence:{}", legal.tag());
            let channel = format!(":dlock:wake:{}:0123", legal.tag());
            for key in [legal.waiters(), &fence, &channel] {
                assert_eq!(slot(key), slot(legal.key()), "{key:?} of {:?}", legal.key());
            }
            // And the server reckons as we do.
            let told: Vec<u16> = [legal.key(), legal.waiters(), fence.as_str()]
                .map(|key| redis::cmd("CLUSTER").arg("KEYSLOT").arg(key).query(&mut client).unwrap())
                .to_vec();
            assert!(told.iter().all(|&of| of == slot(legal.key())), "{:?}: {told:?}", legal.key());
            tried += 1;
        }
    }
    assert!(tried > 500);
}

#[test]
fn names_with_odd_characters_are_locked_like_all_others() {
    let cluster = Cluster::shared();
    let own = locker(&cluster.url());
    for name in ["{", "}", "{}", "a {b} c", "{a", "a:b", "ü", "}{"] {
        let one = own.lock(name, "odd{}").unwrap();
        one.acquire_timeout(10_000).unwrap();
        one.release().unwrap();
    }
}

#[test]
fn what_is_no_cluster_and_what_is_one_is_said() {
    let cluster = Cluster::shared();
    let single = crate::redis_server::RedisServer::start(&[]);
    let error = locker(&format!("redis-cluster://127.0.0.1:{}", single.port())).lock("n", "g").err().unwrap();
    assert_eq!(error.status, Status::NotConnected);
    assert!(error.message.contains("redis://") && error.message.contains("no node of a cluster"), "{error}");
    // A node that is asked as if it were a server of its own.
    let refused = (0..3).filter_map(|i| {
        let own = locker(&format!("redis://127.0.0.1:{}", cluster.servers[i].port()));
        let refused = own.lock("n", "g").and_then(|lock| lock.acquire()).err();
        refused.map(|error| error.message)
    });
    let refused: Vec<String> = refused.collect();
    assert_eq!(refused.len(), 3);
    assert!(refused.iter().all(|message| message.contains("redis-cluster://")), "{refused:?}");
}

/// The highest number seen of a slot is told to the server with the next connection (rule 5).
#[test]
fn tokens_of_a_slot_rise_past_a_counter_that_was_ahead_of_the_clock_and_is_lost_with_the_connection() {
    let cluster = Cluster::start(3, 0, &[]);
    let name = cluster.name_on(1);
    let own = locker(&cluster.url());
    let one = lock(&own, &name);
    let pair = || {
        one.acquire().unwrap();
        let token = one.fencing_token().unwrap();
        one.release().unwrap();
        token
    };
    let counter = format!("{FENCE}:{}", Name::new(&name, "g").unwrap().tag());
    let ahead = pair() + 1_000_000_000_000;
    cluster.servers[1].cmd::<()>(&["SET", &counter, &ahead.to_string()]);
    let seen = pair();
    assert!(seen > ahead);
    cluster.servers[1].cmd::<()>(&["DEL", &counter]);
    cluster.servers[1].cmd::<()>(&["CLIENT", "KILL", "TYPE", "normal"]);
    let next = pair();
    assert!(next > seen, "{next} after {seen}");
}
