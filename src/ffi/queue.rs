//! Completion queues: submitting, and collecting events.

use std::ffi::c_int;

use super::error::{dlock_error, dlock_status};
use super::event::dlock_event;
use super::guard::{self, Out, given};
use super::lock::dlock_lock;
use super::locker::dlock_locker;
use crate::error::{Error, Result, Status};
use crate::queue::Queue;

/// Collects what submitted operations answer: waiting for many locks without a thread for each.
///
/// May be used from any thread, by many at once. May outlive its locker.
pub struct dlock_queue(pub(super) Queue);

/// Makes a completion queue for the locks of `locker`. `out` gets it, to be freed with dlock_queue_free().
///
/// Never blocks. Any thread. Returns:
/// - `DLOCK_OK`
/// - `DLOCK_ERR_LOCKER`: the system has no descriptor left.
/// - `DLOCK_ERR_CLOSED`: the locker is closed.
/// - `DLOCK_ERR_INVALID_ARGUMENT`: `locker` or `out` is NULL.
/// - `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_queue_new(
    locker: Option<&dlock_locker>,
    out: *mut *mut dlock_queue,
    err: *mut dlock_error,
) -> dlock_status {
    // SAFETY: `out` and `err` are the caller's, as the header says.
    unsafe {
        guard::call(err, || {
            let locker = given("locker", locker)?;
            let out = Out::new("out", out)?;
            out.give(dlock_queue(locker.0.queue()?));
            Ok(())
        })
    }
}

/// Frees a queue. NULL is fine. What is pending is cancelled without an event. Events not taken are gone, and a lock
/// whose acquisition is among them, or comes in that instant, is handed on. Watches end.
///
/// Never blocks. Any thread. No call that takes this queue may be running, dlock_queue_wait() included.
#[unsafe(no_mangle)]
pub extern "C" fn dlock_queue_free(queue: Option<Box<dlock_queue>>) {
    guard::plain((), || drop(queue));
}

/// Starts what dlock_lock_acquire_timeout() does, and returns at once. With `DLOCK_WAIT_FOREVER` as `timeout_ms`
/// (milliseconds) it is what dlock_lock_acquire() does.
///
/// The event is of kind `DLOCK_EVENT_ACQUIRE`, with `user_data`; its status is what the blocking call would return, its
/// `token` the fencing token of the lock acquired.
///
/// This holds for every dlock_submit function: a submission that returned `DLOCK_OK` ends in exactly one event, any
/// other in none. Until the event of an acquire or a release is there, the handle is in use. The event may be there
/// before this returns.
///
/// Never blocks. Any thread, one at a time for a lock. Returns:
/// - `DLOCK_OK`: submitted.
/// - `DLOCK_ERR_LOCKER`: the system has no thread left.
/// - `DLOCK_ERR_CLOSED`: the locker is closed.
/// - `DLOCK_ERR_BUSY`: another call is using this handle.
/// - `DLOCK_ERR_INVALID_ARGUMENT`: `queue` or `lock` is NULL, or they belong to different lockers.
/// - `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_submit_acquire(
    queue: Option<&dlock_queue>,
    lock: Option<&dlock_lock>,
    timeout_ms: u64,
    user_data: u64,
    err: *mut dlock_error,
) -> dlock_status {
    // SAFETY: `err` is the caller's, as the header says.
    unsafe {
        guard::call(err, || given("queue", queue)?.0.submit_acquire(&given("lock", lock)?.0, timeout_ms, user_data))
    }
}

/// Starts what dlock_lock_try_acquire() does, and returns at once.
///
/// The event is of kind `DLOCK_EVENT_TRY_ACQUIRE`, with `user_data`; its `flag` says whether the lock was acquired, its
/// `token` with which fencing token.
///
/// Blocks, threads, statuses: as dlock_submit_acquire().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_submit_try_acquire(
    queue: Option<&dlock_queue>,
    lock: Option<&dlock_lock>,
    user_data: u64,
    err: *mut dlock_error,
) -> dlock_status {
    // SAFETY: `err` is the caller's, as the header says.
    unsafe { guard::call(err, || given("queue", queue)?.0.submit_try_acquire(&given("lock", lock)?.0, user_data)) }
}

/// Starts what dlock_lock_acquire_retry_backoff() does, with the same `retries` and `initial_backoff_ms`
/// (milliseconds), and returns at once.
///
/// The event is of kind `DLOCK_EVENT_ACQUIRE_RETRY_BACKOFF`, with `user_data`; its `token` is the fencing token of the
/// lock acquired.
///
/// Blocks, threads, statuses: as dlock_submit_acquire().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_submit_acquire_retry_backoff(
    queue: Option<&dlock_queue>,
    lock: Option<&dlock_lock>,
    retries: u32,
    initial_backoff_ms: u64,
    user_data: u64,
    err: *mut dlock_error,
) -> dlock_status {
    // SAFETY: `err` is the caller's, as the header says.
    unsafe {
        guard::call(err, || {
            let (queue, lock) = (given("queue", queue)?, given("lock", lock)?);
            queue.0.submit_acquire_retry_backoff(&lock.0, retries, initial_backoff_ms, user_data)
        })
    }
}

