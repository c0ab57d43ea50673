//! Runs the engine: the callers' threads, the one background thread, sockets, timers.
//!
//! A call takes the engine's mutex, tells it what the user wants, and carries out the actions that come back. If they
//! put a request on a link that nobody drives, the calling thread drives it itself (`link.rs`): on an idle locker a lock
//! and its release cost two round trips and no other thread. What is not tied to a caller (messages, renewals, timers,
//! submitted operations) is the background thread's (`background.rs`), started on first need. The engine's mutex is
//! never held across I/O.

mod background;
mod feed;
#[cfg(all(test, feature = "shuttle"))]
mod interleavings;
mod link;
mod mailbox;
mod slot;

use std::ffi::CStr;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use self::feed::{Feed, Reading};
use self::link::{Handover, Link, Submitted};
pub use self::mailbox::Mailbox;
use self::slot::Slot;
use crate::clock::now;
use crate::descriptors::{Signal, Watch, close_in_child};
use crate::engine::{Action, Answer, Config, Engine, HandleId, Lane, Operation, Time};
use crate::error::{Error, Result, Status};
use crate::event::{Event, EventKind};
use crate::store::{Connection, ErrorClass, Op, Reply, RequestId, Store, Unreachable};
use crate::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
#[cfg(all(test, feature = "shuttle"))]
use crate::sync::system::Thread;
use crate::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError, Weak, libc};
#[cfg(not(all(test, feature = "shuttle")))]
use crate::thread::Thread;

/// Command links of one locker; the second and the third are connected when requests crowd on those that are there. (Measured:
/// more links serve 8 threads better, fewer serve 64 better, since their requests then go out in larger batches.)
const COMMAND_LINKS: usize = 3;
/// With more requests than that on every link, one more link is connected: two threads that shared one would do half of what
/// they do on two (measured), since each would wait for the turn of the other.
const CROWD: usize = 1;
/// The renewals' link, after the command links.
const RENEWAL: usize = COMMAND_LINKS;
/// After a failure to connect a link that could be done without.
const EXTRA_PAUSE_US: Time = 500_000;
/// Between attempts to connect by a call that cannot wait for the engine's.
const PATIENT_PAUSE: Duration = Duration::from_millis(100);
/// A thread that drives a link looks at the engine's clock at least this often.
const TURN_MAX_US: Time = 20_000;
/// Near a call's deadline, this often.
const TURN_CLOSE_US: Time = 5_000;
/// While replies are outstanding: how often the background thread looks whether their time is over.
const OUTSTANDING_US: Time = 50_000;
/// A thread that waits for an answer looks this often whether the library has failed around it.
const LOOK_AROUND: Duration = Duration::from_secs(1);

/// Whom an operation's completion goes to.
#[derive(Clone)]
pub enum Tag {
    /// A blocking call.
    Slot(Arc<Slot>),
    /// A completion queue.
    Queue(Arc<Mailbox>, u64, HandleId),
}

/// The engine, and what must change together with it.
struct Guarded {
    engine: Engine<Tag>,
    /// Until when the background thread sleeps, unless it is woken. `Time::MAX`: there is none, or it has nothing to do.
    planned: Time,
    /// Was anything asked of the engine since the background thread looked last?
    used: bool,
    /// Was anything submitted since then, the reply of which may be outstanding when the background thread goes to sleep?
    submitted: bool,
    /// Does anybody wait until the engine is drained?
    closing: bool,
    mailboxes: Vec<Weak<Mailbox>>,
    /// One that a call has left behind, as new: most calls need no further.
    spare_slot: Option<Arc<Slot>>,
}

/// What became of the requests among the actions.
#[derive(Default)]
struct Sent {
    /// The link that they were put on and nobody drives.
    undriven: Option<usize>,
    /// Their link was down.
    refused: Vec<RequestId>,
}

