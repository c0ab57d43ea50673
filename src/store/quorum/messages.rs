//! The messages of the servers, and what they come to. A hand-off by one server is no acquisition: it wakes the waiter. Does
//! no I/O and reads no clock.

use std::collections::{HashMap, VecDeque};

use crate::clock::Time;
use crate::store::{Acquisition, HandOff, Push};

/// A waiter that one server has named waits this long for a majority to do so.
const GATHER_US: Time = 5_000;
/// After that time a message is a new one.
const FORGET_US: Time = 1_000_000;
/// A lock's waiters are told no more often that they were dropped.
const DROPPED_US: Time = 50_000;
/// So many pings may be without an answer.
const PINGS_MAX: usize = 64;

/// See the module's documentation.
pub struct Messages {
    majority: u32,
    heard: HashMap<Waiter, Heard>,
    /// Who was named when, and may have to be woken soon; who was, and is to be forgotten later. In order of time.
    recent: VecDeque<(Time, Waiter)>,
    old: VecDeque<(Time, Waiter)>,
    dropped: HashMap<String, Time>,
    pings: VecDeque<(u64, u64)>,
}

/// The lock's key, and who waits for it.
type Waiter = (String, Acquisition);

struct Heard {
    /// Which servers have named it, one bit each.
    servers: u64,
    since: Time,
    told: bool,
}

impl Messages {
    /// Of so many servers.
    pub fn new(servers: usize) -> Self {
        let majority = servers as u32 / 2 + 1;
        Messages {
            majority,
            heard: HashMap::new(),
            recent: VecDeque::new(),
            old: VecDeque::new(),
            dropped: HashMap::new(),
            pings: VecDeque::new(),
        }
    }

    /// A ping of that number goes out to all.
    pub fn pinged(&mut self, number: u64) {
        if self.pings.len() == PINGS_MAX {
            self.pings.pop_front();
        }
        self.pings.push_back((number, 0));
    }

    /// What came from that server.
    pub fn came(&mut self, now: Time, server: usize, push: Push, pushes: &mut Vec<Push>) {
        let bit = 1 << server;
        match push {
            Push::Pong { number } => {
                if let Some((_, servers)) = self.pings.iter_mut().find(|(n, _)| *n == number) {
                    *servers |= bit;
                    if servers.count_ones() == self.majority {
                        pushes.push(Push::Pong { number });
                    }
                }
            }
            Push::Dropped { key } => {
                let last = self.dropped.get(&key).copied();
                if last.is_none_or(|last| now >= last + DROPPED_US) {
                    self.dropped.retain(|_, last| now < *last + DROPPED_US);
                    self.dropped.insert(key.clone(), now);
                    pushes.push(Push::Dropped { key });
                }
            }
            Push::HandOff { key, hand_off } => {
                let acquisition = hand_off.acquisition;
                let waiter = (key.clone(), acquisition);
                let heard = self.heard.entry(waiter.clone()).or_insert(Heard { servers: 0, since: now, told: false });
                if heard.servers & bit != 0 || now >= heard.since + FORGET_US {
                    *heard = Heard { servers: 0, since: now, told: false };
                }
                if heard.servers == 0 {
                    self.recent.push_back((now, waiter));
                }
                let before = heard.servers.count_ones();
                heard.servers |= bit;
                // Told early, it may have asked this server too early.
                let again = heard.told && before < self.majority;
                if again || (!heard.told && heard.servers.count_ones() >= self.majority) {
                    heard.told = true;
                    pushes.push(wake(key, acquisition));
                }
            }
        }
    }

