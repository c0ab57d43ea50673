//! The subscription, read by whoever waits for a message: a blocked call reads it itself, so that a hand-off wakes its
//! waiter without a thread in between; the background thread reads it while no call does. Knows bytes' owners, not
//! messages.

use std::io;
use std::os::fd::RawFd;

use super::slot::{Callers, Slot};
use crate::descriptors::{Descriptors, Signal, close_in_child};
use crate::store::Subscription;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The signals of as many successive subscriptions, on two descriptors each where there is no eventfd, may be there at a time.
const SIGNALS_MAX: usize = 8;

/// The one subscription of a locker.
pub struct Feed {
    state: Mutex<State>,
    /// A call has stopped reading, and neither has another begun nor the background thread polled since.
    unattended: AtomicBool,
    /// For a forked child, which must take no mutex: the descriptors of the signals, of which an earlier one may still be in
    /// the hands of a call.
    signals: std::sync::Arc<Descriptors>,
}

/// A subscription in its reader's hands, and which of the successive subscriptions it is.
pub struct Reading {
    pub subscription: Box<dyn Subscription>,
    pub generation: u64,
    /// Wakes a call that reads. One for each generation: a reader of the last one must not swallow what is for the next.
    pub signal: Arc<Signal>,
}

struct State {
    /// Rises with every new subscription and with every one that ends.
    generation: u64,
    /// Here while nobody reads.
    subscription: Option<Box<dyn Subscription>>,
    signal: Arc<Signal>,
    /// Is a call reading this generation?
    read_by_call: bool,
    /// Calls that wait for a message and could read.
    callers: Callers,
    pings: Vec<u64>,
}

impl State {
    fn begin(&mut self, subscription: Option<Box<dyn Subscription>>) -> Option<Box<dyn Subscription>> {
        self.generation += 1;
        self.read_by_call = false;
        self.pings.clear();
        self.signal.raise(); // a call that still reads the old one lets it go
        std::mem::replace(&mut self.subscription, subscription)
    }
}

impl Feed {
    pub fn new() -> io::Result<Self> {
        let signals = Descriptors::with_room(SIGNALS_MAX);
        let signal = Arc::new(Signal::noted(&signals)?);
        let state = State {
            generation: 0,
            subscription: None,
            signal,
            read_by_call: false,
            callers: Callers::default(),
            pings: Vec::new(),
        };
        Ok(Feed { state: Mutex::new(state), unattended: AtomicBool::new(false), signals })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new subscription, instead of any there is. The engine is told after this.
    pub fn install(&self, subscription: Box<dyn Subscription>) {
        let signal = Signal::noted(&self.signals).map(Arc::new);
        let mut state = self.state();
        let old = state.begin(Some(subscription));
        if let Ok(signal) = signal {
            state.signal = signal;
        }
        drop(state);
        drop(old);
    }

    /// Ends the subscription, whoever reads it.
    pub fn end(&self) {
        let old = self.state().begin(None);
        drop(old);
    }

    /// The reader found this one dead.
    pub fn ended(&self, generation: u64) {
        let mut state = self.state();
        if state.generation == generation {
            state.begin(None);
        }
    }

    /// Takes the subscription to read it. `None`: somebody else reads, or there is none; `slot` will be asked then.
    pub fn take(&self, slot: Option<&Arc<Slot>>) -> Option<Reading> {
        let mut state = self.state();
        let readable = slot.is_none() || state.subscription.as_ref().is_some_and(|s| s.fd().is_some());
        if readable && let Some(subscription) = state.subscription.take() {
            state.read_by_call = slot.is_some();
            self.unattended.store(false, Ordering::Release);
            return Some(Reading { subscription, generation: state.generation, signal: Arc::clone(&state.signal) });
        }
        if let Some(slot) = slot {
            state.callers.add(slot);
        }
        None
    }

    /// The reader stops. True: somebody goes on reading, or there is nothing to read.
    pub fn give_back(&self, reading: Reading) -> bool {
        let mut state = self.state();
        if state.generation != reading.generation {
            return true;
        }
        self.unattended.store(state.read_by_call, Ordering::Release); // the background thread will poll
        state.read_by_call = false;
        state.subscription = Some(reading.subscription);
        drop(state);
        self.pass()
    }

    /// Asks a waiting call to read. False: none waits.
    pub fn pass(&self) -> bool {
        self.state().callers.ask(Slot::ask_to_read)
    }

    /// Has the call that reads send this ping. False: it is the background thread's to send.
    pub fn ping(&self, number: u64) -> bool {
        let mut state = self.state();
        state.pings.push(number);
        if state.read_by_call {
            state.signal.raise();
        }
        state.read_by_call
    }

    /// The pings that the reader must send. `None`: what it reads is no longer the subscription.
    pub fn pings(&self, generation: u64) -> Option<Vec<u64>> {
        let mut state = self.state();
        (state.generation == generation).then(|| std::mem::take(&mut state.pings))
    }

    /// Is this still the subscription? To be asked under the engine's lock, before the engine is told what was read: a
    /// message of an earlier subscription must not count as read after a later one's beginning (rule 3).
    pub fn is_current(&self, generation: u64) -> bool {
        self.state().generation == generation
    }

    /// May nobody be there to notice a message?
    pub fn is_unattended(&self) -> bool {
        self.unattended.load(Ordering::Acquire)
    }

    /// What the background thread polls, while nobody reads.
    pub fn to_poll(&self) -> Option<RawFd> {
        let state = self.state();
        let fd = state.subscription.as_ref().and_then(|subscription| subscription.fd());
        if fd.is_some() {
            self.unattended.store(false, Ordering::Release);
        }
        fd
    }

    pub fn close_in_child(&self) {
        self.signals.take_in_child().for_each(close_in_child);
    }
}
