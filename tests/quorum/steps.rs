//! Steps at a server that has lost its data since the connection was made.

use std::sync::Arc;
use std::time::Duration;

use dlock::store::{Acquisition, Connection, Name, Op, Reply, Request, RequestId, Seat, Store};
use uuid::Uuid;

use crate::eventually::eventually;
use crate::redis_server::RedisServer;
use crate::world::{GROUP, NAME, World};

const LEASE_MS: u64 = 200;
const LONG_MS: u64 = 1_000;

fn request(op: Op) -> Request {
    let acquisition = Acquisition { owner: Uuid::from_u128(1), attempt: 1 };
    let seat = Seat { claim_ms: LEASE_MS, channel: "nobody".into() };
    Request { name: Arc::new(Name::new(NAME, GROUP).unwrap()), acquisition, seat, op }
}

/// What a majority says.
fn ask(connection: &mut dyn Connection, number: u64, op: Op) -> Reply {
    let mut replies = Vec::new();
    connection.push(RequestId(number), request(op));
    eventually("an answer", || {
        connection.turn(Duration::from_millis(2), &mut replies).unwrap();
        !replies.is_empty()
    });
    replies.remove(0).1
}

fn membership(server: &RedisServer, field: &str) -> Option<u64> {
    server.cmd(&["HGET", ":dlock:quorum", field])
}

#[test]
fn no_step_is_carried_out_by_a_server_that_lost_its_data_nor_brings_its_counter_back() {
    let world = World::new(3, LEASE_MS);
    let store = world.store();
    let mut connection = store.connect(0).unwrap();
    let (mut replies, mut number) = (Vec::new(), 0);
    let place = 1 << 52;
    let steps = [
        Op::Join { lease_ms: LEASE_MS, place, queue: true },
        Op::Join { lease_ms: LEASE_MS, place, queue: false },
        Op::Renew { lease_ms: LEASE_MS },
        Op::Leave { lease_ms: LEASE_MS },
        Op::Release { leave: true },
    ];
    for op in steps {
        eventually("all servers are asked", || {
            connection.turn(Duration::ZERO, &mut replies).unwrap();
            let asked = |server: &RedisServer| server.cmd::<String>(&["CLIENT", "LIST"]).contains("name=dlock");
            (0..3).all(|server| world.counts(server)) && world.servers.iter().all(asked)
        });
        world.servers[0].cmd::<()>(&["FLUSHALL"]);
        eventually("it is found to have lost its data", || {
            // Not the first, where the connection to it is still on its way to the link.
            number += 1;
            ask(&mut *connection, number, op);
            membership(&world.servers[0], "since").is_some()
        });
        assert_eq!(world.holders()[0], None, "{op:?}");
        assert_eq!(world.queued(0), 0, "{op:?}");
    }
}

#[test]
fn a_renewal_notes_its_lease_where_it_lengthens_one() {
    let world = World::new(3, LEASE_MS);
    let store = world.store();
    let mut connection = store.connect(0).unwrap();
    let taken = ask(&mut *connection, 1, Op::Join { lease_ms: LEASE_MS, place: 1 << 52, queue: false });
    assert!(matches!(taken, Reply::Taken { .. }), "{taken:?}");
    ask(&mut *connection, 2, Op::Renew { lease_ms: LONG_MS });
    let noted = world.servers.iter().filter(|server| membership(server, "lease") == Some(LONG_MS)).count();
    assert!(noted >= 2, "noted by {noted} of 3 when a majority had answered");
}
