//! The steps of the protocol in every state they can meet. Each scenario begins on an empty store.

use dlock::store::name::{FENCE, FENCE_LIFE};
use dlock::store::{Acquisition, ErrorClass, HandOff, Holder, Name, Op, Push, RELEASE_BATCH, Reply, TOKEN_FLOOR};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

use crate::bench::{Bench, CLAIM, LEASE, TOLERANCE_MS, who};
use crate::target::{Content, Queued, Value};

const TRY: Op = Op::Try { lease_ms: LEASE };
const JOIN: Op = Op::Join { lease_ms: LEASE, place: 0, queue: true };
const RETRY: Op = Op::Join { lease_ms: LEASE, place: 0, queue: false };
const RENEW: Op = Op::Renew { lease_ms: LEASE };
const RELEASE: Op = Op::Release { leave: false };
const CANCEL: Op = Op::Release { leave: true };
const LEAVE: Op = Op::Leave { lease_ms: LEASE };
const KEY: &str = "group:lock";

fn none() -> Reply {
    Reply::Released { next: None }
}

fn not_mine(acquisition: Acquisition) -> Reply {
    Reply::NotMine(Holder::Acquisition(acquisition))
}

/// What a reply is, without its numbers.
pub fn kind(reply: &Reply) -> &'static str {
    match reply {
        Reply::Taken { .. } => "taken",
        Reply::TakenUndrawn { .. } => "undrawn",
        Reply::Held { .. } => "held",
        Reply::Queued { .. } => "queued",
        Reply::Unqueued { .. } => "unqueued",
        Reply::Foreign { .. } => "foreign",
        Reply::Stale => "stale",
        Reply::Renewed { .. } => "renewed",
        Reply::NotMine(_) => "notmine",
        Reply::Released { .. } => "released",
        Reply::Again => "again",
        Reply::Holder(_) => "holder",
        Reply::Confirmed => "confirmed",
        Reply::GivenBack { .. } => "given back",
        Reply::Error(_) => "error",
        Reply::Lost(_) => "lost",
    }
}

fn remaining_of(reply: &Reply) -> Option<u64> {
    match *reply {
        Reply::Held { remaining_ms, .. } | Reply::Queued { remaining_ms, .. } | Reply::Foreign { remaining_ms } => {
            remaining_ms
        }
        Reply::Renewed { remaining_ms } => Some(remaining_ms),
        _ => None,
    }
}

/// Columns: the key is free; mine; an older, a higher attempt's of mine; another owner's; a foreign text; a bare UUID;
/// of another type. A reply that leaves the acquisition in the queue, if it was there, ends in `+`.
#[rustfmt::skip]
const TABLE: [(Op, [&str; 8]); 8] = [
    (TRY,         ["taken+",   "held+",    "held+",    "held+",    "held+",    "held+",    "held+",    "held+"]),
    (JOIN,        ["taken",    "taken",    "taken",    "stale+",   "queued+",  "foreign+", "foreign+", "foreign+"]),
    (RETRY,       ["taken",    "taken",    "taken",    "stale+",   "held+",    "foreign+", "foreign+", "foreign+"]),
    (RENEW,       ["notmine+", "renewed",  "notmine+", "notmine+", "notmine+", "notmine+", "notmine+", "notmine+"]),
    (RELEASE,     ["notmine+", "released", "notmine+", "notmine+", "notmine+", "notmine+", "notmine+", "notmine+"]),
    (CANCEL,      ["notmine",  "released", "notmine",  "notmine",  "notmine",  "notmine",  "notmine",  "notmine"]),
    (LEAVE,       ["notmine",  "taken",    "notmine",  "notmine",  "notmine",  "notmine",  "notmine",  "notmine"]),
    (Op::Inspect, ["holder+",  "holder+",  "holder+",  "holder+",  "holder+",  "holder+",  "holder+",  "holder+"]),
];

