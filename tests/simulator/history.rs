//! What a history must show, whoever made it: a simulation or processes on a real server.
//!
//! Told in the order of time what the holders saw (acquired, how long it is certainly held, over) and what reached the
//! protected resource, it answers with the first violation. It knows nothing of engines, servers or networks.
//!
//! - (a) By the holders' own view no two acquisitions of one lock are valid at once. A view may lengthen (renewed) and
//!   shorten (extended to less); each holds at its time.
//! - (b) Tokens rise in the order of completion; where the server lost data meanwhile, in real-time order: above every
//!   token whose acquisition was complete before this one was asked for.
//! - (c) A register that accepts only tokens that do not fall accepts every write of a holder that is still valid, and
//!   never one of an acquisition that is older than one whose write it has accepted.

use std::collections::BTreeMap;

/// Microseconds on one clock for the whole history.
pub type Time = u64;

/// Identifies an acquisition in a history.
pub type HoldingId = u64;

pub type Checked = Result<(), String>;

/// All locks of one history.
#[derive(Default)]
pub struct History {
    locks: BTreeMap<usize, LockHistory>,
    holdings: BTreeMap<HoldingId, Holding>,
    next: HoldingId,
}

#[derive(Default)]
struct LockHistory {
    /// Held, or perhaps held again when a late renewal is read.
    open: Vec<HoldingId>,
    /// When an acquisition completed, and the highest token until then.
    tokens: Vec<(Time, u64)>,
    /// When the server last lost this lock's data.
    disturbed_at: Option<Time>,
    register: u64,
    /// The acquisition whose write the register accepted last.
    last_writer: Option<HoldingId>,
}

struct Holding {
    lock: usize,
    who: String,
    token: u64,
    asked_at: Time,
    valid_until: Time,
    over: bool,
}

impl History {
    /// An acquisition is complete: from now until `valid_until` its holder believes in it.
    pub fn acquired(
        &mut self,
        now: Time,
        lock: usize,
        who: String,
        asked_at: Time,
        token: u64,
        valid_until: Time,
    ) -> Result<HoldingId, String> {
        let id = self.next;
        self.next += 1;
        let here = self.locks.entry(lock).or_default();
        let since_loss = here.disturbed_at.is_some_and(|at| at >= asked_at);
        let before = if since_loss { asked_at } else { Time::MAX };
        let known = here.tokens.partition_point(|&(at, _)| at < before);
        let highest = known.checked_sub(1).map_or(0, |last| here.tokens[last].1);
        if token <= highest {
            return Err(format!(
                "(b) tokens: {who} acquired lock {lock} with token {token}, {highest} was there before"
            ));
        }
        let top = here.tokens.last().map_or(0, |&(_, top)| top).max(token);
        here.tokens.push((now, top));
        here.open.push(id);
        self.holdings.insert(id, Holding { lock, who, token, asked_at, valid_until, over: false });
        self.check_overlap(now, id)?;
        Ok(id)
    }

    /// The holder's view has changed: certainly held until then.
    pub fn seen(&mut self, now: Time, id: HoldingId, valid_until: Time) -> Checked {
        self.holdings.get_mut(&id).expect("only what was acquired is seen").valid_until = valid_until;
        self.check_overlap(now, id)
    }

    /// The holder gave it up, lost it, or is no more.
    pub fn over(&mut self, now: Time, id: HoldingId) {
        let holding = self.holdings.get_mut(&id).expect("only what was acquired ends");
        holding.over = true;
        holding.valid_until = holding.valid_until.min(now);
        let lock = holding.lock;
        self.locks.entry(lock).or_default().open.retain(|&open| open != id);
    }

    /// The server lost what it knew of that lock.
    pub fn disturbed(&mut self, now: Time, lock: usize) {
        self.locks.entry(lock).or_default().disturbed_at = Some(now);
    }

    /// A holder's write reaches the resource that the lock protects.
    pub fn write(&mut self, now: Time, id: HoldingId) -> Result<bool, String> {
        let exempt = self.is_exempt(id);
        let holding = &self.holdings[&id];
        let here = self.locks.entry(holding.lock).or_default();
        if holding.token < here.register {
            if now < holding.valid_until && !holding.over && !exempt {
                let (who, token, register) = (&holding.who, holding.token, here.register);
                return Err(format!("(c) register: {who} holds with token {token}, refused since {register} wrote"));
            }
            return Ok(false);
        }
        here.register = holding.token;
        let last = here.last_writer.replace(id);
        if let Some(last) = last
            && last > id
            && !exempt
            && !self.is_exempt(last)
        {
            let (who, newer) = (&holding.who, &self.holdings[&last].who);
            return Err(format!(
                "(c) register: accepted a write of {who} after one of the later acquisition of {newer}"
            ));
        }
        Ok(true)
    }

    /// Did the server lose data after this acquisition was asked for? Then it may overlap.
    pub fn is_exempt(&self, id: HoldingId) -> bool {
        let holding = &self.holdings[&id];
        let here = self.locks.get(&holding.lock);
        here.and_then(|here| here.disturbed_at).is_some_and(|at| at >= holding.asked_at)
    }

    /// Did the server lose data of that lock since then?
    pub fn disturbed_since(&self, lock: usize, since: Time) -> bool {
        self.locks.get(&lock).and_then(|here| here.disturbed_at).is_some_and(|at| at >= since)
    }

    /// The acquisitions of a lock that are valid now, with their holders.
    pub fn valid(&self, now: Time, lock: usize) -> impl Iterator<Item = (HoldingId, &str)> {
        let open = self.locks.get(&lock).map_or(&[][..], |here| &here.open[..]);
        let valid = open.iter().filter(move |id| now < self.holdings[id].valid_until);
        valid.map(|id| (*id, self.holdings[id].who.as_str()))
    }

    fn check_overlap(&self, now: Time, id: HoldingId) -> Checked {
        let holding = &self.holdings[&id];
        if now >= holding.valid_until || self.is_exempt(id) {
            return Ok(());
        }
        for (other, who) in self.valid(now, holding.lock) {
            if other != id && !self.is_exempt(other) {
                let (lock, until) = (holding.lock, self.holdings[&other].valid_until);
                return Err(format!(
                    "(a) overlap: {} holds lock {lock}, {who} holds it too until {until}",
                    holding.who
                ));
            }
        }
        Ok(())
    }
}
