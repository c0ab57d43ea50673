//! One lock handle: the states of its lock, and what each event does to them.
//!
//! ```text
//!            start(acquire…)                      Taken
//!   Idle ───────────────────▶ Trying ─────────────────────────────────▶ Held ──▶ Releasing ──▶ Idle
//!    ▲                          │ Held                                   ▲ │ ▲ release()
//!    │   a single attempt:      │                                        │ │ └ renewals, extend
//!    ├──── answered at once ────┤                                        │ │
//!    │                          ├─▶ BackingOff ─▶ Trying                 │ └─▶ Idle (lost: validity over, or not mine)
//!    │                          │                                        │
//!    │   nobody listens yet:    ├─▶ Subscribing ─▶ Waiting ──────────────┤ hand-off, or a re-check took it
//!    │   cannot queue:          └─▶ Polling ⇄ Waiting ───────────────────┤
//!    │                                     │ deadline                    │
//!    └───────────────── timeout ────────── Leaving ──────────────────────┘ (handed over in that instant: kept)
//! ```
//!
//! At most one foreground request of a handle is in flight (`request`); what it would send while the link is down waits
//! in `wanted`. An attempt that ends with something of it perhaps still on the server leaves a job behind (`job.rs`).

use std::sync::Arc;

use uuid::Uuid;

use super::core::{Core, Due, Pending, RETRY_US, Who};
use super::job::{leaves_something, may_leave_something};
use super::{Action, Answer, HandleId, Lane, Operation, Time};
use crate::error::{Error, Result, Status};
use crate::planted::{Bug, planted};
use crate::store::{
    Acquisition, ErrorClass, Holder, Name, Op, Reply, Request, RequestId, Seat, ServerError, TOKEN_FLOOR,
};

/// A call whose deadline has come waits this long for an answer under way before it returns (50 ms are promised).
const GRACE_US: Time = 40_000;
/// After this many answers in a row that came when their lease was over, a call fails.
const LATE_MAX: u32 = 5;

/// The pause after a round that was given back, doubling from the first to the last, is random about as long as these.
const PAUSE_MIN_US: Time = 1_000;
const PAUSE_MAX_US: Time = 100_000;

/// Renewals go out at so many instants of a lease, and not each at its own: a hundred thousand in batches of some hundred.
const RENEWAL_INSTANTS: Time = 2_000;

/// How long a lease certainly lasts, from before the sending of the request that set it (rule 2).
pub(super) fn validity_us(lease_ms: u64) -> Time {
    let lease_us = lease_ms * 1_000;
    if planted(Bug::NoAllowance) { lease_us } else { lease_us - lease_us / 100 - 2_000 }
}

/// The user's operation in progress.
struct Call<T> {
    operation: Operation,
    tag: T,
    /// Where the operation has one.
    deadline: Option<Time>,
    /// Cancelled while a request was in flight: acts when the reply is there.
    cancelled: bool,
    /// Attempts that a retry has left, and its next pause.
    retries: u32,
    backoff_us: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    /// A try, or a join without channel: its answer decides.
    Trying,
    /// Another attempt at that time.
    BackingOff {
        until: Time,
    },
    /// Will join when the subscription is up.
    Subscribing,
    /// In the queue, or (a join in flight) about to be; asks again at that time (rule 6).
    Waiting {
        recheck_at: Time,
    },
    /// Cannot be told: asks at intervals.
    Polling {
        ask_at: Time,
    },
    /// The deadline has come; ends without an answer at that time.
    Leaving {
        grace_until: Time,
    },
    Held,
    /// `in_time`: the first sending was within validity (rule 10). `repeated`: a reply was lost.
    Releasing {
        in_time: bool,
        repeated: bool,
    },
}

/// How the last acquisition ended, for those who ask afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ended {
    /// Never acquired, or released.
    Orderly,
    /// Whether the release reached the server is not known.
    Unsure,
    Lost(String),
}

pub(super) struct Handle<T> {
    id: HandleId,
    pub name: Arc<Name>,
    pub owner: Uuid,
    seat: Seat,
    /// Rises with each acquire call (rule 1).
    pub attempt: u64,
    phase: Phase,
    call: Option<Call<T>>,
    /// The foreground request in flight.
    request: Option<RequestId>,
    /// What to send when the link is up, or at `retry_at`.
    wanted: Option<Op>,
    retry_at: Time,
    /// Without an answer until then, a call without a deadline fails.
    give_up_at: Time,
    give_up_error: Option<Error>,
    /// This attempt may be on the server though nothing is in flight: queued, or set by a request without a reply.
    exposed: bool,
    /// Join again as soon as the reply in flight is there: a hand-off came too late to be used.
    rejoin: bool,
    /// Drawn by the attempt's try, or told by its first join; 0: not yet.
    pub place: u64,
    late: u32,
    /// How many rounds in a row were given back.
    given_back: u32,
    token: u64,
    lease_ms: u64,
    valid_until: Time,
    renew_at: Time,
    renewal_blocked: bool,
    /// Handed over and not yet renewed: the marked member is still queued (rule 8).
    unconfirmed: bool,
    ended: Ended,
    pub watch: Option<T>,
    /// What `arm` last told the core of this handle.
    due: Time,
    counted: Counted,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Counted {
    held: bool,
    waiting: bool,
    polling: bool,
    needing: bool,
}

impl<T: Clone> Handle<T> {
    pub fn new(id: HandleId, name: Arc<Name>, owner: Uuid, core: &Core<T>) -> Self {
        Handle {
            id,
            name,
            owner,
            seat: core.seat.clone(),
            attempt: 0,
            phase: Phase::Idle,
            call: None,
            request: None,
            wanted: None,
            retry_at: 0,
            give_up_at: Time::MAX,
            give_up_error: None,
            exposed: false,
            rejoin: false,
            place: 0,
            late: 0,
            given_back: 0,
            token: 0,
            lease_ms: core.config.lease_ms,
            valid_until: 0,
            renew_at: Time::MAX,
            renewal_blocked: false,
            unconfirmed: false,
            ended: Ended::Orderly,
            watch: None,
            due: Time::MAX,
            counted: Counted::default(),
        }
    }