pub fn every_step_in_every_state_of_the_key(bench: &mut Bench) {
    let me = who(1, 5);
    let states = [
        None,
        Some(Value::Text(me.to_string())),
        Some(Value::Text(who(1, 4).to_string())),
        Some(Value::Text(who(1, 40).to_string())),
        Some(Value::Text(who(2, 5).to_string())),
        Some(Value::Text("taken".into())),
        Some(Value::Text(Uuid::from_u128(7).to_string())),
        Some(Value::List),
    ];
    for (op, row) in TABLE {
        for (state, expected) in states.iter().zip(row) {
            for (expires, waits) in [(false, false), (false, true), (true, false), (true, true)] {
                let scene = format!("{op:?}, key {state:?}, expires {expires}, queued before {waits}");
                step(bench, &scene, op, state.as_ref(), expires, waits, expected);
            }
        }
    }
}

/// One cell of the table: the reply, the key and the queue after it.
fn step(bench: &mut Bench, scene: &str, op: Op, state: Option<&Value>, expires: bool, waits: bool, expected: &str) {
    const LIFE: u64 = 40_000;
    let me = who(1, 5);
    bench.target.flush();
    bench.reconnect(0);
    if waits {
        bench.hold(who(3, 1));
        bench.queued("A", me, 0);
        bench.target.remove(KEY);
    }
    if let Some(value) = state {
        bench.target.put(KEY, value.clone());
        if expires {
            bench.target.expire_in(KEY, LIFE);
        }
    }
    let before = bench.key();
    let reply = bench.run("A", me, op);
    assert_eq!(kind(&reply), expected.trim_end_matches('+'), "{scene}: {reply:?}");

    let holder = match &before {
        Content::Nothing => Holder::Nobody,
        Content::Text(text) => {
            Acquisition::parse(text).map_or(Holder::Foreign(Some(text.clone())), Holder::Acquisition)
        }
        Content::OtherType => Holder::Foreign(None),
    };
    let (key, life) = match kind(&reply) {
        "taken" => (Content::Text(me.to_string()), Some(LEASE)),
        "renewed" => (before, Some(LEASE)),
        "released" => (Content::Nothing, None),
        _ => (before, (expires && state.is_some()).then_some(LIFE)),
    };
    assert_eq!(bench.key(), key, "{scene}");
    let remaining = bench.target.remaining_ms(KEY);
    assert!(alike(remaining, life), "{scene}: {remaining:?}, not {life:?}");
    match &reply {
        Reply::NotMine(who) | Reply::Holder(who) => assert_eq!(*who, holder, "{scene}"),
        Reply::Held { .. } if op == TRY => assert_eq!(remaining_of(&reply), None, "{scene}"),
        Reply::Held { .. } | Reply::Queued { .. } | Reply::Foreign { .. } | Reply::Renewed { .. } => {
            assert!(alike(remaining_of(&reply), life), "{scene}: {reply:?}")
        }
        _ => {}
    }
    let queued = kind(&reply) == "queued" || waits && expected.ends_with('+');
    assert_eq!(bench.order(), if queued { "1" } else { "" }, "{scene}");
    assert_eq!(bench.all_pushes(), [], "{scene}");
}

fn alike(a: Option<u64>, b: Option<u64>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a <= b && a + TOLERANCE_MS > b,
        (a, b) => a == b,
    }
}

