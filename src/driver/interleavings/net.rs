//! A server in memory with connections as of sockets: what is sent arrives later, is answered later, in order on each
//! connection, or the connection ends before. Knows the two traits of `src/store/` and nothing of the driver.

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::time::Duration;

use super::{Rng, spawn};
use crate::clock::now;
use crate::driver::poll_readable;
use crate::store::memory::server::MemoryServer;
use crate::store::name::FENCE;
use crate::store::{Connection, Push, Reply, Request, RequestId, Store, Subscription, TOKEN_FLOOR, Unreachable};
use crate::sync::system::{Descriptor, World};
use crate::sync::thread::JoinHandle;
use crate::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

pub(super) struct Net {
    world: Arc<World>,
    inner: Mutex<Inner>,
    changed: Condvar,
}

struct Inner {
    server: MemoryServer,
    lines: Vec<Line>,
    readers: Vec<Reader>,
    rng: Rng,
    /// How many connections may yet be ended by the server.
    cuts: u32,
    over: bool,
}

/// The server's side of a connection.
struct Line {
    stream: u64,
    asked: VecDeque<(RequestId, Request)>,
    replies: Vec<(RequestId, Reply)>,
    /// Ended by the server.
    cut: bool,
}

struct Reader {
    channel: Arc<str>,
    stream: u64,
    inbox: Vec<Push>,
    cut: bool,
    gone: bool,
}

impl Net {
    /// A server that ends up to `cuts` connections.
    pub(super) fn new(world: &Arc<World>, rng: Rng, cuts: u32) -> Arc<Self> {
        let (server, lines, readers) = (MemoryServer::new(TOKEN_FLOOR), Vec::new(), Vec::new());
        let inner = Mutex::new(Inner { server, lines, readers, rng, cuts, over: false });
        Arc::new(Net { world: Arc::clone(world), inner, changed: Condvar::new() })
    }

    pub(super) fn start(self: &Arc<Self>) -> JoinHandle<()> {
        let net = Arc::clone(self);
        spawn("server", move || net.serve())
    }

    pub(super) fn stop(&self, server: JoinHandle<()>) {
        self.inner().over = true;
        self.changed.notify_all();
        server.join().expect("the server");
    }

    /// The keys that are left, without the counter.
    pub(super) fn keys(&self) -> Vec<String> {
        let mut keys = self.inner().server.keys(now());
        keys.retain(|key| key != FENCE);
        keys
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        loop {
            let mut inner = self.inner();
            let asked = |inner: &Inner| -> Vec<usize> {
                (0..inner.lines.len()).filter(|&line| !inner.lines[line].asked.is_empty()).collect()
            };
            while !inner.over && asked(&inner).is_empty() {
                inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
            }
            if inner.over {
                return;
            }
            let asked = asked(&inner);
            let chosen = asked[inner.rng.below(asked.len() as u64) as usize];
            // Under the mutex: what is read meanwhile must not be announced again.
            for stream in inner.answer(chosen) {
                self.world.set_ready(stream, true);
            }
        }
    }
}

impl Inner {
    /// Carries out one request of a line, or ends a connection. Returns the streams that have something to read now.
    fn answer(&mut self, chosen: usize) -> Vec<u64> {
        if self.cuts > 0 && self.rng.one_in(6) {
            self.cuts -= 1;
            if !self.readers.is_empty() && self.rng.one_in(3) {
                let reader = self.rng.below(self.readers.len() as u64) as usize;
                self.readers[reader].cut = true;
                return vec![self.readers[reader].stream];
            }
            let chosen = if self.rng.one_in(4) { self.rng.below(self.lines.len() as u64) as usize } else { chosen };
            let line = &mut self.lines[chosen];
            let asked = std::mem::take(&mut line.asked);
            (line.cut, line.replies) = (true, Vec::new());
            let mut ready = vec![line.stream];
            let runs = self.rng.below(asked.len() as u64 + 1) as usize; // some have run, and the answer is lost
            for (_, request) in asked.iter().take(runs) {
                ready.extend(self.execute(request).1);
            }
            return ready;
        }
        let Some((id, request)) = self.lines[chosen].asked.pop_front() else { return Vec::new() };
        let (reply, mut ready) = self.execute(&request);
        self.lines[chosen].replies.push((id, reply));
        ready.push(self.lines[chosen].stream);
        ready
    }

    fn execute(&mut self, request: &Request) -> (Reply, Vec<u64>) {
        let mut published = Vec::new();
        let reply = self.server.execute(now(), request, &mut published);
        let mut ready = Vec::new();
        for (channel, push) in published {
            for reader in self.readers.iter_mut().filter(|reader| reader.channel == channel && !reader.gone) {
                reader.inbox.push(push.clone());
                ready.push(reader.stream);
            }
        }
        (reply, ready)
    }
}

/// The store of one locker: the same server for all.
pub(super) struct NetStore(pub(super) Arc<Net>);

