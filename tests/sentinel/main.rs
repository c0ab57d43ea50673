//! `redis-sentinel://` on a real deployment: three sentinels, a primary and two replicas. What a lock goes through when the
//! primary is killed, stopped, or replaced by hand; what a sentinel that does not answer costs; what is said when it fails.

#[path = "../conformance/bench.rs"]
#[allow(dead_code)]
mod bench;
mod deployment;
#[path = "../support/eventually.rs"]
#[allow(dead_code)]
mod eventually;
mod failover;
#[path = "../support/pki.rs"]
#[allow(dead_code)]
mod pki;
#[path = "../support/recorder.rs"]
mod recorder;
#[path = "../support/redis_server.rs"]
#[allow(dead_code)]
mod redis_server;
mod refusals;
#[path = "../support/replaced.rs"]
mod replaced;
#[path = "../conformance/scenarios.rs"]
#[allow(dead_code)]
mod scenarios;
mod steps;
#[path = "../conformance/target.rs"]
#[allow(dead_code)]
mod target;
mod two_primaries;

use dlock::{Lock, Locker, Options};

fn options(url: &str) -> Options {
    let mut options = Options::new();
    options.set_url(url).unwrap_or_else(|error| panic!("{url}: {error}"));
    options.set_connect_timeout_ms(5_000).unwrap();
    options.set_response_timeout_ms(5_000).unwrap();
    options
}

fn locker(url: &str) -> Locker {
    Locker::new(&options(url)).unwrap()
}

/// One whose leases are that long.
fn locker_with_lease(url: &str, lease_ms: u64) -> Locker {
    let mut options = options(url);
    options.set_lease_ms(lease_ms).unwrap();
    Locker::new(&options).unwrap()
}

fn lock(locker: &Locker, name: &str) -> Lock {
    locker.lock(name, "g").unwrap_or_else(|error| panic!("{error}"))
}
