//! A locker: the connections, the thread and the locks that belong together.

use std::sync::Arc;

use uuid::Uuid;

use crate::driver::Driver;
use crate::engine::Config;
use crate::error::{Error, Result, Status};
use crate::lock::Lock;
use crate::options::Options;
use crate::queue::Queue;
use crate::store::Name;
use crate::store::name::CHANNEL_PREFIX;

/// Makes locks on one store. May be used from any thread.
pub struct Locker {
    driver: Arc<Driver>,
}

impl Locker {
    /// No I/O.
    pub fn new(options: &Options) -> Result<Self> {
        let channel = format!("{CHANNEL_PREFIX}{}", Uuid::new_v4().simple());
        let config = Config {
            lease_ms: options.lease_ms,
            auto_renew: options.auto_renew,
            response_timeout_ms: options.response_timeout_ms,
            channel: channel.into(),
            seed: Uuid::new_v4().as_u64_pair().1,
        };
        let store = options.store();
        let store = store.map_err(|e| Error::new(Status::Locker, format!("cannot make a descriptor: {e}")))?;
        let driver = Driver::new(store, config)?;
        Ok(Locker { driver })
    }

    /// A handle with a fresh owner id. Connects where there is no live connection, and answers `NotConnected` where that
    /// fails; costs no round trip where there is one.
    pub fn lock(&self, name: &str, group: &str) -> Result<Lock> {
        self.driver.check_process()?;
        let name = Arc::new(Name::new(name, group)?);
        let owner = Uuid::new_v4();
        let handle = self.driver.open(name, owner)?;
        let lock = Lock::new(Arc::clone(&self.driver), handle, owner);
        self.driver.ensure_connected()?;
        Ok(lock)
    }

    /// A completion queue for this locker's locks.
    pub fn queue(&self) -> Result<Queue> {
        Queue::new(Arc::clone(&self.driver))
    }

    /// What is not as locks would have it at the server last connected to, one sentence each; none before a connection was
    /// made. No I/O.
    pub fn warnings(&self) -> Result<Vec<String>> {
        self.driver.check_process()?;
        Ok(self.driver.warnings())
    }

    /// Ends pending calls (they answer `Closed`) and releases what is held; waits for that at most one response timeout.
    pub fn close(&self) -> Result<()> {
        self.driver.check_process()?;
        self.driver.close()
    }
}

impl Drop for Locker {
    /// Closes and joins the threads; in a forked child closes descriptors and leaks the rest.
    fn drop(&mut self) {
        if self.driver.is_forked() {
            self.driver.close_in_child();
            std::mem::forget(Arc::clone(&self.driver));
        } else {
            self.driver.shut_down();
        }
    }
}
