//! A proxy that treats what passes as bytes, as a bad network does: it cuts what the server says after so many of them,
//! falls silent there, hands it on in small pieces, or is slow to take what the client says. It notes what the client said.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Clone, Copy, Debug, Default)]
pub struct Ways {
    /// Cut the first connection after so many bytes from the server.
    pub cut: Option<usize>,
    /// Say nothing more after so many bytes from the server.
    pub silent: Option<usize>,
    /// Hand on so many bytes at a time, both ways.
    pub piece: Option<usize>,
    /// Take what the client says this late, so that its buffers fill.
    pub late: Option<Duration>,
}

pub struct Meddler {
    pub port: u16,
    /// What the client said on each connection.
    pub said: Arc<Mutex<Vec<Vec<u8>>>>,
    /// How many bytes the server said on the first.
    pub heard: Arc<AtomicUsize>,
}

impl Meddler {
    /// Runs until the test's process ends.
    pub fn start(server: u16, ways: Ways) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port for the proxy");
        let port = listener.local_addr().unwrap().port();
        let (said, heard) = (Arc::<Mutex<Vec<Vec<u8>>>>::default(), Arc::<AtomicUsize>::default());
        let (said_to, heard_to) = (Arc::clone(&said), Arc::clone(&heard));
        std::thread::spawn(move || {
            for (number, client) in listener.incoming().enumerate() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(("127.0.0.1", server))) else { continue };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                said_to.lock().unwrap().push(Vec::new());
                let copy = |stream: &TcpStream| stream.try_clone().unwrap();
                let (from, to, said) = (copy(&client), copy(&server), Arc::clone(&said_to));
                std::thread::spawn(move || requests(number, ways, from, to, &said));
                let heard = if number == 0 { Arc::clone(&heard_to) } else { Arc::default() };
                let ways = Ways { cut: ways.cut.filter(|_| number == 0), ..ways };
                std::thread::spawn(move || replies(ways, server, client, &heard));
            }
        });
        Meddler { port, said, heard }
    }
}

fn requests(number: usize, ways: Ways, mut from: TcpStream, mut to: TcpStream, said: &Mutex<Vec<Vec<u8>>>) {
    let mut buffer = [0; 16 * 1024];
    loop {
        if let Some(late) = ways.late {
            std::thread::sleep(late);
        }
        let count = from.read(&mut buffer).unwrap_or(0);
        said.lock().unwrap()[number].extend_from_slice(&buffer[..count]);
        if count == 0 || !hand_on(ways, &buffer[..count], &mut to) {
            let _ = to.shutdown(Shutdown::Write);
            return;
        }
    }
}

fn replies(ways: Ways, mut from: TcpStream, mut to: TcpStream, heard: &AtomicUsize) {
    let mut buffer = [0; 16 * 1024];
    loop {
        let count = from.read(&mut buffer).unwrap_or(0);
        let before = heard.fetch_add(count, Ordering::SeqCst);
        let end = [ways.cut, ways.silent].into_iter().flatten().min().unwrap_or(usize::MAX);
        let passes = count.min(end.saturating_sub(before));
        let passed = hand_on(ways, &buffer[..passes], &mut to);
        if ways.cut.is_some_and(|cut| before + count >= cut) || count == 0 || !passed {
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
            return;
        }
    }
}

fn hand_on(ways: Ways, bytes: &[u8], to: &mut TcpStream) -> bool {
    bytes.chunks(ways.piece.unwrap_or(usize::MAX)).all(|piece| to.write_all(piece).is_ok())
}
