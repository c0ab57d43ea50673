//! A relay between clients and a real server that knows which bytes answer which command, and does to one answer (or to
//! all of its kind from then on) what a script says: cuts it at a byte, falls silent there, sends something else, sends
//! it twice or late, or lets the command never arrive.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What becomes of an answer.
#[derive(Clone, Debug)]
pub enum Fate {
    /// So many bytes, then the connection is cut.
    Cut(usize),
    /// So many bytes, then nothing more on this connection.
    Silent(usize),
    /// These bytes instead.
    Replace(Vec<u8>),
    Twice,
    Late(Duration),
    /// The command does not reach the server, and the connection is cut.
    Unsent,
    /// The server refuses the command, in these words.
    Refused(&'static str),
}

impl Fate {
    /// Does it strike the command, and not the answer?
    fn is_of_command(&self) -> bool {
        matches!(self, Fate::Unsent | Fate::Refused(_))
    }
}

/// Stands for any command but those of the handshake.
pub const ANY: &str = "any";

/// Which answer: the n-th (from 0) of that kind, or also all later ones; and what becomes of it.
#[derive(Clone, Debug)]
pub struct Plan {
    pub kind: &'static str,
    pub nth: usize,
    pub lasting: bool,
    pub fate: Fate,
}

/// An answer that went through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub kind: &'static str,
    pub nth: usize,
    pub length: usize,
}

#[derive(Default)]
struct State {
    plan: Option<Plan>,
    /// Answers, and commands that came, by kind.
    answers: HashMap<&'static str, usize>,
    commands: HashMap<&'static str, usize>,
    seen: Vec<Seen>,
    struck: usize,
    /// Scripts by what `EVALSHA` calls them.
    scripts: HashMap<Vec<u8>, &'static str>,
    streams: Vec<TcpStream>,
    /// The clients whose commands are being carried; open for as long as they are here.
    clients: HashSet<RawFd>,
}

impl State {
    /// Counts one more of that kind, and says whether the plan means it.
    fn strikes(&mut self, kind: &'static str, on_request: bool) -> Option<Fate> {
        let counts = if on_request { &mut self.commands } else { &mut self.answers };
        let nth = counts.entry(kind).or_default();
        let this = *nth;
        *nth += 1;
        let plan = self.plan.clone()?;
        let meant = (plan.kind == kind || plan.kind == ANY && !crate::stories::is_handshake(kind))
            && (plan.nth == this || plan.lasting && plan.nth < this);
        if !meant || plan.fate.is_of_command() != on_request {
            return None;
        }
        self.struck += 1;
        Some(plan.fate)
    }
}

struct Shared {
    server: u16,
    state: Mutex<State>,
    stopped: AtomicBool,
}

pub struct Relay {
    shared: Arc<Shared>,
    port: u16,
    acceptor: Option<std::thread::JoinHandle<()>>,
}

/// The handshake's transaction that finds out what the user may do, and is never carried out: after its `MULTI`, which is
/// "rights". These and what `INFO` answers are not struck: there are many, and thousands of bytes of them.
const UNSTRUCK: [&str; 2] = ["further rights", "INFO"];

/// Where a connection is in that transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rights {
    Unasked,
    Asked,
    Known,
}

/// What a command is called, and the words in which it is refused.
type Asked = (&'static str, Option<&'static str>);

/// An `EXEC` that is refused ends the transaction.
const DISCARD: &[u8] = b"*1\r\n$7\r\nDISCARD\r\n";
/// No command: refused by the server, also in a transaction, which it spoils as a refused command does.
const NO_COMMAND: &[u8] = b"*1\r\n$7\r\nREFUSED\r\n";

