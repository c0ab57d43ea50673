//! Lock handles: the blocking calls.

use std::ffi::c_char;

use super::DLOCK_UUID_SIZE;
use super::error::{dlock_error, dlock_status};
use super::guard::{self, Out, given, text};
use super::locker::dlock_locker;
use super::queue::dlock_queue;
use crate::lock::Lock;

/// One contender for one lock, with an owner id of its own. Two handles with the same name and group compete, also
/// within one thread; a handle acquired twice does not nest.
///
/// One user at a time: while an acquire, a release or an extend is under way, blocked or submitted, another of them
/// answers `DLOCK_ERR_BUSY`. dlock_lock_cancel() and what only reads (id, fencing token, remaining time, is_locked,
/// is_locked_by_me, owner) may be called beside it, from any thread. May outlive its locker, and then answers
/// `DLOCK_ERR_CLOSED`.
pub struct dlock_lock(pub(super) Lock);

/// Makes a lock handle with a fresh owner id. The lock is not acquired yet.
///
/// `name` and `group` together name the lock; the server's key is `group:name`. Each has 1 to 512 bytes of UTF-8, and
/// `group` no ':'. They are copied. `out` gets the handle, to be freed with dlock_lock_free().
///
/// Blocks while the locker has no connection known to be up: it then connects, at most for the connect timeout and
/// the response timeout together. Otherwise no I/O. Any thread. Returns:
/// - `DLOCK_OK`
/// - `DLOCK_ERR_NOT_CONNECTED`: the server cannot be reached, or refused the handshake.
/// - `DLOCK_ERR_CLOSED`: the locker is closed.
/// - `DLOCK_ERR_INVALID_ARGUMENT`: a parameter is NULL; `name` or `group` is not UTF-8, empty or too long; a ':' in
///   `group`.
/// - `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_lock_new(
    locker: Option<&dlock_locker>,
    name: *const c_char,
    group: *const c_char,
    out: *mut *mut dlock_lock,
    err: *mut dlock_error,
) -> dlock_status {
    // SAFETY: the texts, `out` and `err` are the caller's, as the header says.
    unsafe {
        guard::call(err, || {
            let locker = given("locker", locker)?;
            let (name, group) = (text("name", name)?, text("group", group)?);
            let out = Out::new("out", out)?;
            #[cfg(feature = "provoke-panic")]
            if name == "dlock:provoke-panic" {
                panic!("provoked");
            }
            out.give(dlock_lock(locker.0.lock(name, group)?));
            Ok(())
        })
    }
}

/// Frees a lock handle. NULL is fine.
///
/// A lock still held is released in the background. An operation still pending in a queue ends with an event of
/// status `DLOCK_ERR_CANCELLED`. Watches end; events of theirs that are there already can still be taken.
///
/// Never blocks. Any thread. No call that takes this handle may be running: dlock_lock_cancel() ends a blocked one,
/// but wait until it has returned.
#[unsafe(no_mangle)]
pub extern "C" fn dlock_lock_free(lock: Option<Box<dlock_lock>>) {
    guard::plain((), || drop(lock));
}

/// Acquires the lock, waiting for it as long as it takes, first come, first served.
///
/// On a handle that lost its lock this starts anew.
///
/// Blocks until the lock is held. If the connection is lost meanwhile, it reconnects for the response timeout, counted
/// anew with each loss. Any thread, one at a time. Returns:
/// - `DLOCK_OK`: held.
/// - `DLOCK_ERR_NOT_CONNECTED`: the server could not be reached for the response timeout.
/// - `DLOCK_ERR_LOCKER`: the server answered with an error.
/// - `DLOCK_ERR_ALREADY_HELD`: this handle holds the lock.
/// - `DLOCK_ERR_CANCELLED`: dlock_lock_cancel() was called.
/// - `DLOCK_ERR_CLOSED`: the locker is closed, or was closed meanwhile.
/// - `DLOCK_ERR_BUSY`: another call is using this handle.
/// - `DLOCK_ERR_INVALID_ARGUMENT`: `lock` is NULL.
/// - `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`
///
/// After any error the lock is not held; should the server have granted it all the same, it is given back in the
/// background.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_lock_acquire(lock: Option<&dlock_lock>, err: *mut dlock_error) -> dlock_status {
    // SAFETY: `err` is the caller's, as the header says.
    unsafe { guard::call(err, || given("lock", lock)?.0.acquire()) }
}