pub fn foreign_keys_of_every_type_are_never_touched(bench: &mut Bench) {
    let me = who(1, 5);
    let texts = [
        String::new(),
        "1".into(),
        format!("{}", me.owner),
        format!("{}:", me.owner),
        format!("{}:x", me.owner),
        format!("{}:-1", me.owner),
        format!("{}: 1", me.owner),
        format!("{}:1 ", me.owner),
        format!(" {me}"),
        format!("{}:1", me.owner.simple()),
        format!("{me}@13000@A"),
        "\u{e4}\u{1f512}:1".into(),
    ];
    let mut values = vec![Value::List, Value::Set, Value::Hash, Value::SortedSet, Value::Stream];
    values.extend(texts.into_iter().map(Value::Text));
    for value in values {
        bench.target.flush();
        bench.target.put(KEY, value.clone());
        let before = bench.key();
        let foreign = Holder::Foreign(if let Value::Text(text) = &value { Some(text.clone()) } else { None });
        for op in [TRY, JOIN, RETRY, RENEW, RELEASE, CANCEL, LEAVE, Op::Inspect] {
            let reply = bench.run("A", me, op);
            let as_it_should = match op {
                Op::Try { .. } => matches!(reply, Reply::Held { .. }),
                Op::Join { .. } => reply == Reply::Foreign { remaining_ms: None },
                Op::Inspect => reply == Reply::Holder(foreign.clone()),
                _ => reply == Reply::NotMine(foreign.clone()),
            };
            assert!(as_it_should, "{value:?}, {op:?}: {reply:?}");
            assert_eq!(bench.key(), before, "{value:?}, {op:?}");
        }
        assert_eq!(bench.target.keys(), [FENCE, KEY], "{value:?}");
    }
}

pub fn a_lease_ends(bench: &mut Bench) {
    bench.taken("A", who(1, 1), Op::Try { lease_ms: 100 });
    let begun = std::time::Instant::now();
    while bench.run("A", who(1, 1), Op::Inspect) != Reply::Holder(Holder::Nobody) {
        assert!(begun.elapsed() < crate::bench::PATIENCE, "the lease never ends");
        std::thread::yield_now();
    }
    assert_eq!(bench.run("A", who(1, 1), RENEW), Reply::NotMine(Holder::Nobody));
    bench.taken("B", who(2, 1), TRY);
}

pub fn rule_1_attempts_are_compared_beyond_what_a_double_holds(bench: &mut Bench) {
    for (lower, higher) in
        [(9, 10), (99, 100), ((1 << 53) - 1, 1 << 53), (1 << 53, (1 << 53) + 1), (u64::MAX - 1, u64::MAX)]
    {
        bench.target.flush();
        bench.hold(who(1, higher));
        assert_eq!(bench.run("A", who(1, lower), JOIN), Reply::Stale, "{lower} {higher}");
        for op in [RENEW, RELEASE, LEAVE] {
            assert_eq!(bench.run("A", who(1, lower), op), not_mine(who(1, higher)), "{lower} {higher}");
        }
        bench.hold(who(1, lower));
        bench.taken("A", who(1, higher), JOIN);
    }
}

pub fn rule_2_nothing_shortens_a_lease(bench: &mut Bench) {
    bench.taken("A", who(1, 1), TRY);
    let shorter = 20_000;
    let renewed = bench.run("A", who(1, 1), Op::Renew { lease_ms: shorter });
    assert!(alike(remaining_of(&renewed), Some(LEASE)), "{renewed:?}");
    for op in [
        Op::Join { lease_ms: shorter, place: 0, queue: true },
        Op::Join { lease_ms: shorter, place: 0, queue: false },
        Op::Leave { lease_ms: shorter },
    ] {
        bench.taken("A", who(1, 1), op);
        bench.assert_held_by(who(1, 1), LEASE);
    }
    let renewed = bench.run("A", who(1, 1), Op::Renew { lease_ms: 2 * LEASE });
    assert!(alike(remaining_of(&renewed), Some(2 * LEASE)), "{renewed:?}");
}

pub fn rule_3_the_next_waiter_of_the_same_locker_is_named_in_the_reply(bench: &mut Bench) {
    let first = bench.taken("A", who(1, 1), TRY);
    let place = bench.queued("A", who(2, 1), 0);
    let reply = bench.run("A", who(1, 1), RELEASE);
    let Reply::Released { next: Some(HandOff { acquisition, token }) } = reply else { panic!("{reply:?}") };
    assert_eq!(acquisition, who(2, 1));
    assert!(token > place && place > first);
    bench.assert_held_by(who(2, 1), CLAIM);
    assert_eq!(bench.all_pushes(), []);
    assert_eq!(bench.order(), "2*");
}

