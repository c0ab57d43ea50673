//! Everything that a lock can be asked, and every step of the protocol, on a server that sentinels named.

use dlock::store::redis::{Address, Config, RedisStore, Service};
use dlock::{Locker, Status};

use crate::bench::Bench;
use crate::deployment::{Deployment, SERVICE, Ways};
use crate::eventually::eventually;
use crate::{lock, locker, scenarios, target};

fn a_life(locker: &Locker) {
    let (one, two) = (lock(locker, "life"), lock(locker, "life"));
    assert!(one.try_acquire().unwrap() && !two.try_acquire().unwrap());
    assert!(one.is_locked().unwrap() && one.is_locked_by_me().unwrap() && !two.is_locked_by_me().unwrap());
    one.extend(60_000).unwrap();
    assert_eq!(two.acquire_timeout(30).unwrap_err().status, Status::LockTimeout);
    let token = one.fencing_token().unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| two.acquire());
        eventually("the waiter is queued", || one.is_locked().unwrap());
        one.release().unwrap();
        waiter.join().unwrap().unwrap();
    });
    assert!(two.fencing_token().unwrap() > token);
    two.release().unwrap();
    assert_eq!(two.release().unwrap_err().status, Status::UnlockUnlocked);
}

/// A life, the primary replaced, and another life on the new one.
fn two_lives(deployment: &Deployment, url: &str) {
    let locker = locker(url);
    a_life(&locker);
    let token = {
        let lock = lock(&locker, "life");
        lock.acquire().unwrap();
        let token = lock.fencing_token().unwrap();
        lock.release().unwrap();
        token
    };
    let (from, _) = deployment.fail_over();
    eventually("the former primary is a replica, and misleads nobody", || deployment.role(from) == "slave");
    a_life(&locker);
    let lock = lock(&locker, "life");
    lock.acquire().unwrap();
    assert!(lock.fencing_token().unwrap() > token);
    lock.release().unwrap();
    assert_eq!(locker.warnings().unwrap(), Vec::<String>::new());
}

#[test]
fn a_lock_lives_through_a_failover_on_every_server() {
    std::thread::scope(|scope| {
        for program in target::servers() {
            scope.spawn(|| {
                println!("{}", program.display());
                let deployment = Deployment::with(Ways { program: Some(program), ..Ways::default() });
                two_lives(&deployment, &deployment.url(&[]));
            });
        }
    });
}

#[test]
fn servers_and_sentinels_have_passwords_of_their_own() {
    let ways = Ways { sentinel_password: Some("sentinels-word"), password: Some("servers-word"), ..Ways::default() };
    let deployment = Deployment::with(ways);
    two_lives(&deployment, &deployment.url(&["sentinel_password=sentinels-word"]));
    two_lives(&deployment, &deployment.url(&["sentinel_password=sentinels-word", "sentinel_username=default"]));
}

#[cfg(feature = "tls")]
#[test]
fn tls_is_spoken_to_sentinels_and_servers() {
    let (pki, program) = (crate::pki::Pki::new(), Some(crate::pki::with_tls()));
    let deployment = Deployment::with(Ways { program, tls: Some(pki), ..Ways::default() });
    two_lives(&deployment, &deployment.url(&[]));
}

/// The suite of the conformance tests, on one deployment.
#[test]
fn every_step_is_answered_as_on_a_server_of_its_own() {
    let deployment = Deployment::new();
    let sentinels = deployment.sentinels.iter();
    let sentinels = sentinels.map(|one| Address::Tcp { host: "127.0.0.1".into(), port: one.port }).collect();
    let service = Service { name: SERVICE.into(), sentinels, username: None, password: None, tls: None };
    let config = Config::new(Address::Service(Box::new(service)));
    for scenario in [
        scenarios::every_step_in_every_state_of_the_key,
        scenarios::foreign_keys_of_every_type_are_never_touched,
        scenarios::rule_3_the_next_waiter_of_the_same_locker_is_named_in_the_reply,
        scenarios::rule_5_numbers_below_the_floor_are_lifted_by_all_but_a_try,
        scenarios::rule_5_a_new_connection_lifts_the_counter,
        scenarios::rule_7_a_release_hands_over_to_the_first_live_waiter,
        scenarios::rule_8_a_mark_of_another_locker_drops_its_waiters,
        scenarios::rule_9_leaving,
        scenarios::rule_10_a_repeated_release,
        scenarios::invariant_9_nothing_is_left_but_the_counter,
        scenarios::a_burst_of_requests_is_answered_in_order,
    ] {
        let _: String = deployment.servers[0].cmd(&["FLUSHALL"]);
        let target = target::reached(RedisStore::new(config.clone()), deployment.servers[0].connection(), None);
        scenario(&mut Bench::new(target));
    }
}
