//! `rediss://` on a real server: who is trusted and who is not, what each refusal says, and that nothing is lost or held
//! back where records come in pieces, are cut, or find no room.

#[path = "../support/api.rs"]
mod api;
#[path = "../support/eventually.rs"]
#[allow(dead_code)]
mod eventually;
mod meddler;
#[path = "../support/pki.rs"]
#[allow(dead_code)]
mod pki;
#[path = "../support/redis_server.rs"]
#[allow(dead_code)]
mod redis_server;

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use api::{locker, options};
use dlock::{EventKind, Lock, Locker, Status, WAIT_FOREVER};
use eventually::{PATIENCE, eventually};
use meddler::{Meddler, Ways};
use pki::Pki;
use redis_server::RedisServer;

fn lock(locker: &Locker, name: &str) -> Lock {
    locker.lock(name, "g").unwrap_or_else(|error| panic!("{error}"))
}

/// Why no connection comes about, without the address.
fn refusal(url: &str) -> String {
    let mut options = options(url);
    options.set_connect_timeout_ms(1_000).unwrap();
    options.set_response_timeout_ms(1_000).unwrap();
    let Err(error) = Locker::new(&options).unwrap().lock("n", "g") else { panic!("{url}: connected") };
    assert_eq!(error.status, Status::NotConnected, "{error}");
    let (address, text) = error.message.split_once(": ").unwrap();
    assert!(url.contains(address), "{error}");
    println!("{text}");
    text.to_owned()
}

#[test]
fn the_nodes_of_a_cluster_are_spoken_to_with_tls() {
    let bus = redis_server::free_port().to_string();
    let bench = Bench::with("server", &["--cluster-enabled", "yes", "--tls-cluster", "yes", "--cluster-port", &bus]);
    let slots: Vec<String> = (0..16_384).map(|slot| slot.to_string()).collect();
    let command = ["CLUSTER", "ADDSLOTS"].into_iter().chain(slots.iter().map(String::as_str));
    let _: () = bench.server.cmd(&command.collect::<Vec<_>>());
    eventually("the cluster is up", || bench.server.cmd::<String>(&["CLUSTER", "INFO"]).contains("cluster_state:ok"));
    let url = bench.url().replacen("rediss:", "rediss-cluster:", 1);
    let (own, other) = (locker(&url), locker(&url));
    let (holder, waiter) = (lock(&own, "n"), lock(&other, "n"));
    holder.acquire().unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| waiter.acquire_timeout(20_000));
        eventually("one waits", || bench.server.keys().iter().any(|key| key.starts_with(":dlock:wait:")));
        holder.release().unwrap();
        waiting.join().unwrap().unwrap();
    });
    waiter.release().unwrap();
    let error = locker(&format!("redis-cluster://127.0.0.1:{}", bench.port)).lock("n", "g").err().unwrap();
    assert_eq!(error.status, Status::NotConnected);
}

/// A server with TLS that asks for no client's certificate.
struct Bench {
    pki: Pki,
    server: RedisServer,
    port: u16,
}

impl Bench {
    fn new() -> Self {
        Self::with("server", &[])
    }

    fn with(certificate: &str, more: &[&str]) -> Self {
        let pki = Pki::new();
        let (server, port) = pki.server(certificate, more);
        Bench { pki, server, port }
    }

    fn ca(&self) -> String {
        format!("ca={}", self.pki.path("ca.pem"))
    }

    fn url(&self) -> String {
        self.url_at(self.port)
    }

    fn url_at(&self, port: u16) -> String {
        format!("rediss://127.0.0.1:{port}?{}", self.ca())
    }

    fn client(&self, who: &str) -> String {
        format!("&cert={}&key={}", self.pki.path(&format!("{who}.pem")), self.pki.path(&format!("{who}.key")))
    }
}

/// Everything that a lock can be asked, on this server.
fn a_life(url: &str) {
    let locker = locker(url);
    let (one, two) = (lock(&locker, "life"), lock(&locker, "life"));
    assert!(one.try_acquire().unwrap() && !two.try_acquire().unwrap());
    assert!(one.is_locked().unwrap() && one.is_locked_by_me().unwrap() && !two.is_locked_by_me().unwrap());
    assert_eq!(two.owner().unwrap(), Some(one.id().unwrap()));
    one.extend(60_000).unwrap();
    assert_eq!(two.acquire_timeout(30).unwrap_err().status, Status::LockTimeout);
    assert_eq!(two.acquire_retry_backoff(2, 1).unwrap_err().status, Status::LockTimeout);
    let token = one.fencing_token().unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| two.acquire());
        std::thread::sleep(Duration::from_millis(100));
        one.release().unwrap();
        waiter.join().unwrap().unwrap();
    });
    assert!(two.fencing_token().unwrap() > token);
    two.release().unwrap();
    assert_eq!(two.release().unwrap_err().status, Status::UnlockUnlocked);
}

