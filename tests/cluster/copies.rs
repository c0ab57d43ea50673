//! `replicas=N` in a cluster: each lock's copies are those of its own node's replicas.

use std::time::{Duration, Instant};

use dlock::Status;
use dlock::store::name::{FENCE, FENCE_LIFE, Name};

use crate::deployment::Cluster;
use crate::eventually::eventually;
use crate::waiting::waiters;
use crate::{lock, locker, locker_with_lease};

/// How long a step waits for its copies here.
const WAIT_MS: u64 = 600;
/// What a primary's life lifts its counters by (rule 5).
const STEP: u64 = 1 << 24;

fn url(cluster: &Cluster) -> String {
    format!("{}?replicas=1&replicas_timeout_ms={WAIT_MS}", cluster.url())
}

/// Who holds that lock, as the replica of the node has it.
fn holder_on_replica(cluster: &Cluster, primary: usize, name: &str) -> Option<String> {
    let mut connection = cluster.servers[primary + 3].connection();
    let _: () = redis::cmd("READONLY").query(&mut connection).unwrap();
    redis::cmd("GET").arg(format!("g:{name}")).query(&mut connection).unwrap()
}

#[test]
fn a_lock_counts_when_its_own_nodes_replica_has_it_and_other_nodes_go_on_meanwhile() {
    let cluster = Cluster::start(3, 1, &[]);
    let (name, elsewhere) = (cluster.name_on(0), cluster.name_on(1));
    let (own, other) = (locker(&url(&cluster)), locker(&url(&cluster)));
    let (holder, waiter, apart) = (lock(&own, &name), lock(&other, &name), lock(&own, &elsewhere));
    let on_replica = || holder_on_replica(&cluster, 0, &name).unwrap();
    holder.acquire().unwrap();
    assert!(on_replica().starts_with(&holder.id().unwrap().to_string()));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            waiter.acquire().unwrap();
            assert!(on_replica().starts_with(&waiter.id().unwrap().to_string()), "the hand-off alone does not count");
        });
        eventually("it waits", || waiters(&cluster, 0) == 1);
        holder.release().unwrap();
        waiting.join().unwrap();
    });
    waiter.release().unwrap();
    cluster.stop(3);
    std::thread::scope(|scope| {
        let refused = scope.spawn(|| holder.acquire().unwrap_err());
        let begun = Instant::now();
        eventually("it is on the primary", || !cluster.keys(&[0]).is_empty() || refused.is_finished());
        apart.acquire().unwrap();
        apart.release().unwrap();
        let error = refused.join().unwrap();
        assert_eq!(error.status, Status::Locker, "{error}");
        assert!(error.message.contains("NOREPLICAS only 0 of 1 replicas had the lock after 600 ms"), "{error}");
        assert!(begun.elapsed() < Duration::from_millis(WAIT_MS + 2_000), "{:?}", begun.elapsed());
    });
    eventually("what was not acquired is given up", || cluster.keys(&[0]).is_empty());
    cluster.go_on(3);
    eventually("it counts again", || holder.acquire().is_ok());
    holder.release().unwrap();
}

/// And the tokens that the new primary gives are above those that the old one may have given and not copied, also to one
/// who knows nothing of them.
#[test]
fn what_was_acquired_survives_a_primary_that_is_killed_at_once_and_tokens_are_lifted_beyond_its_own() {
    let cluster = Cluster::start(3, 1, &[]);
    let name = cluster.name_on(0);
    let tag = Name::new(&name, "g").unwrap().tag().to_owned();
    let own = locker_with_lease(&url(&cluster), 20_000);
    let (before, holder) = (lock(&own, &name), lock(&own, &name));
    before.acquire().unwrap();
    let drawn = before.fencing_token().unwrap();
    before.release().unwrap();
    let life: String = cluster.servers[0].cmd(&["GET", &format!("{FENCE_LIFE}:{tag}")]);
    assert!(cluster.servers[0].cmd::<String>(&["INFO", "replication"]).contains(&life), "{life}");
    // Further than the clock will be.
    let ahead = drawn + 10_000 * STEP;
    let _: () = cluster.servers[0].cmd(&["SET", &format!("{FENCE}:{tag}"), &ahead.to_string()]);
    holder.acquire().unwrap();
    cluster.kill(0);
    let held = holder.fencing_token().unwrap();
    assert_eq!(held, ahead + 1);
    cluster.wait_failed_over(0);
    assert!(holder_on_replica(&cluster, 0, &name).unwrap().starts_with(&holder.id().unwrap().to_string()));
    // It asks for no copies: the new primary has no replica. Nor has it seen a token.
    let locker = locker(&cluster.url());
    let stranger = lock(&locker, &name);
    assert!(!stranger.try_acquire().unwrap());
    let _: i64 = cluster.servers[3].cmd(&["DEL", &format!("g:{name}")]);
    assert!(stranger.try_acquire().unwrap());
    let token = stranger.fencing_token().unwrap();
    assert!(token > held + STEP, "{token} after {held}");
    stranger.release().unwrap();
}
