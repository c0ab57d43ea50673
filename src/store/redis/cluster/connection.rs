//! One stream of requests and replies to all nodes of a cluster: each request goes to the node that has its slot, follows
//! where it is sent on, and is lost only with that node's connection.

use std::collections::{HashMap, HashSet};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{io, mem};

use super::super::codec::{self, Form};
use super::super::connection::RedisConnection;
use super::super::copies::without_token;
use super::super::error::{Redirection, redirection};
use super::super::handshake::{self, floor_of};
use super::super::sentinel::Era;
use super::super::slot::{SLOTS, slot};
use super::super::stream::Stream;
use super::super::{Config, error, resp};
use super::map::Node;
use super::messages::Admission;
use super::{Mail, PAUSE, Shared};
use crate::descriptors::Poller;
use crate::store::name::{FENCE, FENCE_LIFE};
use crate::store::{Connection, ErrorClass, HandOff, Op, Reply, Request, RequestId, ServerError, Unreachable};

/// A request is sent on at most so often; the map must be changing faster than it is learnt.
const HOPS_MAX: u8 = 5;
/// So long a join waits for its slot's channel; then it asks without queueing.
const HOLD_MAX: Duration = Duration::from_secs(1);
/// The question aside that is for the map; the others are for the counters of slots and have their numbers.
const THE_MAP: u32 = SLOTS as u32;
/// Names of what is polled besides the nodes.
const MAIL: u64 = u64::MAX;
const MESSAGES: u64 = u64::MAX - 1;

type Connected = (u16, Result<handshake::Node, Unreachable>);

/// A request on its way.
struct Routed {
    request: Request,
    slot: u16,
    hops: u8,
    /// The node that is to be asked this time though it does not have the slot yet (`ASK`).
    once: Option<u16>,
    /// A renewal while the slot is moved: of the lock's key alone.
    alone: bool,
    /// Since when it waits for its slot's channel.
    held_since: Option<Instant>,
}

/// How far the counter of a slot was brought on one connection (rule 5).
enum Lift {
    Asked,
    Done,
    Refused(String),
}

struct Up {
    node: Arc<Node>,
    connection: RedisConnection,
    /// For each slot in use, with the map's epoch.
    lifts: HashMap<u16, (u64, Lift)>,
    /// Is it polled for room to send?
    unsent: bool,
}

impl Up {
    fn fd(&self) -> RawFd {
        self.connection.fd().unwrap_or(-1)
    }
}

enum Link {
    /// With those that wait for it.
    Connecting(Vec<RequestId>),
    Up(Box<Up>),
    Down {
        until: Instant,
        why: Unreachable,
    },
}

pub struct ClusterConnection {
    shared: Arc<Shared>,
    links: HashMap<u16, Link>,
    requests: HashMap<RequestId, Routed>,
    /// Joins that wait for their slot's channel.
    held: Vec<RequestId>,
    /// The slots of those: what comes later waits behind them, or it would overtake them when the channel is there.
    held_slots: HashSet<u16>,
    ready: Vec<(RequestId, Reply)>,
    poller: Poller,
    mail: Arc<Mail<Connected>>,
    connecting: usize,
    /// What the poller has named since it was looked at.
    named: Vec<u64>,
    /// What the messages come in by, while it is polled because joins are held.
    messages: Option<Arc<Poller>>,
    dead: Option<Unreachable>,
}

impl ClusterConnection {
    pub fn new(shared: &Arc<Shared>, node: Arc<Node>, stream: Stream) -> io::Result<Self> {
        let (poller, mail) = (Poller::new(&shared.descriptors)?, Mail::new(&shared.descriptors)?);
        poller.add(mail.signal.fd(), MAIL)?;
        let mut this = ClusterConnection {
            shared: Arc::clone(shared),
            links: HashMap::new(),
            requests: HashMap::new(),
            held: Vec::new(),
            held_slots: HashSet::new(),
            ready: Vec::new(),
            poller,
            mail,
            connecting: 0,
            named: Vec::new(),
            messages: None,
            dead: None,
        };
        this.install(node, stream);
        Ok(this)
    }

