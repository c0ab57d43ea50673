//! The engine: what happens next.
//!
//! No I/O, no clock, no threads, no randomness of its own. Whoever runs it ([`crate::driver`] with sockets and a clock,
//! the simulator with neither) tells it what happened and what time it is, and takes from it what is to be done: requests
//! to send, operations that are complete. One lock handle is one state machine, drawn at the top of `handle.rs`; what
//! handles share (requests in flight, the two links, timers) is in `core.rs`; what goes on after a handle's call is over
//! (releases in the background, inspections) is in `job.rs`.
//!
//! Rules and invariants are those of `docs/protocol.md`, by number.

mod core;
mod handle;
mod job;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use uuid::Uuid;

use self::core::{Core, Due, Internal, Who};
use self::handle::Handle;
pub use crate::clock::Time;
use crate::error::{Error, Result, Status};
use crate::planted::{Bug, planted};
use crate::store::{HandOff, Name, Push, Reply, Request, RequestId};

/// One lock handle of one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HandleId(pub u64);

/// What an engine is told once.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long the server keeps a lock without a renewal.
    pub lease_ms: u64,
    /// Whether held locks are renewed in the background.
    pub auto_renew: bool,
    /// How long a call without a deadline goes on reconnecting.
    pub response_timeout_ms: u64,
    /// The locker's channel: unguessable (rule 13).
    pub channel: Arc<str>,
    /// The seed of the jitter.
    pub seed: u64,
}

/// Which of the two kinds of connection a request goes out on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// The calls' own connections.
    Command,
    /// The renewals' connection: they never queue behind a slow reply (rule 13).
    Renewal,
}

/// What a user may ask of a handle; times are microseconds of the engine's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Wait for the lock, until the deadline if there is one.
    Acquire { deadline: Option<Time> },
    /// One attempt.
    TryAcquire,
    /// One attempt, then up to `retries` more after 1, 2, 4, … times `backoff_us`.
    Retry { retries: u32, backoff_us: u64 },
    /// Give the lock up.
    Release,
    /// Set the lease from now on.
    Extend { lease_ms: u64 },
    /// Does anybody hold it?
    IsLocked,
    /// Does this handle hold it?
    IsLockedByMe,
    /// Who holds it?
    Owner,
}

/// What a completed operation answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Released, extended.
    Done,
    /// Acquired, with this fencing token.
    Acquired { token: u64 },
    /// Not taken (`TryAcquire`), or the answer to `IsLocked` and `IsLockedByMe`.
    Flag(bool),
    /// The answer to `Owner`.
    Owner(Option<Uuid>),
}

/// What the engine wants done. `T` is the caller's tag of an operation; it comes back with its completion.
#[derive(Debug)]
pub enum Action<T> {
    /// Send this; report its reply or its loss under the same id.
    Send { lane: Lane, id: RequestId, request: Request },
    /// Connect the command lane; report `link_up` or `link_failed`.
    Connect,
    /// Subscribe to the locker's channel; report `subscribed` or `subscribe_failed`.
    Subscribe,
    /// Ping the subscription with that number.
    Ping(u64),
    /// The subscription is silent: drop it, report `unsubscribed`.
    DropSubscription,
    /// The operation of that tag is over.
    Complete { tag: T, operation: Operation, result: Result<Answer> },
    /// The lock that `tag` watches was lost.
    Lost { tag: T, token: u64, error: Error },
}

/// See the module's documentation.
pub struct Engine<T> {
    core: Core<T>,
    handles: Map<Box<Handle<T>>>,
    by_owner: HashMap<Uuid, HandleId>,
    next_handle: u64,
    closed: bool,
}

impl<T: Clone> Engine<T> {
    /// An engine with no handles; both links are down.
    pub fn new(config: Config) -> Self {
        Engine {
            core: Core::new(config),
            handles: Map::default(),
            by_owner: HashMap::new(),
            next_handle: 1,
            closed: false,
        }
    }

    /// A new handle for that lock. `owner` must be unique.
    pub fn open(&mut self, name: Arc<Name>, owner: Uuid) -> Result<HandleId> {
        if self.closed {
            return Err(closed());
        }
        let id = HandleId(self.next_handle);
        self.next_handle += 1;
        self.handles.insert(id.0, Box::new(Handle::new(id, name, owner, &self.core)));
        self.by_owner.insert(owner, id);
        Ok(id)
    }

