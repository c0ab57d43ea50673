//! The network: connections that keep their order, each with delays and faults of its own, and what the server does
//! with what arrives. A broken connection loses requests, or carries them out and loses their replies, or carries them
//! out much later.

use std::collections::VecDeque;
use std::sync::Arc;

use dlock::store::{ErrorClass, Op, Push, Reply, Request, RequestId, ServerError};
use dlock_history::checker::Time;

use super::plan::{Fault, MS, SECOND};
use super::process::Pid;
use super::trace::trace;
use super::world::{Event, Phase, World};

pub type ConnId = usize;

/// Of a million answers in a calm where connections end, so many find their connection ended.
const LOST_IN_CALM_PPM: u64 = 4_000;

#[derive(Clone, Debug)]
pub enum ToServer {
    Request(RequestId, Box<Request>),
    Subscribe,
    Ping(u64),
}

#[derive(Clone, Debug)]
pub enum ToClient {
    Reply(RequestId, Reply),
    Subscribed,
    Push(Push),
}

/// The link of a process that a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// One of the command links, or the renewals' link after them.
    Link(usize),
    Subscription,
}

#[derive(Clone, Debug)]
pub struct Conn {
    pub pid: Pid,
    pub used_as: Use,
    /// Has the client not closed it, nor learned that it is gone?
    pub client_open: bool,
    /// Does the server count its subscription?
    pub server_subscribed: bool,
    pub broken: bool,
    /// A broken connection: from which message on nothing arrives, how much later the others do, and whether what the
    /// server sends is lost.
    cut: u64,
    ghost_delay: Time,
    mute: bool,
    /// The client learns of it only when it sends again.
    noticed_on_send: bool,
    sent: u64,
    arrived: u64,
    last_to_server: Time,
    last_to_client: Time,
    /// Requests without a reply, with the client's time of sending.
    pub pending: VecDeque<(RequestId, Time)>,
}

impl Conn {
    /// Does nothing come from the server any more, though the client has not been told?
    pub fn is_silent(&self) -> bool {
        self.mute
    }
}

impl World {
    pub fn new_conn(&mut self, pid: Pid, used_as: Use) -> ConnId {
        self.conns.push(Conn {
            pid,
            used_as,
            client_open: true,
            server_subscribed: false,
            broken: false,
            cut: u64::MAX,
            ghost_delay: 0,
            mute: false,
            noticed_on_send: false,
            sent: 0,
            arrived: 0,
            last_to_server: 0,
            last_to_client: 0,
            pending: VecDeque::new(),
        });
        self.conns.len() - 1
    }

    pub fn delay(&mut self) -> Time {
        let (low, high) = self.plan.delay_us;
        if self.phase > Phase::Settling {
            return self.rng.range(low, high.min(MS));
        }
        if self.is_lasting(Fault::SlowNetwork) {
            return self.rng.spread(high, 2 * SECOND);
        }
        self.rng.range(low, high)
    }

    /// The client sends on a connection.
    pub fn send(&mut self, conn: ConnId, message: ToServer) {
        let delay = self.delay();
        let breaks = self.phase == Phase::Faults && self.rng.chance(self.plan.break_ppm);
        let notice = self.rng.below(300);
        let c = &mut self.conns[conn];
        let at = (self.now + delay).max(c.last_to_server);
        c.last_to_server = at;
        let n = c.sent;
        c.sent += 1;
        if c.noticed_on_send {
            c.noticed_on_send = false;
            self.after(notice, Event::Broken(conn));
        }
        self.at(at, Event::ToServer(conn, n, message));
        if breaks {
            self.break_conn(conn);
        }
    }

    /// The server sends on a connection.
    fn send_back(&mut self, conn: ConnId, message: ToClient) {
        let delay = self.delay();
        let breaks = self.phase == Phase::Faults && self.rng.chance(self.plan.break_ppm);
        if breaks {
            self.break_conn(conn);
        }
        if self.phase == Phase::Calm && self.plan.gentle && self.rng.chance(LOST_IN_CALM_PPM) {
            self.end_conn(conn); // what was carried out is not answered
        }
        let c = &mut self.conns[conn];
        if c.mute {
            trace!(self, "lost on the way to locker {}: {message:?}", self.conns[conn].pid);
            return;
        }
        let at = (self.now + delay).max(c.last_to_client);
        c.last_to_client = at;
        self.at(at, Event::ToClient(conn, message));
    }