    fn install(&mut self, node: Arc<Node>, stream: Stream) {
        let _ = self.poller.add(stream.fd(), u64::from(node.index));
        let Config { response_timeout, copies, .. } = node.site.config;
        let (address, scripts) = (Arc::clone(&node.text), Arc::clone(&self.shared.scripts));
        let connection = RedisConnection::new(stream, address, Era::endless(), response_timeout, copies, scripts);
        let up = Up { node, connection, lifts: HashMap::new(), unsent: false };
        self.links.insert(up.node.index, Link::Up(Box::new(up)));
    }

    // --- routing ---

    /// Sends a request to where its slot is, or keeps it until it can be sent, or answers that it cannot.
    fn route(&mut self, id: RequestId) {
        let Some(routed) = self.requests.get_mut(&id) else { return };
        if let Op::Join { queue: true, .. } = routed.request.op {
            let admission = match self.held_slots.contains(&routed.slot) {
                true => Admission::NotYet,
                false => self.shared.messages().admit(&self.shared, routed.slot, &routed.request, &self.mail.signal),
            };
            match admission {
                Admission::Granted => {}
                Admission::NotYet if routed.held_since.is_none_or(|since| since.elapsed() < HOLD_MAX) => {
                    routed.held_since.get_or_insert_with(Instant::now);
                    self.held.push(id);
                    self.held_slots.insert(routed.slot);
                    return;
                }
                Admission::NotYet | Admission::Refused => routed.request.op = without_queueing(routed.request.op),
            }
            routed.held_since = None;
        }
        // Without a map, whichever node is asked sends it on.
        let owner = routed.once.or_else(|| self.shared.map.owner(routed.slot)).or_else(|| self.any_up());
        let Some(index) = owner else { return self.away(id, "no node is known") };
        match self.links.get_mut(&index) {
            Some(Link::Up(up)) => {
                if let Some(routed) = self.requests.get_mut(&id) {
                    send(&self.shared, up, id, routed);
                }
            }
            Some(Link::Connecting(waiting)) => waiting.push(id),
            Some(Link::Down { until, why }) if Instant::now() < *until => {
                let why = why.0.clone();
                self.away(id, &why);
            }
            Some(Link::Down { .. }) | None => self.connect(index, id),
        }
    }

    fn any_up(&self) -> Option<u16> {
        self.links.iter().find(|(_, link)| matches!(link, Link::Up(_))).map(|(&index, _)| index)
    }

    fn connect(&mut self, index: u16, id: RequestId) {
        let Some(node) = self.shared.map.node(index) else { return self.away(id, "no node is known") };
        let (shared, mail) = (Arc::clone(&self.shared), Arc::clone(&self.mail));
        let started = self.shared.spawn(move || {
            let reached = shared.reach(&node);
            mail.post((node.index, reached));
        });
        if !started {
            return self.away(id, "cannot start a thread to connect");
        }
        self.connecting += 1;
        self.links.insert(index, Link::Connecting(vec![id]));
    }

    /// The request was not sent.
    fn away(&mut self, id: RequestId, why: &str) {
        let error = ServerError { class: ErrorClass::Away, text: why.to_owned() };
        self.answer(id, Reply::Error(error));
        self.ask_map();
    }

    fn answer(&mut self, id: RequestId, reply: Reply) {
        if let Some(routed) = self.requests.remove(&id) {
            if let (Op::Join { .. }, Reply::Taken { .. }) = (routed.request.op, &reply) {
                self.shared.messages().forget(routed.slot, &routed.request);
            }
            self.ready.push((id, reply));
        }
    }

    /// The node that answered does not have the slot, or not the keys.
    fn redirect(&mut self, id: RequestId, by: &Node, to: Redirection, text: &str) {
        let Some(routed) = self.requests.get_mut(&id) else { return };
        routed.hops += 1;
        let node = self.shared.map.named(to.to, by).filter(|_| routed.hops <= HOPS_MAX);
        let Some(node) = node else {
            let error = ServerError { class: ErrorClass::Retry, text: format!("sent on too often: {text}") };
            return self.answer(id, Reply::Error(error));
        };
        if to.once {
            routed.once = Some(node.index);
        } else {
            self.shared.map.set_owner(routed.slot, node.index);
            self.ask_map();
        }
        self.route(id);
    }

