//! The rules, one by one, on a server whose time the test sets; then what the store adds around them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use uuid::Uuid;

use super::MemoryStore;
use super::server::{MemoryServer, QueueEntry};
use crate::store::name::FENCE;
use crate::store::{
    Acquisition, HandOff, Holder, Name, Op, Push, RELEASE_BATCH, Reply, Request, RequestId, Seat, Store, TOKEN_FLOOR,
};

const EPOCH_US: u64 = 1_700_000_000_000_000;
const LEASE: u64 = 30_000;
const CLAIM: u64 = 3_000;
const JOIN: Op = Op::Join { lease_ms: LEASE, place: 0, queue: true };
const TRY: Op = Op::Try { lease_ms: LEASE };
const RENEW: Op = Op::Renew { lease_ms: LEASE };
const RELEASE: Op = Op::Release { leave: false };
const LEAVE: Op = Op::Leave { lease_ms: LEASE };

/// One lock on one server; handle `n` of locker `l` is `who(n)` with a seat on channel `l`.
struct World {
    server: MemoryServer,
    name: Arc<Name>,
    now_us: u64,
    published: Vec<(Arc<str>, Push)>,
}

fn who(handle: u128, attempt: u64) -> Acquisition {
    Acquisition { owner: Uuid::from_u128(handle), attempt }
}

impl World {
    /// A server with a lifted counter, to which lockers `A`, `B` and `C` are subscribed.
    fn new() -> Self {
        let mut server = MemoryServer::new(EPOCH_US);
        server.floor(0, 0, false);
        ["A", "B", "C"].iter().for_each(|channel| server.subscribe(channel));
        let name = Arc::new(Name::new("lock", "group").unwrap());
        World { server, name, now_us: 1, published: Vec::new() }
    }

    fn request(&self, channel: &str, acquisition: Acquisition, op: Op) -> Request {
        let seat = Seat { claim_ms: CLAIM, channel: Arc::from(channel) };
        Request { name: Arc::clone(&self.name), acquisition, seat, op }
    }

    fn run(&mut self, channel: &str, acquisition: Acquisition, op: Op) -> Reply {
        let request = self.request(channel, acquisition, op);
        self.published.clear();
        self.server.execute(self.now_us, &request, &mut self.published)
    }

    fn taken(&mut self, channel: &str, acquisition: Acquisition, op: Op) -> u64 {
        match self.run(channel, acquisition, op) {
            Reply::Taken { token } => token,
            other => panic!("{acquisition} {op:?}: {other:?}"),
        }
    }

    fn queued(&mut self, channel: &str, acquisition: Acquisition, place: u64) -> u64 {
        match self.run(channel, acquisition, Op::Join { lease_ms: LEASE, place, queue: true }) {
            Reply::Queued { place, .. } => place,
            other => panic!("{acquisition}: {other:?}"),
        }
    }

    fn wait_ms(&mut self, ms: u64) {
        self.now_us += ms * 1000;
    }

    fn holder(&self) -> Holder {
        self.server.holder(self.now_us, self.name.key())
    }

    fn held_by(&self, acquisition: Acquisition) -> bool {
        self.holder() == Holder::Acquisition(acquisition)
    }

    fn remaining_ms(&self) -> Option<u64> {
        self.server.remaining_ms(self.now_us, self.name.key())
    }

    fn queue(&self) -> Vec<QueueEntry> {
        self.server.queue(self.now_us, self.name.waiters())
    }

    /// The queue as text: handle numbers, a `*` behind the marked ones.
    fn order(&self) -> String {
        let entry = |entry: &QueueEntry| {
            let owner = Acquisition::parse(entry.member.split('@').next().unwrap()).unwrap().owner;
            format!("{}{}", owner.as_u128(), if entry.marked { "*" } else { "" })
        };
        self.queue().iter().map(entry).collect::<Vec<_>>().join(" ")
    }

    fn keys(&self) -> Vec<String> {
        self.server.keys(self.now_us)
    }

