//! Each row of the table of merged answers in `docs/quorum.md`, and what becomes of late answers.

use uuid::Uuid;

use super::*;
use crate::store::{Name, Seat};

/// A number that a server draws.
const N: u64 = TOKEN_FLOOR + 100;
const LEASE_MS: u64 = 3_000;
const JOIN: Op = Op::Join { lease_ms: LEASE_MS, place: N, queue: true };
const TRY: Op = Op::Try { lease_ms: LEASE_MS };
const POLL: Op = Op::Join { lease_ms: LEASE_MS, place: N, queue: false };
const RENEW: Op = Op::Renew { lease_ms: LEASE_MS };
const LEAVE: Op = Op::Leave { lease_ms: LEASE_MS };
const RELEASE: Op = Op::Release { leave: true };
const BACK: Op = Op::Back;

fn who(owner: u128) -> Acquisition {
    Acquisition { owner: Uuid::from_u128(owner), attempt: 1 }
}

fn request(op: Op) -> Request {
    let seat = Seat { claim_ms: LEASE_MS, channel: "c".into() };
    Request { name: Arc::new(Name::new("n", "g").unwrap()), acquisition: who(1), seat, op }
}

fn taken(number: u64) -> Reply {
    Reply::Taken { token: number }
}

fn held(place: u64, remaining_ms: u64) -> Reply {
    Reply::Held { place, remaining_ms: Some(remaining_ms) }
}

fn queued(remaining_ms: u64, waiters: u64) -> Reply {
    Reply::Queued { place: N, remaining_ms: Some(remaining_ms), waiters }
}

fn error(class: ErrorClass) -> Reply {
    Reply::Error(ServerError { class, text: "no".into() })
}

const NOBODY: Reply = Reply::NotMine(Holder::Nobody);
const RELEASED: Reply = Reply::Released { next: None };

/// A link to three servers, all connected.
struct Link {
    votes: Votes,
    /// Without an answer: to which server, under which number, what.
    sent: Vec<(usize, RequestId, Op)>,
    replies: Vec<Reply>,
    dropped: Vec<usize>,
    woken: Vec<Acquisition>,
    rounds: u64,
}

impl Link {
    fn with(ledger: &Arc<Ledger>) -> Self {
        let names: Arc<[String]> = ["a", "b", "c"].map(str::to_owned).into();
        let mut votes = Votes::new(names, Arc::clone(ledger));
        (0..3).for_each(|server| votes.joined(0, server));
        Link { votes, sent: vec![], replies: vec![], dropped: vec![], woken: vec![], rounds: 0 }
    }

    fn new() -> Self {
        Link::with(&Arc::new(Ledger::new(3, LEASE_MS)))
    }

    fn gather(&mut self) {
        while let Some(out) = self.votes.next_out() {
            match out {
                Out::Send { server, id, request } => self.sent.push((server, id, request.op)),
                Out::Reply { reply, .. } => self.replies.push(reply),
                Out::Drop { server, .. } => self.dropped.push(server),
                Out::Wake { acquisition, .. } => self.woken.push(acquisition),
            }
        }
    }

    fn start(&mut self, op: Op) {
        self.rounds += 1;
        self.votes.start(0, RequestId(self.rounds), request(op));
        self.gather();
    }

    /// The oldest request to that server is answered.
    fn answer(&mut self, server: usize, reply: Reply) -> Op {
        let at = self.sent.iter().position(|(to, ..)| *to == server).expect("it was asked");
        let (_, id, op) = self.sent.remove(at);
        self.votes.answer(10, id, reply);
        self.gather();
        op
    }

    fn lost(&mut self, server: usize) {
        self.sent.retain(|(to, ..)| *to != server);
        self.votes.lost(10, server);
        self.gather();
    }

    /// What servers are asked and have not answered.
    fn asked(&self) -> Vec<(usize, Op)> {
        self.sent.iter().map(|(server, _, op)| (*server, *op)).collect()
    }
}

/// The merged answer to three, in order; `None`: that server's connection ends instead.
fn merged(op: Op, answers: [Option<Reply>; 3]) -> (Option<Reply>, Vec<(usize, Op)>) {
    let mut link = Link::new();
    link.start(op);
    for (server, answer) in answers.into_iter().enumerate() {
        match answer {
            Some(reply) => _ = link.answer(server, reply),
            None => link.lost(server),
        }
    }
    assert!(link.replies.len() <= 1, "{:?}", link.replies);
    (link.replies.pop(), link.asked())
}

