//! The messages of a cluster: one connection to each node whose locks are waited for, subscribed slot by slot (sharded
//! messages) or once (plain ones).
//!
//! A message is news, and no proof that the lock is held: `PUBLISH` counts the readers at its own node but reaches those at
//! all, and a replica may be promoted without what its primary handed out. So a hand-off is passed on with the token 0,
//! which has the waiter join, and nothing is concluded from when a ping was answered. A connection that is silent or ends
//! is made anew in here, and then the waiters of its slots are told to join again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::codec::write_channel;
use super::super::copies::without_token;
use super::super::error::redirection;
use super::super::handshake;
use super::super::resp::{Value, decimal};
use super::super::sentinel::Era;
use super::super::slot::{slot, tag_of};
use super::super::stream::Stream;
use super::super::subscription::{KEEP_ALIVE, RedisSubscription, payload_of};
use super::map::Node;
use super::{Mail, PAUSE, Shared, Ways};
use crate::descriptors::{Poller, Signal};
use crate::store::{Acquisition, Push, Request, Subscription, Unreachable};

/// After a slot's channel was refused, before it is asked for again; its waiters poll meanwhile.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// What the poller calls the mail.
const MAIL: u64 = u64::MAX;

type Connected = (u16, Result<Stream, Unreachable>);

/// May a waiter be queued in a slot?
pub enum Admission {
    /// Its messages are read.
    Granted,
    /// They will be; a signal is raised then.
    NotYet,
    /// They cannot be had now.
    Refused,
}

/// All that is read, while a subscription is open.
#[derive(Default)]
pub struct Messages(Option<Reader>);

struct Reader {
    channel: Arc<str>,
    ways: Ways,
    nodes: HashMap<u16, Feed>,
    slots: HashMap<u16, Slot>,
    poller: Arc<Poller>,
    mail: Arc<Mail<Connected>>,
    pushes: Vec<Push>,
    /// Those who hold back joins.
    signals: Vec<Arc<Signal>>,
}

/// A slot in which somebody waits, or has waited.
struct Slot {
    reading: Reading,
    /// Messages may have been missed: when they are read again, its waiters are to join.
    missed: bool,
    /// Its locks that are waited for, and for whom.
    awaited: HashMap<String, HashSet<Acquisition>>,
}

/// Where a slot's messages are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Nowhere,
    Asked(u16),
    At(u16),
    Refused(Instant),
}

enum Feed {
    Connecting,
    Up(Box<Wire>),
    Down { until: Instant },
}

struct Wire {
    node: Arc<Node>,
    inner: RedisSubscription,
    /// What was said and is not answered, and when.
    asked: VecDeque<(Asked, Instant)>,
    /// Is the one channel of plain messages subscribed to?
    is_plain: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Ping,
    Plain,
    Slot(u16),
}

/// What a node said.
pub(super) enum Said {
    Push(Push),
    /// The answer to what was asked first. `Err`: a refusal, and where it sends us.
    Answer(Result<(), Option<String>>),
    /// It reads that slot's channel no more.
    Left(u16),
}

impl Messages {
    /// May this waiter be queued? Notes that it waits. `signal` is raised when the answer may be another.
    pub fn admit(&mut self, shared: &Arc<Shared>, slot: u16, request: &Request, signal: &Arc<Signal>) -> Admission {
        let Some(reader) = &mut self.0 else { return Admission::Refused };
        let state = reader.slots.entry(slot).or_insert_with(Slot::new);
        state.awaited.entry(request.name.key().to_owned()).or_default().insert(request.acquisition);
        if matches!(state.reading, Reading::Refused(until) if until <= Instant::now()) {
            state.reading = Reading::Nowhere;
        }
        if state.reading == Reading::Nowhere {
            reader.seek(shared, slot);
        }
        match reader.slots.get(&slot).map(|state| state.reading) {
            Some(Reading::At(index)) if shared.map.owner(slot) == Some(index) => Admission::Granted,
            Some(Reading::Refused(_)) | None => Admission::Refused,
            Some(_) => {
                if !reader.signals.iter().any(|other| Arc::ptr_eq(other, signal)) {
                    reader.signals.push(Arc::clone(signal));
                }
                Admission::NotYet
            }
        }
    }

