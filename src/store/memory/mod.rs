//! The rules in plain Rust.
