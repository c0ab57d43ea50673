//! Other threads' descriptors, for a thread that sleeps.

use std::os::fd::RawFd;

use super::close_in_child;
use crate::sync::libc;

/// Descriptors that a sleeping thread is to look after as well: one who leaves a reply outstanding arms its descriptor, which
/// then wakes the sleeper once, without a wake-up before the reply is there.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[derive(Debug)]
pub struct Watch(RawFd);

#[cfg(any(target_os = "linux", target_os = "android"))]
impl Watch {
    /// Without one, `arm` says no.
    pub fn new() -> Self {
        // SAFETY: a plain system call.
        Watch(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })
    }

    /// Readable while an armed descriptor is.
    pub fn fd(&self) -> RawFd {
        self.0
    }

    /// False: the sleeper must be woken.
    pub fn arm(&self, fd: RawFd) -> bool {
        let mut event = libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLONESHOT) as u32, u64: 0 };
        // SAFETY: `event` is valid; a descriptor that is not open is refused.
        unsafe {
            libc::epoll_ctl(self.0, libc::EPOLL_CTL_MOD, fd, &mut event) == 0
                || libc::epoll_ctl(self.0, libc::EPOLL_CTL_ADD, fd, &mut event) == 0
        }
    }

    /// Disarms what has become readable.
    pub fn clear(&self) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 4];
        // SAFETY: `events` has room for as many; does not wait.
        unsafe { libc::epoll_wait(self.0, events.as_mut_ptr(), events.len() as i32, 0) };
    }

    pub fn close_in_child(&self) {
        close_in_child(self.0);
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
impl Drop for Watch {
    fn drop(&mut self) {
        close_in_child(self.0); // closes a descriptor that nobody uses any more
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[derive(Debug)]
pub struct Watch;

#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl Watch {
    pub fn new() -> Self {
        Watch
    }

    pub fn fd(&self) -> RawFd {
        -1
    }

    pub fn arm(&self, _fd: RawFd) -> bool {
        false
    }

    pub fn clear(&self) {}

    pub fn close_in_child(&self) {}
}