    /// This attempt waits no more.
    pub fn forget(&mut self, slot: u16, request: &Request) {
        let Some(state) = self.0.as_mut().and_then(|reader| reader.slots.get_mut(&slot)) else { return };
        if let Some(waiters) = state.awaited.get_mut(request.name.key()) {
            waiters.remove(&request.acquisition);
            if waiters.is_empty() {
                state.awaited.remove(request.name.key());
            }
        }
    }

    /// Reads what has come and says what there is to say, without waiting. Answers what to poll for more.
    pub fn progress(&mut self, shared: &Arc<Shared>) -> Option<Arc<Poller>> {
        let reader = self.0.as_mut()?;
        reader.progress(shared);
        if !reader.pushes.is_empty() {
            reader.mail.signal.raise(); // they are no more to be seen at the sockets
        }
        Some(Arc::clone(&reader.poller))
    }
}

impl Slot {
    fn new() -> Self {
        Slot { reading: Reading::Nowhere, missed: false, awaited: HashMap::new() }
    }
}

impl Reader {
    fn progress(&mut self, shared: &Arc<Shared>) {
        self.take_mail(shared);
        self.end_silent(shared.config.response_timeout);
        let up = |(&index, feed): (&u16, &Feed)| matches!(feed, Feed::Up(_)).then_some(index);
        let up: Vec<u16> = self.nodes.iter().filter_map(up).collect();
        up.into_iter().for_each(|index| self.read(shared, index));
    }

    fn end_silent(&mut self, timeout: Duration) {
        let now = Instant::now();
        let silent = |(&index, feed): (&u16, &Feed)| {
            let Feed::Up(wire) = feed else { return None };
            wire.asked.front().is_some_and(|&(_, since)| now - since > timeout).then_some(index)
        };
        let silent: Vec<u16> = self.nodes.iter().filter_map(silent).collect();
        silent.into_iter().for_each(|index| self.ended(index));
    }

    /// Looks after what nobody else reports: nodes that have no slots any more, slots that have moved, and pauses that are
    /// over.
    fn look_around(&mut self, shared: &Arc<Shared>) {
        let (now, owners) = (Instant::now(), shared.map.owners());
        // One that is being connected to is left until that has ended, or a second connection would take the first one's place,
        // with whatever was subscribed to on it.
        let is_stranger = |(&index, feed): (&u16, &Feed)| {
            let stays = matches!(feed, Feed::Connecting) || owners.iter().any(|node| node.index == index);
            (!stays).then_some(index)
        };
        let strangers: Vec<u16> = self.nodes.iter().filter_map(is_stranger).collect();
        strangers.into_iter().for_each(|index| self.ended(index));
        for slot in self.slots.keys().copied().collect::<Vec<_>>() {
            let Some(state) = self.slots.get_mut(&slot) else { continue };
            let moved = match state.reading {
                Reading::At(index) => shared.map.owner(slot) != Some(index),
                Reading::Refused(until) => until <= now,
                Reading::Nowhere => true,
                Reading::Asked(_) => false,
            };
            if moved && state.awaited.is_empty() {
                self.slots.remove(&slot);
            } else if moved {
                state.missed |= matches!(state.reading, Reading::At(_));
                state.reading = Reading::Nowhere;
                self.seek(shared, slot);
            }
        }
    }

    /// Subscribes to the slot's messages at its node, connecting if need be.
    fn seek(&mut self, shared: &Arc<Shared>, slot: u16) {
        let Some(state) = self.slots.get_mut(&slot) else { return };
        let node = shared.map.owner(slot).and_then(|index| shared.map.node(index));
        let Some(node) = node else { return self.refuse(slot) };
        match self.nodes.get_mut(&node.index) {
            Some(Feed::Up(wire)) if self.ways == Ways::Sharded => {
                let mut name = Vec::new();
                write_channel(&mut name, &self.channel, &format!("{{{}}}", tag_of(slot)));
                state.reading = Reading::Asked(node.index);
                wire.asked.push_back((Asked::Slot(slot), Instant::now()));
                if wire.inner.say(&[b"SSUBSCRIBE", &name]).is_err() {
                    self.ended(node.index);
                }
            }
            Some(Feed::Up(wire)) if wire.is_plain => self.confirm(slot, node.index),
            Some(Feed::Up(_) | Feed::Connecting) => {}
            Some(Feed::Down { until }) if Instant::now() < *until => self.refuse(slot),
            Some(Feed::Down { .. }) | None => self.connect(shared, node, slot),
        }
    }