    pub fn label(&self) -> String {
        format!("lock {:?}", self.name.key())
    }

    pub fn awaits_message(&self) -> bool {
        matches!(self.phase, Phase::Subscribing | Phase::Waiting { .. })
    }

    pub fn request(&self, op: Op) -> Request {
        let acquisition = Acquisition { owner: self.owner, attempt: self.attempt };
        Request { name: Arc::clone(&self.name), acquisition, seat: self.seat.clone(), op }
    }

    pub fn take_call(&mut self) -> Option<(Operation, T)> {
        self.call.take().map(|call| (call.operation, call.tag))
    }

    pub fn tag(&self) -> Option<&T> {
        self.call.as_ref().map(|call| &call.tag)
    }

    /// Token and end of validity of the held lock.
    pub fn held(&self, now: Time) -> Result<(u64, Time)> {
        match &self.ended {
            _ if self.phase == Phase::Held && now < self.valid_until => Ok((self.token, self.valid_until)),
            _ if self.phase == Phase::Held => Err(self.lost_error("its lease ran out")),
            Ended::Lost(why) if self.phase == Phase::Idle => Err(self.lost_error(why)),
            _ => Err(Error::new(Status::UnlockUnlocked, format!("{}: not held by this handle", self.label()))),
        }
    }

    fn lost_error(&self, why: &str) -> Error {
        Error::new(Status::Lost, format!("{}: lost, {why}", self.label()))
    }

    // --- what a user asks ---

    pub fn start(&mut self, core: &mut Core<T>, now: Time, operation: Operation, tag: T) -> Result<()> {
        if self.call.is_some() {
            let text = format!("{}: another call is using this handle", self.label());
            return Err(Error::new(Status::Busy, text));
        }
        let mut call = Call { operation, tag, deadline: None, cancelled: false, retries: 0, backoff_us: 0 };
        match operation {
            Operation::Acquire { deadline } => call.deadline = deadline,
            Operation::Retry { retries, backoff_us } => (call.retries, call.backoff_us) = (retries, backoff_us),
            _ => {}
        }
        self.call = Some(call);
        self.give_up_at = Time::MAX;
        self.give_up_error = None;
        match operation {
            Operation::Release => self.start_release(core, now),
            Operation::Extend { lease_ms } => match self.held(now) {
                Ok(_) => self.want(core, now, Op::Renew { lease_ms }),
                Err(error) => self.finish(core, Err(error)),
            },
            Operation::TryAcquire if self.phase == Phase::Held => self.finish(core, Ok(Answer::Flag(false))),
            _ if self.phase == Phase::Held => {
                let text = format!("{}: held by this handle already", self.label());
                self.finish(core, Err(Error::new(Status::AlreadyHeld, text)));
            }
            _ => self.start_attempt(core, now),
        }
        Ok(())
    }

    fn start_attempt(&mut self, core: &mut Core<T>, now: Time) {
        self.attempt += 1;
        (self.exposed, self.rejoin, self.place, self.late, self.given_back) = (false, false, 0, 0, 0);
        self.lease_ms = core.config.lease_ms;
        self.ended = Ended::Orderly;
        self.phase = Phase::Trying;
        // Where others of this locker wait already, the lock is hardly free: a try would be a round trip for nothing.
        let waits = self.call.as_ref().is_some_and(
            |call| matches!(call.operation, Operation::Acquire { deadline } if deadline.is_none_or(|at| at > now)),
        );
        if waits && core.can_queue() && core.is_awaited(&self.name) {
            self.phase = Phase::Waiting { recheck_at: Time::MAX };
            return self.join(core, now);
        }
        self.want(core, now, Op::Try { lease_ms: self.lease_ms });
    }

    fn start_release(&mut self, core: &mut Core<T>, now: Time) {
        let in_time = self.phase == Phase::Held && now < self.valid_until;
        self.phase = Phase::Releasing { in_time, repeated: false };
        self.want(core, now, Op::Release { leave: false });
    }

    pub fn cancel(&mut self, core: &mut Core<T>, now: Time) {
        let acquiring = self.is_acquiring();
        let Some(call) = self.call.as_mut().filter(|_| acquiring) else { return };
        call.cancelled = true;
        if self.request.is_none() {
            self.end_cancelled(core, now);
        }
    }

