//! Where the locks live and how long they last.

use crate::error::Result;

/// Options of a locker; copied by [`Locker::new`](crate::Locker::new).
#[derive(Clone)]
pub struct Options {}

impl Options {
    /// `localhost:6379`, lease 30 s, renewal on, timeouts 5 s and 5 s.
    pub fn new() -> Self {
        todo!()
    }
    /// A host name or address.
    pub fn set_host(&mut self, host: &str) -> Result<()> {
        let _ = host;
        todo!()
    }
    /// A TCP port, not 0.
    pub fn set_port(&mut self, port: u16) -> Result<()> {
        let _ = port;
        todo!()
    }
    /// `redis://[user:password@]host[:port][/db]`, `redis+unix://…`, `memory://[name]`.
    pub fn set_url(&mut self, url: &str) -> Result<()> {
        let _ = url;
        todo!()
    }
    /// At least 100 ms.
    pub fn set_lease_ms(&mut self, lease_ms: u64) -> Result<()> {
        let _ = lease_ms;
        todo!()
    }
    /// Whether held locks are renewed in the background.
    pub fn set_auto_renew(&mut self, on: bool) -> Result<()> {
        let _ = on;
        todo!()
    }
    /// At least 1 ms.
    pub fn set_connect_timeout_ms(&mut self, timeout_ms: u64) -> Result<()> {
        let _ = timeout_ms;
        todo!()
    }
    /// At least 1 ms.
    pub fn set_response_timeout_ms(&mut self, timeout_ms: u64) -> Result<()> {
        let _ = timeout_ms;
        todo!()
    }
}
impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}
