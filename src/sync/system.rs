//! The system calls of `src/driver/` and `src/descriptors/` for the checker: descriptors that stand for eventfd, epoll, timerfd and sockets, a clock
//! that the checker moves, threads. Each call that another thread could notice is a point at which the checker may switch. It
//! is stricter than a kernel: whoever uses a descriptor that is closed has failed, even where a kernel would refuse it.
//!
//! One world an execution, reached by a thread-local, since the checker runs all its threads on one of the system's.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::CStr;

use shuttle::scheduler::TaskId;
use shuttle::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

// The types and numbers are the system's; the functions below take the place of its.
pub(crate) use ::libc::*;

/// Descriptors begin here, the lowest free one first, so that one that is closed is soon another's.
const FIRST: i32 = 1_000;

type Object = u64;

#[derive(Debug)]
enum Kind {
    Event {
        count: u64,
    },
    Timer {
        at: Option<u64>,
    },
    Watch {
        armed: BTreeMap<Object, bool>,
    },
    /// One end of a connection: is there something to read?
    Stream {
        ready: bool,
    },
}

#[derive(Default)]
struct Kernel {
    descriptors: Vec<Option<Object>>,
    /// Closed ones stay: somebody may poll them yet.
    objects: BTreeMap<Object, Kind>,
    /// What the threads poll that wait, and until when.
    polls: BTreeMap<u64, (Vec<Object>, Option<u64>)>,
    next: u64,
}

/// What one execution's threads share with the system.
pub(crate) struct World {
    kernel: Mutex<Kernel>,
    changed: Condvar,
    /// Outside the mutex, so that to look at the clock is no point to switch at.
    now: std::sync::atomic::AtomicU64,
    /// The task that moves the clock; see [`World::run_clock`].
    clock: std::sync::Mutex<Option<TaskId>>,
    violations: std::sync::Mutex<Vec<String>>,
}

thread_local! {
    static WORLD: RefCell<Option<Arc<World>>> = const { RefCell::new(None) };
}

impl World {
    /// A new one, for this thread of the system and those that the checker runs on it.
    pub(crate) fn begin() -> Arc<World> {
        let world = Arc::new(World {
            kernel: Mutex::default(),
            changed: Condvar::new(),
            now: std::sync::atomic::AtomicU64::new(1_000_000),
            clock: std::sync::Mutex::default(),
            violations: std::sync::Mutex::default(),
        });
        WORLD.with(|slot| *slot.borrow_mut() = Some(Arc::clone(&world)));
        world
    }

    pub(crate) fn end() {
        WORLD.with(|slot| *slot.borrow_mut() = None);
    }

    pub(crate) fn current() -> Option<Arc<World>> {
        WORLD.with(|slot| slot.borrow().clone())
    }

    fn here() -> Arc<World> {
        Self::current().expect("this code runs under the checker")
    }

    fn kernel(&self) -> MutexGuard<'_, Kernel> {
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is wrong. Noted besides the panic, which the code under test may catch.
    pub(crate) fn violation(&self, text: String) -> ! {
        self.violations.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(text.clone());
        panic!("{text}");
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.violations.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    pub(crate) fn now(&self) -> u64 {
        self.now.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// The task that moves the clock, which the scheduler lets run when nobody else can.
    pub(crate) fn clock(&self) -> Option<TaskId> {
        *self.clock.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Runs as a thread of the checker, until `over`. The scheduler lets it go on only when all others sleep: then the clock is
    /// set to the earliest time that somebody waits for. Where `stands`, or where nobody waits for any, somebody was forgotten.
    pub(crate) fn run_clock(&self, stands: bool, over: &std::sync::atomic::AtomicBool) {
        *self.clock.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(shuttle::current::me());
        loop {
            shuttle::thread::yield_now();
            if over.load(std::sync::atomic::Ordering::SeqCst) {
                return;
            }
            let kernel = self.kernel();
            match kernel.next_time(self.now()).filter(|_| !stands) {
                Some(at) => self.now.store(at, std::sync::atomic::Ordering::SeqCst),
                None => {
                    let polls = format!("{:?} of {:?}", kernel.polls, kernel.objects);
                    drop(kernel);
                    self.violation(format!("a wake-up is lost: every thread sleeps; polled: {polls}"));
                }
            }
            drop(kernel);
            self.changed.notify_all();
        }
    }

    // --- streams, for the connections of a test ---

    /// A new one, and what it is called in [`set_ready`](Self::set_ready).
    pub(crate) fn stream(&self) -> (Descriptor, u64) {
        let mut kernel = self.kernel();
        let object = kernel.make(Kind::Stream { ready: false });
        (Descriptor(kernel.open(object)), object)
    }

    /// Is there something to read?
    pub(crate) fn set_ready(&self, stream: u64, ready: bool) {
        if let Some(Kind::Stream { ready: now }) = self.kernel().objects.get_mut(&stream) {
            *now = ready;
        }
        self.changed.notify_all();
    }
}

/// The descriptor of a stream, closed when dropped.
pub(crate) struct Descriptor(pub(crate) i32);

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours, and of the checker's world.
        unsafe { close(self.0) };
    }
}

impl Kernel {
    fn make(&mut self, kind: Kind) -> Object {
        self.next += 1;
        self.objects.insert(self.next, kind);
        self.next
    }

