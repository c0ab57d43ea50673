//! One store for one test, with a way to look at its keys behind the library's back, and helpers for blocked threads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use dlock::store::memory::MemoryStore;
use dlock::store::name::FENCE;
use dlock::store::redis::slot::SLOTS;
use dlock::store::{Holder, Name};
use dlock::{Lock, Locker, Options, Result};

use crate::eventually::{PATIENCE, eventually, within};
use crate::proxy::Proxy;
use crate::redis_server::RedisServer;

/// The lock of most tests.
pub const GROUP: &str = "g";
pub const NAME: &str = "n";

pub enum World {
    Redis(RedisServer),
    /// The one node of a cluster.
    Cluster(RedisServer),
    Memory {
        url: String,
        store: MemoryStore,
    },
}

fn name() -> Name {
    Name::new(NAME, GROUP).expect("a legal name")
}

impl World {
    pub fn redis() -> Self {
        World::Redis(RedisServer::start(&[]))
    }

    pub fn cluster() -> Self {
        let node = RedisServer::start(&["--cluster-enabled", "yes"]);
        let slots: Vec<String> = (0..SLOTS).map(|slot| slot.to_string()).collect();
        let mut command = vec!["CLUSTER", "ADDSLOTS"];
        command.extend(slots.iter().map(String::as_str));
        let _: () = node.cmd(&command);
        let is_up = || node.cmd::<String>(&["CLUSTER", "INFO"]).contains("cluster_state:ok");
        eventually("the cluster is up", is_up);
        World::Cluster(node)
    }

    pub fn memory() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("invariants-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        World::Memory { url: format!("memory://{name}"), store: MemoryStore::open(&name) }
    }

    /// The Redis server.
    pub fn server(&self) -> &RedisServer {
        match self {
            World::Redis(server) | World::Cluster(server) => server,
            World::Memory { .. } => panic!("the memory store has no server"),
        }
    }

    pub fn proxy(&self) -> Proxy {
        Proxy::start(self.server().port())
    }

    pub fn options(&self, lease_ms: u64) -> Options {
        let url = match self {
            World::Redis(server) => format!("redis://127.0.0.1:{}", server.port()),
            World::Cluster(node) => format!("redis-cluster://127.0.0.1:{}", node.port()),
            World::Memory { url, .. } => url.clone(),
        };
        options(&url, lease_ms)
    }

    pub fn locker(&self, lease_ms: u64) -> Locker {
        Locker::new(&self.options(lease_ms)).expect("a locker")
    }

    /// One whose leases run out.
    pub fn locker_without_renewal(&self, lease_ms: u64) -> Locker {
        let mut options = self.options(lease_ms);
        options.set_auto_renew(false).unwrap();
        Locker::new(&options).expect("a locker")
    }

    /// What the lock's key holds.
    pub fn holder(&self) -> Option<String> {
        match self {
            World::Redis(server) | World::Cluster(server) => server.cmd(&["GET", name().key()]),
            World::Memory { store, .. } => match store.with_server(|server, now| server.holder(now, name().key())) {
                Holder::Nobody => None,
                Holder::Acquisition(acquisition) => Some(acquisition.to_string()),
                Holder::Foreign(text) => text,
            },
        }
    }

    /// How many wait in the queue.
    pub fn queued(&self) -> usize {
        match self {
            World::Redis(server) | World::Cluster(server) => server.cmd(&["ZCARD", name().waiters()]),
            World::Memory { store, .. } => store.with_server(|server, now| server.queue(now, name().waiters()).len()),
        }
    }

    pub fn wait_queued(&self, count: usize) {
        eventually(&format!("{count} waiters are queued"), || self.queued() == count);
    }

    /// Every key, counters included.
    pub fn all_keys(&self) -> Vec<String> {
        match self {
            World::Redis(server) | World::Cluster(server) => server.cmd(&["KEYS", "*"]),
            World::Memory { store, .. } => store.with_server(|server, now| server.keys(now)),
        }
    }

    /// The key of the counter that the lock's tokens come from.
    fn counter_key(&self) -> String {
        match self {
            World::Cluster(_) => format!("{FENCE}:{}", name().tag()),
            _ => FENCE.to_owned(),
        }
    }

    /// Is that the key of a counter? A cluster has one for each slot in use.
    fn is_counter(&self, key: &str) -> bool {
        key == FENCE || matches!(self, World::Cluster(_)) && key.starts_with(":dlock:fence:{")
    }

