//! Which version of the library is loaded. The macros of the header are written by `tests/header.rs`, from Cargo.toml.

use std::ffi::{CStr, c_char};

const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(text) => text,
    Err(_) => panic!("the version contains a NUL"),
};

/// The version of the library that was loaded, such as "0.1.0"; `DLOCK_VERSION` is that of the header compiled against.
///
/// The text is static: it lives as long as the library is loaded. Never blocks, never fails; any thread.
#[unsafe(no_mangle)]
pub extern "C" fn dlock_version() -> *const c_char {
    VERSION.as_ptr()
}
