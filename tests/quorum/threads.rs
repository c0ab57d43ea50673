//! A process that has no thread left, for a while.

use std::cell::Cell;
use std::ffi::c_void;
use std::time::Duration;

use dlock::store::Store;
use dlock::store::quorum::QuorumStore;
use dlock::store::redis::{Address, Config};

use crate::eventually::eventually;
use crate::world::World;

thread_local! {
    /// Are threads refused to this one?
    static REFUSED: Cell<bool> = const { Cell::new(false) };
}

type Body = extern "C" fn(*mut c_void) -> *mut c_void;
type Create = extern "C" fn(*mut libc::pthread_t, *const libc::pthread_attr_t, Body, *mut c_void) -> libc::c_int;

/// What the whole program starts its threads with, instead of the system's.
#[unsafe(no_mangle)]
extern "C" fn pthread_create(
    thread: *mut libc::pthread_t,
    attributes: *const libc::pthread_attr_t,
    body: Body,
    argument: *mut c_void,
) -> libc::c_int {
    if REFUSED.try_with(Cell::get).unwrap_or(false) {
        return libc::EAGAIN;
    }
    // SAFETY: the system's function of that name.
    let create: Create = unsafe { std::mem::transmute(libc::dlsym(libc::RTLD_NEXT, c"pthread_create".as_ptr())) };
    create(thread, attributes, body, argument)
}

#[test]
fn a_server_that_was_lost_while_no_thread_could_be_started_is_connected_anew_later() {
    let world = World::new(3, 200);
    let config = |port| Config::new(Address::Tcp { host: "127.0.0.1".into(), port });
    let store = QuorumStore::new(world.servers.iter().map(|server| config(server.port())).collect(), 200).unwrap();
    let mut connection = store.connect(0).unwrap();
    let mut replies = Vec::new();
    let connections = |server: usize| {
        let clients: String = world.servers[server].cmd(&["CLIENT", "LIST"]);
        clients.lines().filter(|client| client.contains("name=dlock")).count()
    };
    eventually("all servers are connected", || {
        connection.turn(Duration::ZERO, &mut replies).unwrap();
        (0..3).all(|server| connections(server) == 1)
    });
    REFUSED.set(true);
    let _: () = world.servers[0].cmd(&["CLIENT", "KILL", "TYPE", "normal"]);
    for _ in 0..100 {
        connection.turn(Duration::ZERO, &mut replies).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(connections(0), 0, "somebody could start a thread");
    REFUSED.set(false);
    eventually("it is connected again", || {
        connection.turn(Duration::ZERO, &mut replies).unwrap();
        connections(0) == 1
    });
}
