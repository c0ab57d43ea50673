//! Where the locks live and how long they last.

mod url;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result, Status};
use crate::store::Store;
use crate::store::memory::MemoryStore;
#[cfg(any(target_os = "linux", target_os = "android"))]
use crate::store::quorum::QuorumStore;
#[cfg(any(target_os = "linux", target_os = "android"))]
use crate::store::redis::ClusterStore;
use crate::store::redis::{Address, Config, RedisStore};

/// The shortest lease, in milliseconds.
pub const LEASE_MIN_MS: u64 = 100;
/// The longest lease, in milliseconds: a year.
pub const LEASE_MAX_MS: u64 = 365 * 24 * 3600 * 1000;
/// The longest timeout, in milliseconds: a day.
pub const TIMEOUT_MAX_MS: u64 = 24 * 3600 * 1000;

/// Options of a locker; copied by [`Locker::new`](crate::Locker::new). Of two setters the last wins.
#[derive(Clone)]
pub struct Options {
    target: Target,
    pub(crate) lease_ms: u64,
    pub(crate) auto_renew: bool,
    connect_timeout_ms: u64,
    pub(crate) response_timeout_ms: u64,
}

/// Where the locks live.
#[derive(Clone)]
enum Target {
    /// The timeouts in it are set by [`Options::store`].
    Redis(Box<Config>),
    /// Nodes to begin with, and how to reach all of them.
    Cluster(Vec<Address>, Box<Config>),
    /// A quorum's servers, all with the same but their addresses.
    Quorum(Vec<Config>),
    Memory(String),
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = f.debug_struct("Options");
        match &self.target {
            Target::Redis(config) => all.field("target", config),
            Target::Cluster(nodes, config) => all.field("nodes", nodes).field("target", config),
            Target::Quorum(servers) => all.field("target", servers),
            Target::Memory(name) => all.field("target", &format_args!("memory://{name}")),
        };
        all.field("lease_ms", &self.lease_ms)
            .field("auto_renew", &self.auto_renew)
            .field("connect_timeout_ms", &self.connect_timeout_ms)
            .field("response_timeout_ms", &self.response_timeout_ms)
            .finish()
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

fn invalid(text: impl fmt::Display) -> Error {
    Error::new(Status::InvalidArgument, text)
}

/// Refuses a lease that no lock can have.
pub(crate) fn check_lease_ms(lease_ms: u64) -> Result<()> {
    if (LEASE_MIN_MS..=LEASE_MAX_MS).contains(&lease_ms) {
        return Ok(());
    }
    Err(invalid(format!("lease_ms: {lease_ms}, must be from {LEASE_MIN_MS} to {LEASE_MAX_MS}")))
}

fn check_timeout_ms(timeout_ms: u64) -> Result<()> {
    if (1..=TIMEOUT_MAX_MS).contains(&timeout_ms) {
        return Ok(());
    }
    Err(invalid(format!("timeout_ms: {timeout_ms}, must be from 1 to {TIMEOUT_MAX_MS}")))
}

impl Options {
    /// `localhost:6379`, lease 30 s, renewal on, timeouts 5 s and 5 s.
    pub fn new() -> Self {
        Options {
            target: Target::Redis(Box::new(Config::new(Address::local()))),
            lease_ms: 30_000,
            auto_renew: true,
            connect_timeout_ms: 5_000,
            response_timeout_ms: 5_000,
        }
    }

    /// The TCP address to change: what there was, or the default where a URL named no host. All else stays, above all TLS.
    fn tcp(&mut self) -> (&mut String, &mut u16) {
        match &self.target {
            Target::Cluster(_, config) => self.target = Target::Redis(config.clone()),
            Target::Quorum(servers) => self.target = Target::Redis(Box::new(servers[0].clone())),
            Target::Redis(_) | Target::Memory(_) => {}
        }
        match &mut self.target {
            Target::Redis(config) if matches!(config.address, Address::Tcp { .. }) => {}
            Target::Redis(config) => config.address = Address::local(),
            _ => self.target = Options::new().target,
        }
        match &mut self.target {
            Target::Redis(config) => match &mut config.address {
                Address::Tcp { host, port } => (host, port),
                Address::Unix(_) | Address::Service(_) => unreachable!("made a TCP address above"),
            },
            Target::Cluster(..) | Target::Quorum(_) | Target::Memory(_) => unreachable!("made a TCP address above"),
        }
    }

    /// A host name or address.
    pub fn set_host(&mut self, host: &str) -> Result<()> {
        check_host(host).map_err(|problem| {
            // What has these may be a whole URL, with its password.
            let told = if host.contains(['/', '@']) { String::new() } else { format!("{host:?} ") };
            invalid(format!("host: {told}{problem}"))
        })?;
        *self.tcp().0 = host.trim_start_matches('[').trim_end_matches(']').to_string();
        Ok(())
    }

    /// A TCP port, not 0.
    pub fn set_port(&mut self, port: u16) -> Result<()> {
        if port == 0 {
            return Err(invalid("port: must not be 0"));
        }
        *self.tcp().1 = port;
        Ok(())
    }

    /// `redis://`, `redis-sentinel://`, `redis-cluster://`, `redis-quorum://`, all four with TLS as `rediss…`,
    /// `redis+unix://` or `memory://`; `docs/deployments.md` has the grammar. The error never repeats the URL, which may hold
    /// a password.
    pub fn set_url(&mut self, url: &str) -> Result<()> {
        if url.chars().any(char::is_control) {
            return Err(invalid("url: must not contain control characters"));
        }
        self.target = url::parse(url)?;
        Ok(())
    }

