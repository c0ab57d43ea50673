//! A lock handle: one owner id, blocking calls.

use uuid::Uuid;

use crate::error::Result;
use crate::queue::Queue;

/// One contender for one lock. One user at a time.
pub struct Lock {}

impl Lock {
    /// Blocks until held.
    pub fn acquire(&self) -> Result<()> {
        todo!()
    }
    /// One attempt; false if somebody (this handle included) holds it.
    pub fn try_acquire(&self) -> Result<bool> {
        todo!()
    }
    /// 0: one attempt; WAIT_FOREVER: like acquire.
    pub fn acquire_timeout(&self, timeout_ms: u64) -> Result<()> {
        let _ = timeout_ms;
        todo!()
    }
    /// One attempt, then up to `retries` more after 1, 2, 4, … times the initial backoff.
    pub fn acquire_retry_backoff(&self, retries: u32, initial_backoff_ms: u64) -> Result<()> {
        let _ = (retries, initial_backoff_ms);
        todo!()
    }
    /// Asks the server.
    pub fn release(&self) -> Result<()> {
        todo!()
    }
    /// Asks the server.
    pub fn is_locked(&self) -> Result<bool> {
        todo!()
    }
    /// Asks the server.
    pub fn is_locked_by_me(&self) -> Result<bool> {
        todo!()
    }
    /// Asks the server.
    pub fn owner(&self) -> Result<Option<Uuid>> {
        todo!()
    }
    /// This handle's owner id.
    pub fn id(&self) -> Uuid {
        todo!()
    }
    /// The token of the held lock.
    pub fn fencing_token(&self) -> Result<u64> {
        todo!()
    }
    /// How long the lock is certainly still held.
    pub fn remaining_ms(&self) -> Result<u64> {
        todo!()
    }
    /// Sets the lease from now on.
    pub fn extend(&self, lease_ms: u64) -> Result<()> {
        let _ = lease_ms;
        todo!()
    }
    /// Ends the blocked or submitted operation of this handle, if there is one.
    pub fn cancel(&self) -> Result<()> {
        todo!()
    }
    /// A `Lost` event in `queue` for each acquisition lost, until the handle is dropped.
    pub fn watch(&self, queue: &Queue, user_data: u64) -> Result<()> {
        let _ = (queue, user_data);
        todo!()
    }
}
// Drop: a held lock is released in the background; a pending submitted operation ends with a Cancelled event.