/// Starts what dlock_lock_release() does, and returns at once.
///
/// The event is of kind `DLOCK_EVENT_RELEASE`, with `user_data`.
///
/// Blocks, threads, statuses: as dlock_submit_acquire().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_submit_release(
    queue: Option<&dlock_queue>,
    lock: Option<&dlock_lock>,
    user_data: u64,
    err: *mut dlock_error,
) -> dlock_status {
    // SAFETY: `err` is the caller's, as the header says.
    unsafe { guard::call(err, || given("queue", queue)?.0.submit_release(&given("lock", lock)?.0, user_data)) }
}

/// Starts what dlock_lock_is_locked() does, and returns at once.
///
/// The event is of kind `DLOCK_EVENT_IS_LOCKED`, with `user_data`; its `flag` is the answer.
///
/// Blocks, threads, statuses: as dlock_submit_acquire().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_submit_is_locked(
    queue: Option<&dlock_queue>,
    lock: Option<&dlock_lock>,
    user_data: u64,
    err: *mut dlock_error,
) -> dlock_status {
    // SAFETY: `err` is the caller's, as the header says.
    unsafe { guard::call(err, || given("queue", queue)?.0.submit_is_locked(&given("lock", lock)?.0, user_data)) }
}

/// Starts what dlock_lock_is_locked_by_me() does, and returns at once.
///
/// The event is of kind `DLOCK_EVENT_IS_LOCKED_BY_ME`, with `user_data`; its `flag` is the answer.
///
/// Blocks, threads, statuses: as dlock_submit_acquire().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_submit_is_locked_by_me(
    queue: Option<&dlock_queue>,
    lock: Option<&dlock_lock>,
    user_data: u64,
    err: *mut dlock_error,
) -> dlock_status {
    // SAFETY: `err` is the caller's, as the header says.
    unsafe { guard::call(err, || given("queue", queue)?.0.submit_is_locked_by_me(&given("lock", lock)?.0, user_data)) }
}

/// Starts what dlock_lock_owner() does, and returns at once.
///
/// The event is of kind `DLOCK_EVENT_OWNER`, with `user_data`; its `flag` says whether anybody holds the lock, its
/// `owner` who.
///
/// Blocks, threads, statuses: as dlock_submit_acquire().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_submit_owner(
    queue: Option<&dlock_queue>,
    lock: Option<&dlock_lock>,
    user_data: u64,
    err: *mut dlock_error,
) -> dlock_status {
    // SAFETY: `err` is the caller's, as the header says.
    unsafe { guard::call(err, || given("queue", queue)?.0.submit_owner(&given("lock", lock)?.0, user_data)) }
}

/// Takes finished operations out of the queue, the oldest first; waits for the first of them.
///
/// `events` is an array of `capacity` (at least 1) structs of the caller; `count` gets how many were written.
/// `timeout_ms` is in milliseconds: 0 only looks, `DLOCK_WAIT_FOREVER` has no deadline. Nothing finished in that time
/// is no error: `DLOCK_OK` with a count of 0.
///
/// Blocks until something is finished, at most for `timeout_ms`. Any thread, also many at once: each event goes to one
/// of them. Returns:
/// - `DLOCK_OK`: see `count`.
/// - `DLOCK_ERR_CLOSED`: the locker is closed, and no event is left to take.
/// - `DLOCK_ERR_INVALID_ARGUMENT`: `queue`, `events` or `count` is NULL, or `capacity` is 0.
/// - `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_queue_wait(
    queue: Option<&dlock_queue>,
    events: *mut dlock_event,
    capacity: usize,
    timeout_ms: u64,
    count: *mut usize,
    err: *mut dlock_error,
) -> dlock_status {
    // SAFETY: `events`, `count` and `err` are the caller's, as the header says.
    unsafe {
        guard::call(err, || {
            let queue = given("queue", queue)?;
            let count = Out::new("count", count)?;
            count.set(collect(&queue.0, events, capacity, timeout_ms)?);
            Ok(())
        })
    }
}

/// Fills the caller's array; returns how many there are.
///
/// # Safety
/// `events` is NULL or valid for writing `capacity` events.
unsafe fn collect(queue: &Queue, events: *mut dlock_event, capacity: usize, timeout_ms: u64) -> Result<usize> {
    if capacity == 0 {
        return Err(Error::new(Status::InvalidArgument, "capacity: must be at least 1"));
    }
    if events.is_null() {
        return Err(Error::new(Status::InvalidArgument, "events: must not be NULL"));
    }
    let finished = queue.wait(capacity, timeout_ms)?;
    let count = finished.len();
    debug_assert!(count <= capacity);
    for (index, event) in finished.into_iter().take(capacity).enumerate() {
        // SAFETY: `index` is below `capacity`.
        unsafe { events.add(index).write(event.into()) };
    }
    Ok(count.min(capacity))
}

/// Tells the descriptor that is readable while events are pending, for epoll, kqueue, poll or an event loop; -1 where
/// there is none, in a forked child, or `queue` is NULL.
///
/// Only watch it: reading, writing and closing it is the library's business, and it ends with the queue. When it is
/// readable, take events with dlock_queue_wait() and a timeout of 0 until the count is 0.
///
/// Never blocks. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn dlock_queue_fd(queue: Option<&dlock_queue>) -> c_int {
    guard::plain(-1, || queue.map_or(-1, |queue| queue.0.fd()))
}