    fn handed(&self, acquisition: Acquisition) -> Option<u64> {
        self.published.iter().find_map(|(_, push)| match push {
            Push::HandOff { hand_off, .. } if hand_off.acquisition == acquisition => Some(hand_off.token),
            _ => None,
        })
    }
}

#[test]
fn a_try_takes_a_free_lock_for_the_lease() {
    let mut world = World::new();
    let token = world.taken("A", who(1, 1), TRY);
    assert!(token > EPOCH_US);
    assert!(world.held_by(who(1, 1)));
    assert_eq!(world.remaining_ms(), Some(LEASE));
    assert_eq!(world.keys(), [FENCE, "group:lock"]);
}

#[test]
fn a_try_of_a_lock_that_is_held_draws_its_place() {
    let mut world = World::new();
    let token = world.taken("A", who(1, 1), TRY);
    for (acquisition, later) in [(who(2, 1), 1), (who(1, 1), 2), (who(1, 2), 3)] {
        let held = Reply::Held { place: token + later, remaining_ms: None };
        assert_eq!(world.run("B", acquisition, TRY), held, "{acquisition}");
    }
    assert!(world.held_by(who(1, 1)));
}

#[test]
fn a_lease_that_ran_out_leaves_a_free_lock() {
    let mut world = World::new();
    let first = world.taken("A", who(1, 1), TRY);
    world.wait_ms(LEASE - 1);
    assert!(matches!(world.run("B", who(2, 1), TRY), Reply::Held { .. }));
    world.wait_ms(1);
    assert_eq!(world.run("A", who(1, 1), RENEW), Reply::NotMine(Holder::Nobody));
    assert!(world.taken("B", who(2, 1), TRY) > first);
}

#[test]
fn rule_1_every_step_compares_the_whole_acquisition() {
    let mut world = World::new();
    world.taken("A", who(1, 2), TRY);
    let not_mine = Reply::NotMine(Holder::Acquisition(who(1, 2)));
    for other in [who(1, 1), who(1, 3), who(2, 2)] {
        assert_eq!(world.run("A", other, RENEW), not_mine);
        assert_eq!(world.run("A", other, RELEASE), not_mine);
        assert_eq!(world.run("A", other, Op::Release { leave: true }), not_mine);
        assert_eq!(world.run("A", other, LEAVE), not_mine);
    }
    assert_eq!(world.remaining_ms(), Some(LEASE));
}

#[test]
fn rule_1_a_join_that_meets_a_higher_attempt_of_its_owner_does_nothing() {
    let mut world = World::new();
    world.taken("A", who(1, 2), TRY);
    let counter = world.server.counter();
    assert_eq!(world.run("A", who(1, 1), JOIN), Reply::Stale);
    assert_eq!(world.order(), "");
    assert_eq!(world.server.counter(), counter);
    assert!(world.held_by(who(1, 2)));
}

#[test]
fn rule_1_a_join_replaces_a_lower_attempt_of_its_owner() {
    let mut world = World::new();
    let token = world.taken("A", who(1, 1), Op::Try { lease_ms: 2 * LEASE });
    assert!(world.taken("A", who(1, 2), JOIN) > token);
    assert!(world.held_by(who(1, 2)));
    assert_eq!(world.remaining_ms(), Some(LEASE), "the lease of the replaced attempt does not count");
    assert_eq!(world.run("A", who(1, 1), RELEASE), Reply::NotMine(Holder::Acquisition(who(1, 2))));
}

