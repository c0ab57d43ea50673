//! A target with one connection and some subscriptions: sends a step, answers its reply and what it published.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dlock::store::{Acquisition, Connection, Name, Op, Push, Reply, Request, RequestId, Seat, Subscription};
use uuid::Uuid;

use crate::target::{Content, Queued, Target};

/// Longer than anything takes on a loaded machine; reached only by a failure.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const LEASE: u64 = 60_000;
pub const CLAIM: u64 = 13_000;
/// Two leases that were meant to be alike differ by less, two that were not, by more.
pub const TOLERANCE_MS: u64 = 5_000;

pub fn who(handle: u128, attempt: u64) -> Acquisition {
    Acquisition { owner: Uuid::from_u128(handle << 64 | handle), attempt }
}

pub struct Bench {
    pub target: Box<dyn Target>,
    pub name: Arc<Name>,
    connection: Box<dyn Connection>,
    subscriptions: BTreeMap<String, Box<dyn Subscription>>,
    last: u64,
    pings: u64,
}

impl Bench {
    /// Lockers `A`, `B` and `C` are subscribed; nobody is to `dead`.
    pub fn new(target: Box<dyn Target>) -> Self {
        let connection = target.store().connect(0).expect("connects");
        let name = Arc::new(Name::new("lock", "group").unwrap());
        let mut bench = Bench { target, name, connection, subscriptions: BTreeMap::new(), last: 0, pings: 0 };
        ["A", "B", "C"].iter().for_each(|channel| bench.subscribe(channel));
        bench
    }

    pub fn subscribe(&mut self, channel: &str) {
        let subscription = self.target.store().subscribe(channel, Arc::new(|| ())).expect("subscribes");
        self.subscriptions.insert(channel.to_owned(), subscription);
    }

    /// Returns when the server knows, which a closed socket alone would not tell.
    pub fn unsubscribe(&mut self, channel: &str) {
        if self.subscriptions.remove(channel).is_some() {
            self.target.await_unsubscribed(channel);
        }
    }

    pub fn is_subscribed(&self, channel: &str) -> bool {
        self.subscriptions.contains_key(channel)
    }

    pub fn reconnect(&mut self, highest_token: u64) {
        self.connection = self.target.store().connect(highest_token).expect("connects");
    }

    pub fn request(&self, channel: &str, acquisition: Acquisition, op: Op) -> Request {
        let seat = Seat { claim_ms: CLAIM, channel: Arc::from(channel) };
        Request { name: Arc::clone(&self.name), acquisition, seat, op }
    }

    pub fn run(&mut self, channel: &str, acquisition: Acquisition, op: Op) -> Reply {
        self.send(&[self.request(channel, acquisition, op)]).remove(0)
    }

    /// Sends them all, then waits for all replies.
    pub fn send(&mut self, requests: &[Request]) -> Vec<Reply> {
        let first = self.last + 1;
        for request in requests {
            self.last += 1;
            self.connection.push(RequestId(self.last), request.clone());
        }
        assert_eq!(self.connection.pending(), (first..=self.last).map(RequestId).collect::<Vec<_>>());
        let (mut replies, begun) = (Vec::new(), Instant::now());
        // A connection may have asked something of its own besides.
        while replies.len() < requests.len() || !self.connection.is_idle() {
            assert!(begun.elapsed() < PATIENCE, "no reply");
            self.connection.turn(Duration::from_secs(1), &mut replies).expect("the connection lives");
        }
        assert_eq!(self.connection.pending(), []);
        let (ids, replies): (Vec<u64>, Vec<Reply>) = replies.into_iter().map(|(id, reply)| (id.0, reply)).unzip();
        assert_eq!(ids, (first..=self.last).collect::<Vec<_>>(), "replies come in order, each once");
        replies
    }

    /// What the channel got since the last look: all that comes before the answer to a ping.
    pub fn pushes(&mut self, channel: &str) -> Vec<Push> {
        self.ping(channel);
        self.until_pong(channel)
    }

    /// The pushes of every subscribed channel.
    pub fn all_pushes(&mut self) -> Vec<(String, Push)> {
        let channels: Vec<String> = self.subscriptions.keys().cloned().collect();
        channels.iter().for_each(|channel| self.ping(channel));
        let mut all = Vec::new();
        for channel in channels {
            all.extend(self.until_pong(&channel).into_iter().map(|push| (channel.clone(), push)));
        }
        all
    }

    fn ping(&mut self, channel: &str) {
        self.pings += 1;
        let subscription = self.subscriptions.get_mut(channel).expect("subscribed");
        subscription.ping(self.pings).expect("the subscription lives");
    }

    /// What comes before the pong of the one ping that is out.
    fn until_pong(&mut self, channel: &str) -> Vec<Push> {
        let subscription = self.subscriptions.get_mut(channel).expect("subscribed");
        let (mut pushes, begun) = (Vec::new(), Instant::now());
        while !matches!(pushes.last(), Some(Push::Pong { .. })) {
            assert!(begun.elapsed() < PATIENCE, "no pong, but {pushes:?}");
            if let Some(fd) = subscription.fd() {
                readable(fd);
            }
            subscription.receive(&mut pushes).expect("the subscription lives");
        }
        let Some(Push::Pong { number }) = pushes.pop() else { unreachable!("seen above") };
        assert!(number <= self.pings && !pushes.iter().any(|push| matches!(push, Push::Pong { .. })));
        pushes
    }
}

/// Waits until there is something to read.
fn readable(fd: std::os::fd::RawFd) {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, which is ours.
    unsafe { libc::poll(&mut poll, 1, 1000) };
}

/// Short forms for the scenarios; each fails where the reply is another.
impl Bench {
    pub fn taken(&mut self, channel: &str, acquisition: Acquisition, op: Op) -> u64 {
        match self.run(channel, acquisition, op) {
            Reply::Taken { token } => token,
            other => panic!("{acquisition} {op:?}: {other:?}"),
        }
    }

    pub fn queued(&mut self, channel: &str, acquisition: Acquisition, place: u64) -> u64 {
        match self.run(channel, acquisition, Op::Join { lease_ms: LEASE, place, queue: true }) {
            Reply::Queued { place, .. } => place,
            other => panic!("{acquisition}: {other:?}"),
        }
    }

    pub fn hold(&mut self, acquisition: Acquisition) {
        let key = self.name.key().to_owned();
        self.target.put(&key, crate::target::Value::Text(acquisition.to_string()));
        self.target.expire_in(&key, LEASE);
    }

    pub fn key(&mut self) -> Content {
        self.target.content(self.name.key())
    }

    pub fn assert_held_by(&mut self, acquisition: Acquisition, for_ms: u64) {
        assert_eq!(self.key(), Content::Text(acquisition.to_string()));
        let remaining = self.target.remaining_ms(self.name.key());
        assert!(remaining.is_some_and(|ms| ms <= for_ms && ms + TOLERANCE_MS > for_ms), "{remaining:?} of {for_ms}");
    }

    pub fn queue(&mut self) -> Vec<Queued> {
        self.target.queue(self.name.waiters())
    }

    /// The queue as text: handle numbers, a `*` behind the marked ones.
    pub fn order(&mut self) -> String {
        let entry = |entry: &Queued| {
            let owner = Acquisition::parse(entry.member.split('@').next().unwrap()).expect("an acquisition").owner;
            format!("{}{}", owner.as_u128() as u64, if entry.marked { "*" } else { "" })
        };
        self.queue().iter().map(entry).collect::<Vec<_>>().join(" ")
    }
}
