//! The descriptors by which a thread that polls is woken: by another thread, or at a time.

use std::io;
use std::os::fd::RawFd;

#[cfg(any(target_os = "linux", target_os = "android"))]
use crate::clock::CLOCK;
use crate::engine::Time;

/// In a forked child: closes the child's copy of a descriptor (-1: there is none). Its owner is leaked and never uses it.
pub fn close_in_child(fd: RawFd) {
    if fd >= 0 {
        // SAFETY: nothing in the child uses the descriptor after this.
        unsafe { libc::close(fd) };
    }
}

/// A descriptor that is readable from [`Signal::raise`] to [`Signal::clear`].
#[derive(Debug)]
pub struct Signal {
    read: RawFd,
    write: RawFd,
}

impl Signal {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub fn new() -> io::Result<Self> {
        // SAFETY: a plain system call.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(Signal { read: fd, write: fd }) }
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub fn new() -> io::Result<Self> {
        let mut fds = [0; 2];
        // SAFETY: `fds` has room for the two descriptors that are set up right after.
        unsafe {
            if libc::pipe(fds.as_mut_ptr()) < 0 {
                return Err(io::Error::last_os_error());
            }
            for fd in fds {
                libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
                libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK);
            }
        }
        Ok(Signal { read: fds[0], write: fds[1] })
    }

    pub fn fd(&self) -> RawFd {
        self.read
    }

    pub fn raise(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: writes eight bytes of `one`. A full eventfd or pipe is readable already.
        unsafe { libc::write(self.write, one.as_ptr().cast(), one.len()) };
    }

    pub fn clear(&self) {
        let mut bytes = [0u8; 512];
        // SAFETY: reads into `bytes`; the descriptor does not block.
        while unsafe { libc::read(self.read, bytes.as_mut_ptr().cast(), bytes.len()) } == bytes.len() as isize {}
    }

    /// In a forked child: close the descriptors, nothing else.
    pub fn close_in_child(&self) {
        close_in_child(self.read);
        if self.write != self.read {
            close_in_child(self.write);
        }
    }
}

impl Drop for Signal {
    fn drop(&mut self) {
        self.close_in_child();
    }
}

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
