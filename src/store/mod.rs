//! The store: the steps on one lock that must be atomic, whoever carries them out.
//!
//! This file fixes the vocabulary (requests, replies, pushes) and the two traits behind which the stores differ:
//! [`redis`] sends scripts to a server, [`memory`] carries out the same rules in this process. The engine speaks this
//! vocabulary and knows neither of them.

pub mod memory;
pub mod name;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub mod quorum;
pub mod redis;

use std::fmt;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

pub use name::Name;
use uuid::Uuid;

/// Numbers below this are never handed out as tokens nor used as places (rule 5).
pub const TOKEN_FLOOR: u64 = 1 << 50;

/// How many waiters a release looks at before it answers [`Reply::Again`] (rule 7).
pub const RELEASE_BATCH: usize = 32;

/// One acquire call of one handle: what the lock's key holds, `<owner id>:<attempt>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Acquisition {
    /// The owner id: one per lock handle.
    pub owner: Uuid,
    /// Rises with each acquire call of the handle.
    pub attempt: u64,
}

impl ErrorClass {
    /// Is the request to be sent again a little later?
    pub fn passes(self) -> bool {
        matches!(self, ErrorClass::Retry | ErrorClass::Away)
    }
}

impl fmt::Display for Acquisition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.owner, self.attempt)
    }
}

impl Acquisition {
    /// Reads `<owner id>:<attempt>`, strictly: a lower-case hyphenated UUID, a colon, decimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let (owner, attempt) = (text.get(..36)?, text.get(36..)?.strip_prefix(':')?);
        let digits = !attempt.is_empty() && attempt.bytes().all(|b| b.is_ascii_digit());
        let canonical = digits && (attempt == "0" || !attempt.starts_with('0'));
        let lower = !owner.bytes().any(|b| b.is_ascii_uppercase());
        if !canonical || !lower {
            return None;
        }
        Some(Acquisition { owner: Uuid::try_parse(owner).ok()?, attempt: attempt.parse().ok()? })
    }
}

/// How a waiter is written in the queue, `<acquisition>@<claim ms>@<channel>`; fixed for the life of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The lease under which a hand-off gives the lock to this waiter, in milliseconds.
    pub claim_ms: u64,
    /// The locker's channel.
    pub channel: Arc<str>,
}

/// One step on one lock for one acquisition.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which lock.
    pub name: Arc<Name>,
    /// For whom.
    pub acquisition: Acquisition,
    /// The acquisition's place in the queue, were it there: removed by most steps, named by a join.
    pub seat: Seat,
    /// What is to be done.
    pub op: Op,
}

impl Request {
    /// The queue member of this acquisition.
    pub fn member(&self) -> String {
        format!("{}@{}@{}", self.acquisition, self.seat.claim_ms, self.seat.channel)
    }
}

/// The steps of `docs/protocol.md`. Leases are in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Set if absent and draw a number, in one transaction. Answers `Taken`, `TakenUndrawn` or `Held`.
    Try { lease_ms: u64 },
    /// Take the lock if it is free, an older attempt's of this owner, or this acquisition's already; otherwise, with
    /// `queue`, queue at `place` (0: draw one). Answers `Taken`, `Held`, `Queued`, `Unqueued`, `Foreign` or `Stale`.
    Join { lease_ms: u64, place: u64, queue: bool },
    /// Lengthen the lease, never shorten it; confirms a claim. Answers `Renewed` or `NotMine`.
    Renew { lease_ms: u64 },
    /// Give the lock up and hand it to the first live waiter. With `leave` (cancel, close), leave the queue if it is
    /// not held. Answers `Released`, `Again` or `NotMine`.
    Release { leave: bool },
    /// Leave the queue at a deadline; if the lock was handed over in that instant, keep it. Answers `Taken` or `NotMine`.
    Leave { lease_ms: u64 },
    /// Who holds the lock? Answers `Holder`.
    Inspect,
    /// Give the lock up without a hand-off, and leave the queue. Of a quorum only. Answers `Released` or `NotMine`.
    Back,
    /// Lift the counter to `token` if the key is this acquisition's. Of a quorum only. Answers `Confirmed` or `NotMine`.
    Confirm { token: u64 },
}

/// What a step answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The lock is this acquisition's, with this number (a token only if it is not below [`TOKEN_FLOOR`]).
    Taken { token: u64 },
    /// The key was set but no number could be drawn, or too few replicas have it: the lock must be released at once.
    TakenUndrawn { error: ServerError },
    /// Somebody else of ours holds it. `place`: the number drawn by a try, 0 from a join. `remaining_ms`: the key's
    /// remaining life where the step looked.
    Held { place: u64, remaining_ms: Option<u64> },
    /// Queued at `place`; `waiters` are in the queue, this one included.
    Queued { place: u64, remaining_ms: Option<u64>, waiters: u64 },
    /// Held by somebody else, and the server would not let it be queued (out of memory).
    Unqueued { error: ServerError },
    /// The key is of a foreign type or value.
    Foreign { remaining_ms: Option<u64> },
    /// A higher attempt of this owner holds the lock: this request is a delayed one.
    Stale,
    /// The lease now has this long to run.
    Renewed { remaining_ms: u64 },
    /// The key is not this acquisition's.
    NotMine(Holder),
    /// Given up; `next` where the lock went to a waiter of the releasing locker (no message is sent then).
    Released { next: Option<HandOff> },
    /// A batch of dead waiters was dropped; the lock is still this acquisition's: release again.
    Again,
    /// The answer to an inspection.
    Holder(Holder),
    /// The counter is at that token or above, and the key is this acquisition's.
    Confirmed,
    /// Not taken, and what was taken of it is being given back under this attempt: go on under the next one. Of a quorum
    /// only. `place`: the largest number drawn, or 0.
    GivenBack { place: u64 },
    /// The server answered an error.
    Error(ServerError),
    /// The connection to the node that was asked ended before it answered; what was done is not known. (Where there is
    /// one server, the whole [`Connection`] ends.)
    Lost(Unreachable),
}

