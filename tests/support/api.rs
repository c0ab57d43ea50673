//! The library as a program uses it, reached by a URL; what must work, or the test ends.

use dlock::{Locker, Options};

pub fn options(url: &str) -> Options {
    let mut options = Options::new();
    options.set_url(url).unwrap_or_else(|error| panic!("{url}: {error}"));
    options
}

pub fn locker(url: &str) -> Locker {
    Locker::new(&options(url)).unwrap()
}
