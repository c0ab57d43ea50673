//! Users: what they ask of their lock handles, and what they may expect of every answer.
//!
//! A user has one handle and one thing going on with it at a time, apart from side steps (cancel, an inspection, a
//! second call that must be told that the handle is busy, a write to what the lock protects).

use std::fmt;
use std::sync::Arc;

use dlock::Status;
use dlock::engine::{Answer, HandleId, Operation};
use dlock::error::{Error, Result};
use dlock::store::{self, Acquisition, Request};
use dlock_history::checker::{HoldingId, Time};

use super::plan::{MS, SECOND};
use super::process::{Pid, Process};
use super::trace::trace;
use super::world::{Event, Phase, World};

/// A call with a deadline returns at most so long after it.
const LATE_MAX_US: Time = 50 * MS;
/// In calm, a cancelled call returns within this time.
const CANCEL_MAX_US: Time = 50 * MS;

/// A user's handle in the history: the process and the number of the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Who(pub Pid, pub usize);

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "locker{}.user{}", self.0, self.1)
    }
}

/// A user's next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Asks for the lock, or for something else.
    Next,
    Release,
    Free,
    Cancel(u64),
    Extend,
    Write,
    /// A second call on a busy handle, or an acquire on one that holds.
    Again,
    Inspect,
}

pub struct User {
    pub id: HandleId,
    owner: uuid::Uuid,
    lock: usize,
    /// Steps planned in an earlier life are void.
    pub life: u64,
    /// The operation in progress (inspections apart).
    busy: Option<u64>,
    holding: Option<Holding>,
    /// The highest attempt that was sent.
    attempt: u64,
    /// In which attempt an extension was last given up: nobody waits for its reply.
    gave_up_extension: u64,
    open: bool,
}

#[derive(Clone, Copy)]
struct Holding {
    id: HoldingId,
    token: u64,
    valid_until: Time,
    since: Time,
    extended: bool,
}

/// An operation that was accepted and has not ended.
pub struct Op {
    pub user: usize,
    lock: usize,
    operation: Operation,
    /// Is it the user's own, after whose end he goes on?
    main: bool,
    started_at: Time,
    /// Until when the lock was certainly held when it started.
    held_until: Option<Time>,
    exempt: bool,
    was_up: bool,
    cancelled_at: Option<Time>,
    ended: bool,
}

impl User {
    fn is_engaged(&self) -> bool {
        self.open && (self.busy.is_some() || self.holding.is_some())
    }
}

impl Process {
    /// Does somebody here wait for that lock, for as long as it takes or until a deadline?
    pub fn waits_for(&self, lock: usize) -> bool {
        let waits = |op: &Op| {
            matches!(op.operation, Operation::Acquire { .. })
                && self.users[op.user].lock == lock
                && op.cancelled_at.is_none()
        };
        self.engine.is_some() && self.ops.values().any(waits)
    }

    /// Is something going on, or held?
    pub fn is_engaged(&self) -> bool {
        self.engine.is_some() && (!self.ops.is_empty() || !self.holding.is_empty())
    }

    pub fn engagements(&self) -> String {
        let ops = self.ops.values().map(|op| format!("{} {:?} since {}", op.user, op.operation, op.started_at));
        format!("{:?}, holding: {:?}", ops.collect::<Vec<_>>(), self.holding)
    }
}

/// Is this an extension to a lease that is over?
fn is_over(op: &Op, now: Time) -> bool {
    matches!(op.operation, Operation::Extend { lease_ms } if op.started_at + lease_ms * MS * 98 / 100 <= now + 3 * MS)
}

/// While another program has the lock's key, from before the call on, it counts as held by somebody else.
fn judge_foreign(op: &Op, foreign: &store::Holder, result: &Result<Answer>) -> std::result::Result<(), String> {
    let store::Holder::Foreign(text) = foreign else { return Ok(()) };
    let owner = text.as_deref().and_then(|text| uuid::Uuid::try_parse(text).ok());
    let fits = match (op.operation, result) {
        (Operation::IsLocked, Ok(answer)) => *answer == Answer::Flag(true),
        (Operation::IsLockedByMe, Ok(answer)) => *answer == Answer::Flag(false),
        (Operation::Owner, Ok(answer)) => owner.is_some() && *answer == Answer::Owner(owner),
        (Operation::Release, Ok(_)) => op.held_until.is_some(), // sent again after a lost reply
        (Operation::Release, Err(error)) => {
            op.held_until.is_some() || !matches!(error.status, Status::UnlockUnlocked | Status::Lost)
        }
        (_, Ok(answer)) => !matches!(answer, Answer::Acquired { .. } | Answer::Done),
        _ => true,
    };
    if fits { Ok(()) } else { Err(format!("another program has the key: {foreign:?}")) }
}

