//! In the place of `tls.rs` in a build without TLS: a session that cannot be.

use std::io;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::Tls;
use super::socket::{Received, Socket};

impl Tls {
    /// Not reached: such URLs are refused.
    pub fn check_server_name(_: &str) -> Result<(), String> {
        Err(ABSENT.to_owned())
    }
}

const ABSENT: &str = "TLS is not built in (feature `tls`)";

#[derive(Default)]
pub struct Trust(());

pub enum Session {}

impl Trust {
    pub fn session(&self, _: &Tls, _: &str) -> Result<Session, String> {
        Err(ABSENT.to_owned())
    }
}

impl Session {
    pub fn shake_hands(&mut self, _: &Socket, _: Instant, _: Duration, _: &AtomicBool) -> Result<(), String> {
        match *self {}
    }

    pub fn send(&mut self, _: &Socket, _: &[u8]) -> io::Result<usize> {
        match *self {}
    }

    pub fn flush(&mut self, _: &Socket) {
        match *self {}
    }

    pub fn wants_write(&self) -> bool {
        match *self {}
    }

    pub fn receive(&mut self, _: &Socket, _: &mut Vec<u8>, _: Duration, _: bool) -> io::Result<Received> {
        match *self {}
    }

    pub fn close(&mut self, _: &Socket) {
        match *self {}
    }
}
