//! Invariants 1, 3 and 4: never two holders, a holder that knows, a release that frees nobody else's lock.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dlock::{Lock, Locker, Status};

use crate::eventually::eventually;
use crate::on_each;
use crate::proxy::Direction;
use crate::world::{GROUP, NAME, World, handle, locker_behind, options_behind, start, start_acquire, start_waiting};

/// Who believes to hold the lock, and the highest token that anybody held it with.
#[derive(Default)]
struct Register {
    holders: HashMap<usize, Arc<Lock>>,
    token: u64,
}

impl Register {
    /// `lock` has just been acquired. Two that are both valid at one instant, each by its own view, are a violation.
    fn enter(&mut self, contender: usize, lock: &Arc<Lock>) {
        let others: Vec<usize> =
            self.holders.iter().filter(|(_, l)| l.remaining_ms().is_ok()).map(|(c, _)| *c).collect();
        // Asked after the others: what is valid now was valid then.
        if let Ok(token) = lock.fencing_token() {
            assert!(others.is_empty(), "{contender} and {others:?} hold the lock at once");
            assert!(token > self.token, "token {token} after {}", self.token);
            self.token = token;
        }
        self.holders.insert(contender, Arc::clone(lock));
    }

    fn leave(&mut self, contender: usize) {
        self.holders.remove(&contender);
    }
}

const THREADS_PER_LOCKER: usize = 4;
const ACQUISITIONS: usize = 3_000;
const SHORT_LEASE_MS: u64 = 200;

fn contend(contender: usize, lock: Arc<Lock>, register: &Mutex<Register>, left: &AtomicUsize) {
    while left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
        lock.acquire().expect("an acquire without a deadline");
        register.lock().unwrap().enter(contender, &lock);
        if left.load(Ordering::SeqCst).is_multiple_of(500) {
            // Beyond the lease: only renewal keeps the lock.
            std::thread::sleep(Duration::from_millis(SHORT_LEASE_MS * 2));
        }
        register.lock().unwrap().leave(contender);
        let valid = lock.remaining_ms().is_ok();
        match lock.release() {
            Ok(()) => {}
            // On a machine so busy that a lease ran out, the holder is told.
            Err(error) => {
                let told = matches!(error.status, Status::Lost | Status::NotOwner | Status::UnlockUnlocked);
                assert!(told && lock.remaining_ms().is_err(), "{error} (valid before: {valid})");
            }
        }
    }
}

fn many_contend(world: &World) {
    let lockers = [world.locker(SHORT_LEASE_MS), world.locker(SHORT_LEASE_MS)];
    let register = Mutex::new(Register::default());
    let left = AtomicUsize::new(ACQUISITIONS);
    std::thread::scope(|scope| {
        for contender in 0..2 * THREADS_PER_LOCKER {
            let lock = handle(&lockers[contender % 2]);
            let (register, left) = (&register, &left);
            scope.spawn(move || contend(contender, lock, register, left));
        }
    });
    assert!(register.into_inner().unwrap().holders.is_empty());
    world.wait_clean();
}

on_each! {
    invariant_1_never_two_acquisitions_valid_at_once_on_redis,
    invariant_1_never_two_acquisitions_valid_at_once_in_memory,
    invariant_1_never_two_acquisitions_valid_at_once_in_a_cluster => many_contend;
}

#[test]
fn invariant_1_a_holder_cut_off_beyond_its_lease_and_its_successor_are_never_valid_at_once_on_redis() {
    let world = World::redis();
    let proxy = world.proxy();
    let (cut_off, direct) = (locker_behind(&proxy, 600), world.locker(600));
    let (first, second) = (handle(&cut_off), handle(&direct));
    first.acquire().unwrap();
    let waiting = start_waiting(&world, &second, 0);
    let queue = cut_off.queue().unwrap();
    first.watch(&queue, 7).unwrap();
    proxy.set_black_hole(true);
    // The view is read on the thread that was blocked, at once.
    waiting.answer("the waiter gets the lock when the lease is over").0.unwrap();
    let view = first.remaining_ms();
    assert!(second.remaining_ms().is_ok());
    assert_eq!(view.unwrap_err().status, Status::Lost);
    assert_eq!(first.fencing_token().unwrap_err().status, Status::Lost);
    let lost = queue.wait(1, 1_000).unwrap();
    assert_eq!((lost.len(), lost[0].user_data), (1, 7), "the holder is told");
    proxy.set_black_hole(false);
    // What it sends now, renewals kept back on the way included, does the other no harm.
    let error = first.release().unwrap_err();
    assert_eq!(error.status, Status::NotOwner, "{error}");
    assert!(second.is_locked_by_me().unwrap());
    second.release().unwrap();
}