#[test]
fn a_lock_lives_over_tls_of_either_version_by_address_and_by_name() {
    let b = Bench::with("server", &["--tls-protocols", "TLSv1.2 TLSv1.3"]);
    a_life(&b.url());
    a_life(&format!("rediss://localhost:{}?{}", b.port, b.ca()));
    a_life(&format!("rediss://127.0.0.1:{}/1?{}&server_name=localhost", b.port, b.ca()));
    assert!(b.server.keys().is_empty());
    let old = Bench::with("server", &["--tls-protocols", "TLSv1.2"]);
    a_life(&old.url());
}

#[test]
fn a_server_that_is_not_trusted_is_refused_and_the_reason_named() {
    let b = Bench::new();
    let other = format!("rediss://127.0.0.1:{}?ca={}", b.port, b.pki.path("other-ca.pem"));
    assert!(refusal(&other).contains("no CA that is trusted here has signed"));
    let platform = refusal(&format!("rediss://127.0.0.1:{}", b.port));
    assert!(platform.contains("no CA that is trusted here") || platform.contains("no CA certificates"), "{platform}");
    let named = refusal(&format!("{}&server_name=redis.example", b.url()));
    assert!(named.contains("not for \"redis.example\"") && named.contains("localhost"), "{named}");
    assert!(refusal(&Bench::with("expired", &[]).url()).contains("certificate has expired"));
    assert!(refusal(&Bench::with("future", &[]).url()).contains("not valid yet"));
    assert!(refusal(&Bench::with("stranger", &[]).url()).contains("no CA that is trusted here"));
}

