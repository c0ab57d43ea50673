//! The checker. It is told what happened in the order of time:
//!
//! - (a) By the holders' own view no two acquisitions of one lock are valid at once. A view may lengthen (renewed) and
//!   shorten (extended to less); each holds at its time.
//! - (b) Tokens rise in the order of completion; where the server lost data meanwhile, or the acquisition was over when it
//!   completed, in real-time order: above every token whose acquisition was complete before this one was asked for.
//! - (c) A register that accepts only tokens that do not fall accepts every write of a holder that is still valid, and
//!   never one of an acquisition that is older than one whose write it has accepted.
//! - (d) In calm, whoever asks gets the lock within a bound, or at its own deadline the answer that it did not.
//! - (e) At the end nothing is left on the server but the counter.
//!
//! A history in which the server lost data may show two holders: those asked for before the loss. They are counted, and
//! (b) and the first half of (c) hold for them in the weaker form said above. While two servers give the locks (a failover),
//! (b) does not hold between them: neither knows what the other gives. Which of two acquisitions is the older one, as (c) asks,
//! is then what their tokens say.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::hash::Hash;
use std::io::Write;

use crate::file::{Event, VERSION};

/// Microseconds on one clock for the whole history.
pub type Time = u64;

/// Identifies an acquisition in a history: 0, 1, 2, …
pub type HoldingId = usize;

/// What is wrong; it begins with the letter of what a history must show.
pub type Checked<T = ()> = Result<T, String>;

/// The only keys that may be left over: the counter and, where there are replicas, the life that it was lifted for.
const COUNTER: [&str; 2] = [":dlock:fence", ":dlock:fence:life"];

/// All locks (`L`) and all lock handles (`W`) of one history.
pub struct History<L, W> {
    locks: BTreeMap<L, Lock>,
    holdings: Vec<Holding<L, W>>,
    calls: HashMap<W, Call<L>>,
    /// Since when there are no faults, and how long a waiter may wait from then on.
    calm: Option<(Time, Time)>,
    /// Until when two servers last gave the locks.
    divided_until: Option<Time>,
    pub counts: Counts,
    record: Option<Box<dyn Write + Send>>,
}

/// What a history amounted to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub acquisitions: u64,
    /// Calls that ended without the lock.
    pub failed: u64,
    /// Holders that were told of a loss, or found out.
    pub lost: u64,
    pub writes_accepted: u64,
    /// Writes of earlier holders that the register refused.
    pub writes_refused: u64,
    /// Acquisitions that overlapped an earlier one, which the server's loss of data excuses.
    pub overlaps: u64,
}

#[derive(Default)]
struct Lock {
    /// Held, or perhaps held again when a late renewal is read.
    open: Vec<HoldingId>,
    /// When an acquisition completed, and the highest token until then.
    tokens: Vec<(Time, u64)>,
    /// Until when the server last lost this lock's data.
    disturbed_at: Option<Time>,
    register: u64,
    /// The acquisition whose write the register accepted last.
    last_writer: Option<HoldingId>,
}

struct Holding<L, W> {
    lock: L,
    who: W,
    token: u64,
    asked_at: Time,
    acquired_at: Time,
    valid_until: Time,
    over: bool,
    overlaps: bool,
}

/// An acquire that has not been answered.
struct Call<L> {
    lock: L,
    asked_at: Time,
    deadline: Option<Time>,
}

impl<L, W> Default for History<L, W> {
    fn default() -> Self {
        History {
            locks: BTreeMap::new(),
            holdings: Vec::new(),
            calls: HashMap::new(),
            calm: None,
            divided_until: None,
            counts: Counts::default(),
            record: None,
        }
    }
}

impl<L: Ord + Clone + Display, W: Eq + Hash + Clone + Display> History<L, W> {
    /// Writes down all that it is told from now on, in the format of [`crate::file`].
    pub fn record(&mut self, mut to: Box<dyn Write + Send>) {
        writeln!(to, "{VERSION}").expect("the history can be written");
        self.record = Some(to);
    }