#[test]
fn rule_1_a_foreign_key_is_never_touched() {
    let uuid = Uuid::from_u128(1);
    let texts = [Some("x".into()), Some(String::new()), Some(uuid.to_string()), Some(format!("{uuid}:01")), None];
    for text in texts {
        let mut world = World::new();
        world.server.set_foreign("group:lock", text.clone());
        let foreign = Holder::Foreign(text);
        assert!(matches!(world.run("A", who(1, 1), TRY), Reply::Held { remaining_ms: None, .. }));
        assert_eq!(world.run("A", who(1, 1), JOIN), Reply::Foreign { remaining_ms: None });
        assert_eq!(world.run("A", who(1, 1), Op::Inspect), Reply::Holder(foreign.clone()));
        for op in [RENEW, RELEASE, Op::Release { leave: true }, LEAVE] {
            assert_eq!(world.run("A", who(1, 1), op), Reply::NotMine(foreign.clone()), "{op:?}");
        }
        assert_eq!(world.holder(), foreign);
        assert_eq!(world.keys(), [FENCE, "group:lock"], "nobody queued");
        world.server.set_expiry("group:lock", Some(world.now_us + 5_000_000));
        assert_eq!(world.run("A", who(1, 1), JOIN), Reply::Foreign { remaining_ms: Some(5_000) });
    }
}

#[test]
fn rule_2_nothing_shortens_a_lease() {
    let mut world = World::new();
    world.taken("A", who(1, 1), Op::Try { lease_ms: 50_000 });
    assert_eq!(world.run("A", who(1, 1), Op::Renew { lease_ms: 1_000 }), Reply::Renewed { remaining_ms: 50_000 });
    world.taken("A", who(1, 1), Op::Join { lease_ms: 1_000, place: 0, queue: false });
    world.taken("A", who(1, 1), Op::Leave { lease_ms: 1_000 });
    assert_eq!(world.remaining_ms(), Some(50_000));
    assert_eq!(world.run("A", who(1, 1), Op::Renew { lease_ms: 60_000 }), Reply::Renewed { remaining_ms: 60_000 });
}

#[test]
fn rule_2_a_join_rearms_a_lease_of_its_own_and_draws_anew() {
    let mut world = World::new();
    let token = world.taken("A", who(1, 1), TRY);
    world.wait_ms(20_000);
    assert!(world.taken("A", who(1, 1), JOIN) > token);
    assert_eq!(world.remaining_ms(), Some(LEASE));
}

#[test]
fn rule_3_the_reply_of_a_release_names_the_next_waiter_of_the_same_locker() {
    let mut world = World::new();
    let first = world.taken("A", who(1, 1), TRY);
    world.queued("A", who(2, 1), 0);
    let reply = world.run("A", who(1, 1), RELEASE);
    let Reply::Released { next: Some(HandOff { acquisition, token }) } = reply else { panic!("{reply:?}") };
    assert_eq!(acquisition, who(2, 1));
    assert!(token > first);
    assert_eq!(world.published, []);
    assert!(world.held_by(who(2, 1)));
    assert_eq!(world.remaining_ms(), Some(CLAIM));
}

#[test]
fn rule_5_a_try_below_the_floor_is_not_lifted_but_every_other_draw_is() {
    let mut world = World::new();
    world.server.flush();
    assert_eq!(world.taken("A", who(1, 1), TRY), 1);
    assert_eq!(world.run("B", who(2, 1), TRY), Reply::Held { place: 2, remaining_ms: None });
    assert_eq!(world.taken("A", who(1, 1), JOIN), EPOCH_US + world.now_us);
    world.server.set_counter(TOKEN_FLOOR - 2);
    assert_eq!(world.queued("B", who(2, 1), 2), EPOCH_US + world.now_us);
    world.server.set_counter(TOKEN_FLOOR - 1);
    assert_eq!(world.taken("A", who(1, 1), JOIN), TOKEN_FLOOR, "the floor itself is a token");
    world.server.set_counter(0);
    world.run("A", who(1, 1), RELEASE);
    assert_eq!(world.handed(who(2, 1)), Some(EPOCH_US + world.now_us));
    world.server.set_counter(0);
    assert_eq!(world.taken("B", who(2, 1), LEAVE), EPOCH_US + world.now_us);
}

