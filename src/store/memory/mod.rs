//! `memory://`: the rules carried out in this process, so that users can test without a server.
//!
//! [`server`] is the rules; this file adds what a server has besides them: a clock, a mutex, subscribers with an inbox
//! each, and a name by which the lockers of one process share it. It knows nothing of the engine.

pub mod server;
#[cfg(test)]
mod tests;
pub mod wait_queue;

use std::collections::{HashMap, VecDeque};
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use self::server::MemoryServer;
use super::{Connection, Push, Reply, Request, RequestId, Store, Subscription, TOKEN_FLOOR, Unreachable};
use crate::clock;
use crate::process::PerProcess;

/// What a subscription calls when something has come for it.
type Wake = Arc<dyn Fn() + Send + Sync>;

/// The named servers of this process, as long as somebody uses them. A forked child has none of its parent's, whose
/// mutexes another thread may have held.
static NAMED: PerProcess<Mutex<HashMap<String, Weak<Shared>>>> = PerProcess::new();

/// A store in this process.
pub struct MemoryStore {
    address: String,
    shared: Arc<Shared>,
}

impl MemoryStore {
    /// `memory://name` is one store for all who name it, gone with the last of them; an empty name is a private one.
    pub fn open(name: &str) -> Self {
        let address = format!("memory://{name}");
        if name.is_empty() {
            return MemoryStore { address, shared: Arc::default() };
        }
        let mut named = NAMED.get().lock().unwrap_or_else(PoisonError::into_inner);
        named.retain(|_, shared| shared.strong_count() > 0);
        let shared = named.get(name).and_then(Weak::upgrade).unwrap_or_else(|| {
            let shared = Arc::default();
            named.insert(name.to_owned(), Arc::downgrade(&shared));
            shared
        });
        MemoryStore { address, shared }
    }

    /// Reaches the server behind the store, with its present time: for tests that look at keys or set foreign ones.
    pub fn with_server<T>(&self, look: impl FnOnce(&mut MemoryServer, u64) -> T) -> T {
        look(&mut self.shared.lock().server, clock::now())
    }
}

impl Store for MemoryStore {
    fn connect(&self, highest_token: u64) -> Result<Box<dyn Connection>, Unreachable> {
        self.shared.lock().server.floor(clock::now(), highest_token, false);
        Ok(Box::new(MemoryConnection { shared: Arc::clone(&self.shared), replies: Vec::new() }))
    }

    fn subscribe(&self, channel: &str, wake: Wake) -> Result<Box<dyn Subscription>, Unreachable> {
        let channel: Arc<str> = Arc::from(channel);
        let mut inner = self.shared.lock();
        inner.server.subscribe(&channel);
        inner.subscriptions += 1;
        let id = inner.subscriptions;
        inner.readers.entry(Arc::clone(&channel)).or_default().push(Reader { id, inbox: VecDeque::new(), wake });
        Ok(Box::new(MemorySubscription { shared: Arc::clone(&self.shared), channel, id }))
    }

    fn address(&self) -> &str {
        &self.address
    }

    fn take_descriptors_in_child(&self) -> Vec<RawFd> {
        Vec::new()
    }
}

/// One server and its subscribers, behind one mutex, so that messages reach every inbox in the server's order.
struct Shared(Mutex<Inner>);

struct Inner {
    server: MemoryServer,
    readers: HashMap<Arc<str>, Vec<Reader>>,
    /// How many subscriptions there have been: the last one's id.
    subscriptions: u64,
    /// What a step publishes; kept between steps only for its memory.
    published: Vec<(Arc<str>, Push)>,
}

struct Reader {
    id: u64,
    inbox: VecDeque<Push>,
    wake: Wake,
}

impl Default for Shared {
    fn default() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_micros() as u64);
        let epoch_us = since_1970.max(TOKEN_FLOOR).saturating_sub(clock::now());
        Shared(Mutex::new(Inner {
            server: MemoryServer::new(epoch_us),
            readers: HashMap::new(),
            subscriptions: 0,
            published: Vec::new(),
        }))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out a step, then wakes its readers, outside the mutex.
    fn execute(&self, request: &Request) -> Reply {
        let mut inner = self.lock();
        let mut published = std::mem::take(&mut inner.published);
        let reply = inner.server.execute(clock::now(), request, &mut published);
        let mut wakes = Vec::new();
        for (channel, push) in published.drain(..) {
            for reader in inner.readers.get_mut(&channel).into_iter().flatten() {
                reader.inbox.push_back(push.clone());
                wakes.push(Arc::clone(&reader.wake));
            }
        }
        inner.published = published;
        drop(inner);
        wakes.iter().for_each(|wake| wake());
        reply
    }
}

/// A stream of requests that are carried out as they are pushed.
struct MemoryConnection {
    shared: Arc<Shared>,
    /// Not yet handed over.
    replies: Vec<(RequestId, Reply)>,
}

impl Connection for MemoryConnection {
    fn push(&mut self, id: RequestId, request: Request) {
        self.replies.push((id, self.shared.execute(&request)));
    }

    fn turn(&mut self, _wait: Duration, replies: &mut Vec<(RequestId, Reply)>) -> Result<(), Unreachable> {
        replies.append(&mut self.replies);
        Ok(())
    }

    fn pending(&self) -> Vec<RequestId> {
        self.replies.iter().map(|(id, _)| *id).collect()
    }

    fn is_idle(&self) -> bool {
        self.replies.is_empty()
    }

    fn fd(&self) -> Option<RawFd> {
        None
    }

    fn wants_write(&self) -> bool {
        false
    }
}

/// One reader's inbox on a channel.
struct MemorySubscription {
    shared: Arc<Shared>,
    channel: Arc<str>,
    id: u64,
}

impl MemorySubscription {
    fn reader<'a>(&self, inner: &'a mut Inner) -> &'a mut Reader {
        let readers = inner.readers.get_mut(&self.channel).into_iter().flatten();
        readers
            .into_iter()
            .find(|reader| reader.id == self.id)
            .expect("a reader stays until its subscription is dropped")
    }
}

impl Subscription for MemorySubscription {
    fn ping(&mut self, number: u64) -> Result<(), Unreachable> {
        let mut inner = self.shared.lock();
        let reader = self.reader(&mut inner);
        reader.inbox.push_back(Push::Pong { number });
        let wake = Arc::clone(&reader.wake);
        drop(inner);
        wake();
        Ok(())
    }

    fn receive(&mut self, pushes: &mut Vec<Push>) -> Result<(), Unreachable> {
        let mut inner = self.shared.lock();
        pushes.extend(self.reader(&mut inner).inbox.drain(..));
        Ok(())
    }

    fn fd(&self) -> Option<RawFd> {
        None
    }
}

impl Drop for MemorySubscription {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        inner.server.unsubscribe(&self.channel);
        let Some(readers) = inner.readers.get_mut(&self.channel) else { return };
        readers.retain(|reader| reader.id != self.id);
        if readers.is_empty() {
            inner.readers.remove(&self.channel);
        }
    }
}