/// A second locker takes the lock in the instant in which the store lets it; the first must know by then.
fn successor_and_view(first: &Arc<Lock>, second: &Locker) {
    let second = handle(second);
    assert!(first.remaining_ms().is_ok());
    eventually("the lease ends", || second.try_acquire().unwrap());
    let view = first.remaining_ms();
    assert_eq!(view.map_err(|error| error.status), Err(Status::Lost));
    second.release().unwrap();
}

fn unrenewed(world: &World) {
    let (first, second) = (world.locker_without_renewal(300), world.locker(30_000));
    for _ in 0..5 {
        let lock = handle(&first);
        lock.acquire().unwrap();
        successor_and_view(&lock, &second);
    }
}

on_each! {
    invariant_3_a_holder_knows_that_it_lost_the_lock_before_another_can_have_it_on_redis,
    invariant_3_a_holder_knows_that_it_lost_the_lock_before_another_can_have_it_in_memory,
    invariant_3_a_holder_knows_that_it_lost_the_lock_before_another_can_have_it_in_a_cluster => unrenewed;
}

/// Requests and replies each take a while, so that the lease that the server counts begins well before the reply comes.
#[test]
fn invariant_3_a_holder_cut_off_on_a_slow_network_knows_before_another_can_have_the_lock_on_redis() {
    let world = World::redis();
    let proxy = world.proxy();
    let (slow, direct) = (locker_behind(&proxy, 1_500), world.locker(30_000));
    for _ in 0..2 {
        let lock = handle(&slow);
        proxy.set_delay(Direction::Replies, Duration::from_millis(100));
        proxy.set_delay(Direction::Requests, Duration::from_millis(20));
        lock.acquire().unwrap();
        // Until a renewal was answered.
        let mut lowest = u64::MAX;
        eventually("a renewal", || {
            let remaining = lock.remaining_ms().unwrap();
            lowest = lowest.min(remaining);
            remaining > lowest
        });
        proxy.set_black_hole(true);
        successor_and_view(&lock, &direct);
        proxy.set_delay(Direction::Replies, Duration::ZERO);
        proxy.set_delay(Direction::Requests, Duration::ZERO);
        proxy.set_black_hole(false);
    }
}

/// By a hand-off, the claim lease counts, and from before the message (rule 3).
#[test]
fn invariant_3_a_waiter_cut_off_after_its_hand_off_knows_before_another_can_have_the_lock_on_redis() {
    let world = World::redis();
    let proxy = world.proxy();
    let (slow, direct) = (locker_behind(&proxy, 1_000), world.locker(30_000));
    let (holder, waiter) = (handle(&direct), handle(&slow));
    holder.acquire().unwrap();
    let waiting = start_waiting(&world, &waiter, 0);
    proxy.set_delay(Direction::Replies, Duration::from_millis(150));
    // Renewals and re-checks are kept back from now on; the message is not.
    proxy.set_silent(Direction::Requests, true);
    holder.release().unwrap();
    let second = handle(&direct);
    eventually("the claim ends", || second.try_acquire().unwrap());
    assert!(waiter.remaining_ms().is_err(), "the claim is over, and the waiter relies on it");
    second.release().unwrap();
    proxy.set_delay(Direction::Replies, Duration::ZERO);
    proxy.set_silent(Direction::Requests, false);
    // It may have returned and then lost the lock, or not have dared to return, and got it later.
    waiting.answer("the waiter").0.unwrap();
}