#[test]
fn rule_5_a_connection_lifts_the_counter_above_the_clock_and_what_its_locker_has_seen() {
    let mut world = World::new();
    world.server.flush();
    world.server.floor(7, 0, false);
    assert_eq!(world.server.counter(), Some(EPOCH_US + 7));
    world.server.floor(7, EPOCH_US + 1_000, false);
    assert_eq!(world.server.counter(), Some(EPOCH_US + 1_000));
    world.server.floor(8, 0, false);
    assert_eq!(world.server.counter(), Some(EPOCH_US + 1_000), "never lowered");
}

#[test]
fn rule_6_the_place_is_kept_and_a_lost_queue_is_rebuilt_in_order() {
    let mut world = World::new();
    world.taken("A", who(1, 1), TRY);
    let second = world.queued("A", who(2, 1), 0);
    let third = world.queued("B", who(3, 1), 0);
    assert!(second < third);
    world.server.remove(world.name.clone().waiters());
    assert_eq!(world.queued("B", who(3, 1), third), third);
    assert_eq!(world.queued("A", who(2, 1), second), second);
    assert_eq!(world.order(), "2 3");
}

#[test]
fn rule_6_a_join_that_may_not_queue_leaves_the_queue_alone() {
    let mut world = World::new();
    world.taken("A", who(1, 1), TRY);
    let counter = world.server.counter();
    let join = Op::Join { lease_ms: LEASE, place: 0, queue: false };
    assert_eq!(world.run("B", who(2, 1), join), Reply::Held { place: 0, remaining_ms: Some(LEASE) });
    assert_eq!(world.order(), "");
    assert_eq!(world.server.counter(), counter);
}

#[test]
fn rule_6_a_join_answers_what_the_recheck_needs() {
    let mut world = World::new();
    world.taken("A", who(1, 1), TRY);
    world.queued("B", who(2, 1), 0);
    world.wait_ms(10_000);
    let reply = world.run("B", who(3, 1), Op::Join { lease_ms: LEASE, place: TOKEN_FLOOR, queue: true });
    assert_eq!(reply, Reply::Queued { place: TOKEN_FLOOR, remaining_ms: Some(LEASE - 10_000), waiters: 2 });
    assert_eq!(world.order(), "3 2");
}

#[test]
fn rule_6_equal_places_are_in_the_order_of_the_members_text() {
    let mut world = World::new();
    world.taken("A", who(9, 1), TRY);
    for acquisition in [who(2, 1), who(1, 9), who(1, 10), who(1, 1)] {
        world.queued("A", acquisition, TOKEN_FLOOR);
    }
    let members: Vec<String> = world.queue().into_iter().map(|entry| entry.member).collect();
    let mut sorted = members.clone();
    sorted.sort();
    assert_eq!(members, sorted);
    assert_eq!(members.len(), 4);
}

#[test]
fn rule_6_a_queue_lives_three_rechecks_and_a_join_never_shortens_it() {
    let mut world = World::new();
    world.taken("A", who(1, 1), Op::Try { lease_ms: 1_000_000 });
    world.queued("B", who(2, 1), 0);
    world.wait_ms(56_249);
    assert_eq!(world.order(), "2");
    world.wait_ms(1);
    assert_eq!((world.order().as_str(), world.keys().len()), ("", 2));
    for handle in 10..8_010 {
        world.queued("B", who(handle, 1), 0);
    }
    for handle in 10..8_009 {
        world.run("B", who(handle, 1), LEAVE);
    }
    world.queued("B", who(8_009, 1), 0);
    world.wait_ms(89_999);
    assert_eq!(world.order(), "8009", "8,000 waiters re-check every 30 s");
    world.wait_ms(1);
    assert_eq!(world.order(), "");
}

#[test]
fn rule_7_a_release_with_nobody_waiting_deletes_the_lock_and_draws_nothing() {
    let mut world = World::new();
    let token = world.taken("A", who(1, 1), TRY);
    assert_eq!(world.run("A", who(1, 1), RELEASE), Reply::Released { next: None });
    assert_eq!(world.keys(), [FENCE]);
    assert_eq!(world.server.counter(), Some(token));
}