fn to_all(op: Op) -> Vec<(usize, Op)> {
    (0..3).map(|server| (server, op)).collect()
}

#[test]
fn a_majority_with_the_same_number_takes_the_lock_in_one_round_trip() {
    for op in [TRY, JOIN, POLL, LEAVE] {
        let mut link = Link::new();
        link.start(op);
        assert_eq!(link.asked(), to_all(op));
        link.answer(0, taken(N));
        assert_eq!(link.replies, []);
        link.answer(2, taken(N));
        assert_eq!(link.replies, [taken(N)]);
        assert!(link.votes.is_idle());
        link.answer(1, taken(N));
        assert_eq!(link.asked(), [], "the third is one more key");
    }
}

#[test]
fn numbers_that_differ_are_confirmed_under_the_key_before_the_token_is_handed_out() {
    let mut link = Link::new();
    link.start(TRY);
    link.answer(0, taken(N));
    link.answer(1, taken(N + 5));
    assert_eq!(link.replies, []);
    assert_eq!(link.asked(), [(2, TRY), (0, Op::Confirm { token: N + 5 })]);
    // A higher number is not the token's, and does not count for it.
    link.answer(2, taken(N + 9));
    assert_eq!(link.replies, []);
    assert_eq!(link.answer(0, Reply::Confirmed), Op::Confirm { token: N + 5 });
    assert_eq!(link.replies, [taken(N + 5)]);
}

#[test]
fn a_token_that_no_majority_confirms_is_given_back() {
    for (op, undoes, expected) in [
        (TRY, RELEASE, Reply::GivenBack { place: N + 5 }),
        (JOIN, BACK, Reply::GivenBack { place: N + 5 }),
        (LEAVE, RELEASE, NOBODY),
    ] {
        let mut link = Link::new();
        link.start(op);
        link.answer(0, taken(N));
        link.answer(1, taken(N + 5));
        link.lost(2);
        link.answer(0, NOBODY);
        assert_eq!(link.replies, [expected]);
        assert_eq!(link.asked(), [(0, undoes), (1, undoes)]);
    }
}

#[test]
fn a_server_that_is_gone_is_asked_for_no_confirmation() {
    let mut link = Link::new();
    link.start(JOIN);
    link.answer(0, taken(N));
    link.lost(0);
    link.answer(1, taken(N + 5));
    assert_eq!(link.asked(), [(2, JOIN)]);
    link.answer(2, held(0, 7));
    assert_eq!(link.replies, [Reply::GivenBack { place: N + 5 }]);
}

#[test]
fn held_by_a_majority() {
    let all_held = [Some(held(N, 30)), Some(held(N + 3, 10)), Some(held(N + 1, 20))];
    // A try is decided by the second; the third might still be taken.
    assert_eq!(merged(TRY, all_held.clone()).0, Some(Reply::GivenBack { place: N + 3 }));
    let (reply, asked) = merged(POLL, [None, Some(held(0, 10)), Some(held(0, 20))]);
    assert_eq!(reply, Some(Reply::Held { place: 0, remaining_ms: Some(20) }));
    assert_eq!(asked, []);
    let (reply, asked) = merged(JOIN, [Some(queued(30, 2)), Some(queued(10, 4)), Some(queued(20, 1))]);
    assert_eq!(reply, Some(Reply::Queued { place: N, remaining_ms: Some(30), waiters: 4 }));
    assert_eq!(asked, [], "an answer that is outstanding is left alone");
    assert_eq!(merged(LEAVE, [Some(NOBODY), Some(NOBODY), None]).0, Some(NOBODY));
}

#[test]
fn what_is_less_than_a_majority_is_given_back_everywhere() {
    for (op, undoes) in [(TRY, RELEASE), (POLL, RELEASE), (JOIN, BACK)] {
        let (reply, asked) = merged(op, [Some(taken(N)), Some(held(0, 10)), Some(held(0, 20))]);
        assert_eq!(reply, Some(Reply::GivenBack { place: N }), "{op:?}");
        assert_eq!(asked, to_all(undoes));
    }
}

#[test]
fn a_majority_of_rare_answers_is_the_answer_and_fewer_are_as_held() {
    let foreign = || Some(Reply::Foreign { remaining_ms: Some(5) });
    assert_eq!(merged(POLL, [foreign(), foreign(), None]).0, Some(Reply::Foreign { remaining_ms: Some(5) }));
    assert_eq!(merged(POLL, [Some(Reply::Stale), Some(Reply::Stale), None]).0, Some(Reply::Stale));
    let full = ServerError { class: ErrorClass::Memory, text: "OOM".into() };
    let unqueued = || Some(Reply::Unqueued { error: full.clone() });
    assert_eq!(merged(JOIN, [unqueued(), unqueued(), None]).0, unqueued());
    let (reply, _) = merged(POLL, [None, foreign(), Some(held(0, 9))]);
    assert_eq!(reply, Some(Reply::Held { place: 0, remaining_ms: Some(9) }));
}

