//! A lock handle: one owner id, blocking calls.

use std::sync::Arc;

use uuid::Uuid;

use crate::WAIT_FOREVER;
use crate::clock::now;
use crate::driver::Driver;
use crate::engine::{Answer, HandleId, Operation};
use crate::error::{Error, Result, Status};
use crate::options::check_lease_ms;
use crate::queue::Queue;

/// One contender for one lock. One user at a time: a second gets `Busy`; only [`Lock::cancel`] and what only reads may
/// run beside a blocked call.
pub struct Lock {
    driver: Arc<Driver>,
    handle: HandleId,
    owner: Uuid,
}

pub(crate) fn acquire_operation(timeout_ms: u64) -> Operation {
    let deadline = (timeout_ms != WAIT_FOREVER).then(|| now().saturating_add(timeout_ms.saturating_mul(1_000)));
    // A deadline beyond any clock is none.
    Operation::Acquire { deadline: deadline.filter(|&at| at != u64::MAX) }
}

pub(crate) fn retry_operation(retries: u32, initial_backoff_ms: u64) -> Operation {
    Operation::Retry { retries, backoff_us: initial_backoff_ms.saturating_mul(1_000) }
}

impl Lock {
    pub(crate) fn new(driver: Arc<Driver>, handle: HandleId, owner: Uuid) -> Self {
        Lock { driver, handle, owner }
    }

    pub(crate) fn driver(&self) -> &Arc<Driver> {
        &self.driver
    }

    pub(crate) fn handle(&self) -> HandleId {
        self.handle
    }

    fn call(&self, operation: Operation) -> Result<Answer> {
        self.driver.check_process()?;
        self.driver.call(self.handle, operation)
    }

    /// Blocks until held.
    pub fn acquire(&self) -> Result<()> {
        self.acquire_timeout(WAIT_FOREVER)
    }

    /// One attempt; false if somebody (this handle included) holds it.
    pub fn try_acquire(&self) -> Result<bool> {
        self.call(Operation::TryAcquire).map(|answer| matches!(answer, Answer::Acquired { .. }))
    }

    /// 0: one attempt; [`WAIT_FOREVER`]: like [`Lock::acquire`].
    pub fn acquire_timeout(&self, timeout_ms: u64) -> Result<()> {
        self.call(acquire_operation(timeout_ms)).map(drop)
    }

    /// One attempt, then up to `retries` more after 1, 2, 4, … times the initial backoff.
    pub fn acquire_retry_backoff(&self, retries: u32, initial_backoff_ms: u64) -> Result<()> {
        self.call(retry_operation(retries, initial_backoff_ms)).map(drop)
    }

    /// Gives the lock up, to the first waiter if there is one. Asks the server.
    pub fn release(&self) -> Result<()> {
        self.call(Operation::Release).map(drop)
    }

    /// Does anybody hold it? Asks the server.
    pub fn is_locked(&self) -> Result<bool> {
        self.call(Operation::IsLocked).map(|answer| answer == Answer::Flag(true))
    }

    /// Does this handle hold it? Asks the server.
    pub fn is_locked_by_me(&self) -> Result<bool> {
        self.call(Operation::IsLockedByMe).map(|answer| answer == Answer::Flag(true))
    }

    /// Who holds it? Asks the server.
    pub fn owner(&self) -> Result<Option<Uuid>> {
        match self.call(Operation::Owner)? {
            Answer::Owner(owner) => Ok(owner),
            _ => Ok(None),
        }
    }

    /// This handle's owner id.
    pub fn id(&self) -> Result<Uuid> {
        self.driver.check_process()?;
        Ok(self.owner)
    }

    /// The token of the held lock.
    pub fn fencing_token(&self) -> Result<u64> {
        self.driver.check_process()?;
        self.driver.read(|engine, now| engine.token(now, self.handle))?
    }

    /// How long the lock is certainly still held, in milliseconds. No I/O.
    pub fn remaining_ms(&self) -> Result<u64> {
        self.driver.check_process()?;
        Ok(self.driver.read(|engine, now| engine.remaining(now, self.handle))?? / 1_000)
    }

    /// Sets the lease from now on. A shorter one shortens this holder's own view only.
    pub fn extend(&self, lease_ms: u64) -> Result<()> {
        check_lease_ms(lease_ms)?;
        self.call(Operation::Extend { lease_ms }).map(drop)
    }

    /// Ends the blocked or submitted acquire of this handle, if there is one.
    pub fn cancel(&self) -> Result<()> {
        self.driver.check_process()?;
        if self.driver.read(|engine, _| engine.is_closed())? {
            return Err(Error::new(Status::Closed, "the locker is closed"));
        }
        self.driver.ask(|engine, now| engine.cancel(now, self.handle))
    }

    /// A `Lost` event in `queue` for each acquisition lost, until the handle is dropped.
    pub fn watch(&self, queue: &Queue, user_data: u64) -> Result<()> {
        let tag = queue.tag(self, user_data)?;
        self.driver.ask(|engine, _| engine.watch(self.handle, tag))?
    }
}

impl Drop for Lock {
    /// A lock still held is released in the background; a submitted operation that is pending ends as cancelled.
    fn drop(&mut self) {
        if self.driver.is_forked() {
            std::mem::forget(Arc::clone(&self.driver));
            return;
        }
        let _ = self.driver.ask(|engine, now| engine.free(now, self.handle));
    }
}
