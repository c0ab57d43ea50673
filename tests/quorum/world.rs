//! The servers of a quorum for one test, and what is done to them.

use std::time::{Duration, Instant};

use dlock::store::Name;
use dlock::{Lock, Locker, Options};

use crate::redis_server::RedisServer;

/// The lock of most tests.
pub const GROUP: &str = "g";
pub const NAME: &str = "n";
/// Nothing that a test waits for takes longer, on however busy a machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct World {
    pub servers: Vec<RedisServer>,
    pub lease_ms: u64,
}

impl World {
    /// So many servers, for lockers with leases of that length. New servers do not count before they are that old.
    pub fn new(servers: usize, lease_ms: u64) -> Self {
        World { servers: (0..servers).map(|_| RedisServer::start(&[])).collect(), lease_ms }
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

    /// A handle of the lock that the tests compete for.
    pub fn handle(&self, locker: &Locker) -> Lock {
        locker.lock(NAME, GROUP).unwrap_or_else(|error| panic!("{error}"))
    }

    /// What the lock's key holds at each server that answers.
    pub fn holders(&self) -> Vec<Option<String>> {
        let name = Name::new(NAME, GROUP).unwrap();
        self.servers.iter().map(|server| server.cmd(&["GET", name.key()])).collect()
    }

    pub fn queued(&self, server: usize) -> usize {
        let name = Name::new(NAME, GROUP).unwrap();
        self.servers[server].cmd(&["ZCARD", name.waiters()])
    }
}

#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
