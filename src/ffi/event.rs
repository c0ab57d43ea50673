//! Finished operations, as the caller's array holds them.

use std::ffi::c_char;

use super::error::{dlock_status, message_text};
use super::guard::uuid_text;
use super::{DLOCK_ERROR_MESSAGE_SIZE, DLOCK_UUID_SIZE};
use crate::event::{Event, EventKind};

/// Which operation an event reports on. The numbers never change; later versions may add more.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum dlock_event_kind {
    /// dlock_submit_acquire() ended.
    DLOCK_EVENT_ACQUIRE = 1,
    /// dlock_submit_try_acquire() ended; `flag`: was the lock taken?
    DLOCK_EVENT_TRY_ACQUIRE = 2,
    /// dlock_submit_acquire_retry_backoff() ended.
    DLOCK_EVENT_ACQUIRE_RETRY_BACKOFF = 3,
    /// dlock_submit_release() ended.
    DLOCK_EVENT_RELEASE = 4,
    /// dlock_submit_is_locked() ended; `flag`: does anybody hold the lock?
    DLOCK_EVENT_IS_LOCKED = 5,
    /// dlock_submit_is_locked_by_me() ended; `flag`: does this handle hold the lock?
    DLOCK_EVENT_IS_LOCKED_BY_ME = 6,
    /// dlock_submit_owner() ended; `flag`: does anybody hold the lock? `owner`: who.
    DLOCK_EVENT_OWNER = 7,
    /// A lock watched by dlock_lock_watch() was lost; `token`: that of the acquisition lost. `status` is
    /// `DLOCK_ERR_LOST`, and `message` says why.
    DLOCK_EVENT_LOST = 8,
}

/// One finished operation. The caller owns it; it need not be initialised.
#[repr(C)]
pub struct dlock_event {
    /// The number given with the submission or the watch.
    pub user_data: u64,
    /// Which operation.
    pub kind: dlock_event_kind,
    /// How it ended: what the blocking function of the same name returns.
    pub status: dlock_status,
    /// Was the lock taken, is it locked, locked by this handle, does anybody hold it? False on failure.
    pub flag: bool,
    /// The fencing token of the lock acquired, or lost; 0 otherwise.
    pub token: u64,
    /// The answer of owner; an empty text otherwise.
    pub owner: [c_char; DLOCK_UUID_SIZE],
    /// What went wrong, NUL-terminated UTF-8; an empty text if nothing did.
    pub message: [c_char; DLOCK_ERROR_MESSAGE_SIZE],
}

impl From<Event> for dlock_event {
    fn from(event: Event) -> Self {
        let (status, message) = match &event.error {
            None => (dlock_status::DLOCK_OK, ""),
            Some(error) => (error.status.into(), error.message.as_str()),
        };
        dlock_event {
            user_data: event.user_data,
            kind: event.kind.into(),
            status,
            flag: event.flag,
            token: event.token,
            owner: uuid_text(event.owner),
            message: message_text(message),
        }
    }
}

impl From<EventKind> for dlock_event_kind {
    fn from(kind: EventKind) -> Self {
        use dlock_event_kind::*;
        match kind {
            EventKind::Acquire => DLOCK_EVENT_ACQUIRE,
            EventKind::TryAcquire => DLOCK_EVENT_TRY_ACQUIRE,
            EventKind::AcquireRetryBackoff => DLOCK_EVENT_ACQUIRE_RETRY_BACKOFF,
            EventKind::Release => DLOCK_EVENT_RELEASE,
            EventKind::IsLocked => DLOCK_EVENT_IS_LOCKED,
            EventKind::IsLockedByMe => DLOCK_EVENT_IS_LOCKED_BY_ME,
            EventKind::Owner => DLOCK_EVENT_OWNER,
            EventKind::Lost => DLOCK_EVENT_LOST,
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::error::{Error, Status};

    #[test]
    fn kinds_have_the_same_number_on_both_sides() {
        use EventKind::*;
        let all = [Acquire, TryAcquire, AcquireRetryBackoff, Release, IsLocked, IsLockedByMe, Owner, Lost];
        for (index, kind) in all.into_iter().enumerate() {
            assert_eq!(kind as usize, index + 1);
            assert_eq!(dlock_event_kind::from(kind) as usize, index + 1);
        }
    }

    #[test]
    fn an_event_keeps_all_that_it_says() {
        let owner = Uuid::from_u128(7);
        let error = Some(Error::new(Status::Lost, "the lease ran out"));
        let event = Event { user_data: 9, kind: EventKind::Lost, error, flag: true, token: 11, owner: Some(owner) };
        let event = dlock_event::from(event);
        assert_eq!((event.user_data, event.kind, event.token), (9, dlock_event_kind::DLOCK_EVENT_LOST, 11));
        assert_eq!((event.status, event.flag), (dlock_status::DLOCK_ERR_LOST, true));
        assert_eq!(event.owner, uuid_text(Some(owner)));
        assert_eq!(event.message, message_text("the lease ran out"));
    }
}