/// One locker's machinery; its locks and queues share it.
pub struct Driver {
    pid: u32,
    store: Arc<dyn Store>,
    channel: Arc<str>,
    response_timeout: Duration,
    lease_us: Time,
    guarded: Mutex<Guarded>,
    drained: Condvar,
    links: [Link; COMMAND_LINKS + 1],
    /// One connect at a time; why the last one failed, and how many have.
    connecting: Mutex<Option<Unreachable>>,
    failures: AtomicU64,
    /// Which of the links are being connected in the background.
    link_asked: [AtomicBool; COMMAND_LINKS + 1],
    failed_at: [AtomicU64; COMMAND_LINKS + 1],
    feed: Feed,
    wake: Arc<Signal>,
    /// Replies that the background thread is to see to when they are there.
    watch: Watch,
    timer_fd: AtomicI32,
    stopped: AtomicBool,
    threads: Mutex<Vec<Thread>>,
    background_started: AtomicBool,
}

impl Driver {
    /// No I/O but the making of a descriptor.
    pub fn new(store: Arc<dyn Store>, config: Config) -> Result<Arc<Self>> {
        let failed = |e| Error::new(Status::Locker, format!("cannot make a descriptor: {e}"));
        let (wake, feed) = (Signal::new().map_err(failed)?, Feed::new().map_err(failed)?);
        Ok(Arc::new(Driver {
            pid: crate::process::id(),
            store,
            channel: Arc::clone(&config.channel),
            response_timeout: Duration::from_millis(config.response_timeout_ms),
            lease_us: config.lease_ms * 1_000,
            guarded: Mutex::new(Guarded {
                engine: Engine::new(config),
                planned: Time::MAX,
                used: false,
                submitted: false,
                closing: false,
                mailboxes: Vec::new(),
                spare_slot: None,
            }),
            drained: Condvar::new(),
            links: std::array::from_fn(|_| Link::new()),
            connecting: Mutex::default(),
            failures: AtomicU64::new(0),
            link_asked: Default::default(),
            failed_at: Default::default(),
            feed,
            wake: Arc::new(wake),
            watch: Watch::new(),
            timer_fd: AtomicI32::new(-1),
            stopped: AtomicBool::new(false),
            threads: Mutex::default(),
            background_started: AtomicBool::new(false),
        }))
    }

    /// What the store has to say about its server.
    pub fn warnings(&self) -> Vec<String> {
        self.store.warnings()
    }

    /// Before anything else, and before any mutex: is this still the process that made the locker?
    pub fn check_process(&self) -> Result<()> {
        if !self.is_forked() {
            return Ok(());
        }
        Err(Error::new(
            Status::Forked,
            "this handle was made before the process forked; make a new locker in the child",
        ))
    }

    pub fn is_forked(&self) -> bool {
        crate::process::id() != self.pid
    }

    /// In a forked child: close the descriptors, touch nothing else.
    pub fn close_in_child(&self) {
        self.store.take_descriptors_in_child().into_iter().for_each(close_in_child);
        close_in_child(self.timer_fd.load(Ordering::Relaxed));
        self.feed.close_in_child();
        self.wake.close_in_child();
        self.watch.close_in_child();
    }

