//! A store under test, with a back door: what other programs, operators and time do to its keys.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use dlock::store::memory::MemoryStore;
use dlock::store::name::FENCE;
use dlock::store::redis::{Address, Config, RedisStore};
use dlock::store::{Holder, Name, Store};

use crate::bench::PATIENCE;
use crate::redis_server::RedisServer;

/// What another program may put under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(String),
    List,
    Set,
    Hash,
    SortedSet,
    Stream,
}

/// What is under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Nothing,
    Text(String),
    OtherType,
}

/// A waiter in a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    pub member: String,
    pub place: u64,
    pub marked: bool,
}

/// All that is stored for one lock.
#[derive(Clone, Debug)]
pub struct LockState {
    pub content: Content,
    pub life_ms: Option<u64>,
    pub queue: Vec<Queued>,
    pub queue_life_ms: Option<u64>,
}

/// All that is stored for some locks, every key, and the counter.
pub struct Snapshot {
    pub locks: Vec<LockState>,
    pub keys: Vec<String>,
    pub counter: Option<String>,
}

/// A store and its back door.
pub trait Target {
    fn store(&self) -> &dyn Store;
    fn put(&mut self, key: &str, value: Value);
    fn remove(&mut self, key: &str);
    fn expire_in(&mut self, key: &str, ms: u64);
    fn content(&mut self, key: &str) -> Content;
    /// `None`: there is no such key, or it never expires.
    fn remaining_ms(&mut self, key: &str) -> Option<u64>;
    fn queue(&mut self, waiters: &str) -> Vec<Queued>;
    /// `None`: there is no such queue.
    fn queue_life_ms(&mut self, waiters: &str) -> Option<u64>;
    /// Returns when nobody is subscribed to the channel any more.
    fn await_unsubscribed(&mut self, channel: &str);
    fn keys(&mut self) -> Vec<String>;
    fn flush(&mut self);

    /// All at once, since it is taken after every random step.
    fn snapshot(&mut self, names: &[Arc<Name>]) -> Snapshot {
        let lock = |name: &Arc<Name>| LockState {
            content: self.content(name.key()),
            life_ms: self.remaining_ms(name.key()),
            queue: self.queue(name.waiters()),
            queue_life_ms: self.queue_life_ms(name.waiters()),
        };
        Snapshot { locks: names.iter().map(lock).collect(), keys: self.keys(), counter: self.counter() }
    }

