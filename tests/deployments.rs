//! How servers are set up: users with the least rights, unix sockets, idle connections, eviction. What is missing is named;
//! a password never is.

#[path = "support/api.rs"]
mod api;
#[path = "support/eventually.rs"]
#[allow(dead_code)]
mod eventually;
#[path = "support/proxy.rs"]
#[allow(dead_code)]
mod proxy;
#[path = "support/redis_server.rs"]
#[allow(dead_code)]
mod redis_server;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use api::{locker, options};
use dlock::store::Store;
use dlock::store::redis::{Address, Config, RedisStore};
use dlock::{Lock, Locker, Status, WAIT_FOREVER};
use eventually::PATIENCE;
use redis_server::RedisServer;

fn lock(locker: &Locker, name: &str) -> Lock {
    locker.lock(name, "billing").unwrap_or_else(|error| panic!("{error}"))
}

/// The line of the documentation that gives a user the least rights, in words.
fn least() -> Vec<String> {
    let page = include_str!("../docs/deployments.md");
    let line = page.lines().find(|line| line.starts_with("ACL SETUSER billing ")).expect("the line to paste");
    line.split(' ').map(str::to_owned).collect()
}

fn url(server: &RedisServer) -> String {
    format!("redis://billing:password@127.0.0.1:{}", server.port())
}

/// The line with some words removed, or others added.
fn user(server: &RedisServer, without: &str, and: &[&str]) {
    let line = least();
    assert!(without.is_empty() || line.iter().any(|word| word == without), "{without} is not in the line");
    let mut words: Vec<&str> = line.iter().map(String::as_str).filter(|word| *word != without).collect();
    words.splice(3..3, ["reset"]);
    words.extend(and);
    let _: () = server.cmd(&words);
}

/// All the servers of the conformance tests.
fn servers() -> Vec<PathBuf> {
    let named = std::env::var("DLOCK_TEST_SERVERS").unwrap_or_default();
    let further = named.split(':').filter(|path| !path.is_empty()).map(PathBuf::from);
    std::iter::once(RedisServer::default_program()).chain(further).collect()
}

fn on_each_server(check: impl Fn(&RedisServer) + Sync) {
    std::thread::scope(|scope| {
        for program in servers() {
            let check = &check;
            scope.spawn(move || check(&RedisServer::start_program(&program, &[])));
        }
    });
}

/// Every operation, each way that it can go.
fn everything(url: &str) {
    let (here, there) = (locker(url), locker(url));
    let (one, two, three) = (lock(&here, "n"), lock(&there, "n"), lock(&here, "n"));
    let queue = here.queue().unwrap();
    one.watch(&queue, 1).unwrap();
    for (first, second) in [(&one, &two), (&one, &three)] {
        assert!(first.try_acquire().unwrap() && !second.try_acquire().unwrap());
        assert!(first.is_locked().unwrap() && first.is_locked_by_me().unwrap());
        assert_eq!(second.owner().unwrap(), Some(first.id().unwrap()));
        assert_eq!(second.release().unwrap_err().status, Status::NotOwner);
        first.extend(60_000).unwrap();
        assert_eq!(second.acquire_timeout(120).unwrap_err().status, Status::LockTimeout);
        assert_eq!(second.acquire_retry_backoff(2, 1).unwrap_err().status, Status::LockTimeout);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| second.acquire());
            std::thread::sleep(Duration::from_millis(150));
            let begun = Instant::now();
            first.release().unwrap();
            waiter.join().unwrap().unwrap();
            assert!(begun.elapsed() < Duration::from_secs(2), "handed over");
            // Confirmed by a renewal.
            std::thread::sleep(Duration::from_millis(400));
            second.release().unwrap();
            assert_eq!(second.release().unwrap_err().status, Status::UnlockUnlocked);
        });
    }
    one.acquire().unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| two.acquire());
        std::thread::sleep(Duration::from_millis(150));
        two.cancel().unwrap();
        assert_eq!(waiter.join().unwrap().unwrap_err().status, Status::Cancelled);
    });
    queue.submit_acquire(&three, WAIT_FOREVER, 7).unwrap();
    one.release().unwrap();
    assert_eq!(queue.wait(1, 20_000).unwrap()[0].user_data, 7);
    three.release().unwrap();
    assert_eq!(here.warnings().unwrap(), Vec::<String>::new());
    one.acquire().unwrap();
    here.close().unwrap();
}

#[test]
fn the_least_rights_are_enough_for_everything_on_every_server() {
    on_each_server(|server| {
        println!("{}", server.version());
        user(server, "", &[]);
        everything(&url(server));
        let denied: Vec<redis::Value> = server.cmd(&["ACL", "LOG"]);
        assert!(denied.is_empty(), "{}: {denied:?}", server.version());
        user(server, "", &["+select"]);
        everything(&format!("{}/3", url(server)));
        assert!(server.keys().is_empty());
    });
}

