//! All servers are there.

use std::time::Duration;

use dlock::Status;

use crate::world::{World, eventually};

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
    for _ in 0..50 {
        a.acquire().unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| b.acquire());
            eventually("the waiter is queued", || world.queued(1) == 1);
            let begun = std::time::Instant::now();
            a.release().unwrap();
            waiting.join().unwrap().unwrap();
            eprintln!("{:?}", begun.elapsed());
        });
        b.release().unwrap();
    }
}