fn kind(operation: Operation) -> &'static str {
    match operation {
        Operation::Acquire { .. } => "acquire",
        Operation::TryAcquire => "try",
        Operation::Retry { .. } => "retry",
        Operation::Release => "release",
        Operation::Extend { .. } => "extend",
        Operation::IsLocked => "is_locked",
        Operation::IsLockedByMe => "is_locked_by_me",
        Operation::Owner => "owner",
    }
}

fn outcome(result: &Result<Answer>) -> &'static str {
    match result {
        Ok(Answer::Acquired { .. }) => "acquired",
        Ok(_) => "answered",
        Err(error) => match error.status {
            Status::Locker => "LOCKER",
            Status::NotOwner => "NOT_OWNER",
            Status::UnlockUnlocked => "UNLOCK_UNLOCKED",
            Status::LockTimeout => "LOCK_TIMEOUT",
            Status::NotConnected => "NOT_CONNECTED",
            Status::AlreadyHeld => "ALREADY_HELD",
            Status::Cancelled => "CANCELLED",
            Status::Lost => "LOST",
            Status::Closed => "CLOSED",
            _ => "another error",
        },
    }
}

fn watch_tag(index: usize) -> u64 {
    u64::MAX - index as u64
}

impl World {
    pub fn add_user(&mut self, pid: Pid, index: usize) {
        let lock = self.rng.below(self.names.len() as u64) as usize;
        let (owner, id) = self.open_handle(pid, index, lock);
        let user =
            User { id, owner, lock, life: 0, busy: None, holding: None, attempt: 0, gave_up_extension: 0, open: true };
        self.processes[pid].users.push(user);
        self.think(pid, index);
    }

    fn open_handle(&mut self, pid: Pid, index: usize, lock: usize) -> (uuid::Uuid, HandleId) {
        let owner = self.new_uuid();
        self.owners.insert(owner, (pid, index));
        let name = Arc::clone(&self.names[lock]);
        let engine = self.processes[pid].engine.as_mut().expect("users have an engine");
        let id = engine.open(name, owner).expect("the engine is not closed");
        engine.watch(id, watch_tag(index)).expect("the handle is open");
        (owner, id)
    }

    fn think(&mut self, pid: Pid, index: usize) {
        let delay = match self.phase {
            Phase::Settling => self.rng.range(500 * MS, 4 * SECOND),
            _ => self.rng.below(2 * self.plan.think_us),
        };
        self.act_later(pid, index, delay, Act::Next);
    }

    /// Users who think for long begin at once.
    pub fn wake_users(&mut self) {
        for pid in 0..self.processes.len() {
            if self.processes[pid].engine.is_none() || self.processes[pid].closing {
                continue;
            }
            for index in 0..self.processes[pid].users.len() {
                let user = &mut self.processes[pid].users[index];
                if user.busy.is_none() && user.holding.is_none() {
                    user.life += 1;
                    self.think(pid, index);
                }
            }
        }
    }

