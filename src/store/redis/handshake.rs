//! What a new connection says first, and what each refusal means. Knows the order of the first commands only.
//! (That to a sentinel is over with the answer.)

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::error::{A_NODE, Denied, denied, has_code, reason};
use super::resp::{self, Array, Value};
use super::scripts::{Script, Scripts};
use super::socket::Received;
use super::stream::Stream;
use super::{Address, Config, Copies, Site, codec, warnings};
use crate::store::Unreachable;
use crate::store::name::{CHANNELS, FENCE, FENCE_LIFE, MEMBERSHIP};

/// What the floor script answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Floor {
    /// The counter.
    pub counter: u64,
    /// The server's replication id, or nothing.
    pub replication_id: String,
}

/// The server that a sentinel names.
pub struct Named {
    /// Where it listens.
    pub address: Address,
    /// The configuration by which it is the primary; 0 where the sentinel does not tell.
    pub epoch: u64,
}

/// Why a handshake failed.
pub struct Refused {
    /// For the caller.
    pub why: Unreachable,
    /// It can be otherwise in a moment, once a server has started or failed over.
    pub passing: bool,
}

impl From<Unreachable> for Refused {
    fn from(why: Unreachable) -> Self {
        Refused { why, passing: false }
    }
}

/// What a command of the handshake was for; the refusals are told apart by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Authenticate,
    /// Is it a primary?
    Role,
    /// Which configuration does the sentinel have?
    Epoch,
    /// Which server does the sentinel name?
    Primary,
    Select,
    /// The user's right to run this command.
    Right(&'static str),
    /// The same, of one that can be done without: what it is wanted for.
    Wish(&'static str, &'static str),
    /// Its answer says nothing.
    Filler,
    /// The right to this command, which servers before Redis 7 do not have.
    Sharded(&'static str),
    Memory,
    Floor,
    /// Which node has which slots?
    Slots,
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

/// What besides a node of a cluster is asked for.
const NODE_RIGHTS: [(Step, &[&[u8]]); 2] = [
    (Step::Sharded("SPUBLISH"), &[b"SPUBLISH", NO_CHANNEL, b""]),
    (Step::Sharded("SSUBSCRIBE"), &[b"SSUBSCRIBE", NO_CHANNEL]),
];

/// What besides a server of a quorum is asked for.
#[rustfmt::skip]
const MEMBER_RIGHTS: [(Step, &[&[u8]]); 4] = [
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
    fn new(site: &Site) -> Self {
        let (mut this, config) = (Opening::login(&site.config), &site.config);
        if site.is_named {
            this.say(Step::Role, &[b"ROLE"]);
        }
        let name = config.client_name.as_bytes();
        this.say(Step::Wish("CLIENT SETNAME", WITHOUT_NAME), &[b"CLIENT", b"SETNAME", name]);
        this
    }

    fn login(config: &Config) -> Self {
        let mut this = Opening::default();
        if let Some(password) = &config.password {
            match &config.username {
                Some(user) => this.say(Step::Authenticate, &[b"AUTH", user.as_bytes(), password.as_bytes()]),
                None => this.say(Step::Authenticate, &[b"AUTH", password.as_bytes()]),
            }
        }
        this
    }

    /// For requests: on its database, its rights and the scripts known. `more`: what rights it needs besides.
    fn for_requests(site: &Site, scripts: &Scripts, more: &[(Step, &[&[u8]])]) -> Self {
        let (mut this, config) = (Opening::new(site), &site.config);
        if config.database != 0 {
            this.say(Step::Select, &[b"SELECT", config.database.to_string().as_bytes()]);
        }
        this.ask_rights(more, config.copies.as_ref().map(Copies::command));
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
    /// `more`: what else is asked for. `copies`: the command by which copies are asked for; in a transaction it waits for
    /// nothing.
    fn ask_rights(&mut self, more: &[(Step, &[&[u8]])], copies: Option<&'static str>) {
        self.say(Step::Right("MULTI"), &[b"MULTI"]);
        for &(step, words) in RIGHTS.iter().chain(more) {
            self.say(step, words);
        }
        match copies {
            Some("WAIT") => self.say(Step::Right("WAIT"), &[b"WAIT", b"0", b"1"]),
            Some(command) => self.say(Step::Right(command), &[command.as_bytes(), b"0", b"0", b"1"]),
            None => {}
        }
        self.say(Step::Filler, &[b"GET"]);
        self.say(Step::Right("EXEC"), &[b"EXEC"]);
    }
}

/// A connection for requests: authenticated, on its database, its rights and the scripts known, the counter lifted (rule
/// 5); all asked in one write.
pub fn for_commands(site: &Site, scripts: &Scripts, highest: u64, known: &str) -> Result<(Stream, Floor), Refused> {
    let config = &site.config;
    let mut opening = Opening::for_requests(site, scripts, &[]);
    codec::call(&mut opening.out, &scripts.floor, true, &[FENCE.as_bytes(), FENCE_LIFE.as_bytes()], 2);
    resp::number(&mut opening.out, highest);
    resp::bytes(&mut opening.out, known.as_bytes());
    opening.steps.push(Step::Floor);
    let mut floor = None;
    let (stream, _) = shake(site, &opening, |step, value, _| {
        if step == Step::Floor {
            floor = floor_of(value);
        }
    })?;
    let floor = floor.ok_or_else(|| unreachable(config, "the script that prepares the counter answered nonsense"))?;
    Ok((stream, floor))
}

/// The answer of the floor script.
pub fn floor_of(value: &Value) -> Option<Floor> {
    let Value::Array(parts) = value else { return None };
    let [Some(counter), Some(id), None] = parts.first() else { return None };
    let counter = counter.int().and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
    Some(Floor { counter, replication_id: id.text().unwrap_or_default().to_owned() })
}

/// What a node of a cluster says of itself when a connection to it is opened.
pub struct Node {
    /// The connection, for requests.
    pub stream: Stream,
    /// Does it take sharded messages from this user?
    pub sharded: bool,
    /// And messages to all nodes?
    pub plain: bool,
    /// What it answered to `CLUSTER SLOTS`, as it came over the wire.
    pub slots: Vec<u8>,
}

/// A connection for requests to a node of a cluster: as [`for_commands`], but for the database, which is always 0, and the
/// counters, of which each slot has its own.
pub fn for_node(site: &Site, scripts: &Scripts) -> Result<Node, Refused> {
    let mut opening = Opening::for_requests(site, scripts, &NODE_RIGHTS);
    opening.say(Step::Slots, &[b"CLUSTER", b"SLOTS"]);
    let (mut refused, mut slots) = (Vec::new(), Vec::new());
    let (stream, _) = shake(site, &opening, |step, value, wire| match (step, value) {
        (Step::Wish(command, _) | Step::Sharded(command), Value::Error(text)) => {
            let text = String::from_utf8_lossy(text);
            if unknown_command(&text) || denied(&text).is_some() {
                refused.push(command);
            }
        }
        (Step::Slots, _) => slots.extend_from_slice(wire),
        _ => {}
    })?;
    let takes = |commands: &[&str]| !commands.iter().any(|command| refused.contains(command));
    let (sharded, plain) = (takes(&["SPUBLISH", "SSUBSCRIBE"]), takes(&["PUBLISH", "SUBSCRIBE", "PING"]));
    Ok(Node { stream, sharded, plain, slots })
}

/// A connection for the messages of a node of a cluster, not yet subscribed to anything.
pub fn for_node_messages(site: &Site) -> Result<Stream, Refused> {
    let mut opening = Opening::new(site);
    opening.say(Step::Right("PING"), &[b"PING"]);
    shake(site, &opening, |_, _, _| {}).map(|(stream, _)| stream)
}

/// A connection for requests to a server of a quorum, and what is its script's answer about its membership. `arguments`
/// are those of `script`.
pub fn for_member(
    site: &Site,
    scripts: &Scripts,
    script: &Script,
    arguments: &[u64],
) -> Result<(Stream, Vec<i64>), Unreachable> {
    let mut opening = Opening::for_requests(site, scripts, &MEMBER_RIGHTS);
    codec::call(&mut opening.out, script, true, &[FENCE.as_bytes(), MEMBERSHIP.as_bytes()], arguments.len());
    arguments.iter().for_each(|&argument| resp::number(&mut opening.out, argument));
    opening.steps.push(Step::Floor);
    let mut answer = Vec::new();
    let shaken = shake(site, &opening, |step, value, _| match value {
        Value::Array(parts) if step == Step::Floor => answer.extend(parts.iter().map_while(|part| part.int())),
        _ if step == Step::Floor => answer.extend(value.int()),
        _ => {}
    });
    let (stream, _) = shaken.map_err(|refused| refused.why)?;
    Ok((stream, answer))
}

/// A connection for messages: authenticated and subscribed. What came behind the confirmation is answered with it.
pub fn for_messages(site: &Site, channel: &str) -> Result<(Stream, Vec<u8>), Refused> {
    let mut opening = Opening::new(site);
    // A waiter that may be subscribed but not published to would be dropped as dead by every release (rule 12).
    opening.say(Step::Subscribe("PUBLISH"), &[b"PUBLISH", channel.as_bytes(), b""]);
    opening.say(Step::Subscribe("SUBSCRIBE"), &[b"SUBSCRIBE", channel.as_bytes()]);
    let mut confirmed = false;
    let shaken = shake(site, &opening, |step, value, _| {
        confirmed = step == Step::Subscribe("SUBSCRIBE")
            && matches!(value, Value::Array(parts) if parts.first() == [Some(Value::Bulk(b"subscribe"))]);
    })?;
    if confirmed { Ok(shaken) } else { Err(unreachable(&site.config, "the subscription was not confirmed").into()) }
}

/// Asks a sentinel which server is the primary of a service; `None`: it knows no such service.
pub fn with_sentinel(site: &Site, service: &str) -> Result<Option<Named>, Refused> {
    let mut opening = Opening::login(&site.config);
    opening.say(Step::Epoch, &[b"SENTINEL", b"MASTER", service.as_bytes()]);
    opening.say(Step::Primary, &[b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", service.as_bytes()]);
    let (mut epoch, mut answer) = (0, Err("answered nonsense".to_owned()));
    shake(site, &opening, |step, value, _| match (step, value) {
        (Step::Epoch, Value::Array(fields)) => epoch = epoch_of(*fields).unwrap_or(0),
        (Step::Primary, Value::Nil) => answer = Ok(None),
        (Step::Primary, Value::Array(parts)) => {
            answer = address_of(*parts).map(Some).ok_or("answered nonsense".to_owned())
        }
        _ => {}
    })?;
    match answer {
        Ok(named) => Ok(named.map(|address| Named { address, epoch })),
        Err(text) => Err(unreachable(&site.config, &text).into()),
    }
}

fn address_of(parts: Array) -> Option<Address> {
    let [Some(host), Some(port), None] = parts.first() else { return None };
    let port = port.text()?.parse().ok()?;
    Some(Address::Tcp { host: host.text()?.to_owned(), port })
}

/// Names and values in turn.
fn epoch_of(fields: Array) -> Option<u64> {
    let mut fields = fields.iter();
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        if name.text() == Some("config-epoch") {
            return value.text()?.parse().ok();
        }
    }
    None
}

/// Connects, sends the opening, reads one reply for each step and gives it to `told`, also as it came over the wire.
/// Answers what came behind the last.
fn shake(
    site: &Site,
    opening: &Opening,
    mut told: impl FnMut(Step, &Value, &[u8]),
) -> Result<(Stream, Vec<u8>), Refused> {
    let (config, Opening { out, steps }) = (&site.config, opening);
    let passing = |why: Unreachable| Refused { why, passing: true };
    let mut stream = Stream::connect(site).map_err(|text| passing(unreachable(config, &text)))?;
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
            return Err(unreachable(config, "no longer wanted").into());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let unsent = sent < out.len() && lost.is_none();
        let received = stream.receive(&mut input, left.max(Duration::from_millis(1)), unsent);
        let mut at = 0;
        while done < steps.len() {
            match resp::parse(&input[at..]) {
                Ok(None) => break,
                Err(_) => return Err(unreachable(config, &foreign_protocol(config, &input[at..])).into()),
                Ok(Some((value, length))) => {
                    let wire = &input[at..at + length];
                    at += length;
                    if let Value::Error(text) = &value {
                        let text = String::from_utf8_lossy(text);
                        judge(config, steps[done], &text)
                            .map_err(|why| Refused { why, passing: is_passing(reason(&text)) })?;
                    } else if steps[done] == Step::Role && !is_primary(&value) {
                        return Err(passing(unreachable(config, "the server is a replica, not a primary")));
                    }
                    note(site, steps[done], &value);
                    told(steps[done], &value, wire);
                    done += 1;
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
                let text = format!("accepted the connection but did not answer within {ms} ms");
                return Err(passing(unreachable(config, &text)));
            }
            Ok(Received::Data(_) | Received::Nothing) => {}
            Ok(Received::Closed) => {
                let text = format!("accepted the connection and closed it without an answer{}", hint());
                return Err(passing(unreachable(config, &text)));
            }
            Err(error) => {
                let text = lost.unwrap_or_else(|| error.to_string());
                let text = format!("accepted the connection and broke it off: {text}{}", hint());
                return Err(passing(unreachable(config, &text)));
            }
        }
    }
}

/// The answer to `ROLE`.
fn is_primary(value: &Value) -> bool {
    matches!(value, Value::Array(parts) if parts.first() == [Some(Value::Bulk(b"master"))])
}

/// Is this refusal over when a server has started, or another has taken its place?
fn is_passing(text: &str) -> bool {
    ["LOADING", "READONLY", "MASTERDOWN", "BUSY", "NOREPLICAS"].iter().any(|code| has_code(text, code))
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
    } else if is("NOAUTH") && matches!(step, Step::Epoch | Step::Primary) {
        return refused("the sentinel needs a password (sentinel_password)");
    } else if is("NOAUTH") {
        return refused("the server needs a password");
    } else if is("LOADING") {
        return refused("the server is loading its data");
    }
    match step {
        // What follows an accepted MULTI is not carried out; what follows a refused one is another thing than was meant.
        Step::Right("MULTI") if denied(text).is_none() => {}
        Step::Right(command) => return right(config, command, text),
        Step::Wish(..) | Step::Sharded(_) | Step::Filler | Step::Memory | Step::Epoch => return Ok(()),
        Step::Primary if unknown_command(text) => return refused("is no sentinel"),
        Step::Primary => return refused("the sentinel refuses to name the primary"),
        Step::Role if is("NOPERM") => return right(config, "ROLE", text),
        Step::Slots if denied(text).is_some() => return right(config, "CLUSTER SLOTS", text),
        Step::Slots => return refused("the server is no node of a cluster (the URL must begin with redis://)"),
        Step::Select if is("NOPERM") => return right(config, "SELECT", text),
        Step::Select => return refused(&format!("database {} cannot be used", config.database)),
        Step::Authenticate | Step::Role | Step::Floor | Step::Subscribe(_) => {}
    }
    refused(if is("READONLY") {
        "the server is a read-only replica"
    } else if is("MASTERDOWN") {
        "the server is a replica that has lost its primary"
    } else if is("BUSY") {
        "the server is busy with a script"
    } else if is("MOVED") || is("ASK") || is("CROSSSLOT") || is("CLUSTERDOWN") {
        A_NODE
    } else if is("OOM") {
        "the server is out of memory"
    } else if is("NOREPLICAS") {
        "the server has fewer replicas than it needs to take writes (min-replicas-to-write)"
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
                let (Step::Right(name) | Step::Wish(name, _) | Step::Sharded(name)) = step else { return false };
                *name == command && words[0] == command.as_bytes()
            };
            let of_member = quorum && MEMBER_RIGHTS.iter().any(asked);
            assert!(RIGHTS.iter().chain(&NODE_RIGHTS).any(asked) || of_member, "{command}");
        }
    }
}
