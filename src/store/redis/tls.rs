//! TLS between a socket that does not wait and those who read and write plain text, by rustls. Knows no protocol above.
//!
//! Plain text never stays in here: whatever a call brings off the socket is decrypted and handed out in that call, so that
//! the socket being readable remains the only sign that there is more. What is not yet sent does stay, and is sent by any
//! later call.

use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription as Alert, CertificateError, ClientConfig, ClientConnection, RootCertStore};

use super::Tls;
use super::socket::{Received, Socket};

impl Tls {
    /// Can a certificate have this name? `Err`: why not.
    pub fn check_server_name(name: &str) -> Result<(), String> {
        ServerName::try_from(name).map(drop).map_err(|_| "is no name that a certificate can have".to_owned())
    }
}

/// Whom to trust where no CA is named: the platform's CAs, read once.
#[derive(Default)]
pub struct Trust(Mutex<Option<Arc<RootCertStore>>>);

impl Trust {
    /// A session that has not yet begun. Reads the files.
    pub fn session(&self, tls: &Tls, host: &str) -> Result<Session, String> {
        let name = tls.server_name.as_deref().unwrap_or(host).to_owned();
        let name = ServerName::try_from(name)
            .map_err(|_| "TLS: the host is no name that a certificate can have; give server_name".to_owned())?;
        let config = self.config(tls).map_err(|problem| format!("TLS: {problem}"))?;
        let inner = ClientConnection::new(Arc::new(config), name).map_err(|error| format!("TLS: {error}"))?;
        Ok(Session { inner, cipher: Vec::new(), closed: false, failed: None })
    }