pub fn rule_5_numbers_below_the_floor_are_lifted_by_all_but_a_try(bench: &mut Bench) {
    // Without the counter, the clock alone makes the next number higher.
    let tick = || std::thread::sleep(Duration::from_micros(1));
    bench.target.flush();
    assert_eq!(bench.taken("A", who(1, 1), TRY), 1);
    assert_eq!(bench.run("B", who(2, 1), TRY), Reply::Held { place: 2, remaining_ms: None });
    let mut numbers = vec![bench.taken("A", who(1, 1), JOIN)];
    tick();
    bench.target.remove(FENCE);
    numbers.push(bench.queued("B", who(2, 1), TOKEN_FLOOR - 1));
    tick();
    bench.target.put(FENCE, Value::Text("17".into()));
    numbers.push(bench.taken("A", who(1, 1), LEAVE));
    tick();
    bench.target.remove(FENCE);
    assert_eq!(bench.run("A", who(1, 1), RELEASE), none());
    numbers.push(handed(bench, "B", who(2, 1)));
    assert!(numbers.is_sorted_by(|a, b| a < b) && numbers[0] > TOKEN_FLOOR, "{numbers:?}");
    assert_eq!(bench.target.counter(), Some(numbers[3].to_string()));
    bench.target.put(FENCE, Value::Text((TOKEN_FLOOR - 1).to_string()));
    assert_eq!(bench.taken("B", who(2, 1), JOIN), TOKEN_FLOOR, "the floor itself is a token");
}

pub fn rule_5_a_new_connection_lifts_the_counter(bench: &mut Bench) {
    bench.target.flush();
    bench.reconnect(0);
    let clock = bench.taken("A", who(1, 1), TRY);
    assert!(clock > TOKEN_FLOOR);
    let seen = clock + 1_000_000_000_000;
    bench.reconnect(seen);
    let beyond = bench.taken("A", who(1, 1), JOIN);
    assert!(beyond > seen);
    bench.reconnect(0);
    assert!(bench.taken("A", who(1, 1), JOIN) > beyond, "never lowered");
}

pub fn rule_5_a_counter_that_is_no_integer(bench: &mut Bench) {
    bench.taken("A", who(1, 1), TRY);
    bench.queued("B", who(2, 1), 0);
    for value in [Value::Text("ten".into()), Value::List] {
        bench.target.put(FENCE, value.clone());
        bench.reconnect(0);
        let mut fails = |channel, acquisition, op| {
            let reply = bench.run(channel, acquisition, op);
            let (Reply::Error(error) | Reply::TakenUndrawn { error }) = &reply else { panic!("{op:?}: {reply:?}") };
            assert_eq!(error.class, ErrorClass::Report, "{op:?}: {error:?}");
            assert!(error.text.contains(FENCE), "{op:?}: {error:?}");
            kind(&reply)
        };
        assert_eq!(fails("A", who(1, 1), JOIN), "error");
        assert_eq!(fails("A", who(1, 1), LEAVE), "error");
        assert_eq!(fails("C", who(3, 1), TRY), "error");
        assert_eq!(fails("C", who(3, 1), JOIN), "error");
        assert_eq!(bench.order(), "2");
        bench.assert_held_by(who(1, 1), LEASE);
        assert_eq!(bench.run("A", who(1, 1), RELEASE), none(), "no hand-off without a number");
        assert_eq!((bench.key(), bench.order()), (Content::Nothing, "2".into()));
        let mut fails = |op| kind(&bench.run("A", who(1, 1), op));
        assert_eq!(fails(JOIN), "error");
        assert_eq!(fails(TRY), "undrawn");
        bench.assert_held_by(who(1, 1), LEASE);
    }
}