    /// A connection breaks: some of what is under way arrives, possibly much later; the client learns of it at once,
    /// when it sends again, or from the silence.
    pub fn break_conn(&mut self, conn: ConnId) {
        let c = &self.conns[conn];
        if c.broken || !c.client_open {
            return;
        }
        let subscription = c.used_as == Use::Subscription;
        let pid = c.pid;
        let subscribing = self.processes[pid].subscribing == Some(conn);
        let (sent, arrived, idle) = (c.sent, c.arrived, c.pending.is_empty());
        let cut = self.rng.range(arrived, sent);
        let ghost_delay = if self.rng.flip() { 0 } else { self.rng.spread(MS, 3 * SECOND) };
        let mute = self.rng.flip();
        let noticed = self.rng.below(3);
        let notice_us = self.rng.spread(1, 100 * MS);
        let linger_us = if self.rng.flip() { 0 } else { self.rng.spread(MS, 3 * SECOND) };
        let c = &mut self.conns[conn];
        (c.broken, c.cut, c.ghost_delay, c.mute) = (true, cut, ghost_delay, mute);
        self.processes[pid].disturbed_at = self.now;
        self.stats.count("fault", "connection breaks at some message");
        trace!(
            self,
            "BREAK {} cut {cut} of {sent} ({arrived} arrived) ghost {ghost_delay} mute {mute} noticed {noticed} linger {linger_us}",
            self.conn_label(conn)
        );
        if subscription {
            self.after(linger_us, Event::ServerDrops(conn));
            // Silence is noticed only where pings are answered by nobody: there the engine does.
            if noticed > 0 || subscribing {
                self.after(notice_us, Event::Broken(conn));
            }
        } else if noticed == 0 {
            // Half open: everything sent from now on vanishes, the response timeout tells.
        } else if idle && noticed == 1 {
            self.conns[conn].noticed_on_send = true;
        } else {
            self.after(notice_us, Event::Broken(conn));
        }
    }

    /// A connection ends, and both ends notice at once.
    pub fn end_conn(&mut self, conn: ConnId) {
        let c = &self.conns[conn];
        if c.broken || !c.client_open {
            return;
        }
        let cut = self.rng.range(c.arrived, c.sent);
        let notice_us = self.rng.below(MS);
        let c = &mut self.conns[conn];
        (c.broken, c.cut, c.mute) = (true, cut, true);
        self.stats.count("fault", "connection ends in calm");
        trace!(self, "END {} cut {cut}", self.conn_label(conn));
        self.processes[self.conns[conn].pid].disturbed_at = self.now;
        if self.conns[conn].used_as == Use::Subscription {
            self.server_drops(conn);
        }
        self.after(notice_us, Event::Broken(conn));
    }

    /// Connections that broke long ago and on which nothing was sent since: their clients learn of it.
    pub fn notice_all(&mut self) {
        for conn in 0..self.conns.len() {
            if self.conns[conn].broken && self.conns[conn].client_open {
                self.at(self.now, Event::Broken(conn));
            }
        }
    }

    pub fn conn_label(&self, conn: ConnId) -> String {
        let c = &self.conns[conn];
        match c.used_as {
            Use::Link(index) => format!("c{conn}=locker{}.link{index}", c.pid),
            Use::Subscription => format!("c{conn}=locker{}.subscription", c.pid),
        }
    }

    /// The client closes its end; what is under way still arrives.
    pub fn client_closes(&mut self, conn: ConnId) {
        let linger = if self.rng.flip() || self.phase > Phase::Settling { 0 } else { self.rng.spread(MS, SECOND) };
        let c = &mut self.conns[conn];
        if !c.client_open {
            return;
        }
        c.client_open = false;
        c.pending.clear();
        if c.used_as == Use::Subscription {
            self.after(linger, Event::ServerDrops(conn));
        }
    }

    pub fn server_drops(&mut self, conn: ConnId) {
        let c = &mut self.conns[conn];
        c.broken = true;
        c.mute = true;
        c.cut = c.cut.min(c.arrived); // a SUBSCRIBE that has not arrived never will
        if std::mem::take(&mut c.server_subscribed) {
            let channel = Arc::clone(&self.processes[c.pid].channel);
            trace!(self, "server: {} ends", self.conn_label(conn));
            self.server.unsubscribe(&channel);
        }
    }

    /// A message arrives at the server.
    pub fn at_server(&mut self, conn: ConnId, n: u64, message: ToServer) {
        let c = &mut self.conns[conn];
        if n >= c.cut {
            trace!(self, "vanished: {} #{n} {}", self.conn_label(conn), brief(&message));
            return;
        }
        if c.ghost_delay > 0 && c.broken {
            let ghost = std::mem::take(&mut c.ghost_delay);
            let behind = self.take_arrivals(conn);
            self.after(ghost, Event::ToServer(conn, n, message));
            for (at, event) in behind {
                self.at(at + ghost, event);
            }
            return;
        }
        self.conns[conn].arrived = n + 1;
        match message {
            ToServer::Request(id, request) => self.execute(conn, id, &request),
            ToServer::Subscribe => {
                let channel = Arc::clone(&self.processes[self.conns[conn].pid].channel);
                trace!(self, "server: {} subscribed", self.conn_label(conn));
                self.server.subscribe(&channel);
                self.conns[conn].server_subscribed = true;
                self.send_back(conn, ToClient::Subscribed);
            }
            ToServer::Ping(number) => self.send_back(conn, ToClient::Push(Push::Pong { number })),
        }
    }