#[test]
fn rule_7_a_release_hands_the_lock_to_the_first_live_waiter() {
    let mut world = World::new();
    let first = world.taken("A", who(1, 1), TRY);
    world.queued("gone", who(2, 1), 0);
    world.queued("B", who(3, 1), 0);
    world.queued("C", who(4, 1), 0);
    assert_eq!(world.run("A", who(1, 1), RELEASE), Reply::Released { next: None });
    let token = world.handed(who(3, 1)).expect("told");
    assert!(token > first);
    assert_eq!(world.published.len(), 1);
    assert_eq!(*world.published[0].0, *"B");
    assert!(world.held_by(who(3, 1)));
    assert_eq!(world.remaining_ms(), Some(CLAIM));
    assert_eq!(world.order(), "3* 4");
}

#[test]
fn rule_7_a_release_looks_at_one_batch_and_keeps_the_lock_until_the_next() {
    let mut world = World::new();
    world.taken("A", who(1, 1), TRY);
    for handle in 0..RELEASE_BATCH as u128 + 1 {
        world.queued("gone", who(100 + handle, 1), 0);
    }
    assert_eq!(world.run("A", who(1, 1), RELEASE), Reply::Again);
    assert!(world.held_by(who(1, 1)));
    assert_eq!(world.remaining_ms(), Some(LEASE));
    assert_eq!(world.order(), "132");
    assert_eq!(world.run("A", who(1, 1), RELEASE), Reply::Released { next: None });
    assert_eq!(world.keys(), [FENCE]);
}

#[test]
fn rule_7_a_release_that_cannot_draw_frees_the_lock() {
    let mut world = World::new();
    world.taken("A", who(1, 1), TRY);
    world.queued("B", who(2, 1), 0);
    world.server.set_foreign(FENCE, Some("ten".into()));
    assert_eq!(world.run("A", who(1, 1), RELEASE), Reply::Released { next: None });
    assert_eq!((world.holder(), world.order().as_str()), (Holder::Nobody, "2"));
}

#[test]
fn rule_5_where_no_number_can_be_drawn_nothing_is_taken_but_by_a_try() {
    let mut world = World::new();
    world.server.set_foreign(FENCE, None);
    let names_the_counter = |reply| match reply {
        Reply::Error(error) | Reply::TakenUndrawn { error } => error.text.contains(FENCE),
        other => panic!("{other:?}"),
    };
    assert!(names_the_counter(world.run("A", who(1, 1), JOIN)));
    assert_eq!(world.holder(), Holder::Nobody);
    let undrawn = world.run("A", who(1, 1), TRY);
    assert!(matches!(undrawn, Reply::TakenUndrawn { .. }) && names_the_counter(undrawn));
    assert!(world.held_by(who(1, 1)));
    assert!(names_the_counter(world.run("A", who(1, 1), LEAVE)));
    assert!(names_the_counter(world.run("B", who(2, 1), TRY)));
    assert!(names_the_counter(world.run("B", who(2, 1), JOIN)));
    assert_eq!(world.order(), "");
    assert_eq!(world.run("A", who(1, 1), RELEASE), Reply::Released { next: None });
}

#[test]
fn rule_7_a_release_that_drops_the_last_waiter_frees_the_lock() {
    let mut world = World::new();
    world.taken("A", who(1, 1), TRY);
    for handle in 0..RELEASE_BATCH as u128 {
        world.queued("gone", who(100 + handle, 1), 0);
    }
    assert_eq!(world.run("A", who(1, 1), RELEASE), Reply::Released { next: None });
    assert_eq!(world.keys(), [FENCE]);
}

#[test]
fn rule_7_a_channel_lives_as_long_as_anybody_is_subscribed() {
    let mut world = World::new();
    world.server.subscribe("B");
    world.server.unsubscribe("B");
    world.server.unsubscribe("C");
    world.server.unsubscribe("never");
    world.taken("A", who(1, 1), TRY);
    world.queued("C", who(2, 1), 0);
    world.queued("B", who(3, 1), 0);
    world.run("A", who(1, 1), RELEASE);
    assert!(world.held_by(who(3, 1)));
    assert_eq!(world.order(), "3*");
}

