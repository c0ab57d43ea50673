//! Where the events of one completion queue gather. Knows nothing of what they report.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use crate::descriptors::Signal;
use crate::engine::HandleId;
use crate::event::{Event, EventKind};
use crate::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

pub struct Mailbox {
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
    /// How many threads wait in [`Mailbox::take`]: without one there is nobody to notify, which would cost a system call.
    waiting: usize,
}

impl Mailbox {
    pub fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Mailbox { state: Mutex::default(), arrived: Condvar::new(), signal: Signal::new()? }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False: the queue is gone, and nobody will see the event.
    pub fn post(&self, handle: HandleId, event: Event) -> bool {
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
    pub fn expect(&self) {
        self.state().expected += 1;
    }

    /// It was not accepted.
    pub fn expect_no_more(&self) {
        self.state().expected -= 1;
        self.arrived.notify_all();
    }

    /// The locker is closed: whoever waits is told, and the descriptor stays readable.
    pub fn end(&self) {
        self.state().ended = true;
        self.signal.raise();
        self.arrived.notify_all();
    }

    /// Takes up to `capacity` events; waits up to `timeout` for the first. Empty at the timeout. `None`: none will come.
    pub fn take(&self, capacity: usize, timeout: Duration) -> Option<Vec<Event>> {
        let deadline = Instant::now().checked_add(timeout);
        let mut state = self.state();
        while state.events.is_empty() {
            if state.ended && state.expected == 0 {
                return None;
            }
            let now = Instant::now();
            let left = deadline.map_or(Duration::from_secs(3600), |at| at.saturating_duration_since(now));
            if left.is_zero() {
                return Some(Vec::new());
            }
            state.waiting += 1;
            state = self.arrived.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
        }
        let count = state.events.len().min(capacity);
        let events = state.events.drain(..count).map(|(_, event)| event).collect();
        if state.events.is_empty() {
            if !state.ended {
                self.signal.clear();
            }
        } else if state.waiting > 0 {
            self.arrived.notify_one(); // another thread may wait for the rest
        }
        Some(events)
    }

    /// Nobody will see further events. Answers those that nobody took.
    pub fn free(&self) -> VecDeque<(HandleId, Event)> {
        let mut state = self.state();
        state.freed = true;
        std::mem::take(&mut state.events)
    }

    /// Readable while events are there.
    pub fn fd(&self) -> RawFd {
        self.signal.fd()
    }

    /// In a forked child: closes the descriptor, touches nothing else.
    pub fn close_in_child(&self) {
        self.signal.close_in_child();
    }

    /// Is nothing under way any more?
    #[cfg(test)]
    pub fn has_all(&self) -> bool {
        self.state().expected == 0
    }
}
