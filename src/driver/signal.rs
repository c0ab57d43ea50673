//! The descriptors by which a thread that polls is woken: by another thread, or at a time.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

#[cfg(any(target_os = "linux", target_os = "android"))]
use crate::clock::CLOCK;
use crate::engine::Time;
use crate::store::descriptors::{Descriptors, Noted};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::libc;

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
    /// Spares the system call where the descriptor is readable already. Cleared after the descriptor: who finds it set
    /// did his work before the reader looks for it.
    raised: AtomicBool,
    /// Where a forked child finds the descriptors.
    noted: [Option<Noted>; 2],
}

impl Signal {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub fn new() -> io::Result<Self> {
        // SAFETY: a plain system call.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(Signal { read: fd, write: fd, raised: AtomicBool::new(false), noted: [None, None] })
        }
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
        Ok(Signal { read: fds[0], write: fds[1], raised: AtomicBool::new(false), noted: [None, None] })
    }

    pub fn fd(&self) -> RawFd {
        self.read
    }

    pub fn raise(&self) {
        if self.raised.swap(true, Ordering::AcqRel) {
            return;
        }
        let one = 1u64.to_ne_bytes();
        // SAFETY: writes eight bytes of `one`. A full eventfd or pipe is readable already.
        unsafe { libc::write(self.write, one.as_ptr().cast(), one.len()) };
    }

    pub fn clear(&self) {
        if !self.raised.load(Ordering::Acquire) {
            return;
        }
        let mut bytes = [0u8; 512];
        let mut came = false;
        loop {
            // SAFETY: reads into `bytes`; the descriptor does not block.
            let count = unsafe { libc::read(self.read, bytes.as_mut_ptr().cast(), bytes.len()) };
            came |= count > 0;
            if count < bytes.len() as isize {
                break;
            }
        }
        // Nothing yet: whoever set `raised` is about to write, and what he writes must find it set, or nobody would read it.
        if came {
            self.raised.swap(false, Ordering::AcqRel);
        }
    }

    /// The same, for a forked child to be closed by `all` for as long as this lives.
    pub fn noted(all: &Arc<Descriptors>) -> io::Result<Self> {
        let mut signal = Signal::new()?;
        signal.noted = [all.note(signal.read), if signal.write == signal.read { None } else { all.note(signal.write) }];
        Ok(signal)
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
        self.noted = [None, None]; // before they are closed: their numbers may be another's then
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
