//! Which descriptors are open, for a forked child: it must take no mutex, and closes its copies of them all. Knows
//! not what they are.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

/// As many sockets as one locker has at a time on one server, those included that are being connected or closed, and some
/// more.
const SOCKETS_MAX: usize = 16;

/// Some descriptors, as those of one store: its sockets, also one that another thread is just connecting, and what it polls them with.
#[derive(Debug)]
pub struct Descriptors(Box<[AtomicI32]>);

/// A place among the descriptors.
#[derive(Debug)]
pub struct Noted {
    all: Arc<Descriptors>,
    place: usize,
}

impl Descriptors {
    pub fn new() -> Arc<Self> {
        Self::with_room(SOCKETS_MAX)
    }

    pub fn with_room(places: usize) -> Arc<Self> {
        Arc::new(Descriptors((0..places).map(|_| AtomicI32::new(-1)).collect()))
    }

    /// `None` where there is no place: the child would keep its copy.
    pub fn note(self: &Arc<Self>, fd: RawFd) -> Option<Noted> {
        let free = |of: &AtomicI32| of.compare_exchange(-1, fd, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        let place = self.0.iter().position(free)?;
        Some(Noted { all: Arc::clone(self), place })
    }

    /// In a forked child: what to close.
    pub fn take_in_child(&self) -> impl Iterator<Item = RawFd> {
        self.0.iter().map(|fd| fd.swap(-1, Ordering::Relaxed)).filter(|&fd| fd >= 0)
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        self.all.0[self.place].store(-1, Ordering::Relaxed);
    }
}
