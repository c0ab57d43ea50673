//! Histories of several engines on a quorum of the servers of `memory://`, with the merging of votes and messages that the
//! library uses between them, and a network and servers that fail in every way: what happens, and when, comes from a seed.
//! The checker of `tests/history/` judges them: never two holders, and tokens that rise.
//!
//! `DLOCK_SEEDS` is how many histories there are, `DLOCK_SEED` repeats one.

#![cfg(target_os = "linux")]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use dlock::engine::{Action, Answer, Config, Engine, HandleId, Lane, Operation, Time};
use dlock::store::memory::server::MemoryServer;
use dlock::store::quorum::ledger::Ledger;
use dlock::store::quorum::messages::Messages;
use dlock::store::quorum::votes::{Out, Votes};
use dlock::store::{Name, Push, Reply, Request, RequestId, TOKEN_FLOOR};
use dlock_history::checker::{Counts, History, HoldingId};
use uuid::Uuid;

const LEASE_MS: u64 = 300;
/// Longer than every lease, as measured by a server.
const DELAY_US: Time = LEASE_MS * 1_010 + 10_000;
const LINKS: usize = 2;
/// When faults end, and when the history does.
const FAULTS_END: Time = 3_000_000;
const END: Time = 6_000_000;
const START: Time = 1_000_000;
const EPOCH: Time = TOKEN_FLOOR + 1_000_000_000_000;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

enum Event {
    Arrives { client: usize, link: usize, server: usize, epoch: u64, id: RequestId, request: Request },
    Answers { client: usize, link: usize, server: usize, epoch: u64, id: RequestId, reply: Reply },
    Tells { client: usize, server: usize, push: Push },
    Connects { client: usize, link: usize },
    Joins { client: usize, link: usize, server: usize },
    Ticks { client: usize },
    Acts { client: usize },
    Fails,
    Mends { server: usize },
    Admits { server: usize },
}

struct Server {
    memory: MemoryServer,
    /// Nothing reaches it, nothing comes from it.
    dead: bool,
    /// What reaches it waits.
    stopped: bool,
    waiting: Vec<Event>,
    /// When it was found to have lost its data.
    since: Option<Time>,
}

struct Client {
    engine: Engine<()>,
    handle: HandleId,
    ledger: Arc<Ledger>,
    links: Vec<Option<Votes>>,
    epochs: Vec<Vec<u64>>,
    /// When the last thing on a connection arrives, in each direction: it keeps order.
    forth: HashMap<(usize, usize), Time>,
    back: HashMap<(usize, usize), Time>,
    messages: Messages,
    holding: Option<HoldingId>,
    calling: bool,
    tick_at: Time,
}

