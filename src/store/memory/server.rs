//! The rules of the protocol in plain Rust: what one server does at each step, and nothing else.
//!
//! This is the reference: `memory://` runs it, the simulator's server is it, and the scripts of the Redis store are
//! compared with it reply by reply. It has no clock, no thread and no I/O: the time comes with each step, and the
//! messages that a step publishes go out through an argument. Rule numbers are those of `docs/protocol.md`.

use std::collections::HashMap;
use std::sync::Arc;

use super::wait_queue::{Member, WaitQueue};
use crate::planted::{Bug, planted};
use crate::store::name::FENCE;
use crate::store::{
    Acquisition, ErrorClass, HandOff, Holder, Op, Push, RELEASE_BATCH, Reply, Request, ServerError, TOKEN_FLOOR,
};

/// A queue lives at least this many times its longest re-check.
const QUEUE_LIFE_IN_RECHECKS: u64 = 3;
/// The longest re-check of a short queue, in microseconds.
const RECHECK_US: u64 = 18_750_000;
/// How much each waiter stretches the re-check, in microseconds.
const RECHECK_PER_WAITER_US: u64 = 3_750;
/// How far above the highest number seen the counter is lifted where the data may be another's.
const OTHER_DATA_MARGIN: u64 = 1 << 24;
/// The maps are searched for expired keys when they have grown to twice what the last search left, and to this.
const SWEEP_AT_LEAST: usize = 1024;

/// A key that holds a lock.
#[derive(Clone, Debug)]
struct Key {
    /// Never [`Holder::Nobody`].
    holder: Holder,
    expires_us: Option<u64>,
}

impl Key {
    fn is_alive(&self, now_us: u64) -> bool {
        self.expires_us.is_none_or(|at| now_us < at)
    }
}

/// What a lock's key is to the acquisition that asks, with the key's remaining life in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Free,
    Mine,
    /// An older attempt of this owner: to be replaced (rule 1).
    Older,
    /// A higher attempt of this owner: the request is a delayed one (rule 1).
    Higher,
    Other(Option<u64>),
    Foreign(Option<u64>),
}

/// A waiter in a queue, as tests and traces read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueEntry {
    /// `<acquisition>@<claim ms>@<channel>`.
    pub member: String,
    /// Its place.
    pub place: u64,
    /// Was it offered the lock?
    pub marked: bool,
}

/// The keys, queues, counter and subscribers of one server. Times are in microseconds from any beginning.
#[derive(Clone, Debug)]
pub struct MemoryServer {
    keys: HashMap<String, Key>,
    queues: HashMap<String, WaitQueue>,
    /// The last number drawn: 0 where the key is missing, `None` where it holds no integer.
    counter: Option<u64>,
    /// Subscribed channels, with the number of subscribers.
    channels: HashMap<Arc<str>, usize>,
    /// The server's clock at time 0, in microseconds since 1970.
    epoch_us: u64,
    sweep_at: usize,
    /// One of several: without its counter it does not count, and lifts it by no step.
    of_quorum: bool,
}

impl MemoryServer {
    /// An empty server whose wall clock showed `epoch_us` (microseconds since 1970) at time 0.
    pub fn new(epoch_us: u64) -> Self {
        MemoryServer {
            keys: HashMap::new(),
            queues: HashMap::new(),
            counter: Some(0),
            channels: HashMap::new(),
            epoch_us,
            sweep_at: SWEEP_AT_LEAST,
            of_quorum: false,
        }
    }

    /// The same as a server of a quorum, which does not count before its counter is set.
    pub fn of_quorum(epoch_us: u64) -> Self {
        MemoryServer { of_quorum: true, ..MemoryServer::new(epoch_us) }
    }

    /// Does it count in its quorum?
    pub fn counts(&self) -> bool {
        self.counter.is_some_and(|counter| counter >= TOKEN_FLOOR)
    }