/// Acquires the lock if it is free, without waiting for it.
///
/// `acquired` gets true if the lock is now held by this call, false if somebody holds it already: another handle, or
/// this one.
///
/// Blocks for one round trip; where the server is silent or gone, for two response timeouts at most. Any thread, one at a
/// time. Returns:
/// - `DLOCK_OK`: see `acquired`.
/// - `DLOCK_ERR_NOT_CONNECTED`: the server could not be reached for the response timeout.
/// - `DLOCK_ERR_LOCKER`: the server answered with an error.
/// - `DLOCK_ERR_CANCELLED`: dlock_lock_cancel() was called during the round trip.
/// - `DLOCK_ERR_CLOSED`: the locker is closed, or was closed meanwhile.
/// - `DLOCK_ERR_BUSY`: another call is using this handle.
/// - `DLOCK_ERR_INVALID_ARGUMENT`: `lock` or `acquired` is NULL.
/// - `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_lock_try_acquire(
    lock: Option<&dlock_lock>,
    acquired: *mut bool,
    err: *mut dlock_error,
) -> dlock_status {
    // SAFETY: `acquired` and `err` are the caller's, as the header says.
    unsafe {
        guard::call(err, || {
            let lock = given("lock", lock)?;
            let acquired = Out::new("acquired", acquired)?;
            acquired.set(lock.0.try_acquire()?);
            Ok(())
        })
    }
}

/// Acquires the lock like dlock_lock_acquire(), but waits for it no longer than `timeout_ms` milliseconds.
///
/// 0 makes one attempt; `DLOCK_WAIT_FOREVER` waits as dlock_lock_acquire() does.
///
/// Blocks at most for `timeout_ms` and 50 ms, even if the server is silent. Any thread, one at a time. Returns:
/// - `DLOCK_OK`: held.
/// - `DLOCK_ERR_LOCK_TIMEOUT`: the lock was not to be had in that time.
/// - `DLOCK_ERR_NOT_CONNECTED`: the server could not be reached when the time was over.
/// - `DLOCK_ERR_LOCKER`, `DLOCK_ERR_ALREADY_HELD`, `DLOCK_ERR_CANCELLED`, `DLOCK_ERR_CLOSED`, `DLOCK_ERR_BUSY`,
///   `DLOCK_ERR_INVALID_ARGUMENT`, `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`: as from dlock_lock_acquire().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_lock_acquire_timeout(
    lock: Option<&dlock_lock>,
    timeout_ms: u64,
    err: *mut dlock_error,
) -> dlock_status {
    // SAFETY: `err` is the caller's, as the header says.
    unsafe { guard::call(err, || given("lock", lock)?.0.acquire_timeout(timeout_ms)) }
}

/// Acquires the lock by attempts: one, then up to `retries` more, after waits of 1, 2, 4, 8 and so on times
/// `initial_backoff_ms` milliseconds.
///
/// It does not queue, so those who wait in dlock_lock_acquire() come first.
///
/// Blocks for the waits and one round trip each. Any thread, one at a time. Returns:
/// - `DLOCK_OK`: held.
/// - `DLOCK_ERR_LOCK_TIMEOUT`: the retries are used up.
/// - `DLOCK_ERR_NOT_CONNECTED`, `DLOCK_ERR_LOCKER`, `DLOCK_ERR_ALREADY_HELD`, `DLOCK_ERR_CANCELLED`,
///   `DLOCK_ERR_CLOSED`, `DLOCK_ERR_BUSY`, `DLOCK_ERR_INVALID_ARGUMENT`, `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`: as
///   from dlock_lock_acquire().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_lock_acquire_retry_backoff(
    lock: Option<&dlock_lock>,
    retries: u32,
    initial_backoff_ms: u64,
    err: *mut dlock_error,
) -> dlock_status {
    // SAFETY: `err` is the caller's, as the header says.
    unsafe { guard::call(err, || given("lock", lock)?.0.acquire_retry_backoff(retries, initial_backoff_ms)) }
}

