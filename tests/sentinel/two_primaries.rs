//! Failovers by hand under load. While one is under way, two primaries accept writes: the new one from its promotion on, the
//! old one until the sentinels tell it to be a replica. What holds all the same, and is shown here:
//!
//! - no token is given twice, by whichever primary;
//! - the acquisitions of a lock that one primary gives have rising tokens;
//! - every token that the new primary gives is above every one that the old one gives, also above those that it still gives
//!   after the promotion;
//! - so a resource that checks tokens refuses every stale writer;
//! - a holder whose lock did not survive is told at its next renewal.
//!
//! That a token of the old primary is above all that the new one has given already, in real time, is not promised.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use dlock::Lock;

use crate::deployment::Deployment;
use crate::eventually::eventually;
use crate::recorder::{Recorder, tells_of_a_loss};
use crate::{lock, locker_with_lease};

const LONG_MS: u64 = 20_000;
/// The second comes while the counter is ahead of the clock.
const FAILOVERS: usize = 2;
/// Between two faults, and after the last.
const TURNS: u64 = 40;

/// One acquisition.
struct Given {
    lock: String,
    token: u64,
    asked_at: u64,
    acquired_at: u64,
    /// The replication id of the primary that gave it, where the locker had connections to no other before and after.
    primary: Option<String>,
}

struct Load<'a> {
    deployment: &'a Deployment,
    recorder: &'a Recorder,
    given: Mutex<Vec<Given>>,
    stop: AtomicBool,
    turns: AtomicU64,
}

impl Load<'_> {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// One more acquisition by that client; a loss is no failure.
    fn turn(&self, client: &str, lock: Lock, name: &str, by: &str) -> Lock {
        let before = self.deployment.primary_of(client);
        let witness = self.recorder.witness(lock, name, by);
        let asked_at = self.recorder.now();
        let token = witness.acquire(LONG_MS).unwrap_or_else(|error| panic!("{by}: {error}"));
        let acquired_at = self.recorder.now();
        let primary = self.deployment.primary_of(client).filter(|after| before.as_ref() == Some(after));
        self.given.lock().unwrap().push(Given { lock: name.to_owned(), token, asked_at, acquired_at, primary });
        witness.write(token);
        let answer = witness.release();
        assert!(answer.is_ok() || tells_of_a_loss(&answer), "{answer:?}");
        self.turns.fetch_add(1, Ordering::Relaxed);
        witness.into_lock()
    }

    fn wait_for_turns(&self) {
        let before = self.turns.load(Ordering::Relaxed);
        eventually("turns go on", || self.turns.load(Ordering::Relaxed) >= before + TURNS);
    }

    /// Asks the old primary for a lock that it gives though another has taken its place, if it still does: answers whether.
    fn is_misled(&self, number: usize, new: &str) -> bool {
        let (client, name) = (format!("late{number}"), format!("late{number}"));
        let locker = locker_with_lease(&self.deployment.url(&[&format!("client_name={client}")]), 3_000);
        let late = lock(&locker, &name);
        late.acquire().unwrap();
        late.release().unwrap();
        let from = self.deployment.begin_fail_over();
        let old = self.deployment.replication_id(from);
        let others = || (0..3).filter(|&server| server != from);
        eventually("another is promoted", || others().any(|server| self.deployment.role(server) == "master"));
        let witness = self.recorder.witness(late, &name, &client);
        let Ok(token) = witness.acquire(1_000) else { return false };
        let misled = self.deployment.primary_of(&client).is_some_and(|giver| giver == old);
        println!("{new}: {token} by the {}", if misled { "old primary" } else { "new primary, or it is not known" });
        self.deployment.wait_failed_over(from, &[0, 1, 2]);
        if misled {
            eventually("the holder is told", || !witness.lock().remaining_ms().is_ok_and(|ms| ms > 0));
            assert!(!witness.look());
            witness.write(token);
        }
        let answer = if misled { witness.lock().release() } else { witness.release() };
        assert_eq!(tells_of_a_loss(&answer), misled, "{answer:?}");
        eventually("the former primary is a replica", || self.deployment.role(from) == "slave");
        misled
    }
}

