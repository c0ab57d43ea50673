//! A service as it is run: a primary, two replicas and three sentinels, each a process on a port of its own; gone with the
//! value. Everything is waited for by asking those who know, within bounds.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::eventually::{PATIENCE, eventually};
use crate::pki::Pki;
use crate::redis_server::{RedisServer, free_port};

pub const SERVICE: &str = "mymaster";
/// When the sentinels take a server for dead.
pub const DOWN_AFTER_MS: u64 = 500;

fn signal(pid: u32, signal: i32) {
    // SAFETY: a child of ours that was not yet waited for.
    assert_eq!(unsafe { libc::kill(pid as i32, signal) }, 0);
}

/// A process that can be stopped, continued and killed.
pub trait Victim {
    fn pid(&self) -> u32;
    fn stop(&self) {
        signal(self.pid(), libc::SIGSTOP);
    }
    fn go_on(&self) {
        signal(self.pid(), libc::SIGCONT);
    }
    fn kill(&self) {
        signal(self.pid(), libc::SIGKILL);
    }
}

impl Victim for RedisServer {
    fn pid(&self) -> u32 {
        RedisServer::pid(self)
    }
}

/// How the sentinels are set up.
#[derive(Default)]
pub struct Ways {
    pub program: Option<PathBuf>,
    /// The password for the sentinels.
    pub sentinel_password: Option<&'static str>,
    /// The password for the servers.
    pub password: Option<&'static str>,
    /// TLS everywhere; the sentinels have no port without.
    pub tls: Option<Pki>,
    /// The sentinels talk as often as they do by default; else more often, so that tests take less time.
    pub unhurried: bool,
}

pub struct Sentinel {
    child: Child,
    directory: PathBuf,
    pub port: u16,
    /// Without TLS, for the test itself.
    back_door: u16,
    password: Option<&'static str>,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Sentinel {
    fn start(program: &Path, primary: u16, ways: &Ways) -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("dlock-sentinel-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory for a sentinel");
        let (port, back_door) = (free_port(), free_port());
        let mut text = format!(
            "bind 127.0.0.1\ndir {}\nsentinel monitor {SERVICE} 127.0.0.1 {primary} 2\n\
             sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}\nsentinel failover-timeout {SERVICE} 1000\n\
             sentinel parallel-syncs {SERVICE} 2\n",
            directory.display()
        );
        if let Some(password) = ways.sentinel_password {
            text += &format!("requirepass {password}\nsentinel sentinel-pass {password}\n");
        }
        if let Some(password) = ways.password {
            text += &format!("sentinel auth-pass {SERVICE} {password}\n");
        }
        let back_door = if let Some(pki) = &ways.tls {
            text += &format!("port {back_door}\ntls-port {port}\n{}", tls_lines(pki, "", "\n"));
            back_door
        } else {
            text += &format!("port {port}\n");
            port
        };
        let file = directory.join("sentinel.conf");
        std::fs::write(&file, text).expect("a sentinel's configuration");
        let child = Command::new(program)
            .args([file.to_str().unwrap(), "--sentinel"])
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(directory.join("log")).expect("a log"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        Sentinel { child, directory, port, back_door, password: ways.sentinel_password }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let secret = self.password.map(|password| format!(":{password}@")).unwrap_or_default();
        let client = redis::Client::open(format!("redis://{secret}127.0.0.1:{}", self.back_door))?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(2))?;
        connection.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut command = redis::cmd(words[0]);
        words[1..].iter().for_each(|word| _ = command.arg(*word));
        command.query(&mut connection)
    }

    /// Does it know the primary, both replicas and both other sentinels?
    fn is_complete(&self) -> bool {
        let fields: redis::RedisResult<HashMap<String, String>> = self.ask(&["SENTINEL", "MASTER", SERVICE]);
        fields.is_ok_and(|fields| {
            let is = |name: &str, value: &str| fields.get(name).is_some_and(|text| text == value);
            is("flags", "master") && is("num-slaves", "2") && is("num-other-sentinels", "2")
        })
    }

    /// Do both others say themselves that they are replicas, as far as it knows?
    fn sees_replicas(&self) -> bool {
        let answer: redis::RedisResult<Vec<HashMap<String, String>>> = self.ask(&["SENTINEL", "REPLICAS", SERVICE]);
        let is_replica = |one: &HashMap<String, String>| one.get("role-reported").is_some_and(|role| role == "slave");
        answer.is_ok_and(|all| all.len() == 2 && all.iter().all(is_replica))
    }

    /// The port of the primary that it names.
    pub fn names(&self) -> u16 {
        let (_, port): (String, u16) = self.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE]).expect("an answer");
        port
    }

    /// What it wrote about what it did, for a test that failed.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Victim for Sentinel {
    fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn replication_id(info: &str) -> String {
    let line = info.lines().find_map(|line| line.strip_prefix("master_replid:"));
    line.expect("a replication id").trim().to_owned()
}

