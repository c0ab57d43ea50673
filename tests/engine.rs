//! Orders of events that once went wrong, or that are too rare for the simulator, each played to an engine without any I/O.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use dlock::engine::{Action, Answer, Config, Engine, HandleId, Lane, Operation, Time};
use dlock::error::{Error, Status};
use dlock::store::{
    Acquisition, ErrorClass, HandOff, Holder, Name, Op, Push, Reply, RequestId, ServerError, TOKEN_FLOOR,
};
use uuid::Uuid;

struct Bench {
    engine: Engine<u32>,
    owner: Uuid,
    handle: HandleId,
    sent: Vec<(RequestId, Op)>,
    /// Of whatever was sent last.
    last_attempt: u64,
    done: Vec<(u32, Result<Answer, Error>)>,
    lost: Vec<u32>,
}

impl Bench {
    fn new() -> Self {
        let mut engine = Engine::new(Config {
            lease_ms: 3_000,
            auto_renew: true,
            response_timeout_ms: 5_000,
            channel: "c".into(),
            seed: 1,
        });
        let owner = Uuid::from_u128(7);
        let handle = engine.open(Arc::new(Name::new("n", "g").unwrap()), owner).unwrap();
        engine.link_up(1);
        Bench { engine, owner, handle, sent: Vec::new(), last_attempt: 0, done: Vec::new(), lost: Vec::new() }
    }

    fn start(&mut self, now: u64, operation: Operation, tag: u32) {
        self.engine.start(now, self.handle, operation, tag).unwrap();
        self.gather();
    }

    fn gather(&mut self) {
        let mut actions = Vec::new();
        self.engine.take_actions(&mut actions);
        for action in actions {
            match action {
                Action::Send { lane: Lane::Command, id, request } => {
                    self.last_attempt = request.acquisition.attempt;
                    self.sent.push((id, request.op));
                }
                Action::Complete { tag, result, .. } => self.done.push((tag, result)),
                Action::Lost { tag, .. } => self.lost.push(tag),
                _ => {}
            }
        }
    }

    fn reply(&mut self, now: u64, reply: Reply) {
        let (id, _) = self.sent.remove(0);
        self.reply_to(now, id, reply);
    }

    fn reply_to(&mut self, now: u64, id: RequestId, reply: Reply) {
        self.engine.reply(now, id, reply);
        self.gather();
    }

    fn tick(&mut self, now: Time) {
        self.engine.tick(now);
        self.gather();
    }

    fn push(&mut self, now: Time, push: Push) {
        self.engine.push(now, push);
        self.gather();
    }

    /// The lock is handed to the first attempt.
    fn handed_over(&mut self, now: Time) {
        let hand_off = HandOff { acquisition: Acquisition { owner: self.owner, attempt: 1 }, token: TOKEN_FLOOR + 2 };
        self.push(now, Push::HandOff { key: "g:n".into(), hand_off });
    }

    /// The one thing that was answered is the acquisition.
    fn expect_acquired(&mut self) {
        assert!(matches!(self.done.remove(0), (1, Ok(Answer::Acquired { .. }))));
        assert_eq!(self.done, []);
    }

    /// Waits in the queue.
    fn queued(&mut self) {
        self.engine.subscribed(10, 5);
        self.start(10, Operation::Acquire { deadline: None }, 1);
        self.reply(20, Reply::Held { place: TOKEN_FLOOR + 1, remaining_ms: None });
        assert!(matches!(self.sent[..], [(_, Op::Join { queue: true, .. })]));
        self.reply(30, Reply::Queued { place: TOKEN_FLOOR + 1, remaining_ms: Some(3_000), waiters: 1 });
    }

    /// A hand-off at 50 was faster than the answer to a re-check; the release of 60 is under way.
    fn releasing_with_a_recheck_in_flight() -> (Self, RequestId) {
        let mut bench = Bench::new();
        bench.queued();
        bench.push(40, dropped());
        let (recheck, _) = bench.sent.remove(0);
        bench.handed_over(50);
        bench.expect_acquired();
        bench.start(60, Operation::Release, 2);
        (bench, recheck)
    }

    fn acquired(&mut self, now: u64) {
        self.start(now, Operation::TryAcquire, 1);
        self.reply(now, Reply::Taken { token: TOKEN_FLOOR + 1 });
        self.expect_acquired();
    }
}

fn busy() -> Reply {
    Reply::Error(ServerError { class: ErrorClass::Retry, text: "BUSY".into() })
}

fn dropped() -> Push {
    Push::Dropped { key: "g:n".into() }
}

