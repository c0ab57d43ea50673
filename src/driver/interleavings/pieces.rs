//! The pieces by themselves, for what the whole driver would not show: that each request of a link is answered or named as lost
//! once and no more, and that what was read from an ended subscription counts for none that came later.

use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::time::Duration;

use uuid::Uuid;

use super::{Rng, Time, explore, spawn};
use crate::descriptors::Signal;
use crate::driver::feed::Feed;
use crate::driver::link::{Handover, Link};
use crate::driver::poll_readable;
use crate::driver::slot::Slot;
use crate::engine::Answer;
use crate::error::{Error, Status};
use crate::store::{
    Acquisition, Connection, Name, Op, Push, Reply, Request, RequestId, Seat, Subscription, Unreachable,
};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::system::{Descriptor, World};
use crate::sync::{Arc, Mutex, PoisonError};

const FOREVER: Duration = Duration::from_secs(3_600);

/// A connection that answers each request with its number, some turns later, and may end.
struct Echo {
    fd: Descriptor,
    in_flight: Vec<RequestId>,
    rng: Rng,
    /// In how many turns it ends.
    left: u64,
}

impl Echo {
    fn new(world: &World, mut rng: Rng) -> Box<Self> {
        let (fd, stream) = world.stream();
        world.set_ready(stream, true);
        let left = rng.below(6);
        Box::new(Echo { fd, in_flight: Vec::new(), rng, left })
    }
}

impl Connection for Echo {
    fn push(&mut self, id: RequestId, _request: Request) {
        self.in_flight.push(id);
    }

    fn turn(&mut self, _wait: Duration, replies: &mut Vec<(RequestId, Reply)>) -> Result<(), Unreachable> {
        shuttle::thread::yield_now();
        if self.left == 0 {
            return Err(Unreachable("ended".to_owned()));
        }
        self.left -= 1;
        let some = self.rng.below(self.in_flight.len() as u64 + 1) as usize;
        replies.extend(self.in_flight.drain(..some).map(|id| (id, Reply::Taken { token: id.0 })));
        Ok(())
    }

    fn pending(&self) -> Vec<RequestId> {
        self.in_flight.clone()
    }

    fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    fn fd(&self) -> Option<RawFd> {
        Some(self.fd.0)
    }

    fn wants_write(&self) -> bool {
        false
    }
}

/// A link with its callers, and a ledger where the driver has the engine.
struct Shared {
    world: Arc<World>,
    link: Link,
    wake: Signal,
    waiting: Mutex<BTreeMap<RequestId, Arc<Slot>>>,
    rng: Mutex<Rng>,
    over: AtomicBool,
}

impl Shared {
    fn settle(&self, id: RequestId, answer: crate::error::Result<Answer>) {
        let slot = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        slot.unwrap_or_else(|| panic!("{id:?} is settled twice")).complete(answer);
    }

    fn drive(&self, mut connection: Box<dyn Connection>, slot: Option<&Slot>) -> bool {
        loop {
            let mut replies = self.link.load(&mut *connection);
            let turned = connection.turn(FOREVER, &mut replies);
            let came = !replies.is_empty();
            for (id, reply) in replies.drain(..) {
                let Reply::Taken { token } = reply else { unreachable!() };
                self.settle(id, Ok(Answer::Acquired { token }));
            }
            if turned.is_err() {
                let mut lost = connection.pending();
                lost.extend(self.link.take_down());
                drop(connection);
                for id in lost {
                    self.settle(id, Err(Error::new(Status::NotConnected, "ended")));
                }
                let rng = Rng(self.rng.lock().unwrap_or_else(PoisonError::into_inner).next());
                self.link.install(Echo::new(&self.world, rng));
                return false;
            }
            match self.link.give_back(connection, replies, slot.map_or(came, |slot| !slot.is_done())) {
                Handover::More(back) => connection = back,
                Handover::Idle | Handover::Passed => return false,
                Handover::Orphaned => return true,
            }
        }
    }