/// The settings of TLS as lines of a file or as arguments.
fn tls_lines(pki: &Pki, before: &str, behind: &str) -> String {
    [
        ("tls-cert-file", pki.path("server.pem")),
        ("tls-key-file", pki.path("server.key")),
        ("tls-ca-cert-file", pki.path("ca.pem")),
        ("tls-auth-clients", "no".to_owned()),
        ("tls-replication", "yes".to_owned()),
    ]
    .map(|(name, value)| format!("{before}{name} {value}{behind}"))
    .concat()
}

pub struct Deployment {
    pub servers: Vec<RedisServer>,
    pub sentinels: Vec<Sentinel>,
    /// Where the servers listen for the library and the sentinels.
    pub ports: Vec<u16>,
    ways: Ways,
}

impl Deployment {
    pub fn new() -> Self {
        Self::with(Ways::default())
    }

    pub fn with(ways: Ways) -> Self {
        let program = ways.program.clone().unwrap_or_else(RedisServer::default_program);
        let (mut servers, mut ports) = (Vec::new(), Vec::<u16>::new());
        for number in 0..3 {
            let tls_port = free_port();
            let mut arguments = vec!["--repl-ping-replica-period".to_owned(), "1".to_owned()];
            if let Some(pki) = &ways.tls {
                let all = format!("--tls-port {tls_port} {}", tls_lines(pki, "--", " "));
                arguments.extend(all.split_whitespace().map(str::to_owned));
            }
            if let Some(password) = ways.password {
                arguments.extend(["--requirepass", password, "--masterauth", password].map(str::to_owned));
            }
            if number > 0 {
                arguments.extend(["--replicaof".to_owned(), "127.0.0.1".to_owned(), ports[0].to_string()]);
            }
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let server = RedisServer::start_program(&program, &arguments);
            ports.push(if ways.tls.is_some() { tls_port } else { server.port() });
            servers.push(server);
        }
        let sentinels = (0..3).map(|_| Sentinel::start(&program, ports[0], &ways)).collect();
        let this = Deployment { servers, sentinels, ports, ways };
        this.settle();
        this
    }