    /// Has a node say who has what, where that was not asked a moment ago.
    fn ask_map(&mut self) {
        // Not always the same: one that is cut off from the others has an old map.
        let turn = self.shared.begun.elapsed().as_millis() as usize / super::MAP_PAUSE_MS as usize;
        let mut up: Vec<&mut Box<Up>> =
            self.links.values_mut().filter_map(|link| if let Link::Up(up) = link { Some(up) } else { None }).collect();
        if up.is_empty() || !self.shared.may_ask_map() {
            return;
        }
        up.sort_by_key(|up| up.node.index);
        let chosen = turn % up.len();
        up[chosen].connection.ask_aside(THE_MAP, |out| resp::words(out, &[b"CLUSTER", b"SLOTS"]));
    }

    // --- what comes ---

    fn take_mail(&mut self) {
        for (index, reached) in self.mail.take() {
            self.connecting -= 1;
            let waiting = match self.links.remove(&index) {
                Some(Link::Connecting(waiting)) => waiting,
                _ => Vec::new(),
            };
            match (reached, self.shared.map.node(index)) {
                (Ok(reached), Some(node)) => {
                    self.install(node, reached.stream);
                    waiting.into_iter().for_each(|id| self.route(id));
                    self.leave_strangers();
                }
                (reached, _) => {
                    let why = reached.err().unwrap_or_else(|| Unreachable("no node is known".to_owned()));
                    self.links.insert(index, Link::Down { until: Instant::now() + PAUSE, why: why.clone() });
                    waiting.into_iter().for_each(|id| self.away(id, &why.0));
                    self.end_without_nodes(&why);
                }
            }
        }
    }

    /// A connection that goes to no owner of slots is of no use beside others: that to the URL's node, by another name.
    fn leave_strangers(&mut self) {
        let owners = self.shared.map.owners();
        let poller = &self.poller;
        self.links.retain(|index, link| {
            let Link::Up(up) = link else { return true };
            let stays = !up.connection.is_idle() || owners.iter().any(|node| node.index == *index);
            if !stays {
                poller.remove(up.fd());
            }
            stays
        });
    }

    fn take_held(&mut self) {
        if !self.held.is_empty() {
            let messages = self.shared.messages().progress(&self.shared);
            self.held_slots.clear();
            mem::take(&mut self.held).into_iter().for_each(|id| self.route(id));
            self.poll_messages(messages.filter(|_| !self.held.is_empty()));
        }
    }

    /// Whoever waits for a slot's channel sees to it that its confirmation is read.
    fn poll_messages(&mut self, wanted: Option<Arc<Poller>>) {
        let fd = |poller: &Option<Arc<Poller>>| poller.as_ref().map(|poller| poller.fd());
        if fd(&wanted) != fd(&self.messages) {
            fd(&self.messages).into_iter().for_each(|fd| self.poller.remove(fd));
            fd(&wanted).into_iter().for_each(|fd| _ = self.poller.add(fd, MESSAGES));
            self.messages = wanted;
        }
    }

    fn turn_node(&mut self, index: u16, wait: Duration) {
        let Some(Link::Up(up)) = self.links.get_mut(&index) else { return };
        let mut replies = Vec::new();
        let turned = up.connection.turn(wait, &mut replies);
        let node = Arc::clone(&up.node);
        for (number, wire) in up.connection.asides() {
            if number == THE_MAP {
                self.shared.map.learn(&wire, &node);
            } else {
                lifted(&self.shared, up, number as u16, &wire);
            }
        }
        if turned.is_ok() && up.unsent != up.connection.wants_write() {
            up.unsent = !up.unsent;
            self.poller.set(up.fd(), u64::from(index), up.unsent);
        }
        let mut ended = turned.err();
        for (id, reply) in replies {
            self.on_reply(&node, id, reply, &mut ended);
        }
        if let Some(why) = ended {
            self.node_ended(index, &why);
        }
    }