/// `A` holds; 2, 4 and 5 of `B` and 3 of `C` wait. 2 was offered the lock, and its claim ran out: 1 has it again.
fn an_offer_that_nobody_took() -> World {
    let mut world = World::new();
    world.taken("A", who(1, 1), TRY);
    world.queued("B", who(2, 1), 0);
    world.queued("C", who(3, 1), 0);
    world.queued("B", who(4, 1), 0);
    world.queued("B", who(5, 1), 0);
    world.run("A", who(1, 1), RELEASE);
    assert!(world.handed(who(2, 1)).is_some());
    assert_eq!(world.order(), "2* 3 4 5");
    world.wait_ms(CLAIM);
    world.taken("A", who(1, 2), TRY);
    world
}

#[test]
fn rule_8_a_mark_of_another_locker_drops_its_waiters() {
    let mut world = an_offer_that_nobody_took();
    assert_eq!(world.run("A", who(1, 2), RELEASE), Reply::Released { next: None });
    assert_eq!(world.order(), "3*");
    assert!(world.held_by(who(3, 1)));
}

#[test]
fn rule_8_a_locker_whose_waiters_were_dropped_is_told_once() {
    let mut world = an_offer_that_nobody_took();
    world.run("A", who(1, 2), RELEASE);
    let told: Vec<_> = world.published.iter().filter(|(channel, _)| **channel == *"B").collect();
    assert_eq!(told, [&(Arc::from("B"), Push::Dropped { key: "group:lock".into() })]);
}

#[test]
fn rule_8_only_the_entries_looked_at_are_dropped() {
    let mut world = World::new();
    world.taken("A", who(1, 1), TRY);
    world.queued("B", who(2, 1), 0);
    world.run("A", who(1, 1), RELEASE);
    world.wait_ms(CLAIM);
    world.taken("A", who(1, 2), TRY);
    for handle in 0..RELEASE_BATCH as u128 {
        world.queued("B", who(100 + handle, 1), 0);
    }
    assert_eq!(world.run("A", who(1, 2), RELEASE), Reply::Again);
    assert_eq!(world.order(), "131");
}

#[test]
fn rule_8_the_releasing_locker_does_not_judge_its_own_marks() {
    let mut world = an_offer_that_nobody_took();
    world.server.remove("group:lock");
    world.taken("B", who(6, 1), TRY); // Another handle of the locker whose waiter is marked.
    let reply = world.run("B", who(6, 1), RELEASE);
    assert!(matches!(reply, Reply::Released { next: Some(HandOff { acquisition, .. }) } if acquisition == who(2, 1)));
    assert_eq!(world.order(), "2* 3 4 5");
    assert_eq!(world.published, []);
}

#[test]
fn rule_8_a_renewal_confirms_the_claim() {
    let mut world = World::new();
    world.taken("A", who(1, 1), TRY);
    world.queued("B", who(2, 1), 0);
    world.run("A", who(1, 1), RELEASE);
    assert_eq!(world.order(), "2*");
    assert_eq!(world.run("B", who(2, 1), RENEW), Reply::Renewed { remaining_ms: LEASE });
    assert_eq!(world.keys(), [FENCE, "group:lock"]);
}

#[test]
fn rule_8_a_release_removes_the_mark() {
    let mut world = World::new();
    world.taken("A", who(1, 1), TRY);
    world.queued("B", who(2, 1), 0);
    world.run("A", who(1, 1), RELEASE);
    assert_eq!(world.run("B", who(2, 1), RELEASE), Reply::Released { next: None });
    assert_eq!(world.keys(), [FENCE]);
}

