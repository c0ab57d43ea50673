//! What threads share and wait by: the standard library's and the system's. Under the feature `shuttle` the unit tests have
//! the checker's instead, and descriptors and a clock that the checker sees (`system.rs`); the code in `src/driver/` and
//! `src/descriptors/` is the same. Knows nothing of locks.

#[cfg(not(all(test, feature = "shuttle")))]
mod choice {
    pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError, Weak, atomic};

    pub(crate) use ::libc;
}

#[cfg(all(test, feature = "shuttle"))]
pub(crate) mod system;

#[cfg(all(test, feature = "shuttle"))]
mod choice {
    pub(crate) use shuttle::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError, Weak, atomic};

    pub(crate) use super::system as libc;
    pub(crate) use super::system::thread;
}

pub(crate) use choice::*;
