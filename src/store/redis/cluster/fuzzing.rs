//! What a node says, as the fuzzer has it; see `src/fuzzing.rs`.

use std::sync::OnceLock;

use super::super::error::redirection;
use super::super::resp::Value;
use super::super::{Address, Config};
use super::map::Map;
use super::messages::listen;
use crate::descriptors::Descriptors;

/// Takes an answer for a map, a redirection and a message.
pub fn answer(value: &Value, wire: &[u8]) {
    static MAP: OnceLock<Map> = OnceLock::new();
    let map = MAP.get_or_init(|| Map::new(Config::new(Address::local()), Descriptors::with_room(1)));
    let Some(node) = map.at(&Address::local()) else { return };
    map.learn(wire, &node);
    let _ = listen(value);
    if let Value::Error(text) = value
        && let Some(to) = redirection(&String::from_utf8_lossy(text))
        && let Some(node) = map.named(to.to, &node)
    {
        map.set_owner(to.slot, node.index);
        assert_eq!(map.owner(to.slot), Some(node.index));
    }
}