pub fn rule_5_tokens_rise_past_a_flush(bench: &mut Bench) {
    let mut tokens = vec![bench.taken("A", who(1, 1), TRY)];
    tokens.push(bench.taken("A", who(1, 1), JOIN));
    bench.target.flush();
    tokens.push(bench.taken("B", who(2, 1), JOIN));
    bench.target.flush();
    bench.reconnect(tokens[2]);
    tokens.push(bench.taken("A", who(1, 2), TRY));
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
}

pub fn rule_6_waiters_stand_at_their_places(bench: &mut Bench) {
    bench.hold(who(1, 1));
    let second = bench.queued("A", who(2, 1), 0);
    let third = bench.queued("B", who(3, 1), 0);
    assert!(second < third);
    let members = bench.queue();
    assert_eq!(members[0], Queued { member: format!("{}@{CLAIM}@A", who(2, 1)), place: second, marked: false });
    bench.target.remove(bench.name.clone().waiters());
    assert_eq!(bench.queued("B", who(3, 1), third), third);
    assert_eq!(bench.queued("A", who(2, 1), second), second);
    assert_eq!(bench.queue()[0], members[0], "a lost queue is rebuilt in order");
    let reply = bench.run("C", who(4, 1), Op::Join { lease_ms: LEASE, place: TOKEN_FLOOR, queue: true });
    assert!(matches!(reply, Reply::Queued { place: TOKEN_FLOOR, waiters: 3, .. }), "{reply:?}");
    assert_eq!(bench.order(), "4 2 3");
    bench.queued("C", who(4, 1), third + 1);
    assert_eq!(bench.order(), "2 3 4", "a join moves its waiter");
}

pub fn rule_6_equal_places_are_in_the_order_of_the_members(bench: &mut Bench) {
    bench.hold(who(9, 1));
    for acquisition in [who(2, 1), who(1, 9), who(1, 10), who(1, 1), who(1, 100)] {
        bench.queued("A", acquisition, TOKEN_FLOOR);
    }
    let members: Vec<String> = bench.queue().into_iter().map(|queued| queued.member).collect();
    assert!(members.is_sorted(), "{members:?}");
    assert_eq!(bench.run("C", who(9, 1), RELEASE), none());
    handed(bench, "A", who(1, 100));
}

pub fn rule_6_the_queue_lives_three_rechecks(bench: &mut Bench) {
    bench.hold(who(1, 1));
    let waiters = bench.name.waiters().to_owned();
    bench.queued("A", who(2, 1), 0);
    let life = |bench: &mut Bench| bench.target.queue_life_ms(&waiters).expect("the queue expires");
    assert!(alike(Some(life(bench)), Some(3 * 18_750)));
    let joins: Vec<_> = (0..7_999).map(|n| bench.request("B", who(100 + n, 1), JOIN)).collect();
    bench.send(&joins);
    assert!(alike(Some(life(bench)), Some(3 * 30_000)), "{}", life(bench));
    let leaves: Vec<_> = (0..7_999).map(|n| bench.request("B", who(100 + n, 1), LEAVE)).collect();
    bench.send(&leaves);
    bench.queued("A", who(2, 1), 0);
    assert!(life(bench) > 3 * 18_750, "a join lengthens, it never shortens");
}

pub fn rule_6_a_join_that_may_not_queue(bench: &mut Bench) {
    bench.hold(who(1, 1));
    let counter = bench.target.counter();
    let reply = bench.run("B", who(2, 1), RETRY);
    assert!(matches!(reply, Reply::Held { place: 0, .. }), "{reply:?}");
    assert!(alike(remaining_of(&reply), Some(LEASE)), "{reply:?}");
    assert_eq!((bench.order(), bench.target.counter()), (String::new(), counter));
}

/// The token of the one hand-off that the channel got, to that acquisition.
fn handed(bench: &mut Bench, channel: &str, acquisition: Acquisition) -> u64 {
    let pushes = bench.pushes(channel);
    match &pushes[..] {
        [Push::HandOff { key, hand_off }] if hand_off.acquisition == acquisition => {
            assert_eq!(key, bench.name.key());
            hand_off.token
        }
        _ => panic!("{acquisition} on {channel}: {pushes:?}"),
    }
}

