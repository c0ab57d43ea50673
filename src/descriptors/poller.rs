//! Many descriptors behind one, and an alarm, which may be among them. Knows no protocol. In a forked child both are closed as
//! the sockets are.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use super::{Descriptors, Noted, Timer};
use crate::clock::Time;

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

    fn control(&self, operation: i32, fd: RawFd, name: u64, unsent: bool) -> io::Result<()> {
        let events = if unsent { libc::EPOLLIN | libc::EPOLLOUT } else { libc::EPOLLIN };
        let mut event = libc::epoll_event { events: events as u32, u64: name };
        // SAFETY: `event` is valid; a descriptor that is not open is refused.
        match unsafe { libc::epoll_ctl(self.set.0, operation, fd, &mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Looks after that descriptor under that name. `Err`: there is no memory for it.
    pub fn add(&self, fd: RawFd, name: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, name, false)
    }

    /// With `unsent`, also for room to send.
    pub fn set(&self, fd: RawFd, name: u64, unsent: bool) {
        let _ = self.control(libc::EPOLL_CTL_MOD, fd, name, unsent);
    }

    /// To be called before it is closed: while a forked child has a copy, the kernel would go on looking after it.
    pub fn remove(&self, fd: RawFd) {
        let _ = self.control(libc::EPOLL_CTL_DEL, fd, 0, false);
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

/// Readable from a time on.
pub struct Alarm {
    /// Dropped first, as above.
    _noted: Option<Noted>,
    timer: Timer,
    /// What it is set to.
    at: Option<Time>,
}

impl Alarm {
    pub fn new(all: &Arc<Descriptors>) -> io::Result<Self> {
        let timer = Timer::new();
        if timer.fd() < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Alarm { _noted: all.note(timer.fd()), timer, at: None })
    }

    /// `None`: never.
    pub fn set(&mut self, at: Option<Time>) {
        if self.at != at {
            self.at = at;
            self.timer.set(at.unwrap_or(Time::MAX));
        }
    }

    pub fn fd(&self) -> RawFd {
        self.timer.fd()
    }
}