/// Whose the key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// There is no key.
    Nobody,
    /// An acquisition of this protocol.
    Acquisition(Acquisition),
    /// Something else: the text where it is a string, `None` where it is of another type.
    Foreign(Option<String>),
}

/// A lock given to a waiter by a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandOff {
    /// To whom.
    pub acquisition: Acquisition,
    /// Its fencing token.
    pub token: u64,
}

/// What arrives on a subscription, in the server's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Push {
    /// A release made this acquisition the holder. `key` is the lock's key, `group:name`.
    HandOff { key: String, hand_off: HandOff },
    /// Somebody dropped this locker's waiters for that lock: join again (rule 8).
    Dropped { key: String },
    /// The answer to the ping of that number.
    Pong { number: u64 },
}

/// An error that the server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError {
    /// What to do about it.
    pub class: ErrorClass,
    /// The server's words.
    pub text: String,
}

/// What an error of the server calls for (the table in `docs/protocol.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// Passes by itself (`BUSY`, `TRYAGAIN`, `CLUSTERDOWN`): ask again a little later.
    Retry,
    /// The node of a cluster that has the lock cannot be reached, and was not asked: ask again a little later; if that does
    /// not help, there is no connection.
    Away,
    /// This server or this connection will not do (`READONLY`, `LOADING`, `MASTERDOWN`, `NOAUTH`, `UNBLOCKED`): reconnect.
    Reconnect,
    /// The server has no memory for it (`OOM`): report it; a waiter polls instead of queueing.
    Memory,
    /// Everything else: report it with the server's words.
    Report,
}

/// Identifies a request among those in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Why a store could not be reached, or a connection ended; the text names host and port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(pub String);

/// Where locks live.
pub trait Store: Send + Sync {
    /// Connects, authenticates, and lifts the counter above `highest_token` and the server's clock (rule 5). Blocks,
    /// at most for the connect and response timeouts.
    fn connect(&self, highest_token: u64) -> Result<Box<dyn Connection>, Unreachable>;
    /// Connects and subscribes to `channel`; returns when the server confirmed it. Blocks likewise.
    fn subscribe(&self, channel: &str, wake: Arc<dyn Fn() + Send + Sync>)
    -> Result<Box<dyn Subscription>, Unreachable>;
    /// The store's address for messages, without secrets.
    fn address(&self) -> &str;
    /// How long a connection may be unused before it is to be kept open by [`Connection::keep_alive`].
    fn keep_alive(&self) -> Option<Duration> {
        None
    }
    /// After a failure to connect: for how long, from the first try, one who cannot wait for a later try should go on
    /// trying. Not zero where a server is known to be replaced by another about now.
    fn patience(&self) -> Duration {
        Duration::ZERO
    }
    /// What is not as locks would have it at the server last connected to, one sentence each.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
    /// No more connections are wanted: those that are being made are given up soon, at the latest when the host name was
    /// looked up and the connect timeout is over.
    fn stop(&self) {}
    /// In a forked child: the descriptors of all connections and subscriptions, those included that are being made. They
    /// are the caller's to close. Takes no mutex.
    fn take_descriptors_in_child(&self) -> Vec<RawFd>;
}

/// One ordered stream of requests and replies. Whoever owns it drives it.
pub trait Connection: Send {
    /// Takes a request. Nothing is sent before the next [`turn`](Connection::turn).
    fn push(&mut self, id: RequestId, request: Request);
    /// Writes what was pushed, then appends the replies that have come to `replies`; where none has, waits up to
    /// `wait` for the first. `Err`: the connection is dead, and what [`pending`](Connection::pending) names was lost.
    fn turn(&mut self, wait: Duration, replies: &mut Vec<(RequestId, Reply)>) -> Result<(), Unreachable>;
    /// Says something on a connection that was unused for [`Store::keep_alive`], so that nobody on the way closes it; the
    /// next turn sends it.
    fn keep_alive(&mut self) {}
    /// The requests without a reply, oldest first.
    fn pending(&self) -> Vec<RequestId>;
    /// Is there no request without a reply?
    fn is_idle(&self) -> bool;
    /// Is something outstanding that nobody waits for, and that a turn is to be made for when it comes?
    fn has_late(&self) -> bool {
        false
    }
    /// What to poll for reading; `None` where [`turn`](Connection::turn) never waits.
    fn fd(&self) -> Option<RawFd>;
    /// Is there something unwritten? Then poll for writing too.
    fn wants_write(&self) -> bool;
}

/// One subscription. Whoever owns it drives it.
pub trait Subscription: Send {
    /// Sends a ping of that number; its [`Push::Pong`] comes in order with the messages.
    fn ping(&mut self, number: u64) -> Result<(), Unreachable>;
    /// As [`Connection::keep_alive`]; sends it at once.
    fn keep_alive(&mut self) -> Result<(), Unreachable> {
        Ok(())
    }
    /// Appends what has come, without waiting.
    fn receive(&mut self, pushes: &mut Vec<Push>) -> Result<(), Unreachable>;
    /// What to poll for reading; `None` where the `wake` given to [`Store::subscribe`] is called instead.
    fn fd(&self) -> Option<RawFd>;
}
