//! Random steps, the same on `memory://` and on a server: every reply, every message and what is stored must agree.
//!
//! Numbers drawn from the counter differ (each has its own clock): they are compared by their order, and those below
//! the floor exactly. Remaining lives are compared roughly. Everything else is equal.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::path::Path;

use dlock::store::name::FENCE;
use dlock::store::{Acquisition, HandOff, Name, Op, Push, Reply, Request, Seat, TOKEN_FLOOR};
use std::sync::Arc;

use crate::bench::{Bench, TOLERANCE_MS, who};
use crate::scenarios::kind;
use crate::target::{self, Content, LockState, Value};

const STEPS: usize = 60;
const LEASES: [u64; 3] = [30_000, 60_000, 90_000];
/// Handles, each with the channel of its locker: two lockers with several handles, one with one, one never subscribed.
const CHANNELS: [&str; 7] = ["A", "A", "B", "B", "B", "C", "dead"];
const LOCKS: [&str; 2] = ["one", "two"];

/// What 200 sequences must have met.
#[rustfmt::skip]
const OUTCOMES: [&str; 15] = ["taken", "undrawn", "held", "queued", "foreign", "stale", "renewed", "notmine", "released",
    "again", "holder", "error", "handed over", "dropped", "next"];

/// Runs the sequences that the environment asks for.
pub fn compare(server: &Path) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seeds = match number("DLOCK_CONFORMANCE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("DLOCK_CONFORMANCE_SEQUENCES").unwrap_or(200),
    };
    let many = seeds.clone().count();
    let mut pair = Pair::new(server);
    for seed in seeds {
        pair.sequence(seed);
    }
    let compared: usize = pair.seen.values().sum();
    eprintln!("{compared} outcomes compared: {:?}", pair.seen);
    let all = OUTCOMES.iter().all(|outcome| pair.seen.contains_key(outcome));
    assert!(all || many < 200, "some outcome never came about: {:?}", pair.seen);
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// The two stores, and what has been seen of them.
struct Pair {
    memory: Bench,
    server: Bench,
    /// Numbers that mean the same: the server's by memory's.
    numbers: BTreeMap<u64, u64>,
    /// The place of an acquisition on either store.
    places: HashMap<(usize, Acquisition), (u64, u64)>,
    /// The present attempt of each handle.
    attempts: [u64; CHANNELS.len()],
    /// What was done, for a failure's message.
    log: Vec<String>,
    /// How often each outcome was compared.
    seen: BTreeMap<&'static str, usize>,
}

impl Pair {
    fn new(server: &Path) -> Self {
        let memory = Bench::new(target::memory());
        let server = Bench::new(target::server(server));
        let attempts = [1; CHANNELS.len()];
        Pair {
            memory,
            server,
            numbers: BTreeMap::new(),
            places: HashMap::new(),
            attempts,
            log: Vec::new(),
            seen: BTreeMap::new(),
        }
    }

    fn both(&mut self, mut act: impl FnMut(&mut Bench)) {
        act(&mut self.memory);
        act(&mut self.server);
    }

    fn sequence(&mut self, seed: u64) {
        let mut random = Random(seed);
        self.numbers.clear();
        self.places.clear();
        self.attempts = [1; CHANNELS.len()];
        self.log = vec![format!("DLOCK_CONFORMANCE_SEED={seed}")];
        self.both(|bench| bench.target.flush());
        if random.chance(75) {
            self.both(|bench| bench.reconnect(0));
        }
        for channel in ["A", "B", "C"] {
            self.both(|bench| {
                if !bench.is_subscribed(channel) {
                    bench.subscribe(channel)
                }
            });
            self.both(|bench| _ = bench.pushes(channel));
        }
        for _ in 0..STEPS {
            match random.below(100) {
                0..88 => self.step(&mut random),
                88..91 => self.crowd(&mut random),
                _ => self.disturb(&mut random),
            }
            self.compare_state();
        }
    }