pub fn rule_7_a_release_hands_over_to_the_first_live_waiter(bench: &mut Bench) {
    bench.taken("A", who(1, 1), TRY);
    bench.queued("dead", who(2, 1), 0);
    bench.queued("dead", who(3, 1), 0);
    let place = bench.queued("B", who(4, 1), 0);
    bench.queued("dead", who(5, 1), 0);
    bench.queued("C", who(6, 1), 0);
    assert_eq!(bench.run("A", who(1, 1), RELEASE), none());
    assert!(handed(bench, "B", who(4, 1)) > place);
    bench.assert_held_by(who(4, 1), CLAIM);
    assert_eq!(bench.order(), "4* 5 6");
    assert_eq!(bench.all_pushes(), []);
    bench.unsubscribe("C");
    assert_eq!(bench.run("B", who(4, 1), RELEASE), none());
    assert_only_counter(bench); // nobody is alive
}

pub fn rule_7_a_release_with_only_its_own_member_queued(bench: &mut Bench) {
    bench.hold(who(2, 1));
    bench.queued("A", who(1, 1), 0);
    bench.hold(who(1, 1));
    let counter = bench.target.counter();
    assert_eq!(bench.run("A", who(1, 1), RELEASE), none());
    assert_only_counter(bench);
    assert_eq!(bench.target.counter(), counter);
}

/// `who(1, 1)` holds, with that many dead waiters behind it: `who(100..)`.
fn dead_waiters(bench: &mut Bench, count: usize) {
    bench.taken("A", who(1, 1), TRY);
    let joins: Vec<_> = (0..count as u128).map(|n| bench.request("dead", who(100 + n, 1), JOIN)).collect();
    assert!(bench.send(&joins).iter().all(|reply| kind(reply) == "queued"));
}

pub fn rule_7_dead_waiters_go_in_batches(bench: &mut Bench) {
    dead_waiters(bench, 2 * RELEASE_BATCH + 1);
    bench.queued("B", who(2, 1), 0);
    for left in [RELEASE_BATCH + 2, 2] {
        assert_eq!(bench.run("A", who(1, 1), RELEASE), Reply::Again);
        bench.assert_held_by(who(1, 1), LEASE);
        assert_eq!(bench.queue().len(), left);
    }
    assert_eq!(bench.run("A", who(1, 1), RELEASE), none());
    handed(bench, "B", who(2, 1));
    assert_eq!(bench.order(), "2*");
}

pub fn rule_7_exactly_one_batch_of_dead_waiters(bench: &mut Bench) {
    dead_waiters(bench, RELEASE_BATCH);
    assert_eq!(bench.run("A", who(1, 1), RELEASE), none());
    assert_only_counter(bench);
}

pub fn rule_7_the_releasers_own_member_is_not_counted(bench: &mut Bench) {
    for place in [TOKEN_FLOOR, u64::MAX >> 12] {
        bench.target.flush();
        bench.reconnect(0);
        bench.hold(who(9, 1));
        bench.queued("A", who(1, 1), place);
        bench.target.remove(KEY);
        dead_waiters(bench, RELEASE_BATCH);
        assert_eq!(bench.queue().len(), RELEASE_BATCH + 1);
        assert_eq!(bench.run("A", who(1, 1), RELEASE), none(), "place {place}");
        assert_only_counter(bench);
    }
}

