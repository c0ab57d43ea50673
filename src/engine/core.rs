//! What the handles of one engine share: the requests in flight, the command link, the subscription, the timers, the
//! random numbers, and the actions that have gathered. Knows nothing of a handle's states.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use super::job::Job;
use super::{Action, Config, HandleId, Lane, Map, Time};
use crate::planted::{Bug, planted};
use crate::store::{HandOff, Name, Op, Request, RequestId, Seat};

/// Claims are never longer than this.
const CLAIM_MAX_MS: u64 = 3_000;
/// Between attempts to connect or subscribe, doubling from the first to the last, jittered.
const RECONNECT_MIN_US: Time = 10_000;
const RECONNECT_MAX_US: Time = 500_000;
/// Where queueing is impossible, waiters ask every 50 to 100 ms.
const POLL_US: Time = 50_000;
/// Those who wait for one lock ask on average at most once in this time (rule 6). Over any half minute it is at most 500
/// times a second, also soon after they have joined, when the early ones still reckon with a short queue.
const SPREAD_US: Time = 3_000;
/// Those who poll in one locker, likewise.
const POLL_SPREAD_US: Time = 2_000;

/// Before a request is repeated that the server refused for a passing reason.
pub(super) const RETRY_US: Time = 50_000;

/// Room for so many requests in flight is kept.
const REQUESTS_KEPT: usize = 1_024;

/// Who a request is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Who {
    Handle(HandleId),
    Job(u64),
}

/// A request in flight.
#[derive(Debug)]
pub(super) struct Pending {
    pub who: Who,
    /// From before it was sent: what validity counts from (rule 2).
    pub sent_at: Time,
    pub request: Request,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    Handle(HandleId),
    Job(u64),
}

/// What one handle's step means for others.
pub(super) enum Internal {
    Deliver { key: String, hand_off: HandOff, base: Time },
    Recheck { key: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Up,
    /// Down; asked to connect again at that time if somebody wants it.
    Down {
        again_at: Time,
    },
    Connecting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subscription {
    Up,
    Down,
    /// The runner is at it, for the first time or after a failure.
    Asked {
        refused: bool,
    },
    /// It failed: waiters poll until it comes up.
    Refused,
}

pub(super) struct Core<T> {
    pub config: Config,
    pub seat: Seat,
    pub out: VecDeque<Action<T>>,
    pub internal: VecDeque<Internal>,
    pub jobs: Map<Job<T>>,
    pub next_job: u64,
    pub highest_token: u64,
    pub link_error: String,
    /// How many handles hold a lock; wait to be handed one; ask at intervals.
    pub held: usize,
    pub waiting: usize,
    pub polling: usize,
    /// How many of the former wait for which lock.
    awaited: HashMap<Arc<Name>, usize>,
    /// How many handles and jobs have something to send while the command link is down.
    pub needing: usize,
    link: Link,
    /// Has the renewal lane a connection of its own? (Without, renewals go out on the command lane.)
    pub renewal_up: bool,
    link_delay: Time,
    pub subscription: Subscription,
    subscribe_at: Time,
    subscribe_delay: Time,
    /// The sending of the last ping whose pong was read (rule 3).
    base: Option<Time>,
    pings: VecDeque<(u64, Time)>,
    next_ping: u64,
    ping_at: Time,
    requests: Map<Pending>,
    next_request: u64,
    timers: BTreeSet<(Time, Due)>,
    random: u64,
}

impl<T: Clone> Core<T> {
    pub fn new(config: Config) -> Self {
        let seat = Seat { claim_ms: config.lease_ms.min(CLAIM_MAX_MS), channel: Arc::clone(&config.channel) };
        Core {
            seat,
            random: config.seed,
            config,
            out: VecDeque::new(),
            internal: VecDeque::new(),
            jobs: Map::default(),
            next_job: 1,
            highest_token: 0,
            link_error: "not connected yet".to_string(),
            held: 0,
            waiting: 0,
            polling: 0,
            awaited: HashMap::new(),
            link: Link::Down { again_at: 0 },
            renewal_up: false,
            needing: 0,
            link_delay: 0,
            subscription: Subscription::Down,
            subscribe_at: 0,
            subscribe_delay: 0,
            base: None,
            pings: VecDeque::new(),
            next_ping: 1,
            ping_at: 0,
            requests: Map::default(),
            next_request: 1,
            timers: BTreeSet::new(),
        }
    }

    // --- requests ---

    /// May a renewal be sent?
    pub fn can_renew(&self) -> bool {
        self.renewal_up || self.is_link_up()
    }

    /// Sends a request. Its lane must be up.
    pub fn send(&mut self, now: Time, lane: Lane, who: Who, request: Request) -> RequestId {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.requests.insert(id.0, Pending { who, sent_at: now, request: request.clone() });
        self.out.push_back(Action::Send { lane, id, request });
        id
    }

    pub fn take_request(&mut self, id: RequestId) -> Option<Pending> {
        let pending = self.requests.remove(&id.0);
        if self.requests.is_empty() {
            self.requests.shrink_to(REQUESTS_KEPT); // a crowd's room is given back
        }
        pending
    }

    /// The reply to that request is the job's from now on.
    pub fn reassign(&mut self, id: RequestId, job: u64) {
        if let Some(pending) = self.requests.get_mut(&id.0) {
            pending.who = Who::Job(job);
        }
    }

    pub fn in_flight(&self, id: RequestId) -> bool {
        self.requests.contains_key(&id.0)
    }

    /// Is a request in flight that may take a lock, or a place, though its attempt may be over?
    pub fn may_take(&self) -> bool {
        self.requests.values().any(|pending| matches!(pending.request.op, Op::Try { .. } | Op::Join { .. }))
    }

    // --- the command link ---

    pub fn is_link_up(&self) -> bool {
        self.link == Link::Up
    }

    pub fn link_is_up(&mut self) {
        self.link = Link::Up;
        self.link_delay = 0;
    }

    pub fn link_is_down(&mut self, now: Time, why: &str) {
        self.link_error = why.to_string();
        if self.link == Link::Up {
            self.link = Link::Down { again_at: now };
        }
    }

    pub fn link_failed(&mut self, now: Time, why: &str) {
        self.link_error = why.to_string();
        if self.link != Link::Up {
            self.link_delay = (self.link_delay * 2).clamp(RECONNECT_MIN_US, RECONNECT_MAX_US);
            self.link = Link::Down { again_at: now + self.link_delay / 2 + self.random(self.link_delay) };
        }
    }

    // --- the subscription ---

    /// May waiters queue? (Rule 6: only once the subscription is confirmed.)
    pub fn can_queue(&self) -> bool {
        self.subscription == Subscription::Up
    }

    /// Does a handle of this locker wait for the lock?
    pub fn is_awaited(&self, name: &Name) -> bool {
        !self.awaited.is_empty() && self.awaited.contains_key(name)
    }

    pub fn count_waiter(&mut self, name: &Arc<Name>, begins: bool) {
        if begins {
            *self.awaited.entry(Arc::clone(name)).or_insert(0) += 1;
        } else if let Some(count) = self.awaited.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                self.awaited.remove(name);
            }
        }
    }