    /// What a locker does before its first draw on a connection: lifts the counter above the server's clock and the
    /// highest number that the locker has seen, and far above that where the data may be another's than when it saw it
    /// (rule 5). A counter that is no integer is left alone: draws fail. Answers the counter.
    pub fn floor(&mut self, now_us: u64, highest_seen: u64, other_data: bool) -> Option<u64> {
        let margin = if other_data && !planted(Bug::OtherDataIgnored) { OTHER_DATA_MARGIN } else { 0 };
        let least = self.clock_us(now_us).max(highest_seen + margin);
        if !planted(Bug::CounterNotLifted) {
            self.counter = self.counter.map(|counter| counter.max(least));
        }
        self.counter
    }

    /// Carries out one step, and appends what it publishes, with the channel, to `published`.
    pub fn execute(&mut self, now_us: u64, request: &Request, published: &mut Vec<(Arc<str>, Push)>) -> Reply {
        if self.of_quorum && !self.counts() && !matches!(request.op, Op::Try { .. } | Op::Back | Op::Inspect) {
            let text = "NOTMEMBER the server has lost its data and does not count".to_owned();
            return Reply::Error(ServerError { class: ErrorClass::Reconnect, text });
        }
        match request.op {
            Op::Try { lease_ms } => self.try_once(now_us, request, lease_ms),
            Op::Join { lease_ms, place, queue } => self.join(now_us, request, lease_ms, place, queue),
            Op::Renew { lease_ms } => self.renew(now_us, request, lease_ms),
            Op::Release { leave } => self.release(now_us, request, leave, published),
            Op::Leave { lease_ms } => self.leave(now_us, request, lease_ms),
            Op::Inspect => Reply::Holder(self.holder(now_us, request.name.key())),
            Op::Back => self.give_back(now_us, request),
            Op::Confirm { token } => self.confirm(now_us, request, token),
        }
    }

    /// One more subscriber of a channel.
    pub fn subscribe(&mut self, channel: &str) {
        *self.channels.entry(Arc::from(channel)).or_insert(0) += 1;
    }

    /// One subscriber less.
    pub fn unsubscribe(&mut self, channel: &str) {
        if let Some(subscribers) = self.channels.get_mut(channel) {
            *subscribers -= 1;
            if *subscribers == 0 {
                self.channels.remove(channel);
            }
        }
    }

    /// `FLUSHALL`: keys, queues and the counter go; subscribers stay.
    pub fn flush(&mut self) {
        self.keys.clear();
        self.queues.clear();
        self.counter = Some(0);
    }

    /// A restart with the data of an earlier instant; nobody is subscribed.
    pub fn restart_from(&mut self, earlier: &MemoryServer) {
        *self = MemoryServer { channels: HashMap::new(), ..earlier.clone() };
    }

    /// Forgets a key or a queue, as a program that deletes it, an eviction, or an expiry would.
    pub fn remove(&mut self, key: &str) {
        self.keys.remove(key);
        self.queues.remove(key);
        if key == FENCE {
            self.counter = Some(0);
        }
    }

    /// Another program writes a lock's key or the counter: a string without an expiry, or a value of another type
    /// (`None`).
    pub fn set_foreign(&mut self, key: &str, text: Option<String>) {
        if key == FENCE {
            self.counter = text.and_then(|text| text.parse().ok());
            return;
        }
        let holder = match text.as_deref().and_then(Acquisition::parse) {
            Some(acquisition) => Holder::Acquisition(acquisition),
            None => Holder::Foreign(text),
        };
        self.keys.insert(key.to_owned(), Key { holder, expires_us: None });
    }

    /// Lets a key that exists expire at that time; `None`: never.
    pub fn set_expiry(&mut self, key: &str, expires_us: Option<u64>) {
        if let Some(key) = self.keys.get_mut(key) {
            key.expires_us = expires_us;
        }
    }

    /// Sets the counter, to test what happens below the floor; 0: the key is missing.
    pub fn set_counter(&mut self, counter: u64) {
        self.counter = Some(counter);
    }

    /// The last number drawn: 0 where the key is missing, `None` where it holds no integer.
    pub fn counter(&self) -> Option<u64> {
        self.counter
    }

