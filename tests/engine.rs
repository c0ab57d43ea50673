//! Orders of events that a review found wrong, each played to an engine without any I/O.

use std::sync::Arc;

use dlock::engine::{Action, Answer, Config, Engine, HandleId, Lane, Operation};
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
    done: Vec<(u32, Result<Answer, Error>)>,
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
        Bench { engine, owner, handle, sent: Vec::new(), done: Vec::new() }
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
                Action::Send { lane: Lane::Command, id, request } => self.sent.push((id, request.op)),
                Action::Complete { tag, result, .. } => self.done.push((tag, result)),
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

    /// Waits in the queue.
    fn queued(&mut self) {
        self.engine.subscribed(10, 5);
        self.start(10, Operation::Acquire { deadline: None }, 1);
        self.reply(20, Reply::Held { place: TOKEN_FLOOR + 1, remaining_ms: None });
        assert!(matches!(self.sent[..], [(_, Op::Join { queue: true, .. })]));
        self.reply(30, Reply::Queued { place: TOKEN_FLOOR + 1, remaining_ms: Some(3_000), waiters: 1 });
    }

    fn acquired(&mut self, now: u64) {
        self.start(now, Operation::TryAcquire, 1);
        self.reply(now, Reply::Taken { token: TOKEN_FLOOR + 1 });
        assert!(matches!(self.done.remove(0), (1, Ok(Answer::Acquired { .. }))));
    }
}

fn busy() -> Reply {
    Reply::Error(ServerError { class: ErrorClass::Retry, text: "BUSY".into() })
}

#[test]
fn a_late_recheck_starts_no_release_beside_the_users() {
    for late in [
        Reply::Taken { token: TOKEN_FLOOR + 3 },
        Reply::Queued { place: TOKEN_FLOOR + 1, remaining_ms: Some(1), waiters: 1 },
    ] {
        let mut b = Bench::new();
        b.queued();
        b.engine.push(40, Push::Dropped { key: "g:n".into() }); // a re-check goes out
        b.gather();
        let (recheck, _) = b.sent.remove(0);
        let hand_off = HandOff { acquisition: Acquisition { owner: b.owner, attempt: 1 }, token: TOKEN_FLOOR + 2 };
        b.engine.push(50, Push::HandOff { key: "g:n".into(), hand_off });
        b.gather();
        assert!(matches!(b.done.remove(0), (1, Ok(Answer::Acquired { .. }))));
        b.start(60, Operation::Release, 2);
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