    fn end_cancelled(&mut self, core: &mut Core<T>, now: Time) {
        let error = Error::new(Status::Cancelled, format!("{}: the call was cancelled", self.label()));
        self.fail(core, now, error);
    }

    /// Ends whatever goes on with `error`, and gives the lock up in the background: free and close.
    pub fn give_up_everything(&mut self, core: &mut Core<T>, now: Time, error: Error) {
        match self.phase {
            Phase::Held | Phase::Releasing { .. } => {
                self.exposed = self.attempt > 0;
                self.fail(core, now, error);
            }
            Phase::Idle => self.finish(core, Err(error)),
            _ => self.fail(core, now, error),
        }
    }

    /// Gives a held lock up in the background.
    pub fn hand_on(&mut self, core: &mut Core<T>, now: Time, token: u64) {
        if self.phase == Phase::Held && self.token == token && self.call.is_none() {
            let error = Error::new(Status::Cancelled, "nobody is there to receive the lock");
            self.give_up_everything(core, now, error);
        }
    }

    fn is_acquiring(&self) -> bool {
        !matches!(self.phase, Phase::Idle | Phase::Held | Phase::Releasing { .. })
    }

    /// Cancelled while a request was in flight.
    fn is_cancelled(&self) -> bool {
        self.call.as_ref().is_some_and(|call| call.cancelled)
    }

    fn is_waiting_call(&self) -> bool {
        self.call.as_ref().is_some_and(|call| matches!(call.operation, Operation::Acquire { .. }))
    }

    // --- sending ---

    /// Sends a foreground request, or keeps it until the link is up.
    fn want(&mut self, core: &mut Core<T>, now: Time, op: Op) {
        debug_assert!(self.request.is_none());
        self.retry_at = 0;
        if core.is_link_up() {
            self.release_is_late(now);
            self.wanted = None;
            self.exposed |= matches!(op, Op::Join { queue: true, .. });
            self.request = Some(core.send(now, Lane::Command, Who::Handle(self.id), self.request(op)));
        } else {
            self.wanted = Some(op);
            self.trouble(core, now);
        }
    }

    /// A release counts as in time by its first sending (rule 10), which may have had to wait for the link.
    fn release_is_late(&mut self, now: Time) {
        if (self.phase == Phase::Releasing { in_time: true, repeated: false }) && now >= self.valid_until {
            self.phase = Phase::Releasing { in_time: false, repeated: false };
            self.ended = Ended::Lost("its lease ran out before the release could be sent".to_string());
        }
    }

    /// From now on, a call without a deadline has one response timeout.
    fn trouble(&mut self, core: &Core<T>, now: Time) {
        if self.give_up_at == Time::MAX {
            self.give_up_at = now + core.config.response_timeout_ms * 1_000;
        }
    }

    pub fn on_link_up(&mut self, core: &mut Core<T>, now: Time) {
        if self.retry_at == 0
            && let Some(op) = self.wanted.take()
        {
            self.want(core, now, op);
        }
        self.on_renewal_link(core, now);
    }

    pub fn on_renewal_link(&mut self, core: &mut Core<T>, now: Time) {
        if self.renewal_blocked && self.phase == Phase::Held {
            self.renew(core, now);
        }
    }

    /// The step by which this attempt asks again: queueing where that is possible and of use.
    fn join(&mut self, core: &mut Core<T>, now: Time) {
        let queue = core.can_queue() && matches!(self.phase, Phase::Waiting { .. } | Phase::Polling { .. });
        self.rejoin = false;
        self.want(core, now, Op::Join { lease_ms: self.lease_ms, place: self.place, queue });
    }

    fn renew(&mut self, core: &mut Core<T>, now: Time) {
        self.renewal_blocked = !core.can_renew();
        self.renew_at = Time::MAX;
        if !self.renewal_blocked {
            let request = self.request(Op::Renew { lease_ms: self.lease_ms });
            core.send(now, Lane::Renewal, Who::Handle(self.id), request);
            // A reply that does not come is not waited for: the next renewal goes out all the same.
            self.renew_at = self.renew_next(core, now);
        }
    }

    /// When a renewal sent at `sent_at` is followed by another: also where renewal is off, until a claim is confirmed.
    fn renew_next(&self, core: &Core<T>, sent_at: Time) -> Time {
        match (self.unconfirmed, core.config.auto_renew) {
            (true, _) => sent_at + self.seat.claim_ms * 1_000 / 3,
            (false, true) => {
                let lease_us = self.lease_ms * 1_000;
                let at = sent_at + lease_us / 3;
                at - at % (lease_us / RENEWAL_INSTANTS).max(1)
            }
            (false, false) => Time::MAX,
        }
    }

    // --- replies ---

    pub fn on_reply(&mut self, core: &mut Core<T>, now: Time, id: RequestId, pending: &Pending, reply: Reply) {
        if self.request != Some(id) {
            return self.on_other_reply(core, now, pending, reply);
        }
        self.request = None;
        if let Some(error) = passing(&reply)
            && !self.is_cancelled()
        {
            self.exposed |= matches!(reply, Reply::TakenUndrawn { .. });
            return self.retry_later(core, now, pending.request.op, error);
        }
        self.give_up_at = Time::MAX;
        self.give_up_error = None;
        match self.phase {
            Phase::Releasing { in_time, repeated } => {
                self.on_release_reply(core, now, pending, reply, in_time, repeated)
            }
            Phase::Held => self.on_extend_reply(core, now, pending, reply),
            Phase::Idle => debug_assert!(false, "no foreground request while idle"),
            _ => self.on_acquire_reply(core, now, pending, reply),
        }
    }

