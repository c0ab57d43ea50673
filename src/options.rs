//! Where the locks live and how long they last.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use redis::{ConnectionAddr, IntoConnectionInfo};

use crate::error::{Error, Result, Status};
use crate::store::Store;
use crate::store::memory::MemoryStore;
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

/// What a URL says.
#[derive(Clone)]
enum Target {
    Tcp { host: String, port: u16, login: Login },
    Unix { path: PathBuf, login: Login },
    Memory(String),
}

#[derive(Clone, Default)]
struct Login {
    username: Option<String>,
    password: Option<String>,
    database: i64,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = match &self.target {
            Target::Tcp { host, port, .. } => format!("{host}:{port}"),
            Target::Unix { path, .. } => path.display().to_string(),
            Target::Memory(name) => format!("memory://{name}"),
        };
        f.debug_struct("Options")
            .field("target", &target)
            .field("lease_ms", &self.lease_ms)
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
            target: Target::Tcp { host: "localhost".to_string(), port: 6379, login: Login::default() },
            lease_ms: 30_000,
            auto_renew: true,
            connect_timeout_ms: 5_000,
            response_timeout_ms: 5_000,
        }
    }

    /// The TCP target to change: what there was, or the default where a URL named no host.
    fn tcp(&mut self) -> (&mut String, &mut u16) {
        if !matches!(self.target, Target::Tcp { .. }) {
            self.target = Options::new().target;
        }
        match &mut self.target {
            Target::Tcp { host, port, .. } => (host, port),
            _ => unreachable!("made a TCP target above"),
        }
    }

    /// A host name or address.
    pub fn set_host(&mut self, host: &str) -> Result<()> {
        if host.is_empty() {
            return Err(invalid("host: must not be empty"));
        }
        if host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/' || c == '@') {
            return Err(invalid(format!("host: {host:?} is no host name or address")));
        }
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

    /// `redis://[user:password@]host[:port][/db]`, `redis+unix:///path[?db=N&user=…&pass=…]`, `memory://[name]`. The
    /// error never repeats the URL, which may hold a password.
    pub fn set_url(&mut self, url: &str) -> Result<()> {
        if url.chars().any(char::is_control) {
            return Err(invalid("url: must not contain control characters"));
        }
        self.target = parse_url(url)?;
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

    pub(crate) fn store(&self) -> Result<Arc<dyn Store>> {
        let (address, login) = match &self.target {
            Target::Memory(name) => return Ok(Arc::new(MemoryStore::open(name))),
            Target::Tcp { host, port, login } => (Address::Tcp { host: host.clone(), port: *port }, login),
            Target::Unix { path, login } => (Address::Unix(path.clone()), login),
        };
        Ok(Arc::new(RedisStore::new(Config {
            address,
            username: login.username.clone(),
            password: login.password.clone(),
            database: login.database,
            connect_timeout: Duration::from_millis(self.connect_timeout_ms),
            response_timeout: Duration::from_millis(self.response_timeout_ms),
        })))
    }
}

fn parse_url(url: &str) -> Result<Target> {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme).unwrap_or_default();
    match scheme {
        "memory" => Ok(Target::Memory(url["memory://".len()..].to_string())),
        "redis" | "redis+unix" => {
            let info = url.into_connection_info().map_err(|e| {
                // Only the parser's fixed words: its details repeat parts of the URL.
                let text = e.to_string();
                invalid(format!("url: {}", text.split(" - InvalidClientConfig").next().unwrap_or("not usable")))
            })?;
            let settings = info.redis_settings();
            let login = Login {
                username: settings.username().filter(|name| !name.is_empty()).map(str::to_string),
                password: settings.password().map(str::to_string),
                database: settings.db(),
            };
            if login.database < 0 {
                return Err(invalid("url: the database number must not be negative"));
            }
            match info.addr() {
                ConnectionAddr::Tcp(_, 0) => Err(invalid("url: the port must not be 0")),
                ConnectionAddr::Tcp(host, port) => Ok(Target::Tcp { host: host.clone(), port: *port, login }),
                ConnectionAddr::Unix(path) => Ok(Target::Unix { path: path.clone(), login }),
                _ => Err(invalid("url: must begin with redis://, redis+unix:// or memory://")),
            }
        }
        "rediss" => Err(invalid("url: rediss:// needs TLS, which is not built in")),
        _ => Err(invalid("url: must begin with redis://, redis+unix:// or memory://")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> String {
        let mut options = Options::new();
        options.set_url(url).map_or_else(|error| error.message, |()| format!("{options:?}"))
    }

    #[test]
    fn urls_name_their_target() {
        assert!(target("redis://h:7/3").contains("\"h:7\""), "{}", target("redis://h:7/3"));
        assert!(target("redis://h").contains("\"h:6379\""));
        assert!(target("redis+unix:///tmp/r.sock").contains("\"/tmp/r.sock\""));
        assert!(target("memory://x").contains("\"memory://x\""));
    }

    #[test]
    fn bad_urls_are_refused_without_their_secrets() {
        for url in [
            "",
            "h:6379",
            "http://h",
            "redis://",
            "redis://u:secret@h:99999",
            "redis://u:secret@h/x",
            "redis://h:0",
            "redis://:secret@h/-1",
            "rediss://h",
            "redis+unix://",
        ] {
            let mut options = Options::new();
            let error = options.set_url(url).expect_err(url);
            assert_eq!(error.status, Status::InvalidArgument);
            assert!(error.message.starts_with("url: ") && !error.message.contains("secret"), "{}", error.message);
        }
    }

    #[test]
    fn the_last_of_two_setters_wins() {
        let mut options = Options::new();
        options.set_url("memory://x").unwrap();
        options.set_port(7).unwrap();
        assert!(format!("{options:?}").contains("localhost:7"));
    }
}
