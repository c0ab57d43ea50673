//! Who is missing: connects servers to the links that lack them, and lets those that lost their data count again. One thread
//! for each missing server, and none where all are there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::admission::{NotYet, admission};
use super::ledger::Ledger;
use crate::descriptors::{Descriptors, Signal};
use crate::store::redis::{Admission, Look, RedisStore};
use crate::store::{Acquisition, Connection, Store, Subscription, Unreachable};
use crate::thread::Thread;

/// Between attempts to connect, doubling from the first to the last.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// So many wake-ups are kept for a subscription that is not there; who subscribes asks again anyway.
const WAKES_MAX: usize = 10_000;

/// Room for what a locker's links poll with, those included that are being made or closed.
const DESCRIPTORS: usize = 48;
/// Why nobody connects any more when the locker ends.
const UNWANTED: &str = "no longer wanted";

/// What all links of one store have in common.
pub struct Shared {
    pub members: Vec<RedisStore>,
    pub names: Arc<[String]>,
    pub majority: usize,
    pub ledger: Arc<Ledger>,
    /// Those that are no sockets.
    pub descriptors: Arc<Descriptors>,
    /// How long a server that will count soon is waited for.
    pub patience: Duration,
    /// Waiters of this locker for whom a server has reserved a lock.
    wakes: Mutex<Vec<(String, Acquisition)>>,
    pub woken: Signal,
    keeping: Mutex<Keeping>,
    changed: Condvar,
    stopped: AtomicBool,
    /// A server is missing for which no thread could be started: it is to be tried again.
    forsaken: AtomicBool,
}

#[derive(Default)]
struct Keeping {
    guests: Vec<Weak<dyn Guest>>,
    /// Which servers have a thread.
    running: Vec<bool>,
    threads: Vec<Thread>,
    /// Rises with each wish.
    wishes: u64,
}

/// Why a server cannot be used.
#[derive(Clone, Debug)]
pub struct Failure {
    pub text: String,
    /// When that will pass, where it is known.
    pub passes_in: Option<Duration>,
}

impl From<Unreachable> for Failure {
    fn from(why: Unreachable) -> Self {
        Failure { text: why.0, passes_in: None }
    }
}

/// A link that may lack servers.
pub trait Guest: Send + Sync {
    fn lacks(&self, server: usize) -> bool;
    /// Connects it to that server.
    fn serve(&self, shared: &Arc<Shared>, server: usize) -> Result<(), Failure>;
    fn failed(&self, server: usize, failure: &Failure);
}

impl Shared {
    pub fn new(members: Vec<RedisStore>, lease_ms: u64, patience: Duration) -> std::io::Result<Self> {
        let names: Arc<[String]> = members.iter().map(|member| member.address().to_owned()).collect();
        let descriptors = Descriptors::with_room(DESCRIPTORS);
        let woken = Signal::noted(&descriptors)?;
        Ok(Shared {
            majority: members.len() / 2 + 1,
            ledger: Arc::new(Ledger::new(members.len(), lease_ms)),
            keeping: Mutex::new(Keeping { running: vec![false; members.len()], ..Keeping::default() }),
            members,
            names,
            descriptors,
            patience,
            wakes: Mutex::default(),
            woken,
            changed: Condvar::new(),
            stopped: AtomicBool::new(false),
            forsaken: AtomicBool::new(false),
        })
    }

    /// A server has reserved a lock for a waiter of this locker.
    pub fn wakes(&self, key: String, acquisition: Acquisition) {
        let mut wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        if wakes.len() < WAKES_MAX {
            wakes.push((key, acquisition));
        }
        drop(wakes);
        self.woken.raise();
    }

