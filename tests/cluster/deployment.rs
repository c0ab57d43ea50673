//! A cluster of one's own: servers on free ports, joined and given their slots, stopped when dropped.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use dlock::store::redis::slot::{SLOTS, slot};

use crate::eventually::{eventually, within};
use crate::redis_server::RedisServer;

/// After so long without an answer a node is taken for dead.
pub const NODE_TIMEOUT_MS: u64 = 1_500;

/// Says that it is over when it goes out of scope, also by a panic, so that nobody is waited for in vain.
pub struct Ends<'a>(pub &'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Primaries first, then the replicas of each, in the same order.
pub struct Cluster {
    pub servers: Vec<RedisServer>,
    primaries: usize,
    /// Those that were killed or stand still.
    down: Mutex<Vec<usize>>,
}

static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());

impl Cluster {
    /// Three primaries that the tests running at the same time share; nobody may break it.
    pub fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let cluster = Arc::new(Self::start(3, 0, &[]));
            *shared = Arc::downgrade(&cluster);
            cluster
        })
    }

    pub fn start(primaries: usize, replicas: usize, more: &[&str]) -> Self {
        Self::start_program(&RedisServer::default_program(), primaries, replicas, more)
    }

    pub fn start_program(program: &Path, primaries: usize, replicas: usize, more: &[&str]) -> Self {
        let timeout = NODE_TIMEOUT_MS.to_string();
        let mut arguments = vec!["--cluster-enabled", "yes", "--cluster-node-timeout", &timeout];
        arguments.extend(["--cluster-replica-validity-factor", "0"]);
        arguments.extend(more);
        let start = |_| RedisServer::start_program(program, &arguments);
        let servers: Vec<RedisServer> = (0..primaries * (1 + replicas)).map(start).collect();
        let cluster = Cluster { servers, primaries, down: Mutex::default() };
        cluster.join();
        cluster
    }

    fn join(&self) {
        for (i, server) in self.servers.iter().enumerate() {
            let _: () = server.cmd(&["CLUSTER", "SET-CONFIG-EPOCH", &(i + 1).to_string()]);
            if i < self.primaries {
                let slots = SLOTS * i / self.primaries..SLOTS * (i + 1) / self.primaries;
                let mut command = vec!["CLUSTER".to_owned(), "ADDSLOTS".to_owned()];
                command.extend(slots.map(|slot| slot.to_string()));
                let _: () = server.cmd(&command.iter().map(String::as_str).collect::<Vec<_>>());
            }
            let port = server.port().to_string();
            for other in &self.servers[..i] {
                let _: () = other.cmd(&["CLUSTER", "MEET", "127.0.0.1", &port]);
            }
        }
        let all = format!("cluster_known_nodes:{}\r", self.servers.len());
        eventually("all know each other", || self.all_say(&all));
        for (i, replica) in self.servers.iter().enumerate().skip(self.primaries) {
            let primary = self.id(i % self.primaries);
            eventually("the replica has its primary", || {
                replica.try_cmd::<()>(&["CLUSTER", "REPLICATE", &primary]).is_ok()
            });
        }
        eventually("the cluster is up", || self.all_say("cluster_state:ok\r"));
        for (i, replica) in self.servers.iter().enumerate().skip(self.primaries) {
            eventually("the replica follows", || {
                replica.cmd::<String>(&["INFO", "replication"]).contains("master_link_status:up")
            });
            let named = |server: &RedisServer| {
                let nodes: String = server.cmd(&["CLUSTER", "NODES"]);
                let id = self.id(i);
                nodes.lines().any(|line| line.starts_with(&id) && line.contains("slave"))
            };
            eventually("all know it for a replica", || self.servers.iter().all(named));
        }
    }

    fn all_say(&self, what: &str) -> bool {
        self.servers.iter().all(|server| server.cmd::<String>(&["CLUSTER", "INFO"]).contains(what))
    }

    pub fn id(&self, server: usize) -> String {
        self.servers[server].cmd(&["CLUSTER", "MYID"])
    }

    pub fn url(&self) -> String {
        let nodes: Vec<String> =
            self.servers[..self.primaries].iter().map(|server| format!("127.0.0.1:{}", server.port())).collect();
        format!("redis-cluster://{}", nodes.join(","))
    }

    /// The number of the server that has this slot, as `asked` sees it.
    pub fn owner_as_seen_by(&self, asked: usize, slot: u16) -> Option<usize> {
        type Range = (u16, u16, Vec<redis::Value>);
        let ranges: Vec<Vec<redis::Value>> = self.servers[asked].cmd(&["CLUSTER", "SLOTS"]);
        for range in ranges {
            let (first, last, primary): Range = (
                redis::from_redis_value(range[0].clone()).unwrap(),
                redis::from_redis_value(range[1].clone()).unwrap(),
                redis::from_redis_value(range[2].clone()).unwrap(),
            );
            if (first..=last).contains(&slot) {
                let port: u16 = redis::from_redis_value(primary[1].clone()).unwrap();
                return self.servers.iter().position(|server| server.port() == port);
            }
        }
        None
    }

    /// The server that has this slot, as it was set up.
    pub fn first_owner(&self, slot: u16) -> usize {
        (0..self.primaries).find(|i| usize::from(slot) < SLOTS * (i + 1) / self.primaries).unwrap()
    }

    /// A name in the group `g` whose slot the server had when the cluster was made.
    pub fn name_on(&self, server: usize) -> String {
        self.names_on(server, 1).remove(0)
    }

    pub fn names_on(&self, server: usize, count: usize) -> Vec<String> {
        let is_there = |name: &String| self.first_owner(slot(&format!("g:{name}"))) == server;
        (0..).map(|i| format!("n{i}")).filter(is_there).take(count).collect()
    }

    /// Every key but counters, of the primaries that answer.
    pub fn keys(&self, of: &[usize]) -> Vec<String> {
        of.iter().flat_map(|&i| self.servers[i].keys()).collect()
    }

    /// Until the replica has taken that primary's place, in the eyes of all that are up.
    pub fn wait_failed_over(&self, from: usize) -> usize {
        let to = from + self.primaries;
        let slot = (SLOTS * from / self.primaries) as u16;
        let down = self.down.lock().unwrap().clone();
        let others = |i: &usize| !down.contains(i);
        eventually("the replica is promoted", || {
            (0..self.servers.len()).filter(others).all(|i| self.owner_as_seen_by(i, slot) == Some(to))
        });
        to
    }

    /// Makes a replica the primary, by order.
    pub fn fail_over_to(&self, replica: usize, slot: u16) {
        let is_primary = || (0..self.servers.len()).all(|i| self.owner_as_seen_by(i, slot) == Some(replica));
        // The servers give such an order up after 5 s, without a word.
        let ordered = |_| {
            let _: redis::RedisResult<()> = self.servers[replica].try_cmd(&["CLUSTER", "FAILOVER"]);
            within(Duration::from_secs(6), is_primary)
        };
        assert!((0..5).any(ordered), "in vain: it is primary");
    }

    fn signal(&self, server: usize, signal: i32) {
        // SAFETY: a process that this test started.
        unsafe { libc::kill(self.servers[server].pid() as i32, signal) };
    }

    pub fn kill(&self, server: usize) {
        self.down.lock().unwrap().push(server);
        self.signal(server, libc::SIGKILL);
    }

    pub fn stop(&self, server: usize) {
        self.down.lock().unwrap().push(server);
        self.signal(server, libc::SIGSTOP);
    }

    pub fn go_on(&self, server: usize) {
        self.down.lock().unwrap().retain(|&other| other != server);
        self.signal(server, libc::SIGCONT);
    }

    /// Begins to move a slot.
    pub fn begin_move(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        let (from_id, to_id) = (self.id(from), self.id(to));
        let _: () = self.servers[to].cmd(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]);
        eventually("the slot can be moved", || {
            self.servers[from].try_cmd::<()>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]).is_ok()
        });
    }

    /// Moves one key.
    pub fn move_key(&self, key: &str, from: usize, to: usize) {
        let port = self.servers[to].port().to_string();
        let _: redis::Value = self.servers[from].cmd(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
    }

    pub fn keys_in(&self, slot: u16, server: usize) -> Vec<String> {
        self.servers[server].cmd(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), "1000"])
    }

    /// Moves what is left of the slot, and ends the move.
    pub fn end_move(&self, slot: u16, from: usize, to: usize) {
        loop {
            let keys = self.keys_in(slot, from);
            if keys.is_empty() {
                break;
            }
            keys.iter().for_each(|key| self.move_key(key, from, to));
        }
        let (text, to_id) = (slot.to_string(), self.id(to));
        let others = (0..self.primaries).filter(|&i| i != to && i != from);
        let all: Vec<usize> = [to, from].into_iter().chain(others).collect();
        for &server in &all {
            let _: () = self.servers[server].cmd(&["CLUSTER", "SETSLOT", &text, "NODE", &to_id]);
        }
        // What others say of it meanwhile may be older.
        eventually("all agree", || {
            let dissent = all.iter().find(|&&server| self.owner_as_seen_by(server, slot) != Some(to));
            dissent.is_none_or(|&server| {
                let _: redis::RedisResult<()> =
                    self.servers[server].try_cmd(&["CLUSTER", "SETSLOT", &text, "NODE", &to_id]);
                false
            })
        });
        // A node that does not know the latest epoch would take the next slot with one that others do not believe.
        eventually("all know the same epoch", || {
            let epoch = |&server: &usize| {
                let info: String = self.servers[server].cmd(&["CLUSTER", "INFO"]);
                info.lines().find_map(|line| line.strip_prefix("cluster_current_epoch:").map(str::to_owned))
            };
            let first = epoch(&all[0]);
            all.iter().all(|server| epoch(server) == first)
        });
    }
}
