//! What will happen, by time; of equal times, what was planned first. Events are large and stay where they are; what is
//! sorted is small.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use dlock_history::checker::Time;

use super::world::Event;

#[derive(Default)]
pub struct Events {
    order: BinaryHeap<Reverse<(Time, u64, usize)>>,
    /// Each with its number in order; free places are empty.
    events: Vec<Option<(Time, u64, Event)>>,
    free: Vec<usize>,
    planned: u64,
}

impl Events {
    pub fn add(&mut self, at: Time, event: Event) {
        let number = self.planned;
        self.planned += 1;
        let place = self.free.pop().unwrap_or(self.events.len());
        if place == self.events.len() {
            self.events.push(None);
        }
        self.events[place] = Some((at, number, event));
        self.order.push(Reverse((at, number, place)));
    }

    /// Takes out the next event, if it is not later than that.
    pub fn next(&mut self, until: Time) -> Option<(Time, Event)> {
        loop {
            let &Reverse((at, number, place)) = self.order.peek().filter(|Reverse((at, ..))| *at <= until)?;
            self.order.pop();
            // An event that was taken out before has left its number here.
            let planned = self.events[place].take_if(|(_, planned, _)| *planned == number);
            if let Some((.., event)) = planned {
                self.free.push(place);
                return Some((at, event));
            }
        }
    }

    /// Takes out, in order, those that are like that.
    pub fn take(&mut self, is: impl Fn(&Event) -> bool) -> Vec<(Time, Event)> {
        let mut taken = Vec::new();
        for (place, slot) in self.events.iter_mut().enumerate() {
            if let Some(event) = slot.take_if(|(.., event)| is(event)) {
                self.free.push(place);
                taken.push(event);
            }
        }
        taken.sort_by_key(|&(at, number, _)| (at, number));
        taken.into_iter().map(|(at, _, event)| (at, event)).collect()
    }

    pub fn clear(&mut self) {
        *self = Events::default();
    }
}