    /// For whom.
    pub fn take_wakes(&self) -> Vec<(String, Acquisition)> {
        self.woken.clear();
        std::mem::take(&mut *self.wakes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn keeping(&self) -> MutexGuard<'_, Keeping> {
        self.keeping.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new link, which lacks all servers.
    pub fn welcome(self: &Arc<Self>, guest: Weak<dyn Guest>) {
        let mut keeping = self.keeping();
        keeping.guests.retain(|guest| guest.strong_count() > 0);
        keeping.guests.push(guest);
        drop(keeping);
        (0..self.members.len()).for_each(|server| self.tend(server));
    }

    /// A link lacks that server.
    pub fn tend(self: &Arc<Self>, server: usize) {
        let mut keeping = self.keeping();
        keeping.wishes += 1;
        self.changed.notify_all();
        if keeping.running[server] || self.stopped.load(Ordering::Acquire) {
            return;
        }
        keeping.running[server] = true;
        let this = Arc::clone(self);
        if !spawn(&mut keeping, move || this.keep(server)) {
            keeping.running[server] = false;
            self.forsaken.store(true, Ordering::Release);
            let guests: Vec<_> = keeping.guests.iter().filter_map(Weak::upgrade).collect();
            drop(keeping);
            self.tell_lacking(server, &guests, "cannot start a thread to connect");
        }
    }

    /// Where that was not possible for want of a thread: tries again to look after all.
    pub fn tend_forsaken(self: &Arc<Self>) {
        if self.forsaken.load(Ordering::Acquire) && self.forsaken.swap(false, Ordering::AcqRel) {
            let guests: Vec<_> = self.keeping().guests.iter().filter_map(Weak::upgrade).collect();
            let is_lacking = |server: &usize| guests.iter().any(|guest| guest.lacks(*server));
            (0..self.members.len()).filter(is_lacking).for_each(|server| self.tend(server));
        }
    }

    /// No more; waits for the threads.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.members.iter().for_each(Store::stop);
        let guests: Vec<_> = self.keeping().guests.iter().filter_map(Weak::upgrade).collect();
        (0..self.members.len()).for_each(|server| self.tell_lacking(server, &guests, UNWANTED));
        loop {
            self.changed.notify_all();
            let Some(thread) = self.keeping().threads.pop() else { return };
            thread.join();
        }
    }

    /// Tells those of the links that lack that server why nobody connects them to it.
    fn tell_lacking(&self, server: usize, guests: &[Arc<dyn Guest>], why: &str) {
        let failure = Failure { text: format!("{}: {why}", self.names[server]), passes_in: None };
        guests.iter().filter(|guest| guest.lacks(server)).for_each(|guest| guest.failed(server, &failure));
    }

    /// Serves the links that lack that server, until none does.
    fn keep(self: &Arc<Self>, server: usize) {
        let mut pause = PAUSE_MIN;
        loop {
            let mut keeping = self.keeping();
            let guests = keeping.guests.iter().filter_map(Weak::upgrade);
            let guests: Vec<_> = guests.filter(|guest| guest.lacks(server)).collect();
            if guests.is_empty() || self.stopped.load(Ordering::Acquire) {
                keeping.running[server] = false;
                drop(keeping);
                return self.tell_lacking(server, &guests, UNWANTED);
            }
            let wishes = keeping.wishes;
            drop(keeping);
            let Some(failure) = guests.iter().find_map(|guest| guest.serve(self, server).err()) else {
                pause = PAUSE_MIN;
                continue;
            };
            guests.iter().filter(|guest| guest.lacks(server)).for_each(|guest| guest.failed(server, &failure));
            drop(guests);
            let length = failure.passes_in.map_or(pause, |time| time.clamp(PAUSE_MIN, PAUSE_MAX));
            let keeping = self.keeping();
            let idle = |keeping: &mut Keeping| keeping.wishes == wishes && !self.stopped.load(Ordering::Acquire);
            let _ = self.changed.wait_timeout_while(keeping, length, idle);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// A connection to that server, which counts.
    fn connect(self: &Arc<Self>, server: usize) -> Result<Box<dyn Connection>, Failure> {
        let member = &self.members[server];
        let (connection, look) = member.connect_member(self.ledger.lease_ms())?;
        if look.counts {
            self.ledger.saw(look.counter);
            return Ok(connection);
        }
        drop(connection);
        let admission = self.admission(server, look)?;
        member.admit(&admission)?;
        match member.connect_member(self.ledger.lease_ms())? {
            (connection, look) if look.counts => {
                self.ledger.saw(look.counter);
                Ok(connection)
            }
            _ => Err(self.does_not_count(server, "has lost its data again", None)),
        }
    }

    fn does_not_count(&self, server: usize, why: &str, passes_in: Option<Duration>) -> Failure {
        let text = match passes_in {
            Some(time) => {
                format!("{} {why} and does not count for another {} ms", self.names[server], time.as_millis())
            }
            None => format!("{} {why} and does not count", self.names[server]),
        };
        Failure { text, passes_in }
    }

    /// With what a server that lost its data may count again; `Err`: not yet. `mine` was seen before the others are read.
    fn admission(self: &Arc<Self>, server: usize, mine: Look) -> Result<Admission, Failure> {
        let others = self.look_at_others(server);
        admission(&mine, &others, self.members.len()).map_err(|not_yet| match not_yet {
            NotYet::For(missing_ms) => {
                let missing = Duration::from_millis(missing_ms);
                self.does_not_count(server, "is new or lost its data", Some(missing))
            }
            NotYet::TooFew => {
                self.does_not_count(server, "is new or lost its data, too few others count to let it in,", None)
            }
        })
    }

    /// What the other servers say of themselves: all, or a majority that counts. Without those that cannot be asked.
    fn look_at_others(self: &Arc<Self>, server: usize) -> Vec<Look> {
        let (send, answers) = channel();
        let mut asked = 0;
        for other in (0..self.members.len()).filter(|&other| other != server) {
            let (this, send) = (Arc::clone(self), send.clone());
            let look = move || {
                let look = this.members[other].connect_member(this.ledger.lease_ms());
                let _ = send.send(look.ok().map(|(_, look)| look));
            };
            asked += usize::from(spawn(&mut self.keeping(), look));
        }
        drop(send);
        let mut looks: Vec<Look> = Vec::new();
        for _ in 0..asked {
            let Ok(answer) = answers.recv() else { break };
            looks.extend(answer);
            if looks.iter().filter(|look| look.counts).count() >= self.majority {
                break;
            }
        }
        looks
    }
}

fn spawn(keeping: &mut Keeping, body: impl FnOnce() + Send + 'static) -> bool {
    keeping.threads.retain(|thread| !thread.is_finished());
    Thread::spawn(c"dlock-quorum", body).map(|thread| keeping.threads.push(thread)).is_ok()
}

/// Where the connections of one link arrive.
pub struct Inbox<T> {
    state: Mutex<Arrivals<T>>,
    changed: Condvar,
    pub signal: Signal,
}

struct Arrivals<T> {
    arrived: Vec<(usize, T)>,
    lacking: Vec<bool>,
    failures: Vec<Option<Failure>>,
}

impl<T> Inbox<T> {
    pub fn new(shared: &Shared) -> std::io::Result<Self> {
        let servers = shared.members.len();
        let arrivals =
            Arrivals { arrived: Vec::new(), lacking: vec![true; servers], failures: vec![const { None }; servers] };
        Ok(Inbox { state: Mutex::new(arrivals), changed: Condvar::new(), signal: Signal::noted(&shared.descriptors)? })
    }

    fn state(&self) -> MutexGuard<'_, Arrivals<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lacks_server(&self, server: usize) -> bool {
        self.state().lacking[server]
    }

    fn deliver(&self, server: usize, what: T) {
        let mut state = self.state();
        (state.lacking[server], state.failures[server]) = (false, None);
        state.arrived.push((server, what));
        drop(state);
        self.changed.notify_all();
        self.signal.raise();
    }

    fn note_failure(&self, server: usize, failure: &Failure) {
        self.state().failures[server] = Some(failure.clone());
        self.changed.notify_all();
    }

    /// What has arrived.
    pub fn take(&self) -> Vec<(usize, T)> {
        self.signal.clear();
        std::mem::take(&mut self.state().arrived)
    }

    /// That server's connection has ended.
    pub fn lost(&self, server: usize, why: &str) {
        let mut state = self.state();
        state.lacking[server] = true;
        state.failures[server] = Some(Failure { text: why.to_owned(), passes_in: None });
    }

    /// Why too few servers can be used.
    pub fn why(&self, shared: &Shared) -> Unreachable {
        let state = self.state();
        let missing: Vec<usize> = (0..state.lacking.len()).filter(|&server| state.lacking[server]).collect();
        let told = missing.iter().filter_map(|&server| Some(state.failures[server].as_ref()?.text.clone()));
        let mut texts: Vec<String> = told.collect();
        if shared.names.len() - texts.len() >= shared.majority {
            let silent = missing.iter().filter(|&&server| state.failures[server].is_none());
            texts.extend(silent.map(|&server| format!("{}: no answer yet", shared.names[server])));
        }
        let (majority, servers) = (shared.majority, shared.names.len());
        Unreachable(format!("fewer than {majority} of {servers} servers can be used: {}", texts.join("; ")))
    }

    /// Waits for a majority, and a moment for the rest.
    pub fn gather(&self, shared: &Shared, most: Duration) -> Result<(), Unreachable> {
        let begun = Instant::now();
        let servers = shared.members.len();
        let mut until = begun + most;
        let mut enough = false;
        let mut state = self.state();
        loop {
            let final_failure = |failure: &Option<Failure>| {
                failure.as_ref().is_some_and(|failure| {
                    failure.passes_in.is_none_or(|time| begun.elapsed() + time > shared.patience)
                })
            };
            let failed = state.failures.iter().filter(|failure| final_failure(failure)).count();
            let arrived = state.arrived.len();
            if arrived + failed == servers && arrived >= shared.majority {
                return Ok(());
            }
            if arrived >= shared.majority && !enough {
                enough = true;
                until = until.min(Instant::now() + (2 * begun.elapsed()).max(Duration::from_millis(5)));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() && enough {
                return Ok(());
            }
            if left.is_zero() || servers - failed < shared.majority {
                drop(state);
                return Err(self.why(shared));
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A link for requests.
pub struct Commands(pub Inbox<Box<dyn Connection>>);

impl Guest for Commands {
    fn lacks(&self, server: usize) -> bool {
        self.0.lacks_server(server)
    }

    fn serve(&self, shared: &Arc<Shared>, server: usize) -> Result<(), Failure> {
        self.0.deliver(server, shared.connect(server)?);
        Ok(())
    }

    fn failed(&self, server: usize, failure: &Failure) {
        self.0.note_failure(server, failure);
    }
}

/// A link for messages.
pub struct Listeners {
    pub inbox: Inbox<Box<dyn Subscription>>,
    pub channel: String,
}

impl Guest for Listeners {
    fn lacks(&self, server: usize) -> bool {
        self.inbox.lacks_server(server)
    }

    fn serve(&self, shared: &Arc<Shared>, server: usize) -> Result<(), Failure> {
        let subscription = shared.members[server].subscribe(&self.channel, Arc::new(|| {}))?;
        self.inbox.deliver(server, subscription);
        Ok(())
    }

    fn failed(&self, server: usize, failure: &Failure) {
        self.inbox.note_failure(server, failure);
    }
}