    /// Somebody asks for a lock: until the deadline, or for as long as it takes (`None`). One call a handle at a time.
    pub fn asked(&mut self, now: Time, lock: L, who: W, deadline: Option<Time>) {
        self.note(|| Event::Asks { at: now, lock: &lock, by: &who, deadline });
        self.calls.insert(who, Call { lock, asked_at: now, deadline });
    }

    /// The call ended without the lock.
    pub fn failed(&mut self, now: Time, who: &W, status: &str) -> Checked {
        let Some(call) = self.calls.remove(who) else { return Err(format!("{who} did not ask")) };
        self.note(|| Event::Fails { at: now, lock: &call.lock, by: who, status });
        self.counts.failed += 1;
        let Some((calm_at, bound)) = self.calm else { return Ok(()) };
        let forever = call.deadline.is_none_or(|deadline| now < deadline);
        if forever && (call.asked_at >= calm_at || now > calm_at + bound) {
            let (asked_at, lock) = (call.asked_at, &call.lock);
            return Err(format!(
                "(d) waiters: {who} asked for lock {lock} at {asked_at} in calm, and failed: {status}"
            ));
        }
        Ok(())
    }

    /// The call ended with the lock, but so long after it was given that its lease was over before the caller could look: as
    /// where the process stood still. It was served, and has nothing.
    pub fn missed(&mut self, now: Time, who: &W) -> Checked {
        let Some(call) = self.calls.remove(who) else { return Err(format!("{who} did not ask")) };
        self.note(|| Event::Misses { at: now, lock: &call.lock, by: who });
        self.counts.failed += 1;
        Ok(())
    }

    /// The one who asked wants it no more: cancelled, or no longer there.
    pub fn withdrawn(&mut self, now: Time, who: &W) {
        if let Some(call) = self.calls.remove(who) {
            self.note(|| Event::Withdraws { at: now, lock: &call.lock, by: who });
        }
    }

    /// What was asked for is there: from now until `valid_until` its holder believes in it.
    pub fn acquired(&mut self, now: Time, who: W, token: u64, valid_until: Time) -> Checked<HoldingId> {
        let Some(Call { lock, asked_at, deadline }) = self.calls.remove(&who) else {
            return Err(format!("{who} did not ask"));
        };
        self.note(|| Event::Acquired { at: now, lock: &lock, by: &who, token, until: valid_until });
        self.counts.acquisitions += 1;
        let divided = self.divided_since(asked_at);
        let id = self.holdings.len();
        let here = self.locks.entry(lock.clone()).or_default();
        let since_loss = here.disturbed_at.is_some_and(|at| at >= asked_at);
        let before = if since_loss || valid_until <= now { asked_at } else { Time::MAX };
        let known = here.tokens.partition_point(|&(at, _)| at < before);
        let highest = known.checked_sub(1).map_or(0, |last| here.tokens[last].1);
        if token <= highest && !divided {
            return Err(format!(
                "(b) tokens: {who} acquired lock {lock} with token {token}, {highest} was there before"
            ));
        }
        let top = here.tokens.last().map_or(0, |&(_, top)| top).max(token);
        here.tokens.push((now, top));
        here.open.push(id);
        let (over, overlaps, acquired_at) = (false, false, now);
        self.holdings.push(Holding { lock, who, token, asked_at, acquired_at, valid_until, over, overlaps });
        self.check_overlap(now, id)?;
        self.check_served(now, id, deadline)?;
        Ok(id)
    }

    /// The holder's view has changed: certainly held until then.
    pub fn seen(&mut self, now: Time, id: HoldingId, valid_until: Time) -> Checked {
        self.holdings[id].valid_until = valid_until;
        let Holding { lock, who, .. } = &self.holdings[id];
        Self::write_down(&mut self.record, || Event::Renewed { at: now, lock, by: who, until: valid_until });
        self.check_overlap(now, id)
    }