/// Releases the lock. The first who waits for it becomes its holder in the same step.
///
/// The server is asked also where this handle holds nothing, so that the answer says what is the case.
///
/// Blocks for one round trip; where the server is silent or gone, for two response timeouts at most. Any thread, one at a
/// time. Returns:
/// - `DLOCK_OK`: released.
/// - `DLOCK_ERR_UNLOCK_UNLOCKED`: nobody holds the lock.
/// - `DLOCK_ERR_NOT_OWNER`: somebody else holds the lock, and keeps it.
/// - `DLOCK_ERR_LOST`: this handle's time was over before the release: others may have held the lock meanwhile. It
///   is not held now; releasing again answers `DLOCK_ERR_UNLOCK_UNLOCKED`.
/// - `DLOCK_ERR_NOT_CONNECTED`: the server could not be reached for the response timeout. The lease ends the lock.
/// - `DLOCK_ERR_LOCKER`: the server answered with an error.
/// - `DLOCK_ERR_CLOSED`: the locker is closed, and has released the lock.
/// - `DLOCK_ERR_BUSY`: another call is using this handle.
/// - `DLOCK_ERR_INVALID_ARGUMENT`: `lock` is NULL.
/// - `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_lock_release(lock: Option<&dlock_lock>, err: *mut dlock_error) -> dlock_status {
    // SAFETY: `err` is the caller's, as the header says.
    unsafe { guard::call(err, || given("lock", lock)?.0.release()) }
}

/// Asks the server whether anybody holds the lock: `locked` gets the answer, which may be out of date on arrival.
///
/// Blocks for one round trip; where the server is silent or gone, for two response timeouts at most. Any thread, also beside a
/// blocked call. Returns:
/// - `DLOCK_OK`: see `locked`.
/// - `DLOCK_ERR_NOT_CONNECTED`: the server could not be reached for the response timeout.
/// - `DLOCK_ERR_LOCKER`: the server answered with an error.
/// - `DLOCK_ERR_CLOSED`: the locker is closed, or was closed meanwhile.
/// - `DLOCK_ERR_INVALID_ARGUMENT`: `lock` or `locked` is NULL.
/// - `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_lock_is_locked(
    lock: Option<&dlock_lock>,
    locked: *mut bool,
    err: *mut dlock_error,
) -> dlock_status {
    // SAFETY: `locked` and `err` are the caller's, as the header says.
    unsafe {
        guard::call(err, || {
            let lock = given("lock", lock)?;
            let locked = Out::new("locked", locked)?;
            locked.set(lock.0.is_locked()?);
            Ok(())
        })
    }
}

/// Asks the server whether this very handle holds the lock: `locked_by_me` gets the answer, which may be out of date on
/// arrival. How long the lock is certainly still held, without asking, says dlock_lock_remaining_ms().
///
/// Blocks for one round trip; where the server is silent or gone, for two response timeouts at most. Any thread, also beside a
/// blocked call. Returns:
/// - `DLOCK_OK`: see `locked_by_me`.
/// - `DLOCK_ERR_NOT_CONNECTED`, `DLOCK_ERR_LOCKER`, `DLOCK_ERR_CLOSED`, `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`: as from
///   dlock_lock_is_locked().
/// - `DLOCK_ERR_INVALID_ARGUMENT`: `lock` or `locked_by_me` is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_lock_is_locked_by_me(
    lock: Option<&dlock_lock>,
    locked_by_me: *mut bool,
    err: *mut dlock_error,
) -> dlock_status {
    // SAFETY: `locked_by_me` and `err` are the caller's, as the header says.
    unsafe {
        guard::call(err, || {
            let lock = given("lock", lock)?;
            let locked_by_me = Out::new("locked_by_me", locked_by_me)?;
            locked_by_me.set(lock.0.is_locked_by_me()?);
            Ok(())
        })
    }
}

