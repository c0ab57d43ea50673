//! A descriptor by which a thread that polls is woken at a time.

use std::os::fd::RawFd;

#[cfg(any(target_os = "linux", target_os = "android"))]
use crate::clock::CLOCK;
use crate::clock::Time;
use crate::sync::libc;

/// A timer that runs through suspend, for `poll`; where there is none, `poll`'s own timeout has to do.
#[derive(Debug)]
pub struct Timer {
    fd: RawFd,
}

impl Timer {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub fn new() -> Self {
        // SAFETY: a plain system call; -1 stands for "none".
        Timer { fd: unsafe { libc::timerfd_create(CLOCK, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) } }
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub fn new() -> Self {
        Timer { fd: -1 }
    }

    /// -1 where there is none.
    pub fn fd(&self) -> RawFd {
        self.fd
    }

    /// Readable from `at` on; `Time::MAX`: never.
    pub fn set(&self, at: Time) {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if self.fd >= 0 {
            let at = if at == Time::MAX { 0 } else { at.max(1) };
            let when = libc::timespec { tv_sec: (at / 1_000_000) as _, tv_nsec: (at % 1_000_000 * 1_000) as _ };
            let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            let spec = libc::itimerspec { it_interval: never, it_value: when };
            // SAFETY: `spec` is valid; the old value is not asked for.
            unsafe { libc::timerfd_settime(self.fd, libc::TFD_TIMER_ABSTIME, &spec, std::ptr::null_mut()) };
        }
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let _ = at;
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if self.fd >= 0 {
            // SAFETY: the descriptor is ours.
            unsafe { libc::close(self.fd) };
        }
    }
}
