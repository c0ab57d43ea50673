//! The clock by which leases are counted, for whoever holds them and for the store in this process alike.

use crate::sync::libc;

/// Runs while the machine is suspended. Darwin's `CLOCK_MONOTONIC` does, unlike Linux's (rule 2).
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) const CLOCK: libc::clockid_t = libc::CLOCK_BOOTTIME;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC;

/// Microseconds on that clock.
pub type Time = u64;

pub(crate) fn now() -> Time {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a valid place for a timespec.
    unsafe { libc::clock_gettime(CLOCK, &mut t) };
    t.tv_sec as u64 * 1_000_000 + t.tv_nsec as u64 / 1_000
}
