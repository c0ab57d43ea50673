//! Where the answer to a blocking call arrives, and how its thread is woken.

use std::collections::VecDeque;
use std::time::Duration;

use crate::descriptors::Signal;
use crate::engine::Answer;
use crate::error::Result;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// One blocking call.
#[derive(Default)]
pub struct Slot {
    /// Set under the mutex, behind the answer; who only asks for it takes no mutex.
    done: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
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

impl State {
    fn is_asked(&self) -> bool {
        self.drive || self.read
    }
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn complete(&self, answer: Result<Answer>) {
        let mut state = self.state();
        state.answer = Some(answer);
        self.done.store(true, Ordering::Release);
        self.rouse(state);
    }

    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// The answer, and whether this thread was asked for anything that it has not begun.
    pub fn end(&self) -> (Option<Result<Answer>>, bool) {
        let mut state = self.state();
        (state.answer.take(), state.is_asked())
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
        if self.is_done() {
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
        let idle = !self.is_done() && !state.is_asked();
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
        let waits = |state: &mut State| !self.is_done() && !state.is_asked();
        let mut state = self.state();
        state.asleep = true;
        let waited = self.changed.wait_timeout_while(state, limit, waits);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.asleep = false;
        let came = self.is_done() || state.is_asked();
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
