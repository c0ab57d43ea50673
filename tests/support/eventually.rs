//! Waiting for something that can only be looked at again and again.

use std::time::{Duration, Instant};

/// Nothing that a test waits for takes longer, on however busy a machine, unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Does it come to pass within that time?
pub fn within(time: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + time;
    while !is_so() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

#[track_caller]
pub fn eventually(what: &str, is_so: impl FnMut() -> bool) {
    assert!(within(PATIENCE, is_so), "not within {PATIENCE:?}: {what}");
}
