//! Which node has which slot, as far as it is known, and what is known of each slot's counter (rule 5). Shared by all
//! connections of one store; does no I/O.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::super::handshake::Floor;
use super::super::resp::{self, Value};
use super::super::slot::SLOTS;
use super::super::{Address, Config, Site};
use crate::descriptors::Descriptors;

/// No more nodes than that are ever believed in.
const NODES_MAX: usize = 1_000;

/// A node, as it was named by the URL or by another node. Never forgotten.
pub struct Node {
    /// Its number among the nodes.
    pub index: u16,
    pub site: Site,
    /// Host and port, for messages.
    pub text: Arc<str>,
}

impl Node {
    fn host(&self) -> &str {
        match &self.site.config.address {
            Address::Tcp { host, .. } => host,
            Address::Unix(_) | Address::Service(_) => "",
        }
    }
}

/// A slot's owner, and how often it has changed.
const OWNER_BITS: u32 = 16;
const NOBODY: u64 = u16::MAX as u64;

pub struct Map {
    config: Config,
    descriptors: Arc<Descriptors>,
    /// Of all nodes' sites.
    pub stopped: Arc<AtomicBool>,
    nodes: Mutex<Vec<Arc<Node>>>,
    /// For each slot its owner's number in the lowest bits, and above them how often that has changed.
    owners: Box<[AtomicU64]>,
    /// For each slot the highest number that its counter was seen to have.
    highest: Box<[AtomicU64]>,
    /// For each slot the replication id of the node that was told so.
    replication_ids: Mutex<HashMap<u16, Arc<str>>>,
}

impl Map {
    /// `config`: of all nodes alike, but for the address.
    pub fn new(config: Config, descriptors: Arc<Descriptors>) -> Self {
        let all = |value: u64| (0..SLOTS).map(|_| AtomicU64::new(value)).collect();
        let (owners, highest, stopped) = (all(NOBODY), all(0), Arc::default());
        Map {
            config,
            descriptors,
            stopped,
            nodes: Mutex::default(),
            owners,
            highest,
            replication_ids: Mutex::default(),
        }
    }

    fn nodes(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Node>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node at that address. `None`: there are too many.
    pub fn at(&self, address: &Address) -> Option<Arc<Node>> {
        let mut nodes = self.nodes();
        if let Some(known) = nodes.iter().find(|node| node.site.config.address == *address) {
            return Some(Arc::clone(known));
        }
        if nodes.len() >= NODES_MAX {
            return None;
        }
        let config = Config { address: address.clone(), ..self.config.clone() };
        let mut site = Site::new(config, Arc::clone(&self.descriptors));
        site.stopped = Arc::clone(&self.stopped);
        let node = Arc::new(Node { index: nodes.len() as u16, site, text: address.to_string().into() });
        nodes.push(Arc::clone(&node));
        Some(node)
    }

    /// As a redirection names a node: host and port; without a host, it is that of the node that said so.
    pub fn named(&self, to: &str, by: &Node) -> Option<Arc<Node>> {
        let (host, port) = to.rsplit_once(':')?;
        self.at(&address(host, port.parse().ok()?, by)?)
    }

    pub fn node(&self, index: u16) -> Option<Arc<Node>> {
        self.nodes().get(usize::from(index)).cloned()
    }

    /// Those that have slots, as far as it is known.
    pub fn owners(&self) -> Vec<Arc<Node>> {
        let mut owns = vec![false; NODES_MAX];
        for slot in 0..SLOTS as u16 {
            if let Some(index) = self.owner(slot) {
                owns[usize::from(index)] = true;
            }
        }
        self.nodes().iter().filter(|node| owns[usize::from(node.index)]).cloned().collect()
    }

    /// The number of the slot's node.
    pub fn owner(&self, slot: u16) -> Option<u16> {
        let owner = self.owners[usize::from(slot)].load(Ordering::Relaxed) & NOBODY;
        (owner != NOBODY).then_some(owner as u16)
    }

    /// A number that changes with the slot's node.
    pub fn epoch(&self, slot: u16) -> u64 {
        self.owners[usize::from(slot)].load(Ordering::Relaxed)
    }

    pub fn set_owner(&self, slot: u16, node: u16) {
        let changed = |word: u64| {
            (word & NOBODY != u64::from(node)).then(|| ((word >> OWNER_BITS) + 1) << OWNER_BITS | u64::from(node))
        };
        let _ = self.owners[usize::from(slot)].fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed);
    }

    /// Takes what `by` answered to `CLUSTER SLOTS`. What cannot be read is left out.
    pub fn learn(&self, wire: &[u8], by: &Node) {
        let Ok(Some((Value::Array(ranges), _))) = resp::parse(wire) else { return };
        for range in ranges.iter() {
            let Value::Array(range) = range else { continue };
            let [Some(first), Some(last), Some(Value::Array(primary))] = range.first() else { continue };
            let [Some(host), Some(port)] = primary.first() else { continue };
            let (Some(first), Some(last)) = (first.int(), last.int()) else { continue };
            let port = port.int().and_then(|port| u16::try_from(port).ok());
            let node = port.and_then(|port| address(host.text().unwrap_or(""), port, by)).and_then(|to| self.at(&to));
            if let Some(node) = node {
                for slot in first.max(0)..=last.min(SLOTS as i64 - 1) {
                    self.set_owner(slot as u16, node.index);
                }
            }
        }
    }