fn script_in(body: &[u8]) -> &'static str {
    let marks = [("-- Join", "join"), ("-- Renew", "renew"), ("-- Release", "release"), ("-- Leave", "leave")];
    let has = |mark: &str| body.windows(mark.len()).any(|window| window == mark.as_bytes());
    marks.iter().find(|(mark, _)| has(mark)).map_or("floor", |(_, name)| name)
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self, words: &[&[u8]], rights: &mut Rights) -> Asked {
        match (*rights, words[0]) {
            (Rights::Unasked, b"MULTI") => {
                *rights = Rights::Asked;
                return ("rights", None);
            }
            (Rights::Asked, word) => {
                *rights = if word == b"EXEC" { Rights::Known } else { Rights::Asked };
                return (UNSTRUCK[0], None);
            }
            _ => {}
        }
        let kind = match (words[0], words.get(1).copied()) {
            (b"INFO", _) => UNSTRUCK[1],
            (b"SCRIPT", _) => {
                let body = std::str::from_utf8(words[2]).expect("a script is text");
                let sha = redis::Script::new(body).get_hash().as_bytes().to_vec();
                self.state().scripts.insert(sha, script_in(words[2]));
                "SCRIPT LOAD"
            }
            (b"EVAL", Some(body)) => script_in(body),
            (b"EVALSHA", Some(sha)) => *self.state().scripts.get(sha).expect("a script that was loaded"),
            (b"CLIENT", _) => "CLIENT SETNAME",
            (b"AUTH", _) => "AUTH",
            (b"SELECT", _) => "SELECT",
            (b"PUBLISH", _) => "PUBLISH",
            (b"SUBSCRIBE", _) => "SUBSCRIBE",
            (b"PING", _) => "PING",
            (b"MULTI", _) => "MULTI",
            (b"SET", _) => "SET",
            (b"INCR", _) => "INCR",
            (b"EXEC", _) => "EXEC",
            (b"GET", _) => "GET",
            (other, _) => panic!("no command of the protocol: {}", String::from_utf8_lossy(other)),
        };
        (kind, None)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            if self.stopped.load(Ordering::Acquire) {
                return;
            }
            let Ok(client) = client else { continue };
            let server = TcpStream::connect(("127.0.0.1", self.server)).expect("the server listens");
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let copy = |stream: &TcpStream| stream.try_clone().expect("a second handle of a socket");
            self.state().streams.extend([copy(&client), copy(&server)]);
            let line: Arc<Mutex<VecDeque<Asked>>> = Arc::default();
            let (shared, asked, from, to) = (Arc::clone(self), Arc::clone(&line), copy(&client), copy(&server));
            self.state().clients.insert(from.as_raw_fd());
            std::thread::spawn(move || {
                shared.requests(&asked, &from, to);
                shared.state().clients.remove(&from.as_raw_fd());
            });
            let shared = Arc::clone(self);
            std::thread::spawn(move || shared.answers(&line, server, client));
        }
    }

    /// What a client sent on a connection that it has closed reaches the server before what it sends on another after that,
    /// as it does without a relay in between: else it could run after a release, and take the lock for a lease (rule 11).
    fn let_the_dead_go_first(&self, own: &TcpStream) {
        while !is_closed(own.as_raw_fd()) && self.state().clients.iter().any(|&client| is_closed(client)) {
            std::thread::yield_now();
        }
    }

    /// Carries commands to the server, one by one.
    fn requests(&self, line: &Mutex<VecDeque<Asked>>, from: &TcpStream, mut to: TcpStream) {
        let (mut input, mut rights) = (Vec::new(), Rights::Unasked);
        while read_more(from, &mut input) {
            while let Some(length) = length(&input) {
                let mut asked = self.asked(&words(&input[..length]), &mut rights);
                let fate = self.state().strikes(asked.0, true);
                if let Some(Fate::Unsent) = fate {
                    return cut(from, &to);
                }
                let refused = if let Some(Fate::Refused(words)) = fate { Some(words) } else { None };
                asked.1 = refused;
                line.lock().unwrap_or_else(PoisonError::into_inner).push_back(asked);
                let command = match (refused, asked.0) {
                    (None, _) => &input[..length],
                    (Some(_), "EXEC") => DISCARD,
                    (Some(_), _) => NO_COMMAND,
                };
                self.let_the_dead_go_first(from);
                if to.write_all(command).is_err() {
                    return cut(from, &to);
                }
                input.drain(..length);
            }
        }
        let _ = to.shutdown(Shutdown::Write); // what was sent is still carried out
    }

    /// Carries answers and messages to the client, one by one.
    fn answers(&self, line: &Mutex<VecDeque<Asked>>, from: TcpStream, mut to: TcpStream) {
        let (mut input, mut silent) = (Vec::new(), false);
        while read_more(&from, &mut input) {
            while let Some(length) = length(&input) {
                let mut answer: Vec<u8> = input.drain(..length).collect();
                let (kind, refused) = self.kind_of(line, &answer);
                if let Some(words) = refused {
                    let because = if kind == "EXEC" { "EXECABORT Transaction discarded because of: " } else { "" };
                    answer = format!("-{because}{words}\r\n").into_bytes();
                }
                let fate = {
                    let mut state = self.state();
                    let nth = state.answers.get(kind).copied().unwrap_or(0);
                    if !UNSTRUCK.contains(&kind) {
                        state.seen.push(Seen { kind, nth, length });
                    }
                    state.strikes(kind, false)
                };
                if silent {
                    continue;
                }
                let sent = match fate {
                    None => to.write_all(&answer),
                    Some(Fate::Cut(at)) => {
                        let _ = to.write_all(&answer[..at]);
                        return cut(&from, &to);
                    }
                    Some(Fate::Silent(at)) => {
                        silent = true;
                        to.write_all(&answer[..at])
                    }
                    Some(Fate::Replace(bytes)) => to.write_all(&bytes),
                    Some(Fate::Twice) => to.write_all(&[&answer[..], &answer].concat()),
                    Some(Fate::Late(delay)) => {
                        std::thread::sleep(delay);
                        to.write_all(&answer)
                    }
                    Some(Fate::Unsent | Fate::Refused(_)) => unreachable!("strikes commands"),
                };
                if sent.is_err() {
                    break; // the client has gone; the server's answers are still to be read
                }
            }
        }
        cut(&from, &to);
    }

    /// Which command this answers, or which message it is; and the words that it is to be refused with.
    fn kind_of(&self, line: &Mutex<VecDeque<Asked>>, answer: &[u8]) -> Asked {
        if answer.starts_with(b"*3\r\n$7\r\nmessage\r\n") {
            let has = |word: &[u8]| answer.windows(word.len()).any(|window| window == word);
            return (if has(b"\r\nhandoff ") { "message handoff" } else { "message dropped" }, None);
        }
        let asked = line.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        asked.expect("an answer to a command")
    }
}

