//! Locks on a Redis Cluster: real nodes, real moves of slots, real failovers.

#[path = "../support/api.rs"]
#[allow(dead_code)]
mod api;
mod copies;
mod deployment;
#[path = "../support/eventually.rs"]
#[allow(dead_code)]
mod eventually;
mod failover;
mod moves;
#[path = "../support/recorder.rs"]
#[allow(dead_code)]
mod recorder;
#[path = "../support/redis_server.rs"]
#[allow(dead_code)]
mod redis_server;
#[path = "../support/replaced.rs"]
mod replaced;
mod rights;
mod steps;
mod waiting;

use api::options;
use dlock::{Lock, Locker};

/// The lock of that name, in the group `g`.
pub fn lock(locker: &Locker, name: &str) -> Lock {
    locker.lock(name, "g").unwrap_or_else(|error| panic!("{error}"))
}

/// Prompt where a server is silent.
pub fn locker(url: &str) -> Locker {
    locker_with_lease(url, 30_000)
}

pub fn locker_with_lease(url: &str, lease_ms: u64) -> Locker {
    let mut options = options(url);
    options.set_lease_ms(lease_ms).unwrap();
    options.set_response_timeout_ms(5_000).unwrap();
    Locker::new(&options).unwrap()
}
