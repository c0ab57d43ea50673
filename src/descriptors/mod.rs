//! The descriptors by which threads that poll are woken; and which descriptors are open at all, for a forked child, which
//! must take no mutex and closes its copies of them all. Knows nothing of locks and of servers.

#[cfg(any(target_os = "linux", target_os = "android"))]
mod poller;
mod signal;
mod timer;
mod watch;

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

#[cfg(any(target_os = "linux", target_os = "android"))]
pub use self::poller::{Alarm, Poller};
pub use self::signal::Signal;
pub use self::timer::Timer;
pub use self::watch::Watch;
use crate::sync::libc;

/// In a forked child: closes the child's copy of a descriptor (-1: there is none). Its owner is leaked and never uses it.
pub fn close_in_child(fd: RawFd) {
    if fd >= 0 {
        // SAFETY: nothing in the child uses the descriptor after this.
        unsafe { libc::close(fd) };
    }
}

/// Some descriptors, as those of one store: its sockets, also one that another thread is just connecting, and what it polls
/// them with.
#[derive(Debug)]
pub struct Descriptors(Box<[AtomicI32]>);

/// A place among the descriptors.
#[derive(Debug)]
pub struct Noted {
    all: Arc<Descriptors>,
    place: usize,
}

impl Descriptors {
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
