//! Requests into commands, replies into answers. Knows the scripts' keys, arguments and answers, and no socket.

use super::error::classify;
use super::resp::{self, Value};
use super::scripts::{Script, Scripts};
use crate::store::name::{CHANNEL_PREFIX, FENCE, MEMBERSHIP};
use crate::store::{Acquisition, ErrorClass, HandOff, Holder, Op, Reply, Request, ServerError};

/// The server answered something that is no answer to what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unexpected;

/// Where the keys of a lock are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// All on one server.
    #[default]
    Server,
    /// In one slot of a cluster; with `sharded`, the messages too.
    Cluster { sharded: bool },
}

/// How a script is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// By its hash.
    Hash,
    /// Whole (`EVAL`), for a server that does not know it (any more).
    Text,
    /// Whole, with the lock's key alone: a renewal while the slot is moved, when its keys are on two nodes.
    KeyAlone,
}

/// Writes commands; its buffers are used again.
#[derive(Default)]
pub struct Encoder {
    pub layout: Layout,
    acquisition: Vec<u8>,
    member: Vec<u8>,
    fence: Vec<u8>,
}

impl Encoder {
    /// Appends a request's commands to `out`.
    pub fn encode(&mut self, out: &mut Vec<u8>, scripts: &Scripts, request: &Request, form: Form) {
        let (key, queue) = (request.name.key().as_bytes(), request.name.waiters().as_bytes());
        self.name(request);
        let (acquisition, member, fence) = (&self.acquisition[..], &self.member[..], &self.fence[..]);
        let all = [key, queue, fence];
        let with_text = form != Form::Hash;
        match request.op {
            Op::Try { lease_ms } => encode_try(out, key, fence, acquisition, lease_ms),
            Op::Inspect => resp::words(out, &[b"GET", key]),
            Op::Join { lease_ms, place, queue } => {
                call(out, &scripts.join, with_text, &all, 6);
                resp::bytes(out, &acquisition[..36]);
                resp::bytes(out, &acquisition[37..]);
                resp::number(out, lease_ms);
                resp::bytes(out, member);
                resp::number(out, place);
                resp::bytes(out, if queue { b"1" } else { b"0" });
            }
            Op::Renew { lease_ms } => {
                let of_quorum = [key, queue, fence, MEMBERSHIP.as_bytes()];
                let keys = match form {
                    _ if scripts.quorum.is_some() => &of_quorum[..],
                    Form::KeyAlone => &all[..1],
                    Form::Hash | Form::Text => &all[..2],
                };
                call(out, &scripts.renew, with_text, keys, 3);
                resp::bytes(out, acquisition);
                resp::bytes(out, member);
                resp::number(out, lease_ms);
            }
            Op::Release { leave } => {
                call(out, &scripts.release, with_text, &all, if leave { 3 } else { 2 });
                resp::bytes(out, acquisition);
                resp::bytes(out, member);
                if leave {
                    resp::bytes(out, b"leave");
                }
            }
            Op::Leave { lease_ms } => {
                call(out, &scripts.leave, with_text, &all, 3);
                resp::bytes(out, acquisition);
                resp::bytes(out, member);
                resp::number(out, lease_ms);
            }
            Op::Back => {
                call(out, &scripts.back, with_text, &all[..2], 2);
                resp::bytes(out, acquisition);
                resp::bytes(out, member);
            }
            Op::Confirm { token } => {
                call(out, &scripts.confirm, with_text, &all, 2);
                resp::bytes(out, acquisition);
                resp::number(out, token);
            }
        }
    }