    fn open(&mut self, object: Object) -> i32 {
        let free = self.descriptors.iter().position(Option::is_none).unwrap_or_else(|| {
            self.descriptors.push(None);
            self.descriptors.len() - 1
        });
        self.descriptors[free] = Some(object);
        FIRST + free as i32
    }

    fn object(&self, fd: i32) -> Option<Object> {
        usize::try_from(fd - FIRST).ok().and_then(|index| self.descriptors.get(index).copied().flatten())
    }

    fn is_readable(&self, object: Object, now: u64) -> bool {
        match &self.objects[&object] {
            Kind::Event { count } => *count > 0,
            Kind::Timer { at } => at.is_some_and(|at| at <= now),
            Kind::Watch { armed } => armed.iter().any(|(&watched, &on)| on && self.is_readable(watched, now)),
            Kind::Stream { ready } => *ready,
        }
    }

    /// The next time at which one of those who poll wakes.
    fn next_time(&self, now: u64) -> Option<u64> {
        let timers = |objects: &[Object]| {
            let times = objects.iter().filter_map(|object| match self.objects[object] {
                Kind::Timer { at } => at,
                _ => None,
            });
            times.min()
        };
        let times = self.polls.values().filter_map(|(objects, until)| timers(objects).into_iter().chain(*until).min());
        times.min().map(|at| at.max(now))
    }
}

/// The object of a descriptor, and the kernel, which the checker may have let others at before.
fn with<R>(fd: i32, call: &str, f: impl FnOnce(&mut Kernel, Object) -> R) -> R {
    let world = World::here();
    let mut kernel = world.kernel();
    let Some(object) = kernel.object(fd) else {
        drop(kernel);
        world.violation(format!("{call} of a descriptor that is not open"));
    };
    let result = f(&mut kernel, object);
    drop(kernel);
    world.changed.notify_all();
    result
}

fn new(kind: Kind) -> i32 {
    let world = World::here();
    let mut kernel = world.kernel();
    let object = kernel.make(kind);
    kernel.open(object)
}

// --- what the code under test calls; the contracts are the system's ---

pub(crate) unsafe fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    let Some(world) = World::current() else { return unsafe { ::libc::clock_gettime(clock, time) } };
    let now = world.now();
    let now = timespec { tv_sec: (now / 1_000_000) as _, tv_nsec: (now % 1_000_000 * 1_000) as _ };
    unsafe { *time = now };
    0
}

pub(crate) unsafe fn eventfd(_count: c_uint, _flags: c_int) -> c_int {
    new(Kind::Event { count: 0 })
}

pub(crate) unsafe fn write(fd: c_int, bytes: *const c_void, length: size_t) -> ssize_t {
    assert_eq!(length, 8);
    let more = unsafe { bytes.cast::<u64>().read_unaligned() };
    with(fd, "write", |kernel, object| match kernel.objects.get_mut(&object) {
        Some(Kind::Event { count }) => *count += more,
        other => panic!("write to {other:?}"),
    });
    8
}

pub(crate) unsafe fn read(fd: c_int, bytes: *mut c_void, length: size_t) -> ssize_t {
    assert!(length >= 8);
    let count = with(fd, "read", |kernel, object| match kernel.objects.get_mut(&object) {
        Some(Kind::Event { count }) => std::mem::take(count),
        other => panic!("read of {other:?}"),
    });
    if count == 0 {
        return -1;
    }
    unsafe { bytes.cast::<u64>().write_unaligned(count) };
    8
}

pub(crate) unsafe fn close(fd: c_int) -> c_int {
    with(fd, "close", |kernel, closed| {
        for kind in kernel.objects.values_mut() {
            if let Kind::Watch { armed } = kind {
                armed.remove(&closed);
            }
        }
        kernel.descriptors[(fd - FIRST) as usize] = None;
    });
    0
}

