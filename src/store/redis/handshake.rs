//! What a new connection says first, and what each refusal means. Knows the order of the first commands only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::has_code;
use super::resp::{self, Value};
use super::scripts::Scripts;
use super::socket::{Descriptors, Received, Socket};
use super::{Config, codec};
use crate::store::Unreachable;
use crate::store::name::FENCE;

/// What the floor script answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Floor {
    /// The counter.
    pub counter: u64,
    /// The server's replication id, or nothing.
    pub replication_id: String,
}

/// What a command of the handshake was for; the refusals are told apart by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Authenticate,
    Select,
    /// Nothing depends on it.
    Courtesy,
    Floor,
    Subscribe,
}

/// A connection for requests: authenticated, on its database, the scripts known, the counter lifted (rule 5); all
/// asked in one write.
pub fn for_commands(
    config: &Config,
    all: &Arc<Descriptors>,
    scripts: &Scripts,
    highest: u64,
    known: &str,
) -> Result<(Socket, Floor), Unreachable> {
    let (mut out, mut steps) = beginning(config);
    if config.database != 0 {
        resp::words(&mut out, &[b"SELECT", config.database.to_string().as_bytes()]);
        steps.push(Step::Select);
    }
    for script in scripts.steps() {
        resp::words(&mut out, &[b"SCRIPT", b"LOAD", script.body.as_bytes()]);
        steps.push(Step::Courtesy);
    }
    codec::call(&mut out, &scripts.floor, true, &[FENCE.as_bytes()], 2);
    resp::number(&mut out, highest);
    resp::bytes(&mut out, known.as_bytes());
    steps.push(Step::Floor);
    let mut floor = None;
    let (socket, _) = shake(config, all, &out, &steps, |value| {
        if let Value::Array(parts) = value
            && let [Some(counter), Some(id), None] = parts.first()
        {
            let counter = counter.int().and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
            floor = Some(Floor { counter, replication_id: id.text().unwrap_or_default().to_owned() });
        }
    })?;
    let floor = floor.ok_or_else(|| unreachable(config, "the script that prepares the counter answered nonsense"))?;
    Ok((socket, floor))
}

/// A connection for messages: authenticated and subscribed. What came behind the confirmation is answered with it.
pub fn for_messages(config: &Config, all: &Arc<Descriptors>, channel: &str) -> Result<(Socket, Vec<u8>), Unreachable> {
    let (mut out, mut steps) = beginning(config);
    // A waiter that may be subscribed but not published to would be dropped as dead by every release (rule 12).
    resp::words(&mut out, &[b"PUBLISH", channel.as_bytes(), b""]);
    steps.push(Step::Subscribe);
    resp::words(&mut out, &[b"SUBSCRIBE", channel.as_bytes()]);
    steps.push(Step::Subscribe);
    let mut confirmed = false;
    let shaken = shake(config, all, &out, &steps, |value| {
        confirmed = matches!(value, Value::Array(parts) if parts.first() == [Some(Value::Bulk(b"subscribe"))]);
    })?;
    if confirmed { Ok(shaken) } else { Err(unreachable(config, "the subscription was not confirmed")) }
}

fn beginning(config: &Config) -> (Vec<u8>, Vec<Step>) {
    let (mut out, mut steps) = (Vec::new(), Vec::new());
    if let Some(password) = &config.password {
        match &config.username {
            Some(user) => resp::words(&mut out, &[b"AUTH", user.as_bytes(), password.as_bytes()]),
            None => resp::words(&mut out, &[b"AUTH", password.as_bytes()]),
        }
        steps.push(Step::Authenticate);
    }
    resp::words(&mut out, &[b"CLIENT", b"SETNAME", b"dlock"]);
    steps.push(Step::Courtesy);
    (out, steps)
}

