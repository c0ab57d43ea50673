//! Waiting and hand-offs: sharded messages where the servers have them, plain ones where not.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use dlock::{Locker, WAIT_FOREVER};

use crate::deployment::Cluster;
use crate::eventually::{PATIENCE, eventually};
use crate::redis_server::RedisServer;
use crate::{lock, locker};

/// Well below the interval of re-checks, which is 5 s at least: the message was read.
pub const AT_ONCE: Duration = Duration::from_millis(2_500);

/// A cluster of each of the servers, and whether it has sharded messages.
pub fn on_each_server(check: impl Fn(&Cluster, bool) + Sync) {
    std::thread::scope(|scope| {
        for program in programs() {
            let check = &check;
            scope.spawn(move || {
                let cluster = Cluster::start_program(&program, 3, 0, &[]);
                let sharded = cluster.servers[0].try_cmd::<redis::Value>(&["PUBSUB", "SHARDCHANNELS"]).is_ok();
                println!("{} {}", cluster.servers[0].version(), if sharded { "sharded" } else { "plain" });
                check(&cluster, sharded);
            });
        }
    });
}

/// All the servers of the conformance tests.
fn programs() -> Vec<PathBuf> {
    let named = std::env::var("DLOCK_TEST_SERVERS").unwrap_or_default();
    let further = named.split(':').filter(|path| !path.is_empty()).map(PathBuf::from);
    std::iter::once(RedisServer::default_program()).chain(further).collect()
}

pub fn waiters(cluster: &Cluster, server: usize) -> u64 {
    let server = &cluster.servers[server];
    let queues = server.keys();
    let queues = queues.iter().filter(|key| key.starts_with(":dlock:wait:"));
    queues.map(|queue| server.try_cmd::<u64>(&["ZCARD", queue]).unwrap_or(0)).sum()
}

/// Readers of messages at that server, sharded and plain.
pub fn subscriptions(cluster: &Cluster, server: usize) -> (usize, usize) {
    let list: String = cluster.servers[server].cmd(&["CLIENT", "LIST"]);
    let count = |what: &str| list.lines().filter(|line| line.contains(what)).count();
    (count(" ssub=") - count(" ssub=0 "), count(" sub=") - count(" sub=0 "))
}

/// Four wait on two lockers, and are served in order and at once.
fn served_in_order(cluster: &Cluster, server: usize, sharded: bool) {
    let name = cluster.name_on(server);
    let (own, others) = (locker(&cluster.url()), [locker(&cluster.url()), locker(&cluster.url())]);
    let holder = lock(&own, &name);
    holder.acquire().unwrap();
    let first = holder.fencing_token().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        for i in 0..4 {
            let (waiter, tell) = (lock(&others[i % 2], &name), tell.clone());
            scope.spawn(move || {
                waiter.acquire().unwrap();
                tell.send((i, waiter.fencing_token().unwrap(), Instant::now())).unwrap();
                waiter.release().unwrap();
            });
            eventually("it is queued", || waiters(cluster, server) == i as u64 + 1);
        }
        let expected = if sharded { (2, 0) } else { (0, 2) };
        assert_eq!(subscriptions(cluster, server), expected);
        let released = Instant::now();
        holder.release().unwrap();
        let mut token = first;
        for i in 0..4 {
            let (who, next, at) = told.recv_timeout(PATIENCE).unwrap();
            assert_eq!(who, i, "first come, first served");
            assert!(next > token);
            assert!(at - released < AT_ONCE, "{:?} after the release", at - released);
            token = next;
        }
    });
    eventually("nothing is left", || cluster.keys(&[server]).is_empty());
}

#[test]
fn waiters_are_served_in_order_and_at_once_on_every_server() {
    on_each_server(|cluster, sharded| (0..3).for_each(|server| served_in_order(cluster, server, sharded)));
}

#[test]
fn waiters_that_may_not_be_sent_messages_poll() {
    let cluster = Cluster::shared();
    let name = cluster.name_on(1);
    for server in &cluster.servers {
        let rights = ["~*", "resetchannels", "+@all"];
        let user = ["ACL", "SETUSER", "mute", "reset", "on", ">word"];
        let _: () = server.cmd(&[&user[..], &rights[..]].concat());
    }
    let own = locker(&cluster.url().replace("//", "//mute:word@"));
    let (holder, waiter) = (lock(&own, &name), lock(&own, &name));
    holder.acquire().unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| waiter.acquire_timeout(20_000).unwrap());
        eventually("a poll", || {
            let stats: String = cluster.servers[1].cmd(&["INFO", "commandstats"]);
            stats.contains("cmdstat_evalsha:")
        });
        holder.release().unwrap();
        waiting.join().unwrap();
    });
    waiter.release().unwrap();
    assert!(own.warnings().unwrap().iter().any(|text| text.contains("127.0.0.1:") && text.contains("channels")));
}

fn sockets() -> usize {
    let links = std::fs::read_dir("/proc/self/fd").unwrap();
    let is_socket = |entry: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_link(entry.unwrap().path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
    };
    links.map(is_socket).filter(|is| *is).count()
}

/// Many locks over all slots, each held by one locker and waited for in another.
fn many(cluster: &Cluster, count: usize) {
    let (holding, waiting): (Locker, Locker) = (locker(&cluster.url()), locker(&cluster.url()));
    let (held, awaited) = (holding.queue().unwrap(), waiting.queue().unwrap());
    let name = |i: usize| format!("many {i}");
    let holders: Vec<_> = (0..count).map(|i| lock(&holding, &name(i))).collect();
    let waiters: Vec<_> = (0..count).map(|i| lock(&waiting, &name(i))).collect();
    let all = |queue: &dlock::Queue, what: &str| {
        let (mut seen, deadline) = (0, Instant::now() + 4 * PATIENCE);
        while seen < count {
            assert!(Instant::now() < deadline, "{what}: {seen} of {count}");
            for event in queue.wait(1_000, 1_000).unwrap() {
                assert!(event.error.is_none(), "{what}: {:?}", event.error);
                seen += 1;
            }
        }
    };
    for (i, holder) in holders.iter().enumerate() {
        held.submit_acquire(holder, WAIT_FOREVER, i as u64).unwrap();
    }
    all(&held, "held");
    let before = sockets();
    for (i, waiter) in waiters.iter().enumerate() {
        awaited.submit_acquire(waiter, WAIT_FOREVER, i as u64).unwrap();
    }
    eventually("all wait", || (0..3).map(|server| self::waiters(cluster, server)).sum::<u64>() == count as u64);
    println!("{count} waiters: {} sockets more", sockets() - before);
    assert!(sockets() - before <= 4 * 3 + 3, "{}", sockets() - before);
    let begun = Instant::now();
    for (i, holder) in holders.iter().enumerate() {
        held.submit_release(holder, i as u64).unwrap();
    }
    all(&held, "released");
    all(&awaited, "served");
    println!("{count} hand-offs took {:?}", begun.elapsed());
    for (i, waiter) in waiters.iter().enumerate() {
        awaited.submit_release(waiter, i as u64).unwrap();
    }
    all(&awaited, "released again");
    eventually("nothing is left", || cluster.keys(&[0, 1, 2]).is_empty());
}

#[test]
fn two_thousand_waiters_over_all_slots_cost_a_handful_of_connections() {
    let count = std::env::var("DLOCK_CLUSTER_WAITERS").map_or(2_000, |text| text.parse().unwrap());
    many(&Cluster::start(3, 0, &[]), count);
}