#[test]
fn a_late_recheck_starts_no_release_beside_the_users() {
    for late in [
        Reply::Taken { token: TOKEN_FLOOR + 3 },
        Reply::Queued { place: TOKEN_FLOOR + 1, remaining_ms: Some(1), waiters: 1 },
    ] {
        let (mut b, recheck) = Bench::releasing_with_a_recheck_in_flight();
        let (release, _) = b.sent.remove(0);
        b.reply_to(70, recheck, late);
        assert!(b.sent.is_empty(), "it would overtake the user's release: {:?}", b.sent);
        b.reply_to(80, release, Reply::Released { next: None });
        assert_eq!(b.done, [(2, Ok(Answer::Done))]);
        assert!(matches!(b.sent[..], [(_, Op::Release { leave: true })]), "the re-check may have run last");
    }
}

#[test]
fn a_cancel_acts_on_a_reply_that_asks_to_come_again() {
    let mut b = Bench::new();
    b.start(10, Operation::Acquire { deadline: None }, 1);
    b.engine.cancel(20, b.handle);
    b.gather();
    assert!(b.done.is_empty());
    b.reply(30, busy());
    assert!(matches!(&b.done[..], [(1, Err(error))] if error.status == Status::Cancelled), "{:?}", b.done);
}

#[test]
fn a_release_that_could_not_be_sent_while_the_lock_was_valid_answers_lost() {
    let other = Holder::Acquisition(Acquisition { owner: Uuid::from_u128(9), attempt: 1 });
    for (holder, status) in [(Holder::Nobody, Status::Lost), (other, Status::NotOwner)] {
        let mut b = Bench::new();
        b.acquired(10);
        b.engine.link_down(20, "gone");
        b.start(1_000_000, Operation::Release, 2);
        b.gather();
        assert!(b.sent.is_empty());
        b.engine.link_up(4_000_000);
        b.gather();
        b.reply(4_000_100, Reply::NotMine(holder));
        assert!(matches!(&b.done[..], [(2, Err(error))] if error.status == status), "{:?}", b.done);
    }
}

#[test]
fn a_deadline_leaves_the_queue_also_where_the_last_join_was_not_to_queue() {
    let mut b = Bench::new();
    b.engine.subscribed(10, 5);
    b.start(10, Operation::Acquire { deadline: Some(1_000) }, 1);
    b.reply(20, Reply::Held { place: TOKEN_FLOOR + 1, remaining_ms: None });
    let (join, _) = b.sent[0];
    b.reply(30, Reply::Queued { place: TOKEN_FLOOR + 1, remaining_ms: Some(3_000), waiters: 1 });
    // Both connections end at once; the join that follows cannot queue yet.
    b.engine.unsubscribed(100);
    b.engine.link_down(100, "gone");
    b.engine.lost(100, Lane::Command, &[join], "gone");
    b.engine.link_up(200);
    b.engine.subscribe_failed(300);
    b.engine.tick(900);
    b.gather();
    let Some(&(again, Op::Join { queue: false, .. })) = b.sent.last() else { panic!("{:?}", b.sent) };
    b.engine.tick(1_000);
    b.gather();
    b.sent.clear();
    b.reply_to(1_100, again, Reply::Held { place: 0, remaining_ms: Some(3_000) });
    assert!(
        matches!(b.sent[..], [(_, Op::Leave { .. } | Op::Release { leave: true })]),
        "left in the queue: {:?}",
        b.sent
    );
}

#[test]
fn a_request_that_is_to_be_sent_again_is_not_where_a_hand_off_was_faster() {
    for link_is_down in [false, true] {
        let mut b = Bench::new();
        b.queued();
        b.push(40, dropped());
        let (recheck, _) = b.sent.remove(0);
        if link_is_down {
            b.engine.link_down(50, "gone");
            b.engine.lost(50, Lane::Command, &[recheck], "gone"); // sent again when the link is up
        } else {
            b.reply_to(50, recheck, busy()); // sent again after 50 to 100 ms
        }
        b.handed_over(60);
        b.expect_acquired();
        b.engine.link_up(70);
        let confirms_at = b.engine.next_timer().expect("the claim is to be confirmed");
        assert_eq!(confirms_at, 60 + 250_000, "something else is due");
        b.tick(confirms_at - 1);
        assert_eq!(b.sent, [], "a join of one who holds draws a new token");
        assert_eq!(b.engine.next_timer(), Some(confirms_at), "looked at for ever");
    }
}

