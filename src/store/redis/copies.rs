//! How many copies of a lock there must be before it counts: `WAIT` or `WAITAOF` behind the steps that may take or renew
//! one, and their replies withheld until it has answered. Knows which replies say that a lock is held, and no socket.
//!
//! The command covers all that its connection wrote before it, so that one is enough for a whole write, and it blocks the
//! connection: while one is under way no second is sent. What comes behind it is answered behind it, and then has one of its
//! own. So whatever is withheld when the answer comes was written before the question.

use std::time::Duration;

use super::error::classify;
use super::resp::{self, Value};
use crate::store::{ErrorClass, HandOff, Op, Reply, RequestId, ServerError};

/// What an acquisition and a renewal must have reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copies {
    /// So many replicas must have it.
    pub replicas: u32,
    /// On the disk: of the primary, and of those replicas.
    pub on_disk: bool,
    /// How long to wait for that; at most half of the response timeout.
    pub timeout: Duration,
}

impl Copies {
    /// How long to wait where nothing else is said.
    pub const TIMEOUT: Duration = Duration::from_secs(1);

    /// The command that asks.
    pub fn command(&self) -> &'static str {
        if self.on_disk { "WAITAOF" } else { "WAIT" }
    }

    fn ask(&self, out: &mut Vec<u8>) {
        resp::command(out, if self.on_disk { 4 } else { 3 });
        resp::bytes(out, self.command().as_bytes());
        if self.on_disk {
            resp::number(out, 1);
        }
        resp::number(out, u64::from(self.replicas));
        resp::number(out, self.timeout.as_millis() as u64);
    }

    /// Are there enough? `Err`: what is missing, in the server's way of speaking.
    fn judge(&self, answer: &Value) -> Result<(), ServerError> {
        let counts = match answer {
            Value::Error(text) => return Err(classify(text)),
            Value::Int(replicas) => [1, *replicas],
            Value::Array(parts) => parts.first().map(|part| part.and_then(|part| part.int()).unwrap_or(0)),
            _ => [0, 0],
        };
        let (needed, ms) = (self.replicas, self.timeout.as_millis());
        let text = match counts {
            [local, _] if self.on_disk && local < 1 => format!("NOREPLICAS the lock was not on disk after {ms} ms"),
            [_, replicas] if replicas < i64::from(needed) => {
                let disk = if self.on_disk { " on disk" } else { "" };
                format!("NOREPLICAS only {replicas} of {needed} replicas had the lock{disk} after {ms} ms")
            }
            _ => return Ok(()),
        };
        Err(ServerError { class: ErrorClass::Report, text })
    }
}

/// The copies of what one connection writes.
pub struct Copying {
    copies: Copies,
    /// Something was written that the next question is to cover.
    written: bool,
    /// A question has no answer yet.
    asked: bool,
    withheld: Vec<(RequestId, Reply)>,
}

impl Copying {
    pub fn new(copies: Copies) -> Self {
        Copying { copies, written: false, asked: false, withheld: Vec::new() }
    }

    /// A request is written.
    pub fn note(&mut self, op: Op) {
        self.written |= !matches!(op, Op::Release { .. } | Op::Inspect | Op::Back);
    }

    /// Appends the question if it is time for it. True: it has an answer to be waited for.
    pub fn ask(&mut self, out: &mut Vec<u8>) -> bool {
        let now = self.written && !self.asked;
        if now {
            self.copies.ask(out);
            (self.written, self.asked) = (false, true);
        }
        now
    }

    /// A reply: told now, or (`None`) withheld, as are those behind it, so that all are told in order. What a hand-off wrote is covered by no question of this connection: its
    /// token is dropped, so that whoever was given the lock joins, which writes it anew (rules 3 and 5).
    pub fn pass(&mut self, id: RequestId, reply: Reply) -> Option<Reply> {
        let reply = match reply {
            Reply::Released { next: Some(next) } => Reply::Released { next: Some(without_token(next)) },
            other => other,
        };
        if self.withheld.is_empty() && !matches!(reply, Reply::Taken { .. } | Reply::Renewed { .. }) {
            return Some(reply);
        }
        self.withheld.push((id, reply));
        None
    }

    /// The question is answered: what was withheld, as it is now to be told.
    pub fn answered(&mut self, answer: &Value) -> impl Iterator<Item = (RequestId, Reply)> {
        self.asked = false;
        let missing = self.copies.judge(answer).err();
        self.withheld.drain(..).map(move |(id, reply)| match (&missing, reply) {
            (None, reply) => (id, reply),
            // It is on the primary all the same, and is given up at once.
            (Some(error), Reply::Taken { .. }) => (id, Reply::TakenUndrawn { error: error.clone() }),
            // The next one may find them again; until then the holder's validity runs.
            (Some(error), Reply::Renewed { .. }) => (id, Reply::Error(error.clone())),
            (Some(_), reply) => (id, reply),
        })
    }

    /// The requests whose replies are withheld.
    pub fn withheld(&self) -> impl Iterator<Item = RequestId> {
        self.withheld.iter().map(|(id, _)| *id)
    }
}

/// A hand-off that says to whom, and is no acquisition.
pub fn without_token(hand_off: HandOff) -> HandOff {
    HandOff { token: 0, ..hand_off }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_copies_are_refused_with_what_is_missing() {
        let judge = |on_disk, wire: &[u8]| {
            let copies = Copies { replicas: 2, on_disk, timeout: Duration::from_millis(7) };
            let (value, _) = resp::parse(wire).unwrap().expect("a whole value");
            copies.judge(&value).map_err(|error| error.text)
        };
        let refused = |text: &str| Err(text.to_owned());
        assert_eq!(judge(false, b":2\r\n"), Ok(()));
        assert_eq!(judge(false, b":1\r\n"), refused("NOREPLICAS only 1 of 2 replicas had the lock after 7 ms"));
        assert_eq!(judge(true, b"*2\r\n:1\r\n:2\r\n"), Ok(()));
        assert_eq!(judge(true, b"*2\r\n:0\r\n:2\r\n"), refused("NOREPLICAS the lock was not on disk after 7 ms"));
        let on_disk = "NOREPLICAS only 1 of 2 replicas had the lock on disk after 7 ms";
        assert_eq!(judge(true, b"*2\r\n:1\r\n:1\r\n"), refused(on_disk));
        assert_eq!(judge(true, b"-ERR no\r\n"), refused("ERR no"));
        assert!(judge(false, b"+OK\r\n").is_err(), "what is no number is none");
    }
}