#[test]
fn too_few_answers_are_an_error_of_the_class_that_most_have() {
    let report = || Some(error(ErrorClass::Report));
    let (reply, _) = merged(TRY, [report(), report(), None]);
    let expected = ServerError { class: ErrorClass::Report, text: "b: no".into() };
    assert_eq!(reply, Some(Reply::Error(expected)));
    let (reply, _) = merged(RENEW, [None, Some(Reply::Renewed { remaining_ms: 1 }), Some(NOBODY)]);
    let Some(Reply::Error(ServerError { class: ErrorClass::Retry, text })) = reply else { panic!("{reply:?}") };
    assert!(text.contains("a: no answer"), "{text}");
    // What a server without memory has taken is given back: the attempt must not go on.
    let full = || Some(error(ErrorClass::Memory));
    assert_eq!(merged(JOIN, [Some(taken(N)), full(), full()]).0, Some(Reply::GivenBack { place: N }));
}

#[test]
fn a_number_below_the_floor_or_none_is_no_vote_and_the_server_is_dropped() {
    let undrawn = ServerError { class: ErrorClass::Report, text: "no".into() };
    for low in [taken(1), held(1, 9), Reply::TakenUndrawn { error: undrawn }] {
        let mut link = Link::new();
        link.start(TRY);
        link.answer(0, low);
        assert_eq!(link.dropped, [0]);
        assert_eq!(link.asked(), [(1, TRY), (2, TRY)], "an attempt that may go on is not given back (rule Q5)");
        link.answer(1, taken(N));
        assert_eq!(link.replies, []);
        link.answer(2, taken(N));
        assert_eq!(link.replies, [taken(N)]);
    }
}

#[test]
fn a_renewal_counts_when_a_majority_has_it_and_the_others_take_the_key_again() {
    let mut link = Link::new();
    link.start(RENEW);
    link.answer(1, NOBODY);
    link.answer(0, Reply::Renewed { remaining_ms: 50 });
    assert_eq!(link.replies, []);
    link.answer(2, Reply::Renewed { remaining_ms: 40 });
    assert_eq!(link.replies, [Reply::Renewed { remaining_ms: 40 }]);
    let repair = Op::Join { lease_ms: LEASE_MS, place: 0, queue: false };
    assert_eq!(link.asked(), [(1, repair)]);
    assert_eq!(merged(RENEW, [Some(NOBODY), Some(NOBODY), None]).0, Some(NOBODY));
}

#[test]
fn a_release_ends_with_a_majority_and_one_that_released_is_enough() {
    assert_eq!(merged(RELEASE, [Some(RELEASED), Some(NOBODY), None]).0, Some(RELEASED));
    assert_eq!(merged(RELEASE, [Some(NOBODY), Some(NOBODY), None]).0, Some(NOBODY));
    let mut link = Link::new();
    link.start(RELEASE);
    link.answer(0, Reply::Again);
    assert_eq!(link.asked(), [(1, RELEASE), (2, RELEASE), (0, RELEASE)], "repeated inside");
    let next = |owner| Reply::Released { next: Some(HandOff { acquisition: who(owner), token: N }) };
    link.answer(1, next(2));
    link.answer(2, next(2));
    let named = HandOff { acquisition: who(2), token: 0 };
    assert_eq!(link.replies, [Reply::Released { next: Some(named) }]);
    link.answer(0, next(3));
    assert_eq!(link.woken, [who(3)], "each waiter once");
}

#[test]
fn who_holds_it_is_what_a_majority_names() {
    let names = |owner| Some(Reply::Holder(Holder::Acquisition(who(owner))));
    let nobody = || Some(Reply::Holder(Holder::Nobody));
    assert_eq!(merged(Op::Inspect, [names(1), names(1), nobody()]).0, names(1));
    assert_eq!(merged(Op::Inspect, [names(1), names(2), nobody()]).0, nobody());
    assert_eq!(merged(Op::Inspect, [names(1), None, nobody()]).0, nobody());
}