#[test]
fn an_extension_that_was_given_up_is_not_sent_again() {
    let mut b = Bench::new();
    b.acquired(10);
    b.start(20, Operation::Extend { lease_ms: 60_000 }, 2);
    b.reply(30, Reply::Renewed { remaining_ms: 60_000 });
    assert_eq!(b.done, [(2, Ok(Answer::Done))]);
    b.done.clear();
    b.start(40, Operation::Extend { lease_ms: 1_000 }, 3);
    let mut now = 50;
    while b.done.is_empty() {
        if !b.sent.is_empty() {
            b.reply(now, busy());
        }
        now = b.engine.next_timer().expect("tried again, or given up");
        b.tick(now);
    }
    assert!(matches!(&b.done[..], [(3, Err(error))] if error.status == Status::Locker), "{:?}", b.done);
    assert_eq!(now, 50 + 5_000_000, "the response timeout");
    b.sent.clear();
    b.tick(now + 1_000_000);
    assert_eq!(b.sent, []);
    assert!(b.engine.next_timer().is_some_and(|at| at > now + 1_000_000), "looked at for ever");
}

#[test]
fn a_hand_off_during_the_release_is_given_up_behind_it() {
    let other = Holder::Acquisition(Acquisition { owner: Uuid::from_u128(9), attempt: 1 });
    for answer in [Reply::Released { next: None }, Reply::NotMine(other)] {
        let mut b = Bench::new();
        b.queued();
        b.push(40, dropped());
        b.reply(50, Reply::Taken { token: TOKEN_FLOOR + 2 }); // the news comes by the re-check …
        b.expect_acquired();
        b.start(60, Operation::Release, 2);
        b.handed_over(70); // … and by the message, or by another one: a request of a connection that ended may have queued
        assert!(matches!(b.sent[..], [(_, Op::Release { leave: false })]), "one overtakes the other: {:?}", b.sent);
        b.reply(80, answer);
        assert!(matches!(b.done[..], [(2, _)]), "{:?}", b.done);
        assert!(matches!(b.sent[..], [(_, Op::Release { leave: true })]), "left alone: {:?}", b.sent);
    }
}

#[test]
fn a_lock_whose_acquisition_nobody_takes_is_handed_on_unless_it_is_a_later_one() {
    let mut b = Bench::new();
    b.acquired(10);
    b.engine.hand_on(20, b.handle, TOKEN_FLOOR);
    b.gather();
    assert_eq!(b.sent, [], "an earlier acquisition");
    assert_eq!(b.engine.token(20, b.handle), Ok(TOKEN_FLOOR + 1));
    b.engine.hand_on(30, b.handle, TOKEN_FLOOR + 1);
    b.gather();
    assert!(matches!(b.sent[..], [(_, Op::Release { .. })]), "{:?}", b.sent);
    assert!(b.engine.token(30, b.handle).is_err());
}

#[test]
fn an_inspection_that_is_refused_for_long_ends_with_the_servers_words() {
    for operation in [Operation::IsLocked, Operation::IsLockedByMe, Operation::Owner] {
        for ends_with_a_lost_connection in [false, true] {
            let mut b = Bench::new();
            b.start(10, operation, 1);
            let mut now = 20;
            while b.done.is_empty() {
                if !b.sent.is_empty() && ends_with_a_lost_connection && now > 4_000_000 {
                    let (id, _) = b.sent.remove(0);
                    b.engine.link_down(now, "gone");
                    b.engine.lost(now, Lane::Command, &[id], "gone");
                } else if !b.sent.is_empty() {
                    b.reply(now, busy());
                }
                now = b.engine.next_timer().expect("tried again, or given up");
                b.tick(now);
            }
            let (_, answer) = b.done.remove(0);
            let error = answer.expect_err("refused");
            let (status, words) =
                if ends_with_a_lost_connection { (Status::NotConnected, "gone") } else { (Status::Locker, "BUSY") };
            assert_eq!((error.status, error.message.ends_with(words)), (status, true), "{error:?}");
            assert_eq!(now, 20 + 5_000_000, "the response timeout");
        }
    }
}

#[test]
fn an_acquisition_without_a_number_is_tried_again_for_the_response_timeout_and_then_given_up() {
    let mut b = Bench::new();
    b.start(10, Operation::Acquire { deadline: None }, 1);
    let mut now = 20;
    while b.done.is_empty() {
        assert!(now < 20_000_000, "it is tried for ever");
        if !b.sent.is_empty() {
            let error = ServerError { class: ErrorClass::Retry, text: "the counter was not lifted".into() };
            b.reply(now, Reply::TakenUndrawn { error });
        }
        now = b.engine.next_timer().expect("tried again, or given up");
        b.tick(now);
    }
    let (_, answer) = b.done.remove(0);
    let error = answer.expect_err("refused");
    assert!(error.status == Status::Locker && error.message.ends_with("not lifted"), "{error:?}");
    assert_eq!(now, 20 + 5_000_000, "the response timeout");
    assert!(b.sent.iter().any(|(_, op)| matches!(op, Op::Release { leave: true })), "{:?}", b.sent);
}

