//! Locks on a Redis or Valkey server: the store that sends scripts.
//!
//! [`connection`] carries requests and replies, [`subscription`] the messages, both on a [`stream`], which is a socket with
//! or without TLS; [`handshake`] is what a new one says first; [`codec`] translates, [`scripts`] holds the steps that must
//! be atomic (one `.lua` file each); [`sentinel`] finds the server where its address changes,
//! [`cluster`] is a store of many. Nothing here knows the engine,
//! or what a lock is used for.

#[cfg(any(target_os = "linux", target_os = "android"))]
mod cluster;
mod codec;
mod connection;
mod copies;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod handshake;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod member;
mod resp;
mod scripts;
mod sentinel;
pub mod slot;
mod socket;
mod stream;
mod subscription;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "tls_absent.rs"]
mod tls;
mod warnings;

use std::fmt;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[cfg(any(target_os = "linux", target_os = "android"))]
pub use self::cluster::ClusterStore;
pub use self::copies::Copies;
use self::handshake::Refused;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(in crate::store) use self::member::{Admission, Look};
use self::scripts::Scripts;
pub use self::sentinel::Service;
use self::sentinel::{Era, Watch};
use self::stream::Stream;
use self::warnings::Warnings;
use super::{Connection, Store, Subscription, Unreachable};
use crate::descriptors::Descriptors;

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
    /// Wherever sentinels say, asked anew with every connection.
    Service(Box<Service>),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "{}", path.display()),
            Address::Service(service) => write!(f, "service {}", service.name),
        }
    }
}

impl Address {
    /// Where a server listens unless it is told otherwise.
    pub fn local() -> Self {
        Address::Tcp { host: "localhost".to_owned(), port: 6379 }
    }
}

/// How TLS is to be spoken. Files are PEM, and read for each connection anew: certificates are replaced while programs run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// The certificates of the CAs to trust, instead of the platform's.
    pub ca: Option<PathBuf>,
    /// The client's certificate, and those that lead from it to a CA.
    pub cert: Option<PathBuf>,
    /// The client's private key.
    pub key: Option<PathBuf>,
    /// The name that the server's certificate must have, instead of the host's.
    pub server_name: Option<String>,
}

/// How to reach the server.
#[derive(Clone)]
pub struct Config {
    /// Where it listens.
    pub address: Address,
    /// With TLS?
    pub tls: Option<Tls>,
    /// The user to authenticate as; the server's default user where there is only a password.
    pub username: Option<String>,
    /// The password; no authentication without one.
    pub password: Option<String>,
    /// The number of the database.
    pub database: i64,
    /// What `CLIENT LIST` calls the connections.
    pub client_name: String,
    /// How long a connection may be unused before a ping keeps it open.
    pub keep_alive: Option<Duration>,
    /// How many copies of a lock there must be before it counts; `None`: that of the primary will do.
    pub copies: Option<Copies>,
    /// How long resolving and connecting may take, all addresses of a host together, and the handshake of TLS.
    pub connect_timeout: Duration,
    /// How long the server may take to answer.
    pub response_timeout: Duration,
}

impl Config {
    /// A server without TLS and authentication; both timeouts are 5 s.
    pub fn new(address: Address) -> Self {
        Config {
            address,
            tls: None,
            username: None,
            password: None,
            database: 0,
            client_name: "dlock".to_owned(),
            keep_alive: Some(KEEP_ALIVE),
            copies: None,
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(5),
        }
    }

    /// `text` without the password, should the other side have repeated it.
    fn without_secrets(&self, text: &str) -> String {
        match self.password.as_deref() {
            Some(password) if !password.is_empty() => text.replace(password, "(secret)"),
            _ => text.to_owned(),
        }
    }
}

/// Well below the 50 or 60 s after which proxies commonly close what is idle.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// As many sockets as one locker has at a time on one server, those included that are being connected or closed, and some
/// more.
const SOCKETS_MAX: usize = 16;

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("address", &format_args!("{}", self.address))
            .field("tls", &self.tls)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "(secret)"))
            .field("database", &self.database)
            .field("client_name", &self.client_name)
            .field("keep_alive", &self.keep_alive)
            .field("copies", &self.copies)
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

/// A server, and what all connections to it share.
struct Site {
    config: Config,
    /// Sentinels say that it is a primary: it must say so itself.
    is_named: bool,
    descriptors: Arc<Descriptors>,
    trust: Arc<tls::Trust>,
    warnings: Arc<Warnings>,
    /// No more handshakes: those under way end.
    stopped: Arc<AtomicBool>,
}