/// Asks the server who holds the lock.
///
/// `exists` gets whether anybody does; `owner` the owner id (see dlock_lock_id()) of the handle that does, or an empty
/// text. The answer may be out of date on arrival.
///
/// Blocks for one round trip; where the server is silent or gone, for two response timeouts at most. Any thread, also beside a
/// blocked call. Returns:
/// - `DLOCK_OK`: see `exists` and `owner`.
/// - `DLOCK_ERR_LOCKER`: the server answered with an error, or the key was set by another program and names no UUID.
/// - `DLOCK_ERR_NOT_CONNECTED`, `DLOCK_ERR_CLOSED`, `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`: as from
///   dlock_lock_is_locked().
/// - `DLOCK_ERR_INVALID_ARGUMENT`: `lock`, `exists` or `owner` is NULL.
///
/// cbindgen:ptrs-as-arrays=[[owner;DLOCK_UUID_SIZE]]
#[allow(rustdoc::broken_intra_doc_links)] // the line above is cbindgen's
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_lock_owner(
    lock: Option<&dlock_lock>,
    exists: *mut bool,
    owner: *mut c_char,
    err: *mut dlock_error,
) -> dlock_status {
    // SAFETY: `exists`, `owner` and `err` are the caller's, as the header says.
    unsafe {
        guard::call(err, || {
            let lock = given("lock", lock)?;
            let exists = Out::new("exists", exists)?;
            let buffer = Out::new("owner", owner.cast::<[c_char; DLOCK_UUID_SIZE]>())?;
            let owner = lock.0.owner()?;
            exists.set(owner.is_some());
            buffer.set_uuid(owner);
            Ok(())
        })
    }
}

/// Writes this handle's owner id into `id`: a random UUID in lower case. It never changes.
///
/// Never blocks, no I/O. Any thread, also beside a blocked call. Returns:
/// - `DLOCK_OK`
/// - `DLOCK_ERR_INVALID_ARGUMENT`: `lock` or `id` is NULL.
/// - `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`
///
/// cbindgen:ptrs-as-arrays=[[id;DLOCK_UUID_SIZE]]
#[allow(rustdoc::broken_intra_doc_links)] // the line above is cbindgen's
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_lock_id(lock: Option<&dlock_lock>, id: *mut c_char) -> dlock_status {
    // SAFETY: `id` is the caller's, as the header says.
    unsafe {
        guard::call(std::ptr::null_mut(), || {
            let lock = given("lock", lock)?;
            let buffer = Out::new("id", id.cast::<[c_char; DLOCK_UUID_SIZE]>())?;
            buffer.set_uuid(Some(lock.0.id()?));
            Ok(())
        })
    }
}

/// Tells the fencing token of the lock held: `token` gets a number greater than that of every earlier acquisition of
/// this lock. Send it along with what the lock protects, and refuse there what carries a smaller one.
///
/// Never blocks, no I/O. Any thread, also beside a blocked call. Returns:
/// - `DLOCK_OK`
/// - `DLOCK_ERR_UNLOCK_UNLOCKED`: this handle never acquired the lock, or has released it.
/// - `DLOCK_ERR_LOST`: this handle has lost the lock.
/// - `DLOCK_ERR_CLOSED`: the locker is closed.
/// - `DLOCK_ERR_INVALID_ARGUMENT`: `lock` or `token` is NULL.
/// - `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_lock_fencing_token(
    lock: Option<&dlock_lock>,
    token: *mut u64,
    err: *mut dlock_error,
) -> dlock_status {
    // SAFETY: `token` and `err` are the caller's, as the header says.
    unsafe {
        guard::call(err, || {
            let lock = given("lock", lock)?;
            let token = Out::new("token", token)?;
            token.set(lock.0.fencing_token()?);
            Ok(())
        })
    }
}