    /// Who was named by one server and then by no other.
    pub fn tick(&mut self, now: Time, pushes: &mut Vec<Push>) {
        while let Some((since, waiter)) = self.recent.front() {
            // Named again since, it stands further behind as well.
            if let Some(heard) = self.heard.get_mut(waiter).filter(|heard| heard.since == *since && !heard.told) {
                if now < since + GATHER_US {
                    break;
                }
                heard.told = true;
                pushes.push(wake(waiter.0.clone(), waiter.1));
            }
            self.old.extend(self.recent.pop_front());
        }
        while let Some((since, waiter)) = self.old.front().filter(|(since, _)| now >= since + FORGET_US) {
            if self.heard.get(waiter).is_some_and(|heard| heard.since == *since) {
                self.heard.remove(waiter);
            }
            self.old.pop_front();
        }
    }

    /// When [`tick`](Self::tick) must be called, after it was called.
    pub fn next_due(&self) -> Option<Time> {
        self.recent.front().map(|(since, _)| since + GATHER_US)
    }
}

/// Has a waiter ask: a number below the floor is no token.
pub fn wake(key: String, acquisition: Acquisition) -> Push {
    Push::HandOff { key, hand_off: HandOff { acquisition, token: 0 } }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn named(owner: u128) -> Push {
        wake("g:n".to_owned(), Acquisition { owner: Uuid::from_u128(owner), attempt: 1 })
    }

    fn told(messages: &mut Messages, now: Time, server: usize, push: Push) -> Vec<Push> {
        let mut pushes = Vec::new();
        messages.came(now, server, push, &mut pushes);
        pushes
    }

    #[test]
    fn a_waiter_is_woken_once_by_a_majority() {
        let mut messages = Messages::new(5);
        assert_eq!(told(&mut messages, 0, 0, named(1)), []);
        assert_eq!(told(&mut messages, 1, 3, named(1)), []);
        assert_eq!(told(&mut messages, 2, 1, named(1)), [named(1)]);
        assert_eq!(told(&mut messages, 3, 2, named(1)), [], "the rest says nothing new");
        messages.tick(3, &mut Vec::new());
        assert_eq!(messages.next_due(), None);
        assert_eq!(told(&mut messages, 9, 0, named(1)), [], "the first of the next release");
        messages.tick(9, &mut Vec::new());
        assert_eq!(messages.next_due(), Some(9 + GATHER_US));
        messages.tick(9 + GATHER_US + FORGET_US, &mut Vec::new());
        assert!(messages.heard.is_empty() && messages.recent.is_empty() && messages.old.is_empty());
    }

    #[test]
    fn a_waiter_that_one_server_names_is_woken_a_moment_later_and_again_by_the_next() {
        let mut messages = Messages::new(3);
        assert_eq!(told(&mut messages, 0, 2, named(1)), []);
        let mut pushes = Vec::new();
        messages.tick(GATHER_US - 1, &mut pushes);
        assert_eq!(pushes, []);
        messages.tick(GATHER_US, &mut pushes);
        assert_eq!(pushes, [named(1)]);
        assert_eq!(told(&mut messages, GATHER_US + 1, 0, named(1)), [named(1)]);
        assert_eq!(told(&mut messages, GATHER_US + 2, 1, named(1)), []);
    }

    #[test]
    fn a_pong_counts_when_a_majority_has_sent_it_and_drops_are_told_once_in_a_while() {
        let mut messages = Messages::new(3);
        messages.pinged(7);
        let pong = || Push::Pong { number: 7 };
        assert_eq!(told(&mut messages, 0, 1, pong()), []);
        assert_eq!(told(&mut messages, 0, 1, pong()), []);
        assert_eq!(told(&mut messages, 0, 2, pong()), [pong()]);
        assert_eq!(told(&mut messages, 0, 0, pong()), []);
        let dropped = || Push::Dropped { key: "g:n".to_owned() };
        assert_eq!(told(&mut messages, 0, 0, dropped()), [dropped()]);
        assert_eq!(told(&mut messages, DROPPED_US - 1, 1, dropped()), []);
        assert_eq!(told(&mut messages, DROPPED_US, 2, dropped()), [dropped()]);
    }
}