    /// One step of one handle.
    fn step(&mut self, random: &mut Random) {
        let handle = random.below(CHANNELS.len());
        if random.chance(15) {
            self.attempts[handle] += 1;
        }
        let attempt = match random.below(10) {
            0 => self.attempts[handle].saturating_sub(1).max(1),
            1 => self.attempts[handle] + 1,
            _ => self.attempts[handle],
        };
        let acquisition = who(handle as u128 + 1, attempt);
        let lock = random.below(LOCKS.len());
        let lease_ms = random.one(&LEASES);
        let literal = random.one(&[0, 0, 1, TOKEN_FLOOR - 1, TOKEN_FLOOR, TOKEN_FLOOR + 1, TOKEN_FLOOR + 2]);
        let known = self.places.get(&(lock, acquisition)).copied().filter(|_| random.chance(70));
        let places = known.unwrap_or((literal, literal));
        let op = match random.below(22) {
            0..4 => Op::Try { lease_ms },
            4..11 => Op::Join { lease_ms, place: 0, queue: random.chance(85) },
            11..13 => Op::Renew { lease_ms },
            13..18 => Op::Release { leave: random.chance(30) },
            18 => Op::Leave { lease_ms },
            19 => Op::Back,
            20 => Op::Confirm { token: literal },
            _ => Op::Inspect,
        };
        self.send(lock, handle, acquisition, op, places);
        // The present holder does more than chance would have it, or the queue would never move.
        if random.chance(40) {
            self.step_of_holder(random, lock);
        }
    }

    fn step_of_holder(&mut self, random: &mut Random, lock: usize) {
        let key = name(lock).key().to_owned();
        let Content::Text(text) = self.memory.target.content(&key) else { return };
        let Some(acquisition) = Acquisition::parse(&text) else { return };
        let handle = (acquisition.owner.as_u128() as u64 as usize).wrapping_sub(1);
        // Sometimes under another locker's channel: then the marks in the queue are somebody else's.
        let handle = if handle < CHANNELS.len() && random.chance(80) { handle } else { random.below(CHANNELS.len()) };
        let lease_ms = random.one(&LEASES);
        let op = match random.below(10) {
            0..2 => Op::Renew { lease_ms },
            2 => Op::Leave { lease_ms },
            3 => join(lease_ms),
            4 => Op::Back,
            5 => Op::Confirm { token: TOKEN_FLOOR + 2 },
            _ => Op::Release { leave: random.chance(30) },
        };
        self.send(lock, handle, acquisition, op, (0, 0));
    }

    /// Many waiters of one locker at once, so that a release meets more than a batch.
    fn crowd(&mut self, random: &mut Random) {
        let (lock, handle) = (random.below(LOCKS.len()), random.one(&[2, 5, 6]));
        let crowd = random.below(45);
        let requests: Vec<Request> =
            (0..crowd).map(|n| request(lock, handle, who(1_000 + n as u128, 1), join(random.one(&LEASES)))).collect();
        self.log.push(format!("{crowd} joins of {} for {}", CHANNELS[handle], LOCKS[lock]));
        let (memory, server) = (self.memory.send(&requests), self.server.send(&requests));
        memory.into_iter().zip(server).for_each(|(memory, server)| self.compare_replies(memory, server));
    }

