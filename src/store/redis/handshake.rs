//! What a new connection says first, and what each refusal means. Knows the order of the first commands only.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::error::{Denied, denied, has_code, reason};
use super::resp::{self, Value};
use super::scripts::{Script, Scripts};
use super::socket::Received;
use super::stream::Stream;
use super::{Config, Site, codec, warnings};
use crate::store::Unreachable;
use crate::store::name::{CHANNELS, FENCE, MEMBERSHIP};

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
    /// The user's right to run this command.
    Right(&'static str),
    /// The same, of one that can be done without: what it is wanted for.
    Wish(&'static str, &'static str),
    /// Its answer says nothing.
    Filler,
    Memory,
    Floor,
    Subscribe(&'static str),
}

const WITHOUT_NAME: &str = "CLIENT LIST does not show the client's name";
const WITHOUT_LOAD: &str = "the first use of each script takes a round trip more";
const WITHOUT_INFO: &str = "evicting of locks is not seen, and tokens are not lifted beyond the clock after a failover";
const WITHOUT_MESSAGES: &str = "waiters are not told when a lock is free: they poll, or find it late";

/// Never there. Matches the pattern that users need for the fence counter.
const NO_KEY: &[u8] = b":dlock:fence:none";
const NO_CHANNEL: &[u8] = b":dlock:wake:none";

/// A call of each command that the scripts and the lock need; without effect, should one be carried out.
#[rustfmt::skip]
const RIGHTS: [(Step, &[&[u8]]); 18] = [
    (Step::Right("SET"), &[b"SET", NO_KEY, b"0", b"XX"]),
    (Step::Right("GET"), &[b"GET", NO_KEY]),
    (Step::Right("EXISTS"), &[b"EXISTS", NO_KEY]),
    (Step::Right("PTTL"), &[b"PTTL", NO_KEY]),
    (Step::Right("PEXPIRE"), &[b"PEXPIRE", NO_KEY, b"1"]),
    (Step::Right("PERSIST"), &[b"PERSIST", NO_KEY]),
    (Step::Right("ZADD"), &[b"ZADD", NO_KEY, b"XX", b"0", b"0"]),
    (Step::Right("ZREM"), &[b"ZREM", NO_KEY, b"0"]),
    (Step::Right("ZRANGE"), &[b"ZRANGE", NO_KEY, b"0", b"0"]),
    (Step::Right("ZCARD"), &[b"ZCARD", NO_KEY]),
    (Step::Right("INCR"), &[b"INCR", NO_KEY]),
    (Step::Right("DEL"), &[b"DEL", NO_KEY]),
    (Step::Right("TIME"), &[b"TIME"]),
    (Step::Right("EVALSHA"), &[b"EVALSHA", b"0000000000000000000000000000000000000000", b"0"]),
    (Step::Wish("INFO", WITHOUT_INFO), &[b"INFO", b"replication"]),
    (Step::Wish("PING", WITHOUT_MESSAGES), &[b"PING"]),
    (Step::Wish("PUBLISH", WITHOUT_MESSAGES), &[b"PUBLISH", NO_CHANNEL, b""]),
    (Step::Wish("SUBSCRIBE", WITHOUT_MESSAGES), &[b"SUBSCRIBE", NO_CHANNEL]),
];

/// What a server of a quorum is asked besides.
#[rustfmt::skip]
const RIGHTS_OF_QUORUM: [(Step, &[&[u8]]); 4] = [
    (Step::Right("HGET"), &[b"HGET", NO_KEY, b"0"]),
    (Step::Right("HMGET"), &[b"HMGET", NO_KEY, b"0"]),
    (Step::Right("HSET"), &[b"HSET", NO_KEY, b"0", b"0"]),
    (Step::Right("HDEL"), &[b"HDEL", NO_KEY, b"0"]),
];

/// What is sent, and what for.
#[derive(Default)]
struct Opening {
    out: Vec<u8>,
    steps: Vec<Step>,
}

impl Opening {
    fn new(config: &Config) -> Self {
        let mut this = Opening::default();
        if let Some(password) = &config.password {
            match &config.username {
                Some(user) => this.say(Step::Authenticate, &[b"AUTH", user.as_bytes(), password.as_bytes()]),
                None => this.say(Step::Authenticate, &[b"AUTH", password.as_bytes()]),
            }
        }
        let name = config.client_name.as_bytes();
        this.say(Step::Wish("CLIENT SETNAME", WITHOUT_NAME), &[b"CLIENT", b"SETNAME", name]);
        this
    }

    /// For requests: on its database, its rights and the scripts known.
    fn for_requests(config: &Config, scripts: &Scripts) -> Self {
        let mut this = Opening::new(config);
        if config.database != 0 {
            this.say(Step::Select, &[b"SELECT", config.database.to_string().as_bytes()]);
        }
        this.ask_rights(scripts.quorum.is_some());
        this.say(Step::Memory, &[b"INFO", b"memory"]);
        for script in scripts.steps() {
            this.say(Step::Wish("SCRIPT LOAD", WITHOUT_LOAD), &[b"SCRIPT", b"LOAD", script.body.as_bytes()]);
        }
        this
    }

    fn say(&mut self, step: Step, words: &[&[u8]]) {
        resp::words(&mut self.out, words);
        self.steps.push(step);
    }

    /// May the user run all that will be run? A script that is refused a command half way cannot take back what it did.
    /// Asked in a transaction that is spoilt by a command without its argument, so that nothing of it is carried out.
    fn ask_rights(&mut self, of_quorum: bool) {
        self.say(Step::Right("MULTI"), &[b"MULTI"]);
        for (step, words) in RIGHTS.into_iter().chain(RIGHTS_OF_QUORUM.into_iter().filter(|_| of_quorum)) {
            self.say(step, words);
        }
        self.say(Step::Filler, &[b"GET"]);
        self.say(Step::Right("EXEC"), &[b"EXEC"]);
    }
}

/// A connection for requests: authenticated, on its database, its rights and the scripts known, the counter lifted (rule
/// 5); all asked in one write.
pub fn for_commands(site: &Site, scripts: &Scripts, highest: u64, known: &str) -> Result<(Stream, Floor), Unreachable> {
    let config = &site.config;
    let mut opening = Opening::for_requests(config, scripts);
    codec::call(&mut opening.out, &scripts.floor, true, &[FENCE.as_bytes()], 2);
    resp::number(&mut opening.out, highest);
    resp::bytes(&mut opening.out, known.as_bytes());
    opening.steps.push(Step::Floor);
    let mut floor = None;
    let (stream, _) = shake(site, &opening, |value| {
        if let Value::Array(parts) = value
            && let [Some(counter), Some(id), None] = parts.first()
        {
            let counter = counter.int().and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
            floor = Some(Floor { counter, replication_id: id.text().unwrap_or_default().to_owned() });
        }
    })?;
    let floor = floor.ok_or_else(|| unreachable(config, "the script that prepares the counter answered nonsense"))?;
    Ok((stream, floor))
}

/// A connection for requests to a server of a quorum, and what is its script's answer about its membership. `arguments`
/// are those of `script`.
pub fn for_member(
    site: &Site,
    scripts: &Scripts,
    script: &Script,
    arguments: &[u64],
) -> Result<(Stream, Vec<i64>), Unreachable> {
    let mut opening = Opening::for_requests(&site.config, scripts);
    codec::call(&mut opening.out, script, true, &[FENCE.as_bytes(), MEMBERSHIP.as_bytes()], arguments.len());
    arguments.iter().for_each(|&argument| resp::number(&mut opening.out, argument));
    opening.steps.push(Step::Floor);
    let mut answer = Vec::new();
    let (stream, _) = shake(site, &opening, |value| {
        if let Value::Array(parts) = value {
            answer.extend(parts.iter().map_while(|part| part.int()));
        } else {
            answer.extend(value.int());
        }
    })?;
    Ok((stream, answer))
}

/// A connection for messages: authenticated and subscribed. What came behind the confirmation is answered with it.
pub fn for_messages(site: &Site, channel: &str) -> Result<(Stream, Vec<u8>), Unreachable> {
    let mut opening = Opening::new(&site.config);
    // A waiter that may be subscribed but not published to would be dropped as dead by every release (rule 12).
    opening.say(Step::Subscribe("PUBLISH"), &[b"PUBLISH", channel.as_bytes(), b""]);
    opening.say(Step::Subscribe("SUBSCRIBE"), &[b"SUBSCRIBE", channel.as_bytes()]);
    let mut confirmed = false;
    let shaken = shake(site, &opening, |value| {
        confirmed = matches!(value, Value::Array(parts) if parts.first() == [Some(Value::Bulk(b"subscribe"))]);
    })?;
    if confirmed { Ok(shaken) } else { Err(unreachable(&site.config, "the subscription was not confirmed")) }
}

/// Connects, sends the opening, reads one reply for each step; the last is given to `last`. Answers what came behind it.
fn shake(site: &Site, opening: &Opening, mut last: impl FnMut(&Value)) -> Result<(Stream, Vec<u8>), Unreachable> {
    let (config, Opening { out, steps }) = (&site.config, opening);
    let mut stream = Stream::connect(site).map_err(|text| unreachable(config, &text))?;
    let deadline = Instant::now() + config.response_timeout;
    let (mut sent, mut input, mut done) = (0, Vec::new(), 0);
    let mut lost = None;
    loop {
        if sent < out.len() && lost.is_none() {
            // A server that refuses may close at once: what it said is still to be read.
            match stream.send(&out[sent..]) {
                Ok(count) => sent += count,
                Err(error) => lost = Some(error.to_string()),
            }
        }
        if site.stopped.load(Ordering::Acquire) {
            return Err(unreachable(config, "no longer wanted"));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let unsent = sent < out.len() && lost.is_none();
        let received = stream.receive(&mut input, left.max(Duration::from_millis(1)), unsent);
        let mut at = 0;
        while done < steps.len() {
            match resp::parse(&input[at..]) {
                Ok(None) => break,
                Err(_) => return Err(unreachable(config, &foreign_protocol(config, &input[at..]))),
                Ok(Some((value, length))) => {
                    at += length;
                    if let Value::Error(text) = &value {
                        judge(config, steps[done], &String::from_utf8_lossy(text))?;
                    }
                    note(site, steps[done], &value);
                    done += 1;
                    if done == steps.len() {
                        last(&value);
                    }
                }
            }
        }
        input.drain(..at);
        if done == steps.len() {
            return Ok((stream, input));
        }
        // So ends, too, what is said without TLS to a server that speaks nothing else.
        let hint = || if done == 0 && config.tls.is_none() { "; does it want TLS (rediss://)?" } else { "" };
        match received {
            Ok(Received::Data(_) | Received::Nothing) if left.is_zero() => {
                let ms = config.response_timeout.as_millis();
                return Err(unreachable(config, &format!("accepted the connection but did not answer within {ms} ms")));
            }
            Ok(Received::Data(_) | Received::Nothing) => {}
            Ok(Received::Closed) => {
                let text = format!("accepted the connection and closed it without an answer{}", hint());
                return Err(unreachable(config, &text));
            }
            Err(error) => {
                let text = lost.unwrap_or_else(|| error.to_string());
                return Err(unreachable(
                    config,
                    &format!("accepted the connection and broke it off: {text}{}", hint()),
                ));
            }
        }
    }
}

/// What a refusal means.
fn judge(config: &Config, step: Step, text: &str) -> Result<(), Unreachable> {
    let text = reason(text);
    let is = |code: &str| has_code(text, code);
    let refused = |meaning: &str| Err(unreachable(config, &format!("{meaning}: {}", first(text))));
    if text.contains("max number of clients") {
        return refused("the server has as many clients as it may have");
    } else if is("DENIED") {
        return refused("the server is in protected mode");
    } else if step == Step::Authenticate {
        return refused("authentication failed");
    } else if is("NOAUTH") {
        return refused("the server needs a password");
    } else if is("LOADING") {
        return refused("the server is loading its data");
    }
    match step {
        // What follows an accepted MULTI is not carried out; what follows a refused one is another thing than was meant.
        Step::Right("MULTI") if denied(text).is_none() => {}
        Step::Right(command) => return right(config, command, text),
        Step::Wish(..) | Step::Filler | Step::Memory => return Ok(()),
        Step::Select if is("NOPERM") => return right(config, "SELECT", text),
        Step::Select => return refused(&format!("database {} cannot be used", config.database)),
        Step::Authenticate | Step::Floor | Step::Subscribe(_) => {}
    }
    refused(if is("READONLY") {
        "the server is a read-only replica"
    } else if is("MASTERDOWN") {
        "the server is a replica that has lost its primary"
    } else if is("BUSY") {
        "the server is busy with a script"
    } else if is("MOVED") || is("ASK") || is("CLUSTERDOWN") {
        "the server is a node of a cluster, which is not supported"
    } else if is("OOM") {
        "the server is out of memory"
    } else if let Step::Subscribe(command) = step {
        return match denied(text) {
            Some(Denied::Command) => refused(&format!("the server refuses messages (the user may not run {command})")),
            Some(Denied::Channel) => refused(&format!("the server refuses messages (the user may not use {CHANNELS})")),
            _ => refused("the server refuses messages"),
        };
    } else if step == Step::Right("MULTI") {
        "the server refuses transactions"
    } else if denied(text) == Some(Denied::Key) {
        return refused(&format!("the user may not use the key {FENCE}"));
    } else if is("NOPERM") || unknown_command(text) {
        "the server refuses scripts (EVAL)"
    } else {
        "the server refuses the fence counter"
    })
}

/// A command that is needed. Anything but a refusal of the command itself shows that the user may run it: not every user
/// may use the key that does not exist, and it is of no use to anybody.
fn right(config: &Config, command: &str, text: &str) -> Result<(), Unreachable> {
    let what = if command == "EVALSHA" { "the server refuses scripts (EVALSHA)" } else { command };
    if unknown_command(text) {
        return Err(unreachable(config, &format!("the server has no command {command}: {}", first(text))));
    }
    match denied(text) {
        Some(Denied::Command) if what != command => Err(unreachable(config, &format!("{what}: {}", first(text)))),
        Some(Denied::Command) => Err(unreachable(config, &format!("the user may not run {command}: {}", first(text)))),
        _ => Ok(()),
    }
}

fn unknown_command(text: &str) -> bool {
    text.to_ascii_lowercase().starts_with("err unknown command")
}

/// What is to be told without being a reason to refuse the server.
fn note(site: &Site, step: Step, value: &Value) {
    match (step, value) {
        (Step::Wish(command, without), Value::Error(text)) => {
            let text = String::from_utf8_lossy(text);
            let refused = unknown_command(&text) || denied(&text).is_some();
            site.warnings.set(command, refused.then(|| wish_refused(site, command, without, &text)));
        }
        (Step::Wish(command, _), _) => site.warnings.set(command, None),
        (Step::Memory, Value::Bulk(info)) => {
            site.warnings.set("eviction", warnings::eviction(&String::from_utf8_lossy(info)));
        }
        _ => {}
    }
}

fn wish_refused(site: &Site, command: &str, without: &str, text: &str) -> String {
    let may_not = match denied(text) {
        Some(Denied::Channel) => format!("the user may not use {CHANNELS} with {command}"),
        Some(_) => format!("the user may not run {command}"),
        None => format!("the server has no command {command}"),
    };
    site.config.without_secrets(&format!("{may_not}: {without} ({})", first(text)))
}

/// The first sentence or so: some refusals go on for a page.
fn first(text: &str) -> &str {
    // Behind that stands what was sent, the password perhaps.
    let text = text.split(", with args").next().unwrap_or_default();
    let end = text.char_indices().nth(160).map_or(text.len(), |(at, _)| at);
    text[..end].trim()
}

fn foreign_protocol(config: &Config, input: &[u8]) -> String {
    if input.starts_with(&[0x15, 3]) {
        return "speaks TLS: the URL must begin with rediss://".to_owned();
    }
    let line = input.split(|&b| b == b'\r' || b == b'\n').next().unwrap_or_default();
    let line = config.without_secrets(&String::from_utf8_lossy(line));
    let seen: String = line.chars().take(40).collect();
    format!("does not speak the Redis protocol: it answered {seen:?}")
}

fn unreachable(config: &Config, text: &str) -> Unreachable {
    Unreachable(format!("{}: {}", config.address, config.without_secrets(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_to_each_command_of_the_scripts_is_asked_for() {
        let scripts = Scripts::new();
        let of_quorum = Scripts::of_quorum();
        let membership = of_quorum.quorum.iter().flat_map(|quorum| [&quorum.look, &quorum.admit]);
        let of_quorum = of_quorum.steps().chain(membership).map(|script| (script, true));
        let all = scripts.steps().chain([&scripts.floor]).map(|script| (script, false)).chain(of_quorum);
        let called: Vec<(&str, bool)> = all
            .flat_map(|(script, quorum)| script.body.split("call('").skip(1).map(move |call| (call, quorum)))
            .collect();
        assert!(called.len() > 40, "{}", called.len());
        for (call, quorum) in called {
            let command = call.split('\'').next().unwrap();
            let asked = |(step, words): &(Step, &[&[u8]])| {
                let (Step::Right(name) | Step::Wish(name, _)) = step else { return false };
                *name == command && words[0] == command.as_bytes()
            };
            assert!(RIGHTS.iter().any(asked) || quorum && RIGHTS_OF_QUORUM.iter().any(asked), "{command}");
        }
    }
}