    /// The counter, and the acquisition and the queue member as text; the same as `Display` and [`Request::member`], but without `fmt`.
    fn name(&mut self, request: &Request) {
        let mut digits = [0; 20];
        self.acquisition.clear();
        let mut owner = [0; uuid::fmt::Hyphenated::LENGTH];
        self.acquisition.extend_from_slice(request.acquisition.owner.hyphenated().encode_lower(&mut owner).as_bytes());
        self.acquisition.push(b':');
        self.acquisition.extend_from_slice(resp::decimal(request.acquisition.attempt, &mut digits));
        self.member.clear();
        self.member.extend_from_slice(&self.acquisition);
        self.member.push(b'@');
        self.member.extend_from_slice(resp::decimal(request.seat.claim_ms, &mut digits));
        self.member.push(b'@');
        match self.layout {
            Layout::Cluster { sharded: true } => {
                write_channel(&mut self.member, &request.seat.channel, request.name.tag())
            }
            _ => self.member.extend_from_slice(request.seat.channel.as_bytes()),
        }
        self.fence.clear();
        self.fence.extend_from_slice(FENCE.as_bytes());
        if self.layout != Layout::Server {
            self.fence.push(b':');
            self.fence.extend_from_slice(request.name.tag().as_bytes());
        }
    }
}

/// A locker's channel for a slot: `:dlock:wake:{tag}:` and its digits.
pub fn write_channel(out: &mut Vec<u8>, channel: &str, tag: &str) {
    out.extend_from_slice(CHANNEL_PREFIX.as_bytes());
    out.extend_from_slice(tag.as_bytes());
    out.push(b':');
    out.extend_from_slice(channel.strip_prefix(CHANNEL_PREFIX).unwrap_or(channel).as_bytes());
}

fn encode_try(out: &mut Vec<u8>, key: &[u8], fence: &[u8], acquisition: &[u8], lease_ms: u64) {
    out.extend_from_slice(b"*1\r\n$5\r\nMULTI\r\n*6\r\n$3\r\nSET\r\n");
    resp::bytes(out, key);
    resp::bytes(out, acquisition);
    out.extend_from_slice(b"$2\r\nNX\r\n$2\r\nPX\r\n");
    resp::number(out, lease_ms);
    resp::words(out, &[b"INCR", fence]);
    out.extend_from_slice(b"*1\r\n$4\r\nEXEC\r\n");
}

/// The beginning of a script's call, up to its keys; `arguments` more must follow.
pub fn call(out: &mut Vec<u8>, script: &Script, with_text: bool, keys: &[&[u8]], arguments: usize) {
    resp::command(out, 3 + keys.len() + arguments);
    if with_text {
        resp::bytes(out, b"EVAL");
        resp::bytes(out, script.body.as_bytes());
    } else {
        resp::bytes(out, b"EVALSHA");
        resp::bytes(out, script.sha.as_bytes());
    }
    resp::number(out, keys.len() as u64);
    for key in keys {
        resp::bytes(out, key);
    }
}

/// Gathers the replies to one request: a try has four (`MULTI`, `SET`, `INCR`, `EXEC`), everything else one.
#[derive(Default)]
pub struct Replies {
    count: u8,
    error: Option<ServerError>,
    /// `SET` was carried out at once, outside a transaction: the server refused `MULTI`.
    bare: bool,
}

impl Replies {
    /// Takes one reply; answers when it was the last.
    pub fn take(&mut self, op: Op, value: &Value) -> Result<Option<Reply>, Unexpected> {
        match op {
            Op::Try { .. } => self.take_of_try(value),
            Op::Inspect => Ok(Some(inspected(value)?)),
            _ => Ok(Some(answered(value)?)),
        }
    }

    fn take_of_try(&mut self, value: &Value) -> Result<Option<Reply>, Unexpected> {
        self.count += 1;
        match (self.count, value) {
            (4, _) => {}
            (_, Value::Error(text)) => {
                self.error.get_or_insert_with(|| classify(text));
                return Ok(None);
            }
            (2, Value::Simple(b"OK")) => {
                self.bare = true;
                return Ok(None);
            }
            _ => return Ok(None),
        }
        if let Some(error) = self.error.take() {
            return Ok(Some(if self.bare { Reply::TakenUndrawn { error } } else { Reply::Error(error) }));
        }
        match value {
            Value::Error(text) => Ok(Some(Reply::Error(classify(text)))),
            Value::Array(results) => Ok(Some(executed(results.first())?)),
            _ => Err(Unexpected),
        }
    }
}