impl Site {
    fn new(mut config: Config, descriptors: Arc<Descriptors>) -> Self {
        if let Some(copies) = &mut config.copies {
            // The connection says nothing meanwhile.
            copies.timeout = copies.timeout.min(config.response_timeout / 2).max(Duration::from_millis(1));
        }
        let (trust, warnings, stopped) = (Arc::default(), Arc::default(), Arc::default());
        Site { config, is_named: false, descriptors, trust, warnings, stopped }
    }

    /// The same for the connections to another server.
    fn with(&self, config: Config, is_named: bool) -> Self {
        let (descriptors, trust) = (Arc::clone(&self.descriptors), Arc::clone(&self.trust));
        let (warnings, stopped) = (Arc::clone(&self.warnings), Arc::clone(&self.stopped));
        Site { config, is_named, descriptors, trust, warnings, stopped }
    }
}

/// Locks on one server.
pub struct RedisStore {
    site: Site,
    address: String,
    scripts: Arc<Scripts>,
    known: Mutex<Known>,
    watch: Watch,
}

/// Which server a connection is to, and until when it will do.
struct Reached {
    address: Arc<str>,
    era: Era,
}

impl RedisStore {
    /// No I/O.
    pub fn new(config: Config) -> Self {
        Self::with_scripts(config, Scripts::new())
    }

    fn with_scripts(config: Config, scripts: Scripts) -> Self {
        let (address, site) = (config.address.to_string(), Site::new(config, Descriptors::with_room(SOCKETS_MAX)));
        RedisStore { site, address, scripts: Arc::new(scripts), known: Mutex::default(), watch: Watch::default() }
    }

    /// Shakes hands with the server, wherever it is now.
    fn reach<T>(&self, shake: impl Fn(&Site) -> Result<T, Refused>) -> Result<(T, Reached), Unreachable> {
        if let Address::Service(service) = &self.site.config.address {
            return self.watch.reach(&self.site, service, shake);
        }
        let shaken = shake(&self.site).map_err(|refused| refused.why)?;
        Ok((shaken, self.reached()))
    }

    /// The server of the address.
    fn reached(&self) -> Reached {
        Reached { address: self.address.as_str().into(), era: Era::endless() }
    }

    fn connection(&self, stream: Stream, to: Reached) -> Box<dyn Connection> {
        let (Config { response_timeout, copies, .. }, scripts) = (&self.site.config, Arc::clone(&self.scripts));
        let Reached { address, era } = to;
        Box::new(connection::RedisConnection::new(stream, address, era, *response_timeout, *copies, scripts))
    }
}

impl Store for RedisStore {
    fn connect(&self, highest_token: u64) -> Result<Box<dyn Connection>, Unreachable> {
        let (highest, known_id) = {
            let mut known = self.known.lock().unwrap_or_else(|poison| poison.into_inner());
            known.highest = known.highest.max(highest_token);
            (known.highest, known.replication_id.clone())
        };
        let shake = |site: &Site| handshake::for_commands(site, &self.scripts, highest, &known_id);
        let ((stream, floor), reached) = self.reach(shake)?;
        {
            let mut known = self.known.lock().unwrap_or_else(|poison| poison.into_inner());
            known.highest = known.highest.max(floor.counter);
            if !floor.replication_id.is_empty() {
                known.replication_id = floor.replication_id;
            }
        }
        Ok(self.connection(stream, reached))
    }

    fn subscribe(
        &self,
        channel: &str,
        _wake: Arc<dyn Fn() + Send + Sync>,
    ) -> Result<Box<dyn Subscription>, Unreachable> {
        let shake = |site: &Site| handshake::for_messages(site, channel);
        let ((stream, left_over), Reached { address, era }) = self.reach(shake)?;
        let counts = self.site.config.copies.is_none();
        Ok(Box::new(subscription::RedisSubscription::new(stream, address, era, channel, counts, left_over)))
    }

    fn address(&self) -> &str {
        &self.address
    }

    fn keep_alive(&self) -> Option<Duration> {
        self.site.config.keep_alive
    }

    fn patience(&self) -> Duration {
        if self.watch.is_passing() { self.site.config.connect_timeout } else { Duration::ZERO }
    }

    fn warnings(&self) -> Vec<String> {
        self.site.warnings.all()
    }

    fn stop(&self) {
        self.site.stopped.store(true, Ordering::Release);
    }

    fn take_descriptors_in_child(&self) -> Vec<RawFd> {
        self.site.descriptors.take_in_child().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_shows_no_password() {
        let address = Address::Tcp { host: "::1".into(), port: 6379 };
        let config = Config { password: Some("hunter2".to_owned()), ..Config::new(address) };
        assert!(!format!("{config:?}").contains("hunter2"));
        assert_eq!(RedisStore::new(config).address(), "[::1]:6379");
    }
}
