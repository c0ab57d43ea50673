//! The completion queue: operations without a thread for each.

use std::os::fd::RawFd;

use uuid::Uuid;

use crate::error::{Error, Result};
use crate::lock::Lock;

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

/// Collects what submitted operations answer. May be used from any thread.
pub struct Queue {}

impl Queue {
    /// Like [`Lock::acquire_timeout`].
    pub fn submit_acquire(&self, lock: &Lock, timeout_ms: u64, user_data: u64) -> Result<()> {
        let _ = (lock, timeout_ms, user_data);
        todo!()
    }
    /// Like [`Lock::try_acquire`].
    pub fn submit_try_acquire(&self, lock: &Lock, user_data: u64) -> Result<()> {
        let _ = (lock, user_data);
        todo!()
    }
    /// Like [`Lock::acquire_retry_backoff`].
    pub fn submit_acquire_retry_backoff(
        &self,
        lock: &Lock,
        retries: u32,
        initial_backoff_ms: u64,
        user_data: u64,
    ) -> Result<()> {
        let _ = (lock, retries, initial_backoff_ms, user_data);
        todo!()
    }
    /// Like [`Lock::release`].
    pub fn submit_release(&self, lock: &Lock, user_data: u64) -> Result<()> {
        let _ = (lock, user_data);
        todo!()
    }
    /// Like [`Lock::is_locked`].
    pub fn submit_is_locked(&self, lock: &Lock, user_data: u64) -> Result<()> {
        let _ = (lock, user_data);
        todo!()
    }
    /// Like [`Lock::is_locked_by_me`].
    pub fn submit_is_locked_by_me(&self, lock: &Lock, user_data: u64) -> Result<()> {
        let _ = (lock, user_data);
        todo!()
    }
    /// Like [`Lock::owner`].
    pub fn submit_owner(&self, lock: &Lock, user_data: u64) -> Result<()> {
        let _ = (lock, user_data);
        todo!()
    }
    /// Takes up to `capacity` finished operations; waits up to `timeout_ms` for the first. Empty at the timeout.
    pub fn wait(&self, capacity: usize, timeout_ms: u64) -> Result<Vec<Event>> {
        let _ = (capacity, timeout_ms);
        todo!()
    }
    /// Readable while events are pending. -1 where there is none.
    pub fn fd(&self) -> RawFd {
        todo!()
    }
}
// Drop: cancels what is pending and hands such locks on.