pub fn rule_8_an_offered_waiter_stays_marked_until_it_renews_or_releases(bench: &mut Bench) {
    for op in [RENEW, RELEASE, CANCEL, JOIN, LEAVE] {
        bench.target.flush();
        bench.reconnect(0);
        bench.taken("A", who(1, 1), TRY);
        let place = bench.queued("B", who(2, 1), 0);
        bench.run("A", who(1, 1), RELEASE);
        handed(bench, "B", who(2, 1));
        let marked = Queued { member: format!("{}@{CLAIM}@B", who(2, 1)), place, marked: true };
        assert_eq!(bench.queue(), [marked]);
        let reply = bench.run("B", who(2, 1), op);
        assert!(["renewed", "released", "taken"].contains(&kind(&reply)), "{op:?}: {reply:?}");
        assert_eq!(bench.order(), "", "{op:?}");
        if kind(&reply) != "released" {
            bench.assert_held_by(who(2, 1), LEASE);
        }
    }
}

/// 2, 4 and 5 of `B` and 3 of `C` wait; 2 was offered the lock and its claim ran out; `who(1, 2)` of `A` has it.
fn an_offer_that_nobody_took(bench: &mut Bench) -> u64 {
    bench.taken("A", who(1, 1), TRY);
    let place = bench.queued("B", who(2, 1), 0);
    bench.queued("C", who(3, 1), 0);
    bench.queued("B", who(4, 1), 0);
    bench.queued("B", who(5, 1), 0);
    bench.run("A", who(1, 1), RELEASE);
    handed(bench, "B", who(2, 1));
    assert_eq!(bench.order(), "2* 3 4 5");
    bench.target.remove(KEY);
    bench.taken("A", who(1, 2), TRY);
    place
}

pub fn rule_8_a_join_restores_the_place_of_an_offered_waiter(bench: &mut Bench) {
    let place = an_offer_that_nobody_took(bench);
    assert_eq!(bench.queued("B", who(2, 1), place), place);
    assert_eq!(bench.order(), "2 3 4 5");
    assert_eq!(bench.run("A", who(1, 2), RELEASE), none());
    handed(bench, "B", who(2, 1));
}

pub fn rule_8_a_mark_of_another_locker_drops_its_waiters(bench: &mut Bench) {
    an_offer_that_nobody_took(bench);
    assert_eq!(bench.run("A", who(1, 2), RELEASE), none());
    assert_eq!(bench.order(), "3*");
    handed(bench, "C", who(3, 1));
    assert_eq!(bench.pushes("B"), [Push::Dropped { key: KEY.into() }], "told once");
}

pub fn rule_8_only_the_entries_looked_at_are_dropped(bench: &mut Bench) {
    bench.taken("A", who(1, 1), TRY);
    bench.queued("B", who(2, 1), 0);
    bench.run("A", who(1, 1), RELEASE);
    bench.target.remove(KEY);
    bench.taken("A", who(1, 2), TRY);
    let joins: Vec<_> = (0..RELEASE_BATCH as u128).map(|n| bench.request("B", who(100 + n, 1), JOIN)).collect();
    bench.send(&joins);
    bench.pushes("B");
    assert_eq!(bench.run("A", who(1, 2), RELEASE), Reply::Again);
    assert_eq!(bench.order(), "131");
    assert_eq!(bench.pushes("B"), [Push::Dropped { key: KEY.into() }]);
}

pub fn rule_8_the_releasing_locker_does_not_judge_its_own_marks(bench: &mut Bench) {
    an_offer_that_nobody_took(bench);
    bench.target.remove(KEY);
    bench.taken("B", who(6, 1), TRY);
    let reply = bench.run("B", who(6, 1), RELEASE);
    assert!(matches!(reply, Reply::Released { next: Some(HandOff { acquisition, .. }) } if acquisition == who(2, 1)));
    assert_eq!(bench.order(), "2* 3 4 5");
    assert_eq!(bench.all_pushes(), []);
}