    /// What happens to a server besides the library's steps.
    fn disturb(&mut self, random: &mut Random) {
        let lock = random.below(LOCKS.len());
        let (key, waiters) = (name(lock).key().to_owned(), name(lock).waiters().to_owned());
        let (handle, channel) = (random.below(CHANNELS.len()), random.one(&["A", "B", "C"]));
        let what = random.below(14);
        self.log.push(format!("disturbance {what}: {key}, {channel}, handle {handle}"));
        match what {
            0..4 => self.both(|bench| bench.target.remove(&key)),
            4 => self.both(|bench| bench.target.remove(&waiters)),
            5 => self.both(|bench| bench.target.remove(FENCE)),
            6 => self.both(|bench| bench.target.put(FENCE, Value::Text("ten".into()))),
            7 => self.both(|bench| bench.target.put(&key, Value::Text("foreign".into()))),
            8 => self.both(|bench| bench.target.put(&key, Value::Hash)),
            9 => self.both(|bench| bench.target.expire_in(&key, 75_000)),
            10 => self.both(|bench| bench.reconnect(0)),
            11 => {
                let acquisition = who(handle as u128 + 1, self.attempts[handle]).to_string();
                self.both(|bench| bench.target.put(&key, Value::Text(acquisition.clone())));
            }
            12 => self.both(|bench| bench.unsubscribe(channel)),
            _ => self.both(|bench| {
                if !bench.is_subscribed(channel) {
                    bench.subscribe(channel)
                }
            }),
        }
        if what == 6 && random.chance(70) {
            self.step(random);
            self.both(|bench| bench.target.remove(FENCE));
        }
    }

    /// The same step on both; a join names the place that each of them knows.
    fn send(&mut self, lock: usize, handle: usize, acquisition: Acquisition, op: Op, places: (u64, u64)) {
        let with = |at: u64| match op {
            Op::Join { lease_ms, queue, .. } => Op::Join { lease_ms, place: at, queue },
            op => op,
        };
        self.log.push(format!("{} {} {acquisition} {op:?} {places:?}", LOCKS[lock], CHANNELS[handle]));
        let memory = self.memory.send(&[request(lock, handle, acquisition, with(places.0))]).remove(0);
        let server = self.server.send(&[request(lock, handle, acquisition, with(places.1))]).remove(0);
        if let (Some(memory), Some(server)) = (place(&memory), place(&server)) {
            self.places.insert((lock, acquisition), (memory, server));
        }
        self.compare_replies(memory, server);
    }
}

/// The place that a waiter keeps from a reply.
fn place(reply: &Reply) -> Option<u64> {
    match *reply {
        Reply::Held { place, .. } | Reply::Queued { place, .. } if place > 0 => Some(place),
        _ => None,
    }
}

fn name(lock: usize) -> Arc<Name> {
    Arc::new(Name::new(LOCKS[lock], "group").unwrap())
}

fn join(lease_ms: u64) -> Op {
    Op::Join { lease_ms, place: 0, queue: true }
}

/// Each handle has its own claim, so that a wrong one shows.
fn request(lock: usize, handle: usize, acquisition: Acquisition, op: Op) -> Request {
    let seat = Seat { claim_ms: 15_000 + 10_000 * handle as u64, channel: Arc::from(CHANNELS[handle]) };
    Request { name: name(lock), acquisition, seat, op }
}

/// The comparisons.
impl Pair {
    fn differ(&self, what: &str, memory: impl Debug, server: impl Debug) -> ! {
        panic!("{what}\n  memory: {memory:?}\n  server: {server:?}\nafter\n  {}", self.log.join("\n  "))
    }

    fn equal<T: PartialEq + Debug>(&self, what: &str, memory: T, server: T) {
        if memory != server {
            self.differ(what, memory, server);
        }
    }

    fn same_life(&self, what: &str, memory: Option<u64>, server: Option<u64>) {
        if memory.is_some() != server.is_some() || memory.unwrap_or(0).abs_diff(server.unwrap_or(0)) > TOLERANCE_MS {
            self.differ(what, memory, server);
        }
    }

    /// The pair must stand to every pair before as its halves do. Below the floor nothing depends on a clock.
    fn same_number(&mut self, what: &str, memory: u64, server: u64) {
        if self.numbers.get(&memory) == Some(&server) {
            return;
        }
        if memory.min(server) < TOKEN_FLOOR {
            return self.equal(what, memory, server);
        }
        let lower = self.numbers.range(..memory).next_back().is_none_or(|pair| *pair.1 < server);
        let higher = self.numbers.range(memory..).next().is_none_or(|pair| *pair.1 > server);
        if !(lower && higher) || self.numbers.insert(memory, server).is_some() {
            self.differ(&format!("{what}, in another order than {:?}", self.numbers), memory, server);
        }
    }

