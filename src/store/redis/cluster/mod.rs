//! Locks on a cluster: each lock's keys are in one slot, and each step goes to the node that has it.
//!
//! [`map`] knows which node that is; [`connection`] routes requests, over one connection to each node in use; [`messages`]
//! is subscribed at the nodes whose locks are waited for; [`Poller`](crate::descriptors::Poller) makes one descriptor of
//! many. A node that ends takes its own requests with it and no others. Connections to nodes are made on threads of their
//! own, so that none waits for another node.

mod connection;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;
mod map;
mod messages;

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use self::connection::ClusterConnection;
use self::map::{Map, Node};
use self::messages::{ClusterSubscription, Messages};
use super::codec::Layout;
use super::handshake;
use super::scripts::Scripts;
use super::{Address, Config};
use crate::descriptors::{Descriptors, Signal};
use crate::store::{Connection, Store, Subscription, Unreachable};
use crate::thread::Thread;

/// Room for the descriptors of some hundred nodes.
const DESCRIPTORS: usize = 2_048;
/// So long one candidate for the first connection is waited for before the next one is asked as well.
const STAGGER: Duration = Duration::from_millis(250);
/// After a connection failed or ended, before the node is tried again.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two questions for the map.
const MAP_PAUSE_MS: u64 = 100;

/// What all connections of one store share.
struct Shared {
    config: Config,
    descriptors: Arc<Descriptors>,
    map: Map,
    scripts: Arc<Scripts>,
    messages: Mutex<Messages>,
    /// How the nodes send messages, once one has told.
    ways: AtomicU8,
    threads: Mutex<Vec<Thread>>,
    begun: Instant,
    map_asked_ms: AtomicU64,
}

/// How messages are sent to this locker. Decided once, since the channel is part of each place in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ways {
    Unknown,
    /// The nodes or the user's rights allow none.
    None,
    Plain,
    Sharded,
}

/// Results for a connection, and what wakes its driver.
struct Mail<T> {
    items: Mutex<Vec<T>>,
    signal: Arc<Signal>,
}

