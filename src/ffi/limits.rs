//! The constants of the header. They are part of the ABI.

/// The size of the buffer for an owner id: 36 characters (lower-case hexadecimal digits and hyphens) and a NUL.
pub const DLOCK_UUID_SIZE: usize = 37;

/// The size of the message in `dlock_error` and `dlock_event`, the NUL included. Longer texts are cut at a character.
pub const DLOCK_ERROR_MESSAGE_SIZE: usize = 256;

/// As a timeout: no deadline.
pub const DLOCK_WAIT_FOREVER: u64 = u64::MAX;

/// A size for the text of dlock_locker_warnings() that is enough for all that this version knows.
pub const DLOCK_WARNINGS_SIZE: usize = 4096;