    /// A reply that nobody of this handle waits for: a renewal's, or one that a hand-off was faster than.
    fn on_other_reply(&mut self, core: &mut Core<T>, now: Time, pending: &Pending, reply: Reply) {
        let current = pending.request.acquisition.attempt == self.attempt;
        let Op::Renew { lease_ms } = pending.request.op else {
            if leaves_something(&reply) {
                self.left_behind(core, now, &pending.request);
            }
            return;
        };
        if (!current && !planted(Bug::OldRenewalCounts)) || self.phase != Phase::Held {
            return;
        }
        match reply {
            Reply::Renewed { .. } => {
                let sent_at = if planted(Bug::RenewedFromReply) { now } else { pending.sent_at };
                let valid_until = sent_at + validity_us(lease_ms.min(self.lease_ms));
                self.valid_until = self.valid_until.max(valid_until);
                self.unconfirmed = false;
                self.renew_at = self.renew_next(core, pending.sent_at);
            }
            Reply::NotMine(Holder::Foreign(_)) if planted(Bug::ForeignLossNotTold) => {}
            Reply::NotMine(holder) => self.lose(core, now, &lost_to(&holder)),
            _ => self.renew_at = self.renew_at.min(now + self.seat.claim_ms * 1_000 / 12),
        }
    }

    fn on_acquire_reply(&mut self, core: &mut Core<T>, now: Time, pending: &Pending, reply: Reply) {
        let queued = matches!(reply, Reply::Queued { .. });
        if let Reply::GivenBack { .. } = reply {
            // This attempt is over, with all that it left; the call goes on under the next one (rule Q5).
            self.attempt += 1;
            self.exposed = false;
        }
        match reply {
            Reply::Taken { token } => return self.on_taken(core, now, pending, token),
            Reply::TakenUndrawn { error } => {
                self.exposed = true;
                return self.fail(core, now, self.refused(&error.text));
            }
            _ if self.is_cancelled() => {
                self.exposed |= queued;
                return self.end_cancelled(core, now);
            }
            Reply::Error(error) if !(error.class == ErrorClass::Memory && self.exposed) => {
                // A script may have stopped half way.
                self.exposed |= error.class == ErrorClass::Report;
                return self.fail(core, now, self.refused(&error.text));
            }
            _ => {}
        }
        if matches!(self.phase, Phase::Leaving { .. }) {
            // Only the answer to a leave says that nothing is left: one to a join that was not to queue says nothing of
            // the place that an earlier one took.
            let left = matches!(pending.request.op, Op::Leave { .. });
            match reply {
                Reply::Error(_) => {}
                _ if left => self.exposed = false,
                _ if queued || self.exposed => {
                    return self.want(core, now, Op::Leave { lease_ms: self.lease_ms });
                }
                _ => {}
            }
            return self.end_timed_out(core, now);
        }
        self.late = 0;
        let given_back = matches!(reply, Reply::GivenBack { .. });
        self.given_back = if given_back { self.given_back + 1 } else { 0 };
        match reply {
            Reply::Queued { place, remaining_ms, waiters } => {
                self.place = place;
                let recheck_at = if planted(Bug::NoRecheckByTime) {
                    Time::MAX
                } else if self.rejoin {
                    now
                } else {
                    core.recheck_at(now, remaining_ms, waiters)
                };
                self.phase = Phase::Waiting { recheck_at };
            }
            Reply::Foreign { remaining_ms } if planted(Bug::ForeignNotPolled) && self.is_waiting_call() => {
                self.phase = Phase::Waiting { recheck_at: core.recheck_at(now, remaining_ms, 1) };
            }
            Reply::Held { place, .. } | Reply::GivenBack { place } if place >= TOKEN_FLOOR && self.place == 0 => {
                self.place = place;
                self.not_taken(core, now);
            }
            _ => self.not_taken(core, now),
        }
        if given_back {
            self.pause(core, now, now.saturating_sub(pending.sent_at));
        }
    }

    /// After a round that was given back: one that would ask again at once waits for a random time first, so that those who
    /// took each other's servers do not meet again. `took`: how long the round was.
    fn pause(&mut self, core: &mut Core<T>, now: Time, took: Time) {
        let doubled = took.max(PAUSE_MIN_US).saturating_mul(1 << (self.given_back - 1).min(10));
        let pause = doubled.min(PAUSE_MAX_US);
        let until = now + pause / 2 + core.random(pause);
        match &mut self.phase {
            Phase::Waiting { recheck_at: at } | Phase::Polling { ask_at: at } => *at = until,
            _ => {}
        }
    }

