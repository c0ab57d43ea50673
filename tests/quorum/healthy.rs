//! All servers are there.

use std::sync::Mutex;
use std::time::Duration;

use dlock::Status;

use crate::eventually::eventually;
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