#[test]
fn rule_8_a_join_restores_the_place_of_a_marked_waiter() {
    let mut world = an_offer_that_nobody_took();
    let place = world.queue()[0].place;
    world.queued("B", who(2, 1), place);
    assert_eq!(world.order(), "2 3 4 5");
    world.run("A", who(1, 2), RELEASE);
    assert!(world.held_by(who(2, 1)));
    assert_eq!(world.order(), "2* 3 4 5");
}

#[test]
fn rule_9_a_lock_handed_over_in_the_instant_of_a_timeout_is_kept() {
    let mut world = World::new();
    world.taken("A", who(1, 1), TRY);
    world.queued("B", who(2, 1), 0);
    world.run("A", who(1, 1), RELEASE);
    let handed = world.handed(who(2, 1)).unwrap();
    assert!(world.taken("B", who(2, 1), LEAVE) > handed);
    assert_eq!(world.remaining_ms(), Some(LEASE));
    assert_eq!(world.order(), "");
}

#[test]
fn rule_9_a_waiter_that_leaves_leaves_nothing_behind() {
    for op in [LEAVE, Op::Release { leave: true }] {
        let mut world = World::new();
        world.taken("A", who(1, 1), TRY);
        world.queued("B", who(2, 1), 0);
        assert_eq!(world.run("B", who(2, 1), op), Reply::NotMine(Holder::Acquisition(who(1, 1))), "{op:?}");
        assert_eq!(world.keys(), [FENCE, "group:lock"]);
    }
}

#[test]
fn rule_9_a_release_that_is_no_leave_keeps_the_place_of_a_waiter() {
    let mut world = World::new();
    world.taken("A", who(1, 1), TRY);
    world.queued("B", who(2, 1), 0);
    assert_eq!(world.run("B", who(2, 1), RELEASE), Reply::NotMine(Holder::Acquisition(who(1, 1))));
    assert_eq!(world.order(), "2");
}

#[test]
fn rule_10_a_repeated_release_never_touches_a_later_acquisition() {
    let mut world = World::new();
    world.taken("A", who(1, 1), TRY);
    world.queued("A", who(2, 1), 0);
    world.run("A", who(1, 1), RELEASE);
    assert_eq!(world.run("A", who(1, 1), RELEASE), Reply::NotMine(Holder::Acquisition(who(2, 1))));
    assert!(world.held_by(who(2, 1)));
}

#[test]
fn invariant_2_tokens_rise_whatever_takes_the_lock() {
    let mut world = World::new();
    let mut tokens = vec![world.taken("A", who(1, 1), TRY)];
    world.queued("B", who(2, 1), 0);
    world.run("A", who(1, 1), RELEASE);
    tokens.push(world.handed(who(2, 1)).unwrap());
    tokens.push(world.taken("B", who(2, 1), JOIN));
    world.wait_ms(LEASE);
    world.server.flush();
    tokens.push(world.taken("C", who(3, 1), JOIN));
    tokens.push(world.taken("C", who(3, 1), LEAVE));
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
}

#[test]
fn locks_that_nobody_asks_for_again_do_not_pile_up() {
    let mut world = World::new();
    for n in 0..100_000 {
        world.name = Arc::new(Name::new(&n.to_string(), "group").unwrap());
        world.taken("A", who(1, 1), Op::Try { lease_ms: 1 });
        world.wait_ms(1);
    }
    assert!(world.server.stored() <= 2_048, "{}", world.server.stored());
}

#[test]
fn the_lockers_that_name_a_store_share_it_until_the_last_is_gone() {
    let keys = |store: &MemoryStore| store.with_server(|server, now_us| server.keys(now_us));
    let one = MemoryStore::open("the_lockers_that_name_a_store");
    one.with_server(|server, _| server.set_foreign("g:k", None));
    let two = MemoryStore::open("the_lockers_that_name_a_store");
    assert_eq!(two.address(), "memory://the_lockers_that_name_a_store");
    let connection = two.connect(0).unwrap();
    assert_eq!(keys(&two), [FENCE, "g:k"]);
    drop((one, two));
    let three = MemoryStore::open("the_lockers_that_name_a_store");
    assert_eq!(keys(&three), [FENCE, "g:k"], "an open connection keeps it");
    drop((three, connection));
    assert_eq!(keys(&MemoryStore::open("the_lockers_that_name_a_store")), [""; 0]);
}

