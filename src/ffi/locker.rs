//! Lockers.

use super::error::{dlock_error, dlock_status};
use super::guard::{self, Out, given};
use super::options::dlock_options;
use crate::locker::Locker;
use crate::options::Options;

/// The connections, the background thread and the locks that belong together. A program needs one a server.
///
/// May be used from any thread, by many at once. Locks and queues may outlive it, and then answer `DLOCK_ERR_CLOSED`.
pub struct dlock_locker(pub(super) Locker);

/// Makes a locker. Does no I/O: the first dlock_lock_new() connects.
///
/// `options` are copied; NULL stands for those of dlock_options_new(): a Redis at `localhost:6379`. `out` gets the
/// locker, to be freed with dlock_locker_free().
///
/// Never blocks. Any thread. Returns:
/// - `DLOCK_OK`
/// - `DLOCK_ERR_INVALID_ARGUMENT`: `out` is NULL.
/// - `DLOCK_ERR_LOCKER`: the system has no descriptor left.
/// - `DLOCK_ERR_PANIC`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_locker_new(
    options: Option<&dlock_options>,
    out: *mut *mut dlock_locker,
    err: *mut dlock_error,
) -> dlock_status {
    // SAFETY: `out` and `err` are the caller's, as the header says.
    unsafe {
        guard::call(err, || {
            let out = Out::new("out", out)?;
            let locker = match options {
                Some(options) => Locker::new(&options.0)?,
                None => Locker::new(&Options::new())?,
            };
            out.give(dlock_locker(locker));
            Ok(())
        })
    }
}

/// Closes a locker: calls that are blocked on its locks return `DLOCK_ERR_CLOSED`, submitted operations end with such
/// an event, and locks that are held are released. From then on its locks and queues answer `DLOCK_ERR_CLOSED`; events
/// that are there already can still be taken. Closing again does nothing.
///
/// Blocks for the releases, at most one response timeout. Any thread, also while others use the locker, its locks or
/// its queues. Returns:
/// - `DLOCK_OK`: closed. A lock that could not be released in that time is ended by its lease.
/// - `DLOCK_ERR_INVALID_ARGUMENT`: `locker` is NULL.
/// - `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_locker_close(locker: Option<&dlock_locker>, err: *mut dlock_error) -> dlock_status {
    // SAFETY: `err` is the caller's, as the header says.
    unsafe { guard::call(err, || given("locker", locker)?.0.close()) }
}

/// Closes a locker if dlock_locker_close() has not, ends its thread, and frees it. NULL is fine.
///
/// Its locks and queues stay valid memory, answer `DLOCK_ERR_CLOSED`, and are still to be freed.
///
/// Blocks like dlock_locker_close(). Any thread, also while calls on its locks and queues are blocked: they return
/// `DLOCK_ERR_CLOSED`. No call that takes this very locker may be running.
#[unsafe(no_mangle)]
pub extern "C" fn dlock_locker_free(locker: Option<Box<dlock_locker>>) {
    guard::plain((), || drop(locker));
}
