//! What a link to a quorum waits for: its sockets, a time, and another thread. Knows no protocol.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use crate::clock::CLOCK;
use crate::store::redis::{Descriptors, Noted};

/// Microseconds on the clock of [`crate::clock`].
type Time = u64;

/// A descriptor, closed when dropped, also in a forked child.
struct Owned {
    /// Dropped first: the number of a closed descriptor may be another's.
    _noted: Option<Noted>,
    fd: Closing,
}

struct Closing(RawFd);

impl Drop for Closing {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours.
        unsafe { libc::close(self.0) };
    }
}

impl Owned {
    fn new(fd: RawFd, all: &Arc<Descriptors>) -> io::Result<Self> {
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = Closing(fd);
        Ok(Owned { _noted: all.note(fd.0), fd })
    }
}

/// The descriptors of one store that are no sockets, for a forked child.
pub struct Tables {
    polls: Arc<Descriptors>,
    timers: Arc<Descriptors>,
    events: Arc<Descriptors>,
}

impl Tables {
    pub fn new() -> Self {
        Tables { polls: Descriptors::new(), timers: Descriptors::new(), events: Descriptors::new() }
    }

    /// In a forked child: what to close.
    pub fn take_in_child(&self) -> impl Iterator<Item = RawFd> {
        [&self.polls, &self.timers, &self.events].into_iter().flat_map(|table| table.take_in_child())
    }
}

/// Readable from [`Event::raise`] to [`Event::clear`].
pub struct Event(Owned);

impl Event {
    pub fn new(tables: &Tables) -> io::Result<Self> {
        // SAFETY: a plain system call.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        Owned::new(fd, &tables.events).map(Event)
    }

    pub fn raise(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: writes eight bytes of `one`.
        unsafe { libc::write(self.0.fd.0, one.as_ptr().cast(), one.len()) };
    }

    pub fn clear(&self) {
        let mut count = [0u8; 8];
        // SAFETY: reads into `count`; the descriptor does not block.
        unsafe { libc::read(self.0.fd.0, count.as_mut_ptr().cast(), count.len()) };
    }
}

/// What else than the sockets of servers, whose number is their place, may be ready.
const TIMER: u64 = 62;
const EVENT: u64 = 63;

/// The sockets of one link, its timer, and events.
pub struct Poller {
    epoll: Owned,
    timer: Owned,
    /// What the timer is set to.
    at: Option<Time>,
}

impl Poller {
    pub fn new(tables: &Tables) -> io::Result<Self> {
        // SAFETY: plain system calls.
        let epoll = Owned::new(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }, &tables.polls)?;
        let timer = unsafe { libc::timerfd_create(CLOCK, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) };
        let timer = Owned::new(timer, &tables.timers)?;
        let this = Poller { epoll, timer, at: None };
        this.control(libc::EPOLL_CTL_ADD, this.timer.fd.0, TIMER, false)?;
        Ok(this)
    }

    pub fn fd(&self) -> RawFd {
        self.epoll.fd.0
    }

    /// Looks after that event as well.
    pub fn add_event(&self, event: &Event) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, event.0.fd.0, EVENT, false)
    }

    /// Looks after the socket of that server, until it is closed.
    pub fn add(&self, server: usize, fd: RawFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, server as u64, false)
    }

    /// Is there something unsent for that server?
    pub fn set_unsent(&self, server: usize, fd: RawFd, unsent: bool) {
        let _ = self.control(libc::EPOLL_CTL_MOD, fd, server as u64, unsent);
    }

    fn control(&self, operation: i32, fd: RawFd, key: u64, unsent: bool) -> io::Result<()> {
        let out = if unsent { libc::EPOLLOUT } else { 0 };
        let mut event = libc::epoll_event { events: (libc::EPOLLIN | out) as u32, u64: key };
        // SAFETY: `event` is valid.
        match unsafe { libc::epoll_ctl(self.epoll.fd.0, operation, fd, &mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Readable from `at` on; `None`: not for the time.
    pub fn set_timer(&mut self, at: Option<Time>) {
        if self.at == at {
            return;
        }
        self.at = at;
        let us = at.map_or(0, |at| at.max(1));
        let when = libc::timespec { tv_sec: (us / 1_000_000) as _, tv_nsec: (us % 1_000_000 * 1_000) as _ };
        let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let spec = libc::itimerspec { it_interval: never, it_value: when };
        // SAFETY: `spec` is valid; the old value is not asked for. Setting clears what has run out.
        unsafe { libc::timerfd_settime(self.timer.fd.0, libc::TFD_TIMER_ABSTIME, &spec, std::ptr::null_mut()) };
    }

    /// Waits until something is ready, at most that many microseconds. Answers the servers whose sockets are, one bit each.
    pub fn wait(&self, most: Time) -> u64 {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 10];
        let ms = most.div_ceil(1_000).min(1_000) as i32;
        // SAFETY: `events` has room for as many.
        let count = unsafe { libc::epoll_wait(self.epoll.fd.0, events.as_mut_ptr(), events.len() as i32, ms) };
        let ready = events.iter().take(usize::try_from(count).unwrap_or(0)).map(|event| event.u64);
        ready.filter(|&key| key < TIMER).fold(0, |all, server| all | 1 << server)
    }
}