    /// Whose the key is.
    pub fn holder(&self, now_us: u64, key: &str) -> Holder {
        self.key(now_us, key).map_or(Holder::Nobody, |key| key.holder.clone())
    }

    /// How long the key has to live; `None` where it is missing or never expires.
    pub fn remaining_ms(&self, now_us: u64, key: &str) -> Option<u64> {
        remaining_ms(now_us, self.key(now_us, key)?.expires_us)
    }

    /// The queue under that waiters' key, in order.
    pub fn queue(&self, now_us: u64, waiters: &str) -> Vec<QueueEntry> {
        let entries = self.queues.get(waiters).filter(|queue| now_us < queue.expires_us).into_iter();
        let entries = entries.flat_map(WaitQueue::iter);
        entries
            .map(|(score, member)| QueueEntry { member: member.to_string(), place: score.place, marked: score.marked })
            .collect()
    }

    /// How long the queue under that waiters' key has to live; `None` where there is none.
    pub fn queue_life_ms(&self, now_us: u64, waiters: &str) -> Option<u64> {
        let queue = self.queues.get(waiters).filter(|queue| now_us < queue.expires_us)?;
        remaining_ms(now_us, Some(queue.expires_us))
    }

    /// How many locks and queues are stored, those included that expired and were not yet forgotten.
    pub fn stored(&self) -> usize {
        self.keys.len() + self.queues.len()
    }

    /// Every key there is, in order of its text: locks, queues, and the counter.
    pub fn keys(&self, now_us: u64) -> Vec<String> {
        let locks = self.keys.iter().filter(|(_, key)| key.is_alive(now_us)).map(|(name, _)| name);
        let queues = self.queues.iter().filter(|(_, queue)| now_us < queue.expires_us).map(|(name, _)| name);
        let mut all: Vec<String> = locks.chain(queues).cloned().collect();
        if self.counter != Some(0) {
            all.push(FENCE.to_owned());
        }
        all.sort();
        all
    }
}

/// The steps.
impl MemoryServer {
    /// `SET NX` and `INCR`: natively, so the number may lie below the floor, and the lock is set also where no number
    /// can be drawn (rule 5).
    fn try_once(&mut self, now_us: u64, request: &Request, lease_ms: u64) -> Reply {
        let free = match self.key(now_us, request.name.key()) {
            None => true,
            Some(Key { holder: Holder::Foreign(_), .. }) if planted(Bug::TryOverwritesForeign) => true,
            Some(_) => planted(Bug::TryTakesHeld),
        };
        if free {
            self.set(now_us, request.name.key(), request.acquisition, lease_ms);
        }
        match self.increment() {
            Ok(token) if free => Reply::Taken { token },
            Ok(place) => Reply::Held { place, remaining_ms: None },
            Err(error) if free => Reply::TakenUndrawn { error },
            Err(error) => Reply::Error(error),
        }
    }

    /// Join, re-check and retry.
    fn join(&mut self, now_us: u64, request: &Request, lease_ms: u64, place: u64, queue: bool) -> Reply {
        if self.of_quorum {
            self.counter = self.counter.map(|counter| counter.max(place));
        }
        match self.look(now_us, request) {
            Found::Foreign(remaining_ms) => Reply::Foreign { remaining_ms },
            Found::Higher if !planted(Bug::StaleJoinTakes) => Reply::Stale,
            Found::Free | Found::Older | Found::Higher | Found::Mine => self.take(now_us, request, lease_ms),
            Found::Other(remaining_ms) if !queue => Reply::Held { place: 0, remaining_ms },
            Found::Other(remaining_ms) => {
                let place = if place < TOKEN_FLOOR { self.draw(now_us) } else { Ok(place) };
                let place = match place {
                    Ok(place) => place,
                    Err(error) => return Reply::Error(error),
                };
                let waiters = self.enqueue(now_us, request, place);
                Reply::Queued { place, remaining_ms, waiters }
            }
        }
    }

