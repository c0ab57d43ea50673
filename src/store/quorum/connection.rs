//! One link to all servers of a quorum, which looks like one connection: carries what the votes want said, and brings them
//! the answers.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use super::keeper::{Commands, Shared};
use super::poller::Poller;
use super::votes::{Out, Votes};
use crate::clock::now;
use crate::store::{Connection, Reply, Request, RequestId, Unreachable};

/// All servers.
const ALL: u64 = u64::MAX;
/// How long a link that is closed looks for answers that are to be undone.
const LINGER_US: u64 = 20_000;

pub struct QuorumConnection {
    shared: Arc<Shared>,
    inbox: Arc<Commands>,
    servers: Vec<Option<Box<dyn Connection>>>,
    /// For which of them the poller looks for room to send, one bit each.
    unsent: u64,
    votes: Votes,
    poller: Poller,
    replies: Vec<(RequestId, Reply)>,
    dead: Option<Unreachable>,
}

impl QuorumConnection {
    /// Begins with the servers that have arrived in the inbox.
    pub fn new(shared: &Arc<Shared>, inbox: Arc<Commands>) -> std::io::Result<Self> {
        let poller = Poller::new(&shared.descriptors, &[&inbox.0.signal])?;
        let mut this = QuorumConnection {
            shared: Arc::clone(shared),
            inbox,
            servers: (0..shared.members.len()).map(|_| None).collect(),
            unsent: 0,
            votes: Votes::new(Arc::clone(&shared.names), Arc::clone(&shared.ledger)),
            poller,
            replies: Vec::new(),
            dead: None,
        };
        this.admit_arrivals();
        Ok(this)
    }

    fn admit_arrivals(&mut self) {
        for (server, connection) in self.inbox.0.take() {
            let added = connection.fd().map_or(Ok(()), |fd| self.poller.add(server, fd));
            self.servers[server] = Some(connection);
            self.unsent &= !(1 << server);
            match added {
                Ok(()) => self.votes.joined(now(), server),
                Err(error) => self.end(server, &format!("{}: cannot poll: {error}", self.shared.names[server])),
            }
        }
    }

    /// The connection to that server will not do any more.
    fn end(&mut self, server: usize, why: &str) {
        if let Some(connection) = self.servers[server].take() {
            connection.fd().into_iter().for_each(|fd| self.poller.remove(fd));
            self.votes.lost(now(), server);
            self.inbox.0.lost(server, why);
            self.shared.tend(server);
        }
    }

    /// Carries out what the votes want; answers to which servers something is to be sent.
    fn carry_out(&mut self) -> u64 {
        let mut to_send = 0;
        while let Some(out) = self.votes.next_out() {
            match out {
                Out::Send { server, id, request } => {
                    if let Some(connection) = &mut self.servers[server] {
                        connection.push(id, request);
                        to_send |= 1 << server;
                    }
                }
                Out::Reply { id, reply } => self.replies.push((id, reply)),
                Out::Drop { server, why } => self.end(server, &format!("{}: {why}", self.shared.names[server])),
                Out::Wake { key, acquisition } => self.shared.wakes(key, acquisition),
            }
        }
        to_send
    }

    /// Sends to and reads from those servers, and goes on with those to which that leads.
    fn exchange(&mut self, servers: u64) {
        let mut answers = Vec::new();
        let mut busy = servers | self.carry_out();
        while busy != 0 {
            for server in (0..self.servers.len()).filter(|server| busy & 1 << server != 0) {
                let Some(connection) = &mut self.servers[server] else { continue };
                let turned = connection.turn(Duration::ZERO, &mut answers);
                let time = now();
                answers.drain(..).for_each(|(id, reply)| self.votes.answer(time, id, reply));
                if let Err(why) = turned {
                    self.end(server, &why.0);
                }
            }
            busy = self.carry_out();
        }
        for (server, connection) in self.servers.iter().enumerate() {
            let Some(connection) = connection else { continue };
            let (bit, unsent) = (1 << server, connection.wants_write());
            if unsent != (self.unsent & bit != 0)
                && let Some(fd) = connection.fd()
            {
                self.unsent ^= bit;
                self.poller.set_unsent(server, fd, unsent);
            }
        }
    }
}

impl Drop for QuorumConnection {
    /// What may have to be undone is waited for, for a moment: nobody else would.
    fn drop(&mut self) {
        let until = now() + LINGER_US;
        while self.votes.has_late() && self.votes.connected() > 0 {
            let left = until.saturating_sub(now());
            if left == 0 {
                break;
            }
            self.poller.wait(left);
            self.exchange(ALL);
        }
    }
}

impl Connection for QuorumConnection {
    fn push(&mut self, id: RequestId, request: Request) {
        self.votes.start(now(), id, request);
    }

    fn turn(&mut self, wait: Duration, replies: &mut Vec<(RequestId, Reply)>) -> Result<(), Unreachable> {
        if let Some(dead) = &self.dead {
            return Err(dead.clone());
        }
        let until = now() + wait.as_micros() as u64;
        self.shared.tend_forsaken();
        self.admit_arrivals();
        self.votes.tick(now());
        self.exchange(ALL);
        while self.replies.is_empty() && !self.votes.is_idle() && self.votes.connected() >= self.shared.majority {
            let time = now();
            if time >= until {
                break;
            }
            let most = self.votes.next_due().map_or(until, |due| due.min(until)).saturating_sub(time);
            let ready = self.poller.wait(most);
            self.admit_arrivals();
            self.votes.tick(now());
            // Now and then they look at the clock: is an answer overdue?
            self.exchange(if ready == 0 { ALL } else { ready });
        }
        replies.append(&mut self.replies);
        self.poller.set_timer(self.votes.next_due());
        if self.votes.connected() < self.shared.majority {
            let dead = self.inbox.0.why(&self.shared);
            self.dead = Some(dead.clone());
            return Err(dead);
        }
        Ok(())
    }

    fn keep_alive(&mut self) {
        self.servers.iter_mut().flatten().for_each(|connection| connection.keep_alive());
    }

    fn pending(&self) -> Vec<RequestId> {
        self.votes.pending()
    }

    fn is_idle(&self) -> bool {
        self.votes.is_idle()
    }

    fn has_late(&self) -> bool {
        self.votes.has_late()
    }

    fn fd(&self) -> Option<RawFd> {
        Some(self.poller.fd())
    }

    fn wants_write(&self) -> bool {
        // The poller looks for room: its descriptor is readable when there is some.
        false
    }
}