fn release_after_loss(world: &World) {
    let (first, second) = (world.locker_without_renewal(200), world.locker(30_000));
    let (lost, theirs) = (handle(&first), handle(&second));
    lost.acquire().unwrap();
    eventually("the lease ends", || theirs.try_acquire().unwrap());
    let held = world.holder();
    assert!(held.as_ref().is_some_and(|held| held.starts_with(&theirs.id().unwrap().to_string())));
    assert_eq!(lost.release().unwrap_err().status, Status::NotOwner);
    assert_eq!(world.holder(), held);
    assert_eq!(lost.release().unwrap_err().status, Status::NotOwner);
    // One that never held it, one that is dropped, one that was lost and acquires in vain.
    assert_eq!(handle(&first).release().unwrap_err().status, Status::NotOwner);
    assert!(!lost.try_acquire().unwrap());
    assert_eq!(lost.acquire_timeout(50).unwrap_err().status, Status::LockTimeout);
    drop(lost);
    first.close().unwrap();
    assert_eq!(world.holder(), held);
    assert!(theirs.is_locked_by_me().unwrap() && theirs.remaining_ms().is_ok());
    theirs.release().unwrap();
    world.wait_clean();
}

on_each! {
    invariant_4_a_release_never_frees_someone_elses_lock_on_redis,
    invariant_4_a_release_never_frees_someone_elses_lock_in_memory,
    invariant_4_a_release_never_frees_someone_elses_lock_in_a_cluster => release_after_loss;
}

/// The network keeps a release back until its connection is long dead, and delivers it then.
#[test]
fn invariant_4_a_release_delayed_in_a_dead_connection_frees_no_later_acquisition_on_redis() {
    let world = World::redis();
    let proxy = world.proxy();
    let mut options = options_behind(&proxy, 30_000);
    options.set_response_timeout_ms(300).unwrap();
    let locker = Locker::new(&options).unwrap();
    let other_locker = world.locker(30_000);
    for of_the_same_handle in [true, false] {
        let lock = handle(&locker);
        lock.acquire().unwrap();
        proxy.freeze_requests();
        // Repeated on another connection after the response timeout.
        lock.release().unwrap();
        let next = if of_the_same_handle { Arc::clone(&lock) } else { handle(&other_locker) };
        next.acquire().unwrap();
        let held = world.holder();
        assert!(held.is_some());
        proxy.thaw_requests_of_dead_connections();
        assert_eq!(world.holder(), held, "the later acquisition is untouched");
        assert!(next.is_locked_by_me().unwrap() && next.remaining_ms().is_ok());
        next.release().unwrap();
        world.wait_clean();
    }
}

/// The same with somebody in the queue: the delayed release hands nothing on.
#[test]
fn invariant_4_a_delayed_release_hands_nothing_on_a_second_time_on_redis() {
    let world = World::redis();
    let proxy = world.proxy();
    let mut options = options_behind(&proxy, 30_000);
    options.set_response_timeout_ms(300).unwrap();
    let locker = Locker::new(&options).unwrap();
    let others = world.locker(30_000);
    let (lock, second, third) = (handle(&locker), handle(&others), handle(&others));
    lock.acquire().unwrap();
    let second_waits = start_waiting(&world, &second, 0);
    let third_waits = start_waiting(&world, &third, 1);
    proxy.freeze_requests();
    let releasing = {
        let lock = Arc::clone(&lock);
        start(move || lock.release())
    };
    releasing.answer("the release, repeated on another connection").0.unwrap();
    second_waits.answer("the first waiter is handed the lock").0.unwrap();
    proxy.thaw_requests_of_dead_connections();
    assert!(second.is_locked_by_me().unwrap());
    assert!(!third_waits.is_over());
    let late = others.lock(NAME, GROUP).unwrap();
    assert!(!late.try_acquire().unwrap());
    second.release().unwrap();
    third_waits.answer("the second waiter is handed the lock").0.unwrap();
    third.release().unwrap();
    let again = start_acquire(&lock);
    again.answer("free again").0.unwrap();
    lock.release().unwrap();
    world.wait_clean();
}