    /// Never shortens (rule 2). The first one after a hand-off confirms the claim: the mark goes (rule 8).
    fn renew(&mut self, now_us: u64, request: &Request, lease_ms: u64) -> Reply {
        if self.look(now_us, request) != Found::Mine && !planted(Bug::RenewalOfAnybody) {
            return self.not_mine(now_us, request);
        }
        self.dequeue(now_us, request);
        let expires_us = self.set(now_us, request.name.key(), request.acquisition, lease_ms);
        Reply::Renewed { remaining_ms: (expires_us - now_us) / 1000 }
    }

    /// At a deadline. A lock that was handed over in that instant is kept (rule 9).
    fn leave(&mut self, now_us: u64, request: &Request, lease_ms: u64) -> Reply {
        if self.look(now_us, request) == Found::Mine && !planted(Bug::LeaveDropsLock) {
            return self.take(now_us, request, lease_ms);
        }
        self.dequeue(now_us, request);
        self.not_mine(now_us, request)
    }

    /// A release without a hand-off.
    fn give_back(&mut self, now_us: u64, request: &Request) -> Reply {
        self.dequeue(now_us, request);
        if self.look(now_us, request) != Found::Mine {
            return self.not_mine(now_us, request);
        }
        self.keys.remove(request.name.key());
        Reply::Released { next: None }
    }

    /// What another server has drawn is this one's least number, under the key.
    fn confirm(&mut self, now_us: u64, request: &Request, token: u64) -> Reply {
        if self.look(now_us, request) != Found::Mine {
            return self.not_mine(now_us, request);
        }
        let Some(counter) = &mut self.counter else { return Reply::Error(no_integer()) };
        *counter = token.max(*counter);
        Reply::Confirmed
    }

    /// Release and hand-off (rules 7 and 8).
    fn release(&mut self, now_us: u64, request: &Request, leave: bool, published: &mut Vec<(Arc<str>, Push)>) -> Reply {
        let found = self.look(now_us, request);
        let foreign = matches!(found, Found::Foreign(_)) && planted(Bug::ReleaseDeletesForeign);
        if found != Found::Mine && !foreign && !planted(Bug::ReleaseOfAnybody) {
            if leave {
                self.dequeue(now_us, request);
            }
            return self.not_mine(now_us, request);
        }
        self.dequeue(now_us, request);
        // Where no number can be drawn, the lock is given up without a hand-off: the waiters' re-checks find it (rule 7).
        if self.queue_mut(now_us, request).is_some()
            && !planted(Bug::NoHandOff)
            && let Ok(token) = self.draw(now_us)
        {
            if let Some(reply) = self.hand_off(now_us, request, token, published) {
                return reply;
            }
            if self.queue_mut(now_us, request).is_some() {
                return Reply::Again;
            }
        }
        self.keys.remove(request.name.key());
        Reply::Released { next: None }
    }

    /// Gives the lock to the first live waiter of a batch; `None` where there is none, and all of the batch is dropped.
    fn hand_off(
        &mut self,
        now_us: u64,
        request: &Request,
        token: u64,
        published: &mut Vec<(Arc<str>, Push)>,
    ) -> Option<Reply> {
        let queue = self.queues.get_mut(request.name.waiters()).filter(|queue| now_us < queue.expires_us)?;
        let mut batch = Batch { queue, left: RELEASE_BATCH, channels: &self.channels, request, published };
        let Some((member, next)) = batch.first_live(token) else {
            if queue.is_empty() {
                self.queues.remove(request.name.waiters());
            }
            return None;
        };
        queue.mark(&member);
        let holder = Holder::Acquisition(member.acquisition);
        if planted(Bug::HandOffUnset) {
            self.keys.remove(request.name.key());
            return Some(Reply::Released { next });
        }
        let expires_us = (!planted(Bug::HandOffWithoutExpiry)).then(|| after(now_us, member.claim_ms));
        self.keys.insert(request.name.key().to_owned(), Key { holder, expires_us });
        Some(Reply::Released { next })
    }
}

