//! A descriptor by which a thread that polls is woken by another.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::{Descriptors, Noted, close_in_child};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::libc;

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