#[test]
fn a_lost_locks_key_is_left_to_its_lease_since_its_caller_may_not_have_noticed() {
    let other = Holder::Acquisition(Acquisition { owner: Uuid::from_u128(9), attempt: 1 });
    // The validity runs out by itself; after a shortening extension, when the key lives on; in an extension's answer.
    for how in ["by time", "after a shortening", "said by the server"] {
        let mut b = Bench::new();
        b.acquired(10);
        b.engine.watch(b.handle, 9).unwrap();
        if how != "by time" {
            b.start(20, Operation::Extend { lease_ms: 200 }, 2);
            let shorter = Reply::Renewed { remaining_ms: 3_000 };
            b.reply(30, if how == "after a shortening" { shorter } else { Reply::NotMine(other.clone()) });
        }
        assert!(b.engine.holds_anything() || how == "said by the server");
        for at in [1_000_000, 2_000_000, 3_000_000] {
            b.tick(at);
        }
        assert_eq!(b.lost, [9], "{how}: its end is told");
        assert_eq!(b.sent, [], "{how}: its caller may be at work");
        assert!(b.engine.is_drained(), "{how}");
        // The caller notices, and releases: now the key goes.
        b.done.clear();
        b.start(3_100_000, Operation::Release, 3);
        b.reply(3_200_000, Reply::Released { next: None });
        assert!(matches!(&b.done[..], [(3, Err(error))] if error.status == Status::Lost), "{how}: {:?}", b.done);
    }
}

#[test]
fn a_claim_that_was_lost_before_it_was_confirmed_is_given_up_since_its_mark_is_still_queued() {
    let mut b = Bench::new();
    b.queued();
    b.handed_over(40);
    b.expect_acquired();
    b.tick(3_000_000);
    assert!(matches!(b.sent[..], [(_, Op::Release { leave: true })]), "{:?}", b.sent);
}

/// Handles of one locker that wait, for one lock or each for its own, for holders who do not release; and how often they ask.
struct Crowd {
    engine: Engine<u32>,
    now: Time,
    /// How many joins were sent in each second.
    joins: BTreeMap<Time, u32>,
    /// When each of them asked last, and the longest that one went without asking.
    asked: HashMap<Uuid, Time>,
    longest: Time,
}

const SECOND: Time = 1_000_000;

impl Crowd {
    /// They queue together, in the first instant.
    fn new(handles: u32, own_locks: bool, waiters: impl Fn(u64) -> u64) -> Self {
        let config =
            Config { lease_ms: 30_000, auto_renew: true, response_timeout_ms: 5_000, channel: "c".into(), seed: 1 };
        let engine = Engine::new(config);
        let mut crowd = Crowd { engine, now: 10, joins: BTreeMap::new(), asked: HashMap::new(), longest: 0 };
        crowd.engine.link_up(1);
        crowd.engine.subscribed(10, 5);
        for i in 0..handles {
            let name = Name::new(if own_locks { format!("n{i}") } else { "n".to_string() }.as_str(), "g").unwrap();
            let handle = crowd.engine.open(Arc::new(name), Uuid::from_u128(1 + u128::from(i))).unwrap();
            crowd.engine.start(10, handle, Operation::Acquire { deadline: None }, i).unwrap();
        }
        crowd.answer(waiters);
        crowd
    }

    /// Answers all that is asked, that the lock is held for long yet, and how many wait for it when so many have asked.
    fn answer(&mut self, waiters: impl Fn(u64) -> u64) {
        let mut actions = Vec::new();
        loop {
            self.engine.take_actions(&mut actions);
            if actions.is_empty() {
                return;
            }
            for action in actions.drain(..) {
                match action {
                    Action::Send { id, request, .. } => {
                        let reply = match request.op {
                            Op::Join { queue: true, .. } => {
                                *self.joins.entry(self.now / SECOND).or_default() += 1;
                                let before = self.asked.insert(request.acquisition.owner, self.now);
                                self.longest = self.longest.max(self.now - before.unwrap_or(self.now));
                                let waiters = waiters(self.asked.len() as u64);
                                Reply::Queued { place: TOKEN_FLOOR, remaining_ms: Some(25_000), waiters }
                            }
                            Op::Try { .. } => Reply::Held { place: TOKEN_FLOOR, remaining_ms: None },
                            op => panic!("{op:?} of one who waits"),
                        };
                        self.engine.reply(self.now, id, reply);
                    }
                    Action::Ping(number) => self.engine.push(self.now, Push::Pong { number }),
                    action => panic!("{action:?}"),
                }
            }
        }
    }