impl<T> Mail<T> {
    fn new(all: &Arc<Descriptors>) -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Mail { items: Mutex::default(), signal: Arc::new(Signal::noted(all)?) }))
    }

    fn post(&self, item: T) {
        self.items.lock().unwrap_or_else(PoisonError::into_inner).push(item);
        self.signal.raise();
    }

    fn take(&self) -> Vec<T> {
        self.signal.clear();
        std::mem::take(&mut self.items.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Shared {
    fn ways(&self) -> Ways {
        match self.ways.load(Ordering::Acquire) {
            1 => Ways::None,
            2 => Ways::Plain,
            3 => Ways::Sharded,
            _ => Ways::Unknown,
        }
    }

    fn layout(&self) -> Layout {
        Layout::Cluster { sharded: self.ways() == Ways::Sharded }
    }

    /// Connects to that node for requests. Blocks.
    fn reach(&self, node: &Node) -> Result<handshake::Node, Unreachable> {
        let reached = handshake::for_node(&node.site, &self.scripts).map_err(|refused| refused.why)?;
        self.map.learn(&reached.slots, node);
        let ways = match (reached.sharded, reached.plain) {
            (true, _) => Ways::Sharded,
            (false, true) => Ways::Plain,
            (false, false) => Ways::None,
        };
        // Nobody has a place in a queue yet where there were none.
        let undecided = |known| (known < Ways::Plain as u8).then_some(ways as u8);
        let _ = self.ways.fetch_update(Ordering::AcqRel, Ordering::Acquire, undecided);
        Ok(reached)
    }

    /// Runs `body` on a thread of its own, which ends with its connect. False: there is none to be had.
    fn spawn(&self, body: impl FnOnce() + Send + 'static) -> bool {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|thread| !thread.is_finished());
        Thread::spawn(c"dlock-node", body).map(|thread| threads.push(thread)).is_ok()
    }

    /// May the map be asked for? Only so often, by whichever connection.
    fn may_ask_map(&self) -> bool {
        let now = self.begun.elapsed().as_millis() as u64 + MAP_PAUSE_MS;
        let due = |last: u64| (now >= last + MAP_PAUSE_MS).then_some(now);
        self.map_asked_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).is_ok()
    }

    fn messages(&self) -> std::sync::MutexGuard<'_, Messages> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Locks on a cluster of servers.
pub struct ClusterStore {
    shared: Arc<Shared>,
    seeds: Vec<Address>,
    address: String,
}

impl ClusterStore {
    /// No I/O. `seeds`: nodes to begin with; `config.address` is not used.
    pub fn new(seeds: Vec<Address>, config: Config) -> Self {
        let names: Vec<String> = seeds.iter().map(Address::to_string).collect();
        let descriptors = Descriptors::with_room(DESCRIPTORS);
        let map = Map::new(config.clone(), Arc::clone(&descriptors));
        let shared = Shared {
            config,
            descriptors,
            map,
            scripts: Arc::new(Scripts::new()),
            messages: Mutex::default(),
            ways: AtomicU8::new(0),
            threads: Mutex::default(),
            begun: Instant::now(),
            map_asked_ms: AtomicU64::new(0),
        };
        ClusterStore { shared: Arc::new(shared), seeds, address: format!("cluster {}", names.join(",")) }
    }

    /// Those that have slots, then those of the URL.
    fn candidates(&self) -> Vec<Arc<Node>> {
        let mut all = self.shared.map.owners();
        if !all.is_empty() {
            // Not always the same first, for many lockers' sake.
            let first = self.shared.begun.elapsed().subsec_nanos() as usize % all.len();
            all.rotate_left(first);
        }
        for seed in self.seeds.iter().filter_map(|seed| self.shared.map.at(seed)) {
            if !all.iter().any(|node| node.index == seed.index) {
                all.push(seed);
            }
        }
        all
    }

    /// The first node that can be reached; a silent one holds the others up for a moment only.
    fn reach_any(&self) -> Result<(Arc<Node>, handshake::Node), Unreachable> {
        let config = &self.shared.config;
        let deadline = Instant::now() + config.connect_timeout + config.response_timeout;
        let (tell, told) = channel();
        let mut candidates = self.candidates().into_iter();
        let (mut asked, mut problems) = (0, Vec::new());
        loop {
            let mut wait = deadline.saturating_duration_since(Instant::now());
            if let Some(node) = candidates.next() {
                let (shared, tell) = (Arc::clone(&self.shared), tell.clone());
                let started = self.shared.spawn(move || {
                    let reached = shared.reach(&node);
                    let _ = tell.send((node, reached));
                });
                if !started {
                    return Err(Unreachable(format!("{}: cannot start a thread to connect", self.address)));
                }
                asked += 1;
                wait = wait.min(STAGGER);
            } else if asked == problems.len() || wait.is_zero() {
                let text = if problems.is_empty() { "no answer in time".to_owned() } else { problems.join("; ") };
                return Err(Unreachable(format!("{}: {text}", self.address)));
            }
            match told.recv_timeout(wait) {
                Ok((node, Ok(reached))) => return Ok((node, reached)),
                Ok((_, Err(why))) => problems.push(why.0),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
    }
}

impl Store for ClusterStore {
    /// Connects to one node; to the others when they are needed. The counters are lifted slot by slot, each before its
    /// first use, above what was seen of that slot: `_highest_token` is of all.
    fn connect(&self, _highest_token: u64) -> Result<Box<dyn Connection>, Unreachable> {
        let (node, reached) = self.reach_any()?;
        let connection = ClusterConnection::new(&self.shared, node, reached.stream);
        connection
            .map(|connection| Box::new(connection) as Box<dyn Connection>)
            .map_err(|error| Unreachable(format!("{}: cannot make a descriptor: {error}", self.address)))
    }

    /// Subscribes to nothing yet, and so does not block: a slot's channel is subscribed to before a waiter is queued there.
    fn subscribe(
        &self,
        channel: &str,
        _wake: Arc<dyn Fn() + Send + Sync>,
    ) -> Result<Box<dyn Subscription>, Unreachable> {
        let refused = |problem: &str| Unreachable(format!("{}: {problem}", self.address));
        if matches!(self.shared.ways(), Ways::Unknown | Ways::None) {
            return Err(refused("the nodes refuse messages"));
        }
        let subscription = ClusterSubscription::open(&self.shared, channel);
        subscription
            .map(|subscription| Box::new(subscription) as Box<dyn Subscription>)
            .map_err(|error| refused(&format!("cannot make a descriptor: {error}")))
    }

    fn address(&self) -> &str {
        &self.address
    }

    fn keep_alive(&self) -> Option<Duration> {
        self.shared.config.keep_alive
    }

    fn warnings(&self) -> Vec<String> {
        self.shared.map.warnings()
    }

    fn stop(&self) {
        self.shared.map.stopped.store(true, Ordering::Release);
    }

    fn take_descriptors_in_child(&self) -> Vec<RawFd> {
        self.shared.descriptors.take_in_child().collect()
    }
}

impl Drop for ClusterStore {
    /// Waits for connects under way: their threads run the library's code.
    fn drop(&mut self) {
        loop {
            let thread = self.shared.threads.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(thread) = thread else { break };
            thread.join();
        }
    }
}
