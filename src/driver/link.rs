//! One connection that many threads share by combining: whoever finds it without a driver drives it for all (flat
//! combining, Hendler et al. 2010). Knows requests and replies, not what they mean.

use std::os::fd::RawFd;

use super::slot::{Callers, Slot};
use crate::descriptors::Watch;
use crate::store::{Connection, Reply, Request, RequestId};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Room for so many requests and replies is kept; what a crowd needed besides, once, is given back.
const ROOM_KEPT: usize = 1_024;

/// A connection, driven by at most one thread at a time.
pub struct Link {
    state: Mutex<State>,
    /// Requests without a reply, sent or not.
    unanswered: AtomicUsize,
}

#[derive(Default)]
struct State {
    up: bool,
    /// Was anything submitted since somebody asked for that?
    used: bool,
    /// Here while nobody drives.
    connection: Option<Box<dyn Connection>>,
    /// Requests that the next turn sends.
    inbox: Vec<(RequestId, Request)>,
    /// Empty: room for the replies that a turn brings, kept here between turns.
    replies: Vec<(RequestId, Reply)>,
    /// Calls that wait for a reply on this link and could drive it.
    callers: Callers,
}

/// Who has to see to it that what was submitted is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// A driver is at it.
    Driven,
    /// Nobody yet.
    Undriven,
}

/// What becomes of a connection that its driver gives back.
pub enum Handover {
    /// Nothing is left to do on it.
    Idle,
    /// Somebody was asked to go on.
    Passed,
    /// Something is left to do, and no caller is there to do it.
    Orphaned,
    /// Something came in meanwhile: the driver, which wanted to stay while there is work, goes on.
    More(Box<dyn Connection>),
}

impl State {
    fn to_poll(&self) -> Option<(RawFd, bool)> {
        let connection = self.connection.as_ref()?;
        let unsent = !self.inbox.is_empty() || connection.wants_write();
        if connection.is_idle() && !connection.has_late() && !unsent {
            None
        } else {
            connection.fd().map(|fd| (fd, unsent))
        }
    }
}

impl Link {
    pub fn new() -> Self {
        Link { state: Mutex::new(State::default()), unanswered: AtomicUsize::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn install(&self, connection: Box<dyn Connection>) {
        let mut state = self.state();
        state.up = true;
        state.connection = Some(connection);
    }

    pub fn is_up(&self) -> bool {
        self.state().up
    }

    /// Up, and nobody drives it?
    pub fn is_free(&self) -> bool {
        self.state().connection.is_some()
    }

    /// Is something to be done on it, and nobody drives it?
    pub fn is_left(&self) -> bool {
        let state = self.state();
        state.connection.as_ref().is_some_and(|connection| !state.inbox.is_empty() || !connection.is_idle())
    }

    /// How many requests have no reply yet.
    pub fn crowd(&self) -> usize {
        self.unanswered.load(Ordering::Relaxed)
    }

    /// So many replies came. (Those of a link that was taken down meanwhile are counted no more.)
    pub fn answered(&self, count: usize) {
        let left = |unanswered: usize| Some(unanswered.saturating_sub(count));
        let _ = self.unanswered.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
    }

    /// `Err`: the link is down.
    pub fn submit(&self, id: RequestId, request: Request) -> Result<Submitted, RequestId> {
        let mut state = self.state();
        if !state.up {
            return Err(id);
        }
        state.used = true;
        state.inbox.push((id, request));
        self.unanswered.fetch_add(1, Ordering::Relaxed);
        Ok(if state.connection.is_some() { Submitted::Undriven } else { Submitted::Driven })
    }

    /// Takes the connection to drive it. `None`: somebody else drives (`slot` will be asked when he stops) or it is down.
    pub fn take(&self, slot: Option<&Arc<Slot>>) -> Option<Box<dyn Connection>> {
        let mut state = self.state();
        let connection = state.connection.take();
        if connection.is_none()
            && state.up
            && let Some(slot) = slot
        {
            state.callers.add(slot);
        }
        connection
    }

    /// Takes the connection if nobody drives it and no reply is outstanding on it.
    pub fn take_idle(&self) -> Option<Box<dyn Connection>> {
        self.state().connection.take_if(|connection| connection.is_idle())
    }

    /// As [`take_idle`](Self::take_idle), where nothing was submitted since this was last called.
    pub fn take_unused(&self) -> Option<Box<dyn Connection>> {
        if std::mem::take(&mut self.state().used) { None } else { self.take_idle() }
    }

    /// Moves what was submitted into the connection. Returns the room for the replies, to be given back with it.
    pub fn load(&self, connection: &mut dyn Connection) -> Vec<(RequestId, Reply)> {
        let mut state = self.state();
        for (id, request) in state.inbox.drain(..) {
            connection.push(id, request);
        }
        state.inbox.shrink_to(ROOM_KEPT);
        std::mem::take(&mut state.replies)
    }

    /// The driver stops, or (`stay`) stops only if there is nothing to do. `replies` are those of the turn, all taken.
    pub fn give_back(
        &self,
        connection: Box<dyn Connection>,
        mut replies: Vec<(RequestId, Reply)>,
        stay: bool,
    ) -> Handover {
        replies.clear();
        replies.shrink_to(ROOM_KEPT);
        let mut state = self.state();
        state.replies = replies;
        let idle = state.inbox.is_empty() && connection.is_idle();
        if idle {
            state.connection = Some(connection);
            return Handover::Idle;
        }
        if stay {
            return Handover::More(connection);
        }
        state.connection = Some(connection);
        if state.callers.ask(Slot::ask_to_drive) { Handover::Passed } else { Handover::Orphaned }
    }

    /// The connection ended: takes the link down and names what was submitted and not sent. Calls that wait here wait on:
    /// once the engine is told, it sends their requests elsewhere or answers them.
    pub fn take_down(&self) -> Vec<RequestId> {
        let mut state = self.state();
        state.up = false;
        self.unanswered.store(0, Ordering::Relaxed);
        state.connection = None;
        state.callers.clear();
        state.inbox.drain(..).map(|(id, _)| id).collect()
    }

    /// What the background thread polls for: replies are outstanding here, or requests unsent, and nobody drives.
    pub fn to_poll(&self) -> Option<(RawFd, bool)> {
        self.state().to_poll()
    }

    /// Has the outstanding reply wake the sleeper. False: the sleeper must be woken, to send or to look.
    pub fn arm(&self, watch: &Watch) -> bool {
        // Under the mutex: as long as the connection is here, nobody closes its descriptor, which then may be another's.
        let state = self.state();
        state.to_poll().is_some_and(|(fd, unsent)| !unsent && watch.arm(fd))
    }
}
