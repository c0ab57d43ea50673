//! One suite over `dyn Store`, run against `memory://` and against real servers: first the steps one by one, in every
//! state of the key, the queue and the counter; then random steps on both at once, compared reply by reply.
//!
//! The servers are `DLOCK_TEST_SERVER` (else `redis-server` or `valkey-server` on the PATH) and those named in
//! `DLOCK_TEST_SERVERS`, separated by colons. One that cannot be started is a failure. `DLOCK_CONFORMANCE_SEQUENCES`
//! widens the random part, `DLOCK_CONFORMANCE_SEED` repeats one sequence of it.

mod bench;
mod random;
#[path = "../support/redis_server.rs"]
#[allow(dead_code)]
mod redis_server;
mod scenarios;
mod target;

use bench::Bench;

/// A test of each scenario for `memory://`, and one for the servers.
macro_rules! scenarios {
    ($($name:ident,)*) => {
        mod memory {
            $(#[test] fn $name() { super::scenarios::$name(&mut super::Bench::new(super::target::memory())) })*
        }
        mod server {
            $(#[test] fn $name() {
                for server in super::target::servers() {
                    eprintln!("on {}:", server.display());
                    super::scenarios::$name(&mut super::Bench::new(super::target::server(&server)))
                }
            })*
        }
    };
}

scenarios! {
    every_step_in_every_state_of_the_key,
    foreign_keys_of_every_type_are_never_touched,
    a_lease_ends,
    rule_1_attempts_are_compared_beyond_what_a_double_holds,
    rule_2_nothing_shortens_a_lease,
    rule_3_the_next_waiter_of_the_same_locker_is_named_in_the_reply,
    rule_5_numbers_below_the_floor_are_lifted_by_all_but_a_try,
    rule_5_a_new_connection_lifts_the_counter,
    rule_5_a_counter_that_is_no_integer,
    rule_5_tokens_rise_past_a_flush,
    rule_6_waiters_stand_at_their_places,
    rule_6_equal_places_are_in_the_order_of_the_members,
    rule_6_the_queue_lives_three_rechecks,
    rule_6_a_join_that_may_not_queue,
    rule_7_a_release_hands_over_to_the_first_live_waiter,
    rule_7_a_release_with_only_its_own_member_queued,
    rule_7_dead_waiters_go_in_batches,
    rule_7_exactly_one_batch_of_dead_waiters,
    rule_7_the_releasers_own_member_is_not_counted,
    rule_8_an_offered_waiter_stays_marked_until_it_renews_or_releases,
    rule_8_a_join_restores_the_place_of_an_offered_waiter,
    rule_8_a_mark_of_another_locker_drops_its_waiters,
    rule_8_only_the_entries_looked_at_are_dropped,
    rule_8_the_releasing_locker_does_not_judge_its_own_marks,
    rule_9_leaving,
    rule_10_a_repeated_release,
    invariant_9_nothing_is_left_but_the_counter,
    names_with_odd_characters,
    a_burst_of_requests_is_answered_in_order,
}

#[test]
fn random_steps_are_answered_alike_by_memory_and_servers() {
    for server in target::servers() {
        random::compare(&server);
    }
}
