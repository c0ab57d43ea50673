//! What became of an operation that was submitted to a completion queue.

use uuid::Uuid;

use crate::engine::{Answer, Operation};
use crate::error::{Error, Result};

/// What an event reports on. The numbers are part of the ABI.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// `submit_acquire` ended.
    Acquire = 1,
    /// `submit_try_acquire` ended; `flag` says whether the lock was taken.
    TryAcquire = 2,
    /// `submit_acquire_retry_backoff` ended.
    AcquireRetryBackoff = 3,
    /// `submit_release` ended.
    Release = 4,
    /// `submit_is_locked` ended; `flag` is the answer.
    IsLocked = 5,
    /// `submit_is_locked_by_me` ended; `flag` is the answer.
    IsLockedByMe = 6,
    /// `submit_owner` ended; `flag` says whether there is an owner, `owner` who.
    Owner = 7,
    /// A watched lock was lost.
    Lost = 8,
}

/// One finished operation.
#[derive(Clone, Debug)]
pub struct Event {
    /// As submitted.
    pub user_data: u64,
    /// Which operation.
    pub kind: EventKind,
    /// `None`: it succeeded. A `Lost` event carries an error of status `Lost` that says why.
    pub error: Option<Error>,
    /// Taken, locked, locked by me, or has an owner.
    pub flag: bool,
    /// The fencing token of a lock acquired (or lost); otherwise 0.
    pub token: u64,
    /// The answer to `submit_owner`.
    pub owner: Option<Uuid>,
}

impl Event {
    pub(crate) fn new(user_data: u64, operation: Operation, result: Result<Answer>) -> Self {
        let kind = match operation {
            Operation::Acquire { .. } => EventKind::Acquire,
            Operation::TryAcquire => EventKind::TryAcquire,
            Operation::Retry { .. } => EventKind::AcquireRetryBackoff,
            Operation::Release | Operation::Extend { .. } => EventKind::Release,
            Operation::IsLocked => EventKind::IsLocked,
            Operation::IsLockedByMe => EventKind::IsLockedByMe,
            Operation::Owner => EventKind::Owner,
        };
        let mut event = Event { user_data, kind, error: None, flag: false, token: 0, owner: None };
        match result {
            Ok(Answer::Done) => {}
            Ok(Answer::Acquired { token }) => (event.flag, event.token) = (true, token),
            Ok(Answer::Flag(flag)) => event.flag = flag,
            Ok(Answer::Owner(owner)) => (event.flag, event.owner) = (owner.is_some(), owner),
            Err(error) => event.error = Some(error),
        }
        event
    }
}
