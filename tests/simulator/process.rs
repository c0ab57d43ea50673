//! One locker's process: an engine, and around it what `src/driver` does with sockets and threads. It carries out the
//! engine's actions on connections of the simulated network, keeps the clock for it, and may be paused (whatever comes
//! meanwhile is read afterwards, in any order but each connection's own) or crash.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use dlock::engine::{Action, Config, Engine, Lane};
use dlock::store::RequestId;
use dlock_history::checker::Time;

use super::network::{ConnId, ToClient, ToServer, Use};
use super::plan::{Fault, LockerPlan, MS, SECOND};
use super::trace::trace;
use super::user::{Act, Op, User, Who};
use super::world::{Event, Phase, World};

pub type Pid = usize;

/// Command links, and the renewals' link after them. The driver has more: two are enough to change the order of requests.
const COMMAND_LINKS: usize = 2;
const RENEWAL: usize = COMMAND_LINKS;
/// So many actions without time passing are taken for a loop without end.
const ACTIONS_MAX: u32 = 20_000;

pub struct Process {
    pub plan: LockerPlan,
    pub slot: usize,
    pub channel: Arc<str>,
    /// Gone once it crashed or exited.
    pub engine: Option<Engine<u64>>,
    pub closing: bool,
    pub links: [Option<ConnId>; COMMAND_LINKS + 1],
    connecting: [bool; COMMAND_LINKS + 1],
    pub subscription: Option<ConnId>,
    pub subscribing: Option<ConnId>,
    asked_at: Time,
    /// Stopped: what comes is kept, by stream.
    pub paused_until: Option<Time>,
    backlog: BTreeMap<(u8, usize), VecDeque<Event>>,
    /// When it last stood still, and when its links were last disturbed.
    pub stopped_at: Time,
    pub disturbed_at: Time,
    pub users: Vec<User>,
    pub ops: BTreeMap<u64, Op>,
    /// Users who hold something, by index.
    pub holding: Vec<usize>,
    wake_at: Time,
    wake: u64,
    /// The local clock showed this at time 0.
    clock_at_0: Time,
    actions: (Time, u32),
    /// What its store remembers: the highest number that the counter had, and which life of the server that was.
    highest_seen: u64,
    server_life: Option<u64>,
    /// Since when its subscription has been silent while somebody waited.
    silent_since: Option<Time>,
}

impl Process {
    pub fn is_drained(&self) -> bool {
        self.engine.as_ref().is_none_or(Engine::is_drained)
    }

    /// Has a connection told its store where the counter stands?
    pub fn has_seen_counter(&self) -> bool {
        self.server_life.is_some()
    }

    /// Its clock, which may run faster or slower than the server's.
    pub fn local(&self, global: Time) -> Time {
        self.clock_at_0 + global.saturating_add_signed(global as i64 * self.plan.drift_ppm / 1_000_000)
    }

    /// The first instant at which its clock shows at least that.
    pub fn global(&self, local: Time) -> Time {
        let since = local.saturating_sub(self.clock_at_0).min(u64::MAX >> 20);
        let mut at = since * 1_000_000 / 1_000_000u64.saturating_add_signed(self.plan.drift_ppm);
        while self.local(at) < local {
            at += 1;
        }
        while at > 0 && self.local(at - 1) >= local {
            at -= 1;
        }
        at
    }
}

impl World {
    pub fn start_process(&mut self, slot: usize) {
        let plan = self.plan.lockers[slot].clone();
        let pid = self.processes.len();
        let channel: Arc<str> = Arc::from(format!("channel-{pid}"));
        let config = Config {
            lease_ms: plan.lease_ms,
            auto_renew: plan.auto_renew,
            response_timeout_ms: plan.response_timeout_ms,
            channel: Arc::clone(&channel),
            seed: self.rng.next(),
        };
        let clock_at_0 = self.rng.range(SECOND, 1_000_000 * SECOND);
        trace!(self, "locker {pid} starts: {plan:?}");
        self.processes.push(Process {
            slot,
            channel,
            engine: Some(Engine::new(config)),
            closing: false,
            links: [None; COMMAND_LINKS + 1],
            connecting: [false; COMMAND_LINKS + 1],
            subscription: None,
            subscribing: None,
            asked_at: 0,
            paused_until: None,
            backlog: BTreeMap::new(),
            stopped_at: 0,
            disturbed_at: 0,
            users: Vec::new(),
            ops: BTreeMap::new(),
            holding: Vec::new(),
            wake_at: Time::MAX,
            wake: 0,
            clock_at_0,
            actions: (0, 0),
            highest_seen: 0,
            server_life: None,
            silent_since: None,
            plan,
        });
        self.current[slot] = Some(pid);
        for index in 0..self.plan.lockers[slot].handles {
            self.add_user(pid, index);
        }
    }