/// What is said about a right that is missing: by an error, or as a warning by a locker that works all the same.
fn said(url: &str) -> (Vec<String>, Vec<String>) {
    let mut options = options(url);
    options.set_response_timeout_ms(1_000).unwrap();
    let locker = Locker::new(&options).unwrap();
    let errors = match locker.lock("n", "billing") {
        Err(error) => vec![error.message],
        Ok(lock) => {
            let taken = lock.acquire_timeout(300);
            let released = if taken.is_ok() { lock.release() } else { Ok(()) };
            [taken, released].into_iter().filter_map(|result| result.err()).map(|error| error.message).collect()
        }
    };
    (errors, locker.warnings().unwrap())
}

#[test]
fn each_right_that_is_missing_is_named_on_every_server() {
    on_each_server(|server| {
        let commands: Vec<String> = least().into_iter().filter(|word| word.starts_with('+')).collect();
        assert!(commands.len() > 20);
        for word in commands {
            user(server, &word, &[]);
            let name = word[1..].to_ascii_uppercase().replace('|', " ");
            let (errors, warnings) = said(&url(server));
            let named = |texts: &[String]| {
                let full = |text: &&String| {
                    text.contains(&format!("not run {name}:")) || text.contains(&format!("refuses scripts ({name})"))
                };
                texts.iter().filter(full).count()
            };
            let optional = ["INFO", "PING", "PUBLISH", "SUBSCRIBE", "SCRIPT LOAD", "CLIENT SETNAME"].contains(&&*name);
            let at = server.version();
            if optional {
                assert!(
                    errors.is_empty() && named(&warnings) == 1 && warnings.len() == 1,
                    "{at} {name}: {errors:?} {warnings:?}"
                );
            } else {
                assert!(errors.len() == 1 && named(&errors) == 1, "{at} {name}: {errors:?}");
                assert!(errors[0].starts_with(&format!("127.0.0.1:{}: ", server.port())));
            }
        }
        user(server, "", &[]);
        let (errors, _) = said(&format!("{}/3", url(server)));
        assert!(errors.len() == 1 && errors[0].contains("not run SELECT"), "{errors:?}");
        for (word, key) in [
            ("~billing:*", "\"billing:n\""),
            ("~:dlock:wait:*:billing:*", "}:billing:n\""),
            ("~:dlock:fence*", "the key :dlock:fence"),
        ] {
            user(server, word, &[]);
            let (errors, _) = said(&url(server));
            assert!(!errors.is_empty() && errors.iter().all(|error| error.contains(key)), "{word}: {errors:?}");
            println!("{errors:?}");
            let _: () = server.cmd(&["DEL", "billing:n"]); // what could be taken and not be released
        }
        user(server, "&:dlock:wake:*", &[]);
        let (errors, warnings) = said(&url(server));
        assert!(errors.is_empty(), "{errors:?}");
        let named = warnings.iter().filter(|text| text.contains("may not use the channels :dlock:wake:* with")).count();
        assert_eq!((named, warnings.len()), (2, 2), "{warnings:?}");
        // Tighter patterns for the counter do as well.
        user(server, "~:dlock:fence*", &["~:dlock:fence", "~:dlock:fence:life"]);
        assert_eq!(said(&url(server)), (vec![], vec![]));
    });
}

#[test]
fn a_subscription_that_is_refused_names_what_is_missing() {
    let server = RedisServer::start(&[]);
    let config = Config {
        username: Some("billing".into()),
        password: Some("password".into()),
        ..Config::new(Address::Tcp { host: "127.0.0.1".into(), port: server.port() })
    };
    for (without, words) in [
        ("+subscribe", "may not run SUBSCRIBE"),
        ("+publish", "may not run PUBLISH"),
        ("&:dlock:wake:*", "may not use the channels :dlock:wake:*"),
    ] {
        user(&server, without, &[]);
        let Err(error) = RedisStore::new(config.clone()).subscribe(":dlock:wake:x", Arc::new(|| ())) else { panic!() };
        assert!(error.0.contains("refuses messages") && error.0.contains(words), "{error}");
    }
}

#[test]
fn a_right_taken_away_later_is_told_and_then_named() {
    let server = RedisServer::start(&[]);
    user(&server, "", &[]);
    let locker = locker(&url(&server));
    let held = lock(&locker, "n");
    held.acquire().unwrap();
    let _: () = server.cmd(&["ACL", "SETUSER", "billing", "-exists"]);
    let error = held.release().unwrap_err();
    assert!(error.status == Status::Locker && error.message.contains("a new connection says which command"), "{error}");
    let (errors, _) = said(&url(&server));
    assert!(errors[0].contains("the user may not run EXISTS"), "{errors:?}");
}