/// Connects, sends `out`, reads one reply for each step; the last is given to `last`. Answers what came behind it.
fn shake(
    config: &Config,
    all: &Arc<Descriptors>,
    out: &[u8],
    steps: &[Step],
    mut last: impl FnMut(&Value),
) -> Result<(Socket, Vec<u8>), Unreachable> {
    let socket =
        Socket::connect(&config.address, config.connect_timeout, all).map_err(|text| unreachable(config, &text))?;
    let deadline = Instant::now() + config.response_timeout;
    let (mut sent, mut input, mut done) = (0, Vec::new(), 0);
    let mut lost = None;
    loop {
        if sent < out.len() && lost.is_none() {
            // A server that refuses may close at once: what it said is still to be read.
            match socket.send(&out[sent..]) {
                Ok(count) => sent += count,
                Err(error) => lost = Some(error.to_string()),
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let received =
            socket.receive(&mut input, left.max(Duration::from_millis(1)), sent < out.len() && lost.is_none());
        let mut at = 0;
        while done < steps.len() {
            match resp::parse(&input[at..]) {
                Ok(None) => break,
                Err(_) => return Err(unreachable(config, &foreign_protocol(&input[at..]))),
                Ok(Some((value, length))) => {
                    at += length;
                    if let Value::Error(text) = &value {
                        judge(config, steps[done], &String::from_utf8_lossy(text))?;
                    }
                    done += 1;
                    if done == steps.len() {
                        last(&value);
                    }
                }
            }
        }
        input.drain(..at);
        if done == steps.len() {
            return Ok((socket, input));
        }
        match received {
            Ok(Received::Data(_) | Received::Nothing) if left.is_zero() => {
                let ms = config.response_timeout.as_millis();
                return Err(unreachable(config, &format!("accepted the connection but did not answer within {ms} ms")));
            }
            Ok(Received::Data(_) | Received::Nothing) => {}
            Ok(Received::Closed) => {
                return Err(unreachable(config, "accepted the connection and closed it without an answer"));
            }
            Err(error) => {
                let text = lost.unwrap_or_else(|| error.to_string());
                return Err(unreachable(config, &format!("accepted the connection and broke it off: {text}")));
            }
        }
    }
}

/// What a refusal means.
fn judge(config: &Config, step: Step, text: &str) -> Result<(), Unreachable> {
    let is = |code: &str| has_code(text, code);
    let meaning = if text.contains("max number of clients") {
        "the server has as many clients as it may have"
    } else if is("DENIED") {
        "the server is in protected mode"
    } else if step == Step::Authenticate {
        "authentication failed"
    } else if is("NOAUTH") {
        "the server needs a password"
    } else if is("LOADING") {
        "the server is loading its data"
    } else if step == Step::Courtesy {
        return Ok(());
    } else if step == Step::Select {
        return Err(unreachable(config, &format!("database {} cannot be used: {}", config.database, first(text))));
    } else if is("READONLY") {
        "the server is a read-only replica"
    } else if is("MASTERDOWN") {
        "the server is a replica that has lost its primary"
    } else if is("BUSY") {
        "the server is busy with a script"
    } else if is("MOVED") || is("ASK") || is("CLUSTERDOWN") {
        "the server is a node of a cluster, which is not supported"
    } else if is("OOM") {
        "the server is out of memory"
    } else if step == Step::Subscribe {
        "the server refuses messages"
    } else if is("NOPERM") || text.contains("unknown command") {
        "the server refuses scripts"
    } else {
        "the server refuses the fence counter"
    };
    Err(unreachable(config, &format!("{meaning}: {}", first(text))))
}

/// The first sentence or so: some refusals go on for a page.
fn first(text: &str) -> &str {
    let end = text.char_indices().nth(160).map_or(text.len(), |(at, _)| at);
    text[..end].trim()
}

fn foreign_protocol(input: &[u8]) -> String {
    let line = input.split(|&b| b == b'\r' || b == b'\n').next().unwrap_or_default();
    let seen = String::from_utf8_lossy(&line[..line.len().min(40)]).into_owned();
    format!("does not speak the Redis protocol: it answered {seen:?}")
}

fn unreachable(config: &Config, text: &str) -> Unreachable {
    Unreachable(format!("{}: {text}", config.address))
}
