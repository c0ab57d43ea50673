//! Where the answer to a blocking call arrives, and how its thread is woken.

use std::collections::VecDeque;
use std::time::Duration;

use super::signal::Signal;
use crate::engine::Answer;
use crate::error::Result;
use crate::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// One blocking call.
#[derive(Default)]
pub struct Slot {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    done: bool,
    answer: Option<Result<Answer>>,
    /// Its link has no driver any more: the waiting thread is asked to drive.
    drive: bool,
    /// Nobody reads the subscription any more: the waiting thread is asked to.
    read: bool,
    /// Is the thread asleep? Waking costs a system call, which a driver that answers itself is spared.
    asleep: bool,
    /// Raised where the thread does not sleep here but polls a descriptor with this one.
    polls: Option<Arc<Signal>>,
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn complete(&self, answer: Result<Answer>) {
        let mut state = self.state();
        (state.done, state.answer) = (true, Some(answer));
        self.rouse(state);
    }

    pub fn is_done(&self) -> bool {
        self.state().done
    }

    pub fn take(&self) -> Option<Result<Answer>> {
        self.state().answer.take()
    }

    /// False: its call is over, and nobody would drive.
    pub fn ask_to_drive(&self) -> bool {
        self.ask(|state| state.drive = true)
    }

    /// False: its call is over, and nobody would read.
    pub fn ask_to_read(&self) -> bool {
        self.ask(|state| state.read = true)
    }

    fn ask(&self, what: impl FnOnce(&mut State)) -> bool {
        let mut state = self.state();
        if state.done {
            return false;
        }
        what(&mut state);
        self.rouse(state);
        true
    }

    /// The thread does not wait for messages. True: it was asked to read them, and another must.
    pub fn declines_to_read(&self) -> bool {
        std::mem::take(&mut self.state().read)
    }

    /// Was this thread asked for anything that it has not begun?
    pub fn was_asked(&self) -> bool {
        let state = self.state();
        state.drive || state.read
    }

    /// The thread now reads the subscription, or sees that another does.
    pub fn reads(&self) {
        self.state().read = false;
    }

    fn rouse(&self, mut state: MutexGuard<'_, State>) {
        let (asleep, polls) = (state.asleep, state.polls.take());
        drop(state);
        if let Some(signal) = polls {
            signal.raise();
        } else if asleep {
            self.changed.notify_one();
        }
    }

    /// The thread goes to poll, with `signal`. False: there is something to do first.
    pub fn begin_poll(&self, signal: &Arc<Signal>) -> bool {
        let mut state = self.state();
        let idle = !state.done && !state.drive && !state.read;
        if idle {
            state.polls = Some(Arc::clone(signal));
        }
        idle
    }

    pub fn end_poll(&self) {
        self.state().polls = None;
    }

    /// Waits for the answer, or to be asked for something, at most that long. False: neither came.
    pub fn wait(&self, limit: Duration) -> bool {
        let waits = |state: &mut State| !state.done && !state.drive && !state.read;
        let mut state = self.state();
        state.asleep = true;
        let waited = self.changed.wait_timeout_while(state, limit, waits);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.asleep = false;
        let came = state.done || state.drive || state.read;
        state.drive = false;
        came
    }
}

/// Calls that wait for something and could go on with the work of whoever is at it, in the order in which they came.
#[derive(Default)]
pub struct Callers {
    waiting: VecDeque<Arc<Slot>>,
    /// Beyond so many, those whose calls are over are looked for.
    limit: usize,
}

impl Callers {
    /// Adds a call. It may be there twice; who is asked a second time is over with its call, or goes on all the same.
    pub fn add(&mut self, slot: &Arc<Slot>) {
        if self.waiting.len() >= self.limit {
            self.waiting.retain(|caller| !caller.is_done() && !Arc::ptr_eq(caller, slot));
            self.limit = 16 + 2 * self.waiting.len();
        }
        self.waiting.push_back(Arc::clone(slot));
    }

    /// Asks them one by one, taking each from the list, until one says yes. False: none did.
    pub fn ask(&mut self, ask: impl Fn(&Slot) -> bool) -> bool {
        while let Some(caller) = self.waiting.pop_front() {
            if ask(&caller) {
                return true;
            }
        }
        false
    }

    pub fn clear(&mut self) {
        self.waiting.clear();
    }
}