    /// Starts an operation. `Err`: it was not accepted and `tag` will not come back.
    pub fn start(&mut self, now: Time, id: HandleId, operation: Operation, tag: T) -> Result<()> {
        if self.closed {
            return Err(closed());
        }
        let handle = self.handles.get_mut(&id.0).ok_or_else(closed)?;
        handle.expire(&mut self.core, now);
        let started = match operation {
            Operation::IsLocked | Operation::IsLockedByMe | Operation::Owner => {
                self.core.inspect(now, handle.request(crate::store::Op::Inspect), operation, tag);
                Ok(())
            }
            _ => handle.start(&mut self.core, now, operation, tag),
        };
        handle.arm(&mut self.core);
        self.settle(now);
        started
    }

    /// Ends the acquire in progress on this handle, if there is one.
    pub fn cancel(&mut self, now: Time, id: HandleId) {
        self.with(now, id, |handle, core| handle.cancel(core, now));
    }

    /// A holder's tag for losses of this handle's lock; replaces the one before.
    pub fn watch(&mut self, id: HandleId, tag: T) -> Result<()> {
        if self.closed {
            return Err(closed());
        }
        self.handles.get_mut(&id.0).ok_or_else(closed)?.watch = Some(tag);
        Ok(())
    }

    /// Forgets the handle: a pending operation ends as cancelled, a held lock is released in the background.
    pub fn free(&mut self, now: Time, id: HandleId) {
        self.with(now, id, |handle, core| {
            handle.watch = None;
            let error = Error::new(Status::Cancelled, format!("{}: the lock handle was freed", handle.label()));
            handle.give_up_everything(core, now, error);
        });
        if let Some(mut handle) = self.handles.remove(&id.0) {
            handle.disarm(&mut self.core);
            self.by_owner.remove(&handle.owner);
        }
        self.settle(now);
    }

    /// Closes: every pending operation ends as closed, what is held is released; that is over when [`Engine::is_drained`],
    /// at most one response timeout later.
    pub fn close(&mut self, now: Time) {
        if self.closed {
            return;
        }
        self.closed = true;
        for handle in self.handles.values_mut().filter(|_| !planted(Bug::CloseKeepsLocks)) {
            handle.give_up_everything(&mut self.core, now, closed());
            handle.arm(&mut self.core);
        }
        self.core.close(now, closed);
        self.settle(now);
    }

    /// Was it closed?
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Is nothing left to be released in the background, and is no answer outstanding that may tell of something?
    pub fn is_drained(&self) -> bool {
        self.core.jobs.is_empty() && !self.core.may_take()
    }

    /// The token of the held lock.
    pub fn token(&self, now: Time, id: HandleId) -> Result<u64> {
        self.held(now, id).map(|(token, _)| token)
    }

    /// How long the lock is certainly held yet, in microseconds.
    pub fn remaining(&self, now: Time, id: HandleId) -> Result<u64> {
        self.held(now, id).map(|(_, valid_until)| valid_until - now)
    }

    fn held(&self, now: Time, id: HandleId) -> Result<(u64, Time)> {
        if self.closed {
            return Err(closed());
        }
        self.handles.get(&id.0).ok_or_else(closed)?.held(now)
    }

    /// The reply to a request.
    pub fn reply(&mut self, now: Time, id: RequestId, reply: Reply) {
        let Some(pending) = self.core.take_request(id) else { return };
        if let Reply::Taken { token } = reply {
            self.core.highest_token = self.core.highest_token.max(token);
        }
        match pending.who {
            Who::Job(job) => self.core.job_reply(now, job, &pending, reply),
            Who::Handle(handle) => match self.handles.get_mut(&handle.0) {
                Some(h) => {
                    h.on_reply(&mut self.core, now, id, &pending, reply);
                    h.arm(&mut self.core);
                }
                None => self.core.stray(now, &pending.request, &reply),
            },
        }
        self.settle(now);
    }

    /// These requests will have no reply: their connection ended. With a lost command connection every waiter re-checks
    /// (rule 13).
    pub fn lost(&mut self, now: Time, lane: Lane, ids: &[RequestId], why: &str) {
        self.core.link_error = why.to_string();
        for &id in ids {
            let Some(pending) = self.core.take_request(id) else { continue };
            match pending.who {
                Who::Job(job) => self.core.job_lost(now, job, &pending),
                Who::Handle(handle) => match self.handles.get_mut(&handle.0) {
                    Some(h) => {
                        h.on_lost(&mut self.core, now, id, &pending);
                        h.arm(&mut self.core);
                    }
                    None => self.core.stray_lost(now, &pending.request),
                },
            }
        }
        if lane == Lane::Command {
            self.recheck_all(now, None);
        }
        self.settle(now);
    }

