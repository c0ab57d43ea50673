//! The ten invariants of `docs/protocol.md`, one test or more for each, named in its words. Each runs against a real
//! server (`DLOCK_TEST_SERVER`, else `redis-server` from the PATH); against `memory://` where it applies: a store in the
//! process loses no reply, no connection and no script; and, where it does, against a cluster, of one node. (What happens
//! between nodes is in `tests/cluster/`.)
//!
//! Every test has a server of its own. Where an invariant is about a bad network, a proxy between client and server
//! makes it (`tests/support/proxy.rs`).

#[path = "../support/eventually.rs"]
#[allow(dead_code)]
mod eventually;
#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/redis_server.rs"]
#[allow(dead_code)]
mod redis_server;
mod world;

mod exclusion;
mod leftovers;
mod replies;
mod tokens;
mod waiters;

/// A test on each kind of store.
macro_rules! on_each {
    ($($redis:ident, $memory:ident $(, $cluster:ident)? => $body:path;)*) => {
        $(
            #[test]
            fn $redis() {
                $body(&crate::world::World::redis());
            }

            #[test]
            fn $memory() {
                $body(&crate::world::World::memory());
            }

            $(#[test]
            fn $cluster() {
                $body(&crate::world::World::cluster());
            })?
        )*
    };
}
pub(crate) use on_each;
