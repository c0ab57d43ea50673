//! The background thread: messages, renewals, timers, and the replies to what no calling thread waits for.

use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::clock::{Timer, now};
use super::{Driver, Link};
use crate::engine::Time;
use crate::error::Result;
use crate::store::Subscription;

/// While replies are outstanding: how often to look whether their time is over.
const OUTSTANDING_US: Time = 50_000;

impl Driver {
    pub(super) fn run(self: Arc<Self>) {
        let mut background = Background { driver: &self, timer: Timer::new(), subscription: None, fds: Vec::new() };
        let ended = catch_unwind(AssertUnwindSafe(|| background.run()));
        if !matches!(ended, Ok(Ok(()))) {
            self.fail_everybody();
        }
    }
}

struct Background<'a> {
    driver: &'a Arc<Driver>,
    timer: Timer,
    subscription: Option<Box<dyn Subscription>>,
    fds: Vec<libc::pollfd>,
}

impl Background<'_> {
    fn run(&mut self) -> Result<()> {
        loop {
            self.driver.wake.clear();
            if self.driver.stopped.load(Ordering::Acquire) {
                return Ok(());
            }
            self.take_inbox()?;
            self.receive()?;
            for (index, link) in self.driver.links.iter().enumerate() {
                if let Some(connection) = link.take(None) {
                    self.driver.drive(index, connection, None, None);
                }
            }
            let (_, undriven) = self.driver.tell(None, |engine, now| engine.tick(now))?;
            if undriven.is_some_and(|index| self.driver.links[index].is_free()) {
                continue;
            }
            if let Some(until) = self.plan()? {
                self.sleep(until);
            }
        }
    }

    /// What other threads left for this one.
    fn take_inbox(&mut self) -> Result<()> {
        let mut inbox = std::mem::take(&mut *self.driver.inbox.lock().unwrap_or_else(PoisonError::into_inner));
        if inbox.drop_subscription {
            self.set_subscription(None);
        }
        if let Some((subscription, asked_at)) = inbox.subscription.take() {
            self.set_subscription(Some(subscription));
            self.driver.tell(None, |engine, now| engine.subscribed(now, asked_at))?;
        }
        for number in inbox.pings {
            if self.subscription.as_mut().is_some_and(|subscription| subscription.ping(number).is_err()) {
                self.subscription_lost()?;
            }
        }
        Ok(())
    }

    fn set_subscription(&mut self, subscription: Option<Box<dyn Subscription>>) {
        let fd = subscription.as_ref().and_then(|subscription| subscription.fd());
        self.driver.subscription_fd.store(fd.unwrap_or(-1), Ordering::Relaxed);
        self.subscription = subscription;
    }

    fn subscription_lost(&mut self) -> Result<()> {
        self.set_subscription(None);
        self.driver.tell(None, |engine, now| engine.unsubscribed(now))?;
        Ok(())
    }

    fn receive(&mut self) -> Result<()> {
        let Some(subscription) = self.subscription.as_mut() else { return Ok(()) };
        let mut pushes = Vec::new();
        let received = subscription.receive(&mut pushes);
        if !pushes.is_empty() {
            self.driver.tell(None, |engine, now| pushes.into_iter().for_each(|push| engine.push(now, push)))?;
        }
        if received.is_err() {
            self.subscription_lost()?;
        }
        Ok(())
    }

    /// Until when to sleep; `None`: something is due already. From here on whoever sets an earlier timer wakes us.
    fn plan(&mut self) -> Result<Option<Time>> {
        let timer = self.timer.fd();
        let fixed = [self.driver.wake.fd(), timer].into_iter().chain(self.subscription.as_ref().and_then(|s| s.fd()));
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
        if self.fds.len() > outstanding {
            until = until.min(now + OUTSTANDING_US);
        }
        guard.used = false;
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
