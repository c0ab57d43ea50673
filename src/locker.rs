//! A locker: the connections, the thread and the locks that belong together.

use crate::error::Result;
use crate::lock::Lock;
use crate::options::Options;
use crate::queue::Queue;

/// Makes locks on one store. May be used from any thread.
pub struct Locker {}

impl Locker {
    /// No I/O.
    pub fn new(options: &Options) -> Result<Self> {
        let _ = options;
        todo!()
    }
    /// A handle with a fresh owner id. Connects where there is no live connection.
    pub fn lock(&self, name: &str, group: &str) -> Result<Lock> {
        let _ = (name, group);
        todo!()
    }
    /// A completion queue for this locker's locks.
    pub fn queue(&self) -> Result<Queue> {
        todo!()
    }
    /// Cancels waiters (they answer `Closed`) and releases what is held; at most one response timeout.
    pub fn close(&self) -> Result<()> {
        todo!()
    }
}
// Drop: closes, joins the thread; in a forked child closes descriptors and leaks the rest.
