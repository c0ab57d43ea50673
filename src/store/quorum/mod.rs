//! Locks on a quorum of independent servers: the store that asks them all and goes by the majority (`docs/quorum.md`).
//!
//! [`votes`] and [`messages`] are what the servers' answers come to, without I/O; [`connection`] and [`subscription`] carry
//! them; [`keeper`] connects what is missing, and lets servers that lost their data count again, when [`admission`] says so;
//! [`ledger`] is what all links know in common. Each server is reached by [`redis`](super::redis).

mod admission;
mod connection;
mod keeper;
pub mod ledger;
pub mod messages;
mod poller;
mod subscription;
pub mod votes;

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use self::connection::QuorumConnection;
use self::keeper::{Commands, Guest, Inbox, Listeners, Shared};
use self::subscription::QuorumSubscription;
use super::redis::{Config, RedisStore};
use super::{Connection, Store, Subscription, Unreachable};

/// Locks on a majority of several servers.
pub struct QuorumStore {
    shared: Arc<Shared>,
    address: String,
    /// How long connecting may take.
    most: Duration,
    keep_alive: Option<Duration>,
}

impl QuorumStore {
    /// Servers that know nothing of each other: 3, 5 or 7. `lease_ms`: of this locker. No I/O but the making of a
    /// descriptor.
    pub fn new(servers: Vec<Config>, lease_ms: u64) -> std::io::Result<Self> {
        let first = &servers[0];
        let (patience, most) = (first.connect_timeout, first.connect_timeout + first.response_timeout);
        let keep_alive = first.keep_alive;
        let members: Vec<RedisStore> = servers.into_iter().map(RedisStore::member).collect();
        let names: Vec<&str> = members.iter().map(|member| member.address()).collect();
        let address = names.join(",");
        let shared = Arc::new(Shared::new(members, lease_ms, patience)?);
        Ok(QuorumStore { shared, address, most, keep_alive })
    }

    fn no_descriptor(&self, error: &std::io::Error) -> Unreachable {
        Unreachable(format!("{}: cannot make a descriptor: {error}", self.address))
    }
}

impl Store for QuorumStore {
    fn connect(&self, highest_token: u64) -> Result<Box<dyn Connection>, Unreachable> {
        self.shared.ledger.saw(highest_token);
        let inbox = Inbox::new(&self.shared).map_err(|error| self.no_descriptor(&error))?;
        let inbox = Arc::new(Commands(inbox));
        let guest: Arc<dyn Guest> = inbox.clone();
        self.shared.welcome(Arc::downgrade(&guest));
        inbox.0.gather(&self.shared, self.most)?;
        let connection = QuorumConnection::new(&self.shared, inbox).map_err(|error| self.no_descriptor(&error))?;
        Ok(Box::new(connection))
    }

    fn subscribe(
        &self,
        channel: &str,
        _wake: Arc<dyn Fn() + Send + Sync>,
    ) -> Result<Box<dyn Subscription>, Unreachable> {
        let inbox = Inbox::new(&self.shared).map_err(|error| self.no_descriptor(&error))?;
        let inbox = Arc::new(Listeners { inbox, channel: channel.to_owned() });
        let guest: Arc<dyn Guest> = inbox.clone();
        self.shared.welcome(Arc::downgrade(&guest));
        inbox.inbox.gather(&self.shared, self.most)?;
        let subscription = QuorumSubscription::new(&self.shared, inbox).map_err(|error| self.no_descriptor(&error))?;
        Ok(Box::new(subscription))
    }

    fn address(&self) -> &str {
        &self.address
    }

    fn keep_alive(&self) -> Option<Duration> {
        self.keep_alive
    }

    fn warnings(&self) -> Vec<String> {
        let of = |member: &RedisStore| {
            let address = member.address().to_owned();
            member.warnings().into_iter().map(move |warning| format!("{address}: {warning}"))
        };
        self.shared.members.iter().flat_map(of).collect()
    }

    fn stop(&self) {
        self.shared.stop();
    }

    fn take_descriptors_in_child(&self) -> Vec<RawFd> {
        let sockets = self.shared.members.iter().flat_map(|member| member.take_descriptors_in_child());
        sockets.chain(self.shared.descriptors.take_in_child()).collect()
    }
}

impl Drop for QuorumStore {
    fn drop(&mut self) {
        self.shared.stop();
    }
}
