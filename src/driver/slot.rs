//! Where the answer to a blocking call arrives, and how its thread is woken.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::engine::Answer;
use crate::error::Result;

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
    /// Is the thread asleep? Waking costs a system call, which a driver that answers itself is spared.
    asleep: bool,
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

    pub fn ask_to_drive(&self) {
        let mut state = self.state();
        state.drive = true;
        self.rouse(state);
    }

    fn rouse(&self, state: MutexGuard<'_, State>) {
        let asleep = state.asleep;
        drop(state);
        if asleep {
            self.changed.notify_one();
        }
    }

    /// Waits for the answer, or to be asked to drive, at most that long. False: neither came.
    pub fn wait(&self, limit: Duration) -> bool {
        let waits = |state: &mut State| !state.done && !state.drive;
        let mut state = self.state();
        state.asleep = true;
        let waited = self.changed.wait_timeout_while(state, limit, waits);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.asleep = false;
        let came = state.done || state.drive;
        state.drive = false;
        came
    }
}
