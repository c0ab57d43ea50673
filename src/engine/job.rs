//! What goes on without a handle's call: giving up what an attempt may have left on the server, and inspections. A job
//! has at most one request in flight, repeats it when its reply is lost, and ends with an answer or when its time is over.

use std::sync::Arc;

use super::core::{Core, Due, Internal, Pending, RETRY_US, Who};
use super::{Action, Answer, Lane, Operation, Time};
use crate::error::{Error, Result, Status};
use crate::store::{Acquisition, ErrorClass, HandOff, Holder, Name, Op, Reply, Request, RequestId, ServerError};

pub(super) struct Job<T> {
    request: Request,
    /// An inspection's operation and tag; none where something is given up.
    asked: Option<(Operation, T)>,
    /// Sent once this is answered or lost.
    after: Option<RequestId>,
    in_flight: Option<RequestId>,
    /// Ends without an answer then: a lease later nothing is left to give up.
    until: Time,
    retry_at: Time,
    /// Why the server refused it last, for a reason that passes.
    refusal: Option<ServerError>,
    /// A release's reply was lost; it may have named a waiter of this locker (rule 10).
    repeated: bool,
    due: Time,
    needing: bool,
}

impl<T: Clone> Core<T> {
    /// Releases or leaves in the background, after the reply to `in_flight`.
    pub fn clean_up(&mut self, now: Time, request: Request, in_flight: Option<RequestId>) {
        let lease_us = self.config.lease_ms.max(request.seat.claim_ms) * 1_000;
        let after = in_flight.filter(|&id| self.in_flight(id));
        let job = self.add_job(now, request, None, after, now + lease_us);
        if let Some(id) = after {
            self.reassign(id, job);
        }
    }

    /// Asks who holds the lock.
    pub fn inspect(&mut self, now: Time, request: Request, operation: Operation, tag: T) {
        self.add_job(now, request, Some((operation, tag)), None, Time::MAX);
    }

    /// A hand-off for an attempt that is over (rule 4).
    pub fn release_unwanted(&mut self, now: Time, name: Arc<Name>, acquisition: Acquisition) {
        let seat = self.seat.clone();
        self.clean_up(now, Request { name, acquisition, seat, op: Op::Release { leave: true } }, None);
    }

    /// A late reply for an attempt that is over: what it says to have done is undone (rule 4).
    pub fn stray(&mut self, now: Time, request: &Request, reply: &Reply) {
        if leaves_something(reply) {
            self.give_up(now, request);
        }
    }

    /// The same where no reply will come: the request may have run all the same, after all that this attempt asked for on
    /// other connections.
    pub fn stray_lost(&mut self, now: Time, request: &Request) {
        if may_leave_something(request.op) {
            self.give_up(now, request);
        }
    }

    /// Undoes what the request did.
    pub fn give_up(&mut self, now: Time, request: &Request) {
        self.clean_up(now, Request { op: Op::Release { leave: true }, ..request.clone() }, None);
    }

    pub fn deliver_later(&mut self, name: &Name, hand_off: HandOff, base: Time) {
        self.internal.push_back(Internal::Deliver { key: name.key().to_string(), hand_off, base });
    }

    pub fn recheck_later(&mut self, name: &Name) {
        self.internal.push_back(Internal::Recheck { key: name.key().to_string() });
    }

    /// The reply to that request is of no use any more.
    pub fn forget(&mut self, id: RequestId) {
        self.take_request(id);
    }

    fn add_job(
        &mut self,
        now: Time,
        request: Request,
        asked: Option<(Operation, T)>,
        after: Option<RequestId>,
        until: Time,
    ) -> u64 {
        let id = self.next_job;
        self.next_job += 1;
        let job = Job {
            request,
            asked,
            after,
            in_flight: None,
            until,
            retry_at: 0,
            refusal: None,
            repeated: false,
            due: Time::MAX,
            needing: false,
        };
        self.jobs.insert(id, job);
        self.advance(now, id);
        id
    }

    /// Sends the job's request if it can be sent now; sets its timer.
    fn advance(&mut self, now: Time, id: u64) {
        let up = self.is_link_up();
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let ready = job.after.is_none() && job.in_flight.is_none() && job.retry_at <= now;
        if ready && !up && job.until == Time::MAX {
            job.until = now + self.config.response_timeout_ms * 1_000;
        }
        let request = (ready && up).then(|| job.request.clone());
        let in_flight = request.map(|request| self.send(now, Lane::Command, Who::Job(id), request));
        let job = self.jobs.get_mut(&id).expect("sending removes no job");
        if in_flight.is_some() {
            (job.in_flight, job.retry_at) = (in_flight, 0);
        }
        let needing = ready && !up;
        let waits = job.after.is_none() && job.in_flight.is_none() && job.retry_at > now;
        let due = if waits { job.until.min(job.retry_at) } else { job.until };
        let (old_due, old_needing) = (job.due, job.needing);
        (job.due, job.needing) = (due, needing);
        self.set_timer(old_due, due, Due::Job(id));
        self.needing = self.needing + usize::from(needing) - usize::from(old_needing);
    }

    fn end_job(&mut self, id: u64, result: Option<Result<Answer>>) {
        let Some(job) = self.jobs.remove(&id) else { return };
        self.set_timer(job.due, Time::MAX, Due::Job(id));
        self.needing -= usize::from(job.needing);
        if let (Some((operation, tag)), Some(result)) = (job.asked, result) {
            self.out.push_back(Action::Complete { tag, operation, result });
        }
    }