    fn connect(&mut self, shared: &Arc<Shared>, node: Arc<Node>, slot: u16) {
        let (index, mail) = (node.index, Arc::clone(&self.mail));
        if shared.spawn(move || {
            mail.post((node.index, handshake::for_node_messages(&node.site).map_err(|refused| refused.why)))
        }) {
            self.nodes.insert(index, Feed::Connecting);
        } else {
            self.refuse(slot);
        }
    }

    fn take_mail(&mut self, shared: &Arc<Shared>) {
        for (index, connected) in self.mail.take() {
            let node = shared.map.node(index);
            if let (Ok(stream), Some(node)) = (connected, node) {
                let _ = self.poller.add(stream.fd(), u64::from(index));
                let inner = RedisSubscription::new(
                    stream,
                    Arc::clone(&node.text),
                    Era::endless(),
                    &self.channel,
                    true,
                    Vec::new(),
                );
                let mut wire = Wire { node, inner, asked: VecDeque::new(), is_plain: false };
                if self.ways == Ways::Plain {
                    wire.asked.push_back((Asked::Plain, Instant::now()));
                    let _ = wire.inner.say(&[b"SUBSCRIBE", self.channel.as_bytes()]); // if it failed, reading tells
                }
                self.nodes.insert(index, Feed::Up(Box::new(wire)));
                for slot in self.slots_of(shared, index) {
                    self.seek(shared, slot);
                }
            } else {
                self.nodes.insert(index, Feed::Down { until: Instant::now() + PAUSE });
                self.slots_of(shared, index).into_iter().for_each(|slot| self.refuse(slot));
            }
        }
    }

    /// The slots of that node whose messages are read nowhere.
    fn slots_of(&self, shared: &Shared, index: u16) -> Vec<u16> {
        let is_its = |(&slot, state): (&u16, &Slot)| {
            (state.reading == Reading::Nowhere && shared.map.owner(slot) == Some(index)).then_some(slot)
        };
        self.slots.iter().filter_map(is_its).collect()
    }

    fn confirm(&mut self, slot: u16, index: u16) {
        let Some(state) = self.slots.get_mut(&slot) else { return };
        state.reading = Reading::At(index);
        if std::mem::take(&mut state.missed) {
            self.pushes.extend(state.awaited.keys().map(|key| Push::Dropped { key: key.clone() }));
            self.mail.signal.raise(); // there is something to receive
        }
        self.raise_all();
    }

    /// Its waiters poll until it is tried again.
    fn refuse(&mut self, slot: u16) {
        if let Some(state) = self.slots.get_mut(&slot) {
            state.missed |= matches!(state.reading, Reading::At(_));
            state.reading = Reading::Refused(Instant::now() + REFUSED_PAUSE);
        }
        self.raise_all();
    }

    fn raise_all(&mut self) {
        self.signals.drain(..).for_each(|signal| signal.raise());
    }

    /// The connection to that node ended.
    fn ended(&mut self, index: u16) {
        if let Some(Feed::Up(wire)) = self.nodes.insert(index, Feed::Down { until: Instant::now() + PAUSE }) {
            self.poller.remove(wire.inner.fd().unwrap_or(-1));
        }
        let here = |(&slot, state): (&u16, &Slot)| {
            matches!(state.reading, Reading::At(at) | Reading::Asked(at) if at == index).then_some(slot)
        };
        let here: Vec<u16> = self.slots.iter().filter_map(here).collect();
        for slot in here {
            if let Some(state) = self.slots.get_mut(&slot) {
                state.missed |= matches!(state.reading, Reading::At(_));
                state.reading = Reading::Nowhere;
            }
        }
        self.raise_all();
    }

