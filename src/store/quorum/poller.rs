//! What a link to a quorum waits for: its servers' sockets, a time, and other threads. Knows no protocol.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Time;
use crate::descriptors::{self, Alarm, Descriptors, Signal};

/// What else than the sockets of servers, whose number is their name, may be ready.
const ALARM: u64 = 62;
const SIGNAL: u64 = 63;

/// The sockets of one link, its alarm, and signals.
pub struct Poller {
    set: descriptors::Poller,
    alarm: Alarm,
    ready: Vec<u64>,
}

impl Poller {
    pub fn new(all: &Arc<Descriptors>, signals: &[&Signal]) -> io::Result<Self> {
        let this = Poller { set: descriptors::Poller::new(all)?, alarm: Alarm::new(all)?, ready: Vec::new() };
        this.set.add(this.alarm.fd(), ALARM)?;
        signals.iter().try_for_each(|signal| this.set.add(signal.fd(), SIGNAL))?;
        Ok(this)
    }

    pub fn fd(&self) -> RawFd {
        self.set.fd()
    }

    /// Looks after the socket of that server.
    pub fn add(&self, server: usize, fd: RawFd) -> io::Result<()> {
        self.set.add(fd, server as u64)
    }

    /// To be called before the socket is closed.
    pub fn remove(&self, fd: RawFd) {
        self.set.remove(fd);
    }

    /// Is there something unsent for that server?
    pub fn set_unsent(&self, server: usize, fd: RawFd, unsent: bool) {
        self.set.set(fd, server as u64, unsent);
    }

    /// Readable from `at` on; `None`: not for the time.
    pub fn set_timer(&mut self, at: Option<Time>) {
        self.alarm.set(at);
    }

    /// Waits until something is ready, at most that many microseconds. Answers the servers whose sockets are, one bit each.
    pub fn wait(&mut self, most: Time) -> u64 {
        self.set.wait(Duration::from_micros(most), &mut self.ready);
        self.ready.drain(..).filter(|&name| name < ALARM).fold(0, |all, server| all | 1 << server)
    }
}
