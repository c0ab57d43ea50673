//! The steps look and admit, and those of a lock at a server that does not count, by themselves on one server.

use dlock::store::TOKEN_FLOOR;

use crate::redis_server::RedisServer;

const FENCE: &str = ":dlock:fence";
const MEMBERSHIP: &str = ":dlock:quorum";
/// Above the clock of any server.
const FAR: u64 = 1 << 52;

/// What look answers.
struct Look {
    counts: bool,
    counter: u64,
    lease_ms: u64,
    since: u64,
    fresh_ms: i64,
    beside: Vec<i64>,
}

struct Server(RedisServer);

impl Server {
    fn new() -> Self {
        Server(RedisServer::start(&[]))
    }

    fn run<T: redis::FromRedisValue>(&self, script: &str, arguments: &[&str]) -> T {
        self.0.cmd(&[&["EVAL", script, "2", FENCE, MEMBERSHIP], arguments].concat())
    }

    fn look(&self, lease_ms: u64) -> Look {
        let script = include_str!("../../src/store/redis/scripts/look.lua");
        let answer: Vec<i64> = self.run(script, &[&lease_ms.to_string()]);
        let [counts, counter, lease_ms, _, since, fresh_ms, beside @ ..] = &answer[..] else { panic!("{answer:?}") };
        let positive = |number: &i64| u64::try_from(*number).unwrap();
        Look {
            counts: *counts == 1,
            counter: positive(counter),
            lease_ms: positive(lease_ms),
            since: positive(since),
            fresh_ms: *fresh_ms,
            beside: beside.to_vec(),
        }
    }

    /// Is it let in?
    fn admit(&self, counter: u64, since: u64, delay_ms: u64, fresh: &[&str]) -> bool {
        let script = include_str!("../../src/store/redis/scripts/admit.lua");
        let numbers = [counter, since, delay_ms, 700].map(|number| number.to_string());
        let is_fresh = if fresh.is_empty() { "0" } else { "1" };
        let arguments: Vec<&str> = numbers.iter().map(String::as_str).chain([is_fresh]).chain(fresh.to_vec()).collect();
        self.run::<i64>(script, &arguments) == 1
    }

    /// As if another process had its data now.
    fn becomes_another(&self) {
        self.0.cmd::<()>(&["HSET", MEMBERSHIP, "run", "0123"]);
    }
}

#[test]
fn a_server_is_let_in_for_the_loss_that_was_seen_and_after_its_delay() {
    let server = Server::new();
    let seen = server.look(500);
    assert!(!seen.counts && seen.counter == 0 && seen.lease_ms == 500 && seen.fresh_ms >= 0);
    assert_eq!(server.look(400).lease_ms, 500, "the longest stays noted");
    assert_eq!(server.look(400).since, seen.since);
    assert!(!server.admit(FAR, seen.since, 60_000, &[]), "its delay is not over");
    server.0.cmd::<()>(&["FLUSHALL"]);
    let again = server.look(500);
    assert!(again.since > seen.since);
    assert!(!server.admit(FAR, seen.since, 0, &[]), "it has lost its data again");
    assert!(server.admit(FAR, again.since, 0, &[]));
    let now = server.look(500);
    assert!(now.counts && now.counter == FAR && now.lease_ms == 700 && now.fresh_ms == -1, "the counter of the others");
    assert!(server.admit(5, 0, 0, &[]), "two at once do no harm");
    assert_eq!(server.look(500).counter, FAR);
    server.0.cmd::<()>(&["DEL", FENCE]);
    let evicted = server.look(500);
    assert!(!evicted.counts && evicted.since > again.since, "the delay that is over is another loss's");
}

#[test]
fn a_server_that_is_let_in_has_a_counter_above_its_clock_and_what_it_had() {
    let server = Server::new();
    assert!(server.admit(5, server.look(500).since, 0, &["7", "8"]));
    let clock: [u64; 2] = server.0.cmd(&["TIME"]);
    let at_first = server.look(500);
    assert!(at_first.counter > (clock[0] - 60) * 1_000_000 && at_first.counter > TOKEN_FLOOR);
    assert!(at_first.fresh_ms >= 0 && at_first.beside == [7, 8], "beside whom it was let in as new");
    server.0.cmd::<()>(&["SET", FENCE, &FAR.to_string()]);
    server.becomes_another();
    let lost = server.look(500);
    assert!(!lost.counts && lost.counter == FAR && lost.fresh_ms == -1, "something is known of it");
    assert_eq!(server.0.cmd::<Option<String>>(&["GET", FENCE]), None, "nothing can be drawn");
    assert_eq!(server.look(500).since, lost.since);
    assert!(server.admit(5, lost.since, 0, &[]));
    let last = server.look(500);
    assert!(last.counts && last.counter == FAR && last.fresh_ms == -1 && last.beside.is_empty());
    // What it says of a delay of another process is old.
    server.becomes_another();
    let since = server.look(500).since;
    server.0.cmd::<()>(&["HSET", MEMBERSHIP, "seen", "0123"]);
    assert!(server.look(500).since > since);
}