#[test]
fn tokens_of_a_new_primary_are_above_all_that_the_old_one_gives_also_while_both_accept_writes() {
    let deployment = Deployment::new();
    let recorder = Recorder::new();
    let load = Load {
        deployment: &deployment,
        recorder: &recorder,
        given: Mutex::default(),
        stop: AtomicBool::new(false),
        turns: AtomicU64::new(0),
    };
    let lockers = ["one", "two"]
        .map(|client| (client, locker_with_lease(&deployment.url(&[&format!("client_name={client}")]), 2_000)));
    let mut primaries = vec![deployment.replication_id(deployment.named_by(0))];
    let mut misled = 0;
    std::thread::scope(|scope| {
        let load = &load;
        for i in 0..4 {
            let (name, (client, locker)) = (["a", "b"][i % 2], &lockers[i / 2]);
            let mut own = lock(locker, name);
            scope.spawn(move || {
                while load.goes_on() {
                    own = load.turn(client, own, name, &format!("{client}{i}"));
                }
            });
        }
        // Those who come new ask the sentinels in another order each: some of these hear of a failover later than others.
        for i in 0..2 {
            scope.spawn(move || {
                for number in 0.. {
                    if !load.goes_on() {
                        break;
                    }
                    let client = format!("new{i}-{number}");
                    let all = (0..3).map(|k| load.deployment.sentinels[(k + number + i) % 3].address());
                    let all = all.collect::<Vec<_>>().join(",");
                    let parameter = format!("client_name={client}");
                    let own = locker_with_lease(
                        &load.deployment.url_of(&all, crate::deployment::SERVICE, &[&parameter]),
                        2_000,
                    );
                    load.turn(&client, lock(&own, "c"), "c", &client);
                }
            });
        }
        let operator = scope.spawn(|| {
            for number in 0..FAILOVERS {
                load.wait_for_turns();
                let at = recorder.fault("failover by hand");
                misled += u32::from(load.is_misled(number, &format!("failover {number}")));
                recorder.divided_since(at);
                primaries.push(deployment.replication_id(deployment.named_by(0)));
            }
            recorder.calm(Duration::from_secs(10));
            load.wait_for_turns();
        });
        let done = operator.join();
        load.stop.store(true, Ordering::Relaxed);
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    judge_tokens(&load.given.lock().unwrap(), &primaries);
    let verdict = recorder.judge();
    assert!(misled > 0, "no acquisition of an old primary after a promotion");
    assert!(verdict.counts.lost >= u64::from(misled), "{verdict}");
    let new = deployment.named_by(0);
    eventually("nothing is left", || deployment.servers[new].keys().is_empty());
}

fn judge_tokens(given: &[Given], primaries: &[String]) {
    let tokens: HashSet<u64> = given.iter().map(|one| one.token).collect();
    assert_eq!(tokens.len(), given.len(), "a token was given twice");
    let of = |primary: &String| given.iter().filter(|one| one.primary.as_ref() == Some(primary)).collect::<Vec<_>>();
    let all: Vec<Vec<&Given>> = primaries.iter().map(of).collect();
    for (i, those) in all.iter().enumerate() {
        assert!(those.len() >= 10, "only {} acquisitions are known to be of primary {i}", those.len());
        for one in those {
            let earlier = |other: &&&Given| other.lock == one.lock && other.acquired_at < one.asked_at;
            let highest = those.iter().filter(earlier).map(|other| other.token).max();
            assert!(highest < Some(one.token), "primary {i}: {} after {highest:?}", one.token);
        }
    }
    for (i, pair) in all.windows(2).enumerate() {
        let last = pair[0].iter().map(|one| one.token).max().unwrap();
        let first = pair[1].iter().map(|one| one.token).min().unwrap();
        println!("primary {i}: {} acquisitions, up to {last}; the next from {first}", pair[0].len());
        assert!(first > last, "primary {} gave {first}, primary {i} {last}", i + 1);
    }
}