    // --- what comes to a process ---

    pub fn deliver(&mut self, pid: Pid, event: Event) {
        if self.processes[pid].engine.is_none() {
            return;
        }
        if self.processes[pid].paused_until.is_some() {
            let stream = match &event {
                Event::ToClient(conn, _) | Event::Broken(conn) => (0, *conn),
                Event::User(_, index, ..) => (1, *index),
                Event::Tick(..) => (2, 0),
                _ => (3, 0),
            };
            return self.processes[pid].backlog.entry(stream).or_default().push_back(event);
        }
        self.receive(pid, event);
    }

    fn receive(&mut self, pid: Pid, event: Event) {
        match event {
            Event::ToClient(conn, message) => self.read(pid, conn, message),
            Event::Broken(conn) => self.conn_ended(pid, conn),
            Event::Connected(_, index, ok) => self.connected(pid, index, ok),
            Event::SubscribeFailed(_, conn) => self.subscribe_failed(pid, conn),
            Event::Tick(_, wake) => {
                if wake == self.processes[pid].wake {
                    self.tick(pid);
                }
            }
            Event::User(_, index, life, act) => self.user_acts(pid, index, life, act),
            _ => unreachable!("not for a process"),
        }
    }

    pub fn pause(&mut self, pid: Pid, length: Time) {
        if self.processes[pid].paused_until.is_some() {
            return;
        }
        trace!(self, "locker {pid} stands still for {length}");
        self.processes[pid].paused_until = Some(self.now + length);
        self.after(length, Event::Resume(pid));
    }

    pub fn resume(&mut self, pid: Pid) {
        trace!(self, "locker {pid} goes on");
        let process = &mut self.processes[pid];
        process.paused_until = None;
        process.stopped_at = self.now;
        let mut backlog = std::mem::take(&mut process.backlog);
        let tick_at = self.rng.below(4);
        let mut steps = 0;
        while self.processes[pid].engine.is_some() && self.failure.is_none() {
            if steps == tick_at {
                self.tick(pid);
            }
            steps += 1;
            let streams: Vec<_> = backlog.keys().copied().collect();
            if streams.is_empty() {
                break;
            }
            let stream = *self.rng.pick(&streams);
            let queue = backlog.get_mut(&stream).expect("one of the keys");
            let event = queue.pop_front();
            if queue.is_empty() {
                backlog.remove(&stream);
            }
            if let Some(event) = event {
                self.receive(pid, event);
            }
        }
        self.tick(pid);
    }

    pub fn crash(&mut self, pid: Pid) {
        trace!(self, "locker {pid} crashes");
        // What it held it believed in until its validity ends: no event.
        self.processes[pid].holding.clear();
        self.end_process(pid);
    }

    fn end_process(&mut self, pid: Pid) {
        let process = &mut self.processes[pid];
        (process.engine, process.backlog) = (None, BTreeMap::new());
        for (_, op) in std::mem::take(&mut process.ops) {
            self.history.withdrawn(self.now, &Who(pid, op.user));
        }
        let process = &mut self.processes[pid];
        if self.current[process.slot] == Some(pid) {
            self.current[process.slot] = None;
        }
        for conn in 0..self.conns.len() {
            if self.conns[conn].pid == pid {
                if self.rng.flip() {
                    self.break_conn(conn);
                }
                self.client_closes(conn);
            }
        }
    }

