//! The store on a real server: each path of each script, the connection's errors, and the handshake's refusals.

#[path = "support/redis_server.rs"]
#[allow(dead_code)]
mod redis_server;

use std::io::Write;
use std::net::{Shutdown, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dlock::store::redis::{Address, Config, RedisStore, slot};
use dlock::store::{
    Acquisition, Connection, ErrorClass, HandOff, Holder, Name, Op, Push, RELEASE_BATCH, Reply, Request, RequestId,
    Seat, Store, Subscription, TOKEN_FLOOR,
};
use redis_server::{RedisServer, free_port};
use uuid::Uuid;

const FENCE: &str = ":dlock:fence";
const LEASE: u64 = 30_000;
const WAIT: Duration = Duration::from_secs(10);

fn config(port: u16) -> Config {
    Config::new(Address::Tcp { host: "127.0.0.1".into(), port })
}

fn refusal(config: Config) -> String {
    match RedisStore::new(config).connect(0) {
        Ok(_) => panic!("connected"),
        Err(error) => error.to_string(),
    }
}

/// A server, a connection to it, and a lock's name.
struct Bench {
    server: RedisServer,
    store: RedisStore,
    connection: Box<dyn Connection>,
    name: Arc<Name>,
    next: u64,
}

impl Bench {
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(arguments: &[&str]) -> Self {
        let server = RedisServer::start(arguments);
        let store = RedisStore::new(config(server.port()));
        let connection = store.connect(0).unwrap();
        Bench { server, store, connection, name: Arc::new(Name::new("a {name}", "g").unwrap()), next: 0 }
    }

    fn request(&self, who: &Who, op: Op) -> Request {
        let seat = Seat { claim_ms: 3000, channel: who.channel.clone() };
        Request { name: self.name.clone(), acquisition: who.acquisition, seat, op }
    }

    fn ask(&mut self, who: &Who, op: Op) -> Reply {
        let id = RequestId(self.next);
        self.next += 1;
        let request = self.request(who, op);
        self.connection.push(id, request);
        let mut replies = collect(&mut *self.connection, 1);
        let (answered, reply) = replies.pop().unwrap();
        assert_eq!(answered, id);
        assert!(self.connection.is_idle() && self.connection.pending().is_empty() && !self.connection.wants_write());
        reply
    }

    fn join(&mut self, who: &Who, place: u64) -> Reply {
        self.ask(who, Op::Join { lease_ms: LEASE, place, queue: true })
    }

    fn queue(&mut self, who: &Who) -> u64 {
        match self.join(who, 0) {
            Reply::Queued { place, .. } => place,
            other => panic!("not queued: {other:?}"),
        }
    }

    fn take(&mut self, who: &Who) -> u64 {
        match self.ask(who, Op::Try { lease_ms: LEASE }) {
            Reply::Taken { token } => token,
            other => panic!("not taken: {other:?}"),
        }
    }

    fn release(&mut self, who: &Who) -> Reply {
        self.ask(who, Op::Release { leave: false })
    }

    fn subscribe(&self, channel: &str) -> Box<dyn Subscription> {
        self.store.subscribe(channel, Arc::new(|| ())).unwrap()
    }

    fn value(&self) -> Option<String> {
        self.server.cmd(&["GET", self.name.key()])
    }

    fn life(&self, key: &str) -> i64 {
        self.server.cmd(&["PTTL", key])
    }

    fn waiting(&self) -> Vec<(String, f64)> {
        self.server.cmd(&["ZRANGE", self.name.waiters(), "0", "-1", "WITHSCORES"])
    }

    fn score(&self, who: &Who) -> Option<f64> {
        self.server.cmd(&["ZSCORE", self.name.waiters(), &self.request(who, Op::Inspect).member()])
    }

    /// Makes the server refuse whatever takes memory.
    fn fill(&self) {
        let _: () = self.server.cmd(&["CONFIG", "SET", "maxmemory", "1"]);
    }
}

fn collect(connection: &mut dyn Connection, count: usize) -> Vec<(RequestId, Reply)> {
    let (mut replies, deadline) = (Vec::new(), Instant::now() + WAIT);
    while replies.len() < count {
        assert!(Instant::now() < deadline, "{count} replies, not {replies:?}");
        connection.turn(WAIT, &mut replies).unwrap();
    }
    replies
}

#[derive(Clone)]
struct Who {
    acquisition: Acquisition,
    channel: Arc<str>,
}

impl Who {
    fn new(channel: &str) -> Self {
        let acquisition = Acquisition { owner: Uuid::new_v4(), attempt: 5 };
        Who { acquisition, channel: channel.into() }
    }

    fn attempt(&self, attempt: u64) -> Self {
        let acquisition = Acquisition { attempt, ..self.acquisition };
        Who { acquisition, channel: self.channel.clone() }
    }
}

fn pushes(subscription: &mut dyn Subscription, count: usize) -> Vec<Push> {
    let (mut pushes, deadline) = (Vec::new(), Instant::now() + WAIT);
    while pushes.len() < count {
        assert!(Instant::now() < deadline, "{count} pushes, not {pushes:?}");
        subscription.receive(&mut pushes).unwrap();
        std::thread::yield_now();
    }
    pushes
}

/// Everything that was published before now has come when the pong has.
fn pushes_so_far(subscription: &mut dyn Subscription) -> Vec<Push> {
    subscription.ping(77).unwrap();
    let mut all = Vec::new();
    while all.last() != Some(&Push::Pong { number: 77 }) {
        all.extend(pushes(subscription, 1));
    }
    all.pop();
    all
}

#[test]
fn a_try_takes_a_free_lock_and_draws_a_place_at_a_held_one() {
    let mut b = Bench::new();
    let (a, c) = (Who::new("A"), Who::new("C"));
    let token = b.take(&a);
    assert!(token > TOKEN_FLOOR);
    assert_eq!(b.value(), Some(a.acquisition.to_string()));
    assert!((LEASE as i64 - 5000..=LEASE as i64).contains(&b.life(b.name.key())));
    assert_eq!(b.ask(&c, Op::Try { lease_ms: LEASE }), Reply::Held { place: token + 1, remaining_ms: None });
    assert_eq!(b.ask(&c, Op::Inspect), Reply::Holder(Holder::Acquisition(a.acquisition)));
    assert_eq!(b.release(&c), Reply::NotMine(Holder::Acquisition(a.acquisition)));
    assert_eq!(b.release(&a), Reply::Released { next: None });
    assert_eq!(b.release(&a), Reply::NotMine(Holder::Nobody));
    assert_eq!(b.ask(&c, Op::Inspect), Reply::Holder(Holder::Nobody));
    assert!(b.server.keys().is_empty());
}

#[test]
fn a_try_that_cannot_draw_says_that_the_key_was_set() {
    let mut b = Bench::new();
    let a = Who::new("A");
    let _: () = b.server.cmd(&["SET", FENCE, "nonsense"]);
    let Reply::TakenUndrawn { error } = b.ask(&a, Op::Try { lease_ms: LEASE }) else { panic!() };
    assert!(error.class == ErrorClass::Report && error.text.contains(FENCE), "{error:?}");
    assert_eq!(b.release(&a), Reply::Released { next: None });
    // A join takes nothing where it cannot draw.
    for queue in [false, true] {
        let Reply::Error(error) = b.ask(&a, Op::Join { lease_ms: LEASE, place: 0, queue }) else { panic!() };
        assert!(error.class == ErrorClass::Report && error.text.contains(FENCE), "{error:?}");
    }
    assert_eq!(b.value(), None);
    // A connection is not refused for it: the draw names the counter, not the handshake.
    b.connection = b.store.connect(0).unwrap();
    assert!(matches!(b.ask(&a, Op::Try { lease_ms: LEASE }), Reply::TakenUndrawn { .. }));
    assert_eq!(b.server.cmd::<String>(&["GET", FENCE]), "nonsense");
    // With waiters the release frees the lock instead of handing it on.
    let w = Who::new("W");
    let mut messages = b.subscribe("W");
    let _: () = b.server.cmd(&["ZADD", b.name.waiters(), "5", &b.request(&w, Op::Inspect).member()]);
    assert_eq!(b.release(&a), Reply::Released { next: None });
    assert_eq!((b.value(), pushes_so_far(&mut *messages)), (None, vec![]));
}

#[test]
fn a_join_takes_rearms_replaces_and_is_stale() {
    let mut b = Bench::new();
    let a = Who::new("A");
    let Reply::Taken { token: first } = b.ask(&a, Op::Join { lease_ms: LEASE, place: 0, queue: false }) else {
        panic!()
    };
    let _: () = b.server.cmd(&["PEXPIRE", b.name.key(), "1000"]);
    let Reply::Taken { token: second } = b.join(&a, 0) else { panic!() };
    assert!(second > first && b.life(b.name.key()) > 20_000, "re-armed, with a fresh token");
    let _: () = b.server.cmd(&["PEXPIRE", b.name.key(), "90000"]);
    assert!(matches!(b.join(&a, 0), Reply::Taken { .. }));
    assert!(b.life(b.name.key()) > 80_000, "never shortened");
    assert_eq!(b.join(&a.attempt(4), 0), Reply::Stale);
    assert_eq!(b.value(), Some(a.acquisition.to_string()));
    let newer = a.attempt(10);
    assert!(matches!(b.join(&newer, 0), Reply::Taken { .. }), "10 is more than 5");
    assert_eq!(b.value(), Some(newer.acquisition.to_string()));
    assert_eq!(b.join(&a.attempt(9), 0), Reply::Stale, "9 is less than 10");
    assert!(b.waiting().is_empty());
}

#[test]
fn a_join_queues_at_its_place_and_restores_it() {
    let mut b = Bench::new();
    let (a, w, v) = (Who::new("A"), Who::new("W"), Who::new("V"));
    let token = b.take(&a);
    let Reply::Held { place: 0, remaining_ms: Some(left) } =
        b.ask(&w, Op::Join { lease_ms: 1, place: 0, queue: false })
    else {
        panic!()
    };
    assert!(left > 20_000 && b.waiting().is_empty());
    let Reply::Queued { place, remaining_ms: Some(left), waiters: 1 } = b.join(&w, 0) else { panic!() };
    assert!(place > token && left > 20_000);
    let early = place - 1;
    let Reply::Queued { place, waiters: 2, .. } = b.join(&v, early) else { panic!() };
    assert_eq!(place, early);
    assert_eq!(b.waiting().iter().map(|e| e.1 as u64).collect::<Vec<_>>(), [early, early + 1]);
    assert_eq!(b.waiting()[0].0, b.request(&v, Op::Inspect).member());
    let life = b.life(b.name.waiters());
    assert!((54_000..=56_250).contains(&life), "{life}");
    let _: () = b.server.cmd(&["PEXPIRE", b.name.waiters(), "90000"]);
    assert_eq!(b.queue(&w), early + 2, "a place below the floor is drawn");
    assert!(b.life(b.name.waiters()) > 80_000, "never shortened");
    // A key without a lease, as another program may leave it.
    let _: () = b.server.cmd(&["PERSIST", b.name.key()]);
    assert!(matches!(b.join(&w, early), Reply::Queued { remaining_ms: None, .. }));
    // Taking it, when it has become free, leaves the queue.
    let _: () = b.server.cmd(&["DEL", b.name.key()]);
    assert!(matches!(b.join(&w, early), Reply::Taken { .. }));
    assert_eq!((b.score(&w), b.score(&v)), (None, Some(early as f64)));
}

#[test]
fn a_long_queue_lives_longer() {
    let mut b = Bench::new();
    b.take(&Who::new("A"));
    for _ in 0..3 {
        let mut command = redis::cmd("ZADD");
        command.arg(b.name.waiters());
        for i in 0..2000 {
            command.arg(i).arg(format!("{}", Uuid::from_u128(rand_ish(i))));
        }
        command.query::<()>(&mut b.server.connection()).unwrap();
    }
    let Reply::Queued { waiters, .. } = b.join(&Who::new("W"), 0) else { panic!() };
    let life = b.life(b.name.waiters());
    assert_eq!(waiters, 2001);
    assert!((54_000..=56_250).contains(&life), "{life}: 3.75 ms a waiter is less than the least");
    let mut command = redis::cmd("ZADD");
    command.arg(b.name.waiters());
    for i in 0..8000 {
        command.arg(i).arg(format!("more {i}"));
    }
    command.query::<()>(&mut b.server.connection()).unwrap();
    assert!(matches!(b.join(&Who::new("W"), 0), Reply::Queued { waiters: 10_002, .. }));
    let life = b.life(b.name.waiters());
    assert!((110_000..=112_523).contains(&life), "{life}");
}

fn rand_ish(i: u64) -> u128 {
    u128::from(i) * 0x9E37_79B9_7F4A_7C15
}

#[test]
fn foreign_keys_are_never_touched() {
    let mut b = Bench::new();
    let key = b.name.key().to_owned();
    let a = Who::new("A");
    let upper = format!("{}:1", a.acquisition.owner.to_string().to_uppercase());
    let setups: Vec<(Vec<&str>, Holder)> = vec![
        (vec!["SET", &key, "somebody"], Holder::Foreign(Some("somebody".into()))),
        (vec!["SET", &key, ""], Holder::Foreign(Some(String::new()))),
        (vec!["SET", &key, &upper], Holder::Foreign(Some(upper.clone()))),
        (vec!["RPUSH", &key, "x"], Holder::Foreign(None)),
        (vec!["SADD", &key, "x"], Holder::Foreign(None)),
        (vec!["ZADD", &key, "1", "x"], Holder::Foreign(None)),
        (vec!["HSET", &key, "f", "x"], Holder::Foreign(None)),
        (vec!["XADD", &key, "*", "f", "x"], Holder::Foreign(None)),
        (vec!["PFADD", &key, "x"], Holder::Foreign(Some(String::new()))),
    ];
    for (setup, holder) in setups {
        let _: redis::Value = b.server.cmd(&setup);
        let _: () = b.server.cmd(&["PEXPIRE", &key, "60000"]);
        let before: Vec<u8> = b.server.cmd(&["DUMP", &key]);
        let is_log = setup[0] == "PFADD";
        let same = |seen: &Holder| is_log || *seen == holder;
        let Reply::Holder(seen) = b.ask(&a, Op::Inspect) else { panic!() };
        assert!(same(&seen), "{setup:?}: {seen:?}");
        assert!(matches!(b.ask(&a, Op::Try { lease_ms: LEASE }), Reply::Held { .. }));
        let Reply::Foreign { remaining_ms: Some(left) } = b.join(&a, 0) else { panic!("{setup:?}") };
        assert!((50_000..=60_000).contains(&left));
        for op in [Op::Renew { lease_ms: LEASE }, Op::Release { leave: true }, Op::Leave { lease_ms: LEASE }] {
            let Reply::NotMine(seen) = b.ask(&a, op) else { panic!("{setup:?} {op:?}") };
            assert!(same(&seen), "{setup:?} {op:?}: {seen:?}");
        }
        assert_eq!(b.server.cmd::<Vec<u8>>(&["DUMP", &key]), before);
        assert!(b.life(&key) > 50_000);
        let _: () = b.server.cmd(&["PERSIST", &key]);
        assert_eq!(b.join(&a, 0), Reply::Foreign { remaining_ms: None });
        let _: () = b.server.cmd(&["DEL", &key]);
    }
    assert!(b.server.keys().is_empty());
}

#[test]
fn a_foreign_value_of_any_size_is_just_foreign() {
    let mut b = Bench::new();
    let a = Who::new("A");
    let _: () = b.server.cmd(&["SETRANGE", b.name.key(), "3000000", "x"]);
    for i in 0..3 {
        let request = b.request(&a, Op::Inspect);
        b.connection.push(RequestId(500 + i), request);
    }
    let replies = collect(&mut *b.connection, 3);
    assert_eq!(replies.iter().map(|(id, _)| id.0).collect::<Vec<_>>(), [500, 501, 502]);
    for (_, reply) in replies {
        assert_eq!(reply, Reply::Holder(Holder::Foreign(Some("(a value of 3000001 bytes)".into()))));
    }
    let Reply::NotMine(Holder::Foreign(Some(seen))) = b.release(&a) else { panic!() };
    assert_eq!(seen.len(), 256);
    assert!(matches!(b.join(&a, 0), Reply::Foreign { .. }));
}

#[test]
fn a_renewal_lengthens_confirms_and_never_shortens() {
    let mut b = Bench::new();
    let (a, w) = (Who::new("A"), Who::new("A"));
    b.take(&a);
    let Reply::Renewed { remaining_ms } = b.ask(&a, Op::Renew { lease_ms: 1000 }) else { panic!() };
    assert!(remaining_ms > 20_000 && b.life(b.name.key()) > 20_000);
    assert_eq!(b.ask(&a, Op::Renew { lease_ms: 90_000 }), Reply::Renewed { remaining_ms: 90_000 });
    assert!(b.life(b.name.key()) > 80_000);
    assert_eq!(b.ask(&w, Op::Renew { lease_ms: 1 }), Reply::NotMine(Holder::Acquisition(a.acquisition)));
    let place = b.queue(&w);
    assert!(matches!(b.release(&a), Reply::Released { next: Some(_) }));
    assert_eq!(b.score(&w), Some(place as f64 + 0.5));
    assert_eq!(b.ask(&w, Op::Renew { lease_ms: LEASE }), Reply::Renewed { remaining_ms: LEASE });
    assert_eq!(b.score(&w), None, "the claim is confirmed");
    let _: () = b.server.cmd(&["PERSIST", b.name.key()]);
    assert_eq!(b.ask(&w, Op::Renew { lease_ms: LEASE }), Reply::Renewed { remaining_ms: LEASE });
    assert!(b.life(b.name.key()) > 20_000);
}

#[test]
fn a_release_hands_the_lock_to_the_first_live_waiter_and_tells_it() {
    let mut b = Bench::new();
    let (a, dead, w) = (Who::new("A"), Who::new("nobody reads"), Who::new("W"));
    let first = b.take(&a);
    b.queue(&dead);
    let place = b.queue(&w);
    let mut messages = b.subscribe("W");
    assert_eq!(b.release(&a), Reply::Released { next: None });
    let [Push::HandOff { key, hand_off }] = &pushes(&mut *messages, 1)[..] else { panic!() };
    assert_eq!((key.as_str(), hand_off.acquisition), (b.name.key(), w.acquisition));
    assert!(hand_off.token > place && hand_off.token > first);
    assert_eq!(b.value(), Some(w.acquisition.to_string()));
    assert!((1..=3000).contains(&b.life(b.name.key())), "the claim lease");
    assert_eq!(b.waiting(), [(b.request(&w, Op::Inspect).member(), place as f64 + 0.5)]);
    // The offered waiter joins instead of renewing: its mark goes, and the queue with it.
    let Reply::Taken { token } = b.join(&w, place) else { panic!() };
    assert!(token > hand_off.token && b.waiting().is_empty() && b.life(b.name.key()) > 20_000);
    assert_eq!(b.release(&w), Reply::Released { next: None });
    assert!(b.server.keys().is_empty());
    assert!(pushes_so_far(&mut *messages).is_empty());
}

#[test]
fn a_waiter_of_the_releasing_locker_is_named_by_the_reply_whatever_its_mark() {
    let mut b = Bench::new();
    let (a, w) = (Who::new("A"), Who::new("A"));
    b.take(&a);
    let place = b.queue(&w);
    let mut messages = b.subscribe("A");
    let _: () = b.server.cmd(&["ZADD", b.name.waiters(), &format!("{place}.5"), &b.request(&w, Op::Inspect).member()]);
    let Reply::Released { next: Some(HandOff { acquisition, token }) } = b.release(&a) else { panic!() };
    assert!(acquisition == w.acquisition && token > place);
    assert_eq!((b.value(), b.score(&w)), (Some(w.acquisition.to_string()), Some(place as f64 + 0.5)));
    assert!(pushes_so_far(&mut *messages).is_empty());
    // A re-check of another that queues restores its place and clears a mark.
    let v = Who::new("V");
    b.queue(&v);
    let _: () = b.server.cmd(&["ZADD", b.name.waiters(), &format!("{place}.5"), &b.request(&v, Op::Inspect).member()]);
    assert!(matches!(b.join(&v, place), Reply::Queued { .. }));
    assert_eq!(b.score(&v), Some(place as f64));
}

#[test]
fn a_marked_waiter_of_another_locker_is_dropped_with_its_lockers_others_and_told_once() {
    let mut b = Bench::new();
    let a = Who::new("A");
    b.take(&a);
    let stopped: Vec<Who> = (0..3).map(|_| Who::new("stopped")).collect();
    let w = Who::new("W");
    let place = b.queue(&stopped[0]);
    b.queue(&stopped[1]);
    b.queue(&w);
    b.queue(&stopped[2]);
    let mut told = b.subscribe("stopped");
    let mut messages = b.subscribe("W");
    let _: () =
        b.server.cmd(&["ZADD", b.name.waiters(), &format!("{place}.5"), &b.request(&stopped[0], Op::Inspect).member()]);
    assert_eq!(b.release(&a), Reply::Released { next: None });
    assert_eq!(pushes_so_far(&mut *told), [Push::Dropped { key: b.name.key().into() }]);
    assert!(matches!(&pushes(&mut *messages, 1)[..], [Push::HandOff { .. }]));
    assert_eq!(b.waiting().len(), 1, "also the one behind the waiter that got it");
    assert_eq!(b.value(), Some(w.acquisition.to_string()));
}

#[test]
fn dead_waiters_go_in_batches_with_the_lock_still_held() {
    let mut b = Bench::new();
    let a = Who::new("A");
    // The releaser's own seat at the front is not counted.
    b.take(&Who::new("other"));
    b.queue(&a);
    for i in 0..2 * RELEASE_BATCH + 1 {
        b.queue(&Who::new(&format!("dead{i}")));
    }
    let _: () = b.server.cmd(&["SET", b.name.key(), &a.acquisition.to_string(), "PX", "30000"]);
    assert_eq!(b.release(&a), Reply::Again);
    assert_eq!((b.waiting().len(), b.value()), (RELEASE_BATCH + 1, Some(a.acquisition.to_string())));
    assert_eq!(b.release(&a), Reply::Again);
    assert_eq!(b.waiting().len(), 1);
    assert_eq!(b.release(&a), Reply::Released { next: None });
    assert!(b.server.keys().is_empty());
}

#[test]
fn what_is_no_waiter_is_removed_from_the_queue() {
    let mut b = Bench::new();
    let (a, w) = (Who::new("A"), Who::new("W"));
    let token = b.take(&a);
    let good = w.acquisition.to_string();
    let garbage = ["x".into(), "@@".into(), format!("{good}@0@W"), format!("{good}@3000@"), "no:1@3000@W".to_owned()];
    for (i, member) in garbage.iter().chain([&format!("{good}@9999999999999999@W")]).enumerate() {
        let _: () = b.server.cmd(&["ZADD", b.name.waiters(), &i.to_string(), member]);
    }
    b.join(&w, token + 5);
    let mut messages = b.subscribe("W");
    assert_eq!(b.release(&a), Reply::Released { next: None });
    assert!(matches!(&pushes(&mut *messages, 1)[..], [Push::HandOff { .. }]));
    assert_eq!(b.waiting().len(), 1);
    // A queue of another type: there is nobody to hand the lock to.
    let _: () = b.server.cmd(&["SET", b.name.waiters(), "x"]);
    assert_eq!(b.release(&w), Reply::Released { next: None });
    assert_eq!(b.server.cmd::<String>(&["GET", b.name.waiters()]), "x");
}

#[test]
fn leaving_keeps_a_lock_handed_over_in_that_instant_and_leaves_the_queue_otherwise() {
    let mut b = Bench::new();
    let (a, w) = (Who::new("A"), Who::new("A"));
    b.take(&a);
    b.queue(&w);
    assert_eq!(b.ask(&w, Op::Leave { lease_ms: LEASE }), Reply::NotMine(Holder::Acquisition(a.acquisition)));
    assert!(b.waiting().is_empty());
    b.queue(&w);
    assert_eq!(b.ask(&w, Op::Release { leave: false }), Reply::NotMine(Holder::Acquisition(a.acquisition)));
    assert!(b.score(&w).is_some(), "a release does not leave");
    assert_eq!(b.ask(&w, Op::Release { leave: true }), Reply::NotMine(Holder::Acquisition(a.acquisition)));
    assert!(b.waiting().is_empty(), "cancel and close do");
    b.queue(&w);
    let Reply::Released { next: Some(HandOff { token: handed, .. }) } = b.release(&a) else { panic!() };
    let Reply::Taken { token } = b.ask(&w, Op::Leave { lease_ms: LEASE }) else { panic!() };
    assert!(token > handed && b.waiting().is_empty() && b.life(b.name.key()) > 20_000);
    let _: () = b.server.cmd(&["PEXPIRE", b.name.key(), "90000"]);
    assert!(matches!(b.ask(&w, Op::Leave { lease_ms: LEASE }), Reply::Taken { .. }));
    assert!(b.life(b.name.key()) > 80_000);
    assert_eq!(b.ask(&w, Op::Release { leave: true }), Reply::Released { next: None });
    assert_eq!(b.ask(&w, Op::Leave { lease_ms: LEASE }), Reply::NotMine(Holder::Nobody));
    assert!(b.server.keys().is_empty());
}

#[test]
fn with_memory_full_a_release_hands_on_and_queueing_fails_clean() {
    let mut b = Bench::new();
    let (a, w, v) = (Who::new("A"), Who::new("W"), Who::new("V"));
    b.take(&a);
    let place = b.queue(&w);
    let mut messages = b.subscribe("W");
    b.fill();
    let Reply::Error(error) = b.ask(&v, Op::Try { lease_ms: LEASE }) else { panic!() };
    assert_eq!(error.class, ErrorClass::Memory);
    for place in [0, place + 9] {
        let Reply::Unqueued { error } = b.join(&v, place) else { panic!() };
        assert!(error.class == ErrorClass::Memory && error.text.contains("OOM"), "{error:?}");
    }
    assert_eq!(b.score(&v), None);
    assert!(matches!(b.ask(&v, Op::Join { lease_ms: 1, place: 0, queue: false }), Reply::Held { .. }));
    assert!(matches!(b.ask(&a, Op::Renew { lease_ms: 90_000 }), Reply::Renewed { .. }));
    assert_eq!(b.release(&a), Reply::Released { next: None });
    assert!(matches!(&pushes(&mut *messages, 1)[..], [Push::HandOff { .. }]));
    assert!(matches!(b.ask(&w, Op::Leave { lease_ms: LEASE }), Reply::Taken { .. }));
    assert_eq!(b.release(&w), Reply::Released { next: None });
    // A join takes a free lock all the same, and a new connection lifts the counter.
    assert!(matches!(b.join(&v, 0), Reply::Taken { .. }));
    b.connection = b.store.connect(TOKEN_FLOOR * 2).unwrap();
    assert!(b.server.cmd::<u64>(&["GET", FENCE]) >= TOKEN_FLOOR * 2);
    assert_eq!(b.release(&v), Reply::Released { next: None });
    assert!(b.server.keys().is_empty());
}

#[test]
fn a_lost_counter_is_lifted_by_the_scripts_and_shows_in_a_try() {
    let mut b = Bench::new();
    let a = Who::new("A");
    let before = b.take(&a);
    let _: () = b.server.cmd(&["FLUSHALL"]);
    assert_eq!(b.ask(&a, Op::Try { lease_ms: LEASE }), Reply::Taken { token: 1 });
    let Reply::Taken { token } = b.join(&a, 0) else { panic!() };
    assert!(token > before, "{token} after {before}");
    let _: () = b.server.cmd(&["DEL", FENCE]);
    let Reply::Queued { place, .. } = b.join(&Who::new("W"), 0) else { panic!() };
    assert!(place > token);
}

#[test]
fn a_new_connection_lifts_the_counter_above_clock_tokens_and_another_servers_life() {
    let b = Bench::new();
    let counter = || b.server.cmd::<u64>(&["GET", FENCE]);
    let now: (u64, u64) = b.server.cmd(&["TIME"]);
    let clock = now.0 * 1_000_000 + now.1;
    assert!(counter() > clock - 60_000_000 && counter() < clock + 60_000_000);
    let _: () = b.server.cmd(&["SET", FENCE, "5", "EX", "100"]);
    drop(b.store.connect(0).unwrap());
    assert!(counter() >= clock);
    assert_eq!(b.server.cmd::<i64>(&["TTL", FENCE]), -1, "it never expires");
    let high = clock + 1_000_000_000_000;
    drop(b.store.connect(high).unwrap());
    assert_eq!(counter(), high);
    let _: () = b.server.cmd(&["FLUSHALL"]);
    drop(b.store.connect(0).unwrap());
    assert_eq!(counter(), high, "the store remembers");
    let other = RedisStore::new(config(b.server.port()));
    drop(other.connect(0).unwrap());
    // Another life of the server: it cannot be known what was drawn there.
    let _: () = b.server.cmd(&["REPLICAOF", "127.0.0.1", "1"]);
    let _: () = b.server.cmd(&["REPLICAOF", "NO", "ONE"]);
    drop(b.store.connect(0).unwrap());
    assert_eq!(counter(), high + (1 << 24));
    drop(b.store.connect(0).unwrap());
    drop(other.connect(0).unwrap());
    assert_eq!(counter(), high + (1 << 24), "what several lockers add does not add up");
}

/// What waits for copies waits for those of a write of its own connection.
#[test]
fn a_renewal_is_written_also_where_it_lengthens_nothing() {
    let mut b = Bench::new();
    let a = Who::new("A");
    assert!(matches!(b.join(&a, 0), Reply::Taken { .. }));
    let changes = |b: &Bench| {
        let info: String = b.server.cmd(&["INFO", "persistence"]);
        let count = info.lines().find_map(|line| line.strip_prefix("rdb_changes_since_last_save:"));
        count.unwrap().trim().parse::<u64>().unwrap()
    };
    let before = changes(&b);
    let Reply::Renewed { remaining_ms } = b.ask(&a, Op::Renew { lease_ms: LEASE / 2 }) else { panic!() };
    assert!(remaining_ms > LEASE / 2, "never shortened");
    assert!(changes(&b) > before);
}

#[test]
fn where_there_are_replicas_the_counter_is_lifted_once_in_each_life_of_a_primary() {
    let primary = RedisServer::start(&[]);
    let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &primary.port().to_string()]);
    let counter = |server: &RedisServer| server.cmd::<u64>(&["GET", FENCE]);
    // Each time a locker that knows nothing.
    let connect = |server: &RedisServer| drop(RedisStore::new(config(server.port())).connect(0).unwrap());
    let copied = || {
        let begun = Instant::now();
        while replica.cmd::<Option<u64>>(&["GET", FENCE]) != Some(counter(&primary)) {
            assert!(begun.elapsed() < Duration::from_secs(20), "not copied");
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    let begun = Instant::now();
    while !primary.cmd::<String>(&["INFO", "replication"]).contains("state=online") {
        assert!(begun.elapsed() < Duration::from_secs(20), "no replica");
        std::thread::sleep(Duration::from_millis(2));
    }
    connect(&primary);
    let first = counter(&primary);
    connect(&primary);
    assert_eq!(counter(&primary), first, "the clock has gone on, the counter has not");
    // As after a failover a moment ago: ahead of the clock.
    let ahead = first + 100_000_000;
    let _: () = primary.cmd(&["SET", FENCE, &ahead.to_string()]);
    copied();
    let _: () = replica.cmd(&["REPLICAOF", "NO", "ONE"]);
    connect(&replica);
    assert_eq!(counter(&replica), ahead + (1 << 24));
    connect(&replica);
    connect(&primary);
    assert_eq!((counter(&replica), counter(&primary)), (ahead + (1 << 24), ahead), "neither is lifted again");
    // The counter is lost: the clock is all that is left.
    let _: () = replica.cmd(&["DEL", FENCE]);
    connect(&replica);
    assert!((first..ahead).contains(&counter(&replica)));
    let _: () = replica.cmd(&["FLUSHALL"]);
    connect(&replica);
    assert!((first..ahead).contains(&counter(&replica)));
    assert_eq!(replica.cmd::<u64>(&["EXISTS", ":dlock:fence:life"]), 0, "no replicas, no life");
}

#[test]
fn scripts_forgotten_by_the_server_are_sent_again_inside_the_call() {
    let mut b = Bench::new();
    let (a, w) = (Who::new("A"), Who::new("W"));
    let _: () = b.server.cmd(&["SCRIPT", "FLUSH"]);
    assert!(matches!(b.join(&a, 0), Reply::Taken { .. }));
    let _: () = b.server.cmd(&["SCRIPT", "FLUSH"]);
    // Several in flight, in order, mixed with commands that are no scripts.
    let queued = Op::Join { lease_ms: LEASE, place: 0, queue: true };
    let plan = [
        (&a, Op::Renew { lease_ms: LEASE }),
        (&w, queued),
        (&w, Op::Inspect),
        (&w, Op::Release { leave: true }),
        (&a, Op::Release { leave: false }),
    ];
    for (i, (who, op)) in plan.iter().enumerate() {
        let request = b.request(who, *op);
        b.connection.push(RequestId(100 + i as u64), request);
    }
    assert_eq!(b.connection.pending(), (100..105).map(RequestId).collect::<Vec<_>>());
    let mut replies = collect(&mut *b.connection, 5);
    replies.sort_by_key(|(id, _)| *id);
    assert!(matches!(replies[0].1, Reply::Renewed { .. }));
    assert!(matches!(replies[1].1, Reply::Queued { .. }));
    assert_eq!(replies[2].1, Reply::Holder(Holder::Acquisition(a.acquisition)));
    assert_eq!(replies[3].1, Reply::NotMine(Holder::Acquisition(a.acquisition)));
    assert_eq!(replies[4].1, Reply::Released { next: None });
    assert!(b.server.keys().is_empty());
}

#[test]
fn many_requests_in_flight_are_answered_in_order_also_where_they_do_not_fit_a_socket() {
    let mut b = Bench::new();
    let name = Arc::new(Name::new(&"n".repeat(512), &"g".repeat(512)).unwrap());
    b.name = name;
    let a = Who::new("A");
    let request = b.request(&a, Op::Inspect);
    const MANY: u64 = 20_000;
    for i in 0..MANY {
        b.connection.push(RequestId(i), request.clone());
    }
    let replies = collect(&mut *b.connection, MANY as usize);
    assert!(
        replies
            .iter()
            .enumerate()
            .all(|(i, (id, reply))| { id.0 == i as u64 && *reply == Reply::Holder(Holder::Nobody) })
    );
}

#[test]
fn queues_and_counters_are_in_the_locks_slot() {
    let b = Bench::new();
    assert_eq!(slot::slot(b.name.waiters()), slot::slot(b.name.key()));
}

#[test]
fn a_subscription_pongs_in_order_and_ignores_what_it_does_not_know() {
    let b = Bench::new();
    let mut messages = b.subscribe("chan");
    let _: i64 = b.server.cmd(&["PUBLISH", "chan", "garbage"]);
    let _: i64 = b.server.cmd(&["PUBLISH", "chan", "handoff nobody 1 g:n"]);
    assert_eq!(b.server.cmd::<i64>(&["PUBLISH", "chan", "dropped g:n"]), 1);
    messages.ping(1).unwrap();
    messages.ping(u64::MAX).unwrap();
    let expected = [Push::Dropped { key: "g:n".into() }, Push::Pong { number: 1 }, Push::Pong { number: u64::MAX }];
    assert_eq!(pushes(&mut *messages, 3), expected);
    let _: () = b.server.cmd(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    let (mut none, deadline) = (Vec::new(), Instant::now() + WAIT);
    let error = loop {
        assert!(Instant::now() < deadline);
        if let Err(error) = messages.receive(&mut none) {
            break error;
        }
    };
    assert!(error.to_string().contains(&format!("127.0.0.1:{}", b.server.port())), "{error}");
}

#[test]
fn a_connection_that_was_cut_names_what_is_lost() {
    let mut b = Bench::new();
    let request = b.request(&Who::new("A"), Op::Inspect);
    let _: () = b.server.cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    b.connection.push(RequestId(1), request.clone());
    b.connection.push(RequestId(2), request);
    let (mut replies, deadline) = (Vec::new(), Instant::now() + WAIT);
    let error = loop {
        assert!(Instant::now() < deadline && replies.is_empty());
        if let Err(error) = b.connection.turn(WAIT, &mut replies) {
            break error;
        }
    };
    assert!(error.to_string().starts_with(&format!("127.0.0.1:{}: ", b.server.port())), "{error}");
    assert_eq!(b.connection.pending(), [RequestId(1), RequestId(2)]);
    assert_eq!(b.connection.turn(WAIT, &mut replies), Err(error), "it stays dead");
}

#[test]
fn a_silent_server_is_noticed_after_the_response_timeout() {
    let b = Bench::new();
    let response_timeout = Duration::from_millis(100);
    let mut connection = RedisStore::new(Config { response_timeout, ..config(b.server.port()) }).connect(0).unwrap();
    let _: () = b.server.cmd(&["CLIENT", "PAUSE", "2000", "ALL"]);
    connection.push(RequestId(1), b.request(&Who::new("A"), Op::Try { lease_ms: LEASE }));
    let (mut replies, begin) = (Vec::new(), Instant::now());
    let error = loop {
        if let Err(error) = connection.turn(Duration::from_millis(7), &mut replies) {
            break error;
        }
    };
    assert!(begin.elapsed() >= response_timeout && begin.elapsed() < WAIT);
    assert!(error.to_string().contains("no answer within 100 ms"), "{error}");
}

#[test]
fn a_turn_returns_when_its_wait_is_over() {
    let b = Bench::new();
    let mut connection = b.store.connect(0).unwrap();
    let _: () = b.server.cmd(&["CLIENT", "PAUSE", "1000", "ALL"]);
    connection.push(RequestId(1), b.request(&Who::new("A"), Op::Try { lease_ms: LEASE }));
    let mut replies = Vec::new();
    for wait in [0, 3, 15, 30] {
        let begin = Instant::now();
        connection.turn(Duration::from_millis(wait), &mut replies).unwrap();
        assert!(replies.is_empty() && begin.elapsed() < Duration::from_millis(600), "{wait} {:?}", begin.elapsed());
    }
    assert!(connection.fd().is_some() && !connection.wants_write());
    assert_eq!(collect(&mut *connection, 1)[0].0, RequestId(1));
}

#[test]
fn a_unix_socket_and_a_database_serve_as_well() {
    let b = Bench::new();
    let address = Address::Unix(b.server.socket_path());
    let store = RedisStore::new(Config { address, database: 3, ..config(0) });
    assert_eq!(store.address(), b.server.socket_path().to_str().unwrap());
    let mut connection = store.connect(0).unwrap();
    connection.push(RequestId(1), b.request(&Who::new("A"), Op::Try { lease_ms: LEASE }));
    assert!(matches!(collect(&mut *connection, 1)[0].1, Reply::Taken { .. }));
    assert_eq!(b.value(), None, "database 0");
    let name: String = b.server.cmd(&["CLIENT", "LIST"]);
    assert!(name.contains("name=dlock") && name.contains("db=3"), "{name}");
}

/// A peer that takes one connection, says this, and closes when the other side has.
fn says_and_closes(text: &str) -> (u16, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, text) = (listener.local_addr().unwrap().port(), text.to_owned());
    let peer = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        peer.write_all(text.as_bytes()).unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        let _ = std::io::copy(&mut peer, &mut std::io::sink());
    });
    (port, peer)
}