    pub fn user_acts(&mut self, pid: Pid, index: usize, life: u64, act: Act) {
        let user = &self.processes[pid].users[index];
        if user.life != life || self.processes[pid].closing || !user.open {
            return;
        }
        let (busy, holds) = (user.busy, user.holding.is_some());
        trace!(self, "locker {pid} user {index}: {act:?}");
        match act {
            Act::Next if busy.is_some() => {}
            Act::Next if holds => self.act_later(pid, index, 0, Act::Release),
            Act::Next if self.phase >= Phase::Draining => {}
            Act::Next => self.next(pid, index),
            Act::Release if busy.is_some() => self.act_later(pid, index, 10 * MS, Act::Release),
            Act::Release => self.start(pid, index, Operation::Release, true),
            Act::Free => self.free(pid, index),
            Act::Cancel(tag) => {
                if busy == Some(tag) {
                    if let Some(op) = self.processes[pid].ops.get_mut(&tag) {
                        op.cancelled_at = Some(self.now);
                    }
                    let id = self.processes[pid].users[index].id;
                    self.tell(pid, |engine, now| engine.cancel(now, id));
                }
            }
            Act::Extend => {
                if let (Some(holding), None) = (self.processes[pid].users[index].holding.as_mut(), busy) {
                    holding.extended = true;
                    let operation = Operation::Extend { lease_ms: self.extension(pid) };
                    self.start(pid, index, operation, false);
                }
            }
            Act::Write => {
                if let Some(holding) = self.processes[pid].users[index].holding
                    && self.now < holding.valid_until
                {
                    let delay = self.delay();
                    self.after(delay, Event::Write(holding.id));
                }
            }
            Act::Again => {
                self.tick(pid); // an extension that its lease's end has ended is over
                let user = &self.processes[pid].users[index];
                let (busy, holds) = (user.busy, user.holding.is_some());
                if busy.is_some() || holds {
                    let operation =
                        if self.rng.flip() { Operation::TryAcquire } else { Operation::Acquire { deadline: None } };
                    self.start(pid, index, operation, false);
                }
            }
            Act::Inspect => {
                let all = [Operation::IsLocked, Operation::IsLockedByMe, Operation::Owner];
                let operation = *self.rng.pick(&all);
                self.start(pid, index, operation, false);
            }
        }
    }

    fn extension(&mut self, pid: Pid) -> u64 {
        let lease_ms = self.processes[pid].plan.lease_ms;
        if self.phase == Phase::Faults { self.rng.spread(100, 5_000) } else { self.rng.range(lease_ms, 5_000) }
    }

    /// Begins something.
    fn next(&mut self, pid: Pid, index: usize) {
        if self.plan.wait_only {
            return self.start(pid, index, Operation::Acquire { deadline: None }, true);
        }
        if self.rng.chance(20_000) {
            self.act_later(pid, index, 0, Act::Inspect);
        }
        let operation = match self.rng.below(20) {
            0..8 => Operation::Acquire { deadline: None },
            8..14 => {
                let pause = if self.rng.chance(100_000) { 0 } else { self.rng.spread(MS, 500 * MS) };
                Operation::Acquire { deadline: Some(self.processes[pid].local(self.now + pause)) }
            }
            14..16 => Operation::TryAcquire,
            16..19 => {
                let backoff_us = self.rng.spread(MS, 20 * MS);
                Operation::Retry { retries: self.rng.below(4) as u32, backoff_us }
            }
            _ if self.rng.flip() => Operation::Release,
            _ => Operation::Extend { lease_ms: self.extension(pid) },
        };
        let tag = self.next_tag;
        self.start(pid, index, operation, true);
        let longest = 2 * self.plan.hold_us;
        if self.rng.chance(self.plan.cancel_ppm) {
            let delay = self.rng.below(longest);
            self.act_later(pid, index, delay, Act::Cancel(tag));
        }
        if self.rng.chance(self.plan.free_ppm) {
            let delay = self.rng.below(longest);
            self.act_later(pid, index, delay, Act::Free);
        }
        if self.rng.chance(20_000) {
            let delay = self.rng.below(longest);
            self.act_later(pid, index, delay, Act::Again);
        }
    }

    /// The lock is there: what its holder will do with it.
    fn plan_holding(&mut self, pid: Pid, index: usize) {
        if self.plan.wait_only {
            return;
        }
        let lease_us = self.processes[pid].plan.lease_ms * MS;
        let faults = self.phase == Phase::Faults;
        let longest = if faults { self.plan.hold_us } else { self.plan.hold_us.min(lease_us / 4).min(20 * MS) };
        let mut hold = self.rng.below(2 * longest);
        if self.rng.chance(200_000) {
            hold = self.rng.below(MS / 2); // over before what was sent earlier is answered
        }
        if faults && self.rng.chance(50_000) {
            hold = self.rng.below(2 * lease_us); // may outlast the lease where that is not renewed
        }
        let after = if self.rng.chance(self.plan.free_ppm) { Act::Free } else { Act::Release };
        self.act_later(pid, index, hold, after);
        for (act, per_million) in [(Act::Extend, 100_000), (Act::Write, 500_000), (Act::Write, 200_000)] {
            if self.rng.chance(per_million) {
                let delay = self.rng.below(hold);
                self.act_later(pid, index, delay, act);
            }
        }
        if self.rng.chance(20_000) {
            let delay = self.rng.below(hold);
            self.act_later(pid, index, delay, Act::Again);
        }
    }

