//! One ordered stream of requests and replies on one socket. Knows commands only through the codec.

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::codec::{Encoder, Form, Layout, Replies};
use super::copies::{Copies, Copying};
use super::error::{Denied, denied, has_code};
use super::resp::{self, Value};
use super::scripts::Scripts;
use super::sentinel::Era;
use super::socket::Received;
use super::stream::Stream;
use crate::store::name::FENCE;
use crate::store::{Connection, ErrorClass, Holder, Op, Reply, Request, RequestId, ServerError, Unreachable};

/// What was sent and has no reply.
struct InFlight {
    /// From the first turn on that brought no reply: where the server answers at once, the clock need not be read, which
    /// takes 75 ns where measured.
    since: Option<Instant>,
    asked: Asked,
}

enum Asked {
    /// Something whose answer says nothing: a ping, so that nobody on the way takes the connection for unused.
    Filler,
    /// Are there enough copies of what was written before?
    Copies,
    /// Something else than a request; its answer is kept under that number.
    Aside(u32),
    Request(Pending),
}

struct Pending {
    id: RequestId,
    request: Request,
    replies: Replies,
    /// Where the script was sent whole, `NOSCRIPT` cannot be the answer any more.
    form: Form,
}

/// So much room is kept for what is sent and what comes; what a crowd needed besides, once, is given back.
const BYTES_KEPT: usize = 1 << 18;
const REQUESTS_KEPT: usize = 1_024;

pub struct RedisConnection {
    stream: Stream,
    address: Arc<str>,
    era: Era,
    response_timeout: Duration,
    scripts: Arc<Scripts>,
    encoder: Encoder,
    /// What is not yet sent begins at `sent`.
    out: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
    /// So much of what comes belongs to a value too long to be kept.
    skip: usize,
    in_flight: VecDeque<InFlight>,
    copying: Option<Copying>,
    asides: Vec<(u32, Vec<u8>)>,
    dead: Option<Unreachable>,
}

impl RedisConnection {
    pub fn new(
        stream: Stream,
        address: Arc<str>,
        era: Era,
        response_timeout: Duration,
        copies: Option<Copies>,
        scripts: Arc<Scripts>,
    ) -> Self {
        RedisConnection {
            stream,
            address,
            era,
            response_timeout,
            scripts,
            encoder: Encoder::default(),
            out: Vec::new(),
            sent: 0,
            input: Vec::new(),
            skip: 0,
            in_flight: VecDeque::new(),
            copying: copies.map(Copying::new),
            asides: Vec::new(),
            dead: None,
        }
    }

    /// For what is pushed from now on.
    pub fn set_layout(&mut self, layout: Layout) {
        self.encoder.layout = layout;
    }

    /// As [`Connection::push`], in that form.
    pub fn push_as(&mut self, id: RequestId, request: Request, form: Form) {
        self.encoder.encode(&mut self.out, &self.scripts, &request, form);
        if let Some(copying) = &mut self.copying {
            copying.note(request.op);
        }
        let asked = Asked::Request(Pending { id, request, replies: Replies::default(), form });
        self.in_flight.push_back(InFlight { since: None, asked });
    }

    /// Sends something of which no answer is wanted.
    pub fn say(&mut self, words: &[&[u8]]) {
        resp::words(&mut self.out, words);
        self.in_flight.push_back(InFlight { since: None, asked: Asked::Filler });
    }