#[test]
fn each_refusal_of_the_handshake_is_told_apart_and_names_the_address() {
    let mut seen = Vec::new();
    let mut expect = |text: String, address: &str, words: &[&str]| {
        assert!(text.starts_with(&format!("{address}: ")), "{text}");
        for word in words {
            assert!(text.contains(word), "{text} lacks {word}");
        }
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.len() < 240, "{text}");
        println!("{text}");
        seen.push(text.split_once(": ").unwrap().1.to_owned());
    };
    let at = |port: u16| format!("127.0.0.1:{port}");

    let port = free_port();
    expect(refusal(config(port)), &at(port), &["connection refused"]);
    let host = "no-such-host.invalid".to_owned();
    let address = Address::Tcp { host, port: 1 };
    expect(refusal(Config { address, ..config(1) }), "no-such-host.invalid:1", &["cannot resolve"]);
    let address = Address::Unix("/nonexistent/socket".into());
    expect(refusal(Config { address, ..config(1) }), "/nonexistent/socket", &["no such socket"]);

    // Accepts (by its backlog) and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let response_timeout = Duration::from_millis(100);
    expect(refusal(Config { response_timeout, ..config(port) }), &at(port), &["did not answer within 100 ms"]);

    let denied = "-DENIED Redis is running in protected mode because protected mode is enabled and no password is set";
    for (says, words) in [
        ("HTTP/1.1 400 Bad Request\r\n\r\n", ["does not speak the Redis protocol", "HTTP/1.1 400"]),
        (&format!("{denied}{}\r\n", " for the default user.".repeat(50)), ["protected mode", "DENIED"]),
        (
            "+OK\r\n+a\r\n+a\r\n+a\r\n+a\r\n-LOADING Redis is loading the dataset\r\n",
            ["is loading its data", "LOADING"],
        ),
        ("+OK\r\n", ["closed it without an answer", ""]),
    ] {
        let (port, peer) = says_and_closes(says);
        expect(refusal(config(port)), &at(port), &words);
        peer.join().unwrap();
    }

    let server = RedisServer::start(&["--requirepass", "secret1"]);
    let address = at(server.port());
    expect(refusal(config(server.port())), &address, &["needs a password", "NOAUTH"]);
    let password = Some("hunter2".to_owned());
    expect(refusal(Config { password, ..config(server.port()) }), &address, &["authentication failed", "WRONGPASS"]);
    let right = Config { password: Some("secret1".to_owned()), ..config(server.port()) };
    assert!(RedisStore::new(right.clone()).connect(0).is_ok());
    assert!(RedisStore::new(right.clone()).subscribe("c", Arc::new(|| ())).is_ok());
    assert!(RedisStore::new(config(server.port())).subscribe("c", Arc::new(|| ())).is_err());
    expect(refusal(Config { database: 99, ..right.clone() }), &address, &["database 99", "out of range"]);
    let _: () = server.cmd(&["ACL", "SETUSER", "bob", "on", ">hunter2", "~*", "&*", "+@all", "-@scripting"]);
    let (username, password) = (Some("bob".to_owned()), Some("hunter2".to_owned()));
    let bob = Config { username, password, ..config(server.port()) };
    expect(refusal(bob.clone()), &address, &["refuses scripts", "NOPERM"]);
    let _: () = server.cmd(&["ACL", "SETUSER", "bob", "+@all", "resetchannels"]);
    let store = RedisStore::new(bob);
    assert!(store.connect(0).is_ok());
    let text = store.subscribe("c", Arc::new(|| ())).err().unwrap().to_string();
    expect(text, &address, &["refuses messages", "NOPERM"]);

    let primary = RedisServer::start(&[]);
    let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &primary.port().to_string()]);
    let deadline = Instant::now() + WAIT;
    while !replica.cmd::<String>(&["INFO", "replication"]).contains("master_link_status:up") {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    expect(refusal(config(replica.port())), &at(replica.port()), &["read-only replica", "READONLY"]);

    let full = RedisServer::start(&[]);
    let mut only = full.connection();
    let _: () = redis::cmd("CONFIG").arg(&["SET", "maxclients", "1"]).query(&mut only).unwrap();
    expect(refusal(config(full.port())), &at(full.port()), &["max number of clients"]);

    let cluster = RedisServer::start(&["--cluster-enabled", "yes"]);
    expect(refusal(config(cluster.port())), &at(cluster.port()), &["cluster"]);

    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 16, "each has its own words: {seen:#?}");
}
