//! Sentinels that are not there, do not answer, or refuse; servers that are no primary: what it costs and what is said.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dlock::{Locker, Status};

use crate::deployment::{Deployment, SERVICE, Victim, Ways};
use crate::recorder::tells_of_a_loss;
use crate::redis_server::{RedisServer, free_port};
use crate::{lock, locker, options};

/// Why no connection comes about, and how long it took to say so.
fn refusal(url: &str) -> (String, Duration) {
    let mut options = options(url);
    options.set_connect_timeout_ms(2_000).unwrap();
    let begun = Instant::now();
    let Err(error) = Locker::new(&options).unwrap().lock("n", "g") else { panic!("{url}: connected") };
    assert_eq!(error.status, Status::NotConnected, "{error}");
    println!("{error} ({:?})", begun.elapsed());
    assert!(error.message.starts_with("service "), "{error}");
    (error.message, begun.elapsed())
}

#[test]
fn sentinels_that_are_dead_or_silent_are_passed_over_and_asked_last_from_then_on() {
    let deployment = Deployment::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap(); // accepts, by the kernel, and never answers
    let silent = format!("127.0.0.1:{}", silent.local_addr().unwrap().port());
    let dead = format!("127.0.0.1:{}", free_port());
    deployment.sentinels[0].stop();
    let stopped = deployment.sentinels[0].address();
    let good = deployment.sentinels[1].address();
    let url = deployment.url_of(&[silent, dead, stopped, good].join(","), SERVICE, &[]);
    let locker = locker(&url);
    let begun = Instant::now();
    let one = lock(&locker, "n");
    let first = begun.elapsed();
    // Half a share each: 5 s / 5 / 2, and what is left / 3 / 2.
    assert!(first < Duration::from_millis(2_500), "{first:?}");
    one.acquire().unwrap();
    // The subscription, and the connections anew: those that do not answer are not asked any more.
    let two = lock(&locker, "n");
    let begun = Instant::now();
    assert_eq!(two.acquire_timeout(50).unwrap_err().status, Status::LockTimeout);
    let kill = |kind: &str| deployment.servers[0].cmd::<u64>(&["CLIENT", "KILL", "TYPE", kind]);
    kill("normal");
    one.release().unwrap();
    let later = begun.elapsed();
    assert!(later < Duration::from_millis(400), "{later:?}");
    println!("first {first:?}, later {later:?}");
    deployment.sentinels[0].go_on();
}

#[test]
fn where_no_sentinel_can_be_asked_each_is_named_with_the_reason() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap();
    let dead = format!("127.0.0.1:{}", free_port());
    let (text, took) = refusal(&format!("redis-sentinel://{silent},{dead}/{SERVICE}"));
    assert!(text.starts_with("service mymaster: no sentinel can be asked: "), "{text}");
    assert!(text.contains(&format!("{silent}: accepted the connection but did not answer")), "{text}");
    assert!(text.contains(&format!("{dead}: connection refused")), "{text}");
    assert!(took < Duration::from_millis(1_500), "{took:?}");
}

#[test]
fn wrong_services_and_wrong_passwords_are_told_at_once_and_no_password_is_shown() {
    let ways = Ways { sentinel_password: Some("sentinels-word"), password: Some("servers-word"), ..Ways::default() };
    let deployment = Deployment::with(ways);
    let all = deployment.sentinels.iter().map(|one| one.address()).collect::<Vec<_>>().join(",");
    let right = "sentinel_password=sentinels-word";
    let of = |login: &str, service: &str, more: &str| format!("redis-sentinel://{login}{all}/{service}?{more}");
    for (url, words) in [
        (of(":servers-word@", "nobodys", right), "no sentinel knows it: "),
        (of(":servers-word@", SERVICE, "sentinel_password=guess-1"), "authentication failed: WRONGPASS"),
        (
            of(":servers-word@", SERVICE, "sentinel_username=x&sentinel_password=guess-1"),
            "authentication failed: WRONGPASS",
        ),
        (of(":servers-word@", SERVICE, ""), "needs a password (sentinel_password): NOAUTH"),
        (of(":guess-1@", SERVICE, right), "no connection to the primary: "),
        (of("", SERVICE, right), "the server needs a password: NOAUTH"),
    ] {
        let (text, took) = refusal(&url);
        assert!(text.contains(words), "{text}");
        assert!(!text.contains("guess-1") && !text.contains("-word"), "{text}");
        assert!(took < Duration::from_millis(1_500), "{took:?}");
    }
    // Each sentinel is named.
    let (text, _) = refusal(&of("", "nobodys", right));
    assert!(text.ends_with(&format!("{}: no such service", all.replace(',', ", "))), "{text}");
}