#[test]
fn where_votes_differ_the_rest_is_waited_for_but_not_long_and_the_next_time_not_at_all() {
    let mut link = Link::new();
    link.start(JOIN);
    link.answer(0, taken(N));
    assert_eq!(link.votes.next_due(), None);
    link.answer(1, held(0, 9));
    let due = link.votes.next_due().expect("a pause");
    assert_eq!(due, 10 + PAUSE_MIN_US);
    link.votes.tick(due - 1);
    link.gather();
    assert_eq!(link.replies, []);
    link.votes.tick(due);
    link.gather();
    assert_eq!(link.replies, [Reply::GivenBack { place: N }]);
    assert_eq!(link.asked(), [(2, JOIN), (0, BACK), (1, BACK), (2, BACK)], "also by the slow one, behind the join");
    link.start(JOIN);
    for (server, reply) in [(0, RELEASED), (0, taken(N + 1)), (1, NOBODY), (1, held(0, 9))] {
        link.answer(server, reply);
    }
    assert_eq!(link.replies.len(), 2, "the slow server is not waited for");
    // When it has answered all that it was asked, it is.
    while link.asked().iter().any(|(server, _)| *server == 2) {
        link.answer(2, NOBODY);
    }
    while !link.asked().is_empty() {
        let (server, _) = link.asked()[0];
        link.answer(server, NOBODY);
    }
    link.start(JOIN);
    link.answer(0, taken(N + 2));
    link.answer(1, held(0, 9));
    assert_eq!(link.replies.len(), 2);
}

#[test]
fn a_server_that_took_late_what_was_released_on_another_link_gives_it_back() {
    let ledger = Arc::new(Ledger::new(3, LEASE_MS));
    let (mut one, mut other) = (Link::with(&ledger), Link::with(&ledger));
    one.start(TRY);
    one.answer(0, taken(N));
    one.answer(1, taken(N));
    assert!(!one.votes.has_late());
    other.start(RELEASE);
    assert!(one.votes.has_late() && one.votes.is_idle());
    (0..3).for_each(|server| _ = other.answer(server, RELEASED));
    one.answer(2, taken(N));
    assert_eq!(one.asked(), [(2, BACK)]);
    one.answer(2, RELEASED);
    assert!(!one.votes.has_late());
    // On the same link the release is behind it.
    one.start(TRY);
    one.answer(0, taken(N));
    one.answer(1, taken(N));
    one.start(RELEASE);
    one.answer(2, taken(N));
    assert!(!one.asked().contains(&(2, BACK)));
}

#[test]
fn a_release_that_a_server_was_not_told_is_told_when_it_is_back() {
    let mut link = Link::new();
    link.lost(2);
    link.start(RELEASE);
    link.answer(0, RELEASED);
    link.lost(1);
    assert_eq!(link.replies.len(), 1, "an error: fewer than a majority have answered");
    for server in [1, 2] {
        link.votes.joined(20, server);
        link.gather();
        assert_eq!(link.asked(), [(server, RELEASE)]);
        link.answer(server, RELEASED);
    }
    link.lost(2);
    link.start(RELEASE);
    link.votes.joined(LEASE_MS * 1_000 + 1, 2);
    link.gather();
    assert_eq!(link.asked(), [(0, RELEASE), (1, RELEASE)], "a lease later its key has run out");
}

#[test]
fn a_release_that_ran_at_too_few_servers_is_repeated_and_was_the_holders() {
    let ledger = Arc::new(Ledger::new(3, LEASE_MS));
    let (mut link, mut other) = (Link::with(&ledger), Link::with(&ledger));
    link.start(RELEASE);
    link.answer(0, RELEASED);
    link.lost(1);
    link.lost(2);
    assert!(matches!(link.replies[..], [Reply::Error(ServerError { class: ErrorClass::Retry, .. })]));
    for expected in [RELEASED, NOBODY] {
        other.start(RELEASE);
        (0..2).for_each(|server| _ = other.answer(server, NOBODY));
        assert_eq!(other.replies.pop(), Some(expected));
        other.answer(2, NOBODY);
    }
}