    fn start(&mut self, pid: Pid, index: usize, operation: Operation, main: bool) {
        let tag = self.next_tag;
        self.next_tag += 1;
        let now = self.now;
        let user = &self.processes[pid].users[index];
        let (id, busy, holding) = (user.id, user.busy.is_some(), user.holding);
        let inspects = matches!(operation, Operation::IsLocked | Operation::IsLockedByMe | Operation::Owner);
        let valid = holding.filter(|holding| now < holding.valid_until);
        let op = Op {
            user: index,
            lock: user.lock,
            operation,
            main,
            started_at: now,
            held_until: valid.map(|holding| holding.valid_until),
            exempt: holding.is_some_and(|holding| self.history.is_exempt(holding.id)),
            was_up: self.processes[pid].engine.as_ref().is_some_and(|engine| engine.is_link_up()),
            cancelled_at: None,
            ended: false,
        };
        if operation == Operation::Release && !busy {
            self.check_lease(pid, holding);
        }
        if !inspects && !busy {
            // From the call on, a release may have freed it.
            if operation == Operation::Release && valid.is_some() {
                self.gives_up(pid, index);
            }
            self.processes[pid].users[index].busy = Some(tag);
        }
        self.processes[pid].ops.insert(tag, op);
        if !busy && let Some(deadline) = self.deadline(pid, operation) {
            let lock = self.processes[pid].users[index].lock;
            self.history.asked(now, lock, Who(pid, index), deadline);
        }
        let mut accepted = Ok(());
        let before = holding.filter(|_| valid.is_none() && !inspects && !busy);
        self.tell(pid, |engine, now| accepted = engine.start(now, id, operation, tag));
        let after = self.processes[pid].users[index].holding;
        if before.is_some_and(|before| after.is_some_and(|after| after.id == before.id)) {
            self.fail(format!("(f) a call on a handle whose lease ran out, and the loss was not told: {operation:?}"));
        }
        trace!(self, "locker {pid} user {index}: started {tag} {operation:?}: {accepted:?}");
        let refused_as_busy = accepted.as_ref().is_err_and(|error| error.status == Status::Busy);
        if let Err(error) = &accepted {
            self.processes[pid].ops.remove(&tag);
            if !refused_as_busy {
                self.fail(format!("(f) {operation:?} was not accepted: {error}"));
            }
        }
        if refused_as_busy != (busy && !inspects) {
            self.fail(format!("(f) {operation:?} on a handle that is busy: {busy}, answered {accepted:?}"));
        }
    }

    /// In calm, with the links as they were, a lock lasts as long as its lease says, however it was acquired: a claim
    /// is confirmed after a twelfth of it.
    fn check_lease(&mut self, pid: Pid, holding: Option<Holding>) {
        let process = &self.processes[pid];
        let quiet = process.disturbed_at.max(process.stopped_at) + SECOND < self.now;
        let in_calm = |holding: &Holding| self.calm_at.is_some_and(|at| holding.since > at);
        let Some(holding) = holding.filter(|holding| quiet && in_calm(holding) && !holding.extended) else { return };
        let lease_us = process.plan.lease_ms * MS;
        let claim_us = lease_us.min(3 * SECOND);
        if self.now > holding.since + claim_us / 12 + 10 * MS
            && holding.valid_until + 50 * MS < holding.since + lease_us / 100 * 97
        {
            let (since, until) = (holding.since, holding.valid_until);
            self.fail(format!("(f) held since {since}, valid until {until} only: the lease is {lease_us} us"));
        }
    }

    /// Is that waiter on the server still wanted here? `None`: it is no live process's.
    pub fn is_wanted(&self, acquisition: Acquisition) -> Option<bool> {
        let &(pid, index) = self.owners.get(&acquisition.owner)?;
        let process = &self.processes[pid];
        process.engine.as_ref()?;
        let user = &process.users[index];
        Some(user.owner == acquisition.owner && user.attempt == acquisition.attempt && user.is_engaged())
    }

