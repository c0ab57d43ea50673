use dlock::*;
use std::io::{Read, Write};
use std::time::{Duration, Instant};
fn main() {
    let port: u16 = std::env::args().nth(1).unwrap().parse().unwrap();
    let rounds: u64 = std::env::args().nth(2).unwrap().parse().unwrap();
    let mut o = Options::new();
    o.set_url(&format!("redis://127.0.0.1:{port}")).unwrap();
    o.set_response_timeout_ms(1000).unwrap();
    let l = Locker::new(&o).unwrap();
    let a = l.lock("stuck", "g").unwrap();
    let mut c = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut b = [0; 4096];
    let mut stuck = 0;
    for i in 0..rounds {
        let end = Instant::now() + Duration::from_millis(60);
        std::thread::scope(|s| {
            s.spawn(|| while Instant::now() < end { let _ = a.acquire_timeout(5); let _ = a.release(); });
            while Instant::now() < end { c.write_all(b"CLIENT KILL TYPE normal SKIPME yes\r\n").unwrap(); let _ = c.read(&mut b); }
        });
        std::thread::sleep(Duration::from_millis(100));
        let t = Instant::now();
        if let Err(e) = a.try_acquire() {
            println!("round {i}: 100 ms after the last kill: {:?} {} after {:?}", e.status, e.message, t.elapsed());
            std::thread::sleep(Duration::from_millis(3000));
            let t = Instant::now();
            println!("  3 s later: {:?} after {:?}", a.try_acquire(), t.elapsed());
            let n = l.lock("other", "g").is_ok();
            println!("  lock_new: {n}, and now: {:?}", a.try_acquire());
            stuck += 1;
            if stuck > 2 { break }
        }
        let _ = a.release();
    }
    println!("{stuck} stuck");
}
