//! The simulator: whole histories of several lockers, one server and a faulty network, from one seed each.
//!
//! `DLOCK_SEEDS=n` runs that many seeds, `DLOCK_SEED=n` one of them, with its trace if it fails; `DLOCK_TRACE=n` keeps
//! that many of its last steps, `DLOCK_THREADS=n` works on so many at once. With the feature `planted-bugs`, one test looks how many seeds it takes to find each bug of
//! `src/planted.rs`: run it alone, since a planted bug is there for all tests of the process.

mod events;
mod foreign;
mod network;
mod plan;
mod process;
mod rng;
mod trace;
mod user;
mod world;

use std::collections::BTreeMap;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use dlock_history::file::judge;

use self::plan::Plan;
use self::rng::Rng;
use self::world::{Stats, World};

const SEEDS: u64 = 1_000;
const TRACE_LINES: usize = 80;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// The seeds being run, and how often each was looked at: an engine that never returns cannot be stopped, only be told of.
static RUNNING: Mutex<BTreeMap<u64, u32>> = Mutex::new(BTreeMap::new());
/// So many looks, a second apart. Counted, so that a run that is stopped and continued is not taken for stuck.
const STUCK: u32 = 60;
/// How often a long run says how far it is.
const PROGRESS: Duration = Duration::from_secs(60);

fn running() -> MutexGuard<'static, BTreeMap<u64, u32>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let looks = || loop {
            std::thread::sleep(Duration::from_secs(1));
            let mut running = running();
            running.values_mut().for_each(|looks| *looks += 1);
            if let Some((seed, _)) = running.iter().find(|(_, looks)| **looks > STUCK) {
                eprintln!(
                    "seed {seed}: the engine does not return; DLOCK_SEED={seed} cargo test --test simulator histories"
                );
                std::process::abort();
            }
        };
        std::thread::spawn(looks);
    });
}

fn run(seed: u64, keep: usize) -> Result<Stats, String> {
    watch();
    trace::start(keep);
    running().insert(seed, 0);
    let result = run_seed(seed);
    running().remove(&seed);
    result
}

fn run_seed(seed: u64) -> Result<Stats, String> {
    match catch_unwind(AssertUnwindSafe(|| World::new(seed).run())) {
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("?");
            Err(format!("panic: {text}"))
        }
    }
}

/// Runs a failing seed again with its trace, and prints all that is needed to look into it.
fn report(seed: u64, failure: &str) -> String {
    let keep = number("DLOCK_TRACE").map_or(TRACE_LINES, |n| n as usize);
    let again = run(seed, keep);
    let mut text = format!("seed {seed}: {failure}\n");
    for line in trace::take() {
        text += &format!("  {line}\n");
    }
    if again.err().as_deref() != Some(failure) {
        text += "  (it went another way the second time: the simulation is not deterministic)\n";
    }
    text + &format!("seed {seed}: {failure}\nrun it again: DLOCK_SEED={seed} cargo test --test simulator histories\n")
}

/// What many histories showed.
#[derive(Default)]
struct Runs {
    done: u64,
    all: Stats,
    failed: Vec<(u64, String)>,
    told_at: Option<Instant>,
}

impl Runs {
    fn add(&mut self, seed: u64, result: Result<Stats, String>, of: u64, begun: Instant) {
        self.done += 1;
        match result {
            Ok(stats) => self.all.add(&stats),
            Err(failure) => {
                println!("seed {seed}: {failure}");
                self.failed.push((seed, failure));
            }
        }
        if self.told_at.unwrap_or(begun).elapsed() > PROGRESS {
            self.told_at = Some(Instant::now());
            let rate = self.done as f64 / begun.elapsed().as_secs_f64();
            println!("{} of {of} histories, {rate:.0} a second, {} failed", self.done, self.failed.len());
        }
    }
}

/// Runs those seeds, on as many threads as `DLOCK_THREADS` says or the machine has.
fn run_all(first: u64, seeds: u64) -> Runs {
    let (next, begun, runs) = (AtomicU64::new(first), Instant::now(), Mutex::new(Runs::default()));
    let threads = number("DLOCK_THREADS")
        .map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), |n| n as usize);
    let works = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= first + seeds {
            return;
        }
        let result = run(seed, 0);
        let stop = result.is_err() && std::env::var_os("DLOCK_STOP").is_some();
        runs.lock().unwrap_or_else(PoisonError::into_inner).add(seed, result, seeds, begun);
        if stop {
            next.store(first + seeds, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(works);
        }
    });
    let runs = runs.into_inner().unwrap_or_else(PoisonError::into_inner);
    let rate = runs.done as f64 / begun.elapsed().as_secs_f64();
    println!("{} histories, {rate:.0} a second on {threads} threads", runs.done);
    runs
}

