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
pub mod limits;
pub mod lock;
pub mod locker;
pub mod options;
pub mod queue;
pub mod version;

use limits::{DLOCK_ERROR_MESSAGE_SIZE, DLOCK_UUID_SIZE, DLOCK_WAIT_FOREVER};

const _: () = {
    // Handles are shared between the caller's threads; that they may be is the compiler's business, not a promise.
    const fn may_be_shared<T: Send + Sync>() {}
    may_be_shared::<crate::Locker>();
    may_be_shared::<crate::Lock>();
    may_be_shared::<crate::Queue>();
    assert!(DLOCK_WAIT_FOREVER == crate::WAIT_FOREVER);
};