#[test]
fn the_clients_name_is_seen_on_each_connection_also_over_a_unix_socket() {
    let server = RedisServer::start(&["--unixsocketperm", "700"]);
    user(&server, "", &[]);
    let unix =
        format!("redis+unix://{}?user=billing&pass=password&client_name=a-waiter", server.socket_path().display());
    let names = |name: &str, kind: &str| {
        let clients: String = server.cmd(&["CLIENT", "LIST", "TYPE", kind]);
        clients.lines().filter(|line| line.contains(&format!(" name={name} "))).count()
    };
    for (url, name) in [(&unix, "a-waiter"), (&format!("{}?client_name=%22b:c%22", url(&server)), "\"b:c\"")] {
        let (here, there) = (locker(url), locker(&unix));
        let (one, two) = (lock(&there, "n"), lock(&here, "n"));
        one.acquire().unwrap();
        assert_eq!(two.acquire_timeout(200).unwrap_err().status, Status::LockTimeout);
        assert!(names(name, "normal") >= 1 && names(name, "pubsub") == 1);
        one.release().unwrap();
    }
}

#[test]
fn a_policy_that_evicts_is_warned_of() {
    let server = RedisServer::start(&[]);
    let url = format!("redis://127.0.0.1:{}", server.port());
    assert_eq!(said(&url), (vec![], vec![]));
    for (limit, policy, warned) in [
        ("100mb", "allkeys-lru", true),
        ("100mb", "volatile-ttl", true),
        ("0", "allkeys-lru", false),
        ("100mb", "noeviction", false),
    ] {
        let _: () = server.cmd(&["CONFIG", "SET", "maxmemory", limit]);
        let _: () = server.cmd(&["CONFIG", "SET", "maxmemory-policy", policy]);
        let (errors, warnings) = said(&url);
        assert!(errors.is_empty() && warnings.len() == usize::from(warned), "{policy}: {warnings:?}");
        assert!(warnings.iter().all(|warning| warning.contains(policy)));
    }
    let memory = locker("memory://");
    assert!(memory.warnings().unwrap().is_empty());
}

/// A proxy that drops what said nothing for `idle`, and counts how often it did.
fn impatient(server: u16, idle: Duration) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, dropped) = (listener.local_addr().unwrap().port(), Arc::<AtomicUsize>::default());
    let count = Arc::clone(&dropped);
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, count) = (client.unwrap(), Arc::clone(&count));
            let server = std::net::TcpStream::connect(("127.0.0.1", server)).unwrap();
            let (mut back, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut back, &mut to));
            std::thread::spawn(move || {
                let (mut from, mut to, mut buffer) = (client, server, [0; 4096]);
                from.set_read_timeout(Some(idle)).unwrap();
                loop {
                    match from.read(&mut buffer) {
                        Ok(0) => break,
                        Ok(some) => to.write_all(&buffer[..some]).unwrap(),
                        Err(_) => {
                            count.fetch_add(1, Ordering::SeqCst);
                            break;
                        }
                    }
                }
                let _ = (from.shutdown(std::net::Shutdown::Both), to.shutdown(std::net::Shutdown::Both));
            });
        }
    });
    (port, dropped)
}

#[test]
fn pings_keep_unused_connections_open_and_without_them_they_are_replaced() {
    let server = RedisServer::start(&[]);
    for (keepalive, is_kept) in [("400", true), ("0", false)] {
        let (port, dropped) = impatient(server.port(), Duration::from_millis(1_000));
        let locker = locker(&format!("redis://127.0.0.1:{port}?keepalive_ms={keepalive}"));
        let (one, two) = (lock(&locker, "n"), lock(&locker, "n"));
        one.acquire().unwrap();
        // Opens the subscription, too.
        assert_eq!(two.acquire_timeout(100).unwrap_err().status, Status::LockTimeout);
        std::thread::sleep(Duration::from_millis(2_500));
        assert_eq!(dropped.load(Ordering::SeqCst) == 0, is_kept);
        one.release().unwrap();
        two.acquire().unwrap();
        two.release().unwrap();
    }
}