    pub fn job_due(&mut self, now: Time, id: u64) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.due = Time::MAX;
        if job.until > now {
            return self.advance(now, id);
        }
        let (status, why) = match &job.refusal {
            Some(refusal) if refusal.class == ErrorClass::Away => (Status::NotConnected, &refusal.text),
            Some(refusal) => (Status::Locker, &refusal.text),
            None => (Status::NotConnected, &self.link_error),
        };
        let text = format!("lock {:?}: {why}", job.request.name.key());
        self.end_job(id, Some(Err(Error::new(status, text))));
    }

    pub fn job_lost(&mut self, now: Time, id: u64, pending: &Pending) {
        let response_timeout_us = self.config.response_timeout_ms * 1_000;
        if let Some(job) = self.jobs.get_mut(&id) {
            (job.after, job.in_flight, job.refusal) = (None, None, None);
            job.repeated |= matches!(pending.request.op, Op::Release { .. });
            if job.asked.is_some() && job.until == Time::MAX {
                job.until = now + response_timeout_us;
            }
        }
        self.advance(now, id);
    }

    pub fn job_reply(&mut self, now: Time, id: u64, pending: &Pending, reply: Reply) {
        let Some(job) = self.jobs.get_mut(&id) else { return self.stray(now, &pending.request, &reply) };
        if job.after.take().is_some() {
            // The attempt's last request is answered: now leave. A release among them may have named a waiter.
            if let Reply::Released { next: Some(hand_off) } = reply {
                self.deliver_later(&pending.request.name, hand_off, pending.sent_at);
            }
            return self.advance(now, id);
        }
        job.in_flight = None;
        match reply {
            // What is to be given up is asked for again whatever the refusal: nobody else would.
            Reply::Error(error) if error.class.passes() || job.asked.is_none() => {
                let timeout_us = self.config.response_timeout_ms * 1_000;
                let pause = if error.class.passes() { RETRY_US } else { RETRY_US.max(timeout_us / 8) };
                job.until = job.until.min(now + timeout_us);
                job.retry_at = now + pause;
                job.refusal = Some(error);
                self.advance(now, id);
            }
            Reply::Error(error) => {
                let text = format!("lock {:?}: {}", job.request.name.key(), error.text);
                self.end_job(id, Some(Err(Error::new(Status::Locker, text))));
            }
            Reply::Again => self.advance(now, id),
            Reply::Released { next } => {
                let name = Arc::clone(&job.request.name);
                self.end_job(id, None);
                if let Some(hand_off) = next {
                    self.deliver_later(&name, hand_off, pending.sent_at);
                }
            }
            Reply::Holder(holder) => {
                let result = job.asked.as_ref().map(|(operation, _)| answer(*operation, &job.request, holder));
                self.end_job(id, result);
            }
            Reply::NotMine(_) if job.repeated => {
                let name = Arc::clone(&job.request.name);
                self.end_job(id, None);
                self.recheck_later(&name);
            }
            _ => self.end_job(id, None),
        }
    }

    pub fn resume_jobs(&mut self, now: Time) {
        let ids: Vec<u64> = self.jobs.iter().filter(|(_, job)| job.needing).map(|(&id, _)| id).collect();
        for id in ids {
            self.advance(now, id);
        }
    }

    /// Inspections end as closed; what is given up has one response timeout.
    pub fn close(&mut self, now: Time, closed: fn() -> Error) {
        let until = now + self.config.response_timeout_ms * 1_000;
        let ids: Vec<u64> = self.jobs.keys().copied().collect();
        for id in ids {
            let job = self.jobs.get_mut(&id).expect("nothing was removed but this one");
            if job.asked.is_some() {
                self.end_job(id, Some(Err(closed())));
            } else {
                job.until = job.until.min(until);
                self.advance(now, id);
            }
        }
    }

    pub fn take_job_calls(&mut self) -> Vec<(Operation, T)> {
        self.jobs.values_mut().filter_map(|job| job.asked.take()).collect()
    }
}

/// Does the reply say that the attempt is now on the server, as holder or waiter?
pub(super) fn leaves_something(reply: &Reply) -> bool {
    matches!(reply, Reply::Taken { .. } | Reply::TakenUndrawn { .. } | Reply::Queued { .. })
}

/// May a request of this kind have put its attempt on the server?
pub(super) fn may_leave_something(op: Op) -> bool {
    !matches!(op, Op::Renew { .. } | Op::Release { .. })
}

fn answer(operation: Operation, request: &Request, holder: Holder) -> Result<Answer> {
    let foreign = |what: &str| {
        let text = format!("lock {:?}: held by another program, {what}", request.name.key());
        Error::new(Status::Locker, text)
    };
    match (operation, holder) {
        (Operation::IsLocked, holder) => Ok(Answer::Flag(holder != Holder::Nobody)),
        (Operation::IsLockedByMe, Holder::Acquisition(a)) => Ok(Answer::Flag(a == request.acquisition)),
        (Operation::IsLockedByMe, _) => Ok(Answer::Flag(false)),
        (_, Holder::Nobody) => Ok(Answer::Owner(None)),
        (_, Holder::Acquisition(acquisition)) => Ok(Answer::Owner(Some(acquisition.owner))),
        (_, Holder::Foreign(Some(text))) => match uuid::Uuid::try_parse(&text) {
            Ok(owner) => Ok(Answer::Owner(Some(owner))),
            Err(_) => Err(foreign("whose key holds no UUID")),
        },
        (_, Holder::Foreign(None)) => Err(foreign("whose key is of another type")),
    }
}