    fn run_until(&mut self, end: Time, waiters: impl Fn(u64) -> u64) {
        while let Some(at) = self.engine.next_timer().filter(|&at| at < end) {
            self.now = self.now.max(at);
            self.engine.tick(self.now);
            self.answer(&waiters);
        }
        self.now = end;
    }

    /// The second of them in which most was asked, and how much.
    fn most(&self, from: Time) -> (Time, u32) {
        let (second, count) =
            self.joins.range(from / SECOND..).max_by_key(|(_, count)| **count).expect("somebody asks");
        (*second, *count)
    }
}

#[test]
fn ten_thousand_waiters_ask_seldom_and_not_together() {
    for (own_locks, waiters) in [(false, 10_000), (true, 1)] {
        let waiters = |_| waiters;
        let mut crowd = Crowd::new(10_000, own_locks, waiters);
        crowd.run_until(90 * SECOND, waiters);
        let (second, most) = crowd.most(SECOND);
        assert!(most < 1_500, "own locks {own_locks}: {most} ask in second {second}");
        // A third of the queue's life, which a join sets.
        let longest = if own_locks { 18_750_000 } else { 37_500_000 };
        assert!(crowd.longest <= longest, "own locks {own_locks}: {} us without asking", crowd.longest);
        assert!(crowd.asked.values().all(|&at| at >= 90 * SECOND - longest), "some ask no more");
        // A lost connection makes them all ask, but not in one instant.
        crowd.engine.lost(crowd.now, Lane::Command, &[], "gone");
        crowd.answer(waiters);
        crowd.run_until(100 * SECOND, waiters);
        assert!(crowd.asked.values().all(|&at| at >= 90 * SECOND), "some do not ask again");
        let (second, most) = crowd.most(90 * SECOND);
        assert!(most < 2_000, "own locks {own_locks}: {most} ask in second {second}, past a lost connection");
    }
}

/// Those who join while the queue is short reckon with a short one, once.
#[test]
fn a_hundred_thousand_waiters_of_one_lock_ask_at_most_500_times_a_second_over_any_half_minute() {
    let asked = |asked| asked;
    let mut crowd = Crowd::new(100_000, false, asked);
    crowd.run_until(100 * SECOND, asked);
    let asks = |second| crowd.joins.get(&second).copied().unwrap_or(0);
    let most = (1..70).map(|first| (first..first + 30).map(asks).sum::<u32>()).max().unwrap();
    assert!(most <= 30 * 500, "{most} in half a minute");
    let (second, most) = crowd.most(SECOND);
    assert!(most < 1_000, "{most} ask in second {second}");
}

/// What it says to have done would last for a lease (rule 4).
#[test]
fn a_late_reply_of_an_attempt_that_is_over_is_given_up() {
    let error = ServerError { class: ErrorClass::Report, text: "WRONGTYPE".into() };
    for (late, leaves_something) in [
        (Reply::Taken { token: TOKEN_FLOOR + 3 }, true),
        (Reply::TakenUndrawn { error }, true),
        (Reply::Queued { place: TOKEN_FLOOR + 1, remaining_ms: Some(1), waiters: 1 }, true),
        (Reply::Held { place: 0, remaining_ms: Some(1) }, false),
    ] {
        for since in ["released", "waits anew", "holds anew", "freed"] {
            let (mut b, recheck) = Bench::releasing_with_a_recheck_in_flight();
            b.reply(70, Reply::Released { next: None });
            match since {
                "released" => {}
                "freed" => b.engine.free(80, b.handle),
                _ => b.start(80, Operation::Acquire { deadline: None }, 3),
            }
            if since == "holds anew" {
                b.reply(90, Reply::Taken { token: TOKEN_FLOOR + 4 });
            }
            b.sent.clear();
            b.reply_to(100, recheck, late.clone());
            let given_up = matches!(b.sent[..], [(_, Op::Release { leave: true })]) && b.last_attempt == 1;
            assert_eq!(
                (given_up, b.sent.len()),
                (leaves_something, usize::from(leaves_something)),
                "{since}: {late:?}"
            );
            assert_eq!(b.engine.token(100, b.handle).is_ok(), since == "holds anew", "{late:?}");
        }
    }
}

