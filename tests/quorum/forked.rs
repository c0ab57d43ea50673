//! A forked child has copies of the parent's sockets.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use dlock::store::Store;

use crate::eventually::eventually;
use crate::world::World;

/// A child that does nothing, until the value is dropped.
struct Child(libc::pid_t);

impl Child {
    fn fork() -> Self {
        // SAFETY: the child only waits for its end.
        match unsafe { libc::fork() } {
            0 => loop {
                // SAFETY: a plain system call.
                unsafe { libc::pause() };
            },
            child => Child(child),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: plain system calls; the process is a child of ours.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

fn readable(fd: Option<RawFd>) -> bool {
    let mut polled = libc::pollfd { fd: fd.expect("a descriptor to poll"), events: libc::POLLIN, revents: 0 };
    // SAFETY: one descriptor, which lives through the call.
    unsafe { libc::poll(&mut polled, 1, 0) == 1 }
}

#[test]
fn links_do_not_look_after_the_socket_of_a_dead_server_whose_copy_a_child_has() {
    let mut world = World::new(3, 200);
    let store = world.store();
    let mut connection = store.connect(0).unwrap();
    let mut subscription = store.subscribe(":dlock:wake:forked", Arc::new(|| {})).unwrap();
    let (mut replies, mut pushes) = (Vec::new(), Vec::new());
    eventually("all servers are connected", || {
        connection.turn(Duration::ZERO, &mut replies).unwrap();
        subscription.receive(&mut pushes).unwrap();
        let connected = |server: &crate::redis_server::RedisServer| {
            let clients: String = server.cmd(&["CLIENT", "LIST"]);
            clients.lines().filter(|client| client.contains("name=dlock")).count() == 2
        };
        world.servers.iter().all(connected) && !readable(connection.fd()) && !readable(subscription.fd())
    });
    let child = Child::fork();
    world.servers[0].kill();
    eventually("both see it", || readable(connection.fd()) && readable(subscription.fd()));
    eventually("nothing more to see", || {
        connection.turn(Duration::ZERO, &mut replies).unwrap();
        subscription.receive(&mut pushes).unwrap();
        !readable(connection.fd()) && !readable(subscription.fd())
    });
    drop(child);
}