    pub fn note_attempt(&mut self, pid: Pid, request: &Request) {
        let acquisition = request.acquisition;
        if let Some(&(_, index)) = self.owners.get(&acquisition.owner) {
            let user = &mut self.processes[pid].users[index];
            if user.owner == acquisition.owner && acquisition.attempt > user.attempt {
                user.attempt = acquisition.attempt;
                if self.phase >= Phase::Calm {
                    self.calm_acquisitions.insert(acquisition);
                }
            }
        }
    }

    /// Until when an acquire must be answered, in the history's terms: `Some(None)` for as long as it takes, `None` for
    /// what is no acquire. What makes single attempts may fail at once.
    fn deadline(&self, pid: Pid, operation: Operation) -> Option<Option<Time>> {
        match operation {
            Operation::Acquire { deadline } => Some(deadline.map(|deadline| self.processes[pid].global(deadline))),
            Operation::TryAcquire | Operation::Retry { .. } => Some(Some(self.now)),
            _ => None,
        }
    }

    /// The user believes no more.
    pub fn gives_up(&mut self, pid: Pid, index: usize) {
        self.processes[pid].holding.retain(|&other| other != index);
        if let Some(holding) = self.processes[pid].users[index].holding.take() {
            self.history.released(self.now, holding.id);
        }
    }

    /// After everything that a process was told: has some holder's view changed?
    pub fn observe(&mut self, pid: Pid) {
        let mut next = 0;
        while let Some(&index) = self.processes[pid].holding.get(next) {
            next += 1;
            let process = &self.processes[pid];
            let Some(engine) = process.engine.as_ref() else { return };
            let (user, now) = (&process.users[index], process.local(self.now));
            let Some(holding) = user.holding else { continue };
            let valid_until = match engine.remaining(now, user.id) {
                Ok(left) => process.global(now + left),
                Err(_) => holding.valid_until.min(self.now),
            };
            if valid_until != holding.valid_until {
                trace!(self, "locker {pid} user {index}: valid until {valid_until}, was {}", holding.valid_until);
                self.processes[pid].users[index].holding = Some(Holding { valid_until, ..holding });
                let seen = self.history.seen(self.now, holding.id, valid_until);
                self.check(seen);
            }
        }
    }

    fn free(&mut self, pid: Pid, index: usize) {
        self.free_handle(pid, index);
        let lock = self.rng.below(self.names.len() as u64) as usize;
        let (owner, id) = self.open_handle(pid, index, lock);
        let user = &mut self.processes[pid].users[index];
        (user.owner, user.id, user.lock, user.open) = (owner, id, lock, true);
        (user.attempt, user.gave_up_extension, user.life) = (0, 0, user.life + 1);
        self.think(pid, index);
    }

    fn free_handle(&mut self, pid: Pid, index: usize) {
        self.gives_up(pid, index);
        self.history.withdrawn(self.now, &Who(pid, index));
        let id = self.processes[pid].users[index].id;
        let tag = self.processes[pid].users[index].busy;
        let op = tag.and_then(|tag| self.processes[pid].ops.get_mut(&tag));
        if let Some(op) = op {
            op.ended = true;
        }
        self.tell(pid, |engine, now| engine.free(now, id));
        if let Some(tag) = tag
            && self.processes[pid].ops.contains_key(&tag)
        {
            self.fail(format!("(f) the operation {tag} outlived its handle"));
        }
        self.processes[pid].users[index].open = false;
    }

    pub fn free_handles(&mut self, pid: Pid) {
        if self.processes[pid].engine.is_none() || self.processes[pid].closing {
            return;
        }
        for index in 0..self.processes[pid].users.len() {
            self.free_handle(pid, index);
        }
    }

    // --- answers ---