    /// The holder gave it up.
    pub fn released(&mut self, now: Time, id: HoldingId) {
        self.over(now, id);
        let Holding { lock, who, .. } = &self.holdings[id];
        Self::write_down(&mut self.record, || Event::Released { at: now, lock, by: who });
    }

    /// The holder lost it, and knows.
    pub fn lost(&mut self, now: Time, id: HoldingId) {
        self.counts.lost += 1;
        self.over(now, id);
        let Holding { lock, who, .. } = &self.holdings[id];
        Self::write_down(&mut self.record, || Event::Lost { at: now, lock, by: who });
    }

    fn over(&mut self, now: Time, id: HoldingId) {
        let holding = &mut self.holdings[id];
        holding.over = true;
        holding.valid_until = holding.valid_until.min(now);
        if let Some(here) = self.locks.get_mut(&holding.lock) {
            here.open.retain(|&open| open != id);
        }
    }

    /// From now until then the server loses what it knew of that lock, or may: at some time that nobody can tell better.
    pub fn disturbed(&mut self, now: Time, until: Time, lock: L) {
        self.note(|| Event::Disturbed { at: now, until, lock: Some(&lock) });
        self.locks.entry(lock).or_default().disturbed_at = Some(until);
    }

    /// The same of all locks that were heard of.
    pub fn disturbed_all(&mut self, now: Time, until: Time) {
        self.note(|| Event::Disturbed { at: now, until, lock: None });
        let asked: Vec<L> = self.calls.values().map(|call| call.lock.clone()).collect();
        for lock in asked {
            self.locks.entry(lock).or_default();
        }
        for lock in self.locks.values_mut() {
            lock.disturbed_at = Some(until);
        }
    }

    /// From now until then two servers may give the locks, neither of which knows what the other does.
    pub fn divided(&mut self, now: Time, until: Time) {
        self.note(|| Event::Divided { at: now, until });
        self.divided_until = Some(until);
    }

    fn divided_since(&self, since: Time) -> bool {
        self.divided_until.is_some_and(|until| until >= since)
    }

    /// A holder's write reaches the resource that the lock protects. Does its register accept it?
    pub fn write(&mut self, now: Time, id: HoldingId) -> Checked<bool> {
        let exempt = self.is_exempt(id);
        let holding = &self.holdings[id];
        let Holding { lock, who, token, .. } = holding;
        Self::write_down(&mut self.record, || Event::Writes { at: now, lock, by: who, token: *token });
        let here = self.locks.entry(lock.clone()).or_default();
        if *token < here.register {
            self.counts.writes_refused += 1;
            if now < holding.valid_until && !holding.over && !exempt {
                let register = here.register;
                return Err(format!("(c) register: {who} holds with token {token}, refused since {register} wrote"));
            }
            return Ok(false);
        }
        self.counts.writes_accepted += 1;
        here.register = *token;
        if let Some(last) = here.last_writer.replace(id)
            && let last = &self.holdings[last]
            && last.asked_at > holding.acquired_at
            && !(self.divided_since(last.asked_at) && last.token < holding.token)
        {
            let newer = &last.who;
            return Err(format!(
                "(c) register: accepted a write of {who} after one of the later acquisition of {newer}"
            ));
        }
        Ok(true)
    }

    /// A fault begins: for those who read the history.
    pub fn fault(&mut self, now: Time, kind: &str) {
        self.note(|| Event::Faults { at: now, kind });
    }

    /// From now on there are no faults: who asks gets the lock within that time.
    pub fn calm(&mut self, now: Time, bound: Time) {
        self.note(|| Event::Calm { at: now, bound });
        self.calm = Some((now, bound));
    }

    /// At the end this key is still on the server.
    pub fn left(&mut self, now: Time, key: &str) -> Checked {
        self.note(|| Event::Left { at: now, key });
        if COUNTER.contains(&key) { Ok(()) } else { Err(format!("(e) key space: {key} is left over")) }
    }

