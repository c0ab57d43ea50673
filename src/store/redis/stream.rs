//! A socket, with or without TLS on it: the same few calls for both, which never wait for longer than they are told. Knows
//! no protocol above.

use std::os::fd::RawFd;
use std::time::{Duration, Instant};
use std::{io, mem};

use super::socket::{Received, Socket};
use super::tls::Session;
use super::{Address, Site};

/// A connection as bytes. Closed when dropped, with TLS after saying so.
pub struct Stream {
    socket: Socket,
    tls: Option<Box<Session>>,
}

impl Stream {
    /// Connects, and shakes hands where there is TLS; `Err` is a text that does not name the address.
    pub fn connect(site: &Site) -> Result<Self, String> {
        let config = &site.config;
        let deadline = Instant::now() + config.connect_timeout;
        let host = if let Address::Tcp { host, .. } = &config.address { host } else { "" };
        let session = |tls| site.trust.session(tls, host).map(Box::new);
        let tls = config.tls.as_ref().map(session).transpose()?;
        let socket = Socket::connect(&config.address, config.connect_timeout, &site.descriptors)?;
        let mut stream = Stream { socket, tls };
        if let Some(tls) = &mut stream.tls {
            tls.shake_hands(&stream.socket, deadline, config.connect_timeout, &site.stopped)?;
        }
        Ok(stream)
    }

    /// Takes so many of the bytes; 0 where there is no room now. With TLS they may not yet be sent: see
    /// [`wants_write`](Self::wants_write).
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.socket.send(bytes),
            Some(tls) => tls.send(&self.socket, bytes),
        }
    }

    /// Sends what was taken and could not be sent then.
    pub fn flush(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.flush(&self.socket);
        }
    }

    /// Was something taken that is not sent?
    pub fn wants_write(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Appends what has come to `input`; where nothing has, waits up to `wait`, but at most about
    /// [`SLICE`](super::socket::SLICE). With `unsent`, the wait ends also when there is room to send. Afterwards nothing
    /// that could be read is held back: the descriptor is readable when there is more. (`Data(0)`: what came was no data,
    /// or not a whole record.)
    pub fn receive(&mut self, input: &mut Vec<u8>, wait: Duration, unsent: bool) -> io::Result<Received> {
        match &mut self.tls {
            None => self.socket.receive(input, wait, unsent),
            Some(tls) => tls.receive(&self.socket, input, wait, unsent),
        }
    }

    /// What to poll.
    pub fn fd(&self) -> RawFd {
        self.socket.fd()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(mut tls) = mem::take(&mut self.tls) {
            tls.close(&self.socket);
        }
    }
}
