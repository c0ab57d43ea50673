use dlock::*;
use std::io::{Read, Write};
use std::time::{Duration, Instant};
fn command(port: u16, text: &str) -> String {
    let mut s = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    s.set_read_timeout(Some(Duration::from_millis(500))).ok();
    s.write_all(text.as_bytes()).ok(); s.write_all(b"\r\n").ok();
    let mut b = vec![0; 65536]; let n = s.read(&mut b).unwrap_or(0);
    String::from_utf8_lossy(&b[..n]).into_owned()
}
fn info(port: u16, key: &str) -> String {
    command(port, "INFO").lines().find(|l| l.starts_with(key)).unwrap_or("").to_string()
}
fn fds() -> usize { std::fs::read_dir("/proc/self/fd").unwrap().count() - 1 }
fn list() -> Vec<String> { std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|e| std::fs::read_link(e.ok()?.path()).ok()).map(|p| p.display().to_string()).collect() }
fn threads() -> usize { std::fs::read_dir("/proc/self/task").unwrap().count() }
fn rss() -> u64 { std::fs::read_to_string("/proc/self/status").unwrap().lines().find(|l| l.starts_with("VmRSS")).unwrap().split_whitespace().nth(1).unwrap().parse().unwrap() }
fn st<T>(r: &Result<T>) -> String { match r { Ok(_) => "Ok".into(), Err(e) => format!("{:?} ({})", e.status, e.message) } }
fn main() {
    let port: u16 = std::env::args().nth(1).unwrap().parse().unwrap();
    let server: i32 = std::env::args().nth(2).unwrap().parse().unwrap();
    let which = std::env::args().nth(3).unwrap();
    let options = |lease: u64, timeout: u64| { let mut o = Options::new(); o.set_url(&format!("redis://127.0.0.1:{port}")).unwrap(); o.set_lease_ms(lease).unwrap(); o.set_response_timeout_ms(timeout).unwrap(); o.set_connect_timeout_ms(timeout).unwrap(); o };
    let stop = |on: bool| unsafe { libc::kill(server, if on { libc::SIGSTOP } else { libc::SIGCONT }); };
    if which.contains('1') {
        let over = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0)); let o2 = over.clone();
        std::thread::spawn(move || loop { let t = Instant::now(); std::thread::sleep(Duration::from_millis(5)); o2.fetch_max(t.elapsed().as_millis() as u64 - 5, std::sync::atomic::Ordering::Relaxed); });
        for round in 0..4 { println!("oversleep {} ms", over.swap(0, std::sync::atomic::Ordering::Relaxed));
            let l = Locker::new(&options(30000, 1000)).unwrap();
            let locks: Vec<Lock> = (0..6).map(|i| l.lock(&format!("t1-{i}"), "g").unwrap()).collect();
            let h = l.lock("t1-held", "g").unwrap(); h.acquire().unwrap();
            let q: Vec<Lock> = (0..4).map(|_| l.lock("t1-held", "g").unwrap()).collect();
            std::thread::scope(|s| {
                for (i, q) in q.iter().enumerate() { s.spawn(move || { let t = Instant::now(); let r = q.acquire_timeout(700 + 50 * i as u64); println!("queued before stop, {}: {} late {} ms", 700 + 50 * i, st(&r), t.elapsed().as_millis() as i64 - 700 - 50 * i as i64); }); }
                std::thread::sleep(Duration::from_millis(300)); stop(true);
                for (i, a) in locks.iter().enumerate() { s.spawn(move || { let d = [0u64, 10, 100, 300, 1500, 2500][i]; let t = Instant::now(); let r = a.acquire_timeout(d); println!("deadline {d}: {} late {} ms", st(&r), t.elapsed().as_millis() as i64 - d as i64); }); }
                std::thread::sleep(Duration::from_millis(100));
                let extra = l.lock("x", "g"); println!("lock_new stopped: {}", st(&extra));
                if let Ok(x) = extra { s.spawn(move || { let t = Instant::now(); let r = x.try_acquire(); println!("try: {} after {:?}", st(&r), t.elapsed()); }); }
                s.spawn(|| { let t = Instant::now(); let r = h.release(); println!("release: {} after {:?}", st(&r), t.elapsed()); });
                s.spawn(|| { let t = Instant::now(); let r = h.is_locked(); println!("is_locked: {} after {:?}", st(&r), t.elapsed()); });
                std::thread::sleep(Duration::from_millis(3500));
                let t = Instant::now(); let r = l.lock("y", "g"); println!("lock_new later: {} after {:?}", st(&r), t.elapsed());
            });
            if round == 0 { stop(false); std::thread::sleep(Duration::from_millis(500)); let k = l.lock("t1-held", "g").unwrap(); k.acquire_timeout(5000).unwrap(); stop(true); std::mem::forget(k);}
            let t = Instant::now(); if round == 1 { println!("close: {} after {:?}", st(&l.close()), t.elapsed()); }
            let t = Instant::now(); drop(l); println!("free: after {:?}", t.elapsed());
            stop(false); std::thread::sleep(Duration::from_millis(300));
        }
    }
    if which.contains('2') {
        let l = Locker::new(&options(3000, 1000)).unwrap();
        let h = l.lock("f", "g").unwrap(); h.acquire().unwrap();
        let w = l.lock("f", "g").unwrap(); let q = l.queue().unwrap(); let w2 = l.lock("f", "g").unwrap(); q.submit_acquire(&w2, WAIT_FOREVER, 1).unwrap();
        std::thread::scope(|s| {
            s.spawn(|| { let r = w.acquire(); println!("parent's waiter: {}", st(&r)); w.release().unwrap(); });
            s.spawn(|| { let r = q.wait(1, 20000).unwrap(); println!("parent's event {:?}", r[0].error); w2.release().unwrap(); });
            std::thread::sleep(Duration::from_millis(1500));
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                println!("child: {} {} {} {} {} {} fd {}", st(&h.release()), st(&w.cancel()), st(&q.wait(1, 1)), st(&l.lock("a", "b")), st(&h.fencing_token()), st(&l.close()), q.fd());
                println!("child fds before {:?}", list());
                unsafe { let (h, w, w2, q, l) = (std::ptr::read(&h), std::ptr::read(&w), std::ptr::read(&w2), std::ptr::read(&q), std::ptr::read(&l)); drop(h); drop(w); drop(w2); drop(q); drop(l); }
                println!("child fds after {:?}", list());
                let n = Locker::new(&options(3000, 1000)).unwrap(); let x = n.lock("child", "g").unwrap(); println!("child's own: {} {}", st(&x.acquire_timeout(1000)), st(&x.release())); drop(x); drop(n);
                unsafe { libc::_exit(0) };
            }
            let mut status = 0; unsafe { libc::waitpid(pid, &mut status, 0) }; println!("child ended {status}");
            println!("parent: {} remaining {:?}", st(&h.fencing_token()), h.remaining_ms());
            h.release().unwrap();
        });
    }
    if which.contains('3') {
        println!("before: fds {} threads {} rss {} kB", fds(), threads(), rss());
        let t = Instant::now();
        for i in 0..1000 {
            let l = Locker::new(&options(3000, 1000)).unwrap();
            let a = l.lock("c", "g").unwrap(); let b = l.lock("c", "g").unwrap(); let q = l.queue().unwrap();
            a.acquire().unwrap();
            if i % 2 == 0 { q.submit_acquire(&b, WAIT_FOREVER, 1).unwrap(); }
            if i % 3 == 0 { std::thread::sleep(Duration::from_millis(2)); }
            match i % 4 { 0 => { drop(l); drop(a); drop(b); drop(q); } 1 => { drop(q); drop(a); drop(b); drop(l); } 2 => { l.close().unwrap(); drop(b); drop(a); drop(q); drop(l) } _ => { drop(a); drop(l); drop(q); drop(b) } }
            if i % 250 == 249 { println!("{i}: fds {} threads {} rss {} kB, {:?}", fds(), threads(), rss(), t.elapsed()); }
        }
        println!("keys {:?} {}", command(port, "KEYS *"), info(port, "connected_clients"));
    }
    if which.contains('4') {
        let l = Locker::new(&options(1500, 1000)).unwrap();
        let h = l.lock("m", "g").unwrap(); h.acquire().unwrap();
        std::thread::sleep(Duration::from_millis(1200));
        println!("{}", command(port, "CLIENT LIST"));
        let mut c = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let mut send = |t: &str| { c.write_all(t.as_bytes()).unwrap(); let mut b = vec![0; 65536]; let n = c.read(&mut b).unwrap(); String::from_utf8_lossy(&b[..n]).into_owned() };
        let list = send("CLIENT LIST\r\n");
        let id = list.lines().find(|l| l.contains("name=dlock")).and_then(|l| l.split("id=").nth(1)).map(|l| l.split(' ').next().unwrap().to_string()).unwrap();
        println!("maxclients {} kill {} {}", send("CONFIG SET maxclients 1\r\n").trim(), id, send(&format!("CLIENT KILL ID {id}\r\n")).trim());
        let _ = l.lock("z", "g");
        for _ in 0..5 { std::thread::sleep(Duration::from_millis(600)); println!("remaining {:?}", h.remaining_ms()); }
        println!("{}", send("CLIENT LIST\r\n"));
        send("CONFIG SET maxclients 10000\r\n");
    }
    if which.contains('5') {
        let l = Locker::new(&options(3000, 1000)).unwrap();
        let _ = l.lock("s", "g").unwrap();
        let mut c = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let mut send = |t: &str| { c.write_all(t.as_bytes()).unwrap(); let mut b = vec![0; 65536]; let n = c.read(&mut b).unwrap(); String::from_utf8_lossy(&b[..n]).into_owned() };
        send("CONFIG SET maxclients 1\r\n");
        let before: u64 = send("INFO stats\r\n").lines().find_map(|l| l.strip_prefix("rejected_connections:")?.trim().parse().ok()).unwrap();
        let n = std::sync::atomic::AtomicU64::new(0);
        std::thread::scope(|s| for i in 0..16 { let (l, n) = (&l, &n); s.spawn(move || { let x = l.lock(&format!("s{i}"), "g").unwrap(); let t = Instant::now(); while t.elapsed() < Duration::from_secs(3) { if x.try_acquire().unwrap() { x.release().unwrap(); n.fetch_add(1, std::sync::atomic::Ordering::Relaxed); } } }); });
        let after: u64 = send("INFO stats\r\n").lines().find_map(|l| l.strip_prefix("rejected_connections:")?.trim().parse().ok()).unwrap();
        println!("{} pairs, {} rejected connects in 3 s", n.into_inner(), after - before);
        send("CONFIG SET maxclients 10000\r\n");
    }
    if which.contains('7') {
        let l = Locker::new(&options(30000, 5000)).unwrap(); let q = l.queue().unwrap();
        let h = l.lock("w", "g").unwrap(); h.acquire().unwrap();
        let before = rss();
        let mut locks: Vec<Lock> = (0..10000).map(|_| l.lock("w", "g").unwrap()).collect();
        let handles = rss();
        for (i, x) in locks.iter().enumerate() { q.submit_acquire(x, WAIT_FOREVER, i as u64).unwrap(); }
        std::thread::sleep(Duration::from_secs(3));
        println!("10000 waiters: handles {} B each, waiting {} B each; queued {}", (handles - before) * 1024 / 10000, (rss() - before) * 1024 / 10000, command(port, "EVAL \"local n=0 for _,k in ipairs(redis.call('KEYS','*wait*')) do n=n+redis.call('ZCARD',k) end return n\" 0").trim());
        let a: u64 = info(port, "total_commands_processed").split(':').nth(1).unwrap().parse().unwrap();
        std::thread::sleep(Duration::from_secs(3));
        let b: u64 = info(port, "total_commands_processed").split(':').nth(1).unwrap().parse().unwrap();
        println!("{} commands/s while waiting", (b - a) / 3);
        let t = Instant::now(); h.release().unwrap();
        let mut got = 0; let mut last = 0; let mut order = true;
        while t.elapsed() < Duration::from_secs(10) && got < 10000 { for e in q.wait(64, 1000).unwrap() { if e.kind == EventKind::Acquire { if e.error.is_some() { println!("{e:?}"); continue } got += 1; order &= e.token > last; last = e.token; q.submit_release(&locks[e.user_data as usize], 0).unwrap(); } } }
        println!("{got} served in {:?}, tokens in order {order}", t.elapsed());
        let t = Instant::now(); locks.clear(); drop(l); println!("freed in {:?}, rss {} kB", t.elapsed(), rss());
    }
}