    /// `None`: the key is missing.
    fn counter(&mut self) -> Option<String> {
        match self.content(FENCE) {
            Content::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// A private `memory://`.
pub fn memory() -> Box<dyn Target> {
    Box::new(Memory(MemoryStore::open("")))
}

struct Memory(MemoryStore);

impl Target for Memory {
    fn store(&self) -> &dyn Store {
        &self.0
    }
    fn put(&mut self, key: &str, value: Value) {
        let text = if let Value::Text(text) = value { Some(text) } else { None };
        self.0.with_server(|server, _| server.set_foreign(key, text));
    }
    fn remove(&mut self, key: &str) {
        self.0.with_server(|server, _| server.remove(key));
    }
    fn expire_in(&mut self, key: &str, ms: u64) {
        self.0.with_server(|server, now_us| server.set_expiry(key, Some(now_us + ms * 1000)));
    }
    fn content(&mut self, key: &str) -> Content {
        if key == FENCE {
            return match self.0.with_server(|server, _| server.counter()) {
                Some(0) => Content::Nothing,
                Some(number) => Content::Text(number.to_string()),
                None => Content::OtherType,
            };
        }
        match self.0.with_server(|server, now_us| server.holder(now_us, key)) {
            Holder::Nobody => Content::Nothing,
            Holder::Acquisition(acquisition) => Content::Text(acquisition.to_string()),
            Holder::Foreign(Some(text)) => Content::Text(text),
            Holder::Foreign(None) => Content::OtherType,
        }
    }
    fn remaining_ms(&mut self, key: &str) -> Option<u64> {
        self.0.with_server(|server, now_us| server.remaining_ms(now_us, key))
    }
    fn queue(&mut self, waiters: &str) -> Vec<Queued> {
        let entries = self.0.with_server(|server, now_us| server.queue(now_us, waiters));
        let queued =
            entries.into_iter().map(|entry| Queued { member: entry.member, place: entry.place, marked: entry.marked });
        queued.collect()
    }
    fn queue_life_ms(&mut self, waiters: &str) -> Option<u64> {
        self.0.with_server(|server, now_us| server.queue_life_ms(now_us, waiters))
    }
    fn await_unsubscribed(&mut self, _channel: &str) {}
    fn keys(&mut self) -> Vec<String> {
        self.0.with_server(|server, now_us| server.keys(now_us))
    }
    fn flush(&mut self) {
        self.0.with_server(|server, _| server.flush());
    }
}

/// The servers to test with.
pub fn servers() -> Vec<PathBuf> {
    let named = std::env::var("DLOCK_TEST_SERVERS").unwrap_or_default();
    let further = named.split(':').filter(|path| !path.is_empty()).map(PathBuf::from);
    let mut all = vec![RedisServer::default_program()];
    all.extend(further.filter(|path| *path != all[0]).collect::<Vec<_>>());
    all
}

/// A server of that program, started for this test, and the Redis store on it.
pub fn server(program: &Path) -> Box<dyn Target> {
    let process = RedisServer::start_program(program, &[]);
    let address = Address::Tcp { host: "127.0.0.1".into(), port: process.port() };
    let config = Config { connect_timeout: PATIENCE, response_timeout: PATIENCE, ..Config::new(address) };
    let client = process.connection();
    reached(RedisStore::new(config), client, Some(process))
}

/// That store, and a connection to the server on which its locks are.
pub fn reached(store: RedisStore, client: redis::Connection, process: Option<RedisServer>) -> Box<dyn Target> {
    Box::new(Server { store, client, _process: process })
}

struct Server {
    store: RedisStore,
    client: redis::Connection,
    _process: Option<RedisServer>,
}

impl Server {
    fn ask<T: redis::FromRedisValue>(&mut self, command: &[&str]) -> T {
        let mut cmd = redis::cmd(command[0]);
        command[1..].iter().for_each(|argument| _ = cmd.arg(argument));
        cmd.query(&mut self.client).unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }
}

fn queued((member, score): (String, f64)) -> Queued {
    assert!(score.fract() == 0.0 || score.fract() == 0.5, "{member}: {score}");
    Queued { member, place: score as u64, marked: score.fract() != 0.0 }
}

/// Keys: of each lock its key and its queue, then the counter.
const SNAPSHOT: &str = "
local locks, names = {}, redis.call('KEYS', '*')
for i = 1, #KEYS - 1, 2 do
  local type = redis.call('TYPE', KEYS[i]).ok
  locks[#locks + 1] = {type, type == 'string' and redis.call('GET', KEYS[i]), redis.call('PTTL', KEYS[i]),
    redis.call('ZRANGE', KEYS[i + 1], 0, -1, 'WITHSCORES'), redis.call('PTTL', KEYS[i + 1])}
end
return {locks, names, redis.call('GET', KEYS[#KEYS])}";

/// Type, text, life, queue and the queue's life, as the script answers them.
type RawLock = (String, Option<String>, i64, Vec<(String, f64)>, i64);

impl Target for Server {
    fn store(&self) -> &dyn Store {
        &self.store
    }
    fn put(&mut self, key: &str, value: Value) {
        self.remove(key);
        let _: redis::Value = match &value {
            Value::Text(text) => self.ask(&["SET", key, text]),
            Value::List => self.ask(&["RPUSH", key, "x"]),
            Value::Set => self.ask(&["SADD", key, "x"]),
            Value::Hash => self.ask(&["HSET", key, "x", "y"]),
            Value::SortedSet => self.ask(&["ZADD", key, "1", "x"]),
            Value::Stream => self.ask(&["XADD", key, "*", "x", "y"]),
        };
    }
    fn remove(&mut self, key: &str) {
        let _: i64 = self.ask(&["DEL", key]);
    }
    fn expire_in(&mut self, key: &str, ms: u64) {
        let _: i64 = self.ask(&["PEXPIRE", key, &ms.to_string()]);
    }
    fn content(&mut self, key: &str) -> Content {
        match self.ask::<String>(&["TYPE", key]).as_str() {
            "none" => Content::Nothing,
            "string" => self.ask::<Option<String>>(&["GET", key]).map_or(Content::Nothing, Content::Text),
            _ => Content::OtherType,
        }
    }
    fn remaining_ms(&mut self, key: &str) -> Option<u64> {
        self.ask::<i64>(&["PTTL", key]).try_into().ok()
    }
    fn queue(&mut self, waiters: &str) -> Vec<Queued> {
        let entries: Vec<(String, f64)> = self.ask(&["ZRANGE", waiters, "0", "-1", "WITHSCORES"]);
        entries.into_iter().map(queued).collect()
    }
    fn queue_life_ms(&mut self, waiters: &str) -> Option<u64> {
        self.remaining_ms(waiters)
    }
    fn await_unsubscribed(&mut self, channel: &str) {
        let begun = Instant::now();
        while self.ask::<(String, u64)>(&["PUBSUB", "NUMSUB", channel]).1 > 0 {
            assert!(begun.elapsed() < PATIENCE, "{channel} keeps its subscriber");
        }
    }
    fn keys(&mut self) -> Vec<String> {
        let mut keys: Vec<String> = self.ask(&["KEYS", "*"]);
        keys.sort();
        keys
    }
    fn snapshot(&mut self, names: &[Arc<Name>]) -> Snapshot {
        let mut eval = redis::cmd("EVAL");
        eval.arg(SNAPSHOT).arg(2 * names.len() + 1);
        names.iter().for_each(|name| _ = eval.arg(name.key()).arg(name.waiters()));
        let answer = eval.arg(FENCE).query(&mut self.client);
        let (locks, mut keys, counter): (Vec<RawLock>, Vec<String>, Option<String>) = answer.expect("a snapshot");
        keys.sort();
        let lock = |(kind, text, life, queue, queue_life): RawLock| LockState {
            content: match kind.as_str() {
                "none" => Content::Nothing,
                _ => text.map_or(Content::OtherType, Content::Text),
            },
            life_ms: life.try_into().ok(),
            queue: queue.into_iter().map(queued).collect(),
            queue_life_ms: queue_life.try_into().ok(),
        };
        Snapshot { locks: locks.into_iter().map(lock).collect(), keys, counter }
    }
    fn flush(&mut self) {
        let _: String = self.ask(&["FLUSHALL"]);
    }
}
