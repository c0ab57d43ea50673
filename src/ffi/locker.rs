//! Lockers.

use std::ffi::c_char;

use super::error::{dlock_error, dlock_status, fitting};
use super::guard::{self, Out, given};
use super::options::dlock_options;
use crate::error::{Error, Status};
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

/// Tells what is not as locks would have it at the server that the locker connected to last, such as an eviction policy
/// that may throw locks away, or a right that the user lacks and can do without.
///
/// `text` gets one sentence a line, ended by NUL, or an empty text where there is nothing to tell or no connection was made
/// yet. `size` is what `text` has room for, in bytes, 1 at least; `DLOCK_WARNINGS_SIZE` is enough for all that this version
/// knows. What does not fit is left out, from the end. For a log; the words may change from version to version.
///
/// Never blocks, no I/O. Any thread. Returns:
/// - `DLOCK_OK`
/// - `DLOCK_ERR_INVALID_ARGUMENT`: `locker` or `text` is NULL, or `size` is 0.
/// - `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_locker_warnings(
    locker: Option<&dlock_locker>,
    text: *mut c_char,
    size: usize,
    err: *mut dlock_error,
) -> dlock_status {
    // SAFETY: `text` has room for `size` bytes, and `err` is the caller's, as the header says.
    unsafe {
        guard::call(err, || {
            let locker = given("locker", locker)?;
            let buffer = Out::new("text", text.cast::<u8>())?;
            if size == 0 {
                return Err(Error::new(Status::InvalidArgument, "size: must not be 0"));
            }
            buffer.set_text(fitting(&locker.0.warnings()?.join("\n"), size));
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
/// Blocks like dlock_locker_close(), and where a connection is just being made until that has been given up: soon, but at the
/// latest when the system's resolver has answered and the connect timeout is over. Any thread, also while calls on its locks
/// and queues are blocked: they return `DLOCK_ERR_CLOSED`. No call that takes this very locker may be running.
#[unsafe(no_mangle)]
pub extern "C" fn dlock_locker_free(locker: Option<Box<dlock_locker>>) {
    guard::plain((), || drop(locker));
}