    /// Nothing more happens.
    pub fn end(&mut self, now: Time) -> Checked {
        self.note(|| Event::End { at: now });
        let late = self.calls.iter().find(|(_, call)| self.served_by(call.asked_at, call.deadline) < now);
        match late {
            Some((who, call)) => {
                Err(format!("(d) waiters: {who} asked for lock {} at {} and was not served", call.lock, call.asked_at))
            }
            None => Ok(()),
        }
    }

    /// Did the server lose data after this acquisition was asked for? Then it may overlap.
    pub fn is_exempt(&self, id: HoldingId) -> bool {
        let holding = &self.holdings[id];
        self.disturbed_since(&holding.lock, holding.asked_at)
    }

    /// Did the server lose data of that lock since then, or did another give it too?
    pub fn disturbed_since(&self, lock: &L, since: Time) -> bool {
        self.divided_since(since)
            || self.locks.get(lock).and_then(|here| here.disturbed_at).is_some_and(|at| at >= since)
    }

    /// The acquisitions of a lock that are valid now.
    pub fn valid(&self, now: Time, lock: &L) -> impl Iterator<Item = HoldingId> {
        let open = self.locks.get(lock).map_or(&[][..], |here| &here.open[..]);
        open.iter().copied().filter(move |&id| now < self.holdings[id].valid_until)
    }

    fn check_overlap(&mut self, now: Time, id: HoldingId) -> Checked {
        let holding = &self.holdings[id];
        if now >= holding.valid_until {
            return Ok(());
        }
        let mut others = self.valid(now, &holding.lock).filter(|&other| other != id).peekable();
        if others.peek().is_none() {
            return Ok(());
        }
        let exempt = self.is_exempt(id);
        let Some(other) = others.find(|&other| !exempt && !self.is_exempt(other)) else {
            drop(others);
            self.counts.overlaps += u64::from(!self.holdings[id].overlaps);
            self.holdings[id].overlaps = true;
            return Ok(());
        };
        let other = &self.holdings[other];
        let (who, lock, until) = (&holding.who, &holding.lock, other.valid_until);
        Err(format!("(a) overlap: {who} holds lock {lock}, {} holds it too until {until}", other.who))
    }

    fn check_served(&self, now: Time, id: HoldingId, deadline: Option<Time>) -> Checked {
        let Holding { who, lock, asked_at, .. } = &self.holdings[id];
        if now <= self.served_by(*asked_at, deadline) {
            return Ok(());
        }
        Err(format!("(d) waiters: {who} asked for lock {lock} at {asked_at} and was served only at {now}"))
    }

    /// When a call must have been answered.
    fn served_by(&self, asked_at: Time, deadline: Option<Time>) -> Time {
        match (self.calm, deadline) {
            (Some((calm_at, bound)), None) => asked_at.max(calm_at) + bound,
            _ => Time::MAX,
        }
    }

