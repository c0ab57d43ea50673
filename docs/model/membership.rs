// Who counts in a quorum of new servers (docs/quorum.md, "A server that lost its data"): N servers that have been up for a
// lease and of which nothing is known, some of which are flushed once they count; those who let them in look at them one after
// the other, and admit by what they saw. Two clients take one lock where a majority that counts is free, and renew it. Nobody
// may hold it beside another. Times are in ticks: the lease is 3, the delay 4 (a lease, and what 1.01 of it leaves).
//
// How a lock is taken, and its token, is in quorum.rs: here an acquisition is one step.

use std::collections::{HashMap, VecDeque};

const LEASE: u8 = 3;
const DELAY: u8 = 4;

#[derive(Clone, Copy, PartialEq)]
enum Rule {
    // As built: one that counts as new must have noted since when the one that asks did not count.
    Noted,
    // Any that counts as new will do.
    FreshForgotten,
}

// What a server says of itself. `since` is a number for each loss of its data, 0 while it counts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
struct Server {
    counts: bool,
    since: u8,
    age: u8,           // of the delay, or since it was admitted as new
    fresh: bool,       // admitted as new, or nothing is known of it
    with: u32,         // the losses that were under way when it was admitted as new, one bit each
    key: u8,           // whose lock, 0: nobody's
    left: u8,          // of the key's life
}

// One who lets a server in: what it saw of the others, by server; `None`: not yet looked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
struct Keeper { of: Option<(u8, u8)>, seen: [Option<Server>; 5] } // of: the server, and its `since` when it was looked at

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct State { s: Vec<Server>, k: [Keeper; 2], valid: [u8; 2], losses: u8, next: u8 }

fn majority(n: usize) -> usize { n / 2 + 1 }

// May it be admitted, by what was seen? `Some(with)`: yes, as new or (0) not.
fn judge(rule: Rule, n: usize, me: usize, since: u8, now: &Server, k: &Keeper) -> Option<(bool, u32)> {
    let others: Vec<Server> = (0..n).filter(|&j| j != me).filter_map(|j| k.seen[j]).collect();
    if others.iter().filter(|o| o.counts).count() >= majority(n) {
        return (now.age >= DELAY).then_some((false, 0));
    }
    if others.len() + 1 < n { return None }
    let known = |o: &Server| rule == Rule::FreshForgotten || o.with & 1 << since != 0;
    let fresh = now.fresh && others.iter().all(|o| o.fresh && (!o.counts || o.age < DELAY && known(o)));
    let old = |o: &Server| o.counts || fresh || o.age >= DELAY;
    let with = others.iter().filter(|o| !o.counts).fold(1u32 << since, |all, o| all | 1 << o.since);
    (others.iter().all(old) && old(now)).then_some((fresh, if fresh { with } else { 0 }))
}