    /// Must waiters poll, since they cannot be sent messages? (Rule 12.)
    pub fn must_poll(&self) -> bool {
        matches!(self.subscription, Subscription::Refused | Subscription::Asked { refused: true })
    }

    pub fn subscribed(&mut self, now: Time, asked_at: Time) {
        self.subscription = Subscription::Up;
        self.subscribe_delay = 0;
        // The confirmation is as good as a pong: what is published after it was published after `asked_at`.
        self.base = Some(asked_at);
        self.pings.clear();
        self.ping_at = now;
    }

    pub fn unsubscribed(&mut self, now: Time) {
        self.subscription = Subscription::Down;
        self.subscribe_at = now;
        self.base = None;
        self.pings.clear();
    }

    pub fn subscribe_failed(&mut self, now: Time) {
        self.unsubscribed(now);
        self.subscription = Subscription::Refused;
        self.subscribe_delay = (self.subscribe_delay * 2).clamp(RECONNECT_MIN_US * 10, RECONNECT_MAX_US * 10);
        self.subscribe_at = now + self.subscribe_delay / 2 + self.random(self.subscribe_delay);
    }

    pub fn pong(&mut self, number: u64) {
        while let Some(&(n, sent_at)) = self.pings.front() {
            if n > number {
                break;
            }
            self.pings.pop_front();
            if n == number {
                self.base = Some(sent_at);
            }
        }
    }

    pub fn base(&self) -> Option<Time> {
        self.base
    }

    fn claim_us(&self) -> Time {
        self.seat.claim_ms * 1_000
    }

    /// When the first renewal after a hand-off is due, which confirms the claim.
    pub fn confirm_after(&self) -> Time {
        self.claim_us() / 12
    }

    /// Does anybody need messages, or would, if they came?
    fn listens(&self) -> bool {
        self.waiting + self.polling > 0
    }