    /// The lock is somebody else's and this attempt is not queued.
    fn not_taken(&mut self, core: &mut Core<T>, now: Time) {
        let Some(call) = self.call.as_mut() else { return };
        match call.operation {
            Operation::TryAcquire => {
                self.phase = Phase::Idle;
                self.finish(core, Ok(Answer::Flag(false)));
            }
            Operation::Retry { .. } if call.retries == 0 => self.end_timed_out(core, now),
            Operation::Retry { .. } => {
                self.phase = Phase::BackingOff { until: now.saturating_add(call.backoff_us) };
                call.retries -= 1;
                call.backoff_us = call.backoff_us.saturating_mul(2);
            }
            _ if self.phase == Phase::Trying && core.can_queue() => {
                self.phase = Phase::Waiting { recheck_at: Time::MAX };
                if self.given_back == 0 {
                    self.join(core, now);
                }
            }
            _ if matches!(self.phase, Phase::Waiting { .. }) && self.given_back > 0 => {} // asks again after a pause
            _ if self.phase == Phase::Trying && !core.must_poll() => self.phase = Phase::Subscribing,
            _ => self.phase = Phase::Polling { ask_at: core.poll_at(now) },
        }
    }

    /// A reply says that the lock is this attempt's.
    fn on_taken(&mut self, core: &mut Core<T>, now: Time, pending: &Pending, token: u64) {
        let sent_at = if planted(Bug::ValidFromReply) { now } else { pending.sent_at };
        let valid_until = sent_at + validity_us(self.lease_ms);
        if self.is_cancelled() && !planted(Bug::CancelledTakes) {
            self.exposed = true;
            return self.end_cancelled(core, now);
        }
        let fit = token >= TOKEN_FLOOR || planted(Bug::LowTokenTaken);
        if fit && (now < valid_until || planted(Bug::LateReplyTaken)) {
            self.unconfirmed = false;
            let renew_at = self.renew_next(core, pending.sent_at);
            return self.hold(core, token, valid_until, renew_at);
        }
        // Below the floor, or too late to be relied on: the number is dropped and drawn anew by joining (rules 2 and 5).
        self.exposed = true;
        self.late += u32::from(now >= valid_until);
        if self.late >= LATE_MAX {
            let text = format!("the server's replies take longer than the lease of {} ms", self.lease_ms);
            return self.fail(core, now, self.refused(&text));
        }
        if matches!(self.phase, Phase::Leaving { .. }) {
            return self.want(core, now, Op::Leave { lease_ms: self.lease_ms });
        }
        if self.is_waiting_call() && core.can_queue() && self.phase == Phase::Trying {
            self.phase = Phase::Waiting { recheck_at: Time::MAX };
        }
        self.join(core, now);
    }

    fn hold(&mut self, core: &mut Core<T>, token: u64, valid_until: Time, renew_at: Time) {
        self.phase = Phase::Held;
        (self.token, self.valid_until, self.renew_at) = (token, valid_until, renew_at);
        self.exposed = false;
        self.renewal_blocked = false;
        (self.wanted, self.retry_at) = (None, 0); // a retry that a hand-off was faster than
        self.give_up_at = Time::MAX;
        self.finish(core, Ok(Answer::Acquired { token }));
    }

    fn on_release_reply(
        &mut self,
        core: &mut Core<T>,
        now: Time,
        pending: &Pending,
        reply: Reply,
        in_time: bool,
        repeated: bool,
    ) {
        let holder = match reply {
            Reply::Again => return self.want(core, now, Op::Release { leave: false }),
            Reply::Released { next } => {
                if let Some(hand_off) = next {
                    core.deliver_later(&self.name, hand_off, pending.sent_at); // rule 3
                }
                None
            }
            Reply::NotMine(holder) => Some(holder),
            Reply::Error(error) => return self.fail_release(core, now, in_time, self.refused(&error.text)),
            _ => return self.fail_release(core, now, in_time, self.refused(&unexpected(&reply))),
        };
        self.phase = Phase::Idle;
        if std::mem::take(&mut self.exposed) {
            core.clean_up(now, self.request(Op::Release { leave: true }), None);
        }
        let ended = std::mem::replace(&mut self.ended, Ended::Orderly);
        let result = match (holder, ended) {
            // Rule 10: the first sending did it, and its lost reply may have named a waiter of ours.
            (Some(_), _) if repeated && in_time && !planted(Bug::RepeatedReleaseFails) => {
                core.recheck_later(&self.name);
                Ok(Answer::Done)
            }
            (Some(Holder::Nobody), Ended::Unsure) => Ok(Answer::Done),
            (None | Some(Holder::Nobody), Ended::Lost(why)) => Err(self.lost_error(&why)),
            (None, _) => Ok(Answer::Done),
            (Some(Holder::Nobody), _) => {
                Err(Error::new(Status::UnlockUnlocked, format!("{}: nobody holds it", self.label())))
            }
            (Some(holder), _) => {
                let text = format!("{}: {}", self.label(), held_by(&holder));
                Err(Error::new(Status::NotOwner, text))
            }
        };
        self.finish(core, result);
    }

    /// Whether the release was carried out is not known.
    fn fail_release(&mut self, core: &mut Core<T>, now: Time, in_time: bool, error: Error) {
        self.exposed |= in_time;
        if in_time {
            self.ended = Ended::Unsure;
        }
        self.fail(core, now, error);
    }