#[test]
fn a_connection_that_died_in_silence_is_found_by_the_ping_before_a_lock_needs_it() {
    let server = RedisServer::start(&[]);
    let proxy = proxy::Proxy::start(server.port());
    let mut options = options(&format!("redis://127.0.0.1:{}?keepalive_ms=200", proxy.port()));
    options.set_response_timeout_ms(300).unwrap();
    let locker = Locker::new(&options).unwrap();
    let lock = lock(&locker, "n");
    lock.acquire().unwrap();
    lock.release().unwrap();
    let connections = || {
        let info: String = server.cmd(&["INFO", "stats"]);
        let line = info.lines().find_map(|line| line.strip_prefix("total_connections_received:")).unwrap().to_owned();
        line.parse::<u64>().unwrap()
    };
    proxy.set_silent(proxy::Direction::Replies, true);
    std::thread::sleep(Duration::from_millis(1_000));
    proxy.set_silent(proxy::Direction::Replies, false);
    let before = connections();
    std::thread::sleep(Duration::from_millis(1_500));
    let begun = Instant::now();
    lock.acquire().unwrap();
    assert!(begun.elapsed() < Duration::from_millis(250), "{:?}: the dead connection was used", begun.elapsed());
    lock.release().unwrap();
    assert!(connections() > before);
}

/// A server that answers whatever it is told with this, in which `@` stands for what it was told last.
fn parrot(says: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut buffer) = (client.unwrap(), [0; 64 * 1024]);
            std::thread::spawn(move || {
                while let Ok(count @ 1..) = client.read(&mut buffer) {
                    let told = String::from_utf8_lossy(&buffer[..count]).replace("\r\n", " ");
                    let _ = client.write_all(says.replace('@', &told).as_bytes());
                }
            });
        }
    });
    port
}

#[test]
fn no_error_shows_the_password_whatever_the_server_repeats() {
    let begun = Instant::now();
    let server = RedisServer::start(&[]);
    let renamed = RedisServer::start(&["--rename-command", "AUTH", ""]);
    let parrots =
        ["-ERR unknown command: @\r\n", "@\r\n", "+@\r\n", "-@\r\n", "you said @\r\n", "-WRONGPASS @\r\n"].map(parrot);
    let ports: Vec<u16> = parrots.into_iter().chain([server.port(), renamed.port()]).collect();
    let mut refused = 0;
    for round in 0..12_u64 {
        let random = uuid::Uuid::new_v4().simple().to_string();
        let password = match round % 3 {
            0 => random[..9].to_owned(),
            1 => format!("{}'\"{} {}", &random[..9], &random[9..20], random),
            _ => random.repeat(8), // longer than a message
        };
        let encoded: String = password.bytes().map(|b| format!("%{b:02X}")).collect();
        for (&port, user) in ports.iter().flat_map(|port| [(port, ""), (port, "somebody")]) {
            let mut options = options(&format!("redis://{user}:{encoded}@127.0.0.1:{port}"));
            options.set_response_timeout_ms(150).unwrap();
            let locker = Locker::new(&options).unwrap();
            let error = locker.lock("n", "billing").err().unwrap_or_else(|| panic!("{port}: connected"));
            let shown = [error.message.clone(), format!("{options:?}"), locker.warnings().unwrap().join(" ")].join(" ");
            assert!(!shown.contains(&password[..9]), "{password}: {shown}");
            refused += 1;
        }
    }
    println!("{refused} refusals in {:?}", begun.elapsed());
    assert!(begun.elapsed() < 6 * PATIENCE);
}

/// Where all servers are replaced by one that accepts and says nothing: is a locker freed that connects to it?
#[track_caller]
fn is_freed_while_it_connects(scheme: &str, mut servers: Vec<RedisServer>) {
    let hosts: Vec<String> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port())).collect();
    let mut options = options(&format!("{scheme}://{}", hosts.join(",")));
    options.set_lease_ms(200).unwrap();
    options.set_connect_timeout_ms(20_000).unwrap();
    options.set_response_timeout_ms(20_000).unwrap();
    let locker = Locker::new(&options).unwrap();
    let one = lock(&locker, "n");
    one.acquire().unwrap();
    one.release().unwrap();
    let replace = |server: &mut RedisServer| {
        server.kill();
        TcpListener::bind(("127.0.0.1", server.port())).expect("its port is free")
    };
    let silent: Vec<TcpListener> = servers.iter_mut().map(replace).collect();
    one.acquire_timeout(300).expect_err("nobody is there to give it");
    let begun = Instant::now();
    drop((one, locker));
    assert!(begun.elapsed() < Duration::from_secs(5), "{scheme}: freed after {:?}", begun.elapsed());
    drop(silent);
}

#[test]
fn a_locker_is_freed_while_it_connects_to_servers_that_say_nothing() {
    is_freed_while_it_connects("redis", vec![RedisServer::start(&[])]);
    is_freed_while_it_connects("redis-quorum", (0..3).map(|_| RedisServer::start(&[])).collect());
    let node = RedisServer::start(&["--cluster-enabled", "yes"]);
    let slots: Vec<String> = (0..16_384).map(|slot| slot.to_string()).collect();
    let _: () =
        node.cmd(&[&["CLUSTER", "ADDSLOTS"], &slots.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat());
    is_freed_while_it_connects("redis-cluster", vec![node]);
}
