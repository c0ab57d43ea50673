//! Statuses and the caller's error struct.

use std::ffi::{CStr, c_char};
use std::ptr;

use super::DLOCK_ERROR_MESSAGE_SIZE;
use super::guard;
use crate::error::{Result, Status};

/// The outcome of a call. The numbers never change; later versions may add more.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum dlock_status {
    /// The call did what it says.
    DLOCK_OK = 0,
    /// The server answered with an error, which the message quotes, or the owner found is no UUID.
    DLOCK_ERR_LOCKER = 1,
    /// Somebody else holds the lock.
    DLOCK_ERR_NOT_OWNER = 2,
    /// Nobody holds the lock, or this handle never acquired it or has released it.
    DLOCK_ERR_UNLOCK_UNLOCKED = 3,
    /// The deadline passed, or the retries were used up, before the lock could be had.
    DLOCK_ERR_LOCK_TIMEOUT = 4,
    /// The server cannot be reached, or refused the handshake (authentication, loading, not a Redis).
    DLOCK_ERR_NOT_CONNECTED = 5,
    /// A parameter is NULL, not UTF-8 or out of range; the message names it.
    DLOCK_ERR_INVALID_ARGUMENT = 6,
    /// This very handle holds the lock: waiting for it would never end.
    DLOCK_ERR_ALREADY_HELD = 7,
    /// dlock_lock_cancel() or dlock_queue_free() ended the call, or its lock was freed.
    DLOCK_ERR_CANCELLED = 8,
    /// The lock was held and then lost: its lease ran out, or the server forgot it.
    DLOCK_ERR_LOST = 9,
    /// The locker is closed or freed.
    DLOCK_ERR_CLOSED = 10,
    /// The handle belongs to the parent of this process.
    DLOCK_ERR_FORKED = 11,
    /// A defect inside the library, which the message describes. Free the locker.
    DLOCK_ERR_PANIC = 12,
    /// Another call is using this lock handle.
    DLOCK_ERR_BUSY = 13,
}

use dlock_status::*;

impl From<Status> for dlock_status {
    fn from(status: Status) -> Self {
        match status {
            Status::Ok => DLOCK_OK,
            Status::Locker => DLOCK_ERR_LOCKER,
            Status::NotOwner => DLOCK_ERR_NOT_OWNER,
            Status::UnlockUnlocked => DLOCK_ERR_UNLOCK_UNLOCKED,
            Status::LockTimeout => DLOCK_ERR_LOCK_TIMEOUT,
            Status::NotConnected => DLOCK_ERR_NOT_CONNECTED,
            Status::InvalidArgument => DLOCK_ERR_INVALID_ARGUMENT,
            Status::AlreadyHeld => DLOCK_ERR_ALREADY_HELD,
            Status::Cancelled => DLOCK_ERR_CANCELLED,
            Status::Lost => DLOCK_ERR_LOST,
            Status::Closed => DLOCK_ERR_CLOSED,
            Status::Forked => DLOCK_ERR_FORKED,
            Status::Panic => DLOCK_ERR_PANIC,
            Status::Busy => DLOCK_ERR_BUSY,
        }
    }
}

/// What went wrong, for people. The caller owns it; it need not be initialised, and any function that takes one
/// accepts NULL instead. A call that succeeds sets it to `DLOCK_OK` and an empty text.
#[repr(C)]
pub struct dlock_error {
    /// The same as the function returned.
    pub status: dlock_status,
    /// A NUL-terminated UTF-8 text, without a newline at its end.
    pub message: [c_char; DLOCK_ERROR_MESSAGE_SIZE],
}

impl dlock_error {
    /// Writes an outcome into the caller's struct, if there is one, and returns the status.
    ///
    /// # Safety
    /// `err` is NULL or valid for writing.
    pub(super) unsafe fn write(err: *mut dlock_error, outcome: &Result<()>) -> dlock_status {
        let (status, text) = match outcome {
            Ok(()) => (DLOCK_OK, ""),
            Err(error) => (error.status.into(), error.message.as_str()),
        };
        if !err.is_null() {
            let text = fitting(text, DLOCK_ERROR_MESSAGE_SIZE);
            // SAFETY: not NULL, writable by the caller's promise; `fitting` leaves room for the NUL.
            unsafe {
                ptr::addr_of_mut!((*err).status).write(status);
                let message = ptr::addr_of_mut!((*err).message).cast::<u8>();
                ptr::copy_nonoverlapping(text.as_ptr(), message, text.len());
                message.add(text.len()).write(0);
            }
        }
        status
    }
}

