//! `replicas=N` and `aof=1`: an acquisition and a renewal count only when so many replicas have them. What is answered, and
//! how soon, where they do not.

#[path = "support/api.rs"]
mod api;
#[path = "conformance/bench.rs"]
#[allow(dead_code)]
mod bench;
#[path = "support/eventually.rs"]
#[allow(dead_code)]
mod eventually;
#[path = "support/redis_server.rs"]
#[allow(dead_code)]
mod redis_server;
#[path = "conformance/scenarios.rs"]
#[allow(dead_code)]
mod scenarios;
#[path = "conformance/target.rs"]
#[allow(dead_code)]
mod target;

use std::path::Path;
use std::time::{Duration, Instant};

use api::{locker, options};
use dlock::store::redis::{Address, Config, Copies, RedisStore};
use dlock::{Lock, Locker, Status, WAIT_FOREVER};
use eventually::eventually;
use redis_server::RedisServer;

/// How long a step waits for its copies here.
const WAIT_MS: u64 = 600;
/// That, the round trips, and a busy machine.
const BOUND: Duration = Duration::from_millis(WAIT_MS + 2_000);

/// A primary and its replica.
struct Pair {
    primary: RedisServer,
    replica: RedisServer,
}

impl Pair {
    fn new() -> Self {
        Self::of(&RedisServer::default_program(), &[])
    }

    fn of(program: &Path, arguments: &[&str]) -> Self {
        let primary = RedisServer::start_program(program, arguments);
        let port = primary.port().to_string();
        let replica = RedisServer::start_program(program, &[&["--replicaof", "127.0.0.1", &port], arguments].concat());
        let this = Pair { primary, replica };
        this.wait_for_replica();
        this
    }

    fn wait_for_replica(&self) {
        // Before that, nothing is counted that a replica could lack.
        let online = || self.primary.cmd::<String>(&["INFO", "replication"]).contains("state=online");
        eventually("the replica is connected", online);
        let answers = || {
            let mut both = redis::pipe();
            both.cmd("SET").arg("x").arg("y").cmd("DEL").arg("x").cmd("WAIT").arg(1).arg(500);
            let (_, _, count): (String, u64, u64) = both.query(&mut self.primary.connection()).unwrap();
            count == 1
        };
        eventually("the replica has what is written", answers);
    }

    fn signal(&self, signal: i32) {
        // SAFETY: a child of ours that was not yet waited for.
        assert_eq!(unsafe { libc::kill(self.replica.pid() as i32, signal) }, 0);
    }

    fn stop(&self) {
        self.signal(libc::SIGSTOP);
    }

    fn go_on(&self) {
        self.signal(libc::SIGCONT);
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}?replicas=1&replicas_timeout_ms={WAIT_MS}", self.primary.port())
    }

    fn locker(&self, lease_ms: u64) -> Locker {
        let mut options = options(&self.url());
        options.set_lease_ms(lease_ms).unwrap();
        Locker::new(&options).unwrap()
    }

    /// Who holds that lock, as the replica has it.
    fn holder_on_replica(&self, name: &str) -> Option<String> {
        self.replica.cmd(&["GET", &format!("g:{name}")])
    }

    /// Nothing is held, and no release is under way.
    fn wait_empty(&self) {
        eventually("what was not acquired is given up", || self.primary.keys().is_empty());
    }
}

fn lock(locker: &Locker, name: &str) -> Lock {
    locker.lock(name, "g").unwrap()
}

fn assert_refused<T: std::fmt::Debug>(answer: dlock::Result<T>, begun: Instant) {
    let error = answer.unwrap_err();
    assert_eq!(error.status, Status::Locker, "{error}");
    let words = format!("NOREPLICAS only 0 of 1 replicas had the lock after {WAIT_MS} ms");
    assert!(error.message.contains(&words), "{error}");
    assert!(begun.elapsed() >= Duration::from_millis(WAIT_MS) && begun.elapsed() < BOUND, "{:?}", begun.elapsed());
}

