//! The subscriptions at all servers of a quorum, which look like one.

use std::os::fd::RawFd;
use std::sync::Arc;

use super::keeper::{Listeners, Shared};
use super::messages::{Messages, wake};
use super::poller::Poller;
use crate::clock::now;
use crate::store::{Push, Subscription, Unreachable};

pub struct QuorumSubscription {
    shared: Arc<Shared>,
    inbox: Arc<Listeners>,
    servers: Vec<Option<Box<dyn Subscription>>>,
    messages: Messages,
    poller: Poller,
}

impl QuorumSubscription {
    /// Begins with the servers that have arrived in the inbox.
    pub fn new(shared: &Arc<Shared>, inbox: Arc<Listeners>) -> std::io::Result<Self> {
        let poller = Poller::new(&shared.descriptors, &[&inbox.inbox.signal, &shared.woken])?;
        let servers = shared.members.len();
        let mut this = QuorumSubscription {
            shared: Arc::clone(shared),
            inbox,
            servers: (0..servers).map(|_| None).collect(),
            messages: Messages::new(servers),
            poller,
        };
        this.admit_arrivals();
        Ok(this)
    }

    fn admit_arrivals(&mut self) {
        for (server, subscription) in self.inbox.inbox.take() {
            let added = subscription.fd().map_or(Ok(()), |fd| self.poller.add(server, fd));
            self.servers[server] = Some(subscription);
            if let Err(error) = added {
                self.end(server, &format!("{}: cannot poll: {error}", self.shared.names[server]));
            }
        }
    }

    fn end(&mut self, server: usize, why: &str) {
        if let Some(subscription) = self.servers[server].take() {
            subscription.fd().into_iter().for_each(|fd| self.poller.remove(fd));
            self.inbox.inbox.lost(server, why);
            self.shared.tend(server);
        }
    }

    /// Does the same with all; those with which it fails are lost.
    fn with_all(
        &mut self,
        mut f: impl FnMut(usize, &mut dyn Subscription, &mut Messages) -> Result<(), Unreachable>,
    ) -> Result<(), Unreachable> {
        for server in 0..self.servers.len() {
            let Some(subscription) = &mut self.servers[server] else { continue };
            if let Err(why) = f(server, &mut **subscription, &mut self.messages) {
                self.end(server, &why.0);
            }
        }
        if self.servers.iter().flatten().count() < self.shared.majority {
            return Err(self.inbox.inbox.why(&self.shared));
        }
        Ok(())
    }
}

impl Subscription for QuorumSubscription {
    fn ping(&mut self, number: u64) -> Result<(), Unreachable> {
        self.messages.pinged(number);
        self.with_all(|_, subscription, _| subscription.ping(number))
    }

    fn keep_alive(&mut self) -> Result<(), Unreachable> {
        self.with_all(|_, subscription, _| subscription.keep_alive())
    }

    fn receive(&mut self, pushes: &mut Vec<Push>) -> Result<(), Unreachable> {
        self.admit_arrivals();
        let time = now();
        let mut came = Vec::new();
        let received = self.with_all(|server, subscription, messages| {
            let received = subscription.receive(&mut came);
            came.drain(..).for_each(|push| messages.came(time, server, push, pushes));
            received
        });
        pushes.extend(self.shared.take_wakes().into_iter().map(|(key, acquisition)| wake(key, acquisition)));
        self.messages.tick(time, pushes);
        self.poller.set_timer(self.messages.next_due());
        received
    }

    fn fd(&self) -> Option<RawFd> {
        Some(self.poller.fd())
    }
}
