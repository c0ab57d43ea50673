//! The whole driver: blocking calls, submitted operations and the background thread, on one server.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use uuid::Uuid;

use super::net::{Net, NetStore};
use super::{Rng, Time, explore, spawn};
use crate::WAIT_FOREVER;
use crate::driver::{Driver, poll_readable};
use crate::engine::Config;
use crate::error::Status;
use crate::event::EventKind;
use crate::lock::Lock;
use crate::queue::Queue;
use crate::store::Name;
use crate::sync::Arc;
use crate::sync::system::World;

const LEASE_MS: u64 = 3_000;
/// Connecting anew takes less; what is found by a re-check or a look around takes more.
const LOST_US: u64 = 900_000;

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

/// Blocks this thread, and no other, for so long on the checker's clock.
fn sleep(us: u64) {
    poll_readable(&[], Duration::from_micros(us));
}

/// Like [`contend`], by submitted operations, two handles at once, whose events one thread takes, in either way.
fn submit(driver: &Arc<Driver>, locks: &[(Lock, &Resource)], rng: &mut Rng, rounds: u64) {
    let queue = Queue::new(Arc::clone(driver)).expect("a queue");
    let mut left = vec![rounds; locks.len()];
    for (number, (lock, _)) in locks.iter().enumerate() {
        queue.submit_acquire(lock, WAIT_FOREVER, number as u64).expect("submitted");
    }
    while left.iter().any(|&rounds| rounds > 0) {
        let events = if rng.one_in(2) {
            poll_readable(&[queue.fd()], Duration::from_secs(3_600));
            queue.wait(1, 0).expect("events")
        } else {
            queue.wait(4, WAIT_FOREVER).expect("events")
        };
        for event in events {
            assert!(event.error.is_none(), "{event:?}");
            let number = event.user_data as usize;
            let (lock, resource) = &locks[number];
            if event.kind == EventKind::Acquire {
                resource.visit(lock);
                queue.submit_release(lock, event.user_data).expect("submitted");
                continue;
            }
            left[number] -= 1;
            if left[number] > 0 {
                queue.submit_acquire(lock, WAIT_FOREVER, event.user_data).expect("submitted");
            }
        }
    }
}

/// Submitted operations of one thread beside another's calls, on two locks.
fn submitted(world: &Arc<World>, rng: Rng, cuts: u32) {
    let net = Net::new(world, rng.clone(), cuts);
    let server = net.start();
    let driver = locker(&net, 0);
    let resources: Arc<[Resource; 2]> = Arc::default();
    let submitter = {
        let (driver, resources, mut rng) = (Arc::clone(&driver), Arc::clone(&resources), Rng(rng.0 ^ 1 << 32));
        spawn("submitter", move || {
            let locks = [0, 1].map(|n| (lock(&driver, &format!("lock {n}"), n as u64 + 1), &resources[n]));
            submit(&driver, &locks, &mut rng, 3);
        })
    };
    let caller = {
        let (driver, mut rng) = (Arc::clone(&driver), Rng(rng.0 ^ 2 << 32));
        spawn("caller", move || contend(&lock(&driver, "lock 1", 3), &resources[1], &mut rng, 2))
    };
    submitter.join().expect("the submitter");
    caller.join().expect("the caller");
    finish(&net, vec![driver]);
    net.stop(server);
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
        assert!(took < LOST_US, "it took {took} us");
    });
}

#[test]
fn submitted_operations_are_all_answered() {
    explore(300, Time::Stands, |world, rng| submitted(world, rng, 0));
}

#[test]
fn connections_that_end_lose_no_submitted_operation() {
    explore(300, Time::PassesWhenAllSleep, |world, rng| {
        let begun = world.now();
        submitted(world, rng, 3);
        let took = world.now() - begun;
        assert!(took < LOST_US, "it took {took} us");
    });
}

#[test]
fn deadlines_are_met_and_the_holder_stays_the_holder() {
    explore(300, Time::PassesWhenAllSleep, |world, mut rng| {
        let net = Net::new(world, rng.clone(), 0);
        let server = net.start();
        let drivers = [locker(&net, 0), locker(&net, 1)];
        let held = lock(&drivers[0], "lock", 1);
        held.acquire().expect("acquired");
        let waiter = |number: u64| {
            let (world, driver) = (Arc::clone(world), Arc::clone(&drivers[number as usize % 2]));
            let timeout = 100 + rng.below(2 * LEASE_MS);
            spawn("waiter", move || {
                let lock = lock(&driver, "lock", number);
                let begun = world.now();
                let answer = lock.acquire_timeout(timeout).map_err(|error| error.status);
                let took = world.now() - begun;
                assert_eq!(answer, Err(Status::LockTimeout));
                let due = timeout * 1_000;
                assert!((due..due + 50_000).contains(&took), "{took} us instead of {timeout} ms");
            })
        };
        let waiters: Vec<_> = (2..5).map(waiter).collect();
        if rng.one_in(2) {
            sleep(2 * LEASE_MS * 1_000);
        }
        for waiter in waiters {
            waiter.join().expect("a waiter");
        }
        assert!(held.remaining_ms().expect("held") > 0);
        held.release().expect("released");
        drop(held);
        finish(&net, drivers.into());
        net.stop(server);
    });
}

