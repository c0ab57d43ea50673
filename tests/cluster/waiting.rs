//! Waiting and hand-offs: sharded messages where the servers have them, plain ones where not.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dlock::store::redis::slot::slot;
use dlock::store::redis::{Address, ClusterStore, Config};
use dlock::store::{Acquisition, Connection, Name, Op, Push, Reply, Request, RequestId, Seat, Store, Subscription};
use dlock::{Locker, WAIT_FOREVER};
use uuid::Uuid;

use crate::deployment::Cluster;
use crate::eventually::{PATIENCE, eventually};
use crate::redis_server::RedisServer;
use crate::{lock, locker};

/// Well below the interval of re-checks, which is 5 s at least: the message was read.
pub const AT_ONCE: Duration = Duration::from_millis(2_500);

/// Of a locker that is none.
const CHANNEL: &str = ":dlock:wake:0123456789abcdef0123456789abcdef";

const JOIN: Op = Op::Join { lease_ms: 30_000, place: 0, queue: true };

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

/// Connections of clients to all nodes.
fn connections(cluster: &Cluster) -> usize {
    cluster.servers.iter().map(|server| server.cmd::<String>(&["CLIENT", "LIST"]).lines().count()).sum()
}

/// The store beneath a locker, whose connection and subscription get their turns from a test.
struct Beneath {
    connection: Box<dyn Connection>,
    messages: Box<dyn Subscription>,
    replies: Vec<(RequestId, Reply)>,
    name: Arc<Name>,
}

impl Beneath {
    /// The first owner, of another locker, holds a lock on the second server: that of this number.
    fn held(cluster: &Cluster, number: usize) -> Self {
        let address = |server: &RedisServer| Address::Tcp { host: "127.0.0.1".into(), port: server.port() };
        let seeds: Vec<Address> = cluster.servers.iter().map(address).collect();
        let store = ClusterStore::new(seeds.clone(), Config::new(seeds[0].clone()));
        let connection = store.connect(0).unwrap();
        let messages = store.subscribe(CHANNEL, Arc::new(|| {})).unwrap();
        let name = Arc::new(Name::new(&cluster.names_on(1, number + 1)[number], "g").unwrap());
        let mut this = Beneath { connection, messages, replies: Vec::new(), name };
        this.push(1, Op::Try { lease_ms: 30_000 });
        assert!(matches!(this.replies(1)[..], [Reply::Taken { .. }]));
        this
    }

    /// Asks for that owner; the answer has its number.
    fn push(&mut self, owner: u64, op: Op) {
        let acquisition = Acquisition { owner: Uuid::from_u128(owner.into()), attempt: 1 };
        let channel = if owner == 1 { "another's" } else { CHANNEL }.into();
        let request =
            Request { name: Arc::clone(&self.name), acquisition, seat: Seat { claim_ms: 3_000, channel }, op };
        self.connection.push(RequestId(owner), request);
    }

    /// So many answers, in order of their numbers.
    fn replies(&mut self, count: usize) -> Vec<Reply> {
        eventually("they are answered", || {
            self.connection.turn(Duration::from_millis(1), &mut self.replies).unwrap();
            self.replies.len() == count
        });
        self.replies.sort_by_key(|(id, _)| *id);
        self.replies.drain(..).map(|(_, reply)| reply).collect()
    }

    /// The second owner waits.
    fn queue(&mut self) {
        self.push(2, JOIN);
        assert!(matches!(self.replies(1)[..], [Reply::Queued { .. }]));
    }

    /// The next message.
    fn message(&mut self) -> Push {
        let (mut pushes, mut number) = (Vec::new(), 0);
        eventually("a message", || {
            number += 1;
            self.messages.ping(number).unwrap(); // has it look around
            self.messages.receive(&mut pushes).unwrap();
            pushes.retain(|push| !matches!(push, Push::Pong { .. }));
            !pushes.is_empty()
        });
        pushes.remove(0)
    }

    fn give_up(&mut self, owners: &[u64]) {
        owners.iter().for_each(|&owner| self.push(owner, Op::Release { leave: true }));
        self.replies(owners.len());
    }
}

#[test]
fn a_join_that_comes_when_the_channel_is_there_waits_behind_those_that_waited_for_it() {
    let cluster = Cluster::shared();
    let mut beneath = Beneath::held(&cluster, 3);
    beneath.push(2, JOIN);
    // The channel's confirmation is read while the connection does not get its turn.
    eventually("the channel is subscribed to", || {
        beneath.messages.receive(&mut Vec::new()).unwrap();
        subscriptions_to(&cluster, CHANNEL)
    });
    (0..3).for_each(|_| beneath.messages.receive(&mut Vec::new()).unwrap());
    beneath.push(3, JOIN);
    let replies = beneath.replies(2);
    let place = |reply: &Reply| if let Reply::Queued { place, .. } = reply { *place } else { panic!("{reply:?}") };
    assert!(place(&replies[0]) < place(&replies[1]), "{replies:?}");
    beneath.give_up(&[3, 2, 1]);
}

#[test]
fn a_message_is_news_and_no_acquisition() {
    let cluster = Cluster::shared();
    let mut beneath = Beneath::held(&cluster, 4);
    beneath.queue();
    beneath.give_up(&[1]);
    let Push::HandOff { hand_off, .. } = beneath.message() else { panic!("no hand-off") };
    assert_eq!((hand_off.acquisition.owner, hand_off.token), (Uuid::from_u128(2), 0));
    beneath.give_up(&[2]);
}

#[test]
fn who_may_have_missed_a_message_is_told_to_ask_again() {
    let cluster = Cluster::start(3, 0, &[]);
    let mut beneath = Beneath::held(&cluster, 0);
    let key = beneath.name.key().to_owned();
    beneath.queue();
    cluster.servers[1].cmd::<()>(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    assert_eq!(beneath.message(), Push::Dropped { key: key.clone() }, "its connection ended");
    let slot = slot(&key);
    cluster.begin_move(slot, 1, 2);
    cluster.keys_in(slot, 1).iter().for_each(|key| cluster.move_key(key, 1, 2));
    cluster.end_move(slot, 1, 2);
    assert_eq!(beneath.message(), Push::Dropped { key }, "the slot is read elsewhere");
    beneath.give_up(&[2, 1]);
}

/// Does any node have readers of that locker's channels, sharded or plain?
fn subscriptions_to(cluster: &Cluster, channel: &str) -> bool {
    let digits = channel.rsplit(':').next().unwrap();
    let listed = |server: &RedisServer, kind: &str| {
        let listed = server.try_cmd::<Vec<String>>(&["PUBSUB", kind]).unwrap_or_default();
        listed.iter().any(|listed| listed.ends_with(digits))
    };
    cluster.servers.iter().any(|server| listed(server, "SHARDCHANNELS") || listed(server, "CHANNELS"))
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
    let before = connections(cluster);
    for (i, waiter) in waiters.iter().enumerate() {
        awaited.submit_acquire(waiter, WAIT_FOREVER, i as u64).unwrap();
    }
    eventually("all wait", || (0..3).map(|server| self::waiters(cluster, server)).sum::<u64>() == count as u64);
    let more = connections(cluster).saturating_sub(before);
    println!("{count} waiters: {more} connections more");
    assert!(more <= 4 * 3 + 3, "{more}");
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
