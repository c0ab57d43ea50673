//! All servers are there.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dlock::Status;
use dlock::store::Store;

use crate::eventually::{PATIENCE, eventually};
use crate::redis_server::RedisServer;
use crate::world::World;

#[test]
fn a_lock_is_held_on_all_servers_and_released_on_all() {
    let world = World::new(3, 500);
    let (one, two) = (world.locker(), world.locker());
    let (a, b) = (world.handle(&one), world.handle(&two));
    a.acquire().unwrap();
    let token = a.fencing_token().unwrap();
    eventually("all servers have it", || world.holders().iter().all(|holder| holder.is_some()));
    assert!(!b.try_acquire().unwrap());
    assert!(b.is_locked().unwrap());
    assert!(!b.is_locked_by_me().unwrap());
    assert!(a.is_locked_by_me().unwrap());
    assert_eq!(b.acquire_timeout(50).unwrap_err().status, Status::LockTimeout);
    std::thread::sleep(Duration::from_millis(1200)); // more than two leases: only renewals keep it
    assert!(a.remaining_ms().unwrap() > 0);
    a.release().unwrap();
    eventually("no server has it", || world.holders().iter().all(|holder| holder.is_none()));
    assert!(b.try_acquire().unwrap());
    assert!(b.fencing_token().unwrap() > token);
    b.release().unwrap();
}

#[test]
fn a_waiter_is_woken_by_the_release() {
    let world = World::new(3, 1_000);
    let (one, two) = (world.locker(), world.locker());
    let (a, b) = (world.handle(&one), world.handle(&two));
    for _ in 0..20 {
        a.acquire().unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| b.acquire());
            eventually("the waiter is queued", || world.queued(1) == 1);
            a.release().unwrap();
            waiting.join().unwrap().unwrap();
        });
        b.release().unwrap();
    }
}

#[test]
fn waiters_are_served_in_the_order_of_their_arrival() {
    let world = World::new(3, 1_000);
    let lockers: Vec<_> = (0..4).map(|_| world.locker()).collect();
    let first = world.handle(&lockers[0]);
    first.acquire().unwrap();
    let order = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for waiter in 0..8 {
            let (lock, order) = (world.handle(&lockers[waiter % lockers.len()]), &order);
            scope.spawn(move || {
                lock.acquire().unwrap();
                order.lock().unwrap().push(waiter);
                lock.release().unwrap();
            });
            eventually("it is queued everywhere", || (0..3).all(|server| world.queued(server) == waiter + 1));
        }
        first.release().unwrap();
    });
    assert_eq!(*order.lock().unwrap(), Vec::from_iter(0..8));
}

/// However far the counters are apart: who comes later gets a place behind those who wait.
#[test]
fn a_waiter_brings_the_counters_of_all_servers_to_its_place() {
    let world = World::new(3, 1_000);
    let (one, two) = (world.locker(), world.locker());
    let (holder, waiter) = (world.handle(&one), world.handle(&two));
    holder.acquire().unwrap();
    eventually("all servers count", || (0..3).all(|server| world.counts(server)));
    let ahead = holder.fencing_token().unwrap() + 1_000_000_000_000;
    // Whichever majority answers its try, one of these is among it.
    world.servers[..2].iter().for_each(|server| server.cmd::<()>(&["SET", ":dlock:fence", &ahead.to_string()]));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| waiter.acquire_timeout(PATIENCE.as_millis() as u64));
        eventually("it is queued everywhere", || (0..3).all(|server| world.queued(server) == 1));
        for server in &world.servers {
            let counter: u64 = server.cmd(&["GET", ":dlock:fence"]);
            assert!(counter > ahead, "{counter} at {}", server.port());
        }
        holder.release().unwrap();
        waiting.join().unwrap().unwrap();
    });
    assert!(waiter.fencing_token().unwrap() > ahead);
    waiter.release().unwrap();
}

#[test]
fn a_subscription_that_is_lost_at_one_server_is_made_anew() {
    let world = World::new(3, 200);
    let store = world.store();
    let mut subscription = store.subscribe(":dlock:wake:healthy", Arc::new(|| {})).unwrap();
    let mut pushes = Vec::new();
    for _ in 0..2 {
        eventually("all servers are subscribed to", || {
            subscription.receive(&mut pushes).unwrap();
            let read = |server: &RedisServer| !server.cmd::<Vec<String>>(&["PUBSUB", "CHANNELS"]).is_empty();
            world.servers.iter().all(read)
        });
        world.servers[1].cmd::<()>(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    }
}