#[test]
fn a_cancelled_call_ends() {
    explore(300, Time::Stands, |world, rng| {
        let net = Net::new(world, rng.clone(), 0);
        let server = net.start();
        let driver = locker(&net, 0);
        let held = lock(&driver, "lock", 1);
        held.acquire().expect("acquired");
        let waiters = [2, 3].map(|number| {
            let lock = Arc::new(lock(&driver, "lock", number));
            let waits = Arc::clone(&lock);
            let waiter = spawn("waiter", move || {
                let answer = waits.acquire().map_err(|error| error.status);
                assert!(matches!(answer, Ok(()) | Err(Status::Cancelled)), "{answer:?}");
                if answer.is_ok() {
                    waits.release().expect("released");
                }
            });
            (lock, waiter)
        });
        for (lock, _) in &waiters {
            lock.cancel().expect("cancelled");
        }
        held.release().expect("released");
        for (_, waiter) in waiters {
            waiter.join().expect("a waiter");
        }
        drop(held);
        finish(&net, vec![driver]);
        net.stop(server);
    });
}

#[test]
fn a_call_that_is_cancelled_while_it_is_asked_to_drive_passes_it_on() {
    explore(300, Time::Stands, |world, rng| {
        let net = Net::new(world, rng.clone(), 0);
        let server = net.start();
        let driver = locker(&net, 0);
        let resources: Arc<[Resource; 2]> = Arc::default();
        let callers = [0, 1].map(|n| {
            let (driver, resources) = (Arc::clone(&driver), Arc::clone(&resources));
            let mut rng = Rng(rng.0 ^ (n as u64 + 1) << 32);
            spawn("caller", move || {
                contend(&lock(&driver, &format!("lock {n}"), n as u64 + 1), &resources[n], &mut rng, 3);
            })
        });
        let cancelled = Arc::new(lock(&driver, "lock", 3));
        let cancels = Arc::clone(&cancelled);
        let canceller = spawn("canceller", move || (0..4).for_each(|_| cancels.cancel().expect("cancelled")));
        for _ in 0..3 {
            match cancelled.acquire().map_err(|error| error.status) {
                Ok(()) => cancelled.release().expect("released"),
                Err(status) => assert_eq!(status, Status::Cancelled),
            }
        }
        canceller.join().expect("the canceller");
        for caller in callers {
            caller.join().expect("a caller");
        }
        drop(cancelled);
        finish(&net, vec![driver]);
        net.stop(server);
    });
}

#[test]
fn close_ends_calls_and_submitted_operations() {
    explore(300, Time::Stands, |world, rng| {
        let net = Net::new(world, rng.clone(), 0);
        let server = net.start();
        let driver = locker(&net, 0);
        let callers = [1, 2].map(|number| {
            let lock = lock(&driver, "lock", number);
            spawn("caller", move || {
                for _ in 0..2 {
                    let answer = lock.acquire().and_then(|()| lock.release()).map_err(|error| error.status);
                    assert!(matches!(answer, Ok(()) | Err(Status::Closed)), "{answer:?}");
                }
            })
        });
        let submitter = {
            let (driver, lock) = (Arc::clone(&driver), lock(&driver, "lock", 3));
            let Ok(queue) = Queue::new(driver) else { panic!("a queue") };
            spawn("submitter", move || {
                let mut expected = 0;
                loop {
                    expected += queue.submit_acquire(&lock, WAIT_FOREVER, 0).is_ok() as usize;
                    expected += queue.submit_is_locked(&lock, 0).is_ok() as usize;
                    match queue.wait(4, WAIT_FOREVER) {
                        Ok(events) => expected -= events.len(),
                        Err(error) => break assert_eq!((error.status, expected), (Status::Closed, 0)),
                    }
                    let _ = queue.submit_release(&lock, 0).map(|()| expected += 1);
                }
            })
        };
        driver.close().expect("closed");
        for caller in callers {
            caller.join().expect("a caller");
        }
        submitter.join().expect("the submitter");
        finish(&net, vec![driver]);
        net.stop(server);
    });
}
