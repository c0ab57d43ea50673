//! rslock on tokio; serves the lines that ../README.md describes. Knows nothing of other programs.
//!
//!     dlock-peers <port>

use std::io::BufRead;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use rslock::LockManager;
use tokio::sync::Barrier;

const LEASE: Duration = Duration::from_secs(30);

/// What one task did in a block, in microseconds.
#[derive(Default)]
struct Share {
    times: Vec<f64>,
    longest: f64,
}

/// `acquire` tries until it has the lock, by default after up to 200 ms at random.
async fn work(manager: LockManager, lock: String, hot: bool, end: Instant) -> Share {
    let mut share = Share::default();
    let mut before = Instant::now();
    while before < end {
        let guard = manager.acquire(lock.as_str(), LEASE).await.expect("acquire");
        let acquired = Instant::now();
        guard.release().await;
        let after = Instant::now();
        let took = if hot { acquired } else { after } - before;
        let took = took.as_secs_f64() * 1e6;
        share.longest = share.longest.max(took);
        if after <= end {
            share.times.push(took);
        }
        before = after;
    }
    share
}

async fn block(manager: &LockManager, hot: bool, tasks: usize, length: Duration) -> String {
    let (ready, set) = (Arc::new(Barrier::new(tasks + 1)), Arc::new(Barrier::new(tasks + 1)));
    let end = Arc::new(OnceLock::new());
    let mut running = Vec::new();
    for i in 0..tasks {
        let lock = if hot { "rslock:hot".into() } else { format!("rslock:own-{i}") };
        let (manager, ready, set, end) = (manager.clone(), ready.clone(), set.clone(), end.clone());
        running.push(tokio::spawn(async move {
            ready.wait().await;
            set.wait().await;
            work(manager, lock, hot, *end.get().expect("set before")).await
        }));
    }
    ready.wait().await;
    end.set(Instant::now() + length).expect("set once");
    set.wait().await;
    let mut shares = Vec::new();
    for task in running {
        shares.push(task.await.expect("a task"));
    }
    let mut all: Vec<f64> = shares.iter().flat_map(|share| share.times.iter().copied()).collect();
    all.sort_by(f64::total_cmp);
    let part = |share: f64| all.get((share * all.len() as f64) as usize).copied().unwrap_or(0.0);
    let counts = || shares.iter().map(|share| share.times.len());
    let longest = shares.iter().map(|share| share.longest).fold(0.0, f64::max);
    let (least, most) = (counts().min().unwrap_or(0), counts().max().unwrap_or(0));
    format!("{} {:.1} {:.1} {longest:.1} {least} {most}", all.len(), part(0.5), part(0.99))
}

/// A clock that all processes share, in microseconds.
fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock").as_secs_f64() * 1e6
}

#[tokio::main]
async fn main() {
    let port = std::env::args().nth(1).expect("usage: dlock-peers <port>");
    let manager = LockManager::new(vec![format!("redis://127.0.0.1:{port}/")]);
    let mut passed = None;
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("a request");
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["quit"] => break,
            ["rslock", mode, tasks, ms] => {
                let (tasks, ms) = (tasks.parse().expect("tasks"), ms.parse().expect("milliseconds"));
                println!("{}", block(&manager, mode == "hot", tasks, Duration::from_millis(ms)).await);
            }
            ["rslock", "take"] => {
                passed = Some(manager.acquire("rslock:passed", LEASE).await.expect("acquire"));
                println!("{:.1}", now());
            }
            ["rslock", "give"] => {
                let before = now();
                passed.take().expect("taken before").release().await;
                println!("{before:.1}");
            }
            _ => println!("! no such contender or request"),
        }
    }
}