#[test]
fn a_store_without_a_name_is_private() {
    let (one, two) = (MemoryStore::open(""), MemoryStore::open(""));
    one.with_server(|server, _| server.set_foreign("g:k", None));
    assert_eq!(two.with_server(|server, now_us| server.keys(now_us)), [""; 0]);
}

#[test]
fn messages_and_pongs_arrive_in_order_and_wake_their_reader_outside_the_mutex() {
    let store = Arc::new(MemoryStore::open(""));
    let woken = Arc::new(AtomicUsize::new(0));
    let wake = {
        let (store, woken) = (Arc::downgrade(&store), Arc::clone(&woken));
        // Enters the server: a wake under its mutex would hang here.
        move || {
            store.upgrade().unwrap().with_server(|server, now_us| server.keys(now_us));
            woken.fetch_add(1, Ordering::SeqCst);
        }
    };
    let mut subscription = store.subscribe("B", Arc::new(wake)).unwrap();
    let mut connection = store.connect(0).unwrap();
    let world = World::new();
    let steps = [
        world.request("A", who(1, 1), TRY),
        world.request("B", who(2, 1), JOIN),
        world.request("A", who(1, 1), RELEASE),
    ];
    subscription.ping(1).unwrap();
    let mut replies = Vec::new();
    for (id, step) in (0..).zip(steps) {
        connection.push(RequestId(id), step);
    }
    assert_eq!(connection.pending(), [RequestId(0), RequestId(1), RequestId(2)]);
    connection.turn(Duration::from_secs(3600), &mut replies).unwrap();
    assert!(connection.is_idle());
    subscription.ping(2).unwrap();
    let ids: Vec<_> = replies.iter().map(|(id, _)| id.0).collect();
    assert_eq!(ids, [0, 1, 2]);
    assert_eq!(replies[2].1, Reply::Released { next: None });
    let mut pushes = Vec::new();
    subscription.receive(&mut pushes).unwrap();
    let [Push::Pong { number: 1 }, Push::HandOff { key, hand_off }, Push::Pong { number: 2 }] = &pushes[..] else {
        panic!("{pushes:?}")
    };
    assert_eq!((key.as_str(), hand_off.acquisition), ("group:lock", who(2, 1)));
    assert_eq!(woken.load(Ordering::SeqCst), 3);
}

#[test]
fn a_dropped_subscription_is_a_dead_channel() {
    let store = MemoryStore::open("");
    let quiet = || Arc::new(|| ()) as Arc<dyn Fn() + Send + Sync>;
    let first = store.subscribe("B", quiet()).unwrap();
    let second = store.subscribe("B", quiet()).unwrap();
    let mut connection = store.connect(0).unwrap();
    let world = World::new();
    let mut run = |channel: &str, acquisition, op| {
        let mut replies = Vec::new();
        connection.push(RequestId(0), world.request(channel, acquisition, op));
        connection.turn(Duration::ZERO, &mut replies).unwrap();
        replies.pop().unwrap().1
    };
    let holder = |store: &MemoryStore| store.with_server(|server, now_us| server.holder(now_us, "group:lock"));
    run("A", who(1, 1), TRY);
    run("B", who(2, 1), JOIN);
    drop(first);
    run("A", who(1, 1), RELEASE);
    assert_eq!(holder(&store), Holder::Acquisition(who(2, 1)), "one subscription is left");
    run("B", who(3, 1), JOIN);
    drop(second);
    run("A", who(9, 1), Op::Release { leave: true });
    assert_eq!(run("C", who(2, 1), RELEASE), Reply::Released { next: None });
    assert_eq!(holder(&store), Holder::Nobody);
}