/// The waiters that one release looks at: the first `left` of the queue. One that is dropped leaves both.
struct Batch<'a> {
    queue: &'a mut WaitQueue,
    left: usize,
    channels: &'a HashMap<Arc<str>, usize>,
    request: &'a Request,
    published: &'a mut Vec<(Arc<str>, Push)>,
}

impl Batch<'_> {
    /// Drops waiters until the first is alive. Answers it, with the hand-off where the release's reply is to carry it.
    fn first_live(&mut self, token: u64) -> Option<(Member, Option<HandOff>)> {
        let mut dead: Vec<Arc<str>> = Vec::new();
        while self.left > 0 {
            let (score, member) = self.queue.first()?;
            let member = member.clone();
            let hand_off = HandOff { acquisition: member.acquisition, token };
            if member.channel == self.request.seat.channel {
                return Some((member, Some(hand_off))); // Alive whatever its mark: it is we who ask (rule 8).
            }
            if score.marked && !planted(Bug::StoppedHeadStays) {
                self.judge(&member.channel);
                continue;
            }
            if !dead.contains(&member.channel) {
                let key = self.request.name.key().to_owned();
                if self.publish(&member.channel, Push::HandOff { key, hand_off }) {
                    return Some((member, None));
                }
                dead.push(Arc::clone(&member.channel)); // Not tried twice (rule 7).
            }
            self.drop(&member);
        }
        None
    }

    /// Somebody was offered the lock and let the claim run out. So would its locker's other waiters: they are dropped
    /// too, and the locker is told once (rule 8).
    fn judge(&mut self, channel: &Arc<str>) {
        let batch = self.queue.iter().take(self.left);
        let of_channel = batch.filter(|(_, member)| member.channel == *channel).map(|(_, member)| member.clone());
        for member in of_channel.collect::<Vec<_>>() {
            self.drop(&member);
        }
        self.publish(channel, Push::Dropped { key: self.request.name.key().to_owned() });
    }

    fn drop(&mut self, member: &Member) {
        self.queue.remove(member);
        self.left -= 1;
    }

    /// Sends to a channel if anybody is subscribed to it; says whether.
    fn publish(&mut self, channel: &Arc<str>, push: Push) -> bool {
        let heard = self.channels.contains_key(channel);
        if heard {
            self.published.push((Arc::clone(channel), push));
        }
        heard
    }
}

/// What the steps are made of.
impl MemoryServer {
    fn clock_us(&self, now_us: u64) -> u64 {
        self.epoch_us + now_us
    }

    /// The next number, wherever the counter stands.
    fn increment(&mut self) -> Result<u64, ServerError> {
        let counter = self.counter.as_mut().ok_or_else(no_integer)?;
        *counter += 1;
        Ok(*counter)
    }

    /// The next number, and where it lies below the floor, the clock instead (rule 5).
    fn draw(&mut self, now_us: u64) -> Result<u64, ServerError> {
        if planted(Bug::TokenFromClock) {
            return Ok(self.clock_us(now_us) / 1000 * 1000);
        }
        let mut number = self.increment()?;
        if number < TOKEN_FLOOR {
            number = self.clock_us(now_us).max(TOKEN_FLOOR);
            self.counter = Some(number);
        }
        Ok(number)
    }

    fn key(&self, now_us: u64, key: &str) -> Option<&Key> {
        self.keys.get(key).filter(|key| key.is_alive(now_us))
    }

    /// Compares the whole acquisition, never the owner id alone (rule 1).
    fn look(&self, now_us: u64, request: &Request) -> Found {
        let Some(key) = self.key(now_us, request.name.key()) else { return Found::Free };
        let remaining_ms = remaining_ms(now_us, key.expires_us);
        let asks = request.acquisition;
        match key.holder {
            Holder::Acquisition(holds) if holds.owner != asks.owner => Found::Other(remaining_ms),
            Holder::Acquisition(_) if planted(Bug::AttemptIgnored) => Found::Mine,
            Holder::Acquisition(holds) if holds.attempt < asks.attempt => Found::Older,
            Holder::Acquisition(holds) if holds.attempt > asks.attempt => Found::Higher,
            Holder::Acquisition(_) => Found::Mine,
            Holder::Nobody | Holder::Foreign(_) => Found::Foreign(remaining_ms),
        }
    }