/// Tells for how many milliseconds the lock is certainly still held: `remaining_ms` gets the holder's own, careful
/// view. Background renewals set it up again.
///
/// Never blocks, no I/O. Any thread, also beside a blocked call. Returns:
/// - `DLOCK_OK`
/// - `DLOCK_ERR_UNLOCK_UNLOCKED`: this handle never acquired the lock, or has released it.
/// - `DLOCK_ERR_LOST`: this handle has lost the lock.
/// - `DLOCK_ERR_CLOSED`: the locker is closed.
/// - `DLOCK_ERR_INVALID_ARGUMENT`: `lock` or `remaining_ms` is NULL.
/// - `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_lock_remaining_ms(
    lock: Option<&dlock_lock>,
    remaining_ms: *mut u64,
    err: *mut dlock_error,
) -> dlock_status {
    // SAFETY: `remaining_ms` and `err` are the caller's, as the header says.
    unsafe {
        guard::call(err, || {
            let lock = given("lock", lock)?;
            let remaining_ms = Out::new("remaining_ms", remaining_ms)?;
            remaining_ms.set(lock.0.remaining_ms()?);
            Ok(())
        })
    }
}

/// Sets the lease of the lock held to `lease_ms` milliseconds from now, for later renewals too; from 100 to a year.
/// A new acquisition has the locker's lease again.
///
/// A shorter lease than before shortens what dlock_lock_remaining_ms() says, not what the server keeps.
///
/// Blocks for one round trip; where the server is silent or gone, for two response timeouts at most. Any thread, one at a
/// time. Returns:
/// - `DLOCK_OK`: the lock is held for that long.
/// - `DLOCK_ERR_UNLOCK_UNLOCKED`: this handle never acquired the lock, or has released it.
/// - `DLOCK_ERR_LOST`: this handle has lost the lock.
/// - `DLOCK_ERR_NOT_CONNECTED`: the server could not be reached for the response timeout.
/// - `DLOCK_ERR_LOCKER`: the server answered with an error.
/// - `DLOCK_ERR_CLOSED`: the locker is closed, or was closed meanwhile.
/// - `DLOCK_ERR_BUSY`: another call is using this handle.
/// - `DLOCK_ERR_INVALID_ARGUMENT`: `lock` is NULL, or `lease_ms` is out of range.
/// - `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_lock_extend(
    lock: Option<&dlock_lock>,
    lease_ms: u64,
    err: *mut dlock_error,
) -> dlock_status {
    // SAFETY: `err` is the caller's, as the header says.
    unsafe { guard::call(err, || given("lock", lock)?.0.extend(lease_ms)) }
}

/// Ends the acquire call, blocked or submitted, that is under way on this handle: it answers `DLOCK_ERR_CANCELLED`. A
/// lock handed over in that very instant is handed on. Where nothing is blocked this does nothing, now or later.
///
/// During a round trip the call ends when the reply is there. Releases and questions are not cancelled; they end by
/// themselves, within the response timeout.
///
/// Never blocks. Any thread: this is the call to make beside a blocked one. Returns:
/// - `DLOCK_OK`
/// - `DLOCK_ERR_CLOSED`: the locker is closed.
/// - `DLOCK_ERR_INVALID_ARGUMENT`: `lock` is NULL.
/// - `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_lock_cancel(lock: Option<&dlock_lock>, err: *mut dlock_error) -> dlock_status {
    // SAFETY: `err` is the caller's, as the header says.
    unsafe { guard::call(err, || given("lock", lock)?.0.cancel()) }
}

/// Asks for an event of kind `DLOCK_EVENT_LOST` in `queue` whenever this handle loses the lock that it holds: one for
/// each acquisition lost, with `user_data`, until the handle or the queue is freed. A lock that is released, or whose
/// locker is closed, is not lost. A handle has one watch: a later call replaces it.
///
/// Never blocks. Any thread. Returns:
/// - `DLOCK_OK`
/// - `DLOCK_ERR_CLOSED`: the locker is closed.
/// - `DLOCK_ERR_INVALID_ARGUMENT`: `lock` or `queue` is NULL, or they belong to different lockers.
/// - `DLOCK_ERR_FORKED`, `DLOCK_ERR_PANIC`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlock_lock_watch(
    lock: Option<&dlock_lock>,
    queue: Option<&dlock_queue>,
    user_data: u64,
    err: *mut dlock_error,
) -> dlock_status {
    // SAFETY: `err` is the caller's, as the header says.
    unsafe { guard::call(err, || given("lock", lock)?.0.watch(&given("queue", queue)?.0, user_data)) }
}