    fn on_reply(&mut self, node: &Arc<Node>, id: RequestId, reply: Reply, ended: &mut Option<Unreachable>) {
        let Some(routed) = self.requests.get_mut(&id) else { return };
        let Reply::Error(error) = &reply else {
            let Some(Link::Up(up)) = self.links.get(&node.index) else { return };
            let reply = with_numbers(&self.shared, up, routed.slot, reply);
            return self.answer(id, reply);
        };
        if let Some(to) = redirection(&error.text) {
            return self.redirect(id, node, to, &error.text);
        }
        match error.class {
            ErrorClass::Reconnect => {
                let why = Unreachable(format!("{}: {}", node.text, error.text));
                self.answer(id, Reply::Lost(why.clone()));
                ended.get_or_insert(why);
            }
            ErrorClass::Retry if error::has_code(&error.text, "TRYAGAIN") => {
                let renews = matches!(routed.request.op, Op::Renew { .. }) && !routed.alone;
                if !renews {
                    return self.answer(id, reply);
                }
                routed.alone = true;
                self.route(id);
            }
            ErrorClass::Retry => {
                self.answer(id, reply);
                self.ask_map();
            }
            _ => self.answer(id, reply),
        }
    }

    /// The connection to that node has ended, and what it was asked is lost.
    fn node_ended(&mut self, index: u16, why: &Unreachable) {
        let down = Link::Down { until: Instant::now() + PAUSE, why: why.clone() };
        if let Some(Link::Up(up)) = self.links.insert(index, down) {
            self.poller.remove(up.fd());
            for id in up.connection.pending() {
                self.answer(id, Reply::Lost(why.clone()));
            }
        }
        self.ask_map();
        self.end_without_nodes(why);
    }

    /// With no node left the connection ends: the next one begins with all nodes that are known.
    fn end_without_nodes(&mut self, why: &Unreachable) {
        if self.connecting == 0 && self.any_up().is_none() {
            self.dead = Some(why.clone());
        }
    }

    /// Sends what there is to send, and takes what has come; from a node that alone is asked something, after at most
    /// `wait`. True: it has waited.
    fn round(&mut self, wait: Duration, replies: &mut Vec<(RequestId, Reply)>) -> bool {
        let named = mem::take(&mut self.named);
        if self.connecting > 0 || named.contains(&MAIL) {
            self.take_mail();
        }
        self.take_held();
        replies.append(&mut self.ready);
        let is_busy = |(&index, link): (&u16, &Link)| {
            let Link::Up(up) = link else { return None };
            let busy = !up.connection.is_idle() || up.connection.wants_write() || named.contains(&u64::from(index));
            busy.then_some(index)
        };
        let mut busy: Vec<u16> = self.links.iter().filter_map(is_busy).collect();
        let alone = busy.len() == 1 && self.connecting == 0 && self.held.is_empty() && replies.is_empty();
        let mut wait = if alone { wait } else { Duration::ZERO };
        // Again, without waiting, where that has sent something on.
        for _ in 0..=HOPS_MAX {
            busy.into_iter().for_each(|index| self.turn_node(index, wait));
            wait = Duration::ZERO;
            let unsent = |(&index, link): (&u16, &Link)| {
                matches!(link, Link::Up(up) if up.connection.wants_write() && !up.unsent).then_some(index)
            };
            busy = self.links.iter().filter_map(unsent).collect();
            if busy.is_empty() {
                break;
            }
        }
        replies.append(&mut self.ready);
        alone
    }
}

impl Connection for ClusterConnection {
    fn push(&mut self, id: RequestId, request: Request) {
        let slot = slot(request.name.tag());
        if matches!(request.op, Op::Release { .. } | Op::Leave { .. }) {
            self.shared.messages().forget(slot, &request);
        }
        let routed = Routed { request, slot, hops: 0, once: None, alone: false, held_since: None };
        self.requests.insert(id, routed);
        self.route(id);
    }

    fn turn(&mut self, wait: Duration, replies: &mut Vec<(RequestId, Reply)>) -> Result<(), Unreachable> {
        let before = replies.len();
        let waited = self.dead.is_none() && self.round(wait, replies);
        if replies.len() == before && self.dead.is_none() {
            let wait = if self.requests.is_empty() || waited { Duration::ZERO } else { wait };
            self.poller.wait(wait, &mut self.named);
            if !self.named.is_empty() {
                self.round(Duration::ZERO, replies);
            }
        }
        self.dead.clone().map_or(Ok(()), Err)
    }

    fn keep_alive(&mut self) {
        for link in self.links.values_mut() {
            if let Link::Up(up) = link {
                up.connection.keep_alive();
            }
        }
    }

