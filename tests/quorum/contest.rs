//! Many who compete for one lock, each locker as independent of the others as if it were a process of its own. What they see
//! is judged by the checker of `tests/history/` while it happens.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use dlock::{Lock, Locker, Status};
use dlock_history::checker::{Counts, History, HoldingId, Time};

use crate::eventually::{PATIENCE, eventually};
use crate::world::{NAME, World};

/// The first violation ends it.
pub struct Contest {
    begun: Instant,
    history: Mutex<History<&'static str, usize>>,
    over: AtomicBool,
    /// How often somebody has got the lock.
    served: AtomicU64,
}

impl Contest {
    fn told(&self) -> (Time, MutexGuard<'_, History<&'static str, usize>>) {
        let history = self.history.lock().unwrap_or_else(|poison| poison.into_inner());
        (self.begun.elapsed().as_micros() as Time, history)
    }

    /// How often somebody has got the lock.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::SeqCst)
    }

    /// Waits until so many more acquisitions have been made.
    #[track_caller]
    pub fn go_on(&self, more: u64) {
        let goal = self.served() + more;
        eventually(&format!("{more} more acquisitions"), || self.served() >= goal);
    }

    fn compete(&self, who: usize, lock: &Lock, lease_ms: u64) {
        let mut random = who as u64 + 1;
        while !self.over.load(Ordering::SeqCst) {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let kind = random >> 40;
            let (now, mut history) = self.told();
            history.asked(now, NAME, who, None);
            drop(history);
            let acquired = match kind % 8 {
                0 => lock.try_acquire(),
                1 => lock.acquire_timeout(kind % 50).map(|()| true),
                _ => lock.acquire().map(|()| true),
            };
            let remaining_ms = |lock: &Lock| lock.remaining_ms().unwrap_or(0);
            let (now, mut history) = self.told();
            match acquired {
                Ok(true) => {}
                Ok(false) => {
                    history.failed(now, &who, "not free").unwrap();
                    continue;
                }
                Err(error) => {
                    let expected = [Status::LockTimeout, Status::NotConnected, Status::Locker];
                    assert!(expected.contains(&error.status), "{error}");
                    history.failed(now, &who, "failed").unwrap();
                    continue;
                }
            }
            let Ok(token) = lock.fencing_token() else {
                history.withdrawn(now, &who); // its validity was over when the call returned
                continue;
            };
            let holding = history.acquired(now, who, token, now + remaining_ms(lock) * 1_000).unwrap();
            drop(history);
            self.served.fetch_add(1, Ordering::SeqCst);
            if kind.is_multiple_of(397) {
                self.hold(lock, holding, Duration::from_millis(lease_ms * 5 / 4)); // only renewals keep it
            }
            let (now, mut history) = self.told();
            history.write(now, holding).unwrap();
            history.released(now, holding);
            drop(history);
            if let Err(error) = lock.release() {
                let expected =
                    [Status::Lost, Status::NotOwner, Status::UnlockUnlocked, Status::NotConnected, Status::Locker];
                assert!(expected.contains(&error.status), "{error}");
            }
        }
    }

    /// Keeps the lock for a time, and looks at it again and again.
    fn hold(&self, lock: &Lock, holding: HoldingId, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
            let (now, mut history) = self.told();
            let remaining_ms = lock.remaining_ms().unwrap_or(0);
            history.seen(now, holding, now + remaining_ms * 1_000).unwrap();
        }
    }
}

/// So many lockers with so many threads each compete while `faults` runs. Afterwards everybody can still get the lock, and
/// nothing is left on the servers.
pub fn run(world: &mut World, lockers: usize, threads: usize, faults: impl FnOnce(&mut World, &Contest)) -> Counts {
    let lease_ms = world.lease_ms;
    let contest = Contest {
        begun: Instant::now(),
        history: Mutex::new(History::default()),
        over: AtomicBool::new(false),
        served: AtomicU64::new(0),
    };
    let lockers: Vec<Locker> = (0..lockers).map(|_| world.locker()).collect();
    std::thread::scope(|scope| {
        for who in 0..lockers.len() * threads {
            let lock = world.handle(&lockers[who % lockers.len()]);
            let contest = &contest;
            scope.spawn(move || {
                let _ends = Ends(contest);
                contest.compete(who, &lock, lease_ms);
            });
        }
        let _ends = Ends(&contest);
        contest.go_on(50);
        faults(world, &contest);
        contest.go_on(50);
    });
    // What a server did late may be met by a release only (rule 11).
    let clean = || {
        for locker in &lockers {
            let lock = world.handle(locker);
            lock.acquire_timeout(PATIENCE.as_millis() as u64).expect("the lock can still be had");
            lock.release().unwrap();
        }
        world.servers.iter().all(|server| server.keys() == [":dlock:quorum"])
    };
    eventually("nothing is left but the counters", clean);
    let history = contest.history.into_inner().unwrap();
    history.counts
}

/// Who ends, in whatever way, ends it for all.
struct Ends<'a>(&'a Contest);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::SeqCst);
    }
}
