//! The background thread: messages, renewals, timers, and the replies to what no calling thread waits for.

use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Driver, Link, OUTSTANDING_US};
use crate::clock::now;
use crate::descriptors::Timer;
use crate::engine::Time;
use crate::error::Result;
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, libc};

impl Driver {
    pub(super) fn run(self: Arc<Self>) {
        let keep_alive = self.store.keep_alive().map(|unused| KeepAlive::new(unused.as_micros() as Time));
        let mut background = Background { driver: &self, timer: Timer::new(), fds: Vec::new(), keep_alive };
        self.timer_fd.store(background.timer.fd(), Ordering::Relaxed);
        let ended = catch_unwind(AssertUnwindSafe(|| background.run()));
        self.timer_fd.store(-1, Ordering::Relaxed); // before it is closed: the number may then be another's
        if !matches!(ended, Ok(Ok(()))) {
            self.fail_everybody();
        }
    }
}

struct Background<'a> {
    driver: &'a Arc<Driver>,
    timer: Timer,
    fds: Vec<libc::pollfd>,
    keep_alive: Option<KeepAlive>,
}

/// When to look for connections that nobody uses. Those that were not used between two looks are, so that a connection is
/// never silent for longer than twice the time between looks, and its use need not be noted with the time.
struct KeepAlive {
    every: Time,
    next: Time,
}

impl KeepAlive {
    fn new(unused: Time) -> Self {
        let every = unused / 2;
        KeepAlive { every, next: now() + every }
    }
}

impl Background<'_> {
    fn run(&mut self) -> Result<()> {
        loop {
            self.driver.wake.clear();
            self.driver.watch.clear();
            if self.driver.stopped.load(Ordering::Acquire) {
                return Ok(());
            }
            if let Some(mut reading) = self.driver.feed.take(None)
                && self.driver.attend(&mut reading)?
            {
                self.driver.feed.give_back(reading);
            }
            for (index, link) in self.driver.links.iter().enumerate() {
                if let Some(connection) = link.take(None) {
                    self.driver.drive(index, connection, None, None);
                }
            }
            self.keep_alive()?;
            let undriven = self.driver.tick()?;
            if undriven.is_some_and(|index| self.driver.links[index].is_free()) {
                continue;
            }
            if let Some(until) = self.plan()? {
                self.sleep(until);
            }
        }
    }

    /// Says something on connections that nobody uses. What comes back is read as all replies are that nobody waits for.
    fn keep_alive(&mut self) -> Result<()> {
        let Some(look) = self.keep_alive.as_mut().filter(|look| look.next <= now()) else { return Ok(()) };
        look.next = now() + look.every;
        for (index, link) in self.driver.links.iter().enumerate() {
            if let Some(mut connection) = link.take_unused() {
                connection.keep_alive();
                self.driver.drive(index, connection, None, None);
            }
        }
        if let Some(mut reading) = self.driver.feed.take(None) {
            let _ = reading.subscription.keep_alive(); // if it failed, the next look at the subscription tells
            if self.driver.attend(&mut reading)? {
                self.driver.feed.give_back(reading);
            }
        }
        Ok(())
    }

    /// Until when to sleep; `None`: something is due already. From here on whoever sets an earlier timer wakes us.
    fn plan(&mut self) -> Result<Option<Time>> {
        let timer = self.timer.fd();
        let fixed =
            [self.driver.wake.fd(), self.driver.watch.fd(), timer].into_iter().chain(self.driver.feed.to_poll());
        self.fds.clear();
        self.fds.extend(fixed.map(|fd| poll_for(fd, false)));
        let links = self.driver.links.iter().filter_map(Link::to_poll);
        let outstanding = self.fds.len();
        self.fds.extend(links.map(|(fd, unsent)| poll_for(fd, unsent)));
        let mut guard = self.driver.lock()?;
        let now = now();
        let mut until = guard.engine.next_timer().unwrap_or(Time::MAX);
        if guard.used || guard.engine.holds_anything() {
            // So that an acquire need not wake this thread for the renewals that it will want.
            until = until.min(now + self.driver.lease_us / 6);
        }
        if let Some(look) = &self.keep_alive {
            until = until.min(look.next);
        }
        if guard.used
            && let Some(after) = guard.engine.confirms_after()
        {
            until = until.min(now + after); // nor each hand-off among this process's calls, for its confirmation
        }
        if self.fds.len() > outstanding || guard.submitted {
            until = until.min(now + OUTSTANDING_US);
        }
        (guard.used, guard.submitted) = (false, false);
        guard.planned = if until <= now { 0 } else { until };
        Ok((until > now).then_some(until))
    }

    fn sleep(&mut self, until: Time) {
        self.timer.set(until);
        let timeout = match until {
            _ if self.timer.fd() >= 0 => -1,
            Time::MAX => -1,
            until => (until.saturating_sub(now()) / 1_000 + 1).min(i32::MAX as Time) as i32,
        };
        // SAFETY: `fds` is a valid array of that length.
        unsafe { libc::poll(self.fds.as_mut_ptr(), self.fds.len() as libc::nfds_t, timeout) };
        if let Ok(mut guard) = self.driver.lock() {
            guard.planned = 0; // awake: nobody need wake us
        }
    }
}

fn poll_for(fd: RawFd, unsent: bool) -> libc::pollfd {
    libc::pollfd { fd, events: if unsent { libc::POLLIN | libc::POLLOUT } else { libc::POLLIN }, revents: 0 }
}
