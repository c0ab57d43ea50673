//! What can go wrong, in the words of the C ABI: one status a kind, one message that names the offending thing.

use std::fmt;

/// The outcome of a call. The numbers are part of the ABI; they never change, new ones may be added.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// The call did what it says.
    Ok = 0,
    /// The server answered an error, or an owner that is no UUID.
    Locker = 1,
    /// Somebody else holds the lock.
    NotOwner = 2,
    /// Nobody holds the lock, or this handle does not.
    UnlockUnlocked = 3,
    /// The deadline passed, or the retries were used up, before the lock was free.
    LockTimeout = 4,
    /// The server cannot be reached, or refused the handshake.
    NotConnected = 5,
    /// A parameter is not usable; the message names it.
    InvalidArgument = 6,
    /// This handle holds the lock already: waiting for it would never end.
    AlreadyHeld = 7,
    /// The call was cancelled.
    Cancelled = 8,
    /// The lock was held and then lost: its lease ran out, or the server forgot it.
    Lost = 9,
    /// The locker is closed.
    Closed = 10,
    /// The process forked: handles of the parent are of no use in the child.
    Forked = 11,
    /// A defect inside the library; the locker should be freed.
    Panic = 12,
    /// Another call is using this handle.
    Busy = 13,
}

/// A status and a text for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The kind of failure, never [`Status::Ok`].
    pub status: Status,
    /// What happened, to what.
    pub message: String,
}

impl Error {
    /// An error of that kind with that text.
    pub fn new(status: Status, message: impl fmt::Display) -> Self {
        Error { status, message: message.to_string() }
    }
}

/// What fallible functions of the crate answer.
pub type Result<T> = std::result::Result<T, Error>;