#[test]
fn histories_of_many_seeds_show_no_violation() {
    let one = number("DLOCK_SEED");
    let first = one.or_else(|| number("DLOCK_FIRST_SEED")).unwrap_or(0);
    let seeds = one.map_or_else(|| number("DLOCK_SEEDS").unwrap_or(SEEDS), |_| 1);
    let mut runs = run_all(first, seeds);
    println!("{}", runs.all);
    runs.failed.sort();
    if let Some((seed, failure)) = runs.failed.first() {
        println!("{} of {} seeds failed", runs.failed.len(), runs.done);
        panic!("{}", report(*seed, failure));
    }
}

/// A place to write a history to, which can be read afterwards.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// With `DLOCK_HISTORY=file` the last of these histories is written there, as an example of the format.
#[test]
fn a_history_is_judged_the_same_when_it_is_read_from_a_file() {
    for seed in 0..50 {
        let (mut world, sink) = (World::new(seed), Sink::default());
        world.history.record(Box::new(sink.clone()));
        let counts = world.run_and_count().unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
        let bytes = std::mem::take(&mut *sink.0.lock().unwrap_or_else(PoisonError::into_inner));
        let text = String::from_utf8(bytes).expect("text");
        let verdict = judge([("history", text.as_str())]).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        assert_eq!((verdict.violations.as_slice(), verdict.counts), (&[][..], counts), "seed {seed}");
        assert!(counts.acquisitions > 0, "seed {seed}");
        if let Some(path) = std::env::var_os("DLOCK_HISTORY") {
            std::fs::write(path, text).expect("the history can be written");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in 0..20 {
        let hashes = [0; 2].map(|_: i32| {
            let _ = run(seed, 1);
            trace::hash()
        });
        assert_eq!(hashes[0], hashes[1], "seed {seed}");
    }
}

/// (g) While nothing happens, those who wait cost the server little: renewals, pings and slow re-checks (rule 6).
#[test]
fn a_thousand_waiters_of_several_lockers_ask_seldom() {
    for (lockers, handles) in [(1, 1_000), (4, 250)] {
        let mut rng = Rng::new(7);
        let plan = Plan::herd(&mut rng, lockers, handles);
        let mut world = World::with_plan(plan, rng);
        world.run_until(31 * plan::SECOND);
        assert_eq!(world.failure, None);
        let queued = world.server.queue(world.now, world.names[0].waiters()).len();
        assert_eq!(queued, lockers * handles - 1, "all but the holder wait");
        let (second, most) = world.requests.range(3..).max_by_key(|(_, count)| **count).expect("renewals at least");
        assert!(*most < 1_000, "{lockers} lockers of {handles}: {most} requests in second {second}");
    }
}

/// The table of `docs/reliability.md`. Every bug (`DLOCK_BUG=name`: that one) must be found in `DLOCK_SEEDS` histories.
#[cfg(feature = "planted-bugs")]
#[test]
fn every_planted_bug_is_found() {
    use dlock::planted::{Bug, plant};
    std::panic::set_hook(Box::new(|_| {})); // a violation that the engine itself notices
    let (first, seeds) = (number("DLOCK_FIRST_SEED").unwrap_or(0), number("DLOCK_SEEDS").unwrap_or(30_000));
    let mut missed = Vec::new();
    println!("| bug | what it does | seeds | found as |");
    println!("| --- | --- | --- | --- |");
    let only = std::env::var("DLOCK_BUG").ok();
    let bugs = || Bug::ALL.iter().filter(|(bug, _)| only.as_ref().is_none_or(|only| *only == format!("{bug:?}")));
    for &(bug, text) in bugs() {
        plant(Some(bug));
        let found = (first..first + seeds).find_map(|seed| run(seed, 0).err().map(|failure| (seed, failure)));
        plant(None);
        let (needed, failure) = match found {
            Some((seed, failure)) => ((seed - first + 1).to_string(), failure),
            None => {
                missed.push(bug);
                (format!("none of {seeds}"), String::new())
            }
        };
        let failure: String = failure.chars().take(90).collect();
        println!("| `{bug:?}` | {} | {needed} | {} |", text.trim().trim_end_matches('.'), failure.replace('|', "\\|"));
    }
    println!("{} of {} planted bugs found", bugs().count() - missed.len(), bugs().count());
    let _ = std::panic::take_hook();
    assert!(missed.is_empty(), "not found in {seeds} histories each: {missed:?}");
}