impl Store for NetStore {
    fn take_descriptors_in_child(&self) -> Vec<RawFd> {
        Vec::new()
    }

    fn connect(&self, highest_token: u64) -> Result<Box<dyn Connection>, Unreachable> {
        let net = &self.0;
        let (fd, stream) = net.world.stream();
        let mut inner = net.inner();
        inner.server.floor(now(), highest_token, false);
        let line = inner.lines.len();
        inner.lines.push(Line { stream, asked: VecDeque::new(), replies: Vec::new(), cut: false });
        Ok(Box::new(NetConnection {
            net: Arc::clone(net),
            line,
            fd,
            stream,
            out: Vec::new(),
            in_flight: VecDeque::new(),
        }))
    }

    fn subscribe(
        &self,
        channel: &str,
        _wake: Arc<dyn Fn() + Send + Sync>,
    ) -> Result<Box<dyn Subscription>, Unreachable> {
        let net = &self.0;
        let (fd, stream) = net.world.stream();
        let mut inner = net.inner();
        inner.server.subscribe(&Arc::from(channel));
        let reader = inner.readers.len();
        inner.readers.push(Reader { channel: channel.into(), stream, inbox: Vec::new(), cut: false, gone: false });
        Ok(Box::new(NetSubscription { net: Arc::clone(net), reader, fd, stream }))
    }

    fn address(&self) -> &str {
        "net"
    }
}

fn ended() -> Unreachable {
    Unreachable("net: the connection ended".to_owned())
}

struct NetConnection {
    net: Arc<Net>,
    line: usize,
    fd: Descriptor,
    stream: u64,
    out: Vec<(RequestId, Request)>,
    in_flight: VecDeque<RequestId>,
}

impl NetConnection {
    fn collect(&mut self, replies: &mut Vec<(RequestId, Reply)>) -> Result<(), Unreachable> {
        let mut inner = self.net.inner();
        let line = &mut inner.lines[self.line];
        let (came, cut) = (std::mem::take(&mut line.replies), line.cut);
        if !came.is_empty() {
            self.net.world.set_ready(self.stream, cut);
        } else if cut {
            return Err(ended());
        }
        drop(inner);
        for (id, reply) in came {
            assert_eq!(self.in_flight.pop_front(), Some(id), "replies come in order");
            replies.push((id, reply));
        }
        Ok(())
    }
}

impl Connection for NetConnection {
    fn push(&mut self, id: RequestId, request: Request) {
        self.in_flight.push_back(id);
        self.out.push((id, request));
    }

    fn turn(&mut self, wait: Duration, replies: &mut Vec<(RequestId, Reply)>) -> Result<(), Unreachable> {
        let before = replies.len();
        if !self.out.is_empty() {
            let mut inner = self.net.inner();
            if !inner.lines[self.line].cut {
                inner.lines[self.line].asked.extend(self.out.drain(..));
            }
            drop(inner);
            self.net.changed.notify_all();
        }
        self.collect(replies)?;
        if replies.len() == before && !self.in_flight.is_empty() && !wait.is_zero() {
            // A poll counts in milliseconds: rounded up, or it would not sleep.
            poll_readable(&[self.fd.0], Duration::from_millis(wait.as_micros().div_ceil(1_000) as u64));
            self.collect(replies)?;
        }
        Ok(())
    }

    fn pending(&self) -> Vec<RequestId> {
        self.in_flight.iter().copied().collect()
    }

    fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    fn fd(&self) -> Option<RawFd> {
        Some(self.fd.0)
    }

    fn wants_write(&self) -> bool {
        false
    }
}

struct NetSubscription {
    net: Arc<Net>,
    reader: usize,
    fd: Descriptor,
    stream: u64,
}

impl Subscription for NetSubscription {
    fn ping(&mut self, number: u64) -> Result<(), Unreachable> {
        let mut inner = self.net.inner();
        let reader = &mut inner.readers[self.reader];
        if reader.cut {
            return Err(ended());
        }
        reader.inbox.push(Push::Pong { number });
        self.net.world.set_ready(self.stream, true);
        Ok(())
    }

    fn receive(&mut self, pushes: &mut Vec<Push>) -> Result<(), Unreachable> {
        let mut inner = self.net.inner();
        let reader = &mut inner.readers[self.reader];
        pushes.append(&mut reader.inbox);
        let cut = reader.cut;
        self.net.world.set_ready(self.stream, cut);
        drop(inner);
        if cut { Err(ended()) } else { Ok(()) }
    }

    fn fd(&self) -> Option<RawFd> {
        Some(self.fd.0)
    }
}

impl Drop for NetSubscription {
    fn drop(&mut self) {
        let mut inner = self.net.inner();
        let reader = &mut inner.readers[self.reader];
        reader.gone = true;
        let channel = Arc::clone(&reader.channel);
        inner.server.unsubscribe(&channel);
    }
}