    pub fn completed(&mut self, pid: Pid, tag: u64, operation: Operation, result: Result<Answer>) {
        let Some(op) = self.processes[pid].ops.remove(&tag) else {
            return self.fail(format!("(f) {operation:?} {tag} ended twice, or was never accepted: {result:?}"));
        };
        let index = op.user;
        if self.processes[pid].users[index].busy == Some(tag) {
            self.processes[pid].users[index].busy = None;
        }
        self.stats.count(kind(operation), outcome(&result));
        if matches!(operation, Operation::Extend { .. }) && result.is_err() {
            let user = &mut self.processes[pid].users[index];
            user.gave_up_extension = user.attempt;
        }
        if self.deadline(pid, operation).is_some() {
            let status = result.as_ref().map_or_else(|error| error.status, |_| Status::LockTimeout);
            match status {
                _ if matches!(result, Ok(Answer::Acquired { .. })) => {}
                Status::Cancelled | Status::Closed | Status::AlreadyHeld => {
                    self.history.withdrawn(self.now, &Who(pid, index));
                }
                _ => {
                    let failed = self.history.failed(self.now, &Who(pid, index), outcome(&result));
                    self.check(failed);
                }
            }
        }
        let judged = self.judge(pid, &op, operation, &result);
        if let Err(what) = judged {
            self.fail(format!(
                "(f) {what}: {operation:?} {tag} of locker {pid} user {index}, from {} to {}: {result:?}",
                op.started_at, self.now
            ));
        }
        if let Ok(Answer::Acquired { token }) = result {
            self.acquired(pid, index, &op, token);
        }
        if !op.main || self.processes[pid].closing || op.ended {
            return;
        }
        if matches!(result, Ok(Answer::Acquired { .. })) {
            self.plan_holding(pid, index);
        } else {
            self.think(pid, index);
        }
    }

    fn acquired(&mut self, pid: Pid, index: usize, op: &Op, token: u64) {
        let process = &self.processes[pid];
        let user = &process.users[index];
        let now = process.local(self.now);
        let engine = process.engine.as_ref().expect("it has just answered");
        let left = engine.remaining(now, user.id);
        if engine.token(now, user.id) != Ok(token) || !matches!(left, Ok(1..)) {
            return self.fail(format!("(f) acquired with token {token}, but left: {left:?}"));
        }
        let valid_until = process.global(now + left.unwrap_or(0));
        let lock = user.lock;
        let acquisition = Acquisition { owner: user.owner, attempt: user.attempt };
        let acquired = self.history.acquired(self.now, Who(pid, index), token, valid_until);
        let Some(id) = self.check(acquired) else { return };
        self.acquisitions.push(acquisition);
        self.processes[pid].users[index].holding =
            Some(Holding { id, token, valid_until, since: self.now, extended: false });
        self.processes[pid].holding.push(index);
        self.check_views(lock);
        if !op.main {
            // A second call on a handle that had just lost the lock: given back at once.
            self.act_later(pid, index, 0, Act::Release);
        }
    }

    pub fn told_lost(&mut self, pid: Pid, tag: u64, token: u64, error: &Error) {
        self.stats.count("lost", "told");
        let index = (u64::MAX - tag) as usize;
        let holding = self.processes[pid].users.get(index).and_then(|user| user.holding);
        let Some(holding) = holding.filter(|holding| holding.token == token) else {
            return self.fail(format!("(f) told twice, or without reason, that {token} was lost: {error}"));
        };
        if self.now < holding.valid_until && !self.history.is_exempt(holding.id) && !self.is_shortened(pid, index) {
            self.fail(format!("(a) lost while it was certainly held until {}: {error}", holding.valid_until));
        }
        self.processes[pid].holding.retain(|&other| other != index);
        self.processes[pid].users[index].holding = None;
        self.history.lost(self.now, holding.id);
    }

    /// Does its user believe to hold by this very acquisition, and wait for every reply that says otherwise?
    pub fn believes(&self, acquisition: Acquisition) -> bool {
        let Some(&(pid, index)) = self.owners.get(&acquisition.owner) else { return false };
        let Some(user) = self.processes[pid].users.get(index) else { return false };
        user.owner == acquisition.owner
            && user.attempt == acquisition.attempt
            && user.attempt != user.gave_up_extension
            && user.holding.is_some()
    }

    /// Did the user ask for a lease that is over already, before the answer has come?
    fn is_shortened(&self, pid: Pid, index: usize) -> bool {
        let process = &self.processes[pid];
        let op = process.users[index].busy.and_then(|tag| process.ops.get(&tag));
        op.is_some_and(|op| is_over(op, self.now))
    }

