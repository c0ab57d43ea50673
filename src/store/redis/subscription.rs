//! One subscription: hand-offs, drop notices and pongs in the server's order. What is none of these is ignored.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use super::copies::without_token;
use super::resp::{self, Value};
use super::sentinel::Era;
use super::socket::Received;
use super::stream::Stream;
use crate::store::{Acquisition, HandOff, Push, Subscription, Unreachable};

/// A ping's argument whose answer is nothing to anybody, since it is no number.
pub(super) const KEEP_ALIVE: &[u8] = b"keep-alive";

pub struct RedisSubscription {
    stream: Stream,
    address: Arc<str>,
    era: Era,
    channel: String,
    /// Does a message count as an acquisition? Else its token is dropped.
    counts: bool,
    out: Vec<u8>,
    input: Vec<u8>,
}

impl RedisSubscription {
    /// `input`: what came behind the confirmation.
    pub fn new(stream: Stream, address: Arc<str>, era: Era, channel: &str, counts: bool, input: Vec<u8>) -> Self {
        RedisSubscription { stream, address, era, channel: channel.to_owned(), counts, out: Vec::new(), input }
    }

    fn flush(&mut self) -> Result<(), Unreachable> {
        self.stream.flush();
        while !self.out.is_empty() {
            match self.stream.send(&self.out) {
                Ok(0) => break,
                Ok(count) => drop(self.out.drain(..count)),
                Err(error) => return Err(self.lost(&format!("the subscription is lost: {error}"))),
            }
        }
        Ok(())
    }

    /// Sends a command; where there is no room now, with the next look at what has come.
    pub fn say(&mut self, words: &[&[u8]]) -> Result<(), Unreachable> {
        resp::words(&mut self.out, words);
        self.flush()
    }

    fn decode(&mut self, told: &mut impl FnMut(&Value)) -> Result<(), Unreachable> {
        let mut at = 0;
        let result = loop {
            match resp::parse(&self.input[at..]) {
                Ok(None) => break Ok(()),
                Ok(Some((value, length))) => {
                    told(&value);
                    at += length;
                }
                Err(problem) => {
                    break Err(format!("the subscription does not speak the Redis protocol: {}", problem.0));
                }
            }
        };
        self.input.drain(..at);
        result.map_err(|problem| self.lost(&problem))
    }

    /// Gives what has come to `told`, without waiting.
    pub fn receive_values(&mut self, mut told: impl FnMut(&Value)) -> Result<(), Unreachable> {
        self.era.check().map_err(|problem| self.lost(&problem))?;
        self.flush()?;
        // Once: where there is more, the descriptor stays readable.
        let closed = match self.stream.receive(&mut self.input, Duration::ZERO, false) {
            Ok(Received::Data(_) | Received::Nothing) => None,
            Ok(Received::Closed) => Some("the server closed the subscription".to_owned()),
            Err(error) => Some(format!("the subscription is lost: {error}")),
        };
        // Also where nothing has come: what came with the handshake's last reply has not been looked at yet.
        self.decode(&mut told)?;
        closed.map_or(Ok(()), |problem| Err(self.lost(&problem)))
    }

    fn lost(&self, problem: &str) -> Unreachable {
        Unreachable(format!("{}: {problem}", self.address))
    }
}

impl Subscription for RedisSubscription {
    fn ping(&mut self, number: u64) -> Result<(), Unreachable> {
        resp::command(&mut self.out, 2);
        resp::bytes(&mut self.out, b"PING");
        resp::number(&mut self.out, number);
        self.flush()
    }

    fn keep_alive(&mut self) -> Result<(), Unreachable> {
        self.say(&[b"PING", KEEP_ALIVE])
    }

    fn receive(&mut self, pushes: &mut Vec<Push>) -> Result<(), Unreachable> {
        let (channel, counts) = (std::mem::take(&mut self.channel), self.counts);
        let as_it_counts = |push| match push {
            Push::HandOff { key, hand_off } if !counts => Push::HandOff { key, hand_off: without_token(hand_off) },
            other => other,
        };
        let received = self.receive_values(|value| pushes.extend(read(value, &channel).map(as_it_counts)));
        self.channel = channel;
        received
    }

    fn fd(&self) -> Option<RawFd> {
        Some(self.stream.fd())
    }
}

/// One message. Malformed ones are nothing: whoever may publish on the channel must not be able to end the subscription.
pub(super) fn read(value: &Value, channel: &str) -> Option<Push> {
    let Value::Array(parts) = value else { return None };
    match parts.first() {
        [Some(Value::Bulk(b"message")), Some(Value::Bulk(on)), Some(Value::Bulk(payload)), None]
            if on == channel.as_bytes() =>
        {
            payload_of(std::str::from_utf8(payload).ok()?)
        }
        [Some(Value::Bulk(b"pong")), Some(Value::Bulk(number)), None, None] => {
            Some(Push::Pong { number: std::str::from_utf8(number).ok()?.parse().ok()? })
        }
        _ => None,
    }
}

/// `handoff <acquisition> <token> <key>` or `dropped <key>`; the key comes last, since it may contain spaces.
pub(super) fn payload_of(text: &str) -> Option<Push> {
    let (word, rest) = text.split_once(' ')?;
    match word {
        "handoff" => {
            let mut parts = rest.splitn(3, ' ');
            let acquisition = Acquisition::parse(parts.next()?)?;
            let token = parts.next()?.parse().ok()?;
            let key = parts.next()?.to_owned();
            Some(Push::HandOff { key, hand_off: HandOff { acquisition, token } })
        }
        "dropped" => Some(Push::Dropped { key: rest.to_owned() }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn messages_are_read_and_everything_else_is_ignored() {
        let acquisition = crate::store::Acquisition { owner: Uuid::from_u128(7), attempt: 3 };
        let payload = format!("handoff {acquisition} 1795000000000001 g:a name");
        let hand_off = HandOff { acquisition, token: 1_795_000_000_000_001 };
        assert_eq!(payload_of(&payload), Some(Push::HandOff { key: "g:a name".into(), hand_off }));
        assert_eq!(payload_of("dropped g:a name"), Some(Push::Dropped { key: "g:a name".into() }));
        for bad in ["", "handoff", "handoff x 1 g:n", &payload.replace("1795", "-1"), "hello world", "dropped"] {
            assert_eq!(payload_of(bad), None, "{bad}");
        }
        let said = |words: &[&str]| {
            let mut wire = Vec::new();
            resp::words(&mut wire, &words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
            read(&resp::parse(&wire).unwrap().expect("a whole message").0, "mine")
        };
        assert_eq!(said(&["message", "mine", "dropped g:n"]), Some(Push::Dropped { key: "g:n".into() }));
        assert_eq!(said(&["message", "other", "dropped g:n"]), None);
        assert_eq!(said(&["message", "mine", "dropped g:n", "more"]), None);
        assert_eq!(said(&["unsubscribe", "mine", "dropped g:n"]), None);
        assert_eq!(said(&["pong", "42"]), Some(Push::Pong { number: 42 }));
        assert_eq!(said(&["pong", "x"]), None);
        assert_eq!(read(&Value::Error(b"ERR"), ""), None);
    }
}
