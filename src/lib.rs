//! Distributed locks on Redis: atomic, crash-safe, fair.
//!
//! The crate is the core of `libdlock`, whose C ABI is in [`ffi`] and `include/dlock.h`. Rust programs use the same
//! things directly: [`Options`], [`Locker`], [`Lock`], [`Queue`].

mod clock;
mod descriptors;
mod driver;
pub mod engine;
pub mod error;
pub mod event;
pub mod ffi;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod lock;
pub mod locker;
pub mod options;
#[cfg(feature = "planted-bugs")]
pub mod planted;
#[cfg(not(feature = "planted-bugs"))]
mod planted;
mod process;
pub mod queue;
pub mod store;
mod sync;
#[cfg_attr(all(test, feature = "shuttle"), allow(dead_code))] // the checker has its own
mod thread;

pub use error::{Error, Result, Status};
pub use event::{Event, EventKind};
pub use lock::Lock;
pub use locker::Locker;
pub use options::Options;
pub use queue::Queue;

/// The largest wait: no deadline.
pub const WAIT_FOREVER: u64 = u64::MAX;
