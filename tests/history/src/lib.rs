//! What a history of locks must show, whoever made it: the simulator, or processes on a real server that wrote it to
//! files. Knows nothing of engines, servers or networks.
//!
//! [`checker`] is told in the order of time what the holders saw and what reached the protected resource, and answers with
//! the first violation. [`file`] is the text format, in which any program can write a history, and its reader.

pub mod checker;
pub mod file;