    /// Takes what a node has said.
    fn read(&mut self, shared: &Arc<Shared>, index: u16) {
        let Some(Feed::Up(wire)) = self.nodes.get_mut(&index) else { return };
        let mut said = Vec::new();
        let received = wire.inner.receive_values(|value| said.extend(listen(value)));
        for said in said {
            match said {
                // A plain message reaches the readers at all nodes: the one at the node that sent it will do.
                Said::Push(push)
                    if self.ways == Ways::Plain && shared.map.owner(slot(key_of(&push))) != Some(index) => {}
                Said::Push(push) => self.pushes.push(push),
                Said::Left(slot) => self.left(shared, slot, index),
                Said::Answer(answer) => self.answered(shared, index, answer),
            }
        }
        if received.is_err() {
            self.ended(index);
        }
    }

    fn left(&mut self, shared: &Arc<Shared>, slot: u16, index: u16) {
        if let Some(state) = self.slots.get_mut(&slot)
            && state.reading == Reading::At(index)
        {
            (state.reading, state.missed) = (Reading::Nowhere, true);
            self.seek(shared, slot);
        }
    }

    fn answered(&mut self, shared: &Arc<Shared>, index: u16, answer: Result<(), Option<String>>) {
        let Some(Feed::Up(wire)) = self.nodes.get_mut(&index) else { return };
        let Some((asked, _)) = wire.asked.pop_front() else { return };
        match (asked, answer) {
            (Asked::Plain, Ok(())) => {
                wire.is_plain = true;
                self.slots_of(shared, index).into_iter().for_each(|slot| self.confirm(slot, index));
            }
            (Asked::Plain, Err(_)) => {
                self.slots_of(shared, index).into_iter().for_each(|slot| self.refuse(slot));
                self.ended(index);
            }
            (Asked::Slot(slot), Ok(())) => self.confirm(slot, index),
            (Asked::Slot(slot), Err(to)) => {
                let node = to.and_then(|to| shared.map.named(&to, &wire.node)).filter(|node| node.index != index);
                match (node, self.slots.get_mut(&slot)) {
                    (Some(node), Some(state)) => {
                        shared.map.set_owner(slot, node.index);
                        state.reading = Reading::Nowhere;
                        self.seek(shared, slot);
                    }
                    _ => self.refuse(slot),
                }
            }
            (Asked::Ping, _) => {}
        }
    }

    fn ping(&mut self, text: &[u8]) {
        let mut ended = Vec::new();
        for (&index, feed) in &mut self.nodes {
            if let Feed::Up(wire) = feed {
                wire.asked.push_back((Asked::Ping, Instant::now()));
                if wire.inner.say(&[b"PING", text]).is_err() {
                    ended.push(index);
                }
            }
        }
        ended.into_iter().for_each(|index| self.ended(index));
    }
}

fn key_of(push: &Push) -> &str {
    match push {
        Push::HandOff { key, .. } | Push::Dropped { key } => key,
        Push::Pong { .. } => "",
    }
}

/// What a value is. What is none of it, is nothing.
pub(super) fn listen(value: &Value) -> Option<Said> {
    let Value::Array(parts) = value else {
        let Value::Error(text) = value else { return Some(Said::Answer(Ok(()))) };
        let text = String::from_utf8_lossy(text);
        return Some(Said::Answer(Err(redirection(&text).map(|to| to.to.to_owned()))));
    };
    let [Some(Value::Bulk(kind)), second, third] = parts.first() else { return None };
    match kind {
        b"message" | b"smessage" => {
            let Some(Value::Bulk(payload)) = third else { return None };
            let push = payload_of(std::str::from_utf8(payload).ok()?)?;
            Some(Said::Push(match push {
                Push::HandOff { key, hand_off } => Push::HandOff { key, hand_off: without_token(hand_off) },
                push => push,
            }))
        }
        b"sunsubscribe" => Some(Said::Left(slot(second?.text()?))),
        b"subscribe" | b"ssubscribe" | b"pong" => Some(Said::Answer(Ok(()))),
        _ => None,
    }
}

/// The one subscription of a store.
pub struct ClusterSubscription {
    shared: Arc<Shared>,
    poller: Arc<Poller>,
    mail: Arc<Mail<Connected>>,
    pongs: Vec<Push>,
}

