//! How long a try and a release take beside a bare socket's `PING`s and the classic pair, in alternating blocks of one
//! run. Prints, and promises nothing: `cargo test --release --test redis_store_speed -- --ignored --nocapture`.

#[path = "support/redis_server.rs"]
#[allow(dead_code)]
mod redis_server;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dlock::store::redis::{Address, Config, RedisStore};
use dlock::store::{Acquisition, Connection, Name, Op, Reply, Request, RequestId, Seat, Store};
use redis_server::RedisServer;
use uuid::Uuid;

const BLOCKS: usize = 40;
const BLOCK: usize = 250;

/// A bare blocking socket: bytes out, so many bytes of answer in.
struct Bare(TcpStream);

impl Bare {
    fn ask(&mut self, bytes: &[u8], answer: usize) {
        let mut input = [0; 256];
        self.0.write_all(bytes).unwrap();
        let mut seen = 0;
        while seen < answer {
            seen += self.0.read(&mut input).unwrap();
        }
        assert_eq!(seen, answer, "{:?}", String::from_utf8_lossy(&input[..seen.min(256)]));
    }
}

fn command(words: &[&str]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len());
    for word in words {
        out += &format!("${}\r\n{word}\r\n", word.len());
    }
    out.into_bytes()
}

fn ask(connection: &mut dyn Connection, request: &Request, replies: &mut Vec<(RequestId, Reply)>) {
    connection.push(RequestId(1), request);
    while replies.is_empty() {
        connection.turn(Duration::from_secs(5), replies).unwrap();
    }
    let (_, reply) = replies.pop().unwrap();
    assert!(matches!(reply, Reply::Taken { .. } | Reply::Released { next: None } | Reply::Holder(_)), "{reply:?}");
}

fn middle(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort();
    (times[times.len() / 2].as_secs_f64() * 1e6, times[times.len() * 99 / 100].as_secs_f64() * 1e6)
}

#[test]
#[ignore = "a measurement, not a test"]
fn try_and_release_beside_pings_and_the_classic_pair() {
    let server = RedisServer::start(&[]);
    let address = Address::Tcp { host: "127.0.0.1".into(), port: server.port() };
    let five = Duration::from_secs(5);
    let config =
        Config { address, username: None, password: None, database: 0, connect_timeout: five, response_timeout: five };
    let mut connection = RedisStore::new(config).connect(0).unwrap();
    let acquisition = Acquisition { owner: Uuid::new_v4(), attempt: 1 };
    let seat = Seat { claim_ms: 3000, channel: Arc::from("channel") };
    let name = Arc::new(Name::new("name", "group").unwrap());
    let request = |op| Request { name: name.clone(), acquisition, seat: seat.clone(), op };
    let (take, free) = (request(Op::Try { lease_ms: 30_000 }), request(Op::Release { leave: false }));
    let look = request(Op::Inspect);

    let mut bare = Bare(TcpStream::connect(("127.0.0.1", server.port())).unwrap());
    bare.0.set_nodelay(true).unwrap();
    let delete = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end";
    let sha: String = server.cmd(&["SCRIPT", "LOAD", delete]);
    let owner = acquisition.owner.to_string();
    let classic_take = command(&["SET", "classic", &owner, "NX", "PX", "30000"]);
    let classic_free = command(&["EVALSHA", &sha, "1", "classic", &owner]);
    let ping = command(&["PING"]);
    let (key, queue, fence, me) = (name.key(), name.waiters(), ":dlock:fence", acquisition.to_string());
    let mut same_take = command(&["MULTI"]);
    same_take.extend(command(&["SET", key, &me, "NX", "PX", "30000"]));
    same_take.extend(command(&["INCR", fence]));
    same_take.extend(command(&["EXEC"]));
    let script = concat!(
        include_str!("../src/store/redis/scripts/draw.lua"),
        include_str!("../src/store/redis/scripts/notmine.lua"),
        include_str!("../src/store/redis/scripts/release.lua")
    );
    let sha: String = server.cmd(&["SCRIPT", "LOAD", script]);
    let same_free = command(&["EVALSHA", &sha, "3", key, queue, fence, &me, &look.member()]);

    let mut replies = Vec::new();
    let (mut pings, mut classics, mut pairs, mut looks, mut sames) = (vec![], vec![], vec![], vec![], vec![]);
    for block in 0..BLOCKS {
        for times in [&mut pings, &mut classics, &mut pairs, &mut looks, &mut sames] {
            if block == 1 {
                times.clear();
            }
        }
        for _ in 0..BLOCK {
            let begin = Instant::now();
            bare.ask(&ping, 7);
            bare.ask(&ping, 7);
            pings.push(begin.elapsed());
        }
        for _ in 0..BLOCK {
            let begin = Instant::now();
            bare.ask(&classic_take, 5);
            bare.ask(&classic_free, 4);
            classics.push(begin.elapsed());
        }
        for _ in 0..BLOCK {
            let begin = Instant::now();
            ask(&mut *connection, &take, &mut replies);
            ask(&mut *connection, &free, &mut replies);
            pairs.push(begin.elapsed());
        }
        for _ in 0..BLOCK {
            let begin = Instant::now();
            bare.ask(&same_take, 5 + 9 + 9 + 4 + 5 + 19);
            bare.ask(&same_free, 14);
            sames.push(begin.elapsed());
        }
        for _ in 0..BLOCK {
            let begin = Instant::now();
            ask(&mut *connection, &look, &mut replies);
            ask(&mut *connection, &look, &mut replies);
            looks.push(begin.elapsed());
        }
    }
    let floor = middle(pings).0;
    let line = |what: &str, (p50, p99): (f64, f64)| {
        println!("{what:28} p50 {p50:6.1} us  p99 {p99:6.1} us  {:.3}", p50 / floor)
    };
    println!("two round trips each; the last column: p50 against two PINGs on a bare socket");
    line("two PINGs, bare socket", (floor, f64::NAN));
    let classic = middle(classics);
    line("classic pair, bare socket", classic);
    let pair = middle(pairs);
    line("try + release, store", pair);
    line("inspect + inspect, store", middle(looks));
    let same = middle(sames);
    line("the same bytes, bare socket", same);
    println!("try + release against the same bytes on a bare socket: {:.3}", pair.0 / same.0);
    println!("try + release against the classic pair: {:.3}", pair.0 / classic.0);
}