    /// When the links need attention next.
    fn links_due(&self) -> Option<Time> {
        let link = match self.link {
            Link::Down { again_at } if self.needing > 0 => Some(again_at),
            _ => None,
        };
        let subscription = match self.subscription {
            _ if !self.listens() => None,
            Subscription::Up if self.waiting > 0 => Some(self.ping_at.min(self.silent_at().unwrap_or(Time::MAX))),
            Subscription::Down | Subscription::Refused => Some(self.subscribe_at),
            _ => None,
        };
        link.into_iter().chain(subscription).min()
    }

    /// When the subscription will have been silent for too long.
    fn silent_at(&self) -> Option<Time> {
        self.pings.front().map(|&(_, sent_at)| sent_at + self.config.response_timeout_ms * 1_000)
    }

    /// Asks the runner for what the links need now.
    pub fn tick_links(&mut self, now: Time) {
        if let Link::Down { again_at } = self.link
            && self.needing > 0
            && again_at <= now
        {
            self.link = Link::Connecting;
            self.out.push_back(Action::Connect);
        }
        if !self.listens() {
            self.pings.clear();
            return;
        }
        if self.subscription == Subscription::Up
            && self.silent_at().is_some_and(|at| at <= now)
            && !planted(Bug::SilenceNotNoticed)
        {
            self.unsubscribed(now);
            self.out.push_back(Action::DropSubscription);
        }
        match self.subscription {
            Subscription::Up if self.waiting > 0 && self.ping_at <= now => {
                self.pings.push_back((self.next_ping, now));
                self.out.push_back(Action::Ping(self.next_ping));
                self.next_ping += 1;
                self.ping_at = now + self.claim_us() / 4;
            }
            Subscription::Down | Subscription::Refused if self.subscribe_at <= now => {
                self.subscription = Subscription::Asked { refused: self.subscription == Subscription::Refused };
                self.out.push_back(Action::Subscribe);
            }
            _ => {}
        }
    }

    // --- timers and chance ---

    pub fn set_timer(&mut self, old: Time, new: Time, due: Due) {
        if old != new {
            if old != Time::MAX {
                self.timers.remove(&(old, due));
            }
            if new != Time::MAX {
                self.timers.insert((new, due));
            }
        }
    }

    /// Takes a timer that has come; it is set no more.
    pub fn pop_due(&mut self, now: Time) -> Option<Due> {
        let &(at, due) = self.timers.first()?;
        if at > now {
            return None;
        }
        self.timers.pop_first();
        Some(due)
    }

    pub fn next_timer(&self) -> Option<Time> {
        let first = self.timers.first().map(|&(at, _)| at);
        first.into_iter().chain(self.links_due()).min()
    }

    /// Did the process stand still (stopped, suspended, starved) while something was due?
    pub fn was_stopped(&self, now: Time) -> bool {
        self.waiting > 0 && self.next_timer().is_some_and(|at| now > at + self.claim_us() / 2)
    }

    /// A number below `bound` (0 where that is 0); splitmix64.
    pub fn random(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        if bound == 0 { 0 } else { z % bound }
    }

    /// When a waiter that cannot queue asks next.
    pub fn poll_at(&mut self, now: Time) -> Time {
        now + (POLL_US + self.random(POLL_US)).max(self.polling as Time * POLL_SPREAD_US)
    }

    /// When a queued waiter asks next without having been told anything: when the holder's lease is over, at most some
    /// seconds, stretched with the queue's length, jittered (rule 6).
    pub fn recheck_at(&mut self, now: Time, remaining_ms: Option<u64>, waiters: u64) -> Time {
        // Whatever the server says: a key of another program may live for ever, nearly.
        let (waiters, longest) = (waiters.min(u64::from(u32::MAX)), RECHECK_MAX_US / 1_000);
        let remaining =
            remaining_ms.map_or(RECHECK_MAX_US, |ms| (ms.min(longest) * 1_000 + 10_000).clamp(20_000, RECHECK_MAX_US));
        let others = (self.waiting as Time * SPREAD_US).min(RECHECK_CROWD_US);
        // A stretched pause is spread widely: those who joined together must not ask together.
        let spread = (waiters * SPREAD_US).max(others);
        let stretched = spread / 20 * 11 + self.random(spread / 10 * 7);
        now + stretched.max(remaining + self.random(remaining / 4))
    }
}

/// A waiter asks at least this often where few wait,
const RECHECK_MAX_US: Time = 5_000_000;
/// and this often where many wait in this locker, on whatever locks. (A queue's life in `join.lua` is three times the
/// longest pause that comes of this and of `SPREAD_US`.)
const RECHECK_CROWD_US: Time = 15_000_000;
