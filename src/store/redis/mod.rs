//! Locks on a Redis or Valkey server.

pub mod slot;
