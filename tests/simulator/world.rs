//! One simulated world: a clock, a server, a network, and the lockers of several processes. Everything that happens is
//! an event with a time; the next event is always the earliest, and chance comes from one seed.
//!
//! This file has the clock, the events and the phases of a history; `network.rs` the connections and their faults,
//! `process.rs` what `src/driver` does around an engine, `user.rs` what users do and may expect, `foreign.rs` keys of
//! other programs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use dlock::engine::Action;
use dlock::store::memory::server::MemoryServer;
use dlock::store::name::Name;
use dlock::store::{Acquisition, Holder};
use dlock_history::checker::{Counts, History, HoldingId, Time};

use super::events::Events;
use super::foreign::Foreign;
use super::network::{Conn, ConnId, ToClient, ToServer};
use super::plan::{Fault, MS, Plan, SECOND};
use super::process::{Pid, Process};
use super::rng::Rng;
use super::trace::trace;
use super::user::{Act, Who};

/// The server's wall clock at time 0.
const EPOCH_US: u64 = 1_790_000_000_000_000;
/// How far the server's clock is ahead of the world's at first, so that it can go back.
const CLOCK_AT_0: Time = 100_000 * SECOND;
/// After the last fault: until then everything has expired, been noticed, reconnected and asked again.
const SETTLE_US: Time = 16 * SECOND;
/// In calm, a lock that somebody waits for is without a holder at most so long.
const UNHELD_MAX_US: Time = 300 * MS;
/// Nobody tells waiters that a lease has run out, as a ghost's does: they ask up to a quarter of their longest pause later.
const PAST_A_LEASE_US: Time = 1_250 * MS;
/// In calm, a waiter whose attempt is over stays in a queue at most so long (invariant 8).
const LEFT_MAX_US: Time = 150 * MS;
/// After the calm, every waiter is served within that time.
const SERVED_MAX_US: Time = 30 * SECOND;
/// Longer than any lease and the life of any queue.
const FORGOTTEN_US: Time = 60 * SECOND;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Faults,
    /// No new faults; the last ones' consequences run out.
    Settling,
    /// Users are busy, and nothing may go wrong.
    Calm,
    /// Nobody asks for more; every waiter must be served.
    Draining,
    /// Everything was freed.
    Over,
}

#[derive(Clone, Debug)]
pub enum Event {
    ToServer(ConnId, u64, ToServer),
    ToClient(ConnId, ToClient),
    /// The client learns that the connection is no more.
    Broken(ConnId),
    /// The server learns that.
    ServerDrops(ConnId),
    Connected(Pid, usize, bool),
    SubscribeFailed(Pid, ConnId),
    Tick(Pid, u64),
    User(Pid, usize, u64, Act),
    Resume(Pid),
    Restart(usize),
    Exit(Pid),
    Write(HoldingId),
    Fault,
    Heal(Fault),
    /// The other program deletes its key: of that lock, the one of that number.
    ForeignGone(usize, u64),
    Phase(Phase),
    Probe,
    /// Whatever is still half open is noticed now.
    NoticeAll,
}

/// What a history amounted to, for figures and for knowing that nothing is dead code.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub events: u64,
    /// By what happened, and how.
    pub counts: BTreeMap<(&'static str, &'static str), u64>,
}

impl Stats {
    pub fn count(&mut self, what: &'static str, how: &'static str) {
        *self.counts.entry((what, how)).or_default() += 1;
    }

    pub fn add(&mut self, other: &Stats) {
        self.events += other.events;
        for (key, count) in &other.counts {
            *self.counts.entry(*key).or_default() += count;
        }
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} events", self.events)?;
        for ((what, how), count) in &self.counts {
            write!(f, "\n  {count:>10} {what}: {how}")?;
        }
        Ok(())
    }
}

