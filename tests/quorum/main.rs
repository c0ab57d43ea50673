//! `redis-quorum://` on real servers (`DLOCK_TEST_SERVER`, else `redis-server` from the PATH): what the library promises of
//! a majority, with servers that die, stand still and come back without their data.

mod contest;
#[path = "../support/eventually.rs"]
#[allow(dead_code)]
mod eventually;
#[path = "../support/redis_server.rs"]
#[allow(dead_code)]
mod redis_server;
mod world;

mod faults;
mod forked;
mod healthy;
mod membership;
mod scripts;
mod steps;
mod threads;
