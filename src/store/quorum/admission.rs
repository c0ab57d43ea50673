//! With what a server that lost its data may count again, by what the servers say of themselves (rules Q8 and Q9). Does no
//! I/O and reads no clock.

use crate::store::redis::{Admission, Look};

/// Why a server may not count yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotYet {
    /// A delay has so many milliseconds to run.
    For(u64),
    /// Too few others have answered.
    TooFew,
}

/// `mine`: what the server said before the `others` were asked; those that could not be asked are missing. `servers`: how
/// many there are.
pub fn admission(mine: &Look, others: &[Look], servers: usize) -> Result<Admission, NotYet> {
    let counting: Vec<&Look> = others.iter().filter(|look| look.counts).collect();
    let longest = |looks: &mut dyn Iterator<Item = u64>| looks.max().unwrap_or(0).max(mine.lease_ms);
    if counting.len() > servers / 2 {
        let lease_ms = longest(&mut counting.iter().map(|look| look.lease_ms));
        let delay_ms = delay_ms(lease_ms);
        if mine.age_ms < delay_ms {
            return Err(NotYet::For(delay_ms - mine.age_ms));
        }
        let counter = counting.iter().map(|look| look.counter).max().unwrap_or(0);
        return Ok(Admission { counter, since: mine.since, delay_ms, lease_ms, fresh: None });
    }
    if others.len() + 1 < servers {
        return Err(NotYet::TooFew);
    }
    // More than a minority is to be let in: all must have their delay behind them.
    let lease_ms = longest(&mut others.iter().map(|look| look.lease_ms));
    let delay_ms = delay_ms(lease_ms);
    let all = || others.iter().chain([mine]);
    let out = || all().filter(|look| !look.counts);
    // One that counted beside another, and lost its data since, is not the one that the other was let in beside.
    let beside = |look: &Look| out().all(|other| look.beside.contains(&other.since));
    let is_fresh = |look: &Look| look.fresh_ms.is_some_and(|ms| !look.counts || ms < delay_ms && beside(look));
    let fresh = all().all(is_fresh);
    let age = |look: &Look| if fresh { look.age_ms.max(look.fresh_ms.unwrap_or(0)) } else { look.age_ms };
    let youngest = out().map(age).min().unwrap_or(delay_ms);
    if youngest < delay_ms {
        return Err(NotYet::For(delay_ms - youngest));
    }
    let counter = all().map(|look| look.counter).max().unwrap_or(0);
    let beside = || others.iter().filter(|look| !look.counts).map(|look| look.since).collect();
    // Where the process is older than what is known of it, the delay has run on the former.
    let delay_ms = delay_ms.min(mine.age_ms);
    Ok(Admission { counter, since: mine.since, delay_ms, lease_ms, fresh: fresh.then(beside) })
}

