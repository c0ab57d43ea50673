use std::time::Instant;
fn main() {
    let url = std::env::args().nth(1).unwrap();
    let mut o = dlock::Options::new();
    o.set_url(&url).unwrap();
    o.set_lease_ms(2000).unwrap();
    let l = dlock::Locker::new(&o).unwrap();
    let a = l.lock("n", "g").unwrap();
    let b = l.lock("n", "g").unwrap();
    a.acquire().unwrap();
    println!("token {} remaining {}", a.fencing_token().unwrap(), a.remaining_ms().unwrap());
    println!("try b {:?}", b.try_acquire());
    println!("owner {:?} {}", b.owner(), a.id().unwrap());
    let t = Instant::now();
    println!("timeout b {:?} {:?}", b.acquire_timeout(300), t.elapsed());
    std::thread::scope(|s| {
        let h = s.spawn(|| {
            let t = Instant::now();
            println!("b {:?} after {:?}", b.acquire(), t.elapsed());
            b.release().unwrap();
        });
        std::thread::sleep(std::time::Duration::from_millis(300));
        println!("release a {:?}", a.release());
        h.join().unwrap();
    });
    println!("release again {:?}", a.release());
    let n = 2000;
    let t = Instant::now();
    for _ in 0..n {
        a.acquire().unwrap();
        a.release().unwrap();
    }
    println!("pair {:?}", t.elapsed() / n);
    let l2 = dlock::Locker::new(&o).unwrap();
    let t = Instant::now();
    std::thread::scope(|s| {
        for i in 0..4 {
            let l = if i % 2 == 0 { &l } else { &l2 };
            s.spawn(move || {
                let x = l.lock("n", "g").unwrap();
                for _ in 0..500 {
                    x.acquire().unwrap();
                    x.release().unwrap();
                }
            });
        }
    });
    println!("2000 contended in {:?}", t.elapsed());
    let c = l.lock("n", "g").unwrap();
    c.acquire().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(5000));
    println!("held still {:?} {:?}", c.remaining_ms(), c.is_locked_by_me());
    println!("{:?}", c.release());
}