/// It may have run after all that the attempt asked for on another connection, and have taken the lock for a lease (rule 4).
#[test]
fn a_request_that_is_lost_when_its_attempt_is_over_is_given_up() {
    for since in ["being released", "released", "waits anew", "holds anew", "freed"] {
        let (mut b, recheck) = Bench::releasing_with_a_recheck_in_flight();
        if since == "being released" {
            b.engine.lost(65, Lane::Command, &[recheck], "gone");
            b.gather();
            assert!(matches!(b.sent[..], [(_, Op::Release { leave: false })]), "one overtakes the other: {:?}", b.sent);
        }
        b.reply(70, Reply::Released { next: None });
        match since {
            "being released" | "released" => {}
            "freed" => b.engine.free(80, b.handle),
            _ => b.start(80, Operation::Acquire { deadline: None }, 3),
        }
        if since == "holds anew" {
            b.reply(90, Reply::Taken { token: TOKEN_FLOOR + 4 });
        }
        if since != "being released" {
            b.sent.clear();
            b.engine.lost(100, Lane::Command, &[recheck], "gone");
            b.gather();
        }
        let given_up = matches!(b.sent[..], [(_, Op::Release { leave: true })]) && b.last_attempt == 1;
        assert!(given_up, "{since}: {:?}", b.sent);
        assert_eq!(b.engine.token(100, b.handle).is_ok(), since == "holds anew", "{since}");
    }
}

/// A locker that is closed right after a release waits for the re-check that may run behind it.
#[test]
fn a_closed_engine_is_not_drained_before_a_request_is_answered_that_may_take_a_lock() {
    for is_lost in [false, true] {
        let (mut b, recheck) = Bench::releasing_with_a_recheck_in_flight();
        b.reply(70, Reply::Released { next: None });
        b.engine.close(80);
        b.gather();
        assert!(b.sent.is_empty() && !b.engine.is_drained(), "the re-check may take the lock yet");
        if is_lost {
            b.engine.lost(100, Lane::Command, &[recheck], "gone");
            b.gather();
        } else {
            b.reply_to(100, recheck, Reply::Taken { token: TOKEN_FLOOR + 4 });
        }
        assert!(matches!(b.sent[..], [(_, Op::Release { leave: true })]), "{:?}", b.sent);
        assert!(!b.engine.is_drained(), "the release is under way");
        b.reply(110, Reply::Released { next: None });
        assert!(b.engine.is_drained());
    }
}

/// The waiter may still be queued, and be handed a lock that nobody takes.
#[test]
fn a_leave_that_is_refused_is_followed_by_a_release() {
    for (class, told) in [(ErrorClass::Memory, Status::LockTimeout), (ErrorClass::Report, Status::Locker)] {
        let mut b = Bench::new();
        b.engine.subscribed(10, 5);
        b.start(10, Operation::Acquire { deadline: Some(1_000) }, 1);
        b.reply(20, Reply::Held { place: TOKEN_FLOOR + 1, remaining_ms: None });
        b.reply(30, Reply::Queued { place: TOKEN_FLOOR + 1, remaining_ms: Some(3_000), waiters: 1 });
        b.tick(1_000);
        assert!(matches!(b.sent[..], [(_, Op::Leave { .. })]), "{:?}", b.sent);
        b.reply(1_100, Reply::Error(ServerError { class, text: "no".into() }));
        assert!(matches!(b.sent[..], [(_, Op::Release { leave: true })]), "{:?}", b.sent);
        assert!(matches!(&b.done[..], [(1, Err(error))] if error.status == told), "{:?}", b.done);
    }
}

/// The background waits one lease for the answer behind which it gives the attempt up.
#[test]
fn a_reply_that_comes_a_lease_after_the_attempt_was_over_is_given_up() {
    let mut b = Bench::new();
    b.start(10, Operation::Acquire { deadline: Some(1_000) }, 1);
    let (slow, _) = b.sent.remove(0);
    b.tick(1_000);
    b.tick(50_000);
    assert!(matches!(&b.done[..], [(1, Err(error))] if error.status == Status::LockTimeout), "{:?}", b.done);
    assert!(b.sent.is_empty() && !b.engine.is_drained(), "the release waits for the answer");
    b.tick(4_000_000);
    assert!(!b.engine.wants_messages(), "and for no longer than a lease");
    b.reply_to(4_000_100, slow, Reply::Taken { token: TOKEN_FLOOR + 1 });
    assert!(matches!(b.sent[..], [(_, Op::Release { leave: true })]), "{:?}", b.sent);
}