    fn lock(&self) -> Result<MutexGuard<'_, Guarded>> {
        self.guarded.lock().map_err(|_| damaged())
    }

    /// Runs `f` on the engine, then carries out what it wants done. Returns the link that requests were put on.
    fn tell<R>(
        self: &Arc<Self>,
        prefer: Option<usize>,
        f: impl FnOnce(&mut Engine<Tag>, Time) -> R,
    ) -> Result<(R, Option<usize>)> {
        let mut guard = self.lock()?;
        guard.used = true;
        let result = f(&mut guard.engine, now());
        Ok((result, self.carry_out(guard, prefer)))
    }

    /// What is due. Returns the link that requests were put on.
    fn tick(self: &Arc<Self>) -> Result<Option<usize>> {
        let mut guard = self.lock()?;
        guard.engine.tick(now());
        Ok(self.carry_out(guard, None))
    }

    /// Carries out what the engine wants done, outside its mutex. Returns the link that requests were put on.
    fn carry_out(self: &Arc<Self>, mut guard: MutexGuard<'_, Guarded>, prefer: Option<usize>) -> Option<usize> {
        // There is hardly ever more than one: that one needs no room of its own.
        let first = guard.engine.next_action();
        let mut others = Vec::new();
        while let Some(action) = guard.engine.next_action() {
            others.push(action);
        }
        if guard.closing && guard.engine.is_drained() {
            self.drained.notify_all();
        }
        drop(guard);
        first.and_then(|first| self.perform(first, others, prefer))
    }

    /// Tells the engine something about its links; what that sends or sets is the background thread's to see to.
    fn report(self: &Arc<Self>, prefer: Option<usize>, f: impl FnOnce(&mut Engine<Tag>, Time)) {
        let told = self.tell(prefer, f);
        if !matches!(told, Ok((_, None))) {
            self.ensure_background();
        } else {
            let _ = self.look_after();
        }
    }

    // --- connecting ---

    /// Connects unless a live connection is there, patiently where the server is being replaced by another. Costs no round
    /// trip where there is a connection.
    pub fn ensure_connected(self: &Arc<Self>) -> Result<()> {
        let begun = Instant::now();
        loop {
            let Some(why) = self.try_to_connect()? else { return Ok(()) };
            if begun.elapsed() + PATIENT_PAUSE >= self.store.patience() || self.lock()?.engine.is_closed() {
                return Err(Error::new(Status::NotConnected, why));
            }
            std::thread::sleep(PATIENT_PAUSE);
        }
    }

    /// Connects unless a live connection is there; answers why that is not possible.
    fn try_to_connect(self: &Arc<Self>) -> Result<Option<Unreachable>> {
        if self.check_links()? {
            return Ok(None);
        }
        let failures = self.failures.load(Ordering::Acquire);
        let mut last = self.connecting.lock().unwrap_or_else(PoisonError::into_inner);
        if self.check_links()? {
            return Ok(None);
        }
        if self.links[0].is_up() {
            self.report(Some(0), |engine, now| engine.link_up(now));
            return Ok(None);
        }
        let tried = self.failures.load(Ordering::Acquire) != failures; // while this thread waited for its turn
        Ok(if tried { last.clone() } else { self.connect(0, &mut last).err() })
    }

    /// Is a command link up that has not been closed by the other side?
    fn check_links(self: &Arc<Self>) -> Result<bool> {
        if !self.lock()?.engine.is_link_up() {
            return Ok(false);
        }
        let mut orphaned = false;
        for (index, link) in self.links[..COMMAND_LINKS].iter().enumerate() {
            if let Some(connection) = link.take(None) {
                orphaned |= self.drive(index, connection, None, None);
            }
        }
        if orphaned {
            self.ensure_background();
        }
        Ok(self.lock()?.engine.is_link_up())
    }

    fn is_any_up(&self) -> bool {
        self.links[..COMMAND_LINKS].iter().any(Link::is_up)
    }

    /// Connects a link and tells the engine. Blocks at most for the connect and response timeouts.
    fn connect(self: &Arc<Self>, index: usize, last: &mut Option<Unreachable>) -> std::result::Result<(), Unreachable> {
        let highest = self.guarded.lock().unwrap_or_else(PoisonError::into_inner).engine.highest_token();
        let outcome = self.store.connect(highest);
        // Before the engine is told: what it asks for next must not be taken for under way.
        self.link_asked[index].store(false, Ordering::Release);
        match outcome {
            Ok(connection) => {
                self.links[index].install(connection);
                if index < COMMAND_LINKS {
                    self.report(Some(index), |engine, now| engine.link_up(now));
                } else {
                    self.report(None, |engine, now| engine.renewal_link(now, true));
                }
                Ok(())
            }
            Err(why) => {
                if index < COMMAND_LINKS {
                    self.report(None, |engine, now| engine.link_failed(now, &why.0));
                }
                self.failed_at[index].store(now(), Ordering::Release);
                *last = Some(why.clone());
                self.failures.fetch_add(1, Ordering::AcqRel);
                Err(why)
            }
        }
    }

    /// Connects a link on a thread of its own, unless that is under way: a name server or a handshake may take seconds.
    fn connect_in_background(self: &Arc<Self>, index: usize) {
        // The first link's pauses between attempts are the engine's; the others are extras.
        let paused = index != 0 && now() < self.failed_at[index].load(Ordering::Acquire) + EXTRA_PAUSE_US;
        if paused || self.link_asked[index].swap(true, Ordering::AcqRel) {
            return;
        }
        let driver = Arc::clone(self);
        let started = self.spawn(c"dlock-connect", move || {
            let mut last = driver.connecting.lock().unwrap_or_else(PoisonError::into_inner);
            if !driver.links[index].is_up() && !driver.stopped.load(Ordering::Acquire) {
                let _ = driver.connect(index, &mut last);
            } else {
                driver.link_asked[index].store(false, Ordering::Release);
                if index < COMMAND_LINKS {
                    driver.report(Some(index), |engine, now| engine.link_up(now));
                }
            }
        });
        if !started {
            self.link_asked[index].store(false, Ordering::Release);
            if index < COMMAND_LINKS {
                let _ = self.tell(None, |engine, now| engine.link_failed(now, "cannot start a thread to connect"));
            }
        }
    }

    fn subscribe_in_background(self: &Arc<Self>) {
        let driver = Arc::clone(self);
        let started = self.spawn(c"dlock-subscribe", move || {
            let asked_at = now();
            let signal = Arc::clone(&driver.wake);
            match driver.store.subscribe(&driver.channel, Arc::new(move || signal.raise())) {
                Ok(subscription) => {
                    driver.feed.install(subscription);
                    let _ = driver.tell(None, |engine, now| engine.subscribed(now, asked_at));
                    driver.feed.pass();
                }
                Err(_) => drop(driver.tell(None, |engine, now| engine.subscribe_failed(now))),
            }
            driver.ensure_background();
        });
        if !started {
            let _ = self.tell(None, |engine, now| engine.subscribe_failed(now));
        }
    }

    /// False: no thread is to be had. The engine's timers ask again.
    fn spawn(self: &Arc<Self>, name: &'static CStr, body: impl FnOnce() + Send + 'static) -> bool {
        if self.stopped.load(Ordering::Acquire) {
            return true;
        }
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|thread| !thread.is_finished());
        Thread::spawn(name, body).map(|thread| threads.push(thread)).is_ok()
    }

    // --- the background thread ---

    /// Starts the background thread, if it is not there. False: none is to be had.
    fn ensure_background(self: &Arc<Self>) -> bool {
        if !self.background_started.swap(true, Ordering::AcqRel) {
            let driver = Arc::clone(self);
            if !self.spawn(c"dlock", move || driver.run()) {
                self.background_started.store(false, Ordering::Release);
                return false;
            }
        }
        self.wake.raise();
        true
    }

    /// Is the background thread there, or could it be started?
    fn has_background(self: &Arc<Self>) -> bool {
        self.background_started.load(Ordering::Acquire) || self.ensure_background()
    }

    /// How long a call may sleep that waits for others: without a background thread it sees to the timers itself.
    fn nap(&self) -> Result<Duration> {
        if self.background_started.load(Ordering::Acquire) {
            return Ok(LOOK_AROUND);
        }
        let next = self.lock()?.engine.next_timer().unwrap_or(Time::MAX);
        Ok(Duration::from_micros(next.saturating_sub(now())).min(LOOK_AROUND))
    }

    /// After a nap: does the background thread's work where none is to be had.
    fn stand_in(self: &Arc<Self>, slot: &Slot, due: Option<Time>) -> Result<()> {
        if self.has_background() {
            return Ok(());
        }
        self.tick()?;
        for (index, link) in self.links.iter().enumerate().filter(|(_, link)| link.is_left()) {
            if let Some(connection) = link.take(None) {
                self.drive(index, connection, Some(slot), due);
            }
        }
        Ok(())
    }

    /// Does the engine need the background thread before that thread would wake by itself? `own`: a time that the
    /// calling thread looks after.
    fn needs_background(&self, guard: &Guarded, own: Option<Time>) -> bool {
        guard.engine.next_timer().is_some_and(|at| at < guard.planned && own.is_none_or(|own| at < own))
    }

    // --- carrying out ---

    /// Carries out actions. Returns the link that requests were put on and nobody drives.
    fn perform(self: &Arc<Self>, first: Action<Tag>, others: Vec<Action<Tag>>, prefer: Option<usize>) -> Option<usize> {
        let mut sent = Sent::default();
        self.act(first, prefer, &mut sent);
        let mut todo = others;
        loop {
            for action in todo.drain(..) {
                self.act(action, prefer, &mut sent);
            }
            if sent.refused.is_empty() {
                return sent.undriven;
            }
            let Ok(mut guard) = self.lock() else { return None };
            if !self.is_any_up() {
                guard.engine.link_down(now(), "the connection ended");
            }
            guard.engine.lost(now(), Lane::Command, &std::mem::take(&mut sent.refused), "the connection ended");
            guard.engine.take_actions(&mut todo);
        }
    }

    fn act(self: &Arc<Self>, action: Action<Tag>, prefer: Option<usize>, sent: &mut Sent) {
        match action {
            Action::Send { lane, id, request } => {
                // Who asks first is to be first in the queue: joins go out in order, on one link. (One that a link's driver
                // sends has a place already.)
                let joins = matches!(request.op, Op::Join { queue: true, .. });
                let index = self.choose(lane, prefer.or(joins.then_some(0)));
                match self.links[index].submit(id, request) {
                    // Renewals are the background thread's, as is all that the calling thread won't drive.
                    Ok(Submitted::Undriven) if index == RENEWAL || sent.undriven.is_some_and(|u| u != index) => {
                        self.ensure_background();
                    }
                    Ok(Submitted::Undriven) => sent.undriven = Some(index),
                    Ok(Submitted::Driven) => {
                        self.widen(index);
                        sent.undriven = sent.undriven.or(Some(index));
                    }
                    Err(id) => sent.refused.push(id),
                }
            }
            Action::Complete { tag, operation, result } => self.complete(tag, operation, result),
            Action::Lost { tag, token, error } => {
                if let Tag::Queue(mailbox, user_data, handle) = tag {
                    let kind = EventKind::Lost;
                    let event = Event { user_data, kind, error: Some(error), flag: false, token, owner: None };
                    mailbox.post(handle, event);
                }
            }
            Action::Connect => self.connect_in_background(0),
            Action::Subscribe => self.subscribe_in_background(),
            Action::Ping(number) => {
                if !self.feed.ping(number) {
                    self.ensure_background();
                }
            }
            Action::DropSubscription => self.feed.end(),
        }
    }

    /// A link for a request: the preferred one, a free one (joins have the first), or the one with the smallest crowd.
    fn choose(self: &Arc<Self>, lane: Lane, prefer: Option<usize>) -> usize {
        if lane == Lane::Renewal {
            if self.links[RENEWAL].is_up() {
                return RENEWAL;
            }
            self.connect_in_background(RENEWAL);
        }
        if let Some(index) = prefer.filter(|&index| index < COMMAND_LINKS && self.links[index].is_up()) {
            return index;
        }
        let commands = &self.links[..COMMAND_LINKS];
        if let Some(index) = commands.iter().rposition(Link::is_free) {
            return index;
        }
        // All are driven: join the smallest crowd.
        let crowd = |&index: &usize| if commands[index].is_up() { commands[index].crowd() } else { usize::MAX };
        (0..COMMAND_LINKS).min_by_key(crowd).unwrap_or(0)
    }

    /// Calls crowd on that link: connects one more, if there may be one.
    fn widen(self: &Arc<Self>, index: usize) {
        if index < COMMAND_LINKS
            && self.links[index].crowd() > CROWD
            && let Some(down) = self.links[..COMMAND_LINKS].iter().position(|link| !link.is_up())
        {
            self.connect_in_background(down);
        }
    }

    fn complete(self: &Arc<Self>, tag: Tag, operation: Operation, result: Result<Answer>) {
        match tag {
            Tag::Slot(slot) => slot.complete(result),
            Tag::Queue(mailbox, user_data, handle) => {
                let event = Event::new(user_data, operation, result);
                let token = event.token;
                if !mailbox.post(handle, event) && token != 0 {
                    // The queue is gone: hand the lock on.
                    let _ = self.tell(None, |engine, now| engine.hand_on(now, handle, token));
                    self.ensure_background();
                }
            }
        }
    }

    // --- driving ---

    /// Drives a link until `slot` is answered, or (without one) as far as it goes without waiting. `due`: when the
    /// call's deadline is. True: replies are outstanding, and somebody else must see to them.
    fn drive(
        self: &Arc<Self>,
        index: usize,
        connection: Box<dyn Connection>,
        slot: Option<&Slot>,
        due: Option<Time>,
    ) -> bool {
        let link = &self.links[index];
        let mut connection = connection;
        let _watched = Watched { driver: self, index };
        loop {
            let mut replies = link.load(&mut *connection);
            let waits = slot.is_some_and(|slot| !slot.is_done());
            let wait = if waits { turn_length(due) } else { 0 };
            let turned = connection.turn(Duration::from_micros(wait), &mut replies);
            let came = !replies.is_empty();
            link.answered(replies.len());
            if let Err(why) = self.digest(index, &mut replies, turned, waits, due) {
                self.link_ended(index, connection, &why);
                return false;
            }
            let stay = slot.map_or(came, |slot| !slot.is_done());
            match link.give_back(connection, replies, stay) {
                Handover::More(back) => connection = back,
                Handover::Idle | Handover::Passed => break,
                Handover::Orphaned => return true,
            }
        }
        // A reply may have told that another call, whose thread sleeps, is to wait for a message.
        if self.feed.is_unattended()
            && slot.is_none_or(Slot::is_done)
            && self.lock().is_ok_and(|guard| guard.engine.wants_messages())
        {
            self.ensure_background();
        }
        false
    }

    /// Tells the engine what a turn brought. `Err`: the connection will not do any more.
    fn digest(
        self: &Arc<Self>,
        index: usize,
        replies: &mut Vec<(RequestId, Reply)>,
        turned: std::result::Result<(), Unreachable>,
        waits: bool,
        due: Option<Time>,
    ) -> std::result::Result<(), Unreachable> {
        let mut broken = turned.err();
        let (mut lost, mut node_ended) = (Vec::new(), None);
        if (!replies.is_empty() || waits)
            && let Ok(mut guard) = self.lock()
        {
            let now = now();
            for (id, reply) in replies.drain(..) {
                if let Reply::Lost(why) = reply {
                    node_ended = Some(why);
                    lost.push(id);
                } else if let Reply::Error(error) = &reply
                    && error.class == ErrorClass::Reconnect
                {
                    broken.get_or_insert(Unreachable(format!("{}: {}", self.store.address(), error.text)));
                    lost.push(id);
                } else {
                    guard.engine.reply(now, id, reply);
                }
            }
            if waits {
                guard.engine.tick(now);
            }
            let needs_background = self.needs_background(&guard, if waits { due } else { None });
            let put = self.carry_out(guard, Some(index));
            if needs_background || put.is_some_and(|put| put != index) {
                self.ensure_background();
            }
        }
        if let Some(why) = broken.as_ref().or(node_ended.as_ref())
            && !lost.is_empty()
        {
            self.requests_lost(index, &lost, why);
            self.ensure_background();
        }
        broken.map_or(Ok(()), Err)
    }

    /// The connection of a link is dead.
    fn link_ended(self: &Arc<Self>, index: usize, connection: Box<dyn Connection>, why: &Unreachable) {
        let mut lost = connection.pending();
        lost.extend(self.links[index].take_down());
        drop(connection);
        self.requests_lost(index, &lost, why);
        self.ensure_background();
    }

    fn requests_lost(self: &Arc<Self>, index: usize, ids: &[RequestId], why: &Unreachable) {
        let lane = if index == RENEWAL { Lane::Renewal } else { Lane::Command };
        let _ = self.tell(None, |engine, now| {
            // Under the engine's mutex, so that no link comes up between the look and the telling.
            match lane {
                Lane::Command if !self.is_any_up() => engine.link_down(now, &why.0),
                Lane::Renewal => engine.renewal_link(now, self.links[RENEWAL].is_up()),
                Lane::Command => {}
            }
            engine.lost(now, lane, ids, &why.0);
        });
    }

    // --- calls ---

    pub fn open(&self, name: Arc<crate::store::Name>, owner: uuid::Uuid) -> Result<HandleId> {
        self.lock()?.engine.open(name, owner)
    }

    /// Runs an operation to its end on the calling thread.
    pub fn call(self: &Arc<Self>, handle: HandleId, operation: Operation) -> Result<Answer> {
        let mut guard = self.lock()?;
        guard.used = true;
        let mut slot = guard.spare_slot.take().unwrap_or_default();
        let tag = Tag::Slot(Arc::clone(&slot));
        let started = guard.engine.start(now(), handle, operation, tag);
        let link = self.carry_out(guard, None);
        started?;
        let due = if let Operation::Acquire { deadline } = operation { deadline } else { None };
        loop {
            if let Some(index) = link {
                if slot.is_done() {
                    // Another drove, or the answer needed no round trip; what else was sent is then left to the background thread.
                    if self.links[index].is_left() {
                        self.ensure_background();
                    }
                } else if let Some(connection) = self.links[index].take(Some(&slot))
                    && self.drive(index, connection, Some(&slot), due)
                {
                    self.ensure_background();
                }
            }
            if slot.is_done() {
                break;
            }
            self.look_after()?;
            if self.lock()?.engine.awaits_message(handle) {
                self.listen(&slot, due)?;
            } else if slot.declines_to_read() && !self.feed.pass() {
                self.ensure_background();
            }
            if slot.is_done() {
                break;
            }
            while !slot.wait(self.nap()?) {
                drop(self.lock()?); // a defect elsewhere must not leave this call waiting
                self.stand_in(&slot, due)?;
            }
        }
        let (answer, asked) = slot.end();
        let mut guard = self.lock()?;
        // Timers are left to the background thread now, and so is what somebody counted on this thread for.
        let needs_background = asked || self.needs_background(&guard, None);
        if let Some(unshared) = Arc::get_mut(&mut slot) {
            *unshared = Slot::default();
            guard.spare_slot = Some(slot);
        }
        drop(guard);
        if needs_background {
            self.ensure_background();
        }
        answer.unwrap_or_else(|| Err(damaged()))
    }

    /// Reads the subscription for as long as this call waits for a message and is asked for nothing else.
    fn listen(self: &Arc<Self>, slot: &Arc<Slot>, due: Option<Time>) -> Result<()> {
        slot.reads();
        let Some(mut reading) = self.feed.take(Some(slot)) else { return Ok(()) };
        let signal = Arc::clone(&reading.signal);
        while self.attend(&mut reading)? {
            if !slot.begin_poll(&signal) {
                if !self.feed.give_back(reading) && self.lock()?.engine.wants_messages() {
                    self.ensure_background();
                }
                return Ok(());
            }
            poll_readable(&[reading.subscription.fd().unwrap_or(-1), signal.fd()], self.nap()?);
            slot.end_poll();
            signal.clear();
            self.stand_in(slot, due)?;
        }
        Ok(())
    }

    /// Sends the pings that are due and tells the engine what has come. False: this subscription is over.
    fn attend(self: &Arc<Self>, reading: &mut Reading) -> Result<bool> {
        let Some(pings) = self.feed.pings(reading.generation) else { return Ok(false) };
        let mut pushes = Vec::new();
        let subscription = &mut reading.subscription;
        let pinged = pings.into_iter().try_for_each(|number| subscription.ping(number));
        let alive = subscription.receive(&mut pushes).and(pinged).is_ok();
        if !pushes.is_empty() {
            let generation = reading.generation;
            let (_, put) = self.tell(None, |engine, now| {
                if self.feed.is_current(generation) {
                    pushes.into_iter().for_each(|push| engine.push(now, push));
                }
            })?;
            if put.is_some() {
                self.ensure_background();
            }
        }
        if !alive {
            self.feed.ended(reading.generation);
            self.report(None, |engine, now| engine.unsubscribed(now));
        }
        Ok(alive)
    }

    /// Sees to it that somebody looks after the engine's timers.
    fn look_after(self: &Arc<Self>) -> Result<()> {
        let guard = self.lock()?;
        if self.needs_background(&guard, None) {
            drop(guard);
            self.ensure_background();
        }
        Ok(())
    }

    /// Starts an operation whose completion goes to a queue.
    pub fn submit(self: &Arc<Self>, handle: HandleId, operation: Operation, tag: Tag) -> Result<()> {
        let Tag::Queue(mailbox, ..) = &tag else { unreachable!("a call has a slot and is not submitted") };
        let mailbox = Arc::clone(mailbox);
        if !self.has_background() {
            return Err(Error::new(Status::Locker, "the system has no thread left, which what is submitted needs"));
        }
        mailbox.expect();
        // All on one link: what is submitted first arrives first, and is first in a queue.
        let started = self.tell(Some(0), |engine, now| engine.start(now, handle, operation, tag));
        let (started, link) = started.map_or_else(|e| (Err(e), None), |(started, link)| (started, link));
        if started.is_err() {
            mailbox.expect_no_more();
        }
        if !link.is_some_and(|index| self.send_now(index)) {
            self.ensure_background();
        }
        started
    }

    /// Sends what was put on an idle link from the calling thread, without waiting, where the background thread sleeps and
    /// looks soon by itself; the reply wakes it. False: it must be woken now.
    fn send_now(self: &Arc<Self>, index: usize) -> bool {
        let Ok(mut guard) = self.lock() else { return false };
        guard.submitted = true;
        if guard.planned > now() + OUTSTANDING_US || self.needs_background(&guard, None) {
            return false;
        }
        drop(guard);
        let link = &self.links[index];
        let Some(connection) = link.take_idle() else { return false };
        !self.drive(index, connection, None, None) || link.arm(&self.watch)
    }

    /// Anything else that is asked of the engine; nothing waits for its round trips.
    pub fn ask<R>(self: &Arc<Self>, f: impl FnOnce(&mut Engine<Tag>, Time) -> R) -> Result<R> {
        let (result, link) = self.tell(None, f)?;
        if link.is_some() {
            self.ensure_background();
        } else {
            self.look_after()?;
        }
        Ok(result)
    }

    /// Reads the engine, changing nothing.
    pub fn read<R>(&self, f: impl FnOnce(&Engine<Tag>, Time) -> R) -> Result<R> {
        Ok(f(&self.lock()?.engine, now()))
    }

    /// Ends everything: pending calls answer `Closed`, what is held is released; waits for that at most one response
    /// timeout.
    pub fn close(self: &Arc<Self>) -> Result<()> {
        self.ask(|engine, now| engine.close(now))?;
        self.ensure_background();
        let mut guard = self.lock()?;
        guard.closing = true;
        for mailbox in guard.mailboxes.drain(..).filter_map(|mailbox| mailbox.upgrade()) {
            mailbox.end();
        }
        let limit = self.response_timeout;
        let waited = self.drained.wait_timeout_while(guard, limit, |guarded| !guarded.engine.is_drained());
        waited.map(drop).map_err(|_| damaged())
    }

    /// A queue's mailbox, to be ended when the locker is closed.
    pub fn register(&self, mailbox: &Arc<Mailbox>) -> Result<()> {
        let mut guard = self.lock()?;
        if guard.engine.is_closed() {
            return Err(Error::new(Status::Closed, "the locker is closed"));
        }
        guard.mailboxes.retain(|mailbox| mailbox.strong_count() > 0);
        guard.mailboxes.push(Arc::downgrade(mailbox));
        Ok(())
    }

    /// Closes, joins the threads, and closes the connections.
    pub fn shut_down(self: &Arc<Self>) {
        let _ = self.close();
        self.stopped.store(true, Ordering::Release);
        self.store.stop();
        self.wake.raise();
        loop {
            let thread = self.threads.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(thread) = thread else { break };
            thread.join();
        }
        for link in &self.links {
            drop(link.take(None));
            link.take_down();
        }
        self.feed.end();
    }

    /// After a defect: every pending call gets an answer.
    fn fail_everybody(&self) {
        let mut guard = match self.guarded.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        for (operation, tag) in guard.engine.abandon() {
            match tag {
                Tag::Slot(slot) => slot.complete(Err(damaged())),
                Tag::Queue(mailbox, user_data, handle) => {
                    mailbox.post(handle, Event::new(user_data, operation, Err(damaged())));
                }
            }
        }
    }
}

/// A driver that panics must not leave its link without one for ever.
struct Watched<'a> {
    driver: &'a Driver,
    index: usize,
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.driver.links[self.index].take_down();
            self.driver.fail_everybody();
        }
    }
}

/// How long a driver's turn may take, in microseconds, so that its call notices its deadline.
fn turn_length(due: Option<Time>) -> Time {
    match due {
        None => TURN_MAX_US,
        Some(due) => {
            let left = due.saturating_sub(now());
            if left == 0 { TURN_CLOSE_US } else { left.min(TURN_MAX_US) }
        }
    }
}

fn damaged() -> Error {
    Error::new(Status::Panic, "a defect inside dlock stopped this locker; free it and make another")
}

/// Waits until one of those is readable, at most that long.
fn poll_readable(fds: &[RawFd], limit: Duration) {
    let mut fds: Vec<libc::pollfd> =
        fds.iter().map(|&fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
    // SAFETY: a valid array of that length; negative descriptors are ignored.
    unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, limit.as_micros().div_ceil(1_000) as i32) };
}
