//! The C ABI: pointers in, statuses out. The only code of the crate that handles the caller's pointers.
//!
//! Every function does the same four things, inside one [`guard`](guard::call): check its arguments, call the Rust
//! API, write the results through the out-pointers, put the outcome into the caller's `dlock_error`. What a lock is,
//! and how the waiting is done, is unknown here.
//!
//! `include/dlock.h` is generated from these files by cbindgen (`cbindgen.toml`, `tests/header.rs`), so the doc
//! comments of what is exported are written for the C programmer who reads them there. Names are the C names, hence
//! the lints allowed below; safety is a matter of the header's rules, not of a section in each comment.
#![allow(non_camel_case_types, clippy::missing_safety_doc)]

pub mod error;
pub mod event;
mod guard;
pub mod lock;
pub mod locker;
pub mod options;
pub mod queue;
pub mod version;

/// The size of the buffer for an owner id: 36 characters (lower-case hexadecimal digits and hyphens) and a NUL.
pub const DLOCK_UUID_SIZE: usize = 37;

/// The size of the message in `dlock_error` and `dlock_event`, the NUL included. Longer texts are cut at a character.
pub const DLOCK_ERROR_MESSAGE_SIZE: usize = 256;

/// As a timeout: no deadline.
pub const DLOCK_WAIT_FOREVER: u64 = u64::MAX;

const _: () = {
    // Handles are shared between the caller's threads; that they may be is the compiler's business, not a promise.
    const fn may_be_shared<T: Send + Sync>() {}
    may_be_shared::<crate::Locker>();
    may_be_shared::<crate::Lock>();
    may_be_shared::<crate::Queue>();
    assert!(DLOCK_WAIT_FOREVER == crate::WAIT_FOREVER);
};