    fn pending(&self) -> Vec<RequestId> {
        let mut all: Vec<RequestId> =
            self.requests.keys().chain(self.ready.iter().map(|(id, _)| id)).copied().collect();
        all.sort();
        all
    }

    fn is_idle(&self) -> bool {
        self.requests.is_empty() && self.ready.is_empty()
    }

    fn fd(&self) -> Option<RawFd> {
        Some(self.poller.fd())
    }

    fn wants_write(&self) -> bool {
        self.links.values().any(|link| matches!(link, Link::Up(up) if up.connection.wants_write()))
    }
}

fn without_queueing(op: Op) -> Op {
    match op {
        Op::Join { lease_ms, place, .. } => Op::Join { lease_ms, place, queue: false },
        op => op,
    }
}

/// May this step draw a number?
fn draws(op: Op) -> bool {
    !matches!(op, Op::Renew { .. } | Op::Inspect)
}

/// Writes a request to its node, behind what must come before it.
fn send(shared: &Shared, up: &mut Up, id: RequestId, routed: &mut Routed) {
    let request = routed.request.clone();
    up.connection.set_layout(shared.layout());
    // A script that is not known would have to be asked for again with another `ASKING`: both ways it is sent whole.
    let form = if routed.alone { Form::KeyAlone } else { Form::Text };
    if routed.once.take().is_some() {
        up.connection.say(&[b"ASKING"]);
        return up.connection.push_as(id, request, form);
    }
    if draws(request.op) {
        lift(shared, up, routed);
    }
    up.connection.push_as(id, request, if routed.alone { form } else { Form::Hash });
}

/// Before the first step that draws in a slot: lifts its counter (rule 5).
fn lift(shared: &Shared, up: &mut Up, routed: &Routed) {
    let (slot, epoch) = (routed.slot, shared.map.epoch(routed.slot));
    if up.lifts.get(&slot).is_some_and(|(of, lift)| *of == epoch && !matches!(lift, Lift::Refused(_))) {
        return;
    }
    up.lifts.insert(slot, (epoch, Lift::Asked));
    let (highest, known) = shared.map.known(slot);
    let tag = routed.request.name.tag();
    let (fence, life) = (format!("{FENCE}:{tag}"), format!("{FENCE_LIFE}:{tag}"));
    up.connection.ask_aside(u32::from(slot), |out| {
        codec::call(out, &shared.scripts.floor, true, &[fence.as_bytes(), life.as_bytes()], 2);
        resp::number(out, highest);
        resp::bytes(out, known.as_bytes());
    });
}

/// What the counter's lift was answered.
fn lifted(shared: &Shared, up: &mut Up, slot: u16, wire: &[u8]) {
    let Some((_, lift)) = up.lifts.get_mut(&slot) else { return };
    let Ok(Some((value, _))) = resp::parse(wire) else { return };
    *lift = match (floor_of(&value), value) {
        (Some(floor), _) => {
            shared.map.lifted(slot, &floor);
            Lift::Done
        }
        (None, resp::Value::Error(text)) => Lift::Refused(String::from_utf8_lossy(text).into_owned()),
        (None, _) => Lift::Refused("the answer is no counter".to_owned()),
    };
}

/// Notes the numbers of a reply; those of a counter that was not lifted are none.
fn with_numbers(shared: &Shared, up: &Up, slot: u16, reply: Reply) -> Reply {
    let problem = match up.lifts.get(&slot) {
        Some((epoch, Lift::Done)) if *epoch == shared.map.epoch(slot) => None,
        Some((_, Lift::Refused(text))) => Some(text.as_str()),
        _ => Some("the slot is being moved"),
    };
    if let Some(problem) = problem {
        let error = || ServerError { class: ErrorClass::Retry, text: format!("the counter was not lifted: {problem}") };
        return match reply {
            Reply::Taken { .. } => Reply::TakenUndrawn { error: error() },
            Reply::Released { next: Some(next) } => Reply::Released { next: Some(without_token(next)) },
            reply => reply,
        };
    }
    match &reply {
        Reply::Taken { token } | Reply::Released { next: Some(HandOff { token, .. }) } => shared.map.saw(slot, *token),
        Reply::Queued { place, .. } | Reply::Held { place, .. } => shared.map.saw(slot, *place),
        _ => {}
    }
    reply
}