/// The longest beginning of `text` that fits a buffer of that size with its NUL and ends between two characters.
pub(super) fn fitting(text: &str, size: usize) -> &str {
    let mut end = text.len().min(size - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// `text` as a message buffer holds it.
pub(super) fn message_text(text: &str) -> [c_char; DLOCK_ERROR_MESSAGE_SIZE] {
    let mut buffer = [0; DLOCK_ERROR_MESSAGE_SIZE];
    for (to, from) in buffer.iter_mut().zip(fitting(text, DLOCK_ERROR_MESSAGE_SIZE).bytes()) {
        *to = from as c_char;
    }
    buffer
}

/// The name of a status, such as "DLOCK_ERR_LOCKER"; "DLOCK_ERR_UNKNOWN" for a number that this version does not know.
///
/// The text is static: it lives as long as the library is loaded. Never blocks, never fails; any thread.
#[unsafe(no_mangle)]
pub extern "C" fn dlock_status_name(status: i32) -> *const c_char {
    guard::plain(UNKNOWN, || name(status)).as_ptr()
}

const UNKNOWN: &CStr = c"DLOCK_ERR_UNKNOWN";

fn name(status: i32) -> &'static CStr {
    const NAMES: [(dlock_status, &CStr); 14] = [
        (DLOCK_OK, c"DLOCK_OK"),
        (DLOCK_ERR_LOCKER, c"DLOCK_ERR_LOCKER"),
        (DLOCK_ERR_NOT_OWNER, c"DLOCK_ERR_NOT_OWNER"),
        (DLOCK_ERR_UNLOCK_UNLOCKED, c"DLOCK_ERR_UNLOCK_UNLOCKED"),
        (DLOCK_ERR_LOCK_TIMEOUT, c"DLOCK_ERR_LOCK_TIMEOUT"),
        (DLOCK_ERR_NOT_CONNECTED, c"DLOCK_ERR_NOT_CONNECTED"),
        (DLOCK_ERR_INVALID_ARGUMENT, c"DLOCK_ERR_INVALID_ARGUMENT"),
        (DLOCK_ERR_ALREADY_HELD, c"DLOCK_ERR_ALREADY_HELD"),
        (DLOCK_ERR_CANCELLED, c"DLOCK_ERR_CANCELLED"),
        (DLOCK_ERR_LOST, c"DLOCK_ERR_LOST"),
        (DLOCK_ERR_CLOSED, c"DLOCK_ERR_CLOSED"),
        (DLOCK_ERR_FORKED, c"DLOCK_ERR_FORKED"),
        (DLOCK_ERR_PANIC, c"DLOCK_ERR_PANIC"),
        (DLOCK_ERR_BUSY, c"DLOCK_ERR_BUSY"),
    ];
    NAMES.iter().find(|(known, _)| *known as i32 == status).map_or(UNKNOWN, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Status; 14] = [
        Status::Ok,
        Status::Locker,
        Status::NotOwner,
        Status::UnlockUnlocked,
        Status::LockTimeout,
        Status::NotConnected,
        Status::InvalidArgument,
        Status::AlreadyHeld,
        Status::Cancelled,
        Status::Lost,
        Status::Closed,
        Status::Forked,
        Status::Panic,
        Status::Busy,
    ];

    #[test]
    fn statuses_have_the_same_number_on_both_sides_and_a_name_each() {
        for (number, status) in ALL.into_iter().enumerate() {
            assert_eq!(status as usize, number);
            assert_eq!(dlock_status::from(status) as usize, number);
            let expected = format!("{:?}", dlock_status::from(status));
            assert_eq!(name(number as i32).to_str().unwrap(), expected);
        }
        for unknown in [-1, 14, i32::MAX, i32::MIN] {
            assert_eq!(name(unknown), UNKNOWN);
        }
    }

    #[test]
    fn a_message_buffer_is_terminated() {
        let buffer = message_text(&"€".repeat(100));
        let bytes: Vec<u8> = buffer.iter().map(|c| *c as u8).take_while(|b| *b != 0).collect();
        assert_eq!(String::from_utf8(bytes).unwrap(), "€".repeat(85));
        assert_eq!(buffer[DLOCK_ERROR_MESSAGE_SIZE - 1], 0);
    }
}