    fn on_extend_reply(&mut self, core: &mut Core<T>, now: Time, pending: &Pending, reply: Reply) {
        match (reply, pending.request.op) {
            (Reply::Renewed { .. }, Op::Renew { lease_ms }) => {
                let valid_until = pending.sent_at + validity_us(lease_ms);
                self.lease_ms = lease_ms;
                self.unconfirmed = false;
                self.valid_until = valid_until;
                self.renew_at = self.renew_next(core, pending.sent_at);
                if now >= valid_until {
                    return self.lose(core, now, "its lease ran out");
                }
                self.finish(core, Ok(Answer::Done));
            }
            (Reply::NotMine(holder), _) => self.lose(core, now, &lost_to(&holder)),
            (Reply::Error(error), _) => self.finish(core, Err(self.refused(&error.text))),
            (other, _) => self.finish(core, Err(self.refused(&unexpected(&other)))),
        }
    }

    /// The server refuses for a reason that passes.
    fn retry_later(&mut self, core: &mut Core<T>, now: Time, op: Op, error: &ServerError) {
        self.trouble(core, now);
        self.give_up_error = Some(match error.class {
            ErrorClass::Away => Error::new(Status::NotConnected, format!("{}: {}", self.label(), error.text)),
            _ => self.refused(&error.text),
        });
        self.wanted = Some(match op {
            // A refusal in the middle of a try may have left the lock set: a join finds it, another try would find it held.
            Op::Try { lease_ms } => {
                self.exposed = true;
                Op::Join { lease_ms, place: self.place, queue: false }
            }
            op => op,
        });
        self.retry_at = now + RETRY_US + core.random(RETRY_US);
    }

    // --- losses ---

    pub fn on_lost(&mut self, core: &mut Core<T>, now: Time, id: RequestId, pending: &Pending) {
        if self.request != Some(id) {
            return self.on_other_lost(core, now, pending);
        }
        self.request = None;
        // A call that waits in the queue counts the time for reconnecting anew with each loss.
        if matches!(self.phase, Phase::Waiting { .. } | Phase::Polling { .. }) {
            self.give_up_at = Time::MAX;
        }
        self.trouble(core, now);
        if self.is_acquiring() {
            self.exposed = true;
        }
        if self.is_cancelled() {
            return self.end_cancelled(core, now);
        }
        match self.phase {
            Phase::Releasing { in_time, .. } => {
                self.phase = Phase::Releasing { in_time, repeated: true };
                self.want(core, now, pending.request.op);
            }
            Phase::Held => self.want(core, now, pending.request.op),
            Phase::Leaving { .. } if matches!(pending.request.op, Op::Join { queue: true, .. } | Op::Leave { .. }) => {
                self.want(core, now, Op::Leave { lease_ms: self.lease_ms });
            }
            _ if planted(Bug::LostReplyTriesAnew) => self.want(core, now, Op::Try { lease_ms: self.lease_ms }),
            _ => self.join(core, now), // finds it if the lost request took it (invariant 5)
        }
    }

    /// Lost is a request that nobody of this handle waits for; see [`Self::on_other_reply`].
    fn on_other_lost(&mut self, core: &mut Core<T>, now: Time, pending: &Pending) {
        if may_leave_something(pending.request.op) {
            return self.left_behind(core, now, &pending.request);
        }
        let current = pending.request.acquisition.attempt == self.attempt && self.phase == Phase::Held;
        let wanted = self.unconfirmed || core.config.auto_renew;
        if current && wanted && matches!(pending.request.op, Op::Renew { .. }) {
            self.renew_at = now;
        }
    }

    /// A request that nobody of this handle waits for has taken or queued this or an earlier attempt, or may have: given up
    /// if that attempt is over (rule 4).
    fn left_behind(&mut self, core: &mut Core<T>, now: Time, request: &Request) {
        let current = request.acquisition.attempt == self.attempt;
        if current && matches!(self.phase, Phase::Releasing { .. }) {
            // It may have run before the release or after it: given up behind the release, never beside it, or the release
            // would be told that somebody else holds the lock.
            self.exposed = true;
        } else if !current || self.phase == Phase::Idle {
            core.give_up(now, request);
        }
    }

    /// The lock is no longer this handle's.
    fn lose(&mut self, core: &mut Core<T>, now: Time, why: &str) {
        let error = self.lost_error(why);
        if let Some(tag) = self.watch.as_ref().filter(|_| !planted(Bug::LossNotTold)) {
            core.out.push_back(Action::Lost { tag: tag.clone(), token: self.token, error: error.clone() });
        }
        // A marked member is removed. A key that is still there is left to its lease: the holder's caller may not have
        // noticed yet, and a shortening `extend` never shortens the key (rule 2).
        self.exposed = self.unconfirmed;
        self.fail(core, now, error);
        self.ended = Ended::Lost(why.to_string());
    }

    // --- hand-offs ---