#[test]
fn a_join_without_a_place_draws_one_by_a_try_that_may_take_the_lock() {
    let join = |place| Op::Join { lease_ms: LEASE_MS, place, queue: true };
    let mut link = Link::new();
    link.start(join(0));
    assert_eq!(link.asked(), to_all(TRY));
    link.answer(0, held(N + 7, 0));
    link.answer(1, held(N + 9, 0));
    let [.., (_, _, Op::Join { place, queue: true, .. })] = link.sent[..] else { panic!("{:?}", link.sent) };
    assert!(place > N + 9, "{place}");
    link.answer(2, taken(N + 8));
    link.answer(2, taken(N + 20));
    assert_eq!(link.replies, [], "what the try took does not count for the join");
    link.answer(0, taken(N + 20));
    assert_eq!(link.replies, [taken(N + 20)]);
    let mut link = Link::new();
    link.start(join(0));
    (0..2).for_each(|server| _ = link.answer(server, taken(N)));
    assert_eq!(link.replies, [taken(N)]);
    // One whose token cannot be confirmed has not taken it either.
    let mut link = Link::new();
    link.start(join(0));
    link.answer(0, taken(N));
    link.answer(1, taken(N + 5));
    link.answer(2, held(N + 9, 0));
    assert_eq!(link.answer(0, NOBODY), Op::Confirm { token: N + 5 });
    assert_eq!(link.replies, []);
    assert!(matches!(link.asked()[..], [(0, Op::Join { .. }), (1, Op::Join { .. }), (2, Op::Join { .. })]));
}

#[test]
fn a_leave_that_takes_too_little_gives_it_up() {
    let (reply, asked) = merged(LEAVE, [Some(taken(N)), Some(NOBODY), Some(NOBODY)]);
    assert_eq!(reply, Some(NOBODY));
    assert_eq!(asked, to_all(RELEASE));
}

#[test]
fn what_is_given_up_is_repeated_while_the_server_says_again_and_wakes_whom_it_names() {
    let mut link = Link::new();
    link.start(TRY);
    [taken(N), held(N, 9), held(N, 9)]
        .into_iter()
        .enumerate()
        .for_each(|(server, reply)| _ = link.answer(server, reply));
    assert_eq!(link.asked(), to_all(RELEASE));
    link.answer(0, Reply::Again);
    assert_eq!(link.asked(), [(1, RELEASE), (2, RELEASE), (0, RELEASE)]);
    link.answer(0, Reply::Released { next: Some(HandOff { acquisition: who(2), token: N }) });
    assert_eq!(link.woken, [who(2)]);
}

#[test]
fn a_server_that_queued_or_took_late_what_was_given_up_on_another_link_is_undone() {
    let ledger = Arc::new(Ledger::new(3, LEASE_MS));
    for (given_up_by, late) in [(RELEASE, queued(9, 1)), (RELEASE, taken(N)), (JOIN, taken(N))] {
        let (mut one, mut other) = (Link::with(&ledger), Link::with(&ledger));
        one.start(JOIN);
        (0..2).for_each(|server| _ = one.answer(server, queued(9, 1)));
        other.start(given_up_by);
        if given_up_by == JOIN {
            other.answer(0, taken(N));
            (1..3).for_each(|server| _ = other.answer(server, queued(9, 1)));
        }
        one.answer(2, late);
        assert_eq!(one.asked(), [(2, BACK)]);
    }
}

#[test]
fn a_renewal_repairs_also_what_is_found_missing_late_and_nothing_that_is_being_released() {
    let repair = Op::Join { lease_ms: LEASE_MS, place: 0, queue: false };
    let ledger = Arc::new(Ledger::new(3, LEASE_MS));
    let (mut link, mut other) = (Link::with(&ledger), Link::with(&ledger));
    let renewed = || Reply::Renewed { remaining_ms: 50 };
    for released in [false, true] {
        link.start(RENEW);
        (0..2).for_each(|server| _ = link.answer(server, renewed()));
        if released {
            other.start(RELEASE);
        }
        link.answer(2, NOBODY);
        assert_eq!(link.asked(), if released { vec![] } else { vec![(2, repair)] });
        if !released {
            link.answer(2, taken(N));
        }
    }
}

#[test]
fn a_server_that_says_that_it_does_not_count_is_dropped_and_told_again_what_it_was_to_give_up() {
    let mut link = Link::new();
    link.start(RELEASE);
    link.answer(0, error(ErrorClass::Reconnect));
    assert_eq!(link.dropped, [0]);
    link.lost(0);
    link.votes.joined(20, 0);
    link.gather();
    assert_eq!(link.asked(), [(1, RELEASE), (2, RELEASE), (0, RELEASE)]);
}

#[test]
fn a_longer_lease_is_told_to_servers_that_are_connected_from_then_on() {
    let ledger = Arc::new(Ledger::new(3, LEASE_MS));
    Link::with(&ledger).start(Op::Renew { lease_ms: 2 * LEASE_MS });
    assert_eq!(ledger.lease_ms(), 2 * LEASE_MS);
    Link::with(&ledger).start(RENEW);
    assert_eq!(ledger.lease_ms(), 2 * LEASE_MS);
}
