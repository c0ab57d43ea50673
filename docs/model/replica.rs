// Explicit-state model of one lock on a primary whose replica lags behind and may be promoted at any moment, while the primary goes on
// taking writes: copies of a lock (WAIT), and the tokens of both.
// rustc -O replica.rs && ./replica [max_states] [beginning of the names]
// Time is in ticks. Requests run some time after they are sent. What was not copied before the promotion never is; the new primary's own
// replicas are taken to acknowledge at once. Who has found the new primary does not go back to the old one.
use std::collections::{HashMap, VecDeque};

const LEASE: u8 = 3;
const CLAIM: u8 = 2; // for how long a release gives the lock to the first waiter
const STEP: u8 = 8; // by how much the counter is lifted; more than is drawn
const NEVER: u8 = u8::MAX;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Bug {
    None,
    NoWait,         // acquisitions count without copies
    MessageCounts,  // a hand-off's message is an acquisition
    JoinUnwritten, // a join that finds itself the holder writes nothing, so that its copies are those of earlier writes
    RenewUncounted, // renewals count without copies
    NoLife,        // the counter is lifted to the clock and above the tokens seen, and no life is known
    ClockAlways,   // the clock lifts the counter also in a life for which it was lifted
}

#[derive(Clone, Copy)]
struct Cfg {
    name: &'static str,
    left: &'static [u8], // acquisitions of each client
    copies: bool,
    tokens: bool, // drawn and compared; nothing is queued or renewed, no time passes
    renewals: u8,
    counter: u8, // at first; the clock is at 2, and goes to 14
    bug: Bug,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Key {
    c: u8,
    a: u8,
    ttl: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Entry {
    Key(Option<Key>),
    Counter(u8, u8),
}

#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
struct Node {
    key: Option<Key>,
    queue: Vec<u8>,
    counter: u8,
    life: u8, // the node for which the counter was lifted, from 1; 0: none
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
enum St {
    #[default]
    Idle,
    Sent,
    Taken, // as the server has it; the client has not been told
    Queued,
    Hold,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
struct Client {
    st: St,
    left: u8,
    a: u8,
    on: Option<u8>, // the node that it is connected to
    age: u8,        // since the request was sent
    need: u8,       // entries of the log that the replica must have before the reply comes
    token: u8,
    valid: u8,
    message: Option<u8>,       // its age
    renewal: Option<(u8, u8)>, // its age, and as `need`
    seen: u8,
    known: u8,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct S {
    node: [Node; 2],
    log: Vec<Entry>,
    promoted: bool,
    c: Vec<Client>,
    renewals: u8,
    clock: u8,
    given: u64,
    highest_of_old: u8,
    lowest_of_new: u8,
    bad: Option<&'static str>,
}

impl S {
    fn write(&mut self, n: usize, key: Option<Key>) {
        self.node[n].key = key;
        self.log(n, Entry::Key(key));
    }

    fn log(&mut self, n: usize, entry: Entry) {
        if n == 0 && !self.promoted {
            self.log.push(entry);
        }
    }

    /// How much of the log must be copied, for all that was written until now.
    fn need(&self, n: usize) -> u8 {
        if n == 1 {
            0
        } else if self.promoted {
            NEVER
        } else {
            self.log.len() as u8
        }
    }

    /// A new connection: the floor step.
    fn connect(&mut self, f: &Cfg, i: usize, n: usize) {
        self.c[i].on = Some(n as u8);
        if !f.tokens {
            return;
        }
        let (id, clock) = (n as u8 + 1, self.clock);
        let (client, node) = (&mut self.c[i], &mut self.node[n]);
        let seen = client.seen + if client.known != 0 && client.known != id { STEP } else { 0 };
        node.counter = match node.life {
            _ if f.bug == Bug::NoLife => node.counter.max(clock),
            life if life == id && f.bug != Bug::ClockAlways => node.counter,
            life if life == id || life == 0 => node.counter.max(clock),
            _ => (node.counter + STEP).max(clock),
        }
        .max(seen);
        node.life = id;
        (client.seen, client.known) = (client.seen.max(node.counter), id);
        let entry = Entry::Counter(node.counter, node.life);
        self.log(n, entry);
    }

    /// Try and join are one step here.
    fn take(&mut self, f: &Cfg, i: usize) {
        let (n, a) = (self.c[i].on.unwrap() as usize, self.c[i].a);
        self.node[n].queue.retain(|&c| c != i as u8);
        match self.node[n].key {
            Some(key) if key.c != i as u8 => {
                if !f.tokens {
                    self.node[n].queue.push(i as u8);
                    self.c[i].st = St::Queued;
                } else {
                    self.c[i].st = St::Idle;
                }
            }
            key => {
                let mine = key.is_some_and(|key| key.a == a);
                if f.tokens {
                    self.node[n].counter += 1;
                    let node = &self.node[n];
                    (self.c[i].token, self.c[i].need) = (node.counter, 0);
                    let entry = Entry::Counter(node.counter, node.life);
                    self.log(n, entry);
                }
                if mine && f.bug == Bug::JoinUnwritten {
                    self.c[i].need = 0;
                } else {
                    self.write(n, Some(Key { c: i as u8, a, ttl: LEASE }));
                    self.c[i].need = if f.copies && f.bug != Bug::NoWait { self.need(n) } else { 0 };
                }
                self.c[i].st = St::Taken;
            }
        }
    }

    fn release(&mut self, i: usize) {
        let (n, a) = (self.c[i].on.unwrap() as usize, self.c[i].a);
        (self.c[i].st, self.c[i].valid, self.c[i].renewal) = (St::Idle, 0, None);
        if !self.node[n].key.is_some_and(|key| key.c == i as u8 && key.a == a) {
            return;
        }
        // The first waiter that is still connected here.
        while !self.node[n].queue.is_empty() {
            let next = self.node[n].queue.remove(0);
            let client = &mut self.c[next as usize];
            if client.st == St::Queued && client.on == Some(n as u8) {
                client.message = Some(0);
                let key = Key { c: next, a: client.a, ttl: CLAIM };
                return self.write(n, Some(key));
            }
        }
        self.write(n, None);
    }

    fn hold(&mut self, f: &Cfg, i: usize, lease: u8, age: u8) {
        let client = &mut self.c[i];
        if age >= lease {
            (client.st, client.age) = (St::Sent, 0); // came too late: joins again
            return;
        }
        (client.st, client.valid, client.message) = (St::Hold, lease - age, None);
        if !f.tokens {
            return;
        }
        let token = client.token;
        client.seen = client.seen.max(token);
        if self.given >> token & 1 == 1 {
            self.bad = Some("a token is given twice");
        }
        self.given |= 1 << token;
        if client.on == Some(0) {
            self.highest_of_old = self.highest_of_old.max(token);
        } else {
            self.lowest_of_new = self.lowest_of_new.min(token);
        }
        if self.highest_of_old >= self.lowest_of_new && self.bad.is_none() {
            self.bad = Some("a token of the old primary is above one of the new");
        }
    }

    fn tick(&mut self) {
        let tick = |key: &mut Option<Key>| {
            if let Some(one) = key {
                one.ttl = one.ttl.saturating_sub(1);
            }
            key.take_if(|one| one.ttl == 0);
        };
        self.node.iter_mut().for_each(|node| tick(&mut node.key));
        for entry in &mut self.log {
            if let Entry::Key(key) = entry {
                tick(key);
            }
        }
        for client in &mut self.c {
            client.age = (client.age + 1).min(LEASE);
            client.message = client.message.map(|age| (age + 1).min(LEASE));
            client.renewal = client.renewal.map(|(age, need)| ((age + 1).min(LEASE), need));
            client.valid = client.valid.saturating_sub(1);
            if client.st == St::Hold && client.valid == 0 {
                (client.st, client.renewal) = (St::Idle, None);
            }
        }
    }
}

type Step = (String, S);

fn successors(f: &Cfg, s: &S) -> Vec<Step> {
    let mut all = Vec::new();
    let mut add = |name: String, change: &dyn Fn(&mut S)| {
        let mut next = s.clone();
        change(&mut next);
        // What makes no difference any more.
        for client in &mut next.c {
            if !matches!(client.st, St::Sent | St::Taken) {
                (client.age, client.need) = (0, 0);
            }
            if client.st != St::Queued {
                client.message = None;
            }
        }
        all.push((name, next));
    };
    if !s.log.is_empty() {
        add("the replica copies".into(), &|t| {
            match t.log.remove(0) {
                Entry::Key(key) => t.node[1].key = key,
                Entry::Counter(counter, life) => (t.node[1].counter, t.node[1].life) = (counter, life),
            }
            let less = |need: &mut u8| *need = if *need == NEVER { NEVER } else { need.saturating_sub(1) };
            for client in &mut t.c {
                less(&mut client.need);
                client.renewal.iter_mut().for_each(|(_, need)| less(need));
            }
        });
    }
    if !s.promoted {
        add("the replica is PROMOTED".into(), &|t| {
            t.promoted = true;
            t.log.clear();
            for client in &mut t.c {
                client.need = if client.need > 0 { NEVER } else { 0 };
                client.renewal = client.renewal.map(|(age, need)| (age, if need > 0 { NEVER } else { 0 }));
            }
        });
    }
    if f.tokens && s.clock < 14 {
        add("the clock goes on".into(), &|t| t.clock += 4);
    } else if !f.tokens {
        add("tick".into(), &|t| t.tick());
    }
    for (i, client) in s.c.iter().enumerate() {
        match client.on {
            None if client.left > 0 => {
                for n in 0..=usize::from(s.promoted) {
                    add(format!("{i} connects to {n}"), &|t| t.connect(f, i, n));
                }
            }
            Some(0) if s.promoted => add(format!("{i} moves to the new primary"), &|t| {
                t.connect(f, i, 1);
                let client = &mut t.c[i];
                client.renewal = None;
                if matches!(client.st, St::Sent | St::Taken | St::Queued) {
                    (client.st, client.age, client.message) = (St::Sent, 0, None); // joins there
                }
            }),
            _ => {}
        }
        match client.st {
            St::Idle if client.on.is_some() && client.left > 0 => add(format!("{i} asks"), &|t| {
                let client = &mut t.c[i];
                (client.left, client.a, client.st, client.age) = (client.left - 1, client.a + 1, St::Sent, 0);
            }),
            St::Sent => add(format!("{i}'s request runs"), &|t| t.take(f, i)),
            St::Taken => {
                if client.need == 0 {
                    add(format!("{i} is told"), &|t| t.hold(f, i, LEASE, client.age));
                } else {
                    add(format!("{i} gives up, for want of copies"), &|t| t.release(i));
                }
            }
            St::Queued => match client.message {
                Some(age) if f.bug == Bug::MessageCounts => {
                    add(format!("{i} reads the message"), &|t| t.hold(f, i, CLAIM, age));
                }
                _ => add(format!("{i} joins"), &|t| (t.c[i].st, t.c[i].age) = (St::Sent, 0)),
            },
            St::Hold => {
                add(format!("{i} releases"), &|t| t.release(i));
                if s.renewals > 0 && client.renewal.is_none() {
                    add(format!("{i} renews"), &|t| {
                        t.renewals -= 1;
                        let n = t.c[i].on.unwrap() as usize;
                        match t.node[n].key {
                            Some(key) if key.c == i as u8 && key.a == t.c[i].a => {
                                t.write(n, Some(Key { ttl: LEASE, ..key }));
                                let counts = !f.copies || matches!(f.bug, Bug::RenewUncounted | Bug::NoWait);
                                t.c[i].renewal = Some((0, if counts { 0 } else { t.need(n) }));
                            }
                            _ => (t.c[i].st, t.c[i].valid) = (St::Idle, 0),
                        }
                    });
                }
                if let Some((age, 0)) = client.renewal {
                    add(format!("{i}'s renewal is answered"), &|t| {
                        t.c[i].renewal = None;
                        t.c[i].valid = t.c[i].valid.max(LEASE - age);
                    });
                }
            }
            St::Idle => {}
        }
    }
    all
}

fn check(f: &Cfg, s: &S) -> Option<&'static str> {
    if !f.tokens && s.c.iter().filter(|client| client.valid > 0).count() > 1 {
        return Some("two holders at once");
    }
    s.bad
}

fn run(f: &Cfg, max: usize) {
    let begun = std::time::Instant::now();
    let c = f.left.iter().map(|&left| Client { left, ..Client::default() }).collect();
    // Somebody was connected before, and that was copied.
    let node = Node { counter: f.counter, life: 1, ..Node::default() };
    let start = S {
        node: [node.clone(), node],
        log: vec![],
        promoted: false,
        c,
        renewals: f.renewals,
        clock: 2,
        given: 0,
        highest_of_old: 0,
        lowest_of_new: NEVER,
        bad: None,
    };
    let mut index = HashMap::from([(start.clone(), 0usize)]);
    let mut from: Vec<(usize, String, usize)> = vec![(0, String::new(), 0)];
    let (mut open, mut depth, mut verdict) = (VecDeque::from([(0, start)]), 0, "PASS".to_owned());
    'search: while let Some((id, s)) = open.pop_front() {
        for (name, next) in successors(f, &s) {
            if index.contains_key(&next) {
                continue;
            }
            let new = from.len();
            depth = from[id].2 + 1;
            from.push((id, name, depth));
            if let Some(what) = check(f, &next) {
                let (mut path, mut at) = (vec![], new);
                while at != 0 {
                    path.push(from[at].1.clone());
                    at = from[at].0;
                }
                path.reverse();
                println!("  FAIL [{}]: {what}, {} steps:\n    {}\n    {next:?}", f.name, path.len(), path.join("; "));
                verdict = format!("FAIL {what}");
                break 'search;
            }
            index.insert(next.clone(), new);
            open.push_back((new, next));
        }
        if index.len() > max {
            verdict = "PASS so far (BOUNDED)".to_owned();
            break;
        }
    }
    let seconds = begun.elapsed().as_secs_f32();
    println!("{:<46} {:>10} states depth {depth:>3} {seconds:>6.1}s {verdict}", f.name, index.len());
}

// C: copies, where nobody may hold beside another. A: without, to be found. T: tokens of both primaries. B: one rule left out, to be found.
fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let max = arguments.get(1).and_then(|text| text.parse().ok()).unwrap_or(3_000_000);
    let wanted = arguments.get(2).cloned().unwrap_or_default();
    let c = Cfg { name: "", left: &[1, 1], copies: true, tokens: false, renewals: 0, counter: 0, bug: Bug::None };
    let three = Cfg { left: &[1, 1, 1], ..c };
    let t = Cfg { left: &[2, 2], copies: false, tokens: true, ..c };
    let (behind, ahead) = (Cfg { counter: 1, ..t }, Cfg { counter: 5, ..t });
    let all = [
        Cfg { name: "C 2 clients", ..c },
        Cfg { name: "C 2 clients, 2 renewals", renewals: 2, ..c },
        Cfg { name: "C 2 clients twice, renewal", left: &[2, 2], renewals: 1, ..c },
        Cfg { name: "C 3 clients", ..three },
        Cfg { name: "C 3 clients, renewal", renewals: 1, ..three },
        Cfg { name: "A asynchronous", copies: false, ..c },
        Cfg { name: "B NoWait", bug: Bug::NoWait, ..c },
        Cfg { name: "B MessageCounts", bug: Bug::MessageCounts, ..three },
        Cfg { name: "B JoinUnwritten", bug: Bug::JoinUnwritten, ..three },
        Cfg { name: "B RenewUncounted", bug: Bug::RenewUncounted, renewals: 1, ..c },
        Cfg { name: "T counter behind the clock", ..behind },
        Cfg { name: "T counter ahead of the clock", ..ahead },
        Cfg { name: "T 3 clients, counter ahead of the clock", left: &[1, 1, 1], ..ahead },
        Cfg { name: "B NoLife", bug: Bug::NoLife, ..ahead },
        Cfg { name: "B ClockAlways", bug: Bug::ClockAlways, ..behind },
    ];
    all.iter().filter(|f| f.name.starts_with(&wanted)).for_each(|f| run(f, max));
}