    fn not_mine(&self, now_us: u64, request: &Request) -> Reply {
        Reply::NotMine(self.holder(now_us, request.name.key()))
    }

    /// Leaves the queue, draws, and sets or re-arms the key; where no number can be drawn, it is left as it was.
    fn take(&mut self, now_us: u64, request: &Request, lease_ms: u64) -> Reply {
        self.dequeue(now_us, request);
        match self.draw(now_us) {
            Ok(token) => {
                self.set(now_us, request.name.key(), request.acquisition, lease_ms);
                Reply::Taken { token }
            }
            Err(error) => Reply::Error(error),
        }
    }

    /// Makes the acquisition the holder for that lease; one that it has already is never shortened. Answers its end.
    fn set(&mut self, now_us: u64, key: &str, acquisition: Acquisition, lease_ms: u64) -> u64 {
        let until_us = after(now_us, lease_ms);
        let holder = Holder::Acquisition(acquisition);
        if let Some(found) = self.keys.get_mut(key) {
            let had_us = found.expires_us.filter(|_| found.holder == holder && found.is_alive(now_us));
            let until_us = until_us.max(had_us.filter(|_| !planted(Bug::RenewalShortens)).unwrap_or(0));
            *found = Key { holder, expires_us: Some(until_us) };
            return until_us;
        }
        self.keys.insert(key.to_owned(), Key { holder, expires_us: Some(until_us) });
        self.sweep(now_us);
        until_us
    }

    /// The queue, if anybody is in it.
    fn queue_mut(&mut self, now_us: u64, request: &Request) -> Option<&mut WaitQueue> {
        self.queues.get_mut(request.name.waiters()).filter(|queue| now_us < queue.expires_us)
    }

    /// Puts the acquisition at its place, unmarked, and answers how many wait. The queue's life is lengthened, never
    /// shortened.
    fn enqueue(&mut self, now_us: u64, request: &Request, place: u64) -> u64 {
        let waiters = request.name.waiters();
        if self.queue_mut(now_us, request).is_none() {
            self.queues.insert(waiters.to_owned(), WaitQueue::default());
        }
        let queue = self.queues.get_mut(waiters).expect("put there above");
        queue.put(Member::of(request), place);
        let length = queue.len() as u64;
        let recheck_us = RECHECK_US.max(RECHECK_PER_WAITER_US * length);
        queue.expires_us = queue.expires_us.max(now_us + QUEUE_LIFE_IN_RECHECKS * recheck_us);
        length
    }

    /// Takes the acquisition out of the queue; an empty queue is no key.
    fn dequeue(&mut self, now_us: u64, request: &Request) {
        let Some(queue) = self.queue_mut(now_us, request) else { return };
        queue.remove(&Member::of(request));
        if queue.is_empty() {
            self.queues.remove(request.name.waiters());
        }
    }

    /// Forgets what expired, now and then, so that locks nobody asks for again do not pile up.
    fn sweep(&mut self, now_us: u64) {
        if self.keys.len() < self.sweep_at {
            return;
        }
        self.keys.retain(|_, key| key.is_alive(now_us));
        self.queues.retain(|_, queue| now_us < queue.expires_us);
        self.sweep_at = SWEEP_AT_LEAST.max(2 * self.keys.len());
    }
}

fn no_integer() -> ServerError {
    let text = format!("ERR value is not an integer or out of range ({FENCE})");
    ServerError { class: ErrorClass::Report, text }
}

/// That many milliseconds later.
fn after(now_us: u64, ms: u64) -> u64 {
    now_us.saturating_add(ms.saturating_mul(1000))
}

/// Whole milliseconds, rounded down, so that nobody believes in more than there is.
fn remaining_ms(now_us: u64, expires_us: Option<u64>) -> Option<u64> {
    Some((expires_us? - now_us) / 1000)
}