    /// Waits until everybody knows everybody and nothing is left to be copied.
    fn settle(&self) {
        for sentinel in &self.sentinels {
            eventually("a sentinel answers", || sentinel.ask::<String>(&["PING"]).is_ok());
            if !self.ways.unhurried {
                // Known from 7.0 on; before, everything takes somewhat longer. What they publish must come more often than
                // they take a replica that calls itself a primary for misled: after four periods. What a replica said is
                // good for five periods of pings, and asked for once a second while the primary is down.
                let quick = ["INFO-PERIOD", "300", "PUBLISH-PERIOD", "500", "PING-PERIOD", "400", "ASK-PERIOD", "50"];
                let words: Vec<&str> = ["SENTINEL", "DEBUG"].into_iter().chain(quick).collect();
                let _ = sentinel.ask::<String>(&words);
            }
        }
        for replica in &self.servers[1..] {
            eventually("a replica is connected", || {
                let info: String = replica.cmd(&["INFO", "replication"]);
                info.contains("master_link_status:up")
            });
        }
        let complete = || self.sentinels.iter().all(Sentinel::is_complete);
        let begun = Instant::now();
        while !complete() {
            assert!(begun.elapsed() < PATIENCE, "the sentinels do not find each other:\n{}", self.sentinels[0].log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The URL; `more` are parameters.
    pub fn url(&self, more: &[&str]) -> String {
        let all: Vec<String> = self.sentinels.iter().map(Sentinel::address).collect();
        self.url_of(&all.join(","), SERVICE, more)
    }

    pub fn url_of(&self, sentinels: &str, service: &str, more: &[&str]) -> String {
        let mut parameters: Vec<String> = more.iter().map(|&one| one.to_owned()).collect();
        if let Some(pki) = &self.ways.tls {
            parameters.push(format!("ca={}", pki.path("ca.pem")));
        }
        let scheme = if self.ways.tls.is_some() { "rediss-sentinel" } else { "redis-sentinel" };
        let login = self.ways.password.map(|password| format!(":{password}@")).unwrap_or_default();
        format!("{scheme}://{login}{sentinels}/{service}?{}", parameters.join("&"))
    }

    /// Which server that sentinel names.
    pub fn named_by(&self, sentinel: usize) -> usize {
        let port = self.sentinels[sentinel].names();
        self.ports.iter().position(|&other| other == port).expect("one of the servers")
    }

    /// Waits until every sentinel that is asked names another server than that one, and it says that it is the primary.
    /// Answers which.
    pub fn wait_failed_over(&self, from: usize, sentinels: &[usize]) -> usize {
        let named = || self.named_by(sentinels[0]);
        let begun = Instant::now();
        loop {
            let all: Vec<usize> = sentinels.iter().map(|&sentinel| self.named_by(sentinel)).collect();
            if all.iter().all(|&named| named != from && named == all[0]) && self.role(all[0]) == "master" {
                break;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "no failover:\n{}",
                self.sentinels.iter().map(Sentinel::log).collect::<String>()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        named()
    }

    /// `master`, `slave`, or nothing where it breaks off: one that becomes a replica drops its clients.
    pub fn role(&self, server: usize) -> String {
        let answer: redis::RedisResult<Vec<redis::Value>> = self.servers[server].try_cmd(&["ROLE"]);
        answer.map_or(String::new(), |answer| redis::from_redis_value(answer[0].clone()).expect("a word"))
    }

    /// As an operator does it. Answers which server was the primary and which is now.
    pub fn fail_over(&self) -> (usize, usize) {
        let from = self.begin_fail_over();
        (from, self.wait_failed_over(from, &[0, 1, 2]))
    }

    /// The same, without waiting for the end. Answers which server is the primary that is to be replaced.
    pub fn begin_fail_over(&self) -> usize {
        let from = self.named_by(0);
        // A sentinel that takes a replica for a primary, as it was before the last failover, would undo the promotion.
        eventually("all sentinels see two replicas", || self.sentinels.iter().all(Sentinel::sees_replicas));
        eventually("the sentinel is ready for a failover", || {
            self.sentinels[0].ask::<String>(&["SENTINEL", "FAILOVER", SERVICE]).is_ok()
        });
        from
    }

    /// The replication id of the one primary that has connections of that client; `None`: several servers have some, or none.
    pub fn primary_of(&self, client: &str) -> Option<String> {
        let word = format!(" name={client} ");
        let mut found = None;
        for server in &self.servers {
            let mut both = redis::pipe();
            both.cmd("INFO").arg("replication").cmd("CLIENT").arg("LIST");
            let (info, clients): (String, String) = both.query(&mut server.try_connect().ok()?).ok()?;
            if clients.lines().any(|line| line.contains(&word)) {
                let id = info.contains("role:master").then(|| replication_id(&info))?;
                if found.replace(id).is_some() {
                    return None;
                }
            }
        }
        found
    }

    /// Of that server's life as a primary.
    pub fn replication_id(&self, server: usize) -> String {
        replication_id(&self.servers[server].cmd::<String>(&["INFO", "replication"]))
    }

    /// Waits until the replicas of that primary have all that it has; those that are there.
    pub fn wait_copied(&self, primary: usize, replicas: usize) {
        let begun = Instant::now();
        loop {
            // On one connection: it is the writes of this one that are waited for, if it has written; else all there are.
            let info: String = self.servers[primary].cmd(&["INFO", "replication"]);
            let offset = info.lines().find_map(|line| line.strip_prefix("master_repl_offset:")).unwrap_or_default();
            let there = info.lines().filter(|line| line.starts_with("slave") && line.contains("state=online"));
            let own: u64 = offset.trim().parse().unwrap();
            let copied = there.filter(|line| {
                let at = line.split(',').find_map(|word| word.strip_prefix("offset="));
                at.and_then(|at| at.parse::<u64>().ok()).is_some_and(|at| at >= own)
            });
            if copied.count() >= replicas {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "not copied: {info}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// As if the primary had died before a lock was copied to its replicas: they lose it.
    pub fn lose_on_replicas(&self, primary: usize, key: &str) {
        self.wait_copied(primary, 2);
        for replica in (0..3).filter(|&server| server != primary) {
            let _: String = self.servers[replica].cmd(&["CONFIG", "SET", "replica-read-only", "no"]);
            assert_eq!(self.servers[replica].cmd::<u64>(&["DEL", key]), 1, "the lock is on the replica");
            let _: String = self.servers[replica].cmd(&["CONFIG", "SET", "replica-read-only", "yes"]);
        }
    }
}