/// The lost reply to a release may have named this waiter, or its own join may run late: asking at once notices it before the
/// re-check by time (rule 13).
#[test]
fn a_lost_command_connection_makes_every_waiter_ask_again() {
    let mut b = Bench::new();
    b.queued();
    b.engine.link_down(40, "gone");
    b.engine.lost(40, Lane::Command, &[], "gone"); // nothing of the waiter was under way
    b.gather();
    b.engine.link_up(50);
    b.gather();
    assert!(matches!(b.sent[..], [(_, Op::Join { queue: true, .. })]), "{:?}", b.sent);
    // The renewals' connection is another matter.
    b.reply(60, Reply::Queued { place: TOKEN_FLOOR + 1, remaining_ms: Some(3_000), waiters: 1 });
    b.engine.lost(70, Lane::Renewal, &[], "gone");
    b.gather();
    assert_eq!(b.sent, []);
}

/// A message to one who cannot hear it finds nobody, and takes the waiter out of the queue (rule 6).
#[test]
fn nobody_queues_before_the_subscription_is_confirmed() {
    let mut b = Bench::new();
    b.start(10, Operation::Acquire { deadline: None }, 1);
    b.reply(20, Reply::Held { place: TOKEN_FLOOR + 1, remaining_ms: None });
    assert_eq!(b.sent, [], "not before");
    b.engine.link_down(30, "gone");
    b.engine.lost(30, Lane::Command, &[], "gone");
    b.engine.link_up(40);
    b.gather();
    assert!(!b.sent.iter().any(|(_, op)| matches!(op, Op::Join { queue: true, .. })), "{:?}", b.sent);
    b.engine.subscribed(50, 45);
    b.gather();
    assert!(matches!(b.sent[..], [(_, Op::Join { queue: true, .. })]), "{:?}", b.sent);
    b.reply(60, Reply::Queued { place: TOKEN_FLOOR + 1, remaining_ms: Some(3_000), waiters: 1 });
    // Nor while it is down, though the waiter was queued before.
    b.engine.unsubscribed(70);
    b.push(80, dropped());
    assert!(matches!(b.sent[..], [(_, Op::Join { queue: false, .. })]), "{:?}", b.sent);
    b.reply(90, Reply::Held { place: 0, remaining_ms: Some(3_000) });
    b.engine.subscribed(100, 95);
    b.gather();
    assert!(matches!(b.sent[..], [(_, Op::Join { queue: true, .. })]), "{:?}", b.sent);
}

/// A release that the server reads between two of their joins must not find a later one first (rule 6).
#[test]
fn those_who_waited_for_the_subscription_join_in_the_order_of_their_places() {
    let config =
        Config { lease_ms: 30_000, auto_renew: true, response_timeout_ms: 5_000, channel: "c".into(), seed: 1 };
    let mut engine = Engine::new(config);
    engine.link_up(1);
    let name = Arc::new(Name::new("n", "g").unwrap());
    for i in 0..200 {
        let handle = engine.open(Arc::clone(&name), Uuid::from_u128(1 + i)).unwrap();
        engine.start(10, handle, Operation::Acquire { deadline: None }, i).unwrap();
    }
    let mut actions = Vec::new();
    engine.take_actions(&mut actions);
    let tries = actions.drain(..).filter_map(|action| match action {
        Action::Send { id, request, .. } => Some((id, request.acquisition.owner.as_u128() as u64 * 77 % 211)),
        _ => None,
    });
    for (id, number) in tries.collect::<Vec<_>>() {
        engine.reply(20, id, Reply::Held { place: TOKEN_FLOOR + number, remaining_ms: None });
    }
    engine.subscribed(30, 25);
    engine.take_actions(&mut actions);
    let places = actions.iter().filter_map(|action| match action {
        Action::Send { request, .. } => match request.op {
            Op::Join { queue: true, place, .. } => Some(place),
            _ => None,
        },
        _ => None,
    });
    let places: Vec<_> = places.collect();
    assert!(places.len() == 200 && places.is_sorted(), "{places:?}");
}

/// By itself it would ask only when the holder's lease is over (rule 8).
#[test]
fn a_waiter_that_is_told_that_it_was_dropped_asks_again_at_once() {
    let mut b = Bench::new();
    b.queued();
    b.push(40, Push::Dropped { key: "g:another".into() });
    assert_eq!(b.sent, [], "another lock's waiters were dropped");
    b.push(50, dropped());
    assert!(
        matches!(b.sent[..], [(_, Op::Join { queue: true, place, .. })] if place == TOKEN_FLOOR + 1),
        "{:?}",
        b.sent
    );
    b.push(60, dropped()); // while the join is under way, which may have run before
    b.reply(70, Reply::Queued { place: TOKEN_FLOOR + 1, remaining_ms: Some(3_000), waiters: 1 });
    assert!(matches!(b.sent[..], [(_, Op::Join { queue: true, .. })]), "{:?}", b.sent);
}