    /// The lock was handed to this attempt. False: it does not want it (rule 4).
    pub fn on_hand_off(&mut self, core: &mut Core<T>, now: Time, token: u64, base: Option<Time>) -> bool {
        if matches!(self.phase, Phase::Held | Phase::Leaving { .. }) {
            return true; // the news came by a reply, or the leave in flight will find it
        }
        if matches!(self.phase, Phase::Releasing { .. }) {
            self.exposed = true; // a release beside the one in flight could overtake it: when that is answered
            return true;
        }
        if !self.is_acquiring() {
            return false;
        }
        if self.is_cancelled() {
            return true; // the reply in flight ends the call, which leaves a release behind
        }
        let claim_us = self.seat.claim_ms * 1_000;
        let base = if planted(Bug::HandOffFromReading) { Some(now) } else { base };
        let valid_until = base.map_or(0, |base| base + validity_us(self.seat.claim_ms));
        let late = valid_until < now + claim_us / 3 && !planted(Bug::LateHandOffTaken);
        if late || token < TOKEN_FLOOR {
            // Too late to be relied on: joining re-arms it and draws anew, or queues at its place (rule 3).
            self.exposed = true;
            match self.phase {
                _ if self.request.is_some() => self.rejoin = true,
                Phase::Waiting { .. } | Phase::Polling { .. } => self.join(core, now),
                _ => {}
            }
            return true;
        }
        self.request = None; // a re-check in flight: its reply is not waited for
        self.unconfirmed = true;
        // The first renewal confirms the claim, also where renewal is off; a release before it makes it unnecessary.
        let confirm_at = if planted(Bug::ClaimNotConfirmed) { Time::MAX } else { now + core.confirm_after() };
        self.hold(core, token, valid_until, confirm_at);
        true
    }

    // --- the links and the clock ---

    pub fn on_subscribed(&mut self, core: &mut Core<T>, now: Time) {
        match self.phase {
            Phase::Subscribing => {
                self.phase = Phase::Waiting { recheck_at: Time::MAX };
                self.join(core, now);
            }
            // Messages may have been lost meanwhile: every waiter asks (rule 6).
            Phase::Waiting { .. } if planted(Bug::NoRecheckAfterSubscribing) => {}
            Phase::Waiting { .. } | Phase::Polling { .. } => self.recheck(now),
            _ => {}
        }
    }

    pub fn on_subscribe_failed(&mut self, core: &mut Core<T>, now: Time) {
        if matches!(self.phase, Phase::Subscribing | Phase::Waiting { .. }) && self.request.is_none() {
            self.phase = Phase::Polling { ask_at: core.poll_at(now) };
        }
    }

    /// Asks again at that time, or when the reply in flight is there.
    pub fn recheck(&mut self, at: Time) {
        match &mut self.phase {
            Phase::Waiting { recheck_at: next } | Phase::Polling { ask_at: next } => {
                *next = (*next).min(at);
                self.rejoin = self.request.is_some();
            }
            _ => {}
        }
    }

    /// Before anything is asked of a handle: has the lease run out?
    pub fn expire(&mut self, core: &mut Core<T>, now: Time) {
        if planted(Bug::ExpiryNotNoticed) && now >= self.valid_until {
            self.valid_until = now + validity_us(self.lease_ms);
        }
        if self.phase == Phase::Held && now >= self.valid_until {
            self.lose(core, now, "its lease ran out before a renewal was answered");
        }
    }

    pub fn on_due(&mut self, core: &mut Core<T>, now: Time) {
        self.due = Time::MAX;
        self.expire(core, now);
        let deadline = self.call.as_ref().and_then(|call| call.deadline);
        if self.is_acquiring()
            && !matches!(self.phase, Phase::Leaving { .. })
            && deadline.is_some_and(|deadline| deadline <= now)
        {
            return self.on_deadline(core, now);
        }
        if self.call.is_some() && deadline.is_none() && self.give_up_at <= now {
            return self.give_up(core, now);
        }
        match self.phase {
            Phase::Leaving { grace_until } if grace_until <= now => return self.end_timed_out(core, now),
            Phase::Held if self.renew_at <= now => self.renew(core, now),
            _ => {}
        }
        if self.request.is_some() {
            return;
        }
        if self.retry_at != 0 && self.retry_at <= now {
            if let Some(op) = self.wanted.take() {
                self.want(core, now, op);
            }
        } else if self.wanted.is_none() {
            match self.phase {
                Phase::BackingOff { until } if until <= now => {
                    self.phase = Phase::Trying;
                    let lease_ms = self.lease_ms;
                    // After a lost reply only a join can tell whether the lock is ours already.
                    if self.exposed { self.join(core, now) } else { self.want(core, now, Op::Try { lease_ms }) }
                }
                Phase::Waiting { recheck_at: at } | Phase::Polling { ask_at: at } if at <= now => self.join(core, now),
                _ => {}
            }
        }
    }

    /// The deadline of an acquire has come: leave the queue, but keep the lock if it was handed over just now (rule 9).
    fn on_deadline(&mut self, core: &mut Core<T>, now: Time) {
        if planted(Bug::DeadlineStaysQueued) && self.request.is_none() {
            self.exposed = false;
        }
        if self.request.is_none() && self.wanted.is_none() && !self.exposed {
            return self.end_timed_out(core, now);
        }
        self.phase = Phase::Leaving { grace_until: now + GRACE_US };
        if self.request.is_none() && self.exposed {
            self.want(core, now, Op::Leave { lease_ms: self.lease_ms });
        }
    }

    fn end_timed_out(&mut self, core: &mut Core<T>, now: Time) {
        if self.is_cancelled() {
            return self.end_cancelled(core, now);
        }
        let away = self.give_up_error.take().filter(|error| error.status == Status::NotConnected);
        let error = if let Some(away) = away {
            away
        } else if core.is_link_up() {
            Error::new(Status::LockTimeout, format!("{}: not free in time", self.label()))
        } else {
            self.not_connected(core)
        };
        self.fail(core, now, error);
    }

