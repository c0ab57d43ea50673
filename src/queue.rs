//! The completion queue: operations without a thread for each.

use std::os::fd::RawFd;
use std::time::Duration;

use crate::driver::{Driver, Mailbox, Tag};
use crate::engine::Operation;
use crate::error::{Error, Result, Status};
use crate::event::{Event, EventKind};
use crate::lock::{Lock, acquire_operation, retry_operation};
use crate::sync::Arc;

/// Collects what submitted operations answer. May be used from any thread.
pub struct Queue {
    driver: Arc<Driver>,
    mailbox: Arc<Mailbox>,
}

impl Queue {
    pub(crate) fn new(driver: Arc<Driver>) -> Result<Self> {
        driver.check_process()?;
        let mailbox = Mailbox::new();
        let mailbox = mailbox.map_err(|e| Error::new(Status::Locker, format!("cannot make a descriptor: {e}")))?;
        driver.register(&mailbox)?;
        Ok(Queue { driver, mailbox })
    }

    pub(crate) fn tag(&self, lock: &Lock, user_data: u64) -> Result<Tag> {
        self.driver.check_process()?;
        if !Arc::ptr_eq(&self.driver, lock.driver()) {
            return Err(Error::new(Status::InvalidArgument, "lock: made by another locker than the queue"));
        }
        Ok(Tag::Queue(Arc::clone(&self.mailbox), user_data, lock.handle()))
    }

    fn submit(&self, lock: &Lock, operation: Operation, user_data: u64) -> Result<()> {
        let tag = self.tag(lock, user_data)?;
        self.driver.submit(lock.handle(), operation, tag)
    }

    /// Like [`Lock::acquire_timeout`].
    pub fn submit_acquire(&self, lock: &Lock, timeout_ms: u64, user_data: u64) -> Result<()> {
        self.submit(lock, acquire_operation(timeout_ms), user_data)
    }

    /// Like [`Lock::try_acquire`].
    pub fn submit_try_acquire(&self, lock: &Lock, user_data: u64) -> Result<()> {
        self.submit(lock, Operation::TryAcquire, user_data)
    }

    /// Like [`Lock::acquire_retry_backoff`].
    pub fn submit_acquire_retry_backoff(
        &self,
        lock: &Lock,
        retries: u32,
        initial_backoff_ms: u64,
        user_data: u64,
    ) -> Result<()> {
        self.submit(lock, retry_operation(retries, initial_backoff_ms), user_data)
    }

    /// Like [`Lock::release`].
    pub fn submit_release(&self, lock: &Lock, user_data: u64) -> Result<()> {
        self.submit(lock, Operation::Release, user_data)
    }

    /// Like [`Lock::is_locked`].
    pub fn submit_is_locked(&self, lock: &Lock, user_data: u64) -> Result<()> {
        self.submit(lock, Operation::IsLocked, user_data)
    }

    /// Like [`Lock::is_locked_by_me`].
    pub fn submit_is_locked_by_me(&self, lock: &Lock, user_data: u64) -> Result<()> {
        self.submit(lock, Operation::IsLockedByMe, user_data)
    }

    /// Like [`Lock::owner`].
    pub fn submit_owner(&self, lock: &Lock, user_data: u64) -> Result<()> {
        self.submit(lock, Operation::Owner, user_data)
    }

    /// Takes up to `capacity` finished operations; waits up to `timeout_ms` for the first. Empty at the timeout;
    /// `Closed` where the locker is closed and everything was taken.
    pub fn wait(&self, capacity: usize, timeout_ms: u64) -> Result<Vec<Event>> {
        self.driver.check_process()?;
        if capacity == 0 {
            return Err(Error::new(Status::InvalidArgument, "capacity: must not be 0"));
        }
        let events = self.mailbox.take(capacity, Duration::from_millis(timeout_ms));
        events.ok_or_else(|| Error::new(Status::Closed, "the locker is closed"))
    }

    /// Readable while events are pending.
    pub fn fd(&self) -> RawFd {
        if self.driver.is_forked() { -1 } else { self.mailbox.fd() }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if self.driver.is_forked() {
            self.mailbox.close_in_child();
            std::mem::forget((Arc::clone(&self.mailbox), Arc::clone(&self.driver)));
            return;
        }
        let undelivered = self.mailbox.free();
        let ours = |tag: &Tag| matches!(tag, Tag::Queue(of, ..) if Arc::ptr_eq(of, &self.mailbox));
        let _ = self.driver.ask(|engine, now| {
            engine.cancel_where(now, ours);
            // Acquired, but nobody was told.
            for (handle, event) in undelivered.iter().filter(|(_, event)| event.kind != EventKind::Lost) {
                engine.hand_on(now, *handle, event.token);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::Queue;
    use crate::locker::Locker;
    use crate::options::Options;

    fn locker(name: &str) -> Locker {
        let mut options = Options::default();
        options.set_url(&format!("memory://{name}")).unwrap();
        Locker::new(&options).unwrap()
    }

    /// Until what was submitted has ended; its event is not taken.
    fn ended(queue: &Queue) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !queue.mailbox.has_all() {
            assert!(std::time::Instant::now() < deadline, "no event");
            std::thread::yield_now();
        }
    }

    /// Nobody took the event, so that nobody knows that the lock is held.
    #[test]
    fn a_freed_queue_hands_on_the_locks_whose_events_nobody_took() {
        let locker = locker("freed queue");
        let other = locker.lock("l", "g").unwrap();
        let (lock, queue) = (locker.lock("l", "g").unwrap(), locker.queue().unwrap());
        queue.submit_acquire(&lock, 10_000, 1).unwrap();
        ended(&queue);
        assert!(!other.try_acquire().unwrap(), "acquired");
        drop(queue);
        other.acquire_timeout(10_000).unwrap(); // the lease is longer
        assert!(lock.fencing_token().is_err());
    }

    #[test]
    fn a_freed_queue_leaves_a_lock_that_was_acquired_again_since() {
        let locker = locker("freed late");
        let (lock, queue) = (locker.lock("l", "g").unwrap(), locker.queue().unwrap());
        queue.submit_acquire(&lock, 10_000, 1).unwrap();
        ended(&queue);
        lock.release().unwrap();
        lock.acquire_timeout(10_000).unwrap();
        drop(queue);
        assert!(lock.is_locked_by_me().unwrap());
    }

    /// The queue is freed between an acquisition and its event.
    #[test]
    fn a_lock_that_was_acquired_for_a_queue_freed_in_that_instant_is_handed_on() {
        let locker = locker("freed in between");
        let other = locker.lock("l", "g").unwrap();
        let (lock, queue) = (locker.lock("l", "g").unwrap(), locker.queue().unwrap());
        let before = queue.mailbox.free(); // what `drop` does first, before it cancels
        assert!(before.is_empty());
        queue.submit_acquire(&lock, 10_000, 1).unwrap();
        ended(&queue);
        other.acquire_timeout(10_000).unwrap(); // the lease is longer
        assert!(queue.mailbox.free().is_empty());
    }
}
