//! The least rights, as the documentation gives them.

use dlock::Status;

use crate::deployment::Cluster;
use crate::eventually::eventually;
use crate::waiting::{subscriptions, waiters};
use crate::{lock, locker};

const PAGE: &str = include_str!("../../docs/deployments.md");

/// The line to paste, for the group `g`, and what a cluster needs besides.
fn least() -> Vec<String> {
    let line = PAGE.lines().find(|line| line.starts_with("ACL SETUSER billing ")).expect("the line to paste");
    let more = PAGE.lines().find(|line| line.starts_with("- **Rights** besides")).expect("the rights besides");
    let words = line.split(' ').map(|word| word.replace("billing:", "g:"));
    let more = more.split(['`', ' ']).filter(|word| word.starts_with('+')).map(str::to_owned);
    words.chain(more).collect()
}

/// A user of that name on every node, who has these rights without those.
fn user(cluster: &Cluster, name: &str, without: &[&str]) -> String {
    let least = least();
    assert!(without.iter().all(|word| least.iter().any(|other| other == word)), "{without:?}: {least:?}");
    let mut words: Vec<&str> = least.iter().map(String::as_str).filter(|word| !without.contains(word)).collect();
    words[2] = name;
    for server in &cluster.servers {
        let _: () = server.cmd(&words);
    }
    cluster.url().replace("//", &format!("//{name}:password@"))
}

/// A hand-off between two lockers on the first server.
fn hand_off(cluster: &Cluster, url: &str, expected: (usize, usize)) {
    let name = cluster.name_on(0);
    let (own, other) = (locker(url), locker(url));
    let (holder, waiter) = (lock(&own, &name), lock(&other, &name));
    holder.acquire().unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| waiter.acquire_timeout(20_000));
        eventually("it is queued", || waiters(cluster, 0) == 1);
        assert_eq!(subscriptions(cluster, 0), expected);
        holder.release().unwrap();
        waiting.join().unwrap().unwrap();
    });
    waiter.release().unwrap();
    assert_eq!(own.warnings().unwrap(), [] as [String; 0]);
}

/// Where the counter of a slot cannot be lifted, no number of it is a token (rule 5).
#[test]
fn a_lock_whose_counter_could_not_be_lifted_is_not_acquired() {
    let cluster = Cluster::start(3, 0, &[]);
    let mut options = crate::options(&user(&cluster, "lifts", &[]));
    options.set_response_timeout_ms(500).unwrap();
    let own = dlock::Locker::new(&options).unwrap();
    // To each node there is a connection when the right is taken away; the second slot is a new one on it.
    let names = cluster.names_on(0, 2);
    let (first, second) = (lock(&own, &names[0]), lock(&own, &names[1]));
    first.acquire().unwrap();
    first.release().unwrap();
    cluster.servers[0].cmd::<()>(&["ACL", "SETUSER", "lifts", "-persist"]);
    let error = second.acquire().unwrap_err();
    assert_eq!(error.status, Status::Locker, "{error}");
    assert!(error.message.contains("the counter was not lifted"), "{error}");
    cluster.servers[0].cmd::<()>(&["ACL", "SETUSER", "lifts", "+persist"]);
    second.acquire_timeout(20_000).unwrap();
    second.release().unwrap();
}

#[test]
fn the_documented_rights_are_enough_and_each_that_is_missing_is_named_or_done_without() {
    let cluster = Cluster::start(3, 0, &[]);
    hand_off(&cluster, &user(&cluster, "least", &[]), (1, 0));
    hand_off(&cluster, &user(&cluster, "plain", &["+ssubscribe"]), (0, 1));
    let url = user(&cluster, "blind", &["+cluster|slots"]);
    let error = locker(&url).lock("n", "g").err().unwrap();
    assert_eq!(error.status, Status::NotConnected);
    assert!(error.message.contains("the user may not run CLUSTER SLOTS"), "{error}");
    assert!(!error.message.contains("password@"), "{error}");
    // A wrong password is said of each node.
    let error = locker(&url.replace("password", "hunter2")).lock("n", "g").err().unwrap();
    assert!(error.message.contains("authentication failed") && !error.message.contains("hunter2"), "{error}");
}
