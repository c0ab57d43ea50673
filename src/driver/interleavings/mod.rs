//! The driver under a checker of interleavings (the crate shuttle): the real engine, links, slots, feed and signals, whose
//! threads, mutexes, descriptors and clock are the checker's (`src/sync.rs`), and a server in memory whose answers are late,
//! and whose connections end, as the checker likes. `make shuttle`.
//!
//! Time passes only when every thread sleeps, or not at all: a wake-up that is lost shows at once, and is not made up for by
//! whatever looks again later. `DLOCK_SEEDS=n` runs that many interleavings of each test, `DLOCK_SEED=n` one of them again.

mod calls;
mod net;
mod pieces;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use shuttle::scheduler::{Schedule, Scheduler, Task, TaskId};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

use crate::sync::Arc;
use crate::sync::system::World;
use crate::sync::thread::{Builder, JoinHandle};

/// More steps than this are a loop without end.
const STEPS_MAX: usize = 200_000;
/// Priorities of threads that have not lost theirs yet begin here.
const LOWEST: u64 = 1 << 32;

/// Does the clock stand still, so that nothing may need it?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Time {
    Stands,
    PassesWhenAllSleep,
}

thread_local! {
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// Runs `body` under so many interleavings, each from its seed, which also is what `body` draws its own choices from.
fn explore(seeds: u64, time: Time, body: impl Fn(&Arc<World>, Rng) + Send + Sync + 'static) {
    let number = |variable| std::env::var(variable).ok().and_then(|text| text.parse::<u64>().ok());
    let (first, seeds) = match number("DLOCK_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("DLOCK_SEEDS").unwrap_or(seeds)),
    };
    let mut config = Config::new();
    config.stack_size = 512 * 1024;
    config.max_steps = MaxSteps::FailAfter(STEPS_MAX);
    config.failure_persistence = FailurePersistence::None;
    config.silence_warnings = true;
    let begun = Instant::now();
    let runner = Runner::new(Explorer::new(first, seeds), config);
    let ran = catch_unwind(AssertUnwindSafe(|| {
        runner.run(move || {
            let world = World::begin();
            let over = Arc::new(AtomicBool::new(false));
            let clock = {
                let (world, over) = (Arc::clone(&world), Arc::clone(&over));
                spawn("clock", move || world.run_clock(time == Time::Stands, &over))
            };
            body(&world, Rng(SEED.get()));
            over.store(true, Ordering::SeqCst);
            clock.join().expect("the clock");
            assert_eq!(world.violations(), Vec::<String>::new());
            World::end();
        })
    }));
    if let Err(panic) = ran {
        let noted = World::current().map(|world| world.violations()).unwrap_or_default();
        eprintln!("seed {}: {noted:#?}", SEED.get());
        resume_unwind(panic);
    }
    println!("{seeds} interleavings, {:.1} s", begun.elapsed().as_secs_f64());
}

fn spawn<T: Send + 'static>(name: &str, body: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    Builder::new().name(name.to_owned()).spawn(body).expect("the checker's threads are not limited")
}

/// Which thread goes on. Every third seed chooses any; every third mostly stays with the thread that runs; every third lets
/// that of the highest priority run, which changes now and then (after Burckhardt et al., 2010).
struct Explorer {
    next: u64,
    end: u64,
    rng: Rng,
    style: u64,
    /// How rarely something is done that is not the style's usual.
    rarely: u64,
    priorities: BTreeMap<usize, u64>,
    /// The next priority of who loses his: below all others, or one whose turn it was once could be passed over for good.
    lowest: u64,
}

impl Explorer {
    fn new(first: u64, seeds: u64) -> Self {
        Explorer {
            next: first,
            end: first + seeds,
            rng: Rng(0),
            style: 0,
            rarely: 2,
            priorities: BTreeMap::new(),
            lowest: LOWEST,
        }
    }
}

impl Scheduler for Explorer {
    fn new_execution(&mut self) -> Option<Schedule> {
        if self.next == self.end {
            return None;
        }
        let seed = self.next;
        self.next += 1;
        SEED.set(seed);
        self.rng = Rng(!seed);
        self.style = seed % 3;
        self.rarely = 2 << self.rng.below(6);
        self.priorities.clear();
        self.lowest = LOWEST;
        World::end(); // what an execution left that was ended
        Some(Schedule::new(seed))
    }

    fn next_task(&mut self, runnable: &[&Task], current: Option<TaskId>, yields: bool) -> Option<TaskId> {
        let clock = World::current().and_then(|world| world.clock());
        let mut tasks: Vec<TaskId> = runnable.iter().map(|task| task.id()).filter(|&id| Some(id) != clock).collect();
        if tasks.is_empty() {
            tasks.extend(clock); // nobody else can
        }
        let any = tasks[self.rng.below(tasks.len() as u64) as usize];
        Some(match self.style {
            0 => any,
            1 if self.rng.below(self.rarely) == 0 || yields => any,
            1 => current.filter(|current| tasks.contains(current)).unwrap_or(any),
            _ => {
                if let Some(current) = current.filter(|_| yields || self.rng.below(8 * self.rarely) == 0) {
                    self.lowest -= 1;
                    self.priorities.insert(current.into(), self.lowest);
                }
                let mut priority = |id: &TaskId| {
                    let random = LOWEST + self.rng.below(1 << 40);
                    *self.priorities.entry((*id).into()).or_insert(random)
                };
                tasks.into_iter().max_by_key(|id| priority(id)).unwrap_or(any)
            }
        })
    }

    fn next_u64(&mut self) -> u64 {
        self.rng.next()
    }
}

/// Random numbers from a seed (splitmix64).
#[derive(Clone)]
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}