    // --- counters ---

    /// A number of that slot was seen.
    pub fn saw(&self, slot: u16, number: u64) {
        self.highest[usize::from(slot)].fetch_max(number, Ordering::Relaxed);
    }

    /// What the floor step of that slot is to be told: the highest number seen, and of which server.
    pub fn known(&self, slot: u16) -> (u64, Arc<str>) {
        let ids = self.replication_ids.lock().unwrap_or_else(PoisonError::into_inner);
        (self.highest[usize::from(slot)].load(Ordering::Relaxed), ids.get(&slot).cloned().unwrap_or_else(|| "".into()))
    }

    /// What the floor step answered.
    pub fn lifted(&self, slot: u16, floor: &Floor) {
        self.saw(slot, floor.counter);
        if !floor.replication_id.is_empty() {
            let mut ids = self.replication_ids.lock().unwrap_or_else(PoisonError::into_inner);
            ids.insert(slot, floor.replication_id.as_str().into());
        }
    }

    /// What the nodes' servers are not as locks would have it.
    pub fn warnings(&self) -> Vec<String> {
        let mut all = Vec::new();
        for node in self.nodes().iter() {
            all.extend(node.site.warnings.all().iter().map(|text| format!("{}: {text}", node.text)));
        }
        all
    }
}

/// Nodes that do not know their own host leave it out, or say `?`.
fn address(host: &str, port: u16, by: &Node) -> Option<Address> {
    let host = if host.is_empty() || host == "?" { by.host() } else { host };
    (port != 0).then(|| Address::Tcp { host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> (Map, Arc<Node>) {
        let map = Map::new(Config::new(Address::local()), Descriptors::with_room(4));
        let node = map.at(&Address::Tcp { host: "10.0.0.1".into(), port: 7000 }).unwrap();
        (map, node)
    }

    #[test]
    fn the_answer_to_cluster_slots_is_read_in_every_form_that_servers_give_it() {
        let (map, asked) = map();
        let wire = b"*3\r\n\
            *4\r\n:0\r\n:100\r\n*3\r\n$8\r\n10.0.0.2\r\n:7001\r\n$2\r\nid\r\n*3\r\n$8\r\n10.0.0.3\r\n:7002\r\n$2\r\nid\r\n\
            *3\r\n:101\r\n:101\r\n*4\r\n$-1\r\n:7003\r\n$2\r\nid\r\n*2\r\n$8\r\nhostname\r\n$1\r\nx\r\n\
            *3\r\n:102\r\n:99999\r\n*3\r\n$0\r\n\r\n:7000\r\n$2\r\nid\r\n";
        map.learn(wire, &asked);
        let owner = |slot| map.owner(slot).and_then(|index| map.node(index)).map(|node| node.text.to_string());
        assert_eq!((owner(0).unwrap(), owner(100).unwrap()), ("10.0.0.2:7001".into(), "10.0.0.2:7001".into()));
        assert_eq!(owner(101).unwrap(), "10.0.0.1:7003");
        assert_eq!((map.owner(102), map.owner(SLOTS as u16 - 1)), (Some(asked.index), Some(asked.index)));
        assert_eq!(map.owners().len(), 3, "replicas are none of them");
        for nonsense in [&b"-ERR no\r\n"[..], b"*1\r\n:1\r\n", b"*1\r\n*1\r\n:1\r\n", b"*1\r\n*3\r\n:0\r\n:1\r\n*0\r\n"]
        {
            map.learn(nonsense, &asked);
        }
        assert_eq!(owner(0).unwrap(), "10.0.0.2:7001");
    }

    #[test]
    fn an_epoch_changes_with_the_owner_and_only_then() {
        let (map, node) = map();
        let other = map.named("::1:7001", &node).unwrap();
        map.set_owner(7, node.index);
        let first = map.epoch(7);
        map.set_owner(7, node.index);
        assert_eq!(map.epoch(7), first);
        map.set_owner(7, other.index);
        map.set_owner(7, node.index);
        assert_eq!(map.owner(7), Some(node.index));
        assert_ne!(map.epoch(7), first);
    }

    #[test]
    fn a_redirection_without_a_host_stays_on_the_host() {
        let (map, node) = map();
        for to in [":7009", "?:7009", "10.0.0.1:7009"] {
            assert_eq!(&*map.named(to, &node).unwrap().text, "10.0.0.1:7009", "{to}");
        }
        assert_eq!(&*map.named("::1:7009", &node).unwrap().text, "[::1]:7009");
        assert!(map.named("nowhere", &node).is_none() && map.named("a:0", &node).is_none());
    }
}