fn cut(one: &TcpStream, other: &TcpStream) {
    let _ = (one.shutdown(Shutdown::Both), other.shutdown(Shutdown::Both));
}

/// Has the other side closed it, whatever is still to be read?
fn is_closed(socket: RawFd) -> bool {
    let mut asked = libc::pollfd { fd: socket, events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one descriptor, which lives through the call.
    unsafe { libc::poll(&mut asked, 1, 0) > 0 }
}

fn read_more(mut from: &TcpStream, input: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 16 * 1024];
    let count = from.read(&mut buffer).unwrap_or(0);
    input.extend_from_slice(&buffer[..count]);
    count > 0
}

/// How long the first command or answer is; `None` while it is not complete.
fn length(input: &[u8]) -> Option<usize> {
    let end = input.iter().position(|&b| b == b'\n')? + 1;
    let number = || std::str::from_utf8(&input[1..end - 2]).ok()?.parse::<i64>().ok();
    match input[0] {
        b'$' => match number()? {
            -1 => Some(end),
            n => Some(end + n as usize + 2).filter(|&all| all <= input.len()),
        },
        b'*' => {
            let mut at = end;
            for _ in 0..number()?.max(0) {
                at += length(input.get(at..)?)?;
            }
            Some(at)
        }
        _ => Some(end),
    }
}

/// The words of a command.
fn words(command: &[u8]) -> Vec<&[u8]> {
    let mut at = length_of_line(command);
    let mut words = Vec::new();
    while at < command.len() {
        let all = length(&command[at..]).expect("a whole command");
        words.push(&command[at + length_of_line(&command[at..])..at + all - 2]);
        at += all;
    }
    words
}

fn length_of_line(input: &[u8]) -> usize {
    input.iter().position(|&b| b == b'\n').expect("a line") + 1
}

impl Relay {
    /// A relay in front of the server on that port.
    pub fn start(server: u16, plan: Option<Plan>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port for the relay");
        let port = listener.local_addr().expect("the relay's port").port();
        let state = Mutex::new(State { plan, ..State::default() });
        let shared = Arc::new(Shared { server, state, stopped: AtomicBool::new(false) });
        let accepting = Arc::clone(&shared);
        let acceptor = std::thread::spawn(move || accepting.accept(&listener));
        Relay { shared, port, acceptor: Some(acceptor) }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// How often the plan struck.
    pub fn struck(&self) -> usize {
        self.shared.state().struck
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.shared.state().seen.clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        for stream in &self.shared.state().streams {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let _ = TcpStream::connect(("127.0.0.1", self.port)); // wakes the acceptor
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}