    pub fn assert_only_counters(&self) {
        let keys = self.all_keys();
        assert!(!keys.is_empty() && keys.iter().all(|key| self.is_counter(key)), "{keys:?}");
        assert!(keys.len() == 1 || matches!(self, World::Cluster(_)), "{keys:?}");
    }

    /// Waits until nothing is left but counters (a release may be under way in the background).
    pub fn wait_clean(&self) {
        let clean = || self.all_keys().iter().all(|key| self.is_counter(key));
        if !within(PATIENCE, clean) {
            panic!("left over: {:?}", self.all_keys());
        }
    }

    pub fn flush(&self) {
        match self {
            World::Redis(server) | World::Cluster(server) => server.cmd(&["FLUSHALL"]),
            World::Memory { store, .. } => store.with_server(|server, _| server.flush()),
        }
    }

    /// As if another program had deleted the queue.
    pub fn delete_queue(&self) {
        match self {
            World::Redis(server) | World::Cluster(server) => {
                assert_eq!(server.cmd::<i64>(&["DEL", name().waiters()]), 1)
            }
            World::Memory { store, .. } => store.with_server(|server, _| server.remove(name().waiters())),
        }
    }

    pub fn set_counter(&self, counter: u64) {
        match self {
            World::Redis(server) | World::Cluster(server) => {
                server.cmd(&["SET", &self.counter_key(), &counter.to_string()])
            }
            World::Memory { store, .. } => store.with_server(|server, _| server.set_counter(counter)),
        }
    }

    pub fn counter(&self) -> u64 {
        match self {
            World::Redis(server) | World::Cluster(server) => server.cmd(&["GET", &self.counter_key()]),
            World::Memory { store, .. } => store.with_server(|server, _| server.counter().expect("an integer")),
        }
    }
}

pub fn options(url: &str, lease_ms: u64) -> Options {
    let mut options = Options::new();
    options.set_url(url).unwrap();
    options.set_lease_ms(lease_ms).unwrap();
    options
}

/// Options of a locker behind that proxy.
pub fn options_behind(proxy: &Proxy, lease_ms: u64) -> Options {
    options(&format!("redis://127.0.0.1:{}", proxy.port()), lease_ms)
}

/// A locker behind that proxy.
pub fn locker_behind(proxy: &Proxy, lease_ms: u64) -> Locker {
    Locker::new(&options_behind(proxy, lease_ms)).expect("a locker")
}

/// A handle of the lock that the tests compete for.
pub fn handle(locker: &Locker) -> Arc<Lock> {
    Arc::new(locker.lock(NAME, GROUP).expect("a lock handle"))
}

/// A call that goes on in a thread of its own.
pub struct Running<T> {
    thread: Option<JoinHandle<()>>,
    answer: Receiver<(T, Instant)>,
    early: Mutex<Option<(T, Instant)>>,
}

pub fn start<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> Running<T> {
    let (send, answer) = channel();
    let thread = std::thread::spawn(move || {
        let answer = call();
        let _ = send.send((answer, Instant::now()));
    });
    Running { thread: Some(thread), answer, early: Mutex::new(None) }
}

impl<T> Running<T> {
    /// Its answer, and when it came.
    #[track_caller]
    pub fn answer(mut self, what: &str) -> (T, Instant) {
        let early = self.early.lock().unwrap().take();
        let answer = early.or_else(|| self.answer.recv_timeout(PATIENCE).ok());
        let answer = answer.unwrap_or_else(|| panic!("no answer: {what}"));
        self.thread.take().map(JoinHandle::join);
        answer
    }

    /// Is the answer there?
    pub fn is_over(&self) -> bool {
        let mut early = self.early.lock().unwrap();
        if early.is_none() {
            *early = self.answer.try_recv().ok();
        }
        early.is_some()
    }
}

/// An acquire without a deadline in a thread of its own.
pub fn start_acquire(lock: &Arc<Lock>) -> Running<Result<()>> {
    let lock = Arc::clone(lock);
    start(move || lock.acquire())
}

/// An acquire that is queued, after `queued` others.
pub fn start_waiting(world: &World, lock: &Arc<Lock>, queued: usize) -> Running<Result<()>> {
    let waiting = start_acquire(lock);
    world.wait_queued(queued + 1);
    waiting
}