#[test]
fn what_the_replica_does_not_have_is_not_acquired_and_not_held() {
    let pair = Pair::new();
    let locker = pair.locker(30_000);
    let one = lock(&locker, "n");
    one.acquire().unwrap();
    assert!(pair.holder_on_replica("n").unwrap().starts_with(&one.id().unwrap().to_string()));
    one.release().unwrap();
    pair.stop();
    let queue = locker.queue().unwrap();
    let submitted = || {
        queue.submit_acquire(&one, WAIT_FOREVER, 1)?;
        queue.wait(1, 20_000)?.remove(0).error.map_or(Ok(()), Err)
    };
    let ways: [&dyn Fn() -> dlock::Result<()>; 5] = [
        &|| one.acquire(),
        &|| one.acquire_timeout(20_000),
        &|| one.try_acquire().map(drop),
        &|| one.acquire_retry_backoff(3, 10),
        &submitted,
    ];
    for way in ways {
        let begun = Instant::now();
        assert_refused(way(), begun);
        assert_eq!(one.fencing_token().unwrap_err().status, Status::UnlockUnlocked);
        pair.wait_empty();
    }
    // A deadline is kept, though the connection says nothing for longer.
    let begun = Instant::now();
    assert_eq!(one.acquire_timeout(50).unwrap_err().status, Status::LockTimeout);
    assert!(begun.elapsed() < Duration::from_millis(50 + 200), "{:?}", begun.elapsed());
    pair.wait_empty();
    pair.go_on();
    eventually("the replica is back", || one.acquire().is_ok());
    one.release().unwrap();
}

/// The message is no acquisition: the waiter joins, and it is the join's copies that count.
#[test]
fn a_hand_off_counts_when_the_replica_has_the_waiters_own_step() {
    let pair = Pair::new();
    let lockers = [pair.locker(30_000), pair.locker(30_000)];
    for there in &lockers {
        let (one, two) = (lock(&lockers[0], "n"), lock(there, "n"));
        let take_turns = || {
            one.acquire().unwrap();
            let token = one.fencing_token().unwrap();
            std::thread::scope(|scope| {
                let waiter = scope.spawn(|| two.acquire_timeout(20_000));
                eventually("one waits", || pair.primary.keys().len() == 2);
                one.release().unwrap();
                waiter.join().unwrap().unwrap();
            });
            assert!(pair.holder_on_replica("n").unwrap().starts_with(&two.id().unwrap().to_string()));
            assert!(two.fencing_token().unwrap() > token);
            two.release().unwrap();
        };
        take_turns();
        // The lock goes over while the replica stands still: it is not acquired.
        one.acquire().unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| (two.acquire_timeout(20_000), Instant::now()));
            eventually("one waits", || pair.primary.keys().len() == 2);
            pair.stop();
            one.release().unwrap();
            let begun = Instant::now();
            let (answer, _) = waiter.join().unwrap();
            assert_refused(answer, begun);
        });
        pair.wait_empty();
        pair.go_on();
        eventually("the replica is back", || one.acquire().is_ok());
        one.release().unwrap();
        take_turns();
    }
}

#[test]
fn a_renewal_without_copies_lengthens_nothing_and_the_holder_knows_before_its_lease_ends() {
    let pair = Pair::new();
    let locker = pair.locker(2_000);
    let (one, queue) = (lock(&locker, "n"), locker.queue().unwrap());
    one.acquire().unwrap();
    one.watch(&queue, 7).unwrap();
    // Held on past its first lease, by renewals that have copies.
    let begun = Instant::now();
    eventually("the lease is renewed", || begun.elapsed() > Duration::from_millis(2_500));
    assert!(one.remaining_ms().unwrap() > 0);
    assert!(pair.holder_on_replica("n").is_some());
    pair.stop();
    let stopped = Instant::now();
    let lost = queue.wait(1, 20_000).unwrap();
    assert_eq!((lost[0].user_data, lost[0].error.as_ref().unwrap().status), (7, Status::Lost));
    // Behind the last renewal that had copies; the key lives on, since the primary was told of more.
    assert!(stopped.elapsed() < Duration::from_millis(2_000), "{:?}", stopped.elapsed());
    assert_eq!(one.fencing_token().unwrap_err().status, Status::Lost);
    let error = one.extend(5_000).unwrap_err();
    assert_eq!(error.status, Status::Lost, "{error}");
    pair.go_on();
    assert_eq!(one.release().unwrap_err().status, Status::Lost);
    eventually("the replica is back", || one.acquire().is_ok());
    one.release().unwrap();
}

#[test]
fn an_extension_without_copies_is_refused_and_the_lock_stays_held() {
    let pair = Pair::new();
    let locker = pair.locker(30_000);
    let one = lock(&locker, "n");
    one.acquire().unwrap();
    pair.stop();
    let begun = Instant::now();
    assert_refused(one.extend(60_000), begun);
    let left = one.remaining_ms().unwrap();
    assert!(left > 20_000 && left < 30_000, "{left}");
    pair.go_on();
    eventually("the replica is back", || one.extend(60_000).is_ok());
    assert!(one.remaining_ms().unwrap() > 50_000);
    one.release().unwrap();
}

