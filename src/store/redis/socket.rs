//! One socket, TCP or unix: connecting within a time, sending without waiting, receiving with or without. Knows no protocol.
//!
//! The hot path is one `send` and one blocking `recv`: a receive timeout that never changes stands in for a `poll`.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket as Inner, TcpKeepalive, Type};

use super::Address;
use crate::descriptors::{Descriptors, Noted};

/// The receive timeout of every socket: a blocking receive returns after this, at the latest.
pub const SLICE: Duration = Duration::from_millis(20);
const CHUNK: usize = 16 * 1024;

/// What a receive brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// So many bytes.
    Data(usize),
    /// Nothing yet.
    Nothing,
    /// The peer closed.
    Closed,
}

/// A connected socket, closed when dropped, and by `exec`.
pub struct Socket {
    /// Dropped first: the number of a closed descriptor may be another's.
    _noted: Option<Noted>,
    inner: Inner,
}

impl Socket {
    /// Connects; `Err` is a text that does not name the address.
    pub fn connect(address: &Address, timeout: Duration, all: &Arc<Descriptors>) -> Result<Self, String> {
        match address {
            Address::Unix(path) => {
                let peer = SockAddr::unix(path).map_err(|error| format!("not a usable path: {error}"))?;
                Self::open(Domain::UNIX, &peer, timeout, all).map_err(|error| connect_error(&error, timeout))
            }
            Address::Tcp { host, port } => Self::connect_tcp(host, *port, timeout, all),
            Address::Service(_) => Err("a service is no place to connect to".to_owned()), // its sentinels name one
        }
    }

    fn connect_tcp(host: &str, port: u16, timeout: Duration, all: &Arc<Descriptors>) -> Result<Self, String> {
        let deadline = Instant::now() + timeout;
        let unresolved = |error: io::Error| format!("cannot resolve the host name: {error}");
        let peers: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(unresolved)?.collect();
        let mut failure = "cannot resolve the host name: it has no address".to_owned();
        for (i, peer) in peers.iter().enumerate() {
            // What is left is shared among the addresses not yet tried: a black hole does not starve the next.
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / (peers.len() - i) as u32;
            let share = share.max(Duration::from_millis(1));
            match Self::open(Domain::for_address(*peer), &SockAddr::from(*peer), share, all) {
                Ok(socket) => return Ok(socket),
                Err(error) => failure = connect_error(&error, timeout),
            }
        }
        Err(failure)
    }

    fn open(domain: Domain, peer: &SockAddr, timeout: Duration, all: &Arc<Descriptors>) -> io::Result<Self> {
        let inner = Inner::new(domain, Type::STREAM, None)?;
        let made = Socket { _noted: all.note(inner.as_raw_fd()), inner };
        let socket = &made.inner;
        if domain == Domain::UNIX {
            // A connect to a unix socket does not wait in `poll` but in the call, for room in the backlog.
            let deadline = Instant::now() + timeout;
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(ErrorKind::TimedOut.into());
                }
                socket.set_write_timeout(Some(left.max(Duration::from_millis(1))))?; // 0 would be for ever
                match socket.connect(peer) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    connected => break connected?,
                }
            }
        } else {
            socket.connect_timeout(peer, timeout)?;
            socket.set_tcp_nodelay(true)?;
            let keepalive =
                TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15));
            socket.set_tcp_keepalive(&keepalive)?;
        }
        socket.set_read_timeout(Some(SLICE))?;
        Ok(made)
    }

    /// Sends what fits now; 0 where nothing does. Never raises `SIGPIPE`.
    pub fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.inner.send_with_flags(bytes, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
                sent => return sent,
            }
        }
    }

    /// Appends what has come to `input`; where nothing has, waits up to `wait`, but at most about [`SLICE`]. With
    /// `unsent`, the wait ends also when there is room to send.
    pub fn receive(&self, input: &mut Vec<u8>, wait: Duration, unsent: bool) -> io::Result<Received> {
        let block = wait >= SLICE && !unsent;
        if !block && !wait.is_zero() && !self.poll(wait.min(SLICE), unsent)? {
            return Ok(Received::Nothing);
        }
        input.reserve(CHUNK);
        let flags = if block { 0 } else { libc::MSG_DONTWAIT };
        match self.inner.recv_with_flags(input.spare_capacity_mut(), flags) {
            Ok(0) => Ok(Received::Closed),
            Ok(count) => {
                // SAFETY: the kernel has written `count` bytes into the spare capacity.
                unsafe { input.set_len(input.len() + count) };
                Ok(Received::Data(count))
            }
            // Interrupted: the caller looks at the clock and comes again. To wait anew here would be to wait for ever where
            // signals come more often than the receive timeout.
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) =>
            {
                Ok(Received::Nothing)
            }
            Err(error) => Err(error),
        }
    }

    fn poll(&self, wait: Duration, unsent: bool) -> io::Result<bool> {
        let events = if unsent { libc::POLLIN | libc::POLLOUT } else { libc::POLLIN };
        let mut descriptor = libc::pollfd { fd: self.inner.as_raw_fd(), events, revents: 0 };
        let ms = wait.as_micros().div_ceil(1000) as libc::c_int;
        // SAFETY: one descriptor, which lives through the call.
        match unsafe { libc::poll(&mut descriptor, 1, ms) } {
            -1 => match io::Error::last_os_error() {
                // Interrupted: look again without waiting; the caller loops.
                error if error.kind() == ErrorKind::Interrupted => Ok(true),
                error => Err(error),
            },
            ready => Ok(ready > 0),
        }
    }

    /// What to poll.
    pub fn fd(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}

fn connect_error(error: &io::Error, timeout: Duration) -> String {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => format!("no connection within {} ms", timeout.as_millis()),
        ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        ErrorKind::NotFound => "no such socket".to_owned(),
        _ => format!("cannot connect: {error}"),
    }
}
