//! The library as a program uses it, reached by a URL; what must work, or the test ends.

use std::time::Duration;

use dlock::{Locker, Options};

/// Nothing takes longer, unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn options(url: &str) -> Options {
    let mut options = Options::new();
    options.set_url(url).unwrap_or_else(|error| panic!("{url}: {error}"));
    options
}

pub fn locker(url: &str) -> Locker {
    Locker::new(&options(url)).unwrap()
}
