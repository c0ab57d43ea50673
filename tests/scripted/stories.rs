//! What users do, each small enough to be played once for every byte that the server answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dlock::{Error, Lock, Locker, Options, Status};

use super::PATIENCE;
use super::redis_server::RedisServer;
use super::relay::{Fate, Relay};

pub const GROUP: &str = "g";
/// Longer than a story, so that what is left behind is seen.
const LEASE_MS: u64 = 60_000;
/// Where answers stay out. Elsewhere nobody waits for that long, and a machine that is busy must not look like it.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_millis(500);

/// How a story ended.
pub enum Outcome {
    /// Every call did what it says.
    Well,
    /// A call answered an error; everything was freed then.
    Refused(Status, String),
}

pub struct Story {
    pub name: &'static str,
    pub play: fn(&Setting) -> Result<Outcome, String>,
    /// The kinds of answers that are tried in it; none: all.
    only: &'static [&'static str],
}

impl Story {
    /// Answers bear no number: one that comes twice among others in flight is taken for the next one's, by any client.
    pub fn bears(&self, fate: &Fate) -> bool {
        !(self.name == "many at once" && matches!(fate, Fate::Twice))
    }

    pub fn tries(&self, kind: &str) -> bool {
        self.only.is_empty() || self.only.contains(&kind)
    }
}

pub fn is_handshake(kind: &str) -> bool {
    ["rights", "further rights", "INFO", "SCRIPT LOAD", "floor", "CLIENT SETNAME", "PUBLISH", "SUBSCRIBE"]
        .contains(&kind)
}

pub const STORIES: [Story; 9] = [
    Story { name: "a life", play: a_life, only: &[] },
    Story {
        name: "a waiter",
        play: a_waiter,
        only: &["PUBLISH", "SUBSCRIBE", "join", "PING", "message handoff", "release"],
    },
    Story { name: "a deadline", play: a_deadline, only: &["join", "leave"] },
    Story { name: "attempts", play: attempts, only: &["MULTI", "SET", "INCR", "EXEC", "release"] },
    Story { name: "a release to a waiter elsewhere", play: to_a_waiter_elsewhere, only: &["release"] },
    Story { name: "a release to a waiter here", play: to_a_waiter_here, only: &["join", "release"] },
    Story { name: "a renewal", play: a_renewal, only: &["renew"] },
    Story { name: "a locker that is closed", play: closed, only: &["release"] },
    Story { name: "many at once", play: many, only: &["EXEC", "GET", "release"] },
];

/// A server, a relay in front of it, and the name of this story's lock.
pub struct Setting<'a> {
    pub server: &'a RedisServer,
    pub relay: &'a Relay,
    pub name: String,
    pub response_timeout: Duration,
}

type Told<T = ()> = Result<T, End>;

/// Why a story ends early.
enum End {
    Refused(Error),
    Wrong(String),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        End::Refused(error)
    }
}

fn expect(right: bool, what: &str) -> Told {
    if right { Ok(()) } else { Err(End::Wrong(what.to_owned())) }
}

fn end(told: Told) -> Result<Outcome, String> {
    match told {
        Ok(()) => Ok(Outcome::Well),
        Err(End::Refused(error)) => Ok(Outcome::Refused(error.status, error.message)),
        Err(End::Wrong(what)) => Err(what),
    }
}

fn locker(url: &str, lease_ms: u64, response_timeout: Duration) -> Locker {
    let mut options = Options::new();
    options.set_url(url).expect("a URL");
    options.set_lease_ms(lease_ms).expect("a lease");
    options.set_response_timeout_ms(response_timeout.as_millis() as u64).expect("a timeout");
    Locker::new(&options).expect("no I/O")
}