#[test]
fn what_is_no_sentinel_or_no_primary_is_told_apart() {
    let server = RedisServer::start(&[]);
    let (text, _) = refusal(&format!("redis-sentinel://127.0.0.1:{}/{SERVICE}", server.port()));
    assert!(text.contains("is no sentinel"), "{text}");
    // A sentinel that has fallen behind, or was told wrong, names a replica: that one says so itself.
    let (primary, name) = (RedisServer::start(&[]), "127.0.0.1");
    let replica = RedisServer::start(&["--replicaof", name, &primary.port().to_string()]);
    let liar = Liar::start(0, replica.port());
    let (text, took) = refusal(&format!("redis-sentinel://{name}:{}/{SERVICE}", liar.port));
    let words = format!("names {name}:{}: the server is a replica, not a primary", replica.port());
    assert!(text.contains(&words), "{text}");
    assert!(took >= Duration::from_millis(1_500), "it may become one: {took:?}");
}

/// A sentinel of the test's: names that server, by that configuration.
struct Liar {
    port: u16,
    says: Arc<Mutex<(u64, u16)>>,
}

impl Liar {
    fn start(epoch: u64, server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, says) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new((epoch, server))));
        let answers = Arc::clone(&says);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (mut client, mut buffer) = (client.unwrap(), [0; 4096]);
                let (epoch, server) = *answers.lock().unwrap();
                // A port of 0: it says nothing at all.
                if client.read(&mut buffer).is_ok() && server != 0 {
                    let (epoch, server) = (epoch.to_string(), server.to_string());
                    let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
                    let fields = format!("*2\r\n{}{}", bulk("config-epoch"), bulk(&epoch));
                    let _ = write!(client, "{fields}*2\r\n{}{}", bulk("127.0.0.1"), bulk(&server));
                }
            }
        });
        Liar { port, says }
    }

    fn say(&self, epoch: u64, server: u16) {
        *self.says.lock().unwrap() = (epoch, server);
    }
}

#[test]
fn a_sentinel_that_has_not_heard_of_the_last_failover_is_believed_only_where_nobody_knows_more() {
    let servers = [RedisServer::start(&[]), RedisServer::start(&[])];
    let [old, new] = [servers[0].port(), servers[1].port()];
    let sentinels = [Liar::start(5, new), Liar::start(4, old), Liar::start(5, new)];
    let all = sentinels.iter().map(|one| format!("127.0.0.1:{}", one.port)).collect::<Vec<_>>().join(",");
    let locker = locker(&format!("redis-sentinel://{all}/{SERVICE}"));
    let one = lock(&locker, "n");
    let take = |server: usize| {
        one.acquire().unwrap();
        assert_eq!(servers[server].keys(), ["g:n"]);
        one.release().unwrap();
        let _: u64 = servers[server].cmd(&["CLIENT", "KILL", "TYPE", "normal"]);
    };
    take(1);
    sentinels[0].say(0, 0); // the next two are asked, and the second of them knows better
    take(1);
    sentinels[2].say(0, 0);
    take(0);
}

#[test]
fn one_connection_that_finds_another_primary_ends_those_to_the_former_one() {
    let servers = [RedisServer::start(&[]), RedisServer::start(&[])];
    let sentinel = Liar::start(1, servers[0].port());
    let locker = locker(&format!("redis-sentinel://127.0.0.1:{}/{SERVICE}", sentinel.port));
    let (one, two) = (lock(&locker, "n"), lock(&locker, "n"));
    one.acquire().unwrap();
    let token = one.fencing_token().unwrap();
    // Nothing has happened to the connection for commands. The subscription is the first to be made after the failover.
    sentinel.say(2, servers[1].port());
    two.acquire_timeout(5_000).unwrap();
    assert_eq!(servers[1].keys(), ["g:n"]);
    assert!(two.fencing_token().unwrap() > token);
    two.release().unwrap();
    assert!(tells_of_a_loss(&one.release()));
}

#[test]
fn a_user_without_the_right_to_ask_for_the_role_is_told_so() {
    let deployment = Deployment::new();
    for server in &deployment.servers {
        let _: String = server.cmd(&["ACL", "SETUSER", "billing", "on", ">word", "~*", "&*", "+@all", "-role"]);
    }
    let (text, _) = refusal(&deployment.url(&[]).replace("://", "://billing:word@"));
    assert!(text.contains("the user may not run ROLE"), "{text}");
}