    /// The command lane has a connection.
    pub fn link_up(&mut self, now: Time) {
        self.core.link_is_up();
        for handle in self.handles.values_mut() {
            handle.on_link_up(&mut self.core, now);
            handle.arm(&mut self.core);
        }
        self.core.resume_jobs(now);
        self.settle(now);
    }

    /// The renewal lane has a connection of its own, or no more.
    pub fn renewal_link(&mut self, now: Time, up: bool) {
        self.core.renewal_up = up;
        if up {
            for handle in self.handles.values_mut() {
                handle.on_renewal_link(&mut self.core, now);
                handle.arm(&mut self.core);
            }
        }
        self.settle(now);
    }

    /// The command lane has no connection any more.
    pub fn link_down(&mut self, now: Time, why: &str) {
        self.core.link_is_down(now, why);
        self.settle(now);
    }

    /// Connecting failed.
    pub fn link_failed(&mut self, now: Time, why: &str) {
        self.core.link_failed(now, why);
        self.settle(now);
    }

    /// The subscription is confirmed; `asked_at` is from before its request was sent.
    pub fn subscribed(&mut self, now: Time, asked_at: Time) {
        self.core.subscribed(now, asked_at);
        // In the order in which they came, as far as it is known: a release may run between two joins.
        let mut handles: Vec<_> = self.handles.values_mut().collect();
        handles.sort_by_cached_key(|handle| (handle.place == 0, handle.place));
        for handle in handles {
            handle.on_subscribed(&mut self.core, now);
            handle.arm(&mut self.core);
        }
        self.settle(now);
    }

    /// The subscription ended.
    pub fn unsubscribed(&mut self, now: Time) {
        self.core.unsubscribed(now);
        self.settle(now);
    }

    /// Subscribing failed or was refused: nobody queues, waiters poll (rule 12).
    pub fn subscribe_failed(&mut self, now: Time) {
        self.core.subscribe_failed(now);
        for handle in self.handles.values_mut() {
            handle.on_subscribe_failed(&mut self.core, now);
            handle.arm(&mut self.core);
        }
        self.settle(now);
    }

    /// Something came on the subscription.
    pub fn push(&mut self, now: Time, push: Push) {
        match push {
            Push::Pong { number } => self.core.pong(number),
            Push::Dropped { key } => self.recheck_all(now, Some(&key)),
            Push::HandOff { key, hand_off } => {
                let base = self.core.base();
                self.deliver(now, &key, hand_off, base);
            }
        }
        self.settle(now);
    }

    /// Time has come to [`Engine::next_timer`].
    pub fn tick(&mut self, now: Time) {
        if self.core.was_stopped(now) {
            self.recheck_all(now, None); // messages for us may have been judged meanwhile (rule 8)
        }
        self.settle(now);
    }

    /// When [`Engine::tick`] must be called at the latest; `None`: no need.
    pub fn next_timer(&self) -> Option<Time> {
        self.core.next_timer()
    }

    /// Is anything held, so that a renewal may be due before the runner is told anything else?
    pub fn holds_anything(&self) -> bool {
        self.core.held > 0
    }

    /// How soon after a hand-off its confirmation is due, where one may come.
    pub fn confirms_after(&self) -> Option<Time> {
        (self.core.waiting > 0).then(|| self.core.confirm_after())
    }

    /// Does this handle wait for a message?
    pub fn awaits_message(&self, id: HandleId) -> bool {
        self.handles.get(&id.0).is_some_and(|handle| handle.awaits_message())
    }

    /// Would a message matter now?
    pub fn wants_messages(&self) -> bool {
        self.core.waiting > 0 || !self.core.jobs.is_empty()
    }

    /// The highest token this locker has seen (rule 5).
    pub fn highest_token(&self) -> u64 {
        self.core.highest_token
    }

    /// Is the command lane known to be up?
    pub fn is_link_up(&self) -> bool {
        self.core.is_link_up()
    }

    /// What is to be done, in order. Must be carried out before the engine is told anything that happened later.
    pub fn take_actions(&mut self, into: &mut Vec<Action<T>>) {
        into.extend(self.core.out.drain(..));
    }