fn executed(results: [Option<Value>; 3]) -> Result<Reply, Unexpected> {
    let [Some(set), Some(drawn), None] = results else { return Err(Unexpected) };
    let taken = match set {
        Value::Simple(b"OK") => true,
        Value::Nil => false,
        Value::Error(text) => return Ok(Reply::Error(classify(text))),
        _ => return Err(Unexpected),
    };
    match drawn {
        // A counter below zero is as good as none: no token, no place.
        Value::Int(n) if taken => Ok(Reply::Taken { token: u64::try_from(n).unwrap_or(0) }),
        Value::Int(n) => Ok(Reply::Held { place: u64::try_from(n).unwrap_or(0), remaining_ms: None }),
        Value::Error(text) => {
            let mut error = classify(text);
            error.text = format!("{} ({FENCE})", error.text);
            Ok(if taken { Reply::TakenUndrawn { error } } else { Reply::Error(error) })
        }
        _ => Err(Unexpected),
    }
}

fn inspected(value: &Value) -> Result<Reply, Unexpected> {
    Ok(match value {
        Value::Error(text) if text.starts_with(b"WRONGTYPE") => Reply::Holder(Holder::Foreign(None)),
        Value::Error(text) => Reply::Error(classify(text)),
        Value::Nil => Reply::Holder(Holder::Nobody),
        Value::Bulk(text) => Reply::Holder(holder(text)),
        _ => return Err(Unexpected),
    })
}

/// Whose a value of the key is.
fn holder(value: &[u8]) -> Holder {
    match std::str::from_utf8(value).ok().and_then(Acquisition::parse) {
        Some(acquisition) => Holder::Acquisition(acquisition),
        None => Holder::Foreign(Some(String::from_utf8_lossy(value).into_owned())),
    }
}

/// The answer of a script: a word, or an array that begins with one.
fn answered(value: &Value) -> Result<Reply, Unexpected> {
    let parts: [Option<Value>; 4] = match value {
        Value::Array(parts) => parts.first(),
        Value::Bulk(_) => [Some(*value), None, None, None],
        Value::Error(text) => return Ok(Reply::Error(classify(text))),
        _ => return Err(Unexpected),
    };
    let part = |i: usize| parts[i].as_ref();
    let word = part(0).and_then(Value::text).ok_or(Unexpected)?;
    let count = |i: usize| part(i).and_then(Value::int).and_then(|n| u64::try_from(n).ok()).ok_or(Unexpected);
    // A key without a lease has a remaining life of -1.
    let life = |i: usize| part(i).and_then(Value::int).map(|n| u64::try_from(n).ok()).ok_or(Unexpected);
    Ok(match word {
        "taken" => Reply::Taken { token: count(1)? },
        "held" => Reply::Held { place: 0, remaining_ms: life(1)? },
        "queued" => Reply::Queued { place: count(1)?, remaining_ms: life(2)?, waiters: count(3)? },
        "unqueued" => {
            let Some(Value::Bulk(text)) = part(1) else { return Err(Unexpected) };
            Reply::Unqueued { error: ServerError { class: ErrorClass::Memory, ..classify(text) } }
        }
        "foreign" => Reply::Foreign { remaining_ms: life(1)? },
        "stale" => Reply::Stale,
        "renewed" => Reply::Renewed { remaining_ms: count(1)? },
        "again" => Reply::Again,
        "confirmed" => Reply::Confirmed,
        "released" => Reply::Released { next: None },
        "next" => {
            let acquisition = part(1).and_then(Value::text).and_then(Acquisition::parse).ok_or(Unexpected)?;
            Reply::Released { next: Some(HandOff { acquisition, token: count(2)? }) }
        }
        "notmine" => Reply::NotMine(match part(1) {
            None => Holder::Nobody,
            Some(Value::Nil) => Holder::Foreign(None),
            Some(Value::Bulk(text)) => holder(text),
            Some(_) => return Err(Unexpected),
        }),
        _ => return Err(Unexpected),
    })
}

#[cfg(test)]
mod tests;
