//! Many threads, lockers and locks in random order against a server whose connections are killed; `make soak` runs it.
//! Usage: stress <port> <seconds> <seed> [calm]. Exits 1 on a violation, 2 on a hang.
use dlock::*;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

struct Rng(u64);
impl Rng {
    fn next(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

#[derive(Default)]
struct Name {
    holder: Mutex<Option<(Arc<Lock>, u64)>>,
    token: AtomicU64,
}

struct World {
    port: u16,
    t0: Instant,
    stop: AtomicBool,
    quiet_since: AtomicU64, // ms since t0, 0: chaos
    names: Vec<Name>,
    lockers: Vec<Mutex<Arc<Locker>>>,
    bad: AtomicU64,
    ops: AtomicU64,
    began: Vec<AtomicU64>, // ms; 0: none
    what: Vec<Mutex<String>>,
    current: Vec<Mutex<Option<Arc<Lock>>>>,
    stat: Mutex<std::collections::BTreeMap<String, u64>>,
    late: AtomicU64,
}
impl World {
    fn ms(&self) -> u64 {
        self.t0.elapsed().as_millis() as u64 + 1
    }
    fn violation(&self, text: String) {
        eprintln!("VIOLATION at {} ms: {text}", self.ms());
        self.bad.fetch_add(1, SeqCst);
    }
    fn options(&self) -> Options {
        let mut o = Options::new();
        o.set_url(&format!("redis://127.0.0.1:{}", self.port)).unwrap();
        o.set_lease_ms(1500).unwrap();
        o.set_response_timeout_ms(1500).unwrap();
        o.set_connect_timeout_ms(1500).unwrap();
        o
    }
    fn quiet_ms(&self) -> u64 {
        match self.quiet_since.load(SeqCst) {
            0 => 0,
            at => self.ms().saturating_sub(at),
        }
    }
    fn count(&self, what: &str, status: Option<Status>) {
        *self.stat.lock().unwrap().entry(format!("{what} {status:?}")).or_default() += 1;
    }
    fn acquired(&self, me: usize, n: usize, lock: &Arc<Lock>, before: u64) {
        let token = match lock.fencing_token() {
            Ok(t) => t,
            Err(_) => return,
        };
        let mut holder = self.names[n].holder.lock().unwrap();
        if let Some((other, other_token)) = &*holder
            && !Arc::ptr_eq(other, lock)
            && other.fencing_token().ok() == Some(*other_token)
            && lock.fencing_token().ok() == Some(token)
            && other.fencing_token().ok() == Some(*other_token)
        {
            self.violation(format!("thread {me} two holders of {n}: {token} and {other_token}"));
        }
        if token <= before {
            self.violation(format!("thread {me} token of {n} fell: {token} after {before}"));
        }
        *holder = Some((Arc::clone(lock), token));
        drop(holder);
        self.names[n].token.fetch_max(token, SeqCst);
    }
    fn releasing(&self, n: usize, lock: &Arc<Lock>) {
        let mut holder = self.names[n].holder.lock().unwrap();
        if holder.as_ref().is_some_and(|(h, _)| Arc::ptr_eq(h, lock)) {
            *holder = None;
        }
    }
}

fn command(port: u16, text: &str) -> String {
    let Ok(mut s) = std::net::TcpStream::connect(("127.0.0.1", port)) else { return String::new() };
    s.set_read_timeout(Some(Duration::from_millis(500))).ok();
    s.write_all(text.as_bytes()).ok();
    s.write_all(b"\r\n").ok();
    let mut b = vec![0; 65536];
    let n = s.read(&mut b).unwrap_or(0);
    String::from_utf8_lossy(&b[..n]).into_owned()
}

fn worker(w: &World, me: usize, seed: u64) {
    let mut r = Rng(seed);
    let set = |text: &str| {
        *w.what[me].lock().unwrap() = text.to_string();
        w.began[me].store(w.ms(), SeqCst);
    };
    let done = || w.began[me].store(0, SeqCst);
    while !w.stop.load(SeqCst) {
        let locker = Arc::clone(&*w.lockers[r.next(w.lockers.len() as u64) as usize].lock().unwrap());
        let n = r.next(w.names.len() as u64) as usize;
        set("lock_new");
        let lock = locker.lock(&format!("n{n}"), "g");
        done();
        let Ok(lock) = lock else {
            w.count("new", lock.err().map(|e| e.status));
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        drop(locker);
        let lock = Arc::new(lock);
        *w.current[me].lock().unwrap() = Some(Arc::clone(&lock));
        for _ in 0..=r.next(40) {
            if w.stop.load(SeqCst) {
                break;
            }
            w.ops.fetch_add(1, SeqCst);
            let before = w.names[n].token.load(SeqCst);
            let (began, quiet) = (Instant::now(), w.quiet_ms());
            let (what, result, limit) = match r.next(12) {
                0..4 => {
                    let t = [0, 3, 30, 200, 600][r.next(5) as usize];
                    set("acquire_timeout");
                    ("acquire_timeout", lock.acquire_timeout(t).map(|()| true), Some(t))
                }
                4..6 => {
                    set("acquire");
                    ("acquire", lock.acquire().map(|()| true), None)
                }
                6..8 => {
                    set("try");
                    ("try", lock.try_acquire(), None)
                }
                8 => {
                    set("backoff");
                    ("backoff", lock.acquire_retry_backoff(3, 5).map(|()| true), None)
                }
                9 => {
                    set("is_locked");
                    ("is_locked", lock.is_locked().map(|_| false), None)
                }
                10 => {
                    set("owner");
                    ("owner", lock.owner().map(|_| false), None)
                }
                _ => {
                    set("release");
                    ("release-unheld", lock.release().map(|_| false), None)
                }
            };
            done();
            let took = began.elapsed().as_millis() as u64;
            if let Some(t) = limit
                && took > t + 50
            {
                w.late.fetch_max(took - t, SeqCst);
            }
            w.count(what, result.as_ref().err().map(|e| e.status));
            if let Err(e) = &result {
                if quiet > 4000 && matches!(e.status, Status::NotConnected | Status::Locker) {
                    w.violation(format!("thread {me} {what} after {quiet} ms of quiet: {:?} {}", e.status, e.message));
                }
                if matches!(e.status, Status::Panic | Status::Busy | Status::Forked | Status::InvalidArgument)
                    || (e.status == Status::Locker && w.quiet_since.load(SeqCst) != 0)
                {
                    w.violation(format!("thread {me} {what}: {:?} {}", e.status, e.message));
                }
                if e.status == Status::Closed {
                    break;
                }
            }
            if let Ok(true) = result {
                w.acquired(me, n, &lock, before);
                if r.next(3) == 0 {
                    std::thread::sleep(Duration::from_millis(r.next(8)));
                }
                if r.next(200) == 0 {
                    std::thread::sleep(Duration::from_millis(2500));
                }
                if r.next(20) == 0 {
                    set("extend");
                    let x = lock.extend(1500);
                    done();
                    w.count("extend", x.err().map(|e| e.status));
                }
                if r.next(40) == 0 {
                    w.releasing(n, &lock);
                    break;
                } // freed while held
                let valid_until = Instant::now() + Duration::from_millis(lock.remaining_ms().unwrap_or(0));
                w.releasing(n, &lock);
                set("release");
                let x = lock.release();
                done();
                if let Err(e) = &x
                    && Instant::now() < valid_until // a server that is asked when the lease is over may name another
                    && !matches!(e.status, Status::NotConnected | Status::Closed | Status::Lost | Status::Locker)
                {
                    w.violation(format!("thread {me} release of a held lock: {:?} {}", e.status, e.message));
                }
                w.count("release", x.err().map(|e| e.status));
            }
        }
        *w.current[me].lock().unwrap() = None;
        set("free");
        drop(lock);
        done();
    }
}

fn submitter(w: &World, me: usize, seed: u64) {
    let mut r = Rng(seed);
    let set = |text: String| {
        *w.what[me].lock().unwrap() = text;
        w.began[me].store(w.ms(), SeqCst);
    };
    while !w.stop.load(SeqCst) {
        let locker = Arc::clone(&*w.lockers[r.next(w.lockers.len() as u64) as usize].lock().unwrap());
        let Ok(queue) = locker.queue() else {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        let mut locks: Vec<Option<Lock>> =
            (0..30).map(|i| locker.lock(&format!("n{}", i % w.names.len()), "g").ok()).collect();
        drop(locker);
        let mut pending = std::collections::BTreeSet::new();
        #[allow(clippy::needless_range_loop)]
        for i in 0..locks.len() {
            let Some(lock) = &locks[i] else { continue };
            let _ = lock.watch(&queue, 1000 + i as u64);
            if queue.submit_acquire(lock, [100, 1000, WAIT_FOREVER][r.next(3) as usize], i as u64).is_ok() {
                pending.insert(i as u64);
            }
            if queue.submit_is_locked(lock, 100 + i as u64).is_ok() {
                pending.insert(100 + i as u64);
            }
        }
        set(format!("queue with {} pending", pending.len()));
        let began = Instant::now();
        let freed_early = r.next(4) == 0;
        while !pending.is_empty() {
            if freed_early && began.elapsed() > Duration::from_millis(300) {
                break;
            }
            let events = match queue.wait(7, 100) {
                Ok(e) => e,
                Err(e) if e.status == Status::Closed => {
                    // all must be there
                    w.violation_if(!pending.is_empty(), format!("submitter {me}: closed with {pending:?} pending"));
                    break;
                }
                Err(e) => {
                    w.violation(format!("queue {e:?}"));
                    break;
                }
            };
            for e in events {
                if e.kind == EventKind::Lost {
                    continue;
                }
                if !pending.remove(&e.user_data) {
                    w.violation(format!("submitter {me}: event {e:?} twice or never asked"));
                }
                w.count("event", e.error.as_ref().map(|e| e.status));
                if e.kind == EventKind::Acquire && e.error.is_none() {
                    let lock = locks[e.user_data as usize].as_ref().unwrap();
                    if r.next(4) == 0 {
                        locks[e.user_data as usize] = None;
                    } else if queue.submit_release(lock, 200 + e.user_data).is_ok() {
                        pending.insert(200 + e.user_data);
                    }
                }
            }
            if r.next(10) == 0 {
                let i = r.next(30) as usize;
                if let Some(l) = &locks[i] {
                    let _ = l.cancel();
                }
            }
        }
        w.began[me].store(0, SeqCst);
        if r.next(2) == 0 {
            drop(queue);
            drop(locks);
        } else {
            drop(locks);
            drop(queue);
        }
    }
}
impl World {
    fn violation_if(&self, yes: bool, text: String) {
        if yes {
            self.violation(text)
        }
    }
}

fn main() {
    let arg = |i: usize| std::env::args().nth(i).unwrap().parse::<u64>().unwrap();
    let (port, seconds, seed) = (arg(1) as u16, arg(2), arg(3));
    let calm = std::env::args().nth(4).is_some();
    let (workers, submitters, names) = (16, 2, 6);
    let all = workers + submitters;
    let w = World {
        port,
        t0: Instant::now(),
        stop: AtomicBool::new(false),
        quiet_since: AtomicU64::new(0),
        names: (0..names).map(|_| Name::default()).collect(),
        lockers: Vec::new(),
        bad: AtomicU64::new(0),
        ops: AtomicU64::new(0),
        began: (0..all).map(|_| AtomicU64::new(0)).collect(),
        what: (0..all).map(|_| Mutex::default()).collect(),
        current: (0..all).map(|_| Mutex::default()).collect(),
        stat: Mutex::default(),
        late: AtomicU64::new(0),
    };
    let mut w = w;
    w.lockers = (0..3).map(|_| Mutex::new(Arc::new(Locker::new(&w.options()).unwrap()))).collect();
    let w = &w;
    std::thread::scope(|s| {
        for i in 0..workers {
            s.spawn(move || worker(w, i, seed * 1000 + i as u64));
        }
        for i in workers..all {
            s.spawn(move || submitter(w, i, seed * 1000 + i as u64));
        }
        // cancels
        s.spawn(move || {
            let mut r = Rng(seed + 77);
            while !w.stop.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(2 + r.next(10)));
                let l = w.current[r.next(workers as u64) as usize].lock().unwrap().clone();
                if let Some(l) = l {
                    let _ = l.cancel();
                }
            }
        });
        // closes and frees
        s.spawn(move || {
            let mut r = Rng(seed + 78);
            while !w.stop.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(500 + r.next(1500)));
                let i = r.next(3) as usize;
                let new = Arc::new(Locker::new(&w.options()).unwrap());
                let old = std::mem::replace(&mut *w.lockers[i].lock().unwrap(), new);
                let t = Instant::now();
                if r.next(2) == 0 {
                    old.close().unwrap();
                }
                drop(old);
                if t.elapsed() > Duration::from_millis(1700) {
                    eprintln!("close+free took {:?}", t.elapsed());
                }
            }
        });
        // kills
        s.spawn(move || {
            let mut r = Rng(seed + 79);
            while !w.stop.load(SeqCst) {
                let phase = w.ms() % 14000;
                if phase > 7000 || calm {
                    if w.quiet_since.load(SeqCst) == 0 {
                        command(port, "CONFIG SET maxclients 10000");
                        w.quiet_since.store(w.ms(), SeqCst);
                    }
                    std::thread::sleep(Duration::from_millis(50));
                    continue;
                }
                w.quiet_since.store(0, SeqCst);
                std::thread::sleep(Duration::from_millis(r.next(60)));
                match r.next(20) {
                    0..3 => {
                        command(port, "CLIENT KILL TYPE normal SKIPME yes");
                    }
                    3 => {
                        command(port, "CLIENT KILL TYPE pubsub SKIPME yes");
                    }
                    4 => {
                        command(port, "SCRIPT FLUSH");
                    }
                    5 => {
                        command(port, &format!("CLIENT PAUSE {} ALL", 10 + r.next(150)));
                    }
                    6 => {}
                    7 => {
                        command(port, &format!("CONFIG SET maxclients {}", 1 + r.next(12)));
                        std::thread::sleep(Duration::from_millis(r.next(200)));
                        command(port, "CONFIG SET maxclients 10000");
                    }
                    8 if r.next(6) == 0 => {
                        command(port, &format!("CLIENT PAUSE {} ALL", 1800));
                    }
                    _ => {
                        let list = command(port, "CLIENT LIST");
                        let ids: Vec<&str> =
                            list.lines().filter_map(|l| l.split("id=").nth(1)?.split(' ').next()).collect();
                        if !ids.is_empty() {
                            let id = ids[r.next(ids.len() as u64) as usize];
                            command(port, &format!("CLIENT KILL ID {id}"));
                        }
                    }
                }
            }
        });
        // watchdog
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut report = Instant::now();
        while Instant::now() < end && w.bad.load(SeqCst) < 20 {
            std::thread::sleep(Duration::from_millis(200));
            for i in 0..all {
                let at = w.began[i].load(SeqCst);
                if at != 0 && w.ms() > at + 25_000 {
                    eprintln!(
                        "HANG thread {i}: {} since {} ms (now {}); pid {}",
                        w.what[i].lock().unwrap(),
                        at,
                        w.ms(),
                        std::process::id()
                    );
                    let _ = std::process::Command::new("gdb")
                        .args(["-p", &std::process::id().to_string(), "-batch", "-ex", "thread apply all bt 14"])
                        .status();
                    println!("{}", command(port, "CLIENT LIST"));
                    std::process::exit(2);
                }
            }
            if report.elapsed() > Duration::from_secs(20) {
                report = Instant::now();
                eprintln!("{} ms: {} ops, latest deadline +{} ms", w.ms(), w.ops.load(SeqCst), w.late.swap(0, SeqCst));
            }
        }
        w.stop.store(true, SeqCst);
        let t = Instant::now();
        while w.began.iter().any(|b| b.load(SeqCst) != 0) {
            std::thread::sleep(Duration::from_millis(50));
            for i in 0..all {
                let l = w.current[i].lock().unwrap().clone();
                if let Some(l) = l {
                    let _ = l.cancel();
                }
            }
            if t.elapsed() > Duration::from_secs(25) {
                eprintln!("HANG at the end");
                for i in 0..all {
                    if w.began[i].load(SeqCst) != 0 {
                        eprintln!("{i} {}", w.what[i].lock().unwrap());
                    }
                }
                let _ = std::process::Command::new("gdb")
                    .args(["-p", &std::process::id().to_string(), "-batch", "-ex", "thread apply all bt 14"])
                    .status();
                std::process::exit(2);
            }
        }
    });
    for n in &w.names {
        *n.holder.lock().unwrap() = None;
    }
    for l in &w.lockers {
        *l.lock().unwrap() = Arc::new(Locker::new(&w.options()).unwrap());
    }
    std::thread::sleep(Duration::from_millis(2000));
    eprintln!("{:#?}", w.stat.lock().unwrap());
    println!("keys left: {}", command(port, "KEYS *").replace("\r\n", " "));
    println!(
        "threads {}, fds {}",
        std::fs::read_dir("/proc/self/task").unwrap().count(),
        std::fs::read_dir("/proc/self/fd").unwrap().count()
    );
    println!("{} ops, {} violations", w.ops.load(SeqCst), w.bad.load(SeqCst));
    std::process::exit((w.bad.load(SeqCst) > 0) as i32);
}