    fn same_hand_off(&mut self, memory: &HandOff, server: &HandOff) {
        self.equal("handed to", memory.acquisition, server.acquisition);
        self.same_number("the token of a hand-off", memory.token, server.token);
    }

    fn compare_replies(&mut self, memory: Reply, server: Reply) {
        use Reply::*;
        self.seen(if let Released { next: Some(_) } = memory { "next" } else { kind(&memory) });
        let log = self.log.last_mut().expect("a step");
        log.push_str(&format!(" -> {memory:?}"));
        match (&memory, &server) {
            (Taken { token: a }, Taken { token: b }) => self.same_number("a token", *a, *b),
            (TakenUndrawn { error: a }, TakenUndrawn { error: b })
            | (Error(a), Error(b))
            | (Unqueued { error: a }, Unqueued { error: b }) => self.equal("an error", a.class, b.class),
            (Held { place: a, remaining_ms: x }, Held { place: b, remaining_ms: y }) => {
                self.same_number("a place", *a, *b);
                self.same_life("remaining", *x, *y);
            }
            (Queued { place: a, remaining_ms: x, waiters: n }, Queued { place: b, remaining_ms: y, waiters: m }) => {
                self.same_number("a place", *a, *b);
                self.same_life("remaining", *x, *y);
                self.equal("waiters", n, m);
            }
            (Foreign { remaining_ms: x }, Foreign { remaining_ms: y }) => self.same_life("remaining", *x, *y),
            (Renewed { remaining_ms: x }, Renewed { remaining_ms: y }) => {
                self.same_life("remaining", Some(*x), Some(*y))
            }
            (Released { next: Some(a) }, Released { next: Some(b) }) => self.same_hand_off(a, b),
            (a, b) => self.equal("a reply", a, b),
        }
    }

    fn compare_state(&mut self) {
        let names: Vec<_> = (0..LOCKS.len()).map(name).collect();
        let (memory, server) = (self.memory.target.snapshot(&names), self.server.target.snapshot(&names));
        self.equal("keys", memory.keys, server.keys);
        let number = |text: Option<String>| text.and_then(|text| text.parse().ok()).unwrap_or(0);
        self.same_number("the counter", number(memory.counter), number(server.counter));
        memory.locks.iter().zip(&server.locks).for_each(|(memory, server)| self.compare_locks(memory, server));
        self.compare_pushes();
    }

    fn compare_locks(&mut self, memory: &LockState, server: &LockState) {
        self.equal("the key", &memory.content, &server.content);
        self.same_life("the key's life", memory.life_ms, server.life_ms);
        self.same_life("the queue's life", memory.queue_life_ms, server.queue_life_ms);
        self.equal("the queue's length", memory.queue.len(), server.queue.len());
        for (memory, server) in memory.queue.iter().zip(&server.queue) {
            self.equal("a waiter", (&memory.member, memory.marked), (&server.member, server.marked));
            self.same_number("a waiter's place", memory.place, server.place);
        }
    }

    fn compare_pushes(&mut self) {
        let (memory, server) = (self.memory.all_pushes(), self.server.all_pushes());
        self.equal("messages", memory.len(), server.len());
        for (memory, server) in memory.into_iter().zip(server) {
            self.equal("a message's channel", &memory.0, &server.0);
            match (&memory.1, &server.1) {
                (Push::HandOff { key: a, hand_off: x }, Push::HandOff { key: b, hand_off: y }) => {
                    self.seen("handed over");
                    self.equal("a message's key", a, b);
                    self.same_hand_off(x, y);
                }
                (a, b) => {
                    self.seen("dropped");
                    self.equal("a message", a, b);
                }
            }
        }
    }

    fn seen(&mut self, what: &'static str) {
        *self.seen.entry(what).or_insert(0) += 1;
    }
}
