//! The completion queue: operations without a thread for each.

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::driver::{Driver, Signal, Tag};
use crate::engine::{Answer, HandleId, Operation};
use crate::error::{Error, Result, Status};
use crate::lock::{Lock, acquire_operation, retry_operation};
use crate::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

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

/// Where the events of one queue gather.
pub(crate) struct Mailbox {
    state: Mutex<State>,
    arrived: Condvar,
    signal: Signal,
}

#[derive(Default)]
struct State {
    events: VecDeque<(HandleId, Event)>,
    /// Submissions accepted whose event has not come.
    expected: usize,
    /// The queue was freed: nobody will see further events.
    freed: bool,
    /// The locker was closed: no further events will come.
    ended: bool,
    /// How many threads wait in [`Queue::wait`]: without one there is nobody to notify, which would cost a system call.
    waiting: usize,
}

impl Mailbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False: the queue is gone, and nobody will see the event.
    pub(crate) fn post(&self, handle: HandleId, event: Event) -> bool {
        let mut state = self.state();
        if event.kind != EventKind::Lost {
            state.expected = state.expected.saturating_sub(1);
        }
        if state.freed {
            return false;
        }
        if state.events.is_empty() {
            self.signal.raise(); // from empty to not empty
        }
        state.events.push_back((handle, event));
        if state.waiting > 0 {
            self.arrived.notify_one();
        }
        true
    }

    /// An operation is about to be submitted: its event will come.
    pub(crate) fn expect(&self) {
        self.state().expected += 1;
    }

    /// It was not accepted.
    pub(crate) fn expect_no_more(&self) {
        self.state().expected -= 1;
        self.arrived.notify_all();
    }

    /// The locker is closed: whoever waits is told, and the descriptor stays readable.
    pub(crate) fn end(&self) {
        self.state().ended = true;
        self.signal.raise();
        self.arrived.notify_all();
    }
}

/// Collects what submitted operations answer. May be used from any thread.
pub struct Queue {
    driver: Arc<Driver>,
    mailbox: Arc<Mailbox>,
}

impl Queue {
    pub(crate) fn new(driver: Arc<Driver>) -> Result<Self> {
        driver.check_process()?;
        let signal = Signal::new().map_err(|e| Error::new(Status::Locker, format!("cannot make a descriptor: {e}")))?;
        let mailbox = Arc::new(Mailbox { state: Mutex::default(), arrived: Condvar::new(), signal });
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
        let deadline = Instant::now().checked_add(Duration::from_millis(timeout_ms));
        let mut state = self.mailbox.state();
        while state.events.is_empty() {
            if state.ended && state.expected == 0 {
                return Err(Error::new(Status::Closed, "the locker is closed"));
            }
            let now = Instant::now();
            let left = deadline.map_or(Duration::from_secs(3600), |at| at.saturating_duration_since(now));
            if left.is_zero() {
                return Ok(Vec::new());
            }
            state.waiting += 1;
            let waited = self.mailbox.arrived.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
        }
        let count = state.events.len().min(capacity);
        let events = state.events.drain(..count).map(|(_, event)| event).collect();
        if state.events.is_empty() {
            if !state.ended {
                self.mailbox.signal.clear();
            }
        } else if state.waiting > 0 {
            self.mailbox.arrived.notify_one(); // another thread may wait for the rest
        }
        Ok(events)
    }

    /// Readable while events are pending.
    pub fn fd(&self) -> RawFd {
        if self.driver.is_forked() { -1 } else { self.mailbox.signal.fd() }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if self.driver.is_forked() {
            self.mailbox.signal.close_in_child();
            std::mem::forget((Arc::clone(&self.mailbox), Arc::clone(&self.driver)));
            return;
        }
        let mailbox = Arc::clone(&self.mailbox);
        let undelivered = {
            let mut state = mailbox.state();
            state.freed = true;
            std::mem::take(&mut state.events)
        };
        let ours = |tag: &Tag| matches!(tag, Tag::Queue(of, ..) if Arc::ptr_eq(of, &mailbox));
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
        while queue.mailbox.state().expected > 0 {
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
        queue.mailbox.state().freed = true; // what `drop` does first, before it cancels
        queue.submit_acquire(&lock, 10_000, 1).unwrap();
        ended(&queue);
        other.acquire_timeout(10_000).unwrap(); // the lease is longer
        assert!(queue.mailbox.state().events.is_empty());
    }
}