/// Until when no lease is left that a server gave before it lost its data.
fn delay_ms(lease_ms: u64) -> u64 {
    lease_ms + lease_ms.div_ceil(100) + 10
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE_MS: u64 = 3_000;
    /// 1.01 times that and 10 ms.
    const DELAY_MS: u64 = 3_040;

    fn counts(counter: u64, lease_ms: u64) -> Look {
        Look { counts: true, counter, lease_ms, age_ms: 0, since: 0, fresh_ms: None, beside: vec![] }
    }

    fn lost(age_ms: u64, since: u64) -> Look {
        Look { counts: false, counter: 5, lease_ms: 0, age_ms, since, fresh_ms: None, beside: vec![] }
    }

    /// Nothing is known of it but how long its process runs.
    fn blank(up_ms: u64, since: u64) -> Look {
        Look { counter: 0, fresh_ms: Some(up_ms), lease_ms: LEASE_MS, ..lost(1, since) }
    }

    /// It was let in as new.
    fn fresh(since_ms: u64, beside: &[u64]) -> Look {
        Look { fresh_ms: Some(since_ms), beside: beside.to_vec(), ..counts(9, LEASE_MS) }
    }

    #[test]
    fn the_delay_is_the_longest_lease_of_a_majority_of_the_others_and_what_clocks_may_differ() {
        for (mine, others) in [(1_000, [LEASE_MS, 1_000]), (1_000, [1_000, LEASE_MS]), (LEASE_MS, [1_000, 1_000])] {
            let others = others.map(|lease_ms| counts(7, lease_ms));
            let asked = |age_ms| admission(&Look { lease_ms: mine, ..lost(age_ms, 1) }, &others, 3);
            assert_eq!(asked(DELAY_MS - 1), Err(NotYet::For(1)));
            let admitted = asked(DELAY_MS).unwrap();
            assert_eq!((admitted.delay_ms, admitted.lease_ms), (DELAY_MS, LEASE_MS));
        }
    }

    #[test]
    fn the_counter_is_the_largest_of_a_majority_of_the_others() {
        let four = [counts(8, LEASE_MS), counts(9, LEASE_MS), lost(9_999, 3), counts(7, LEASE_MS)];
        let admitted = admission(&lost(DELAY_MS, 4), &four, 5).unwrap();
        assert_eq!(admitted, Admission { counter: 9, since: 4, delay_ms: DELAY_MS, lease_ms: LEASE_MS, fresh: None });
    }

    #[test]
    fn with_fewer_others_that_count_all_must_answer_and_have_their_delay_behind_them() {
        let (counting, mine) = (counts(7, LEASE_MS), lost(DELAY_MS, 1));
        assert_eq!(admission(&mine, std::slice::from_ref(&counting), 3), Err(NotYet::TooFew));
        let others = |age_ms| [counting.clone(), Look { counter: 99, ..lost(age_ms, 2) }];
        assert_eq!(admission(&mine, &others(DELAY_MS - 7), 3), Err(NotYet::For(7)));
        assert_eq!(admission(&lost(DELAY_MS - 7, 1), &others(DELAY_MS), 3), Err(NotYet::For(7)));
        let admitted = admission(&mine, &others(DELAY_MS), 3).unwrap();
        assert_eq!((admitted.counter, admitted.lease_ms, admitted.fresh), (99, LEASE_MS, None));
    }

    #[test]
    fn servers_of_none_of_which_anything_is_known_count_by_the_age_of_their_processes() {
        let all = |up_ms| admission(&blank(DELAY_MS, 1), &[blank(DELAY_MS, 2), blank(up_ms, 3)], 3);
        assert_eq!(all(DELAY_MS - 5), Err(NotYet::For(5)));
        let admitted = all(DELAY_MS).unwrap();
        assert_eq!((admitted.delay_ms, admitted.fresh), (1, Some(vec![2, 3])), "as long as it is known");
        // Of one of them something is known.
        let known = admission(&blank(DELAY_MS, 1), &[blank(DELAY_MS, 2), lost(DELAY_MS, 3)], 3);
        assert_eq!(known, Err(NotYet::For(DELAY_MS - 1)));
        // The second, beside the first.
        let second = |first| admission(&blank(DELAY_MS, 2), &[first, blank(DELAY_MS, 3)], 3).map(|with| with.fresh);
        assert_eq!(second(fresh(10, &[2, 3])), Ok(Some(vec![3])));
        assert_eq!(second(fresh(DELAY_MS, &[2, 3])), Err(NotYet::For(DELAY_MS - 1)), "it is new no more");
        assert_eq!(second(counts(9, LEASE_MS)), Err(NotYet::For(DELAY_MS - 1)), "it was no new one");
    }

    /// It counted beside another and lost its data, which looks like new: nothing is known of it.
    #[test]
    fn one_that_counted_is_not_taken_for_new_nor_is_any_other_then() {
        let first = fresh(10, &[2, 3]);
        let waits = Err(NotYet::For(DELAY_MS - 1));
        assert_eq!(admission(&blank(DELAY_MS, 4), &[first.clone(), blank(DELAY_MS, 3)], 3), waits);
        assert_eq!(admission(&blank(DELAY_MS, 3), &[first, blank(DELAY_MS, 4)], 3), waits);
    }
}