impl ClusterSubscription {
    /// Begins to read, instead of whatever was read before.
    pub fn open(shared: &Arc<Shared>, channel: &str) -> io::Result<Self> {
        let (poller, mail) = (Arc::new(Poller::new(&shared.descriptors)?), Mail::new(&shared.descriptors)?);
        poller.add(mail.signal.fd(), MAIL)?;
        let (same, same_mail) = (Arc::clone(&poller), Arc::clone(&mail));
        let reader = Reader {
            channel: channel.into(),
            ways: shared.ways(),
            nodes: HashMap::new(),
            slots: HashMap::new(),
            poller,
            mail,
            pushes: Vec::new(),
            signals: Vec::new(),
        };
        shared.messages().0 = Some(reader);
        Ok(ClusterSubscription { shared: Arc::clone(shared), poller: same, mail: same_mail, pongs: Vec::new() })
    }

    /// Does something with the reader. `None`: another subscription was opened since.
    fn with<R>(&self, f: impl FnOnce(&mut Reader) -> R) -> Option<R> {
        let mut messages = self.shared.messages();
        messages.0.as_mut().filter(|reader| Arc::ptr_eq(&reader.mail, &self.mail)).map(f)
    }
}

impl Subscription for ClusterSubscription {
    /// Pings every node. The pong is given at once: which node is silent is judged in here.
    fn ping(&mut self, number: u64) -> Result<(), Unreachable> {
        let mut digits = [0; 20];
        let text = decimal(number, &mut digits);
        self.with(|reader| {
            reader.look_around(&self.shared);
            reader.ping(text);
        });
        self.pongs.push(Push::Pong { number });
        Ok(())
    }

    fn keep_alive(&mut self) -> Result<(), Unreachable> {
        self.with(|reader| reader.ping(KEEP_ALIVE));
        Ok(())
    }

    fn receive(&mut self, pushes: &mut Vec<Push>) -> Result<(), Unreachable> {
        pushes.append(&mut self.pongs);
        let received = self.with(|reader| {
            reader.progress(&self.shared);
            pushes.append(&mut reader.pushes);
        });
        received.ok_or_else(|| Unreachable("another subscription was opened".to_owned()))
    }

    fn fd(&self) -> Option<RawFd> {
        Some(self.poller.fd())
    }
}

impl Drop for ClusterSubscription {
    fn drop(&mut self) {
        let mut messages = self.shared.messages();
        if messages.0.as_ref().is_some_and(|reader| Arc::ptr_eq(&reader.mail, &self.mail)) {
            if let Some(reader) = &mut messages.0 {
                reader.raise_all();
            }
            messages.0 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::super::{Address, ClusterStore, Config};
    use super::*;
    use crate::store::{Name, Op, Seat, Store};

    #[test]
    fn a_node_that_loses_its_slots_while_it_is_connected_to_and_gets_them_back_is_connected_to_once() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        silent.set_nonblocking(true).unwrap();
        let address = Address::Tcp { host: "127.0.0.1".into(), port: silent.local_addr().unwrap().port() };
        let timeout = Duration::from_secs(3);
        let config = Config { response_timeout: timeout, connect_timeout: timeout, ..Config::new(address.clone()) };
        let store = ClusterStore::new(vec![address.clone()], config);
        let shared = Arc::clone(&store.shared);
        shared.ways.store(Ways::Sharded as u8, std::sync::atomic::Ordering::Release);
        let mut subscription = store.subscribe(":dlock:wake:none", Arc::new(|| {})).unwrap();

        let name = Arc::new(Name::new("n", "g").unwrap());
        let seat = Seat { claim_ms: 1, channel: ":dlock:wake:none".into() };
        let acquisition = Acquisition { owner: uuid::Uuid::from_u128(1), attempt: 1 };
        let request = Request { name: Arc::clone(&name), acquisition, seat, op: Op::Inspect };
        let (slot, signal) = (slot(name.tag()), Arc::new(Signal::noted(&shared.descriptors).unwrap()));
        let node = shared.map.at(&address).unwrap();
        let other = shared.map.at(&Address::local()).unwrap();
        for owner in [&node, &other, &node] {
            shared.map.set_owner(slot, owner.index);
            subscription.ping(1).unwrap(); // looks around
            if owner.index == node.index {
                let admission = shared.messages().admit(&shared, slot, &request, &signal);
                assert!(matches!(admission, Admission::NotYet));
            }
            std::thread::sleep(2 * PAUSE);
        }
        assert!(silent.accept().is_ok());
        assert!(silent.accept().is_err(), "a second connection");
    }
}
