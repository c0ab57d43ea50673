//! Locks on a Redis or Valkey server: the store that sends scripts.
//!
//! [`connection`] carries requests and replies, [`subscription`] the messages, [`codec`] translates, [`scripts`] holds
//! the steps that must be atomic (one `.lua` file each). Nothing here knows the engine, or what a lock is used for.

mod codec;
mod connection;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod handshake;
mod resp;
mod scripts;
pub mod slot;
mod socket;
mod subscription;

use std::fmt;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use self::scripts::Scripts;
use self::socket::Descriptors;
use super::{Connection, Store, Subscription, Unreachable};

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A host name or address, and a port.
    Tcp {
        /// Resolved anew with every connection.
        host: String,
        /// The port.
        port: u16,
    },
    /// The path of a socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// How to reach the server.
#[derive(Clone)]
pub struct Config {
    /// Where it listens.
    pub address: Address,
    /// The user to authenticate as; the server's default user where there is only a password.
    pub username: Option<String>,
    /// The password; no authentication without one.
    pub password: Option<String>,
    /// The number of the database.
    pub database: i64,
    /// How long resolving and connecting may take, all addresses of a host together.
    pub connect_timeout: Duration,
    /// How long the server may take to answer.
    pub response_timeout: Duration,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("address", &self.address)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "(secret)"))
            .field("database", &self.database)
            .field("connect_timeout", &self.connect_timeout)
            .field("response_timeout", &self.response_timeout)
            .finish()
    }
}

/// What a store remembers from one connection to the next (rule 5).
#[derive(Default)]
struct Known {
    /// The server's replication id, empty where it was never told.
    replication_id: String,
    /// The highest number that the counter was seen to have.
    highest: u64,
}

/// Locks on one server.
pub struct RedisStore {
    config: Config,
    address: String,
    scripts: Arc<Scripts>,
    known: Mutex<Known>,
    descriptors: Arc<Descriptors>,
}

impl RedisStore {
    /// No I/O.
    pub fn new(config: Config) -> Self {
        let address = config.address.to_string();
        let (scripts, descriptors) = (Arc::new(Scripts::new()), Descriptors::new());
        RedisStore { config, address, scripts, known: Mutex::default(), descriptors }
    }
}

impl Store for RedisStore {
    fn connect(&self, highest_token: u64) -> Result<Box<dyn Connection>, Unreachable> {
        let (highest, known_id) = {
            let mut known = self.known.lock().unwrap_or_else(|poison| poison.into_inner());
            known.highest = known.highest.max(highest_token);
            (known.highest, known.replication_id.clone())
        };
        let (socket, floor) =
            handshake::for_commands(&self.config, &self.descriptors, &self.scripts, highest, &known_id)?;
        {
            let mut known = self.known.lock().unwrap_or_else(|poison| poison.into_inner());
            known.highest = known.highest.max(floor.counter);
            if !floor.replication_id.is_empty() {
                known.replication_id = floor.replication_id;
            }
        }
        let (address, timeout) = (self.address.as_str().into(), self.config.response_timeout);
        Ok(Box::new(connection::RedisConnection::new(socket, address, timeout, Arc::clone(&self.scripts))))
    }

    fn subscribe(
        &self,
        channel: &str,
        _wake: Arc<dyn Fn() + Send + Sync>,
    ) -> Result<Box<dyn Subscription>, Unreachable> {
        let (socket, left_over) = handshake::for_messages(&self.config, &self.descriptors, channel)?;
        Ok(Box::new(subscription::RedisSubscription::new(socket, self.address.as_str().into(), channel, left_over)))
    }

    fn address(&self) -> &str {
        &self.address
    }

    fn take_descriptors_in_child(&self) -> Vec<RawFd> {
        self.descriptors.take_in_child().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_shows_no_password() {
        let address = Address::Tcp { host: "::1".into(), port: 6379 };
        let (connect_timeout, response_timeout) = (Duration::from_secs(5), Duration::from_secs(5));
        let password = Some("hunter2".to_owned());
        let config = Config { address, username: None, password, database: 0, connect_timeout, response_timeout };
        assert!(!format!("{config:?}").contains("hunter2"));
        assert_eq!(RedisStore::new(config).address(), "[::1]:6379");
    }
}
