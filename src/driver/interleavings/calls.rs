//! The whole driver: blocking calls, submitted operations and the background thread, on one server.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use uuid::Uuid;

use super::net::{Net, NetStore};
use super::{Rng, Time, explore, spawn};
use crate::driver::Driver;
use crate::engine::Config;
use crate::error::Status;
use crate::lock::Lock;
use crate::queue::{EventKind, Queue};
use crate::store::Name;
use crate::sync::Arc;
use crate::sync::system::World;

const LEASE_MS: u64 = 3_000;

fn locker(net: &Arc<Net>, number: u64) -> Arc<Driver> {
    let channel = format!("channel {number}").into();
    let config = Config { lease_ms: LEASE_MS, auto_renew: true, response_timeout_ms: 5_000, channel, seed: number };
    Driver::new(Arc::new(NetStore(Arc::clone(net))), config).expect("descriptors are not limited")
}

fn lock(driver: &Arc<Driver>, name: &str, owner: u64) -> Lock {
    let (name, owner) = (Name::new(name, "group").expect("a name"), Uuid::from_u128(owner.into()));
    let handle = driver.open(Arc::new(name), owner).expect("open");
    let lock = Lock::new(Arc::clone(driver), handle, owner);
    driver.ensure_connected().expect("connected");
    lock
}

/// What one lock protects: one at a time, in the order of the tokens.
#[derive(Default)]
struct Resource {
    taken: AtomicBool,
    token: AtomicU64,
}

impl Resource {
    fn visit(&self, lock: &Lock) {
        let token = lock.fencing_token().expect("held");
        assert!(!self.taken.swap(true, Ordering::SeqCst), "two holders");
        assert!(self.token.swap(token, Ordering::SeqCst) < token, "the token fell");
        shuttle::thread::yield_now();
        self.taken.store(false, Ordering::SeqCst);
    }
}

/// One thread's life: acquires and releases, now and then with another question between.
fn contend(lock: &Lock, resource: &Resource, rng: &mut Rng, rounds: u64) {
    for _ in 0..rounds {
        lock.acquire().expect("acquired");
        resource.visit(lock);
        if rng.one_in(3) {
            assert!(lock.is_locked_by_me().expect("asked"));
        }
        lock.release().expect("released");
    }
}

/// So many lockers with so many threads each, on so many locks.
fn many(world: &Arc<World>, rng: Rng, cuts: u32, (lockers, threads, locks): (u64, u64, u64), rounds: u64) {
    let net = Net::new(world, rng.clone(), cuts);
    let server = net.start();
    let drivers: Vec<_> = (0..lockers).map(|number| locker(&net, number)).collect();
    let resources: Arc<Vec<Resource>> = Arc::new((0..locks).map(|_| Resource::default()).collect());
    let thread = |number: u64| {
        let (driver, resources) = (Arc::clone(&drivers[(number % lockers) as usize]), Arc::clone(&resources));
        let mut rng = Rng(rng.0 ^ (number + 1) << 32);
        spawn("caller", move || {
            let which = number / lockers % locks;
            let lock = lock(&driver, &format!("lock {which}"), number + 1);
            contend(&lock, &resources[which as usize], &mut rng, rounds);
        })
    };
    let callers: Vec<_> = (0..lockers * threads).map(thread).collect();
    for caller in callers {
        caller.join().expect("a caller");
    }
    finish(&net, drivers);
    net.stop(server);
}

/// Closes everything; nothing may be left.
fn finish(net: &Arc<Net>, drivers: Vec<Arc<Driver>>) {
    for driver in drivers {
        driver.shut_down();
    }
    assert_eq!(net.keys(), Vec::<String>::new(), "left on the server");
}

#[test]
fn calls_on_one_connection_are_all_answered() {
    explore(300, Time::Stands, |world, rng| many(world, rng, 0, (1, 3, 3), 2));
}

#[test]
fn waiters_of_one_locker_are_all_served() {
    explore(300, Time::Stands, |world, rng| many(world, rng, 0, (1, 3, 1), 2));
}

#[test]
fn waiters_of_two_lockers_are_all_served() {
    explore(300, Time::Stands, |world, rng| many(world, rng, 0, (2, 2, 1), 2));
}

#[test]
fn connections_that_end_lose_no_call() {
    explore(300, Time::PassesWhenAllSleep, |world, rng| {
        let begun = world.now();
        many(world, rng, 3, (2, 2, 1), 2);
        let took = world.now() - begun;
        assert!(took < 1_500_000, "it took {took} us");
    });
}