/// A descriptor that another thread closed meanwhile is let pass, as by the system: whoever closes it wakes the sleeper.
pub(crate) unsafe fn poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int {
    let fds = unsafe { std::slice::from_raw_parts(fds, count as usize) };
    let world = World::here();
    let until = (timeout >= 0).then(|| world.now() + timeout as u64 * 1_000);
    let mut kernel = world.kernel();
    let asked = fds.iter().filter(|one| one.fd >= 0);
    let objects: Vec<Object> = asked.clone().filter_map(|one| kernel.object(one.fd)).collect();
    if objects.len() < asked.count() || fds.iter().any(|one| one.events & POLLOUT != 0) {
        return 1; // closed, or writable
    }
    kernel.next += 1;
    let number = kernel.next;
    kernel.polls.insert(number, (objects.clone(), until));
    loop {
        let ready = objects.iter().filter(|&&object| kernel.is_readable(object, world.now())).count();
        if ready > 0 || until.is_some_and(|until| until <= world.now()) {
            kernel.polls.remove(&number);
            return ready as c_int;
        }
        kernel = world.changed.wait(kernel).unwrap_or_else(PoisonError::into_inner);
    }
}

pub(crate) unsafe fn epoll_create1(_flags: c_int) -> c_int {
    new(Kind::Watch { armed: BTreeMap::new() })
}

pub(crate) unsafe fn epoll_ctl(watch: c_int, what: c_int, fd: c_int, _event: *mut epoll_event) -> c_int {
    let watched = with(fd, "epoll_ctl", |_, object| object);
    with(watch, "epoll_ctl", |kernel, object| match kernel.objects.get_mut(&object) {
        Some(Kind::Watch { armed }) if armed.contains_key(&watched) == (what == EPOLL_CTL_MOD) => {
            armed.insert(watched, true);
            0
        }
        Some(Kind::Watch { .. }) => -1,
        other => panic!("epoll_ctl of {other:?}"),
    })
}

/// Only as it is used here: without waiting, for descriptors that are armed for one event.
pub(crate) unsafe fn epoll_wait(watch: c_int, _events: *mut epoll_event, count: c_int, timeout: c_int) -> c_int {
    assert_eq!(timeout, 0);
    let now = World::here().now();
    with(watch, "epoll_wait", |kernel, object| {
        let Some(Kind::Watch { armed }) = kernel.objects.get(&object) else { panic!("epoll_wait of no epoll") };
        let on = armed.iter().filter(|(_, on)| **on).map(|(&watched, _)| watched);
        let ready: Vec<Object> = on.filter(|&watched| kernel.is_readable(watched, now)).take(count as usize).collect();
        if let Some(Kind::Watch { armed }) = kernel.objects.get_mut(&object) {
            armed.extend(ready.iter().map(|&watched| (watched, false)));
        }
        ready.len() as c_int
    })
}

pub(crate) unsafe fn timerfd_create(_clock: c_int, _flags: c_int) -> c_int {
    new(Kind::Timer { at: None })
}

pub(crate) unsafe fn timerfd_settime(fd: c_int, _flags: c_int, new: *const itimerspec, _old: *mut itimerspec) -> c_int {
    let when = unsafe { (*new).it_value };
    let at = when.tv_sec as u64 * 1_000_000 + when.tv_nsec as u64 / 1_000;
    with(fd, "timerfd_settime", |kernel, object| match kernel.objects.get_mut(&object) {
        Some(Kind::Timer { at: set }) => *set = (at > 0).then_some(at),
        other => panic!("timerfd_settime of {other:?}"),
    });
    0
}

/// The checker's threads, with what `std::thread` has besides.
pub(crate) mod thread {
    use std::io;

    use shuttle::sync::Arc;
    use shuttle::sync::atomic::{AtomicBool, Ordering};

    pub(crate) struct Builder(shuttle::thread::Builder);

    pub(crate) struct JoinHandle<T>(shuttle::thread::JoinHandle<T>, Arc<AtomicBool>);

    impl Builder {
        pub(crate) fn new() -> Self {
            Builder(shuttle::thread::Builder::new())
        }

        pub(crate) fn name(self, name: String) -> Self {
            Builder(self.0.name(name))
        }

        pub(crate) fn spawn<T: Send + 'static>(
            self,
            body: impl FnOnce() -> T + Send + 'static,
        ) -> io::Result<JoinHandle<T>> {
            let finished = Arc::new(AtomicBool::new(false));
            let finishes = Arc::clone(&finished);
            let thread = self.0.spawn(move || {
                let result = body();
                finishes.store(true, Ordering::Release);
                result
            })?;
            Ok(JoinHandle(thread, finished))
        }
    }

    impl<T> JoinHandle<T> {
        pub(crate) fn is_finished(&self) -> bool {
            self.1.load(Ordering::Acquire)
        }

        pub(crate) fn join(self) -> shuttle::thread::Result<T> {
            self.0.join()
        }
    }
}

/// Stands in for the driver's own threads.
pub(crate) struct Thread(thread::JoinHandle<()>);

impl Thread {
    pub(crate) fn spawn(name: &'static CStr, body: impl FnOnce() + Send + 'static) -> std::io::Result<Self> {
        let name = name.to_string_lossy().into_owned();
        thread::Builder::new().name(name).spawn(body).map(Thread)
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    pub(crate) fn join(self) {
        let _ = self.0.join();
    }
}