    /// How long the server keeps a lock without a renewal: from 100 ms to a year.
    pub fn set_lease_ms(&mut self, lease_ms: u64) -> Result<()> {
        check_lease_ms(lease_ms)?;
        self.lease_ms = lease_ms;
        Ok(())
    }

    /// Whether held locks are renewed in the background.
    pub fn set_auto_renew(&mut self, on: bool) -> Result<()> {
        self.auto_renew = on;
        Ok(())
    }

    /// How long resolving and connecting may take: from 1 ms to a day.
    pub fn set_connect_timeout_ms(&mut self, timeout_ms: u64) -> Result<()> {
        check_timeout_ms(timeout_ms)?;
        self.connect_timeout_ms = timeout_ms;
        Ok(())
    }

    /// How long the server may take to answer, and how long a call without a deadline goes on reconnecting: from 1 ms to
    /// a day.
    pub fn set_response_timeout_ms(&mut self, timeout_ms: u64) -> Result<()> {
        check_timeout_ms(timeout_ms)?;
        self.response_timeout_ms = timeout_ms;
        Ok(())
    }

    /// `Err`: no descriptor is to be had.
    pub(crate) fn store(&self) -> std::io::Result<Arc<dyn Store>> {
        Ok(match &self.target {
            Target::Memory(name) => Arc::new(MemoryStore::open(name)),
            Target::Redis(config) => Arc::new(RedisStore::new(self.timed(config))),
            #[cfg(any(target_os = "linux", target_os = "android"))]
            Target::Cluster(nodes, config) => Arc::new(ClusterStore::new(nodes.clone(), self.timed(config))),
            #[cfg(any(target_os = "linux", target_os = "android"))]
            Target::Quorum(servers) => {
                let servers = servers.iter().map(|config| self.timed(config)).collect();
                Arc::new(QuorumStore::new(servers, self.lease_ms)?)
            }
            #[cfg(not(any(target_os = "linux", target_os = "android")))]
            Target::Cluster(..) | Target::Quorum(_) => unreachable!("such a URL is refused"),
        })
    }

    fn timed(&self, config: &Config) -> Config {
        Config {
            connect_timeout: Duration::from_millis(self.connect_timeout_ms),
            response_timeout: Duration::from_millis(self.response_timeout_ms),
            ..config.clone()
        }
    }
}

/// Can this be the name or the address of a host? `Err`: what it is, without repeating it.
fn check_host(host: &str) -> std::result::Result<(), &'static str> {
    if host.is_empty() {
        return Err("must not be empty");
    }
    if host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/' || c == '@') {
        return Err("is no host name or address");
    }
    if host.contains(',') {
        return Err("has a `,`: several are named behind redis-sentinel://, redis-cluster:// or redis-quorum://");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_two_setters_wins() {
        let mut options = Options::new();
        options.set_url("memory://x").unwrap();
        options.set_port(7).unwrap();
        assert!(format!("{options:?}").contains("localhost:7"));
    }

    #[test]
    fn a_host_or_a_port_replaces_the_urls_and_nothing_else() {
        let mut options = Options::new();
        options.set_url("redis://u:p@a:1/3?client_name=c").unwrap();
        options.set_host("[::1]").unwrap();
        options.set_port(2).unwrap();
        let Target::Redis(config) = options.target else { panic!() };
        assert_eq!(config.address, Address::Tcp { host: "::1".into(), port: 2 });
        assert_eq!((config.username.as_deref(), config.database, config.client_name.as_str()), (Some("u"), 3, "c"));
        for url in ["redis-cluster://u:p@a:1,b:2", "redis-quorum://u:p@a:1,b:2,c:3"] {
            let mut options = Options::new();
            options.set_url(url).unwrap();
            options.set_port(7).unwrap();
            let Target::Redis(config) = options.target else { panic!("a port names one server") };
            assert_eq!(config.address, Address::Tcp { host: "a".into(), port: 7 });
            assert_eq!(config.username.as_deref(), Some("u"));
        }
        for url in ["redis-sentinel://u:p@a:1/m/3", "redis+unix:///s?user=u&pass=p&db=3"] {
            let mut options = Options::new();
            options.set_url(url).unwrap();
            options.set_port(7).unwrap();
            let Target::Redis(config) = options.target else { panic!("a port names one server") };
            assert_eq!(config.address, Address::Tcp { host: "localhost".into(), port: 7 });
            assert_eq!((config.username.as_deref(), config.database), (Some("u"), 3), "{url}");
        }
    }

    #[cfg(feature = "tls")]
    #[test]
    fn a_host_in_the_place_of_sentinels_is_spoken_to_with_tls_as_they_were() {
        let mut options = Options::new();
        options.set_url("rediss-sentinel://u:p@a:1/m").unwrap();
        options.set_host("b").unwrap();
        let Target::Redis(config) = options.target else { panic!("a host names one server") };
        assert!(config.tls.is_some());
    }

    #[test]
    fn a_host_that_is_a_url_is_refused_without_its_password() {
        for host in ["redis://:hunter2@host", "u:hunter2@host", ":hunter2/"] {
            let refused = Options::new().set_host(host).unwrap_err().to_string();
            assert!(refused.contains("is no host name") && !refused.contains("hunter2"), "{refused}");
        }
        let refused = Options::new().set_host("a b").unwrap_err().to_string();
        assert!(refused.contains("\"a b\" is no host name"), "{refused}");
    }
}
