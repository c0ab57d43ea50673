//! A TCP proxy in front of a test's server, so that a real client meets a bad network: it swallows replies, goes silent,
//! delays, and cuts. It forwards bytes and knows nothing of what they mean, but for a text to look for.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Nothing that a test waits for takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Requests,
    /// From the server to the client.
    Replies,
}

/// A running proxy, ended when dropped.
pub struct Proxy {
    shared: Arc<Shared>,
    port: u16,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    stopped: AtomicBool,
}

#[derive(Default)]
struct State {
    /// The server's port; `None`: it is down, and connections are closed at once.
    server: Option<u16>,
    /// Nothing passes in that direction, on connections old and new, until it is lifted.
    silent: [bool; 2],
    delay: [Duration; 2],
    /// The reply to the next request that contains this is dropped, and its connection cut.
    drop_reply_to: Option<Vec<u8>>,
    /// The next piece from the server that contains this vanishes; the connection stays.
    swallow: Option<Vec<u8>>,
    /// How many times one of these two happened.
    dropped: usize,
    connections: Vec<Connection>,
}

/// Its position in `State::connections` names it.
struct Connection {
    client: TcpStream,
    server: TcpStream,
    /// What the client sends on it is kept back until it is thawed, even where the client closed it meanwhile.
    frozen: bool,
    /// The next piece from the server is dropped, and the connection cut.
    doomed: bool,
    /// How many of the two directions go on.
    open: usize,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the state is such; false: the proxy ends.
    fn wait(&self, mut until: impl FnMut(&mut State) -> bool) -> bool {
        let mut state = self.state();
        while !until(&mut state) {
            if self.stopped.load(Ordering::Acquire) {
                return false;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            if self.stopped.load(Ordering::Acquire) {
                return;
            }
            let Ok(client) = client else { continue };
            let upstream = self.state().server;
            let Some(server) = upstream.and_then(|port| TcpStream::connect(("127.0.0.1", port)).ok()) else {
                continue;
            };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let copy = |stream: &TcpStream| stream.try_clone().expect("a second handle of a socket");
            let pumps = [
                (Direction::Requests, copy(&client), copy(&server)),
                (Direction::Replies, copy(&server), copy(&client)),
            ];
            let index = {
                let mut state = self.state();
                state.connections.push(Connection { client, server, frozen: false, doomed: false, open: 2 });
                state.connections.len() - 1
            };
            for (direction, from, to) in pumps {
                let shared = Arc::clone(self);
                std::thread::spawn(move || shared.pump(index, direction, from, to));
            }
        }
    }

    /// Carries one direction of one connection to its end.
    fn pump(&self, index: usize, direction: Direction, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = [0; 16 * 1024];
        loop {
            let count = from.read(&mut buffer).unwrap_or(0);
            let passes = |state: &mut State| {
                let frozen = direction == Direction::Requests && state.connections[index].frozen;
                !state.silent[direction as usize] && !frozen
            };
            if !self.wait(passes) {
                break;
            }
            let delay = self.state().delay[direction as usize];
            if !delay.is_zero() {
                std::thread::sleep(delay);
            }
            // The end of the stream is subject to the same.
            if count == 0 || !self.pass(index, direction, &buffer[..count], &mut to) {
                break;
            }
        }
        // What the client sent before it closed is still carried out; where the server closes, both sides end.
        let _ = to.shutdown(if direction == Direction::Requests { Shutdown::Write } else { Shutdown::Both });
        self.state().connections[index].open -= 1;
        self.changed.notify_all();
    }

    /// False: the connection is cut.
    fn pass(&self, index: usize, direction: Direction, bytes: &[u8], to: &mut TcpStream) -> bool {
        let mut state = self.state();
        match direction {
            Direction::Requests => {
                if state.drop_reply_to.as_ref().is_some_and(|text| contains(bytes, text)) {
                    state.drop_reply_to = None;
                    state.connections[index].doomed = true;
                }
            }
            Direction::Replies => {
                let doomed = state.connections[index].doomed;
                if doomed || state.swallow.as_ref().is_some_and(|text| contains(bytes, text)) {
                    state.dropped += 1;
                    if doomed {
                        state.connections[index].cut();
                    } else {
                        state.swallow = None;
                    }
                    self.changed.notify_all();
                    return !doomed;
                }
            }
        }
        drop(state);
        // A client that has gone must not keep the server's replies from being read.
        to.write_all(bytes).is_ok() || direction == Direction::Replies
    }
}

impl Connection {
    fn cut(&self) {
        let _ = (self.client.shutdown(Shutdown::Both), self.server.shutdown(Shutdown::Both));
    }
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

impl Proxy {
    /// A proxy in front of the server on that port.
    pub fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port for the proxy");
        let port = listener.local_addr().expect("the proxy's port").port();
        let state = Mutex::new(State { server: Some(server), ..State::default() });
        let shared = Arc::new(Shared { state, changed: Condvar::new(), stopped: AtomicBool::new(false) });
        let acceptor = Arc::clone(&shared);
        let acceptor = std::thread::spawn(move || acceptor.accept(&listener));
        Proxy { shared, port, acceptor: Some(acceptor) }
    }

    /// Where clients connect.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.shared.state());
        self.shared.changed.notify_all();
        result
    }

    fn wait(&self, what: &str, until: impl Fn(&State) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.shared.state();
        while !until(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what}");
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Where the server is from now on; `None`: nowhere.
    pub fn set_server(&self, server: Option<u16>) {
        self.change(|state| state.server = server);
    }

    /// Everything sent in that direction is kept back; the sockets stay open. Lifting it delivers what was kept.
    pub fn set_silent(&self, direction: Direction, silent: bool) {
        self.change(|state| state.silent[direction as usize] = silent);
    }

    /// Both directions.
    pub fn set_black_hole(&self, on: bool) {
        self.change(|state| state.silent = [on; 2]);
    }

    /// Every piece in that direction takes so much longer.
    pub fn set_delay(&self, direction: Direction, delay: Duration) {
        self.change(|state| state.delay[direction as usize] = delay);
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        self.change(|state| state.connections.iter().for_each(Connection::cut));
    }

    /// Keeps back what clients send on the connections that there are now; new ones work.
    pub fn freeze_requests(&self) {
        self.change(|state| state.connections.iter_mut().for_each(|connection| connection.frozen = true));
    }

    /// Delivers what was kept back on frozen connections that the client has closed, and waits until the server has
    /// carried it out (it closes them then).
    pub fn thaw_requests_of_dead_connections(&self) {
        let frozen = self.change(|state| {
            let frozen = state.connections.iter_mut().filter(|connection| connection.frozen);
            frozen.map(|connection| connection.frozen = false).count()
        });
        assert!(frozen > 0, "nothing was frozen");
        self.wait("frozen connections end", |state| {
            state.connections[..frozen].iter().all(|connection| connection.open == 0)
        });
    }

    /// The next request that contains `text` reaches the server; the reply is dropped and the connection cut.
    pub fn drop_reply_to(&self, text: &str) {
        self.change(|state| state.drop_reply_to = Some(text.as_bytes().to_vec()));
    }

    /// The next piece from the server that contains `text` vanishes.
    pub fn swallow(&self, text: &str) {
        self.change(|state| state.swallow = Some(text.as_bytes().to_vec()));
    }

    /// How many replies and messages have been dropped.
    pub fn dropped(&self) -> usize {
        self.shared.state().dropped
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        self.cut();
        // Wakes the acceptor.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}