    /// Closes the locker; its process ends when it is drained or a response timeout later.
    pub fn close_process(&mut self, pid: Pid) {
        if self.processes[pid].paused_until.is_some() || self.processes[pid].closing {
            return;
        }
        trace!(self, "locker {pid} is closed");
        self.processes[pid].closing = true;
        for index in std::mem::take(&mut self.processes[pid].holding) {
            self.gives_up(pid, index);
        }
        self.tell(pid, |engine, now| engine.close(now));
        let left: Vec<u64> = self.processes[pid].ops.keys().copied().collect();
        if !left.is_empty() {
            self.fail(format!("(f) operations of locker {pid} that closing did not end: {left:?}"));
        }
        self.after(self.processes[pid].plan.response_timeout_ms * MS, Event::Exit(pid));
    }

    pub fn exit(&mut self, pid: Pid) {
        let slot = self.processes[pid].slot;
        if self.processes[pid].engine.is_some() {
            trace!(self, "locker {pid} exits");
            self.end_process(pid);
            let pause = self.rng.spread(MS, SECOND / 5);
            self.after(pause, Event::Restart(slot));
        }
    }

    // --- running the engine ---

    /// Tells the engine something, and carries out what it wants done.
    pub fn tell<R>(&mut self, pid: Pid, f: impl FnOnce(&mut Engine<u64>, Time) -> R) -> Option<R> {
        let now = self.processes[pid].local(self.now);
        let engine = self.processes[pid].engine.as_mut()?;
        let result = f(engine, now);
        self.perform(pid);
        self.observe(pid);
        self.check_silence(pid);
        self.plan_wake(pid);
        Some(result)
    }

    /// While somebody waits, the subscription is pinged each quarter of a claim, and given up when a pong stays out for a
    /// response timeout (rule 6).
    fn check_silence(&mut self, pid: Pid) {
        let process = &self.processes[pid];
        let awaits = |engine: &Engine<u64>| process.users.iter().any(|user| engine.awaits_message(user.id));
        let silent = process.subscription.filter(|&conn| self.conns[conn].is_silent());
        let Some(conn) = silent.filter(|_| process.engine.as_ref().is_some_and(awaits)) else {
            return self.processes[pid].silent_since = None;
        };
        let bound = process.plan.lease_ms.min(3_000) * MS / 4 + process.plan.response_timeout_ms * MS + SECOND / 2;
        let since = process.silent_since.unwrap_or(self.now).max(process.stopped_at);
        if self.now > since + bound {
            self.fail(format!("(f) {} has been silent since {since}, unnoticed", self.conn_label(conn)));
        }
        self.processes[pid].silent_since = Some(since);
    }

    fn perform(&mut self, pid: Pid) {
        loop {
            let Some(engine) = self.processes[pid].engine.as_mut() else { return };
            let mut todo = std::mem::take(&mut self.todo);
            engine.take_actions(&mut todo);
            if todo.is_empty() || self.failure.is_some() {
                self.todo = todo;
                return;
            }
            let mut refused = Vec::new();
            for action in todo.drain(..) {
                self.carry_out(pid, action, &mut refused);
            }
            self.todo = todo;
            if refused.is_empty() {
                continue;
            }
            let now = self.processes[pid].local(self.now);
            let up = self.processes[pid].links[..COMMAND_LINKS].iter().any(Option::is_some);
            let Some(engine) = self.processes[pid].engine.as_mut() else { return };
            if !up {
                engine.link_down(now, "the connection ended");
            }
            engine.lost(now, Lane::Command, &refused, "the connection ended");
        }
    }

    fn carry_out(&mut self, pid: Pid, action: Action<u64>, refused: &mut Vec<RequestId>) {
        trace!(self, "locker {pid}: {action:?}");
        let process = &mut self.processes[pid];
        process.actions = if process.actions.0 == self.now { (self.now, process.actions.1 + 1) } else { (self.now, 1) };
        if process.actions.1 > ACTIONS_MAX {
            return self.fail(format!("(g) locker {pid} does not stop acting at {}", self.now));
        }
        match action {
            Action::Send { lane, id, request } => {
                self.note_attempt(pid, &request);
                match self.choose(pid, lane) {
                    Some(conn) => {
                        self.conns[conn].pending.push_back((id, self.now));
                        self.send(conn, ToServer::Request(id, Box::new(request)));
                    }
                    None => refused.push(id),
                }
            }
            Action::Connect => self.connect(pid, 0),
            Action::Subscribe => self.subscribe(pid),
            Action::Ping(number) => {
                if let Some(conn) = self.processes[pid].subscription {
                    self.send(conn, ToServer::Ping(number));
                }
            }
            Action::DropSubscription => {
                self.processes[pid].disturbed_at = self.now;
                if let Some(conn) = self.processes[pid].subscription.take() {
                    self.client_closes(conn);
                }
            }
            Action::Complete { tag, operation, result } => self.completed(pid, tag, operation, result),
            Action::Lost { tag, token, error } => self.told_lost(pid, tag, token, &error),
        }
    }

