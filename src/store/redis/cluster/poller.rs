//! Many sockets behind one descriptor, and a signal among them by which another thread wakes whoever polls. Knows no
//! protocol.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use super::super::socket::{Descriptors, Noted};
use crate::driver::Signal;

/// A set of descriptors; readable while one of them has something.
pub struct Poller {
    /// Dropped first: the number of a closed descriptor may be another's.
    _noted: Option<Noted>,
    set: Set,
}

struct Set(RawFd);

impl Drop for Set {
    fn drop(&mut self) {
        // SAFETY: ours, and closed once.
        unsafe { libc::close(self.0) };
    }
}

impl Poller {
    pub fn new(all: &Arc<Descriptors>) -> io::Result<Self> {
        // SAFETY: a plain system call.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Poller { set: Set(fd), _noted: all.note(fd) })
    }

    /// What to poll for reading.
    pub fn fd(&self) -> RawFd {
        self.set.0
    }

    fn control(&self, operation: i32, fd: RawFd, name: u64, unsent: bool) -> bool {
        let events = if unsent { libc::EPOLLIN | libc::EPOLLOUT } else { libc::EPOLLIN };
        let mut event = libc::epoll_event { events: events as u32, u64: name };
        // SAFETY: `event` is valid; a descriptor that is not open is refused.
        unsafe { libc::epoll_ctl(self.set.0, operation, fd, &mut event) == 0 }
    }

    /// Looks after that descriptor under that name. False: there is no memory for it.
    pub fn add(&self, fd: RawFd, name: u64) -> bool {
        self.control(libc::EPOLL_CTL_ADD, fd, name, false)
    }

    /// With `unsent`, also for room to send.
    pub fn set(&self, fd: RawFd, name: u64, unsent: bool) {
        self.control(libc::EPOLL_CTL_MOD, fd, name, unsent);
    }

    /// To be called before it is closed: while a forked child has a copy, the kernel would go on looking after it.
    pub fn remove(&self, fd: RawFd) {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, false);
    }

    /// Appends the names of those that have something, after at most `wait`.
    pub fn wait(&self, wait: Duration, names: &mut Vec<u64>) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
        let ms = wait.as_micros().div_ceil(1_000).min(1_000) as i32;
        // SAFETY: `events` has room for as many.
        let count = unsafe { libc::epoll_wait(self.set.0, events.as_mut_ptr(), events.len() as i32, ms) };
        names.extend(events.iter().take(usize::try_from(count).unwrap_or(0)).map(|event| event.u64));
    }
}

/// A signal whose descriptor a forked child closes.
pub struct Bell {
    /// Dropped first, as above.
    _noted: Option<Noted>,
    signal: Signal,
}

impl Bell {
    pub fn new(all: &Arc<Descriptors>) -> io::Result<Self> {
        let signal = Signal::new()?;
        Ok(Bell { _noted: all.note(signal.fd()), signal })
    }

    pub fn ring(&self) {
        self.signal.raise();
    }

    pub fn clear(&self) {
        self.signal.clear();
    }

    pub fn fd(&self) -> RawFd {
        self.signal.fd()
    }
}