    fn execute(&mut self, conn: ConnId, id: RequestId, request: &Request) {
        *self.requests.entry(self.now / SECOND).or_default() += 1;
        let mut published = Vec::new();
        let lock = self.lock_of(request);
        let reply = match self.refuse(request) {
            Some(reply) => reply,
            None => {
                let foreign = self.foreign_key(lock);
                let reply = self.server.execute(self.server_now(), request, &mut published);
                if let Some(foreign) = foreign {
                    self.check_foreign(conn, id, request, lock, foreign, &reply);
                }
                reply
            }
        };
        trace!(
            self,
            "server: {} {:?} {} {:?} -> {reply:?}",
            self.conn_label(conn),
            id,
            request.acquisition,
            request.op
        );
        if self.conns[conn].broken && matches!(reply, Reply::Taken { .. } | Reply::TakenUndrawn { .. }) {
            self.ghosts.insert(request.acquisition);
        }
        self.check_views(lock);
        self.send_back(conn, ToClient::Reply(id, reply));
        self.offered.remove(&request.acquisition);
        for (channel, push) in published {
            trace!(self, "server: publishes on {channel} {push:?}");
            self.note_offer(&push);
            let twice = self.phase == Phase::Faults && self.rng.chance(self.plan.duplicate_ppm);
            for other in self.subscriptions_of(&channel) {
                self.send_back(other, ToClient::Push(push.clone()));
                if twice {
                    self.stats.count("fault", "push is sent twice");
                    self.send_back(other, ToClient::Push(push.clone()));
                }
            }
        }
    }

    /// Who was offered the lock and has not been heard of since is not offered it again (rule 8): it would cost everybody
    /// else a claim each time.
    fn note_offer(&mut self, push: &Push) {
        if let Push::HandOff { hand_off, .. } = push
            && !self.offered.insert(hand_off.acquisition)
        {
            self.fail(format!("(d) waiters: {} is offered the lock again, and was silent", hand_off.acquisition));
        }
    }

    /// The server restarts: what has not arrived never does, and nobody is subscribed.
    pub fn restart_server(&mut self) {
        self.server_life += 1;
        self.offered.clear();
        for conn in 0..self.conns.len() {
            self.break_conn(conn);
            self.server_drops(conn);
        }
        for lock in 0..self.names.len() {
            self.history.disturbed(self.now, self.now, lock);
        }
    }

    pub fn lock_of(&self, request: &Request) -> usize {
        self.names.iter().position(|name| name.key() == request.name.key()).expect("a name of this world")
    }

    fn subscriptions_of(&self, channel: &str) -> Vec<ConnId> {
        let of = |c: &Conn| c.server_subscribed && &*self.processes[c.pid].channel == channel;
        (0..self.conns.len()).filter(|&conn| of(&self.conns[conn])).collect()
    }

    /// The server refuses a request instead of carrying it out.
    fn refuse(&mut self, request: &Request) -> Option<Reply> {
        let error = |class, text: &str| ServerError { class, text: text.to_string() };
        if self.is_lasting(Fault::RetryErrors) && self.rng.flip() {
            self.stats.count("fault", "request answered with BUSY");
            return Some(Reply::Error(error(ErrorClass::Retry, "BUSY a script is running")));
        }
        if self.is_lasting(Fault::ReportErrors) && self.rng.chance(200_000) {
            self.stats.count("fault", "request answered with an error");
            return Some(Reply::Error(error(ErrorClass::Report, "ERR simulated")));
        }
        if self.is_lasting(Fault::OutOfMemory) {
            let oom = error(ErrorClass::Memory, "OOM command not allowed");
            let key = self.server.holder(self.server_now(), request.name.key());
            let others = matches!(&key, dlock::store::Holder::Acquisition(a) if a.owner != request.acquisition.owner);
            match request.op {
                Op::Try { .. } => return Some(Reply::Error(oom)),
                Op::Join { queue: true, .. } if others => return Some(Reply::Unqueued { error: oom }),
                _ => {}
            }
        }
        None
    }
}

fn brief(message: &ToServer) -> String {
    match message {
        ToServer::Request(id, request) => format!("{id:?} {} {:?}", request.acquisition, request.op),
        other => format!("{other:?}"),
    }
}