    fn note<'a>(&mut self, event: impl FnOnce() -> Event<&'a L, &'a W, &'a str>)
    where
        L: 'a,
        W: 'a,
    {
        Self::write_down(&mut self.record, event);
    }

    fn write_down<'a>(record: &mut Option<Box<dyn Write + Send>>, event: impl FnOnce() -> Event<&'a L, &'a W, &'a str>)
    where
        L: 'a,
        W: 'a,
    {
        if let Some(record) = record {
            writeln!(record, "{}", event()).expect("the history can be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Time = 1_000;

    fn history() -> History<usize, &'static str> {
        History::default()
    }

    /// Asks at `asked`, has it at `at`, valid until `until`.
    fn hold(
        history: &mut History<usize, &'static str>,
        who: &'static str,
        (asked, at, until): (Time, Time, Time),
        token: u64,
    ) -> Checked<HoldingId> {
        history.asked(asked, 0, who, None);
        history.acquired(at, who, token, until)
    }

    fn says<T: std::fmt::Debug>(checked: Checked<T>, words: &str) {
        let text = checked.expect_err("a violation");
        assert!(text.starts_with(words), "{text}");
    }

    #[test]
    fn two_valid_acquisitions_overlap_also_where_a_view_was_lengthened() {
        let mut h = history();
        let a = hold(&mut h, "a", (0, 1, 100), 1).unwrap();
        assert_eq!(hold(&mut h, "b", (2, 100, 200), 2), Ok(1), "the first one's view ended");
        says(h.seen(150, a, 300), "(a)");
        says(hold(&mut h, "c", (150, 199, 250), 3), "(a)");
        assert_eq!(h.counts.overlaps, 0);
    }

    #[test]
    fn what_is_released_or_lost_overlaps_nothing() {
        let mut h = history();
        let a = hold(&mut h, "a", (0, 1, 100), 1).unwrap();
        h.released(50, a);
        let b = hold(&mut h, "b", (2, 51, 200), 2).unwrap();
        h.lost(60, b);
        hold(&mut h, "c", (2, 61, 200), 3).unwrap();
        assert_eq!(h.counts.lost, 1);
    }

    #[test]
    fn a_loss_of_data_excuses_an_overlap_of_what_was_asked_for_before_it_and_counts_it() {
        let mut h = history();
        hold(&mut h, "a", (0, 1, 100), 1).unwrap();
        h.disturbed(10, 10, 0);
        hold(&mut h, "b", (11, 12, 50), 2).unwrap();
        assert_eq!(h.counts.overlaps, 1);
        says(hold(&mut h, "c", (13, 14, 40), 3), "(a)");
    }

    #[test]
    fn while_the_server_may_be_losing_data_what_is_asked_for_is_excused_too() {
        let mut h = history();
        h.disturbed(1, 20, 0);
        hold(&mut h, "a", (5, 6, 100), 1).unwrap();
        hold(&mut h, "b", (7, 8, 100), 2).unwrap();
        hold(&mut h, "c", (21, 22, 100), 3).unwrap();
        says(hold(&mut h, "d", (23, 24, 100), 4), "(a)");
    }

    #[test]
    fn two_servers_at_once_need_not_agree_on_tokens_and_no_stale_write_is_excused() {
        let mut h = history();
        h.divided(10, 20);
        let a = hold(&mut h, "a", (11, 12, 100), 9).unwrap();
        let b = hold(&mut h, "b", (13, 14, 100), 5).unwrap();
        assert_eq!((h.write(15, b), h.write(16, a), h.write(17, b)), (Ok(true), Ok(true), Ok(false)));
        says(hold(&mut h, "c", (21, 101, 200), 9), "(b)");
        let d = hold(&mut h, "d", (19, 102, 200), 4).unwrap();
        hold(&mut h, "e", (201, 202, 300), 10).unwrap();
        assert_eq!((h.write(203, d), h.counts.overlaps), (Ok(false), 1));
        let mut h = history();
        h.divided(1, 50);
        let old = hold(&mut h, "old", (2, 3, 9), 6).unwrap();
        let new = hold(&mut h, "new", (4, 5, 9), 6).unwrap();
        assert_eq!(h.write(6, new), Ok(true));
        says(h.write(7, old), "(c)");
    }

    #[test]
    fn a_loss_of_all_data_excuses_also_what_is_being_asked_for() {
        let mut h = history();
        h.asked(0, 7, "a", None);
        h.disturbed_all(5, 5);
        h.acquired(6, "a", 1, 100).unwrap();
        h.asked(7, 7, "b", None);
        h.acquired(8, "b", 2, 100).unwrap();
        assert_eq!(h.counts.overlaps, 1);
    }

    #[test]
    fn tokens_rise_by_completion_and_in_real_time_order_after_a_loss() {
        let mut h = history();
        let a = hold(&mut h, "a", (0, 10, 100), 5).unwrap();
        h.released(11, a);
        says(hold(&mut h, "b", (5, 12, 100), 5), "(b)");
        h.disturbed(13, 13, 0);
        let c = hold(&mut h, "c", (9, 14, 100), 4).unwrap(); // asked for before the first was complete
        h.released(15, c);
        says(hold(&mut h, "d", (11, 16, 100), 5), "(b)");
    }

    #[test]
    fn an_acquisition_that_was_over_when_it_completed_counts_from_when_it_was_asked_for() {
        let mut h = history();
        let b = hold(&mut h, "b", (4, 50, 100), 6).unwrap();
        h.released(51, b);
        hold(&mut h, "a", (0, 60, 30), 5).unwrap();
        says(hold(&mut h, "c", (51, 61, 30), 5), "(b)");
    }

    #[test]
    fn the_register_refuses_an_earlier_holder_and_never_a_valid_one() {
        let mut h = history();
        let a = hold(&mut h, "a", (0, 1, 10), 1).unwrap();
        assert_eq!(h.write(5, a), Ok(true));
        let b = hold(&mut h, "b", (2, 11, 100), 2).unwrap();
        assert_eq!(h.write(12, a), Ok(true), "nobody has written since");
        assert_eq!(h.write(13, b), Ok(true));
        assert_eq!(h.write(14, a), Ok(false));
        assert_eq!((h.counts.writes_accepted, h.counts.writes_refused), (3, 1));
    }

    #[test]
    fn a_register_that_would_refuse_a_valid_holder_or_take_a_stale_write_is_a_violation() {
        let mut h = history();
        let a = hold(&mut h, "a", (0, 1, 100), 7).unwrap();
        h.disturbed(2, 2, 0);
        let b = hold(&mut h, "b", (0, 3, 100), 3).unwrap(); // its token is lower, which the loss excuses
        assert_eq!(h.write(4, a), Ok(true));
        assert_eq!(h.write(5, b), Ok(false));
        let mut h = history();
        let a = hold(&mut h, "a", (0, 1, 10), 7).unwrap();
        let b = hold(&mut h, "b", (2, 20, 10), 8).unwrap();
        h.holdings[a].token = 8; // as if tokens did not rise
        assert_eq!(h.write(21, b), Ok(true));
        says(h.write(22, a), "(c)");
        h.locks.get_mut(&0).unwrap().register = 9;
        h.holdings[b].valid_until = 100;
        says(h.write(23, b), "(c)");
    }

    #[test]
    fn in_calm_everybody_is_served_within_the_bound() {
        let mut h = history();
        h.asked(1, 0, "early", None);
        h.asked(1, 0, "gives up", None);
        h.calm(CALM, 100);
        assert_eq!(h.failed(CALM + 1, &"gives up", "ERROR"), Ok(()), "the faults' last consequence");
        h.asked(CALM + 2, 0, "fails", None);
        says(h.failed(CALM + 3, &"fails", "ERROR"), "(d)");
        h.asked(CALM + 2, 0, "slow", None);
        assert_eq!(h.missed(CALM + 3, &"slow"), Ok(()), "it was served");
        assert!(h.missed(CALM + 4, &"slow").is_err(), "it did not ask again");
        h.asked(CALM + 2, 0, "patient", Some(CALM + 50));
        assert_eq!(h.failed(CALM + 50, &"patient", "TIMEOUT"), Ok(()));
        h.asked(CALM + 2, 0, "hasty", Some(CALM + 50));
        says(h.failed(CALM + 49, &"hasty", "TIMEOUT"), "(d)");
        says(h.acquired(CALM + 101, "early", 1, CALM + 200).map(drop), "(d)");
        h.asked(CALM + 200, 0, "late", None);
        assert_eq!(h.end(CALM + 300), Ok(()));
        says(h.end(CALM + 301), "(d)");
        h.withdrawn(CALM + 302, &"late");
        assert_eq!(h.end(CALM + 303), Ok(()));
    }

    #[test]
    fn nothing_but_the_counter_is_left() {
        let mut h = history();
        assert_eq!(h.left(1, ":dlock:fence"), Ok(()));
        says(h.left(1, "g:n"), "(e)");
    }
}