fn successors(rule: Rule, faults: u8, st: &State) -> Vec<(String, State)> {
    let n = st.s.len();
    let mut out = Vec::new();
    let mut go = |what: String, next: State| out.push((what, next));
    // Time.
    let mut t = st.clone();
    for s in &mut t.s {
        s.age = (s.age + 1).min(DELAY);
        if s.left > 0 { s.left -= 1; if s.left == 0 { s.key = 0 } }
    }
    for v in &mut t.valid { *v = v.saturating_sub(1) }
    go("a tick".into(), t);
    // A server that counts is flushed.
    for i in 0..n {
        if st.s[i].counts && st.losses < faults && (st.next as u32) < 31 {
            let mut f = st.clone();
            f.s[i] = Server { since: st.next, fresh: true, ..Server::default() };
            (f.losses, f.next) = (st.losses + 1, st.next + 1);
            go(format!("server {i} is flushed"), f);
        }
    }
    // Keepers.
    for w in 0..2 {
        let k = st.k[w];
        if w == 1 && k.of.is_none() && st.k[0].of.is_none() {
            continue;
        }
        match k.of {
            None => for i in 0..n {
                if !st.s[i].counts && st.k[1 - w].of.is_none_or(|(other, _)| other as usize != i) {
                    let mut l = st.clone();
                    l.k[w] = Keeper { of: Some((i as u8, st.s[i].since)), seen: [None; 5] };
                    go(format!("keeper {w} looks at server {i}, which is to be let in"), l);
                }
            },
            Some((i, since)) => {
                let i = i as usize;
                // In order: which of the others comes first is a matter of names.
                if let Some(j) = (0..n).find(|&j| j != i && k.seen[j].is_none()) {
                    let mut l = st.clone();
                    l.k[w].seen[j] = Some(Server { key: 0, left: 0, ..st.s[j] });
                    go(format!("keeper {w} looks at server {j}"), l);
                }
                let mut done = st.clone();
                done.k[w] = Keeper::default();
                if st.s[i].counts || st.s[i].since != since {
                    go(format!("keeper {w} is too late for server {i}"), done);
                } else if let Some((fresh, with)) = judge(rule, n, i, since, &st.s[i], &k) {
                    done.s[i] = Server { counts: true, fresh, with, ..Server::default() };
                    go(format!("keeper {w} admits server {i}{}", if fresh { " as new" } else { "" }), done);
                } else if k.seen.iter().flatten().count() == n - 1 {
                    go(format!("keeper {w} gives server {i} up for now"), done);
                }
            }
        }
    }
    // Clients.
    for c in 0..2u8 {
        let mine: Vec<usize> = (0..n).filter(|&i| st.s[i].counts && st.s[i].key == c + 1).collect();
        let free: Vec<usize> = (0..n).filter(|&i| st.s[i].counts && st.s[i].key == 0).collect();
        if c == 1 && st.valid[0] == 0 {
            continue; // the clients are alike: the first takes it first
        }
        let mut a = st.clone();
        a.valid[c as usize] = LEASE;
        if st.valid[c as usize] == 0 && mine.is_empty() && free.len() >= majority(n) {
            for i in free { (a.s[i].key, a.s[i].left) = (c + 1, LEASE) }
            go(format!("client {c} takes the lock"), a);
        } else if st.valid[c as usize] > 0 && st.valid[c as usize] < LEASE && mine.len() >= majority(n) {
            for i in mine { a.s[i].left = LEASE }
            go(format!("client {c} renews"), a);
        }
    }
    out
}

fn explore(name: &str, rule: Rule, n: usize, faults: u8, most: usize) {
    let begun = std::time::Instant::now();
    // Each is found to be new by a look of its own.
    let s = (0..n).map(|i| Server { since: i as u8 + 1, fresh: true, ..Server::default() }).collect();
    let first = State { s, k: [Keeper::default(); 2], valid: [0; 2], losses: 0, next: n as u8 + 1 };
    let mut from: HashMap<State, Option<(State, String)>> = HashMap::from([(first.clone(), None)]);
    let mut queue = VecDeque::from([(first, 0)]);
    let (mut depth, mut verdict) = (0, "PASS");
    while let Some((st, d)) = queue.pop_front() {
        depth = d;
        if st.valid[0] > 0 && st.valid[1] > 0 {
            let (mut trace, mut at) = (Vec::new(), st);
            while let Some(Some((before, what))) = from.get(&at) { trace.push(what.clone()); at = before.clone() }
            trace.iter().rev().enumerate().for_each(|(i, what)| println!("  {:2} {what}", i + 1));
            verdict = "FAIL two holders";
            break;
        }
        if from.len() >= most { verdict = "PASS so far (BOUNDED)"; break }
        for (what, next) in successors(rule, faults, &st) {
            let mut next = next;
            next.k.sort_by_key(|k| k.of); // they are alike
            if !from.contains_key(&next) {
                from.insert(next.clone(), Some((st.clone(), what)));
                queue.push_back((next, d + 1));
            }
        }
    }
    println!("{name:50} {:9} states depth {depth:3} {:6.1}s {verdict}", from.len(), begun.elapsed().as_secs_f64());
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let most = arguments.get(1).and_then(|n| n.parse().ok()).unwrap_or(20_000_000);
    let wanted = arguments.get(2).map(String::as_str).unwrap_or("");
    for (name, rule, n, faults) in [
        ("N 3 servers, no flush", Rule::Noted, 3, 0),
        ("N 3 servers, a flush", Rule::Noted, 3, 1),
        ("N 5 servers, a flush", Rule::Noted, 5, 1),
        ("N 5 servers, 2 flushes", Rule::Noted, 5, 2),
        ("B FreshForgotten, 3 servers, a flush", Rule::FreshForgotten, 3, 1),
    ] {
        if name.starts_with(wanted) { explore(name, rule, n, faults, most) }
    }
}