    fn give_up(&mut self, core: &mut Core<T>, now: Time) {
        let error = self.give_up_error.take().unwrap_or_else(|| self.not_connected(core));
        match self.phase {
            // The lock is still held; only the extension failed.
            Phase::Held => {
                (self.wanted, self.retry_at) = (None, 0);
                if let Some(id) = self.request.take() {
                    core.forget(id);
                }
                self.give_up_at = Time::MAX;
                self.finish(core, Err(error));
            }
            Phase::Releasing { in_time, .. } => self.fail_release(core, now, in_time, error),
            _ => self.fail(core, now, error),
        }
    }

    fn not_connected(&self, core: &Core<T>) -> Error {
        Error::new(Status::NotConnected, format!("{}: {}", self.label(), core.link_error))
    }

    // --- endings ---

    /// Ends the attempt and the call. What the attempt may have left on the server is cleaned up in the background
    /// (invariant 6), after the reply to what is in flight (rule 9).
    fn fail(&mut self, core: &mut Core<T>, now: Time, error: Error) {
        let in_flight = self.request.take();
        if (in_flight.is_some() || self.exposed) && !planted(Bug::NoCleanUp) {
            core.clean_up(now, self.request(Op::Release { leave: true }), in_flight);
        }
        (self.exposed, self.rejoin, self.wanted, self.retry_at) = (false, false, None, 0);
        self.give_up_at = Time::MAX;
        self.phase = Phase::Idle;
        self.renewal_blocked = false;
        self.finish(core, Err(error));
    }

    /// An error in the server's words.
    fn refused(&self, text: &str) -> Error {
        Error::new(Status::Locker, format!("{}: {text}", self.label()))
    }

    fn finish(&mut self, core: &mut Core<T>, result: Result<Answer>) {
        if let Some(call) = self.call.take() {
            core.out.push_back(Action::Complete { tag: call.tag, operation: call.operation, result });
        }
    }

    // --- what the core keeps of a handle ---

    /// Tells the core when this handle is due and what it counts as; after every event.
    pub fn arm(&mut self, core: &mut Core<T>) {
        let counted = Counted {
            held: self.phase == Phase::Held,
            waiting: matches!(self.phase, Phase::Subscribing | Phase::Waiting { .. }),
            polling: matches!(self.phase, Phase::Polling { .. }),
            needing: self.renewal_blocked || (self.wanted.is_some() && self.retry_at == 0),
        };
        if counted != self.counted {
            let step = |was: bool, is: bool, n: &mut usize| *n = *n + usize::from(is) - usize::from(was);
            step(self.counted.held, counted.held, &mut core.held);
            step(self.counted.waiting, counted.waiting, &mut core.waiting);
            step(self.counted.polling, counted.polling, &mut core.polling);
            step(self.counted.needing, counted.needing, &mut core.needing);
            if counted.waiting != self.counted.waiting {
                core.count_waiter(&self.name, counted.waiting);
            }
            self.counted = counted;
        }
        let due = self.next_due();
        core.set_timer(self.due, due, Due::Handle(self.id));
        self.due = due;
    }

    pub fn disarm(&mut self, core: &mut Core<T>) {
        (self.phase, self.wanted, self.renewal_blocked, self.call) = (Phase::Idle, None, false, None);
        self.retry_at = 0;
        self.arm(core);
    }

    fn next_due(&self) -> Time {
        let mut due = Time::MAX;
        if let Some(call) = &self.call {
            match call.deadline {
                Some(deadline) if !matches!(self.phase, Phase::Leaving { .. }) => due = deadline,
                Some(_) => {}
                None => due = self.give_up_at,
            }
        }
        let idle = self.request.is_none() && self.wanted.is_none();
        let phase = match self.phase {
            Phase::Leaving { grace_until } => grace_until,
            Phase::Held => self.valid_until.min(self.renew_at),
            Phase::BackingOff { until } if idle => until,
            Phase::Waiting { recheck_at: at } | Phase::Polling { ask_at: at } if idle => at,
            _ => Time::MAX,
        };
        let retry = if self.retry_at != 0 && self.request.is_none() { self.retry_at } else { Time::MAX };
        due.min(phase).min(retry)
    }
}

/// The refusal of a step that is to be tried again. One that took the lock without a number was refused as well.
fn passing(reply: &Reply) -> Option<&ServerError> {
    match reply {
        Reply::Error(error) if error.class.passes() => Some(error),
        Reply::TakenUndrawn { error } if error.class.passes() || error.class == ErrorClass::Reconnect => Some(error),
        _ => None,
    }
}

fn lost_to(holder: &Holder) -> String {
    match holder {
        Holder::Nobody => "the server no longer has it".to_string(),
        holder => held_by(holder),
    }
}

fn held_by(holder: &Holder) -> String {
    match holder {
        Holder::Nobody => "nobody holds it".to_string(),
        Holder::Acquisition(acquisition) => format!("held by {}", acquisition.owner),
        Holder::Foreign(_) => "the key belongs to another program".to_string(),
    }
}

fn unexpected(reply: &Reply) -> String {
    format!("unexpected reply {reply:?}")
}