pub struct World {
    pub now: Time,
    pub rng: Rng,
    pub plan: Plan,
    pub phase: Phase,
    pub server: MemoryServer,
    /// How far the server's clock is ahead of the world's, now and at most; which life of the server this is.
    server_clock: Time,
    highest_clock: Time,
    pub server_life: u64,
    /// What it would have, if it restarted from what is on its disk.
    old_data: Option<MemoryServer>,
    /// Acquisitions of requests that ran after their connection had ended (rule 11): nobody may want them any more, and
    /// nothing that was sent later need come behind them.
    pub ghosts: BTreeSet<Acquisition>,
    /// Who was offered a lock and has not been heard of since.
    pub offered: BTreeSet<Acquisition>,
    pub names: Vec<Arc<Name>>,
    /// What other programs have under the locks' keys.
    pub foreign: Foreign,
    pub conns: Vec<Conn>,
    pub processes: Vec<Process>,
    /// The live process of each locker of the plan.
    pub current: Vec<Option<Pid>>,
    pub history: History<usize, Who>,
    /// What each holding of the history is to the server.
    pub acquisitions: Vec<Acquisition>,
    /// Which handle an owner id belongs to.
    pub owners: BTreeMap<uuid::Uuid, (Pid, usize)>,
    /// Faults that last: until when.
    pub lasting: BTreeMap<Fault, Time>,
    /// Acquisitions asked for since the calm began: they leave nothing behind.
    pub calm_acquisitions: BTreeSet<Acquisition>,
    pub calm_at: Option<Time>,
    pub failure: Option<String>,
    pub stats: Stats,
    events: Events,
    /// Empty, but for its room.
    pub todo: Vec<Action<u64>>,
    next_uuid: u64,
    pub next_tag: u64,
    /// Since when each lock has been without a holder in calm, though somebody waits.
    unheld_since: Vec<Option<Time>>,
    /// Since when a queue has had a waiter of the calm whose attempt is over.
    left_since: BTreeMap<String, Time>,
    /// Requests that the server was sent, by the second.
    pub requests: BTreeMap<u64, u64>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let plan = Plan::new(&mut rng);
        Self::with_plan(plan, rng)
    }

    pub fn with_plan(plan: Plan, rng: Rng) -> Self {
        let mut server = MemoryServer::new(EPOCH_US - CLOCK_AT_0);
        if plan.counter_ahead > 0 {
            server.set_counter(EPOCH_US + plan.counter_ahead);
        }
        let names = (0..plan.names).map(|n| Arc::new(Name::new(&format!("lock{n}"), "sim").expect("legal"))).collect();
        World {
            now: SECOND,
            rng,
            phase: Phase::Faults,
            server,
            server_clock: CLOCK_AT_0,
            highest_clock: CLOCK_AT_0,
            server_life: 0,
            old_data: None,
            ghosts: BTreeSet::new(),
            offered: BTreeSet::new(),
            foreign: Foreign::new(plan.names),
            names,
            conns: Vec::new(),
            processes: Vec::new(),
            current: vec![None; plan.lockers.len()],
            history: History::default(),
            acquisitions: Vec::new(),
            todo: Vec::new(),
            owners: BTreeMap::new(),
            lasting: BTreeMap::new(),
            calm_acquisitions: BTreeSet::new(),
            calm_at: None,
            failure: None,
            stats: Stats::default(),
            events: Events::default(),
            next_uuid: 1,
            next_tag: 1,
            unheld_since: vec![None; plan.names],
            left_since: BTreeMap::new(),
            requests: BTreeMap::new(),
            plan,
        }
    }

    /// Runs until that time and no further.
    pub fn run_until(&mut self, until: Time) {
        for slot in 0..self.plan.lockers.len() {
            self.start_process(slot);
        }
        while self.failure.is_none()
            && let Some((at, event)) = self.events.next(until)
        {
            self.now = at;
            self.happen(event);
        }
    }

    /// Runs the history to its end, and says what the checker counted.
    pub fn run_and_count(mut self) -> Result<Counts, String> {
        self.play()?;
        Ok(self.history.counts)
    }

    /// Runs the history to its end.
    pub fn run(mut self) -> Result<Stats, String> {
        self.play()?;
        Ok(self.stats)
    }

    fn play(&mut self) -> Result<(), String> {
        trace!(self, "{:?}", self.plan);
        for slot in 0..self.plan.lockers.len() {
            self.start_process(slot);
        }
        let calm_at = self.now + self.plan.faults_for_us;
        self.at(calm_at, Event::Phase(Phase::Settling));
        if !self.plan.faults.is_empty() {
            self.at(self.now, Event::Fault);
        }
        while self.failure.is_none()
            && let Some((at, event)) = self.events.next(Time::MAX)
        {
            self.now = at;
            self.stats.events += 1;
            self.happen(event);
            if self.stats.events > 3_000_000 {
                self.fail("(g) three million events: something does not come to rest".to_string());
            }
        }
        match self.failure.take() {
            None if self.phase != Phase::Over => Err(format!("the history stopped in {:?}", self.phase)),
            None => Ok(()),
            Some(failure) => Err(failure),
        }
    }

    pub fn fail(&mut self, what: String) {
        trace!(self, "VIOLATION {what}");
        if self.failure.is_none() {
            self.failure = Some(what);
        }
    }

    pub fn check<T>(&mut self, checked: Result<T, String>) -> Option<T> {
        match checked {
            Ok(value) => Some(value),
            Err(what) => {
                self.fail(what);
                None
            }
        }
    }

    pub fn at(&mut self, at: Time, event: Event) {
        self.events.add(at.max(self.now), event);
    }

    pub fn after(&mut self, delay: Time, event: Event) {
        self.at(self.now + delay, event);
    }

    /// Takes out, in order, what is under way to the server on a connection.
    pub fn take_arrivals(&mut self, of: ConnId) -> Vec<(Time, Event)> {
        self.events.take(|event| matches!(event, Event::ToServer(conn, ..) if *conn == of))
    }

    pub fn new_uuid(&mut self) -> uuid::Uuid {
        self.next_uuid += 1;
        uuid::Uuid::from_u128(u128::from(self.next_uuid))
    }

    pub fn is_lasting(&self, fault: Fault) -> bool {
        self.lasting.get(&fault).is_some_and(|&until| self.now < until)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::ToServer(conn, n, message) => self.at_server(conn, n, message),
            Event::ServerDrops(conn) => self.server_drops(conn),
            Event::ToClient(conn, _) | Event::Broken(conn) => self.deliver(self.conns[conn].pid, event),
            Event::Connected(pid, ..) | Event::SubscribeFailed(pid, _) | Event::Tick(pid, _) | Event::User(pid, ..) => {
                self.deliver(pid, event)
            }
            Event::Resume(pid) => self.resume(pid),
            Event::Restart(slot) => self.start_process(slot),
            Event::Exit(pid) => self.exit(pid),
            Event::Write(holding) => {
                let written = self.history.write(self.now, holding);
                if let Some(accepted) = self.check(written) {
                    self.stats.count("write", if accepted { "accepted" } else { "refused" });
                }
            }
            Event::Fault => self.strike(),
            Event::Heal(fault) => trace!(self, "{fault:?} is over"),
            Event::ForeignGone(lock, number) => self.delete_foreign(lock, number),
            Event::Phase(phase) => self.enter(phase),
            Event::Probe => self.probe(),
            Event::NoticeAll => self.notice_all(),
        }
    }

    /// The server's clock.
    pub fn server_now(&self) -> Time {
        self.now + self.server_clock
    }

    /// The server's clock jumps. Forward: every lease loses that much, and some end before their time.
    fn step_clock(&mut self, ahead: Time) {
        if ahead > self.server_clock {
            for lock in 0..self.names.len() {
                self.history.disturbed(self.now, self.now, lock);
            }
        }
        self.server_clock = ahead;
        self.highest_clock = self.highest_clock.max(ahead);
        self.look_for_foreign(); // what had expired may be back
    }

    /// A fault strikes, and the next one is planned.
    fn strike(&mut self) {
        match self.phase {
            Phase::Faults => {}
            Phase::Calm if self.plan.gentle => return self.strike_gently(),
            _ => return,
        }
        let fault = *self.rng.pick(&self.plan.faults.clone());
        let slot = self.rng.below(self.current.len() as u64) as usize;
        if self.plan.faults.contains(&Fault::RestartOld) && self.rng.flip() {
            self.old_data = Some(self.server.clone());
        }
        self.inject(fault, slot);
        let pause = self.rng.below(2 * self.plan.fault_every_us);
        self.after(pause, Event::Fault);
    }

    /// Calm has one kind of fault: a connection ends, and both ends notice at once. Nobody is to wait for that longer
    /// than it takes to connect again (rules 6, 10 and 13).
    fn strike_gently(&mut self) {
        let slot = self.rng.below(self.current.len() as u64) as usize;
        if let Some(process) = self.current[slot].map(|pid| &self.processes[pid]) {
            let [one, other, renewal] = process.links;
            let conn = *self.rng.pick(&[one, other, renewal, process.subscription, process.subscription]);
            if let Some(conn) = conn {
                self.end_conn(conn);
            }
        }
        let pause = self.rng.range(50 * MS, 200 * MS);
        self.after(pause, Event::Fault);
    }

    pub fn inject(&mut self, fault: Fault, slot: usize) {
        if matches!(fault, Fault::RestartEmpty | Fault::RestartOld) && !self.may_restart() {
            return;
        }
        self.stats.count("fault", fault.name());
        self.history.fault(self.now, fault.name());
        trace!(self, "FAULT {fault:?} locker {slot}");
        let name = self.rng.below(self.names.len() as u64) as usize;
        match fault {
            Fault::Outage | Fault::SlowNetwork | Fault::RefuseSubscribe | Fault::RetryErrors => {
                self.last(fault, 2 * SECOND)
            }
            Fault::ReportErrors | Fault::OutOfMemory => self.last(fault, SECOND / 2),
            Fault::Flush => {
                self.server.flush();
                for lock in 0..self.names.len() {
                    self.history.disturbed(self.now, self.now, lock);
                }
            }
            Fault::RestartEmpty => {
                self.restart_server();
                self.server.flush();
            }
            Fault::RestartOld => {
                self.restart_server();
                if let Some(old) = self.old_data.take() {
                    self.server.restart_from(&old);
                    self.look_for_foreign();
                }
            }
            Fault::ClockForward | Fault::ClockBack => {
                let by = *self.rng.pick(&[SECOND, 10 * SECOND, 3_600 * SECOND]);
                let ahead = self.server_clock;
                self.step_clock(if fault == Fault::ClockForward { ahead + by } else { ahead.saturating_sub(by) });
            }
            Fault::QueueLost => self.server.remove(self.names[name].waiters()),
            Fault::KeyLost => {
                self.server.remove(self.names[name].key());
                self.history.disturbed(self.now, self.now, name);
            }
            Fault::ForeignKey => self.set_foreign(name, 2 * SECOND),
            _ => {
                if let Some(pid) = self.current[slot] {
                    self.inject_into(fault, pid, slot);
                }
            }
        }
        if fault == Fault::Outage {
            for conn in 0..self.conns.len() {
                self.break_conn(conn);
            }
        }
    }

    /// Once in a history (`Fault::APART`), and where the counter is ahead of the clock, only when every locker has seen it.
    fn may_restart(&self) -> bool {
        let mut processes = self.current.iter().flatten().map(|&pid| &self.processes[pid]);
        self.server_life == 0 && (self.plan.counter_ahead == 0 || processes.all(Process::has_seen_counter))
    }

    fn last(&mut self, fault: Fault, longest: Time) {
        let until = self.now + self.rng.spread(20 * MS, longest);
        let until = until.min(SECOND + self.plan.faults_for_us);
        self.lasting.insert(fault, until);
        self.at(until, Event::Heal(fault));
    }

    fn inject_into(&mut self, fault: Fault, pid: Pid, slot: usize) {
        match fault {
            Fault::BreakCommand => {
                let index = self.rng.below(2) as usize;
                self.break_link(pid, index);
            }
            Fault::BreakRenewal => self.break_link(pid, 2),
            Fault::BreakSubscription => {
                if let Some(conn) = self.processes[pid].subscription.or(self.processes[pid].subscribing) {
                    self.break_conn(conn);
                }
            }
            Fault::Pause => {
                let lease_us = self.processes[pid].plan.lease_ms * MS;
                let length = self.rng.spread(MS, 2 * lease_us);
                self.pause(pid, length);
            }
            Fault::Crash => {
                self.crash(pid);
                let pause = self.rng.spread(10 * MS, SECOND);
                self.after(pause, Event::Restart(slot));
            }
            Fault::Close => self.close_process(pid),
            _ => unreachable!("strikes no locker"),
        }
    }

    fn enter(&mut self, phase: Phase) {
        trace!(self, "PHASE {phase:?}");
        self.phase = phase;
        match phase {
            Phase::Faults => {}
            Phase::Settling => {
                self.lasting.clear();
                self.step_clock(self.highest_clock); // what was set while it was behind would live for too long
                self.after(SETTLE_US / 4, Event::NoticeAll);
                self.after(SETTLE_US, Event::Phase(Phase::Calm));
            }
            Phase::Calm => {
                self.after(self.plan.calm_for_us, Event::Phase(Phase::Draining));
                self.calm_at = Some(self.now);
                self.history.calm(self.now, self.plan.calm_for_us + SERVED_MAX_US);
                self.at(self.now, Event::Probe);
                self.after(50 * MS, Event::Fault);
                self.wake_users();
                self.set_foreign_in_calm();
            }
            Phase::Draining => {}
            Phase::Over => self.check_empty(),
        }
    }

    /// In calm, at intervals: is some lock without a holder though somebody waits? Is all done?
    fn probe(&mut self) {
        for lock in 0..self.names.len() {
            let waited_for = self.processes.iter().any(|process| process.waits_for(lock));
            let held = self.history.valid(self.now, &lock).next().is_some() || self.is_foreign(lock);
            let since = *self.unheld_since[lock].get_or_insert(self.now);
            if held || !waited_for {
                self.unheld_since[lock] = None;
            } else if self.is_haunted(lock) {
                self.unheld_since[lock] = Some(self.now + PAST_A_LEASE_US);
            } else if self.now.saturating_sub(since) > UNHELD_MAX_US {
                let holder = self.server.holder(self.server_now(), self.names[lock].key());
                let queue = self.server.queue(self.server_now(), self.names[lock].waiters());
                let what = format!(
                    "(d) waiters: lock {lock} has had no valid holder since {since}; on the server: {holder:?}, {queue:?}"
                );
                return self.fail(what);
            }
        }
        self.probe_queues();
        let calm_since = SECOND + self.plan.faults_for_us + SETTLE_US + self.plan.calm_for_us;
        if self.phase == Phase::Draining {
            let busy = self.processes.iter().any(|process| process.is_engaged());
            if !busy {
                return self.free_everything();
            }
            if self.now > calm_since + SERVED_MAX_US {
                let waiting: Vec<String> = self.processes.iter().map(|process| process.engagements()).collect();
                return self.fail(format!("(d) waiters: not served: {waiting:?}"));
            }
        }
        self.after(20 * MS, Event::Probe);
    }

    /// Does a ghost have the lock? It costs everybody one lease.
    fn is_haunted(&self, lock: usize) -> bool {
        match self.server.holder(self.server_now(), self.names[lock].key()) {
            Holder::Acquisition(acquisition) => {
                self.ghosts.contains(&acquisition) && self.is_wanted(acquisition) != Some(true)
            }
            _ => false,
        }
    }

    /// Is a waiter in some queue whom nobody wants any more?
    fn probe_queues(&mut self) {
        let mut left = BTreeMap::new();
        for name in self.names.clone() {
            for entry in self.server.queue(self.server_now(), name.waiters()) {
                let acquisition = Acquisition::parse(entry.member.split('@').next().unwrap_or_default());
                let calm = acquisition.filter(|acquisition| self.calm_acquisitions.contains(acquisition));
                if calm.and_then(|acquisition| self.is_wanted(acquisition)) == Some(false) {
                    let since = *self.left_since.get(&entry.member).unwrap_or(&self.now);
                    if self.now - since > LEFT_MAX_US {
                        self.fail(format!("(e) left in the queue since {since}: {entry:?}"));
                    }
                    left.insert(entry.member, since);
                }
            }
        }
        self.left_since = left;
    }

    fn free_everything(&mut self) {
        trace!(self, "all is released: handles are freed");
        for pid in 0..self.processes.len() {
            self.free_handles(pid);
        }
        self.after(SECOND, Event::Phase(Phase::Over));
    }

    /// After everything is released and freed: nothing of the calm is left now, and nothing at all but counters when
    /// leases and queues of those who crashed are over.
    fn check_empty(&mut self) {
        for pid in 0..self.processes.len() {
            if !self.processes[pid].is_drained() {
                return self.fail(format!("(e) locker {pid} still has something to release in the background"));
            }
        }
        for name in self.names.clone() {
            if let Holder::Acquisition(acquisition) = self.server.holder(self.server_now(), name.key())
                && self.calm_acquisitions.contains(&acquisition)
                && !self.ghosts.contains(&acquisition)
            {
                return self.fail(format!("(e) key space: {} still belongs to {acquisition}", name.key()));
            }
            for entry in self.server.queue(self.server_now(), name.waiters()) {
                let text = entry.member.split('@').next().unwrap_or_default();
                if Acquisition::parse(text).is_some_and(|acquisition| self.calm_acquisitions.contains(&acquisition)) {
                    return self.fail(format!("(e) key space: {text} is still in the queue of {}", name.key()));
                }
            }
        }
        for key in self.server.keys(self.server_now() + FORGOTTEN_US) {
            let checked = self.history.left(self.now, &key);
            self.check(checked);
        }
        let ended = self.history.end(self.now);
        self.check(ended);
        self.events.clear();
    }

    /// After a step of the server: everybody who believes to hold a lock is its holder there (invariant 3).
    pub fn check_views(&mut self, lock: usize) {
        let holder = self.server.holder(self.server_now(), self.names[lock].key());
        let mut wrong = None;
        for id in self.history.valid(self.now, &lock) {
            let believes = self.acquisitions[id];
            if holder != Holder::Acquisition(believes) && !self.history.is_exempt(id) {
                wrong = Some(format!("(a) views: {believes} believes to hold lock {lock}, on the server: {holder:?}"));
            }
        }
        if let Some(wrong) = wrong {
            self.fail(wrong);
        }
    }
}