struct World {
    now: Time,
    random: Random,
    events: BTreeMap<(Time, u64), Event>,
    next: u64,
    servers: Vec<Server>,
    clients: Vec<Client>,
    history: History<&'static str, usize>,
    /// Servers that do not count or cannot be reached: never more than a minority.
    out: usize,
    names: Arc<[String]>,
    name: Arc<Name>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let count = if random.chance(70) { 3 } else { 5 };
        let names: Arc<[String]> = (0..count).map(|i| format!("s{i}")).collect();
        let mut servers = Vec::new();
        for _ in 0..count {
            let mut memory = MemoryServer::of_quorum(EPOCH);
            memory.set_counter(EPOCH + random.below(20)); // uneven
            servers.push(Server { memory, dead: false, stopped: false, waiting: Vec::new(), since: None });
        }
        let name = Arc::new(Name::new("n", "g").unwrap());
        let mut world = World {
            now: START,
            random,
            events: BTreeMap::new(),
            next: 0,
            servers,
            clients: Vec::new(),
            history: History::default(),
            out: 0,
            names,
            name,
        };
        for client in 0..2 + world.random.below(4) as usize {
            world.add_client(client);
        }
        world.later(10_000, Event::Fails);
        world
    }

    fn add_client(&mut self, client: usize) {
        let channel: Arc<str> = format!("c{client}").into();
        let seed = self.random.below(u64::MAX);
        let config = Config {
            lease_ms: LEASE_MS,
            auto_renew: true,
            response_timeout_ms: 500,
            channel: Arc::clone(&channel),
            seed,
        };
        let mut engine = Engine::new(config);
        let handle = engine.open(Arc::clone(&self.name), Uuid::from_u128(client as u128 + 1)).unwrap();
        let servers = self.servers.len();
        self.servers.iter_mut().for_each(|server| server.memory.subscribe(&channel));
        self.clients.push(Client {
            engine,
            handle,
            ledger: Arc::new(Ledger::new(servers, LEASE_MS)),
            links: (0..LINKS).map(|_| None).collect(),
            epochs: vec![vec![0; servers]; LINKS],
            forth: HashMap::new(),
            back: HashMap::new(),
            messages: Messages::new(servers),
            holding: None,
            calling: false,
            tick_at: Time::MAX,
        });
        for link in 0..LINKS {
            self.later(link as Time, Event::Connects { client, link });
        }
        let after = self.random.below(5_000);
        self.later(after, Event::Acts { client });
    }

    fn at(&mut self, time: Time, event: Event) {
        self.next += 1;
        self.events.insert((time, self.next), event);
    }

    fn later(&mut self, after: Time, event: Event) {
        self.at(self.now + after, event);
    }

    /// Mostly short, sometimes long.
    fn travel(&mut self) -> Time {
        match self.random.below(100) {
            0..90 => 50 + self.random.below(300),
            90..99 => self.random.below(10_000),
            _ if self.now < FAULTS_END => self.random.below(400_000),
            _ => self.random.below(1_000),
        }
    }

    fn run(mut self) -> Counts {
        while let Some(((time, _), event)) = self.events.pop_first() {
            if time > END {
                break;
            }
            self.now = time;
            self.happens(event);
        }
        let served = self.clients.iter().all(|client| !client.calling || client.holding.is_some());
        assert!(served, "somebody still waits {} µs after the faults have ended", END - FAULTS_END);
        self.history.counts
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Arrives { server, .. } if self.servers[server].dead => {}
            Event::Arrives { server, .. } if self.servers[server].stopped => self.servers[server].waiting.push(event),
            Event::Arrives { client, link, server, epoch, id, request } => {
                let mut published = Vec::new();
                let reply = self.servers[server].memory.execute(self.now, &request, &mut published);
                let after = self.now + self.travel();
                let back = self.clients[client].back.entry((link, server)).or_default();
                *back = after.max(*back);
                let at = *back;
                self.at(at, Event::Answers { client, link, server, epoch, id, reply });
                for (channel, push) in published {
                    let client = channel[1..].parse().unwrap();
                    if !(self.now < FAULTS_END && self.random.chance(3)) {
                        let travel = self.travel();
                        self.later(travel, Event::Tells { client, server, push });
                    }
                }
            }
            Event::Answers { client, link, server, epoch, id, reply } => {
                if self.clients[client].epochs[link][server] == epoch
                    && let Some(votes) = &mut self.clients[client].links[link]
                {
                    votes.answer(self.now, id, reply);
                    self.settle(client);
                }
            }
            Event::Tells { client, server, push } => {
                let mut pushes = Vec::new();
                let now = self.now;
                let this = &mut self.clients[client];
                this.messages.came(now, server, push, &mut pushes);
                pushes.into_iter().for_each(|push| this.engine.push(now, push));
                self.settle(client);
            }
            Event::Connects { client, link } => self.connect(client, link),
            Event::Joins { client, link, server } => self.join(client, link, server),
            Event::Ticks { client } => {
                if self.clients[client].tick_at <= self.now {
                    self.clients[client].tick_at = Time::MAX;
                    self.tick(client);
                }
            }
            Event::Acts { client } => self.act(client),
            Event::Fails => self.fail(),
            Event::Mends { server } => {
                let this = &mut self.servers[server];
                this.stopped = false;
                let dead = std::mem::take(&mut this.dead);
                let mut waiting = std::mem::take(&mut this.waiting);
                // Each connection keeps its order; which comes first is anybody's guess.
                let by_link = |event: &Event| match event {
                    Event::Arrives { client, link, .. } => (client ^ self.random.0 as usize & 3, *link),
                    _ => (0, 0),
                };
                waiting.sort_by_key(by_link);
                waiting.into_iter().for_each(|event| self.happens(event));
                if !dead && self.servers[server].since.is_none() {
                    self.out -= 1;
                }
                self.look(server);
            }
            Event::Admits { server } => self.admit(server),
        }
    }

    /// Who connects looks whether the server counts.
    fn look(&mut self, server: usize) {
        let this = &mut self.servers[server];
        if !this.memory.counts() && this.since.is_none() {
            this.since = Some(self.now);
            self.later(DELAY_US, Event::Admits { server });
        }
    }

    fn admit(&mut self, server: usize) {
        let others = || self.servers.iter().enumerate().filter(|(other, _)| *other != server).map(|(_, other)| other);
        let counting = others().filter(|other| !other.dead && !other.stopped && other.memory.counts());
        let counters: Vec<u64> = counting.filter_map(|other| other.memory.counter()).collect();
        if self.servers[server].dead || self.servers[server].stopped || counters.len() < self.servers.len() / 2 + 1 {
            return self.later(20_000, Event::Admits { server });
        }
        let clock = EPOCH + self.now;
        let this = &mut self.servers[server];
        this.memory.set_counter(counters.into_iter().max().unwrap().max(clock));
        this.since = None;
        self.out -= 1;
    }

    fn usable(&self, server: usize) -> bool {
        let this = &self.servers[server];
        !this.dead && !this.stopped && this.memory.counts()
    }

    fn connect(&mut self, client: usize, link: usize) {
        let usable: Vec<usize> = (0..self.servers.len()).filter(|&server| self.usable(server)).collect();
        let now = self.now;
        if usable.len() < self.servers.len() / 2 + 1 {
            (0..self.servers.len()).for_each(|server| self.look(server));
            self.clients[client].engine.link_failed(now, "too few");
            self.later(30_000, Event::Connects { client, link });
            return self.settle(client);
        }
        let this = &mut self.clients[client];
        let mut votes = Votes::new(Arc::clone(&self.names), Arc::clone(&this.ledger));
        usable.into_iter().for_each(|server| votes.joined(now, server));
        let missing: Vec<usize> = (0..self.servers.len()).filter(|&server| !votes.is_up(server)).collect();
        this.links[link] = Some(votes);
        this.engine.link_up(now);
        missing.into_iter().for_each(|server| self.later(20_000, Event::Joins { client, link, server }));
        self.settle(client);
    }

    /// A link lacks a server.
    fn join(&mut self, client: usize, link: usize, server: usize) {
        self.look(server);
        let usable = self.usable(server);
        let Some(votes) = &mut self.clients[client].links[link] else { return };
        if votes.is_up(server) {
            return;
        }
        if usable {
            votes.joined(self.now, server);
            self.settle(client);
        } else {
            self.later(20_000, Event::Joins { client, link, server });
        }
    }

    /// A connection ends; what is on it may still run.
    fn end_connection(&mut self, client: usize, link: usize, server: usize) {
        let this = &mut self.clients[client];
        this.epochs[link][server] += 1;
        this.forth.remove(&(link, server));
        this.back.remove(&(link, server));
        if let Some(votes) = &mut this.links[link] {
            votes.lost(self.now, server);
            self.later(1_000, Event::Joins { client, link, server });
        }
        self.settle(client);
    }

    fn tick(&mut self, client: usize) {
        let now = self.now;
        let this = &mut self.clients[client];
        let mut pushes = Vec::new();
        this.messages.tick(now, &mut pushes);
        pushes.into_iter().for_each(|push| this.engine.push(now, push));
        this.links.iter_mut().flatten().for_each(|votes| votes.tick(now));
        this.engine.tick(now);
        self.settle(client);
    }

    /// Carries out what the engine and the votes of a client want.
    fn settle(&mut self, client: usize) {
        loop {
            let mut quiet = true;
            let mut actions = Vec::new();
            self.clients[client].engine.take_actions(&mut actions);
            for action in actions {
                quiet = false;
                self.carry_out(client, action);
            }
            for link in 0..LINKS {
                while let Some(out) = self.clients[client].links[link].as_mut().and_then(Votes::next_out) {
                    quiet = false;
                    self.vote(client, link, out);
                }
                let majority = self.servers.len() / 2 + 1;
                let this = &mut self.clients[client];
                if let Some(votes) = this.links[link].take_if(|votes| votes.connected() < majority) {
                    quiet = false;
                    let pending = votes.pending();
                    if this.links.iter().all(Option::is_none) {
                        this.engine.link_down(self.now, "too few");
                    }
                    this.engine.lost(self.now, Lane::Command, &pending, "too few");
                    this.epochs[link].iter_mut().for_each(|epoch| *epoch += 1);
                    self.later(5_000, Event::Connects { client, link });
                }
            }
            if quiet {
                break;
            }
        }
        self.watch(client);
        let this = &self.clients[client];
        let votes = this.links.iter().flatten().filter_map(Votes::next_due);
        let due = votes.chain(this.engine.next_timer()).chain(this.messages.next_due()).min();
        if let Some(due) = due.map(|due| due.max(self.now))
            && due < this.tick_at
        {
            self.clients[client].tick_at = due;
            self.at(due, Event::Ticks { client });
        }
    }

    /// What the holder believes.
    fn watch(&mut self, client: usize) {
        let this = &mut self.clients[client];
        if let Some(holding) = this.holding {
            match this.engine.remaining(self.now, this.handle) {
                Ok(remaining) => self.history.seen(self.now, holding, self.now + remaining).unwrap(),
                Err(_) => {
                    this.holding = None;
                    self.history.lost(self.now, holding);
                }
            }
        }
    }

    fn carry_out(&mut self, client: usize, action: Action<()>) {
        let now = self.now;
        match action {
            Action::Send { id, request, .. } => {
                let links: Vec<usize> = (0..LINKS).filter(|&link| self.clients[client].links[link].is_some()).collect();
                if links.is_empty() {
                    self.clients[client].engine.link_down(now, "down");
                    return self.clients[client].engine.lost(now, Lane::Command, &[id], "down");
                }
                let link = links[self.random.below(links.len() as u64) as usize];
                self.clients[client].links[link].as_mut().unwrap().start(now, id, request);
            }
            // Connecting is always under way.
            Action::Connect => {}
            Action::Subscribe => self.clients[client].engine.subscribed(now, now),
            Action::Ping(number) => self.clients[client].engine.push(now, Push::Pong { number }),
            Action::DropSubscription => self.clients[client].engine.unsubscribed(now),
            Action::Lost { .. } => {}
            Action::Complete { operation, result, .. } => {
                self.clients[client].calling = false;
                let after = 100 + self.random.below(3_000);
                match (operation, result) {
                    (Operation::Release, _) => {}
                    (_, Ok(Answer::Acquired { token })) => {
                        let this = &mut self.clients[client];
                        let until = now + this.engine.remaining(now, this.handle).unwrap_or(0);
                        this.holding = Some(self.history.acquired(now, client, token, until).unwrap());
                        let long = self.random.chance(5);
                        let hold = self.random.below(if long { 900_000 } else { 5_000 });
                        return self.later(hold, Event::Acts { client });
                    }
                    (_, other) => self.history.failed(now, &client, &format!("{other:?}")).unwrap(),
                }
                self.later(after, Event::Acts { client });
            }
        }
    }

    fn vote(&mut self, client: usize, link: usize, out: Out) {
        let now = self.now;
        match out {
            Out::Send { server, id, request } => {
                let arrives = now + self.travel();
                let forth = self.clients[client].forth.entry((link, server)).or_default();
                *forth = arrives.max(*forth);
                let (at, epoch) = (*forth, self.clients[client].epochs[link][server]);
                self.at(at, Event::Arrives { client, link, server, epoch, id, request });
            }
            Out::Reply { id, reply } => self.clients[client].engine.reply(now, id, reply),
            Out::Drop { server, .. } => self.end_connection(client, link, server),
            Out::Wake { key, acquisition } => {
                self.clients[client].engine.push(now, dlock::store::quorum::messages::wake(key, acquisition));
            }
        }
    }

    /// The user of a client does the next thing.
    fn act(&mut self, client: usize) {
        let now = self.now;
        self.watch(client);
        let held = self.clients[client].holding.take();
        let this = &mut self.clients[client];
        if this.calling {
            return;
        }
        let operation = match held {
            Some(holding) => {
                self.history.write(now, holding).unwrap();
                self.history.released(now, holding);
                Operation::Release
            }
            None if now > END - 2_000_000 => return,
            None => {
                let deadline = self.random.chance(20).then(|| now + self.random.below(30_000));
                self.history.asked(now, "n", client, deadline);
                match self.random.below(10) {
                    0 => Operation::TryAcquire,
                    1 => Operation::Retry { retries: 2, backoff_us: 1_000 },
                    _ => Operation::Acquire { deadline },
                }
            }
        };
        this.calling = true;
        this.engine.start(now, this.handle, operation, ()).unwrap();
        self.settle(client);
    }

    /// Something goes wrong, with a minority of the servers at most.
    fn fail(&mut self) {
        if self.now >= FAULTS_END {
            return;
        }
        let server = self.random.below(self.servers.len() as u64) as usize;
        let client = self.random.below(self.clients.len() as u64) as usize;
        let link = self.random.below(LINKS as u64) as usize;
        let duration = 1_000 + self.random.below(300_000);
        let may = self.out < self.servers.len() / 2 && self.usable(server) && self.servers[server].since.is_none();
        match self.random.below(10) {
            0..4 => self.end_connection(client, link, server),
            4 | 5 if may => {
                self.out += 1;
                self.servers[server].stopped = true;
                self.later(duration, Event::Mends { server });
            }
            6 | 7 if may => {
                self.out += 1;
                self.servers[server].memory.flush();
            }
            8 | 9 if may => {
                self.out += 1;
                self.servers[server].dead = true;
                self.servers[server].memory.flush();
                self.later(duration, Event::Mends { server });
                for client in 0..self.clients.len() {
                    (0..LINKS).for_each(|link| self.end_connection(client, link, server));
                }
            }
            _ => {}
        }
        let next = self.random.below(150_000);
        self.later(next, Event::Fails);
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}: {text:?} is no number")))
}

#[test]
fn never_two_holders_and_rising_tokens_on_a_quorum_that_fails_in_every_way() {
    let seeds = match number("DLOCK_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("DLOCK_SEEDS").unwrap_or(150),
    };
    let (mut acquisitions, mut lost) = (0, 0);
    for seed in seeds.clone() {
        eprintln!("DLOCK_SEED={seed}");
        let counts = World::new(seed).run();
        assert_eq!(counts.overlaps, 0, "DLOCK_SEED={seed}");
        acquisitions += counts.acquisitions;
        lost += counts.lost;
    }
    println!("{seeds:?}: {acquisitions} acquisitions, {lost} lost");
    assert!(acquisitions > 20 * (seeds.end - seeds.start), "{acquisitions} acquisitions only");
}