#[test]
fn what_many_threads_were_answered_is_on_the_replica_when_they_are() {
    let pair = Pair::new();
    let locker = pair.locker(30_000);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (pair, locker) = (&pair, &locker);
            scope.spawn(move || {
                let name = format!("n{}", thread % 6);
                let own = lock(locker, &name);
                for _ in 0..25 {
                    own.acquire_timeout(20_000).unwrap();
                    let holder = pair.holder_on_replica(&name).unwrap();
                    assert!(holder.starts_with(&own.id().unwrap().to_string()), "{holder}");
                    own.release().unwrap();
                }
            });
        }
    });
    assert!(pair.primary.keys().is_empty());
}

#[test]
fn copies_on_disk_are_asked_for_where_the_server_can_tell_and_what_is_missing_is_named() {
    let url = |server: &RedisServer, more: &str| format!("redis://127.0.0.1:{}?aof=1{more}", server.port());
    let mut told = 0;
    for program in target::servers() {
        let probe = RedisServer::start_program(&program, &[]);
        let knows = probe.try_cmd::<redis::Value>(&["WAITAOF", "0", "0", "1"]).is_ok();
        println!("{}: {knows}", probe.version());
        let locker = locker(&url(&probe, ""));
        if !knows {
            let Err(error) = locker.lock("n", "g") else { panic!("connected") };
            assert_eq!(error.status, Status::NotConnected);
            assert!(error.message.contains("the server has no command WAITAOF"), "{error}");
            continue;
        }
        told += 1;
        let error = lock(&locker, "n").acquire().unwrap_err();
        assert_eq!(error.status, Status::Locker);
        assert!(error.message.contains("appendonly is disabled"), "{error}");
        let pair = Pair::of(&program, &["--appendonly", "yes", "--appendfsync", "everysec"]);
        for more in ["", "&replicas=1"] {
            let locker = api::locker(&(url(&pair.primary, more) + "&replicas_timeout_ms=2500"));
            let one = lock(&locker, "n");
            one.acquire().unwrap();
            one.release().unwrap();
        }
        pair.stop();
        let locker = api::locker(&url(&pair.primary, "&replicas=1&replicas_timeout_ms=1500"));
        let error = lock(&locker, "n").acquire().unwrap_err();
        assert!(error.message.contains("only 0 of 1 replicas had the lock on disk after 1500 ms"), "{error}");
        pair.go_on();
    }
    let further = target::servers().len() > 1;
    assert!(told > 0 || !further, "Redis 7.2 and newer know the command");
}

/// A user who may not ask for copies is told so when connecting.
#[test]
fn the_right_to_wait_is_needed() {
    let pair = Pair::new();
    let _: String = pair.primary.cmd(&["ACL", "SETUSER", "billing", "on", ">word", "~*", "&*", "+@all", "-wait"]);
    let locker = locker(&pair.url().replace("://", "://billing:word@"));
    let Err(error) = locker.lock("n", "g") else { panic!("connected") };
    assert!(error.message.contains("the user may not run WAIT"), "{error}");
}

/// The suite of the conformance tests, but for what a hand-off's token is read from.
#[test]
fn every_step_is_answered_as_without() {
    let pair = Pair::new();
    let address = Address::Tcp { host: "127.0.0.1".into(), port: pair.primary.port() };
    let copies = Copies { replicas: 1, on_disk: false, timeout: Duration::from_secs(5) };
    let timeout = Duration::from_secs(20);
    let config = Config { copies: Some(copies), response_timeout: timeout, ..Config::new(address) };
    for scenario in [
        scenarios::every_step_in_every_state_of_the_key,
        scenarios::foreign_keys_of_every_type_are_never_touched,
        scenarios::rule_5_a_new_connection_lifts_the_counter,
        scenarios::rule_9_leaving,
        scenarios::rule_10_a_repeated_release,
        scenarios::invariant_9_nothing_is_left_but_the_counter,
        scenarios::a_burst_of_requests_is_answered_in_order,
    ] {
        let _: String = pair.primary.cmd(&["FLUSHALL"]);
        let target = target::reached(RedisStore::new(config.clone()), pair.primary.connection(), None);
        scenario(&mut bench::Bench::new(target));
    }
}
