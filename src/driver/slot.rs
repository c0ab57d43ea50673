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
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn complete(&self, answer: Result<Answer>) {
        let mut state = self.state();
        (state.done, state.answer) = (true, Some(answer));
        drop(state);
        self.changed.notify_one();
    }

    pub fn is_done(&self) -> bool {
        self.state().done
    }

    pub fn take(&self) -> Option<Result<Answer>> {
        self.state().answer.take()
    }

    pub fn ask_to_drive(&self) {
        self.state().drive = true;
        self.changed.notify_one();
    }

    /// Waits for the answer, or to be asked to drive, at most that long. False: neither came.
    pub fn wait(&self, limit: Duration) -> bool {
        let waits = |state: &mut State| !state.done && !state.drive;
        let waited = self.changed.wait_timeout_while(self.state(), limit, waits);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        let came = state.done || state.drive;
        state.drive = false;
        came
    }
}