    /// The first of it.
    pub fn next_action(&mut self) -> Option<Action<T>> {
        self.core.out.pop_front()
    }

    /// Every operation in progress, to be answered by the runner itself: for a runner that must give up.
    pub fn abandon(&mut self) -> Vec<(Operation, T)> {
        self.closed = true;
        let calls = self.handles.values_mut().filter_map(|handle| handle.take_call());
        let mut calls: Vec<(Operation, T)> = calls.collect();
        calls.extend(self.core.take_job_calls());
        calls
    }

    /// Nobody is there to be told of the acquisition with that token: if it is still held, hand it on.
    pub fn hand_on(&mut self, now: Time, id: HandleId, token: u64) {
        self.with(now, id, |handle, core| handle.hand_on(core, now, token));
    }

    /// Cancels the acquires whose tag is one of those.
    pub fn cancel_where(&mut self, now: Time, of: impl Fn(&T) -> bool) {
        for handle in self.handles.values_mut() {
            if handle.tag().is_some_and(&of) {
                handle.cancel(&mut self.core, now);
                handle.arm(&mut self.core);
            }
        }
        self.settle(now);
    }

    fn with(&mut self, now: Time, id: HandleId, f: impl FnOnce(&mut Handle<T>, &mut Core<T>)) {
        if let Some(handle) = self.handles.get_mut(&id.0) {
            f(handle, &mut self.core);
            handle.arm(&mut self.core);
        }
        self.settle(now);
    }

    /// Carries out what one handle's step means for others, and all that is due.
    fn settle(&mut self, now: Time) {
        loop {
            match self.core.internal.pop_front() {
                Some(Internal::Deliver { key, hand_off, base }) => self.deliver(now, &key, hand_off, Some(base)),
                Some(Internal::Recheck { key }) => self.recheck_all(now, Some(&key)),
                None => match self.core.pop_due(now) {
                    Some(Due::Job(job)) => self.core.job_due(now, job),
                    Some(Due::Handle(id)) => {
                        if let Some(handle) = self.handles.get_mut(&id.0) {
                            handle.on_due(&mut self.core, now);
                            handle.arm(&mut self.core);
                        }
                    }
                    None => break,
                },
            }
        }
        self.core.tick_links(now);
    }

    /// A hand-off has come, by message or in a release's reply; `base`: from when its claim certainly counts (rule 3).
    fn deliver(&mut self, now: Time, key: &str, hand_off: HandOff, base: Option<Time>) {
        self.core.highest_token = self.core.highest_token.max(hand_off.token);
        let acquisition = hand_off.acquisition;
        let wanted = self.by_owner.get(&acquisition.owner).copied().is_some_and(|id| {
            let handle = self.handles.get_mut(&id.0).expect("by_owner names live handles");
            let same = handle.attempt == acquisition.attempt || planted(Bug::OldHandOffTaken);
            if !same || handle.name.key() != key {
                return false;
            }
            let wanted = handle.on_hand_off(&mut self.core, now, hand_off.token, base);
            handle.arm(&mut self.core);
            wanted
        });
        if !wanted
            && !planted(Bug::UnwantedHandOffKept)
            && let Some(name) = Name::from_key(key)
        {
            self.core.release_unwanted(now, name, acquisition); // rule 4
        }
    }

    /// Waiters (of one lock, or all) ask again at once, a large herd of them spread over a moment.
    fn recheck_all(&mut self, now: Time, key: Option<&str>) {
        let herd = self.core.waiting.saturating_sub(100) as u64 * 1_000;
        for handle in self.handles.values_mut() {
            if key.is_none_or(|key| key == handle.name.key()) {
                let at = now + if herd == 0 { 0 } else { self.core.random(herd) };
                handle.recheck(at);
                handle.arm(&mut self.core);
            }
        }
    }
}

fn closed() -> Error {
    Error::new(Status::Closed, "the locker is closed")
}

/// A map keyed by numbers that this engine counts up itself.
pub(crate) type Map<V> = HashMap<u64, V, BuildHasherDefault<IdHasher>>;

/// Spreads numbers, which are never chosen by anybody else, but leaves 64 consecutive ones side by side: what was made one
/// after the other is often wanted one after the other, as a hundred thousand handles are for their renewals.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("only numbers are hashed")
    }
    fn write_u64(&mut self, n: u64) {
        let block = (n >> 6).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(26);
        self.0 = (block << 6 | n & 63) ^ (n << 57); // the map tells neighbours apart by the highest bits
    }
}