    /// Which connection a request goes out on.
    fn choose(&mut self, pid: Pid, lane: Lane) -> Option<ConnId> {
        if lane == Lane::Renewal {
            if let Some(conn) = self.processes[pid].links[RENEWAL] {
                return Some(conn);
            }
            self.connect(pid, RENEWAL);
        }
        let links = self.processes[pid].links;
        let first = links[0].filter(|&conn| self.conns[conn].pending.is_empty());
        match (links[0], links[1]) {
            (Some(_), None) if first.is_none() && self.plan.second_link => {
                self.connect(pid, 1);
                links[0]
            }
            (Some(one), Some(other)) => Some(if self.rng.flip() { one } else { other }),
            (one, other) => one.or(other),
        }
    }

    pub fn tick(&mut self, pid: Pid) {
        let timeout = self.processes[pid].plan.response_timeout_ms * MS;
        for index in 0..=RENEWAL {
            let Some(conn) = self.processes[pid].links[index] else { continue };
            if self.conns[conn].pending.front().is_some_and(|&(_, at)| at + timeout <= self.now) {
                trace!(self, "{} is silent", self.conn_label(conn));
                self.conn_ended(pid, conn);
            }
        }
        self.processes[pid].wake_at = Time::MAX;
        self.tell(pid, |engine, now| engine.tick(now));
    }

    /// Sees to it that the engine's next timer is kept, more or less.
    fn plan_wake(&mut self, pid: Pid) {
        let process = &self.processes[pid];
        let Some(engine) = process.engine.as_ref() else { return };
        if process.paused_until.is_some() {
            return;
        }
        let timeout = process.plan.response_timeout_ms * MS;
        let links = process.links.iter().flatten();
        let silent = links.filter_map(|&conn| self.conns[conn].pending.front().map(|&(_, at)| at + timeout)).min();
        let timer = engine.next_timer().map(|at| process.global(at)).into_iter().chain(silent).min();
        let Some(at) = timer.map(|at| at.max(self.now)) else { return };
        if at >= process.wake_at {
            return;
        }
        let late = if self.phase == Phase::Faults && self.rng.chance(self.plan.late_ppm) {
            self.rng.spread(MS, 4 * MS)
        } else {
            self.rng.below(100)
        };
        let process = &mut self.processes[pid];
        process.wake_at = at;
        process.wake += 1;
        let wake = process.wake;
        self.at(at + late, Event::Tick(pid, wake));
    }

    // --- links ---

    fn connect(&mut self, pid: Pid, index: usize) {
        if std::mem::replace(&mut self.processes[pid].connecting[index], true) {
            return;
        }
        let delay = 2 * self.delay();
        let fails = self.phase == Phase::Faults && self.rng.chance(2 * self.plan.break_ppm);
        let ok = !self.is_lasting(Fault::Outage) && !fails;
        self.after(delay, Event::Connected(pid, index, ok));
    }

    fn connected(&mut self, pid: Pid, index: usize, ok: bool) {
        let ok = ok && !self.is_lasting(Fault::Outage);
        self.processes[pid].connecting[index] = false;
        self.processes[pid].disturbed_at = self.now;
        trace!(self, "locker {pid}: link {index} {}", if ok { "is up" } else { "cannot connect" });
        if ok {
            if self.processes[pid].links[index].is_none() {
                self.lift_counter(pid);
                self.processes[pid].links[index] = Some(self.new_conn(pid, Use::Link(index)));
            }
            if index < COMMAND_LINKS {
                self.tell(pid, |engine, now| engine.link_up(now));
            }
        } else if index < COMMAND_LINKS {
            self.tell(pid, |engine, now| engine.link_failed(now, "cannot connect"));
        }
    }

