//! Where the answer to a blocking call arrives, and how its thread is woken.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::Thread;

use crate::engine::Answer;
use crate::error::Result;

const DONE: u8 = 1;
const DRIVE: u8 = 2;

/// One blocking call.
pub struct Slot {
    flags: AtomicU8,
    answer: Mutex<Option<Result<Answer>>>,
    thread: Thread,
}

impl Slot {
    pub fn new() -> Self {
        Slot { flags: AtomicU8::new(0), answer: Mutex::new(None), thread: std::thread::current() }
    }

    pub fn complete(&self, answer: Result<Answer>) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        self.flags.fetch_or(DONE, Ordering::Release);
        if self.thread.id() != std::thread::current().id() {
            self.thread.unpark();
        }
    }

    pub fn is_done(&self) -> bool {
        self.flags.load(Ordering::Acquire) & DONE != 0
    }

    pub fn take(&self) -> Option<Result<Answer>> {
        if !self.is_done() {
            return None;
        }
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Asks the waiting thread to drive the link that it waits for.
    pub fn ask_to_drive(&self) {
        self.flags.fetch_or(DRIVE, Ordering::Release);
        self.thread.unpark();
    }

    pub fn take_drive(&self) -> bool {
        self.flags.fetch_and(!DRIVE, Ordering::AcqRel) & DRIVE != 0
    }
}