    /// Sends something that is no request, written by `write`; [`asides`](Self::asides) answers the reply.
    pub fn ask_aside(&mut self, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.out);
        self.in_flight.push_back(InFlight { since: None, asked: Asked::Aside(number) });
    }

    /// The answers to what was asked aside, as they came over the wire.
    pub fn asides(&mut self) -> Vec<(u32, Vec<u8>)> {
        std::mem::take(&mut self.asides)
    }

    /// Sends what was written, behind it the question for its copies.
    fn send(&mut self) -> Result<(), String> {
        if self.copying.as_mut().is_some_and(|copying| copying.ask(&mut self.out)) {
            self.in_flight.push_back(InFlight { since: None, asked: Asked::Copies });
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), String> {
        self.stream.flush();
        while self.sent < self.out.len() {
            match self.stream.send(&self.out[self.sent..]) {
                Ok(0) => return Ok(()),
                Ok(count) => self.sent += count,
                Err(error) => return Err(format!("the connection is lost: {error}")),
            }
        }
        self.out.clear();
        self.out.shrink_to(BYTES_KEPT);
        self.sent = 0;
        Ok(())
    }

    /// Turns what has come into replies.
    fn decode(&mut self, replies: &mut Vec<(RequestId, Reply)>) -> Result<(), String> {
        let input = std::mem::take(&mut self.input);
        let mut at = 0;
        let result = loop {
            let skipped = self.skip.min(input.len() - at);
            self.skip -= skipped;
            at += skipped;
            if let Some(length) = self.take_oversized(&input[at..], replies) {
                self.skip = length;
                continue;
            }
            match resp::parse(&input[at..]) {
                Ok(None) => break Ok(()),
                Ok(Some((value, length))) => {
                    let wire = &input[at..at + length];
                    at += length;
                    if let Err(problem) = self.take(&value, wire, replies) {
                        break Err(problem);
                    }
                }
                Err(problem) => break Err(format!("the answer is not in the Redis protocol: {}", problem.0)),
            }
        };
        self.input = input;
        self.input.drain(..at);
        if self.in_flight.is_empty() {
            self.input.shrink_to(BYTES_KEPT);
            self.in_flight.shrink_to(REQUESTS_KEPT);
        }
        result
    }

    /// A foreign program's value may be of any size; it is not ours, which is all that an inspection needs to know.
    fn take_oversized(&mut self, input: &[u8], replies: &mut Vec<(RequestId, Reply)>) -> Option<usize> {
        let Asked::Request(front) = &self.in_flight.front()?.asked else { return None };
        if front.request.op != Op::Inspect {
            return None;
        }
        let (length, all) = resp::oversized(input)?;
        replies.push((front.id, Reply::Holder(Holder::Foreign(Some(format!("(a value of {length} bytes)"))))));
        self.in_flight.pop_front();
        Some(all)
    }

    fn take(&mut self, value: &Value, wire: &[u8], replies: &mut Vec<(RequestId, Reply)>) -> Result<(), String> {
        let front = match self.in_flight.front_mut().map(|front| &mut front.asked) {
            None => return Err("an answer came that nobody asked for".to_owned()),
            Some(Asked::Filler) => {
                self.in_flight.pop_front(); // whatever it says
                return Ok(());
            }
            Some(Asked::Copies) => {
                self.in_flight.pop_front();
                replies.extend(self.copying.iter_mut().flat_map(|copying| copying.answered(value)));
                return Ok(());
            }
            Some(&mut Asked::Aside(number)) => {
                self.asides.push((number, wire.to_vec()));
                self.in_flight.pop_front();
                return Ok(());
            }
            Some(Asked::Request(front)) => front,
        };
        if let Value::Error(text) = value
            && front.form == Form::Hash
            && has_code(&String::from_utf8_lossy(text), "NOSCRIPT")
        {
            // The server was restarted, failed over, or told to forget its scripts (invariant 10).
            if let Some(InFlight { asked: Asked::Request(forgotten), .. }) = self.in_flight.pop_front() {
                self.push_as(forgotten.id, forgotten.request, Form::Text);
            }
            return Ok(());
        }
        match front.replies.take(front.request.op, value) {
            Ok(None) => {}
            Ok(Some(mut reply)) => {
                if let Reply::Error(error) = &mut reply {
                    name_the_right(error, &front.request);
                    // Its replicas may follow another primary by now.
                    if self.era.can_end() && has_code(&error.text, "NOREPLICAS") {
                        error.class = ErrorClass::Reconnect;
                    }
                }
                let id = front.id;
                self.in_flight.pop_front();
                let passed = match &mut self.copying {
                    Some(copying) => copying.pass(id, reply),
                    None => Some(reply),
                };
                replies.extend(passed.map(|reply| (id, reply)));
            }
            Err(_) => return Err("an answer came that does not fit the question".to_owned()),
        }
        Ok(())
    }

    fn exchange(&mut self, wait: Duration, replies: &mut Vec<(RequestId, Reply)>) -> Result<(), String> {
        let before = replies.len();
        self.era.check()?;
        self.send()?;
        // With nothing asked there is no reply to wait for; look whether the connection still stands.
        let wait = if self.in_flight.is_empty() { Duration::ZERO } else { wait };
        let unsent = self.wants_write();
        match self.stream.receive(&mut self.input, wait, unsent) {
            Ok(Received::Data(_)) => self.decode(replies)?,
            Ok(Received::Nothing) => {}
            Ok(Received::Closed) => return Err("the server closed the connection".to_owned()),
            Err(error) => return Err(format!("the connection is lost: {error}")),
        }
        // A script that was sent again, what did not fit before, or the next question for copies.
        if self.wants_write() || self.copying.is_some() {
            self.send()?;
        }
        if replies.len() == before { self.look_at_the_clock() } else { Ok(()) }
    }

    /// Has the oldest request been without a reply for too long?
    fn look_at_the_clock(&mut self) -> Result<(), String> {
        if self.in_flight.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        for one in self.in_flight.iter_mut().rev().take_while(|one| one.since.is_none()) {
            one.since = Some(now);
        }
        if self.in_flight[0].since.is_some_and(|since| now - since > self.response_timeout) {
            return Err(format!("no answer within {} ms", self.response_timeout.as_millis()));
        }
        Ok(())
    }
}

/// Which right the user lacks. The handshake knows nothing of a lock's keys; the commands it has asked for.
fn name_the_right(error: &mut ServerError, request: &Request) {
    let name = &request.name;
    error.text += &match denied(&error.text) {
        Some(Denied::Key) => {
            format!("; the user needs the keys {:?}, {:?} and {FENCE:?}", name.key(), name.waiters())
        }
        Some(_) if error.text.contains("script") => "; a new connection says which command".to_owned(),
        _ => return,
    };
}

impl Connection for RedisConnection {
    fn push(&mut self, id: RequestId, request: Request) {
        self.push_as(id, request, Form::Hash);
    }

    fn turn(&mut self, wait: Duration, replies: &mut Vec<(RequestId, Reply)>) -> Result<(), Unreachable> {
        if let Some(dead) = &self.dead {
            return Err(dead.clone());
        }
        self.exchange(wait, replies).map_err(|problem| {
            let dead = Unreachable(format!("{}: {problem}", self.address));
            self.dead = Some(dead.clone());
            dead
        })
    }

    fn keep_alive(&mut self) {
        if self.in_flight.is_empty() {
            self.say(&[b"PING"]);
        }
    }

    fn pending(&self) -> Vec<RequestId> {
        let id = |one: &InFlight| if let Asked::Request(pending) = &one.asked { Some(pending.id) } else { None };
        let withheld = self.copying.iter().flat_map(Copying::withheld);
        withheld.chain(self.in_flight.iter().filter_map(id)).collect()
    }

    fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    fn fd(&self) -> Option<RawFd> {
        Some(self.stream.fd())
    }

    fn wants_write(&self) -> bool {
        self.sent < self.out.len() || self.stream.wants_write()
    }
}