/// Of what was given back, in a round that took so long.
fn given_back(b: &mut Bench, now: Time) {
    b.reply(now, Reply::GivenBack { place: TOKEN_FLOOR + 1 });
}

#[test]
fn what_was_given_back_goes_on_under_the_next_attempt_after_a_pause() {
    let mut b = Bench::new();
    b.engine.subscribed(0, 0);
    b.start(1_000, Operation::Acquire { deadline: None }, 1);
    let mut now = 1_000;
    for round in 0..10 {
        assert_eq!(b.last_attempt, round + 1);
        let took = 600;
        given_back(&mut b, now + took);
        assert!(b.sent.is_empty(), "it asks again at once: {:?}", b.sent);
        // A millisecond at least, twice as long each time, at most 100 ms; from half of it to one and a half.
        let pause = (1_000 << round).min(100_000);
        let next = b.engine.next_timer().unwrap();
        let waits = next - (now + took);
        assert!((pause / 2..pause * 3 / 2).contains(&waits), "round {round}: {waits} µs, about {pause}");
        b.tick(next);
        let [(_, Op::Join { place, queue: true, .. })] = b.sent[..] else { panic!("{:?}", b.sent) };
        assert_eq!(place, TOKEN_FLOOR + 1, "the place is kept");
        now = next;
    }
    // Once it is queued, the next one begins with a short pause again.
    b.reply(now + 10, Reply::Queued { place: TOKEN_FLOOR + 1, remaining_ms: Some(10), waiters: 1 });
    let next = b.engine.next_timer().unwrap();
    b.tick(next);
    given_back(&mut b, next + 10);
    assert!(b.engine.next_timer().unwrap() < next + 10 + 1_500);
}

#[test]
fn a_round_given_back_ends_a_call_that_does_not_wait_and_leaves_nothing_to_clean_up() {
    let mut b = Bench::new();
    b.start(10, Operation::TryAcquire, 1);
    given_back(&mut b, 20);
    assert_eq!(b.done, [(1, Ok(Answer::Flag(false)))]);
    b.start(30, Operation::Acquire { deadline: Some(1_000) }, 2);
    b.tick(1_000);
    given_back(&mut b, 1_010);
    assert!(matches!(&b.done[1], (2, Err(error)) if error.status == Status::LockTimeout), "{:?}", b.done);
    b.start(2_000, Operation::Acquire { deadline: None }, 3);
    b.engine.cancel(2_010, b.handle);
    given_back(&mut b, 2_020);
    assert!(matches!(&b.done[2], (3, Err(error)) if error.status == Status::Cancelled), "{:?}", b.done);
    b.start(3_000, Operation::Retry { retries: 1, backoff_us: 500 }, 4);
    given_back(&mut b, 3_010);
    b.tick(3_510);
    assert_eq!((b.last_attempt, b.sent.len()), (8, 1), "each attempt has a number of its own");
    b.reply(3_520, Reply::Taken { token: TOKEN_FLOOR + 9 });
    assert!(matches!(b.done[3], (4, Ok(Answer::Acquired { .. }))));
    assert!(b.sent.is_empty(), "{:?}", b.sent);
}

#[test]
fn a_message_for_an_attempt_that_was_given_back_is_given_up() {
    let mut b = Bench::new();
    b.queued();
    b.push(40, dropped());
    given_back(&mut b, 50);
    b.handed_over(60);
    assert!(matches!(b.sent[..], [(_, Op::Release { leave: true })]), "{:?}", b.sent);
    assert_eq!(b.last_attempt, 1);
}

#[test]
fn a_lease_and_a_queue_without_any_measure_are_asked_after_as_long_ones_are() {
    for (remaining_ms, waiters) in [(u64::MAX, 1), (i64::MAX as u64, 2), (0, u64::MAX)] {
        let mut b = Bench::new();
        b.engine.subscribed(10, 5);
        b.start(10, Operation::Acquire { deadline: None }, 1);
        b.reply(20, Reply::Held { place: TOKEN_FLOOR + 1, remaining_ms: None });
        b.reply(30, Reply::Queued { place: TOKEN_FLOOR + 1, remaining_ms: Some(remaining_ms), waiters });
        for now in (0..4_500_000).step_by(250_000) {
            b.tick(now + 30);
            assert!(b.sent.is_empty(), "{remaining_ms} ms, {waiters} waiters: asked after {now} us");
        }
    }
}