impl Setting<'_> {
    /// One that is disturbed.
    fn locker(&self) -> Locker {
        locker(&self.relay.url(), LEASE_MS, self.response_timeout)
    }

    /// One that is not.
    fn elsewhere(&self) -> Locker {
        locker(&format!("redis://127.0.0.1:{}", self.server.port()), LEASE_MS, PATIENCE)
    }

    /// The keys of this story's locks.
    pub fn keys(&self) -> Vec<String> {
        self.server.keys().into_iter().filter(|key| key.contains(&self.name)).collect()
    }

    fn lock(&self, locker: &Locker) -> Told<Arc<Lock>> {
        Ok(Arc::new(locker.lock(&self.name, GROUP)?))
    }

    /// Acquires on another thread; returns when that waits in the queue, or has its answer.
    fn acquire_behind(&self, lock: &Arc<Lock>) -> Waiter {
        let lock = Arc::clone(lock);
        let thread = std::thread::spawn(move || lock.acquire());
        let deadline = Instant::now() + PATIENCE;
        let queued = || self.keys().iter().any(|key| key.starts_with(":dlock:wait:"));
        while !queued() && !thread.is_finished() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        Waiter(thread)
    }
}

struct Waiter(JoinHandle<dlock::Result<()>>);

impl Waiter {
    /// It must have its answer soon.
    fn answer(self) -> Told {
        let deadline = Instant::now() + PATIENCE;
        while !self.0.is_finished() {
            expect(Instant::now() < deadline, "the waiter was not served")?;
            std::thread::yield_now();
        }
        self.0.join().map_err(|_| End::Wrong("the waiter panicked".to_owned()))?.map_err(End::Refused)
    }
}

/// Taken, asked about, extended, released, and tried again.
fn a_life(setting: &Setting) -> Result<Outcome, String> {
    let locker = setting.locker();
    let told = (|| {
        let lock = setting.lock(&locker)?;
        expect(lock.try_acquire()?, "a free lock was not taken")?;
        let token = lock.fencing_token()?;
        expect(token > 1 << 50, "a token below the floor")?;
        expect(lock.is_locked_by_me()?, "held, and not by me")?;
        expect(lock.is_locked()?, "held, and not locked")?;
        expect(lock.owner()? == Some(lock.id()?), "held by another owner")?;
        lock.extend(LEASE_MS)?;
        expect(lock.remaining_ms()? > LEASE_MS / 2, "extended, and nearly over")?;
        expect(lock.fencing_token()? == token, "the token changed")?;
        lock.release()?;
        expect(!lock.is_locked()?, "released, and locked")?;
        lock.acquire()?;
        expect(lock.fencing_token()? > token, "the token did not rise")?;
        Ok(lock.release()?)
    })();
    end(told)
}

/// Waits behind another process's holder, and is served when that releases.
fn a_waiter(setting: &Setting) -> Result<Outcome, String> {
    let (here, there) = (setting.locker(), setting.elsewhere());
    let told = (|| {
        let (holder, lock) = (setting.lock(&there)?, setting.lock(&here)?);
        holder.acquire()?;
        let waiter = setting.acquire_behind(&lock);
        let before = holder.fencing_token()?;
        holder.release()?;
        waiter.answer()?;
        expect(lock.fencing_token()? > before, "the token did not rise")?;
        expect(!holder.try_acquire()?, "two holders")?;
        Ok(lock.release()?)
    })();
    end(told)
}

/// Waits in vain.
fn a_deadline(setting: &Setting) -> Result<Outcome, String> {
    let (here, there) = (setting.locker(), setting.elsewhere());
    let told = (|| {
        let (holder, lock) = (setting.lock(&there)?, setting.lock(&here)?);
        holder.acquire()?;
        let result = lock.acquire_timeout(20);
        expect(holder.is_locked_by_me()?, "the holder was disturbed")?;
        holder.release()?;
        match result {
            Err(error) if [Status::LockTimeout, Status::NotConnected].contains(&error.status) => Ok(()),
            Err(error) => Err(End::Refused(error)),
            Ok(()) => Err(End::Wrong("acquired what another held".to_owned())),
        }
    })();
    end(told)
}

/// Attempts that are answered "held", then one that is not.
fn attempts(setting: &Setting) -> Result<Outcome, String> {
    let (here, there) = (setting.locker(), setting.elsewhere());
    let told = (|| {
        let (holder, lock) = (setting.lock(&there)?, setting.lock(&here)?);
        holder.acquire()?;
        match lock.acquire_retry_backoff(1, 1) {
            Err(error) if error.status == Status::LockTimeout => {}
            Err(error) => {
                holder.release()?;
                return Err(End::Refused(error));
            }
            Ok(()) => return Err(End::Wrong("acquired what another held".to_owned())),
        }
        expect(holder.is_locked_by_me()?, "the holder was disturbed")?;
        holder.release()?;
        lock.acquire_retry_backoff(1, 1)?;
        Ok(lock.release()?)
    })();
    end(told)
}