    fn config(&self, tls: &Tls) -> Result<ClientConfig, String> {
        let roots = match &tls.ca {
            Some(path) => Arc::new(own_roots(path)?),
            None => self.platform_roots()?,
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let mut config = match (&tls.cert, &tls.key) {
            (Some(cert), Some(key)) => {
                let chain = certificates("cert", cert)?;
                let secret = PrivateKeyDer::from_pem_slice(&read("key", key)?);
                let secret = secret.map_err(|_| format!("key: {}: no private key in PEM", key.display()))?;
                let usable = builder.with_client_auth_cert(chain, secret);
                usable.map_err(|error| format!("cert: {}, key: {}: {error}", cert.display(), key.display()))?
            }
            _ => builder.with_no_client_auth(),
        };
        // A locker has five connections at most, and seldom a new one: no sessions are kept for later.
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    fn platform_roots(&self) -> Result<Arc<RootCertStore>, String> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(roots) = &*known {
            return Ok(Arc::clone(roots));
        }
        let loaded = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(loaded.certs);
        if roots.is_empty() {
            let why = loaded.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
            return Err(format!("this system has no CA certificates{why}; name some with ca"));
        }
        Ok(Arc::clone(known.insert(Arc::new(roots))))
    }
}

fn read(what: &str, path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{what}: {}: {error}", path.display()))
}

fn certificates(what: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(what, path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    all.ok().filter(|all| !all.is_empty()).ok_or_else(|| format!("{what}: {}: no certificate in PEM", path.display()))
}

fn own_roots(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("ca", path)? {
        roots.add(certificate).map_err(|error| format!("ca: {}: {}", path.display(), explain(&error)))?;
    }
    Ok(roots)
}

/// One connection's TLS.
pub struct Session {
    inner: ClientConnection,
    cipher: Vec<u8>,
    /// The other side has said that nothing more comes.
    closed: bool,
    /// What ended it, behind the last data that was still good.
    failed: Option<String>,
}

impl Session {
    /// Until the other side has proved who it is, or the deadline, which is `timeout` after the beginning, or until `stopped`.
    pub fn shake_hands(
        &mut self,
        socket: &Socket,
        deadline: Instant,
        timeout: Duration,
        stopped: &AtomicBool,
    ) -> Result<(), String> {
        let mut early = Vec::new();
        let broken = |text: String| format!("the TLS handshake failed: {text}");
        while self.inner.is_handshaking() || self.inner.wants_write() {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.receive(socket, &mut early, left, false) {
                _ if !self.inner.is_handshaking() && !self.inner.wants_write() => break,
                Ok(Received::Closed) => {
                    return Err(broken("the server closed the connection; does it speak TLS?".to_owned()));
                }
                Err(error) => return Err(broken(error.to_string())),
                Ok(_) if left.is_zero() => {
                    let ms = timeout.as_millis();
                    return Err(format!("no TLS handshake within {ms} ms; does the server speak TLS?"));
                }
                Ok(_) if stopped.load(Ordering::Acquire) => return Err("no longer wanted".to_owned()),
                Ok(_) => {}
            }
        }
        // A Redis says nothing before it is asked.
        if early.is_empty() { Ok(()) } else { Err(broken("the server spoke before it was asked".to_owned())) }
    }

    pub fn send(&mut self, socket: &Socket, bytes: &[u8]) -> io::Result<usize> {
        self.check()?;
        let taken = self.inner.writer().write(bytes)?;
        self.flush(socket);
        Ok(taken)
    }

    fn check(&self) -> io::Result<()> {
        self.failed.as_ref().map_or(Ok(()), |why| Err(io::Error::other(why.clone())))
    }

    /// Sends what there is room for. That it cannot be sent says less than what the other side said before it closed,
    /// such as that it wants a certificate: [`receive`](Self::receive) tells that, or that the connection has ended.
    pub fn flush(&mut self, socket: &Socket) {
        while self.inner.wants_write() && self.inner.write_tls(&mut Out(socket)).is_ok() {}
    }

    pub fn wants_write(&self) -> bool {
        self.inner.wants_write()
    }

    pub fn receive(
        &mut self,
        socket: &Socket,
        input: &mut Vec<u8>,
        wait: Duration,
        unsent: bool,
    ) -> io::Result<Received> {
        self.flush(socket);
        self.check()?;
        if self.closed {
            return Ok(Received::Closed);
        }
        self.cipher.clear();
        let unsent = unsent || self.wants_write();
        match socket.receive(&mut self.cipher, wait, unsent)? {
            Received::Data(_) => {}
            other => return Ok(other),
        }
        let before = input.len();
        if let Err(error) = self.decrypt(input) {
            self.flush(socket); // the alert
            self.failed = Some(error.to_string());
            if input.len() == before {
                return Err(error);
            }
        }
        let count = input.len() - before;
        Ok(if self.closed && count == 0 { Received::Closed } else { Received::Data(count) })
    }

    /// All that is in `cipher`.
    fn decrypt(&mut self, input: &mut Vec<u8>) -> io::Result<()> {
        let mut rest = &self.cipher[..];
        while !rest.is_empty() && !self.closed {
            self.inner.read_tls(&mut rest)?;
            let state = self.inner.process_new_packets().map_err(|error| io::Error::other(explain(&error)))?;
            self.closed = state.peer_has_closed();
            let (at, count) = (input.len(), state.plaintext_bytes_to_read());
            input.resize(at + count, 0);
            self.inner.reader().read_exact(&mut input[at..])?;
        }
        Ok(())
    }

    /// Says that nothing more comes, if there is room for it.
    pub fn close(&mut self, socket: &Socket) {
        self.inner.send_close_notify();
        self.flush(socket);
    }
}

/// The socket as rustls writes to it.
struct Out<'a>(&'a Socket);

impl Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.send(bytes)? {
            0 => Err(ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What went wrong, for those who have to mend it.
fn explain(error: &rustls::Error) -> String {
    use CertificateError as Bad;
    use rustls::Error::{AlertReceived, InvalidCertificate, InvalidMessage};
    match error {
        InvalidCertificate(Bad::UnknownIssuer) => "no CA that is trusted here has signed the server's certificate",
        InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => "the server's certificate has expired",
        InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => {
            "the server's certificate is not valid yet"
        }
        InvalidCertificate(Bad::NotValidForNameContext { expected, presented }) => {
            let has = if presented.is_empty() { "none".to_owned() } else { presented.join(", ") };
            return format!("the server's certificate is not for {:?}; its names: {has}", expected.to_str());
        }
        AlertReceived(Alert::CertificateRequired) => {
            "the server wants a client's certificate; name one with cert and key"
        }
        AlertReceived(Alert::HandshakeFailure) => {
            "the server refuses the handshake; perhaps it wants a client's certificate (cert and key)"
        }
        AlertReceived(
            alert @ (Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::UnsupportedCertificate
            | Alert::AccessDenied),
        ) => return format!("the server refuses the client's certificate ({alert:?})"),
        InvalidMessage(_) => "the server does not speak TLS",
        other => return other.to_string(),
    }
    .to_owned()
}