#[test]
fn a_clients_certificate_is_shown_where_the_server_wants_one() {
    let b = Bench::with("server", &["--tls-auth-clients", "yes"]);
    a_life(&(b.url() + &b.client("client")));
    assert!(refusal(&b.url()).contains("wants a client's certificate"));
    assert!(refusal(&(b.url() + &b.client("stranger"))).contains("refuses the client's certificate"));
    let old = Bench::with("server", &["--tls-auth-clients", "yes", "--tls-protocols", "TLSv1.2"]);
    a_life(&(old.url() + &old.client("client")));
    assert!(refusal(&old.url()).contains("client's certificate"));
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let b = Bench::new();
    b.pki.write("junk", "no PEM");
    let (junk, absent) = (b.pki.path("junk"), "/no/such/file".to_owned());
    let with = |cert: &str, key: &str| format!("{}&cert={cert}&key={key}", b.url());
    let (cert, key) = (b.pki.path("client.pem"), b.pki.path("client.key"));
    for (url, words) in [
        (format!("rediss://127.0.0.1:{}?ca={absent}", b.port), ["ca: /no/such/file", "No such file"]),
        (format!("rediss://127.0.0.1:{}?ca={junk}", b.port), ["ca: ", "junk: no certificate"]),
        (format!("rediss://127.0.0.1:{}?ca={key}", b.port), ["ca: ", "client.key: no certificate"]),
        (with(&absent, &key), ["cert: /no/such/file", "No such file"]),
        (with(&cert, &absent), ["key: /no/such/file", "No such file"]),
        (with(&cert, &junk), ["key: ", "junk: no private key"]),
        (with(&cert, &b.pki.path("stranger.key")), ["cert: ", "key: "]),
    ] {
        let text = refusal(&url);
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
    // They are read for each connection: what is put there meanwhile is used.
    let late = b.pki.path("late.pem");
    let locker = locker(&format!("rediss://127.0.0.1:{}?ca={late}", b.port));
    assert!(locker.lock("n", "g").is_err());
    std::fs::copy(b.pki.path("ca.pem"), late).unwrap();
    locker.lock("n", "g").unwrap();
}

#[test]
fn tls_and_no_tls_are_told_apart() {
    let b = Bench::new();
    let plain = refusal(&b.url_at(b.server.port()));
    assert!(plain.contains("speak TLS"), "{plain}");
    let garbage = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = garbage.local_addr().unwrap().port();
    let peer = std::thread::spawn(move || garbage.accept().unwrap().0.write_all(b"-ERR no TLS here\r\n").unwrap());
    assert!(refusal(&b.url_at(port)).contains("does not speak TLS"));
    peer.join().unwrap();
    let secured = refusal(&format!("redis://127.0.0.1:{}", b.port));
    assert!(secured.contains("TLS"), "{secured}");
}

#[test]
fn a_handshake_that_stands_still_ends_with_the_connect_timeout() {
    let b = Bench::new();
    for silent in [0, 100, 700] {
        let meddler = Meddler::start(b.port, Ways { silent: Some(silent), ..Ways::default() });
        let mut options = options(&b.url_at(meddler.port));
        options.set_connect_timeout_ms(300).unwrap();
        let begun = Instant::now();
        let Err(error) = Locker::new(&options).unwrap().lock("n", "g") else { panic!("connected") };
        assert!(error.message.contains("no TLS handshake within 300 ms"), "{error}");
        assert!((300..1_500).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    }
}

/// How many bytes the server says until a lock was taken and given back.
fn bytes_of_a_life(b: &Bench) -> usize {
    let meddler = Meddler::start(b.port, Ways::default());
    let locker = locker(&b.url_at(meddler.port));
    let lock = lock(&locker, "cut");
    lock.acquire().unwrap();
    lock.release().unwrap();
    meddler.heard.load(Ordering::SeqCst)
}

#[test]
fn a_connection_cut_at_any_byte_of_the_handshake_or_of_a_record_loses_nothing() {
    let b = Bench::new();
    let bytes = bytes_of_a_life(&b);
    let next = AtomicU64::new(0);
    let refused = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    // Each byte where a step of the lock is answered; some of those of the handshake, which are many.
                    let cut = next.fetch_add(1, Ordering::Relaxed) as usize;
                    let cut = if cut < 100 { cut * (bytes - 400) / 100 } else { bytes - 400 + cut - 100 };
                    if cut > bytes + 10 {
                        return;
                    }
                    let meddler = Meddler::start(b.port, Ways { cut: Some(cut), ..Ways::default() });
                    let locker = locker(&b.url_at(meddler.port));
                    match locker.lock(&format!("cut at {cut}"), "g") {
                        Ok(lock) => {
                            lock.acquire().unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
                            lock.release().unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
                        }
                        Err(error) => {
                            refused.fetch_add(1, Ordering::Relaxed);
                            assert_eq!(error.status, Status::NotConnected, "cut at {cut}: {error}");
                            assert!(error.message.starts_with("127.0.0.1:"), "{error}");
                        }
                    }
                }
            });
        }
    });
    assert!(refused.load(Ordering::Relaxed) > 50);
    assert!(b.server.keys().is_empty(), "{:?}", b.server.keys());
}

#[test]
fn records_in_pieces_are_put_together() {
    let b = Bench::new();
    for piece in [1, 7] {
        let meddler = Meddler::start(b.port, Ways { piece: Some(piece), ..Ways::default() });
        a_life(&b.url_at(meddler.port));
    }
}

/// Submits that many acquisitions of one lock each, and collects them; then the releases.
fn a_queue_of(locker: &Locker, count: usize) {
    let queue = locker.queue().unwrap();
    let locks: Vec<Lock> = (0..count).map(|i| lock(locker, &format!("queue {i}"))).collect();
    let collect = |kind| {
        let (mut seen, deadline) = (vec![false; count], Instant::now() + PATIENCE);
        while seen.iter().any(|seen| !seen) {
            assert!(Instant::now() < deadline, "{} of {count}", seen.iter().filter(|seen| **seen).count());
            for event in queue.wait(1_000, 1_000).unwrap() {
                assert!(event.kind == kind && event.error.is_none(), "{event:?}");
                assert!(!std::mem::replace(&mut seen[event.user_data as usize], true));
            }
        }
    };
    for (i, lock) in locks.iter().enumerate() {
        queue.submit_acquire(lock, WAIT_FOREVER, i as u64).unwrap();
    }
    collect(EventKind::Acquire);
    for (i, lock) in locks.iter().enumerate() {
        queue.submit_release(lock, i as u64).unwrap();
    }
    collect(EventKind::Release);
}

#[test]
fn submitted_operations_are_answered_also_where_the_socket_has_no_room() {
    let b = Bench::new();
    a_queue_of(&locker(&b.url()), 3_000);
    let late = Some(Duration::from_millis(20));
    let meddler = Meddler::start(b.port, Ways { late, ..Ways::default() });
    a_queue_of(&locker(&b.url_at(meddler.port)), 3_000);
    assert!(b.server.keys().is_empty());
}

