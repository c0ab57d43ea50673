//! The servers of a quorum for one test, and what is done to them.

use dlock::store::name::FENCE;
use dlock::store::quorum::QuorumStore;
use dlock::store::redis::{Address, Config};
use dlock::store::{Name, TOKEN_FLOOR};
use dlock::{Lock, Locker, Options};

use crate::redis_server::RedisServer;

/// The lock of most tests.
pub const GROUP: &str = "g";
pub const NAME: &str = "n";

pub struct World {
    pub servers: Vec<RedisServer>,
    pub lease_ms: u64,
}

impl World {
    /// So many servers, for lockers with leases of that length. New servers do not count before they are that old.
    pub fn new(servers: usize, lease_ms: u64) -> Self {
        Self::with(servers, lease_ms, &[])
    }

    /// With further arguments for the servers.
    pub fn with(servers: usize, lease_ms: u64, arguments: &[&str]) -> Self {
        World { servers: (0..servers).map(|_| RedisServer::start(arguments)).collect(), lease_ms }
    }

    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.servers.iter().map(|server| format!("127.0.0.1:{}", server.port())).collect();
        format!("redis-quorum://{}", hosts.join(","))
    }

    pub fn options(&self) -> Options {
        let mut options = Options::new();
        options.set_url(&self.url()).unwrap();
        options.set_lease_ms(self.lease_ms).unwrap();
        options
    }

    pub fn locker(&self) -> Locker {
        Locker::new(&self.options()).expect("a locker")
    }

    /// The store beneath a locker.
    pub fn store(&self) -> QuorumStore {
        let config = |server: &RedisServer| Config::new(Address::Tcp { host: "127.0.0.1".into(), port: server.port() });
        QuorumStore::new(self.servers.iter().map(config).collect(), self.lease_ms).unwrap()
    }

    /// A handle of the lock that the tests compete for.
    pub fn handle(&self, locker: &Locker) -> Lock {
        locker.lock(NAME, GROUP).unwrap_or_else(|error| panic!("{error}"))
    }

    /// What the lock's key holds at each server that answers.
    pub fn holders(&self) -> Vec<Option<String>> {
        let name = Name::new(NAME, GROUP).unwrap();
        self.servers.iter().map(|server| server.cmd(&["GET", name.key()])).collect()
    }

    /// Does that server count?
    pub fn counts(&self, server: usize) -> bool {
        let counter = self.servers[server].cmd::<Option<u64>>(&["GET", FENCE]);
        counter.is_some_and(|counter| counter >= TOKEN_FLOOR)
    }

    /// Has that server stand still until the value is dropped.
    pub fn stop(&self, server: usize) -> Stopped {
        let pid = self.servers[server].pid() as libc::pid_t;
        // SAFETY: a plain system call; the process is a child of ours.
        unsafe { libc::kill(pid, libc::SIGSTOP) };
        Stopped(pid)
    }

    pub fn queued(&self, server: usize) -> usize {
        let name = Name::new(NAME, GROUP).unwrap();
        self.servers[server].cmd(&["ZCARD", name.waiters()])
    }
}

/// A server that stands still.
pub struct Stopped(libc::pid_t);

impl Drop for Stopped {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { libc::kill(self.0, libc::SIGCONT) };
    }
}