    /// What the store does on each new connection (`floor.lua`).
    fn lift_counter(&mut self, pid: Pid) {
        let (now, life) = (self.server_now(), self.server_life);
        let process = &mut self.processes[pid];
        let highest = process.engine.as_ref().map_or(0, Engine::highest_token).max(process.highest_seen);
        let other_data = process.server_life.replace(life).is_some_and(|known| known != life);
        process.highest_seen = highest.max(self.server.floor(now, highest, other_data).unwrap_or(0));
    }

    pub fn break_link(&mut self, pid: Pid, index: usize) {
        if let Some(conn) = self.processes[pid].links[index] {
            self.break_conn(conn);
        }
    }

    /// The client learns that a connection is no more, or gives it up.
    fn conn_ended(&mut self, pid: Pid, conn: ConnId) {
        if !self.conns[conn].client_open {
            return;
        }
        trace!(self, "locker {pid}: {} ended", self.conn_label(conn));
        self.processes[pid].disturbed_at = self.now;
        let lost: Vec<RequestId> = self.conns[conn].pending.iter().map(|&(id, _)| id).collect();
        self.client_closes(conn);
        match self.conns[conn].used_as {
            Use::Subscription => {
                if self.processes[pid].subscribing == Some(conn) {
                    return self.subscribe_failed(pid, conn);
                }
                self.processes[pid].subscription = None;
                self.tell(pid, |engine, now| engine.unsubscribed(now));
            }
            Use::Link(index) => {
                self.processes[pid].links[index] = None;
                let lane = if index == RENEWAL { Lane::Renewal } else { Lane::Command };
                let up = self.processes[pid].links[..COMMAND_LINKS].iter().any(Option::is_some);
                self.tell(pid, |engine, now| {
                    if lane == Lane::Command && !up {
                        engine.link_down(now, "the connection is lost");
                    }
                    engine.lost(now, lane, &lost, "the connection is lost");
                });
            }
        }
    }

    fn subscribe(&mut self, pid: Pid) {
        let conn = self.new_conn(pid, Use::Subscription);
        let process = &mut self.processes[pid];
        process.asked_at = process.local(self.now);
        process.subscribing = Some(conn);
        if self.is_lasting(Fault::Outage) || self.is_lasting(Fault::RefuseSubscribe) {
            let delay = self.delay();
            return self.after(delay, Event::SubscribeFailed(pid, conn));
        }
        self.send(conn, ToServer::Subscribe);
        self.after(self.processes[pid].plan.response_timeout_ms * MS, Event::SubscribeFailed(pid, conn));
    }

    /// Refused, or not confirmed in time.
    fn subscribe_failed(&mut self, pid: Pid, conn: ConnId) {
        if self.processes[pid].subscribing != Some(conn) {
            return;
        }
        trace!(self, "locker {pid}: subscribing failed");
        self.processes[pid].disturbed_at = self.now;
        self.processes[pid].subscribing = None;
        self.client_closes(conn);
        self.tell(pid, |engine, now| engine.subscribe_failed(now));
    }

    fn read(&mut self, pid: Pid, conn: ConnId, message: ToClient) {
        if !self.conns[conn].client_open {
            return;
        }
        trace!(self, "locker {pid}: reads {message:?}");
        match message {
            ToClient::Reply(id, reply) => {
                let answered = self.conns[conn].pending.pop_front();
                assert_eq!(answered.map(|(id, _)| id), Some(id), "replies come in order");
                self.tell(pid, |engine, now| engine.reply(now, id, reply));
                self.check_told(conn, id);
            }
            ToClient::Subscribed => {
                self.processes[pid].subscribing = None;
                let before = self.processes[pid].subscription.replace(conn);
                if let Some(before) = before {
                    self.client_closes(before);
                }
                let asked_at = self.processes[pid].asked_at;
                self.tell(pid, |engine, now| engine.subscribed(now, asked_at));
            }
            ToClient::Push(push) => {
                self.processes[pid].silent_since = None; // on its way for long
                self.tell(pid, |engine, now| engine.push(now, push));
            }
        }
    }

    pub fn act_later(&mut self, pid: Pid, index: usize, delay: Time, act: Act) {
        let life = self.processes[pid].users[index].life;
        self.after(delay, Event::User(pid, index, life, act));
    }
}