#[test]
fn many_threads_share_the_connections_and_hand_locks_on() {
    let b = Bench::new();
    let lockers = [locker(&b.url()), locker(&b.url())];
    let (inside, done) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for i in 0..48 {
            let (lockers, inside, done) = (&lockers, &inside, &done);
            scope.spawn(move || {
                let (own, shared) = (lock(&lockers[i % 2], &format!("own {i}")), lock(&lockers[i % 2], "shared"));
                for _ in 0..20 {
                    own.acquire().unwrap();
                    own.release().unwrap();
                }
                for _ in 0..5 {
                    shared.acquire().unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two holders");
                    inside.fetch_sub(1, Ordering::SeqCst);
                    shared.release().unwrap();
                    done.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    assert_eq!(done.load(Ordering::SeqCst), 48 * 5);
    let clients: String = b.server.cmd(&["CLIENT", "LIST"]);
    let ours = clients.lines().filter(|line| line.contains("name=dlock ")).count();
    assert!((2..=10).contains(&ours), "{ours} connections of two lockers");
}

#[test]
fn a_forked_child_says_nothing_on_the_parents_connections() {
    let b = Bench::new();
    let meddler = Meddler::start(b.port, Ways::default());
    let locker = locker(&b.url_at(meddler.port));
    let lock = lock(&locker, "forked");
    lock.acquire().unwrap();
    let said = |meddler: &Meddler| meddler.said.lock().unwrap().iter().map(Vec::len).sum::<usize>();
    let before = said(&meddler);
    // SAFETY: the child frees what it has copies of, which takes no mutex, and ends.
    let child = unsafe {
        match libc::fork() {
            0 => {
                drop((lock, locker));
                libc::_exit(0)
            }
            child => child,
        }
    };
    let mut status = -1;
    // SAFETY: `status` is a place for the child's status.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!((status, said(&meddler)), (0, before));
    assert!(lock.is_locked_by_me().unwrap(), "the parent's session goes on");
    lock.release().unwrap();
    let clients: String = b.server.cmd(&["INFO", "stats"]);
    assert!(clients.contains("total_connections_received:"), "{clients}");
}

/// The kind of the last record, of those that the bytes consist of.
fn last_record(mut bytes: &[u8]) -> Option<u8> {
    let mut kind = None;
    while let [first, _, _, high, low, rest @ ..] = bytes {
        kind = Some(*first);
        bytes = rest.get(usize::from(*high) << 8 | usize::from(*low)..)?;
    }
    kind
}

#[test]
fn the_end_is_announced_to_the_server() {
    // In TLS 1.2 an alert can be told from data by one who listens.
    let b = Bench::with("server", &["--tls-protocols", "TLSv1.2"]);
    let meddler = Meddler::start(b.port, Ways::default());
    let locker = locker(&b.url_at(meddler.port));
    drop(lock(&locker, "n"));
    drop(locker);
    eventually("an alert", || last_record(&meddler.said.lock().unwrap()[0]) == Some(21));
}

#[test]
fn a_locker_reconnects_over_tls_after_the_server_ended_its_connections() {
    let b = Bench::new();
    let locker = locker(&b.url());
    let lock = lock(&locker, "n");
    for _ in 0..3 {
        lock.acquire().unwrap();
        let _: i64 = b.server.cmd(&["CLIENT", "KILL", "TYPE", "normal"]);
        lock.release().unwrap();
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_lock_lives_on_a_quorum_over_tls() {
    let pki = Pki::new();
    let servers: Vec<(RedisServer, u16)> = (0..3).map(|_| pki.server("server", &[])).collect();
    let hosts: Vec<String> = servers.iter().map(|(_, port)| format!("127.0.0.1:{port}")).collect();
    let url = |scheme: &str| format!("{scheme}://{}?ca={}", hosts.join(","), pki.path("ca.pem"));
    let locker = |lease_ms| {
        let mut options = options(&url("rediss-quorum"));
        options.set_lease_ms(lease_ms).unwrap();
        Locker::new(&options).unwrap()
    };
    let lockers = [locker(300), locker(300)];
    let (one, two) = (lock(&lockers[0], "life"), lock(&lockers[1], "life"));
    for _ in 0..20 {
        one.acquire().unwrap();
        assert!(!two.try_acquire().unwrap());
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| two.acquire());
            one.release().unwrap();
            waiter.join().unwrap().unwrap();
        });
        two.release().unwrap();
    }
}