pub fn rule_9_leaving(bench: &mut Bench) {
    for op in [LEAVE, CANCEL] {
        bench.target.flush();
        bench.hold(who(1, 1));
        bench.queued("B", who(2, 1), 0);
        bench.queued("B", who(3, 1), 0);
        assert_eq!(bench.run("B", who(2, 1), op), not_mine(who(1, 1)));
        assert_eq!(bench.order(), "3");
    }
    assert_eq!(bench.run("B", who(3, 1), RELEASE), not_mine(who(1, 1)));
    assert_eq!(bench.order(), "3", "a release that is no leave keeps the place");
    assert_eq!(bench.run("A", who(1, 1), RELEASE), none());
    let token = handed(bench, "B", who(3, 1));
    assert!(bench.taken("B", who(3, 1), LEAVE) > token, "handed over in that instant: kept");
    bench.assert_held_by(who(3, 1), LEASE);
}

pub fn rule_10_a_repeated_release(bench: &mut Bench) {
    bench.taken("A", who(1, 1), TRY);
    assert_eq!(bench.run("A", who(1, 1), RELEASE), none());
    assert_eq!(bench.run("A", who(1, 1), RELEASE), Reply::NotMine(Holder::Nobody));
    bench.taken("A", who(1, 2), TRY);
    assert_eq!(bench.run("A", who(1, 1), RELEASE), not_mine(who(1, 2)));
    bench.assert_held_by(who(1, 2), LEASE);
}

fn assert_only_counter(bench: &mut Bench) {
    let mut keys = bench.target.keys();
    keys.retain(|key| key != FENCE_LIFE); // where there are replicas
    assert_eq!(keys, [FENCE]);
}

pub fn invariant_9_nothing_is_left_but_the_counter(bench: &mut Bench) {
    bench.taken("A", who(1, 1), TRY);
    for handle in 2..12 {
        bench.queued(if handle % 2 == 0 { "A" } else { "B" }, who(handle, 1), 0);
    }
    for handle in 1..12 {
        let channel = if handle == 1 || handle % 2 == 0 { "A" } else { "B" };
        assert_eq!(kind(&bench.run(channel, who(handle, 1), RELEASE)), "released", "{handle}");
    }
    assert_only_counter(bench);
}

pub fn names_with_odd_characters(bench: &mut Bench) {
    for (name, group) in
        [("a:b", "{x}"), ("{", "}"), ("{}a", "{"), (" \n\r\0%s", "*"), ("\u{1f512}", "\u{e4}"), ("@", "@")]
    {
        bench.target.flush();
        bench.name = Arc::new(Name::new(name, group).unwrap());
        bench.taken("A", who(1, 1), TRY);
        bench.queued("B", who(2, 1), 0);
        let mut keys = vec![FENCE.to_owned(), bench.name.key().to_owned(), bench.name.waiters().to_owned()];
        keys.sort();
        assert_eq!(bench.target.keys(), keys);
        assert_eq!(bench.run("A", who(1, 1), RELEASE), none());
        handed(bench, "B", who(2, 1));
        bench.queued("A", who(3, 1), 0);
        bench.unsubscribe("A");
        bench.hold(who(4, 1));
        bench.subscribe("A");
        assert_eq!(bench.run("C", who(4, 1), RELEASE), none());
        assert_eq!(bench.pushes("B"), [Push::Dropped { key: bench.name.key().into() }]);
        handed(bench, "A", who(3, 1));
    }
}

pub fn a_burst_of_requests_is_answered_in_order(bench: &mut Bench) {
    let mut requests = Vec::new();
    for attempt in 1..=500 {
        requests.push(bench.request("A", who(1, attempt), TRY));
        requests.push(bench.request("B", who(2, attempt), JOIN));
        requests.push(bench.request("C", who(1, attempt), Op::Inspect));
        requests.push(bench.request("B", who(2, attempt), CANCEL));
        requests.push(bench.request("A", who(1, attempt), RELEASE));
    }
    for (replies, attempt) in bench.send(&requests).chunks(5).zip(1..) {
        let kinds: Vec<_> = replies.iter().map(kind).collect();
        assert_eq!(kinds, ["taken", "queued", "holder", "notmine", "released"], "{attempt}");
        assert_eq!(replies[2], Reply::Holder(Holder::Acquisition(who(1, attempt))));
    }
    assert_only_counter(bench);
}