    /// Is this answer legal?
    fn judge(
        &self,
        pid: Pid,
        op: &Op,
        operation: Operation,
        result: &Result<Answer>,
    ) -> std::result::Result<(), String> {
        let process = &self.processes[pid];
        let bad = |what: &str| Err(what.to_string());
        if operation != op.operation {
            return bad("the answer to another operation");
        }
        let status = match result {
            Ok(answer) => {
                let fits = match operation {
                    Operation::Acquire { .. } | Operation::Retry { .. } => matches!(answer, Answer::Acquired { .. }),
                    Operation::TryAcquire => matches!(answer, Answer::Acquired { .. } | Answer::Flag(false)),
                    Operation::Release | Operation::Extend { .. } => *answer == Answer::Done,
                    Operation::IsLocked | Operation::IsLockedByMe => matches!(answer, Answer::Flag(_)),
                    Operation::Owner => matches!(answer, Answer::Owner(_)),
                };
                if !fits {
                    return bad("an answer of the wrong kind");
                }
                None
            }
            Err(error) => Some((error.status, error.message.as_str())),
        };
        let acquires = matches!(operation, Operation::Acquire { .. } | Operation::Retry { .. } | Operation::TryAcquire);
        if acquires && matches!(result, Ok(Answer::Acquired { .. })) {
            if op.held_until.is_some() {
                return bad("acquired again what was held");
            }
            if op.cancelled_at.is_some() {
                return bad("acquired after it was cancelled");
            }
        }
        self.judge_time(process, op)?;
        if let Some(foreign) = self.foreign_since(op.lock, op.started_at) {
            judge_foreign(op, &foreign, result)?;
        }
        let Some((status, text)) = status else { return Ok(()) };
        let held = op.held_until.is_some();
        match status {
            Status::LockTimeout => match operation {
                Operation::Acquire { deadline: Some(deadline) } if process.local(self.now) >= deadline => Ok(()),
                Operation::Retry { .. } => Ok(()),
                _ => bad("timed out before its time"),
            },
            Status::NotConnected => {
                let timeout = process.plan.response_timeout_ms * MS;
                let disturbed =
                    process.disturbed_at + 2 * timeout + SECOND >= op.started_at && process.disturbed_at > 0;
                if disturbed || !op.was_up { Ok(()) } else { bad("the link was not disturbed") }
            }
            Status::Cancelled if op.cancelled_at.is_some() || op.ended => Ok(()),
            Status::Closed if process.closing => Ok(()),
            Status::AlreadyHeld if acquires && held => Ok(()),
            Status::Locker => {
                let injected = ["simulated", "BUSY", "OOM", "longer than the lease"];
                let foreign = operation == Operation::Owner
                    && self.foreign.was_there_since(op.lock, op.started_at)
                    && text.contains("held by another program");
                if foreign || injected.iter().any(|word| text.contains(word)) {
                    Ok(())
                } else {
                    bad("no such error was injected")
                }
            }
            Status::NotOwner | Status::UnlockUnlocked | Status::Lost
                if matches!(operation, Operation::Release | Operation::Extend { .. }) =>
            {
                let still = op.held_until.is_some_and(|until| self.now < until);
                if still && !op.exempt && !is_over(op, self.now) && !self.is_disturbed_since(pid, op) {
                    bad("it was held and valid")
                } else {
                    Ok(())
                }
            }
            _ => bad("no legal status here"),
        }
    }

    /// Did the server lose data while the operation went on?
    fn is_disturbed_since(&self, pid: Pid, op: &Op) -> bool {
        self.history.disturbed_since(&self.processes[pid].users[op.user].lock, op.started_at)
    }

    fn judge_time(&self, process: &Process, op: &Op) -> std::result::Result<(), String> {
        if let Operation::Acquire { deadline: Some(deadline) } = op.operation {
            let due = process.global(deadline).max(op.started_at);
            if self.now > due + LATE_MAX_US && process.stopped_at < due {
                return Err(format!("{} us after its deadline", self.now - due));
            }
        }
        if let Some(at) = op.cancelled_at
            && self.phase >= Phase::Calm
            && at + CANCEL_MAX_US < self.now
            && process.stopped_at < at
        {
            return Err(format!("{} us after it was cancelled", self.now - at));
        }
        Ok(())
    }
}