/// Releases to a waiter of another process.
fn to_a_waiter_elsewhere(setting: &Setting) -> Result<Outcome, String> {
    let (here, there) = (setting.locker(), setting.elsewhere());
    let told = (|| {
        let (holder, lock) = (setting.lock(&here)?, setting.lock(&there)?);
        holder.acquire()?;
        let waiter = setting.acquire_behind(&lock);
        let released = holder.release();
        drop(holder);
        waiter.answer()?;
        lock.release()?;
        Ok(released?)
    })();
    end(told)
}

/// Releases to a waiter of the same locker.
fn to_a_waiter_here(setting: &Setting) -> Result<Outcome, String> {
    let here = setting.locker();
    let told = (|| {
        let (holder, lock) = (setting.lock(&here)?, setting.lock(&here)?);
        holder.acquire()?;
        let waiter = setting.acquire_behind(&lock);
        let released = holder.release();
        drop(holder);
        waiter.answer()?;
        lock.release()?;
        Ok(released?)
    })();
    end(told)
}

/// Holds until its lease was renewed.
fn a_renewal(setting: &Setting) -> Result<Outcome, String> {
    let lease_ms = 1_500; // longer than any answer stays out
    let locker = locker(&setting.relay.url(), lease_ms, setting.response_timeout);
    let told = (|| {
        let lock = setting.lock(&locker)?;
        lock.acquire()?;
        while lock.remaining_ms()? > lease_ms * 3 / 4 {
            std::thread::yield_now();
        }
        while lock.remaining_ms()? <= lease_ms * 3 / 4 {
            std::thread::yield_now();
        }
        Ok(lock.release()?)
    })();
    end(told)
}

/// Closed while it holds: another has the lock then.
fn closed(setting: &Setting) -> Result<Outcome, String> {
    let (here, there) = (setting.locker(), setting.elsewhere());
    let told = (|| {
        let (holder, lock) = (setting.lock(&here)?, setting.lock(&there)?);
        holder.acquire()?;
        here.close()?;
        drop((holder, here));
        lock.acquire_timeout(LEASE_MS / 3)?;
        Ok(lock.release()?)
    })();
    end(told)
}

/// Several threads share a connection, each with its own lock.
fn many(setting: &Setting) -> Result<Outcome, String> {
    const THREADS: usize = 4;
    let locker = setting.locker();
    let refused = AtomicUsize::new(0);
    let told = (|| {
        let locks = (0..THREADS).map(|n| Ok(locker.lock(&format!("{} {n}", setting.name), GROUP)?));
        let locks = locks.collect::<Told<Vec<Lock>>>()?;
        let work = |lock: &Lock| -> Told {
            for _ in 0..2 {
                lock.acquire()?;
                expect(lock.owner()? == Some(lock.id()?), "another's owner")?;
                expect(lock.is_locked_by_me()?, "another's answer")?;
                lock.release()?;
            }
            Ok(())
        };
        let ends: Vec<Told> = std::thread::scope(|scope| {
            let threads: Vec<_> = locks.iter().map(|lock| scope.spawn(|| work(lock))).collect();
            let join = |thread: std::thread::ScopedJoinHandle<Told>| thread.join();
            threads.into_iter().map(|thread| join(thread).unwrap_or(Err(End::Wrong("a panic".to_owned())))).collect()
        });
        let failed = ends.iter().filter(|end| matches!(end, Err(End::Refused(_)))).count();
        refused.store(failed, Ordering::Relaxed);
        // One answer was disturbed: one caller at most may be told.
        expect(failed <= 1, "more than one caller was told")?;
        ends.into_iter().collect()
    })();
    end(told)
}

/// Takes a free lock within 300 ms; `None`: it did.
pub fn with_a_deadline(relay: &Relay) -> Option<Error> {
    let locker = locker(&relay.url(), LEASE_MS, RESPONSE_TIMEOUT);
    let told = locker.lock("a deadline", GROUP).and_then(|lock| lock.acquire_timeout(300));
    told.err()
}