    /// One request to its end.
    fn call(&self, id: RequestId) {
        let slot = Arc::new(Slot::default());
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(&slot));
        if self.link.submit(id, request()).is_err() {
            self.settle(id, Err(Error::new(Status::NotConnected, "down")));
        }
        while !slot.is_done() {
            if let Some(connection) = self.link.take(Some(&slot))
                && self.drive(connection, Some(&slot))
            {
                self.wake.raise();
            }
            if !slot.is_done() {
                slot.wait(FOREVER);
            }
        }
        let (answer, asked) = slot.end();
        if asked {
            self.wake.raise();
        }
        if let Ok(answer) = answer.expect("done") {
            assert_eq!(answer, Answer::Acquired { token: id.0 }, "the reply to another request");
        }
    }

    /// As the background thread: what no call drives.
    fn run(&self) {
        loop {
            self.wake.clear();
            if self.over.load(Ordering::Acquire) {
                return;
            }
            if let Some(connection) = self.link.take(None) {
                self.drive(connection, None);
            }
            let link = self.link.to_poll().map_or(-1, |(fd, _)| fd);
            poll_readable(&[self.wake.fd(), link], FOREVER);
        }
    }
}

fn request() -> Request {
    let acquisition = Acquisition { owner: Uuid::from_u128(1), attempt: 1 };
    let name = Arc::new(Name::new("name", "group").expect("a name"));
    Request { name, acquisition, seat: Seat { claim_ms: 1_000, channel: "channel".into() }, op: Op::Inspect }
}

#[test]
fn each_request_of_a_link_is_answered_or_lost_once() {
    explore(300, Time::Stands, |world, mut rng| {
        let shared = Arc::new(Shared {
            world: Arc::clone(world),
            link: Link::new(),
            wake: Signal::new().expect("a signal"),
            waiting: Mutex::default(),
            rng: Mutex::new(Rng(rng.next())),
            over: AtomicBool::new(false),
        });
        shared.link.install(Echo::new(world, Rng(rng.next())));
        let background = {
            let shared = Arc::clone(&shared);
            spawn("background", move || shared.run())
        };
        let caller = |number: u64| {
            let shared = Arc::clone(&shared);
            spawn("caller", move || (0..3).for_each(|n| shared.call(RequestId(number * 10 + n))))
        };
        let callers: Vec<_> = (1..4).map(caller).collect();
        for caller in callers {
            caller.join().expect("a caller");
        }
        assert!(shared.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_empty());
        shared.over.store(true, Ordering::Release);
        shared.wake.raise();
        background.join().expect("the background");
    });
}

/// A subscription on which something comes at each look.
struct Chatter(Descriptor);

impl Subscription for Chatter {
    fn ping(&mut self, _number: u64) -> Result<(), Unreachable> {
        Ok(())
    }

    fn receive(&mut self, pushes: &mut Vec<Push>) -> Result<(), Unreachable> {
        shuttle::thread::yield_now();
        pushes.push(Push::Pong { number: 1 });
        Ok(())
    }

    fn fd(&self) -> Option<RawFd> {
        Some(self.0.0)
    }
}

#[test]
fn an_ended_subscription_never_counts_for_a_later_one() {
    explore(300, Time::Stands, |world, _| {
        let feed = Arc::new(Feed::new().expect("a feed"));
        // The generation that was last announced, as to the engine.
        let told = Arc::new(Mutex::new(0));
        let reader = || {
            let (feed, told) = (Arc::clone(&feed), Arc::clone(&told));
            spawn("reader", move || {
                let slot = Arc::new(Slot::default());
                for _ in 0..4 {
                    let Some(mut reading) = feed.take(Some(&slot)) else { continue };
                    let mut pushes = Vec::new();
                    let current = feed.pings(reading.generation).is_some();
                    if current && reading.subscription.receive(&mut pushes).is_ok() {
                        let told = told.lock().unwrap_or_else(PoisonError::into_inner);
                        if feed.is_current(reading.generation) {
                            assert!(*told <= reading.generation, "read from an ended subscription");
                        }
                    }
                    feed.give_back(reading);
                }
            })
        };
        let readers = [reader(), reader()];
        for generation in 1..4 {
            feed.install(Box::new(Chatter(world.stream().0)));
            *told.lock().unwrap_or_else(PoisonError::into_inner) = generation;
        }
        for reader in readers {
            reader.join().expect("a reader");
        }
        // What is there now is the last one, whoever gave back an earlier one.
        let last = feed.take(None).map(|reading| reading.generation);
        assert_eq!(last, Some(3));
        feed.end();
    });
}
