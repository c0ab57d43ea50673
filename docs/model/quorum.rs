// Explicit-state model of one lock on three independent servers: majorities, tokens, rounds, wake-ups, servers that lose their data.
// rustc -O quorum.rs && ./quorum [max_states] [beginning of the names]; ./quorum walk [seconds] [beginning of the names]
// Time is in ticks. A connection is first in, first out; what is on it may be delayed for ever. See docs/quorum.md.
use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};
const N: usize = 3; // servers
const LEASE: u8 = 2;
const CLAIM: u8 = 1; // for how long a release reserves a server's key for the first waiter

#[derive(Clone, Copy, PartialEq, Debug)]
enum Bug { None, Minority, FromReply, OneServer, NoConfirm, ConfirmNotMine, NoDelay, NoFloor, EarlyFloor, SameAttempt, OldReplies, RenewMinority, ReleaseAll, NoGiveBack, NoWake, HigherCounted, NoLift, EarlyWake, OldCounts, OldDelay, FreshAlone, FreshByTime, UptimeAhead }
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
struct Bud { conn: u8, crash: u8, restart: u8, dead: u8, slow: u8, lost: u8, renew: u8, flush: u8, jump: u8, save: u8, all: u8 }
#[derive(Clone, Copy)]
struct Cfg { name: &'static str, n: usize, left: [u8; 3], rounds: u8, bud: Bud,
  tokens: bool,   // numbers are drawn and compared (rounds are limited then; else they are not)
  queue: bool,    // who does not get the lock is queued and woken by a release (else it goes on asking)
  recheck: bool,  // waiters ask again without being woken
  tick: bool,     // time passes: leases end (else what is shown holds without any lease ending)
  prompt: bool,   // replies that decide nothing are read at once
  progress: bool, // check that a clean end stays reachable
  uneven: bool,   // the counter of server A is ahead: a round was given back
  places: bool,   // an acquire begins with a try, whose numbers are the place for its joins (else the place is the client's number)
  straight: bool, // ... in one round, where the try does not take the lock (an acquire that begins with a join)
  order: bool,    // check the order of arrival: client 1 is queued everywhere; it is woken by a majority (a release reaches the servers together)
  held: bool,     // client 0 holds the lock on all servers
  new: bool,      // nothing is known of the servers, which have been up for a lease; losses may be of more than a minority
  aged: bool,     // what server A has saved contains a delay that was over a while ago
  bug: Bug }

#[derive(Clone, Copy, PartialEq, Eq, Debug)] // a short vector
struct V<T: Copy + Default, const K: usize> { n: u8, v: [T; K] }
impl<T: Copy + Default, const K: usize> Default for V<T, K> { fn default() -> Self { V { n: 0, v: [T::default(); K] } } }
impl<T: Copy + Default + Hash, const K: usize> Hash for V<T, K> { fn hash<H: Hasher>(&self, h: &mut H) { self.n.hash(h); for x in self.iter() { x.hash(h) } } }
impl<T: Copy + Default, const K: usize> std::ops::Deref for V<T, K> { type Target = [T]; fn deref(&self) -> &[T] { &self.v[..self.n as usize] } }
impl<T: Copy + Default, const K: usize> std::ops::DerefMut for V<T, K> { fn deref_mut(&mut self) -> &mut [T] { &mut self.v[..self.n as usize] } }
impl<T: Copy + Default, const K: usize> V<T, K> {
  fn push(&mut self, x: T) { self.v[self.n as usize] = x; self.n += 1 }
  fn remove(&mut self, i: usize) -> T { let x = self.v[i]; for j in i + 1..self.n as usize { self.v[j - 1] = self.v[j] } self.n -= 1; self.v[self.n as usize] = T::default(); x }
  fn retain(&mut self, f: impl Fn(&T) -> bool) { let mut i = 0; while i < self.n as usize { if f(&self.v[i]) { i += 1 } else { self.remove(i); } } } }

#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)] struct Key { c: u8, a: u8, ttl: u8 }
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
enum Op { #[default] Take, Try, Conf, Renew, Repair, Release, Back } // Repair: the key again on a server that no longer has it; Back: give a minority back, nobody is woken
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)] enum R { #[default] Sent, Taken(u8), Held(u8), Not, Dead, Yes, No }
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)] struct Req { op: Op, a: u8, t: u8, cur: bool, r: R } // cur: of the client's present round
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
struct Srv { key: Option<Key>, q: V<(u8, u8, u8), 6>, ctr: u8, lost: u8, floor: u8, dead: bool, // q: place, client, attempt. lost: 0 it counts; 1 it lacks its counter; more: ticks until then, plus 1
  old: Option<(Option<Key>, u8, u8)>, // what was saved: the key, the counter, `lost`
  up: u8, blank: bool, fresh: u8, since: u8, beside: [u8; N] } // the age of its process; nothing is known of it; for how long it counts as newly admitted; which of its losses; those of the others that did not count when it was admitted
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)] enum St { #[default] Idle, Round, Wait, Back, Hold, Dead }
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)] enum Vote { #[default] None, Taken(u8), Not, Dead }
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
struct Cli { st: St, left: u8, rounds: u8, a: u8, age: u8, vote: [Vote; N], tok: u8, conf: [u8; N], valid: u8, rage: u8, ren: [u8; N], woken: [bool; N], con: [V<Req, 6>; N], inbox: [V<u8, 4>; N],
  place: u8, seen: u8, at: [bool; N], before: [bool; 3], ahead: [bool; 3] } // at: where its join has run; before, ahead: whose joins had run on a majority, and who was queued everywhere, when it came
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)] struct Orph { s: u8, c: u8, op: Op, a: u8, t: u8 }
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct S { srv: [Srv; N], c: [Cli; 3], orph: V<Orph, 6>, top: u8, used: u32, bud: Bud, bad: Option<&'static str> }

impl Cfg { fn jumps(&self) -> bool { self.bud.jump > 0 } } // where a server's clock may jump only that no token is handed out twice is checked
fn waits(x: &Srv, c: u8, a: u8) -> bool { x.q.iter().any(|e| (e.1, e.2) == (c, a)) }
fn need(f: &Cfg) -> usize { if f.bug == Bug::Minority { 1 } else { N / 2 + 1 } }
impl S {
  // What a server does with a request.
  fn exec(&mut self, f: &Cfg, s: usize, c: u8, op: Op, a: u8, t: u8) -> R {
    let alive: Vec<bool> = self.c.iter().map(|c| c.st != St::Dead).collect();
    let v = &mut self.srv[s];
    if v.lost > 0 { return if matches!(op, Op::Take | Op::Try) { R::Dead } else { R::No } }
    let mine = v.key.map_or(false, |k| k.c == c && k.a == a);
    match op {
      Op::Try => { v.ctr += 1; if v.key.is_some() { return R::Held(v.ctr) } v.key = Some(Key { c, a, ttl: LEASE }); R::Taken(v.ctr) }
      Op::Take => { if f.places { if f.bug != Bug::NoLift { v.ctr = v.ctr.max(t) } let x = &mut self.c[c as usize]; if x.a == a && x.place == t { x.at[s] = true } }
       match v.key {
        Some(k) if k.c == c && k.a > a => R::Not,
        Some(k) if k.c != c => { if f.queue && !waits(v, c, a) { let place = if !f.places { c } else { t }; v.q.push((place, c, a)); v.q.sort() } R::Not }
        k => { v.q.retain(|e| (e.1, e.2) != (c, a)); v.key = Some(Key { c, a, ttl: k.map_or(0, |k| if k.a == a { k.ttl } else { 0 }).max(LEASE) });
          if f.tokens { v.ctr += 1 } R::Taken(v.ctr) } } }
      Op::Conf => { if mine || f.bug == Bug::ConfirmNotMine { v.ctr = v.ctr.max(t); R::Yes } else { R::No } }
      Op::Renew => { if mine { v.key.as_mut().unwrap().ttl = LEASE; R::Yes } else { R::No } }
      Op::Repair => { if v.key.is_none() { v.key = Some(Key { c, a, ttl: LEASE }) } R::No }
      Op::Release | Op::Back => { v.q.retain(|e| (e.1, e.2) != (c, a)); if mine || (f.bug == Bug::ReleaseAll && v.key.map_or(false, |k| k.c == c)) { v.key = None;
          while op == Op::Release && f.bug != Bug::NoWake && v.q.len() > 0 { let (_, c2, a2) = v.q.remove(0); if !alive[c2 as usize] { continue }
            v.key = Some(Key { c: c2, a: a2, ttl: CLAIM }); let b = &mut self.c[c2 as usize].inbox[s]; if b.len() < 4 && !b.contains(&a2) { b.push(a2) } break } }
        R::No } } }
  fn push(&mut self, i: usize, op: Op, a: u8, t: u8) { for s in 0..N { self.push_to(i, s, op, a, t) } }
  fn push_to(&mut self, i: usize, s: usize, op: Op, a: u8, t: u8) { if !self.srv[s].dead { self.c[i].con[s].push(Req { op, a, t, cur: true, r: R::Sent }) } }
  // Who comes: behind whom is its place to be, and who is to be served before it?
  fn come(&mut self, f: &Cfg, i: usize) { if !f.places { return } for j in 0..f.n { let c = &self.c[j]; let waits = j != i && matches!(c.st, St::Round | St::Wait | St::Back) && c.place > 0;
      let (b, e) = (waits && c.at.iter().filter(|x| **x).count() >= N / 2 + 1, waits && self.srv.iter().all(|x| self::waits(x, j as u8, c.a))); self.c[i].before[j] = b; self.c[i].ahead[j] = e } }
  // It has a place now.
  fn seat(&mut self, f: &Cfg, i: usize, place: u8) { self.c[i].place = place; for j in 0..f.n { if self.c[i].before[j] && self.c[j].place >= place { self.bad = Some("who came later has no later place") } } }
  fn round(&mut self, f: &Cfg, i: usize, fresh: bool) { let c = &mut self.c[i]; if fresh { c.a += 1 } c.st = St::Round; c.age = 0; c.vote = Default::default(); c.tok = 0; c.conf = [0; N]; c.woken = [false; N];
    for con in c.con.iter_mut() { for r in con.iter_mut() { r.cur = false } } self.ask(f, i) }
  fn ask(&mut self, f: &Cfg, i: usize) { let c = &self.c[i]; let (a, op, t) = (c.a, if f.places && c.place == 0 { Op::Try } else { Op::Take }, c.place); for s in 0..N { let x = &self.srv[s]; if x.dead || f.new && x.lost > 0 { self.c[i].vote[s] = Vote::Dead } else { self.push_to(i, s, op, a, t) } } }
  // A join in the same round, behind a try that has not taken the lock: whose votes count no more.
  fn queue_up(&mut self, f: &Cfg, i: usize) { let place = self.c[i].seen + 1; self.seat(f, i, place); let c = &mut self.c[i]; c.vote = Default::default(); c.tok = 0; c.conf = [0; N];
    for con in c.con.iter_mut() { for r in con.iter_mut() { r.cur = false } } self.ask(f, i) }
  fn give_back(&mut self, f: &Cfg, i: usize) {
    let a = self.c[i].a; if f.bug == Bug::NoGiveBack { self.c[i].st = St::Wait; return }
    let tried = f.places && self.c[i].place == 0; self.push(i, if tried { Op::Release } else { Op::Back }, a, 0); self.c[i].st = St::Back; self.c[i].tok = 0;
    let said = self.c[i].vote.iter().filter(|v| matches!(v, Vote::Taken(_) | Vote::Not)).count(); if tried && said >= N / 2 + 1 { let place = self.c[i].seen; self.seat(f, i, place) }
    if f.rounds > 0 { self.c[i].rounds -= 1; if self.c[i].rounds == 0 { self.c[i].st = St::Idle } } }
  fn decide(&mut self, f: &Cfg, i: usize) {
    let c = &mut self.c[i]; let q = need(f); if c.st != St::Round && c.st != St::Wait { return }
    let taken = c.vote.iter().filter(|v| matches!(v, Vote::Taken(_))).count(); let none = c.vote.iter().filter(|v| **v == Vote::None).count();
    if c.st == St::Round && c.tok == 0 && taken >= q {
      let of = |v: &Vote| if let Vote::Taken(n) = v { Some(*n) } else { None };
      c.tok = if f.bug == Bug::OneServer { c.vote.iter().find_map(of).unwrap() } else { c.vote.iter().filter_map(of).max().unwrap() }.max(1);
      for s in 0..N { if let Vote::Taken(n) = c.vote[s] { if n == c.tok || !f.tokens || matches!(f.bug, Bug::OneServer | Bug::NoConfirm) { c.conf[s] = 1 } } }
      let (a, t) = (c.a, c.tok); if c.conf.iter().filter(|x| **x == 1).count() >= q { return self.hold(f, i) }
      for s in 0..N { if self.srv[s].dead { self.c[i].conf[s] = 2 } else if self.c[i].conf[s] == 0 { if self.c[i].vote[s] != Vote::Not || f.bug == Bug::ConfirmNotMine { self.push_to(i, s, Op::Conf, a, t) } else { self.c[i].conf[s] = 2 } } } return }
    if c.st == St::Round && c.tok > 0 { let yes = c.conf.iter().filter(|x| **x == 1).count(); let no = c.conf.iter().filter(|x| **x == 2).count();
      if yes >= q { self.hold(f, i) } else if N - no < q { if f.straight && c.place == 0 { self.queue_up(f, i) } else { self.give_back(f, i) } } return }
    if taken + none < q { let (said, place) = (N - none - c.vote.iter().filter(|v| **v == Vote::Dead).count(), c.seen);
      if f.places && c.place == 0 { if c.st == St::Round { if said >= q && f.straight { self.queue_up(f, i) } else if said == N && taken == 0 { self.seat(f, i, place); self.round(f, i, false) } else if said >= q || none == 0 { self.give_back(f, i) } } return }
      if taken == 0 && f.queue && c.vote.contains(&Vote::Not) { c.st = St::Wait } else { self.give_back(f, i) } } }
  fn hold(&mut self, f: &Cfg, i: usize) { let c = &mut self.c[i];
    if c.age >= LEASE && f.bug != Bug::FromReply { if f.rounds == 1 || c.con.iter().any(|x| x.len() > 1) { return self.give_back(f, i) } // too late: it joins again under the same attempt
      if f.rounds > 1 { if c.rounds == 1 { return self.give_back(f, i) } c.rounds -= 1 } return self.round(f, i, false) }
    if f.order && (0..f.n).any(|j| c.ahead[j]) { self.bad = Some("who came later is served before one who was queued everywhere") }
    let c = &mut self.c[i];
    c.st = St::Hold; c.valid = if f.bug == Bug::FromReply { LEASE } else { LEASE - c.age }; c.ren = [3; N]; c.age = 0;
    if f.tokens { if f.jumps() { if self.used >> c.tok & 1 == 1 { self.bad = Some("a token is handed out twice") } self.used |= 1 << c.tok; return }
      if c.tok <= self.top { self.bad = Some(if c.tok == self.top { "a token is handed out twice" } else { "a token falls" }) } self.top = self.top.max(c.tok) } }
  fn read(&mut self, f: &Cfg, i: usize, s: usize) { let m = self.c[i].con[s].remove(0); let c = &mut self.c[i]; if m.a != c.a { return }
    match m.op {
      Op::Take | Op::Try if (m.cur || f.bug == Bug::OldReplies) && matches!(c.st, St::Round | St::Wait) => { c.vote[s] = match m.r { R::Taken(n) => Vote::Taken(n), R::Not | R::Held(_) => Vote::Not, _ => Vote::Dead }; if let (true, R::Taken(n) | R::Held(n)) = (f.places && c.place == 0, m.r) { c.seen = c.seen.max(n) } self.decide(f, i) }
      Op::Conf if m.cur && c.st == St::Round && m.t == c.tok && c.conf[s] != 1 => { let n = if let Vote::Taken(n) = c.vote[s] { n } else { u8::MAX };
        c.conf[s] = if m.r == R::Yes && (n <= c.tok || f.bug == Bug::HigherCounted) { 1 } else { 2 }; self.decide(f, i) }
      Op::Renew if m.cur && c.st == St::Hold && c.ren[s] == 0 => { c.ren[s] = if m.r == R::Yes { 1 } else { 2 };
        let yes = c.ren.iter().filter(|x| **x == 1).count();
        if yes >= if f.bug == Bug::RenewMinority { 1 } else { N / 2 + 1 } { c.valid = c.valid.max(LEASE.saturating_sub(c.rage)); let a = c.a;
          for x in 0..N { if self.c[i].ren[x] == 2 { self.c[i].ren[x] = 3; self.push_to(i, x, Op::Repair, a, 0) } } } }
      _ => {} } }
  // The requests on that connection that no server has run may still run; their replies do not come.
  fn cut(&mut self, f: &Cfg, i: usize, s: usize, vanish: bool) { let old = self.c[i].con[s]; self.c[i].con[s].retain(|r| vanish && r.r != R::Sent);
    for r in old.iter() { if vanish && r.r != R::Sent { continue }
      if r.r == R::Sent && !vanish && self.orph.len() < 6 { self.orph.push(Orph { s: s as u8, c: i as u8, op: r.op, a: r.a, t: r.t }); self.orph.sort() }
      if matches!(r.op, Op::Release | Op::Back) && self.c[i].con[s].len() < 4 { self.push_to(i, s, r.op, r.a, 0) } // said again on a new connection
      let c = &mut self.c[i]; if r.a == c.a && r.cur { match r.op { Op::Take | Op::Try if c.vote[s] == Vote::None => c.vote[s] = Vote::Dead, Op::Conf if c.conf[s] == 0 => c.conf[s] = 2, Op::Renew if c.ren[s] == 0 => c.ren[s] = 3, _ => {} } } }
    self.decide(f, i) }
}
// Attempts are compared only with those of the same client: rename them to ranks.
fn norm(f: &Cfg, s: &mut S) { for i in 0..f.n { let mut xs: Vec<u8> = vec![s.c[i].a]; let u = i as u8;
    for v in &s.srv { if let Some(k) = v.key { if k.c == u { xs.push(k.a) } } if let Some((Some(k), ..)) = v.old { if k.c == u { xs.push(k.a) } } for e in v.q.iter() { if e.1 == u { xs.push(e.2) } } }
    for k in 0..N { for r in s.c[i].con[k].iter() { xs.push(r.a) } for a in s.c[i].inbox[k].iter() { xs.push(*a) } } for o in s.orph.iter() { if o.c == u { xs.push(o.a) } }
    xs.sort(); xs.dedup(); let g = |a: &mut u8| *a = 1 + xs.binary_search(a).unwrap() as u8;
    for v in s.srv.iter_mut() { if let Some(k) = v.key.as_mut() { if k.c == u { g(&mut k.a) } } if let Some((Some(k), ..)) = v.old.as_mut() { if k.c == u { g(&mut k.a) } } for e in v.q.iter_mut() { if e.1 == u { g(&mut e.2) } } }
    for k in 0..N { for r in s.c[i].con[k].iter_mut() { g(&mut r.a) } for a in s.c[i].inbox[k].iter_mut() { g(a) } } for o in s.orph.iter_mut() { if o.c == u { g(&mut o.a) } } g(&mut s.c[i].a);
    let c = &mut s.c[i]; if c.st != St::Round { c.tok = 0; c.conf = [0; N]; c.age = 0; if c.st != St::Wait { c.vote = Default::default(); c.woken = Default::default() } }
    if !matches!(c.st, St::Round | St::Wait | St::Back) { c.place = 0; c.seen = 0; c.at = [false; N]; c.before = [false; 3]; c.ahead = [false; 3] } if c.place > 0 { c.seen = 0; c.before = [false; 3] }
    if c.st != St::Hold { c.ren = [3; N]; c.rage = 0 } for k in 0..N { for r in c.con[k].iter_mut() { if r.a != c.a || !matches!(r.op, Op::Take | Op::Try | Op::Conf | Op::Renew) { r.cur = false; if r.op != Op::Conf && !(f.places && r.op == Op::Take) { r.t = 0 } } } } }
  if f.places { for j in 0..f.n { if !matches!(s.c[j].st, St::Round | St::Wait | St::Back) { for i in 0..f.n { s.c[i].before[j] = false; s.c[i].ahead[j] = false } } } }
  s.orph.sort() }
// A reply that decides nothing is read before anything else happens: it commutes with all of it (not with "no longer waits", which random walks see).
fn prompt(f: &Cfg, s: &S) -> Option<(Act, S)> {
  for i in 0..f.n { for k in 0..N { if s.c[i].st != St::Dead && s.c[i].con[k].first().map_or(false, |r| r.r != R::Sent) { let mut t = *s; t.read(f, i, k);
    if t.c[i].st == s.c[i].st && t.c[i].tok == s.c[i].tok && t.c[i].valid == s.c[i].valid && t.bad == s.bad { norm(f, &mut t); return Some((("reads,", i as u8, k as u8), t)) } } } }
  // A release or give-back that finds nothing of its attempt, and never will.
  for i in 0..f.n { for k in 0..N { if let Some(j) = s.c[i].con[k].iter().position(|r| r.r == R::Sent) { let m = s.c[i].con[k][j]; let x = &s.srv[k];
    if matches!(m.op, Op::Release | Op::Back) && x.key.map_or(true, |y| y.c != i as u8 || y.a != m.a) && !waits(x, i as u8, m.a) && !s.orph.iter().any(|o| o.c == i as u8) { let mut t = *s; t.c[i].con[k].remove(j); norm(f, &mut t);
      return Some((("nothing to give up,", i as u8, k as u8), t)) } } } }
  None }
type Act = (&'static str, u8, u8);
fn succ(f: &Cfg, s: &S) -> Vec<(Act, S)> {
  if f.prompt { if let Some(x) = prompt(f, s) { return vec![x] } }
  let mut v: Vec<(Act, S)> = vec![]; let mut add = |n: &'static str, c: usize, k: usize, mut t: S| { norm(f, &mut t); v.push(((n, c as u8, k as u8), t)) };
  if f.tick { let mut t = *s; for x in t.srv.iter_mut() { if let Some(k) = x.key.as_mut() { k.ttl -= 1; if k.ttl == 0 { x.key = None } } if x.lost > 1 { x.lost -= 1 } if let Some((k, _, lost)) = x.old.as_mut() { if let Some(y) = k { y.ttl -= 1; if y.ttl == 0 { *k = None } } if *lost > 1 { *lost -= 1 } }
      if f.new { x.up = (x.up + 1).min(LEASE); x.fresh = x.fresh.saturating_sub(1) } }
    for i in 0..f.n { let c = &mut t.c[i]; if c.st == St::Round { c.age = (c.age + 1).min(LEASE) } if c.st == St::Hold { c.rage = (c.rage + 1).min(LEASE); c.valid -= 1;
      if c.valid == 0 { c.st = St::Idle; let a = c.a; if (0..N).all(|k| t.c[i].con[k].len() < 5) { t.push(i, Op::Release, a, 0) } } } }
    if t != *s { add("tick", 9, 9, t) } }
  for j in 0..s.orph.len() { let o = s.orph[j]; let mut t = *s; t.orph.remove(j); add("delayed request lost of", o.c as usize, o.s as usize, t);
    if !t.srv[o.s as usize].dead { t.exec(f, o.s as usize, o.c, o.op, o.a, o.t); add(match o.op { Op::Try => "DELAYED try runs of", Op::Take => "DELAYED take runs of", Op::Back => "DELAYED give-back runs of", Op::Release => "DELAYED release runs of", Op::Conf => "DELAYED confirmation runs of", _ => "DELAYED renewal runs of" }, o.c as usize, o.s as usize, t) } }
  for k in 0..N { let x = &s.srv[k];
    if f.new && x.lost > 0 { // all are asked; where a majority of the others does not count, all that do not must have their delay behind them: by the age of their processes, if nothing was known of any
      let counts = |o: &usize| s.srv[*o].lost == 0; let up = if f.bug == Bug::UptimeAhead { 1 } else { 0 };
      let beside = |o: usize| (0..N).all(|a| counts(&a) || s.srv[o].beside[a] == s.srv[a].since);
      let fresh = if f.bug == Bug::FreshAlone { x.blank } else { (0..N).all(|o| if counts(&o) { s.srv[o].fresh > 0 && (beside(o) || f.bug == Bug::FreshByTime) } else { s.srv[o].blank }) };
      let over = |o: usize| s.srv[o].lost == 1 || (fresh && s.srv[o].up + up >= LEASE);
      if x.floor > 0 { let mut t = *s; let y = &mut t.srv[k]; (y.fresh, y.blank, y.lost) = (if x.floor == 2 { LEASE } else { 0 }, false, 0); if x.floor == 1 { y.beside = [0; N] } y.floor = 0; add("counts again: server", 9, k, t) }
      else if f.bug == Bug::FreshAlone && fresh && over(k) || if (0..N).filter(|o| *o != k).filter(counts).count() >= N / 2 + 1 { x.lost == 1 } else { (0..N).filter(|o| !counts(o)).all(over) } {
        let mut t = *s; t.srv[k].floor = if fresh { 2 } else { 1 }; for o in 0..N { t.srv[k].beside[o] = if o == k || counts(&o) { 0 } else { s.srv[o].since } } add("all looked at for", 9, k, t) } }
    if !f.new && x.lost == 1 { // the counters of a majority of the others, and of others that count
      let others = (0..N).filter(|&o| o != k && s.srv[o].lost == 0 && !s.srv[o].dead).count();
      if others >= N / 2 + 1 { let top = (0..N).filter(|&o| o != k).map(|o| s.srv[o].ctr).max().unwrap();
        if x.floor == 0 && f.tokens && !matches!(f.bug, Bug::NoFloor | Bug::EarlyFloor) { let mut t = *s; t.srv[k].floor = top + 1; add("others' counters read for", 9, k, t) }
        else { let mut t = *s; t.srv[k].ctr = x.ctr.max(x.floor.saturating_sub(1)); t.srv[k].floor = 0; t.srv[k].lost = 0; add("counts again: server", 9, k, t) } } }
    let lost = |t: &mut S| { let top = (0..N).filter(|&o| o != k).map(|o| s.srv[o].ctr).max().unwrap();
      t.srv[k] = Srv { lost: if f.bug == Bug::NoDelay { 1 } else { LEASE + 1 }, floor: if f.bug == Bug::EarlyFloor { top + 1 } else { 0 }, up: x.up, blank: true, since: x.since + f.new as u8, old: x.old, ..Srv::default() } };
    let sure = f.new && (0..N).any(|o| o != k && s.srv[o].lost == 0); // that all have lost their data looks as if all were new
    if s.bud.restart > 0 && (f.new || s.srv.iter().all(|x| x.lost == 0 && !x.dead)) { let mut t = *s; t.bud.restart -= 1; lost(&mut t); t.srv[k].up = 0;
      for i in 0..f.n { t.cut(f, i, k, true) } t.orph.retain(|o| o.s != k as u8); add("RESTARTS EMPTY: server", 9, k, t);
      if let Some((key, ctr, old)) = x.old { let mut t = *s; t.bud.restart -= 1; let lost = match f.bug { Bug::OldCounts if old == 0 => 0, Bug::OldDelay if old > 0 => old, _ => LEASE + 1 };
        t.srv[k] = Srv { key, ctr, lost, ..Srv::default() }; for i in 0..f.n { t.cut(f, i, k, true) } t.orph.retain(|o| o.s != k as u8); add("RESTARTS WITH OLD DATA: server", 9, k, t) } }
    if s.bud.save > 0 { let mut t = *s; t.bud.save -= 1; t.srv[k].old = Some((x.key, x.ctr, x.lost)); add("saves its data: server", 9, k, t) }
    if k == 0 && s.bud.all > 0 { let mut t = *s; t.bud.all -= 1; t.orph = V::default(); for o in 0..N { t.srv[o] = Srv { lost: LEASE + 1, blank: true, since: s.srv[o].since + 1, ..Srv::default() } } for i in 0..f.n { for o in 0..N { t.cut(f, i, o, true) } } add("ALL RESTART EMPTY", 9, 9, t) }
    if s.bud.flush > 0 && (sure || s.srv.iter().all(|x| x.lost == 0 && !x.dead)) { let mut t = *s; t.bud.flush -= 1; lost(&mut t); add("FLUSHED: server", 9, k, t) }
    if s.bud.jump > 0 && x.key.is_some() { let mut t = *s; t.bud.jump -= 1; t.srv[k].key = None; add("CLOCK JUMPS, key expires: server", 9, k, t) }
    if s.bud.dead > 0 && s.srv.iter().all(|x| x.lost == 0 && !x.dead) { let mut t = *s; t.bud.dead -= 1; t.srv[k] = Srv { dead: true, ..Srv::default() }; for i in 0..f.n { t.cut(f, i, k, true); t.c[i].con[k].retain(|r| r.r != R::Sent) }
      t.orph.retain(|o| o.s != k as u8); add("DIES: server", 9, k, t) } }
  for i in 0..f.n { let c = &s.c[i]; let room = (0..N).all(|k| c.con[k].len() < if f.prompt { 2 } else { 3 });
    for k in 0..N {
      if let Some(j) = c.con[k].iter().position(|r| r.r == R::Sent) { if !s.srv[k].dead { let m = c.con[k][j]; let mut t = *s; let r = t.exec(f, k, i as u8, m.op, m.a, m.t);
        if c.st == St::Dead || matches!(m.op, Op::Release | Op::Back | Op::Repair) { t.c[i].con[k].remove(j); } else { t.c[i].con[k][j].r = r }
        add(match m.op { Op::Try => "try runs of", Op::Take => "take runs of", Op::Conf => "confirmation runs of", Op::Renew => "renewal runs of", Op::Repair => "repair runs of", Op::Release => "release runs of", Op::Back => "give-back runs of" }, i, k, t) } }
      if c.st == St::Dead { continue }
      if c.con[k].first().map_or(false, |r| r.r != R::Sent) { let mut t = *s; t.read(f, i, k); add(match c.con[k][0].r { R::Taken(_) => "reads TAKEN,", R::Not | R::Held(_) => "reads HELD,", R::Yes => "reads YES,", _ => "reads NO,", }, i, k, t) }
      if s.bud.conn > 0 && c.con[k].len() > 0 { let mut t = *s; t.bud.conn -= 1; t.cut(f, i, k, false); add("CONNECTION LOST of", i, k, t) }
      if let Some(&a) = c.inbox[k].first() { let mut t = *s; t.c[i].inbox[k].remove(0);
        if s.bud.lost > 0 { let mut t = t; t.bud.lost -= 1; add("MESSAGE LOST to", i, k, t) }
        if a == c.a && c.st == St::Wait { t.c[i].woken[k] = true; add("reads wake-up,", i, k, t) }
        else if a == c.a && c.st == St::Hold { add("reads wake-up,", i, k, t) }
        else if (a != c.a || matches!(c.st, St::Idle | St::Back)) && c.con[k].len() < 4 { t.push_to(i, k, Op::Release, a, 0); add("reads wake-up nobody wants,", i, k, t) } } }
    match c.st {
      St::Dead => continue,
      St::Idle if c.left > 0 && room && (!f.new || s.srv.iter().filter(|x| x.lost == 0).count() >= N / 2 + 1) => { let mut t = *s; t.c[i].left -= 1; t.c[i].rounds = f.rounds; t.come(f, i); t.round(f, i, true); add("acquires:", i, 9, t) }
      St::Back if room => { let mut t = *s; t.round(f, i, f.bug != Bug::SameAttempt); add("new round of", i, 9, t) }
      St::Round if s.bud.slow > 0 => { let mut t = *s; t.bud.slow -= 1; for x in t.c[i].vote.iter_mut() { if *x == Vote::None { *x = Vote::Dead } } if c.tok > 0 { for x in t.c[i].conf.iter_mut() { if *x == 0 { *x = 2 } } } t.decide(f, i); add("no longer waits for the slow:", i, 9, t) }
      St::Wait if room => { let told = c.woken.iter().filter(|w| **w).count();
        if told >= N / 2 + 1 || (told > 0 && (!f.order || f.bug == Bug::EarlyWake) && (0..N).all(|k| c.inbox[k].len() == 0)) { let mut t = *s; t.round(f, i, false); add("woken, round of", i, 9, t) }
        else if s.bud.slow > 0 && f.recheck { let mut t = *s; t.bud.slow -= 1; t.round(f, i, false); add("re-check at once of", i, 9, t) }
        else if f.recheck && (0..N).all(|k| c.con[k].len() == 0 && c.inbox[k].len() == 0) { let mut t = *s; t.round(f, i, false); add("re-check of", i, 9, t) } }
      St::Hold => { if (0..N).all(|k| c.con[k].len() < 5) { let mut t = *s; t.c[i].st = St::Idle; t.c[i].valid = 0; let a = c.a; t.push(i, Op::Release, a, 0); add("releases:", i, 9, t) }
        if s.bud.renew > 0 && room { let mut t = *s; t.bud.renew -= 1; t.c[i].ren = [0; N]; t.c[i].rage = 0; for k in 0..N { if s.srv[k].dead { t.c[i].ren[k] = 3 } } let a = c.a; t.push(i, Op::Renew, a, 0); add("renews:", i, 9, t) } }
      _ => {} }
    if s.bud.crash > 0 && c.st != St::Idle { let mut t = *s; t.bud.crash -= 1; for k in 0..N { t.c[i].con[k].retain(|r| r.r == R::Sent); t.c[i].inbox[k] = V::default() } t.c[i].st = St::Dead; t.c[i].left = 0; t.c[i].valid = 0; add("CRASHES:", i, 9, t) } }
  v }
fn clean(f: &Cfg, s: &S) -> bool { s.orph.len() == 0 && s.srv.iter().all(|x| x.key.is_none() && x.lost == 0) && s.c[..f.n].iter().all(|c| c.left == 0 && matches!(c.st, St::Idle | St::Dead) && c.con.iter().all(|v| v.len() == 0)) }
fn check(f: &Cfg, s: &S) -> Option<&'static str> { if !f.jumps() && s.c[..f.n].iter().filter(|c| c.valid > 0).count() > 1 { return Some("two holders at once") } s.bad }
fn start(f: &Cfg) -> S { let mut s = S { srv: Default::default(), c: Default::default(), orph: V::default(), top: 0, used: 0, bud: f.bud, bad: None }; if f.uneven { s.srv[0].ctr = 1 } if f.aged { s.srv[0].old = Some((None, 0, 1)) } if f.new { s.srv = [Srv { lost: LEASE + 1, up: LEASE, blank: true, since: 1, ..Srv::default() }; N]; for k in 0..2 { let x = &mut s.srv[k]; (x.lost, x.blank, x.fresh, x.beside) = (0, false, LEASE, [1; N]); x.beside[k] = 0 } }
  if f.held { (s.c[0].st, s.c[0].a, s.c[0].valid) = (St::Hold, 1, LEASE); for x in s.srv.iter_mut() { x.key = Some(Key { c: 0, a: 1, ttl: LEASE }) } }
  if f.order { for x in s.srv.iter_mut() { x.ctr = 2; x.q.push((2, 1, 1)) } let c = &mut s.c[1]; (c.st, c.a, c.place, c.rounds, c.at, c.vote) = (St::Wait, 1, 2, f.rounds, [true; N], [Vote::Not; N]) } for i in 0..f.n { s.c[i].left = f.left[i]; s.c[i].ren = [3; N] } norm(f, &mut s); s }

struct Fx(u64, u64);
impl Hasher for Fx { fn finish(&self) -> u64 { let h = self.0 ^ self.0 >> 32; let h = h.wrapping_mul(0x9E3779B97F4A7C15); h ^ h >> 29 }
  fn write(&mut self, b: &[u8]) { for x in b.chunks(8) { let mut y = [0u8; 8]; y[..x.len()].copy_from_slice(x); self.write_u64(u64::from_le_bytes(y)) } }
  fn write_u8(&mut self, i: u8) { self.write_u64(i as u64) } fn write_usize(&mut self, i: usize) { self.write_u64(i as u64) } fn write_isize(&mut self, i: isize) { self.write_u64(i as u64) }
  fn write_u64(&mut self, i: u64) { self.0 = (self.0.rotate_left(5) ^ i).wrapping_mul(0x517cc1b727220a95); self.1 = (self.1 ^ i).wrapping_mul(0x100000001b3).rotate_left(23) } }
// Servers are interchangeable, and so are clients where they do not queue: the smallest hash over the permutations.
fn key(f: &Cfg, s: &S) -> u128 { const P: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]; let mut best = u128::MAX;
  let ps: &[[usize; 3]] = if f.bug == Bug::OneServer { &P[..1] } else { &P }; let cs: &[[usize; 3]] = if f.queue || f.left[0] != f.left[1] { &P[..1] } else if f.n == 2 { &[[0, 1, 2], [1, 0, 2]] } else { &P };
  for m in cs { for p in ps { let mut h = Fx(1, 0x1234567);
    for &k in p { let x = &s.srv[k]; match x.key { None => h.write_u8(0), Some(k) => { h.write_u8(1 + m[k.c as usize] as u8); h.write_u8(k.a); h.write_u8(k.ttl) } } x.q.hash(&mut h); (x.ctr, x.lost, x.floor, x.dead).hash(&mut h); match x.old { None => h.write_u8(0), Some((key, ctr, lost)) => { h.write_u8(1); (key.map(|k| (m[k.c as usize], k.a, k.ttl)), ctr, lost).hash(&mut h) } }
      if f.new { (x.up, x.blank, x.fresh, x.since).hash(&mut h); for &o in p { x.beside[o].hash(&mut h) } } }
    let mut order = [0; 3]; for i in 0..3 { order[m[i]] = i }
    for &i in &order[..f.n] { let c = &s.c[i]; (c.st, c.left, c.rounds, c.a, c.age, c.tok, c.valid, c.rage).hash(&mut h); for &k in p { (c.vote[k], c.conf[k], c.ren[k], c.woken[k], c.con[k], c.inbox[k], c.at[k]).hash(&mut h) } if f.places { (c.place, c.seen, c.before, c.ahead).hash(&mut h) } }
    let mut inv = [0u8; 3]; for (j, &k) in p.iter().enumerate() { inv[k] = j as u8 } let mut o = s.orph; for x in o.iter_mut() { x.s = inv[x.s as usize]; x.c = m[x.c as usize] as u8 } o.sort(); (o, s.top, s.used, s.bud, s.bad.is_some()).hash(&mut h);
    best = best.min((h.finish() as u128) << 64 | (h.1 ^ h.1 >> 29) as u128) } } best }
fn show(path: &[Act], s: &S, f: &Cfg, msg: &str) { println!("  FAIL [{}]: {msg}, {} steps:", f.name, path.len());
  let text = |&(n, c, k): &Act| format!("{n}{}{}", if c < 9 { format!(" client {c}") } else { String::new() }, if k < 9 { format!(" {}", (b'A' + k) as char) } else { String::new() });
  println!("    {}", path.iter().map(text).collect::<Vec<_>>().join("; "));
  for (k, x) in s.srv.iter().enumerate() { println!("    {}: {:?} queue {:?} counter {} lost {} dead {}", (b'A' + k as u8) as char, x.key, &*x.q, x.ctr, x.lost, x.dead) }
  for (i, c) in s.c[..f.n].iter().enumerate() { println!("    client {i}: {:?} attempt {} valid {} votes {:?} token {} confirmed {:?}", c.st, c.a, c.valid, c.vote, c.tok, c.conf) } }
fn run(f: &Cfg, max: usize) {
  let t0 = std::time::Instant::now(); let init = start(f); let mut ix: HashMap<u128, u32> = HashMap::new(); let mut par: Vec<(u32, u16)> = vec![(0, 0)]; let mut fr = VecDeque::new();
  let mut edges: Vec<(u32, u32)> = vec![]; let mut ends: Vec<u32> = vec![]; ix.insert(key(f, &init), 0); fr.push_back((0u32, init));
  let trace = |par: &Vec<(u32, u16)>, mut i: u32, msg: &str| { let mut p = vec![]; while i != 0 { p.push(par[i as usize].1); i = par[i as usize].0 } p.reverse(); let mut s = init; let mut path = vec![];
    for x in p { let (a, t) = succ(f, &s).swap_remove(x as usize); path.push(a); s = t } show(&path, &s, f, msg) };
  let mut verdict = "PASS".to_string();
  'bfs: while let Some((i, s)) = fr.pop_front() { let v = succ(f, &s); let cl = clean(f, &s); if cl { ends.push(i) }
    if v.is_empty() && !cl && f.progress { trace(&par, i, "stuck"); verdict = "FAIL stuck".into(); break }
    for (j, (_, t)) in v.into_iter().enumerate() { let n = ix.len() as u32; let k = *ix.entry(key(f, &t)).or_insert(n); if f.progress { edges.push((i, k)) }
      if k == n { par.push((i, j as u16)); if let Some(m) = check(f, &t) { trace(&par, n, m); verdict = format!("FAIL {m}"); break 'bfs } fr.push_back((n, t)) } }
    if ix.len() > max { verdict = "PASS so far (BOUNDED)".into(); break } }
  if verdict == "PASS" && f.progress { let n = ix.len(); let mut st = vec![0u32; n + 1]; for e in &edges { st[e.1 as usize + 1] += 1 } for i in 0..n { st[i + 1] += st[i] } let mut pos = st.clone(); let mut adj = vec![0u32; edges.len()];
    for e in &edges { adj[pos[e.1 as usize] as usize] = e.0; pos[e.1 as usize] += 1 } let mut good = vec![false; n]; let mut w = ends.clone(); for &x in &ends { good[x as usize] = true }
    while let Some(x) = w.pop() { for &y in &adj[st[x as usize] as usize..st[x as usize + 1] as usize] { if !good[y as usize] { good[y as usize] = true; w.push(y) } } }
    match good.iter().position(|g| !g) { Some(x) => { trace(&par, x as u32, "no way to a clean end"); verdict = "FAIL no way to a clean end".into() } None => verdict = "PASS, a clean end stays reachable".into() } }
  let (mut d, mut i) = (0, par.len() as u32 - 1); while i != 0 { d += 1; i = par[i as usize].0 }
  println!("{:<46} {:>10} states depth {:>3} {:>6.1}s {}", f.name, ix.len(), d, t0.elapsed().as_secs_f32(), verdict) }
fn walk(f: &Cfg, secs: u64) { let t0 = std::time::Instant::now(); let (mut r, mut runs, mut steps) = (88172645463325252u64, 0u64, 0u64); let mut rnd = |n: usize| { r ^= r << 13; r ^= r >> 7; r ^= r << 17; (r >> 11) as usize % n };
  while t0.elapsed().as_secs() < secs { let mut s = start(f); let mut path = vec![]; runs += 1; let slow = rnd(7);
    for _ in 0..600 { let mut v = succ(f, &s); if v.is_empty() { break } let mut j = rnd(v.len()); for _ in 0..slow { if matches!(v[j].0.0, "tick" | "CRASHES:" | "no longer waits for the slow:" | "re-check of") { j = rnd(v.len()) } }
      let (a, t) = v.swap_remove(j); path.push(a); steps += 1; s = t; if let Some(m) = check(f, &s) { show(&path, &s, f, m); println!("{:<46} WALK FAIL {m} after {runs} runs", f.name); return } } }
  println!("{:<46} WALK ok: {runs} runs, {steps} steps", f.name) }
fn main() { let a: Vec<String> = std::env::args().collect();
  if a.get(1).map_or(false, |x| x == "walk") { for f in cfgs().iter().filter(|f| f.name.starts_with(&a[3][..])) { walk(f, a[2].parse().unwrap()) } return }
  let max = a.get(1).and_then(|x| x.parse().ok()).unwrap_or(10_000_000); let pat = a.get(2).cloned().unwrap_or_default();
  for f in cfgs().iter().filter(|f| f.name.starts_with(&pat[..])) { run(f, max) } }
// S: safety with tokens, rounds limited. J: only that no token is handed out twice, while clocks jump. P: progress without tokens, rounds unlimited. B: one rule left out, to be found. W: for random walks.
fn cfgs() -> Vec<Cfg> {
  let z = Bud::default(); let s = Cfg { name: "", n: 2, left: [1; 3], rounds: 1, bud: z, tokens: true, queue: false, recheck: false, tick: true, prompt: true, progress: false, uneven: false, places: false, straight: false, order: false, held: false, new: false, aged: false, bug: Bug::None };
  let p = Cfg { rounds: 0, tokens: false, queue: true, progress: true, ..s }; let still = Cfg { tick: false, ..p }; let now = Cfg { tick: false, ..s };
  let mut v = vec![]; let mut add = |name: String, c: Cfg| v.push(Cfg { name: Box::leak(name.into_boxed_str()), ..c });
  let (conn, slow, crash, restart, dead, lost, renew, flush) = (Bud { conn: 1, ..z }, Bud { slow: 1, ..z }, Bud { crash: 1, ..z }, Bud { restart: 1, ..z }, Bud { dead: 1, ..z }, Bud { lost: 1, ..z }, Bud { renew: 1, ..z }, Bud { flush: 1, ..z });
  for (w, b) in [("no fault", z), ("conn", conn), ("slow", slow), ("crash", crash), ("restart", restart), ("flush", flush), ("dead", dead), ("renew", renew), ("restart, renew", Bud { renew: 1, ..restart }), ("conn, slow", Bud { slow: 1, ..conn })] {
    add(format!("S 2 clients, {w}"), Cfg { bud: b, ..s }); add(format!("S uneven, 2 clients, {w}"), Cfg { bud: b, uneven: true, ..s }); add(format!("S 2 clients twice, {w}"), Cfg { bud: b, left: [2; 3], ..s });
    add(format!("S 2 clients, 2 rounds, {w}"), Cfg { bud: b, rounds: 2, ..s }); add(format!("S 2 clients, queue, {w}"), Cfg { bud: b, queue: true, ..s }); add(format!("S 3 clients, {w}"), Cfg { bud: b, n: 3, ..s }) }
  for (w, b) in [("restart, conn", Bud { conn: 1, ..restart }), ("2 restarts", Bud { restart: 2, ..z }), ("2 conn", Bud { conn: 2, ..z })] { add(format!("S 2 clients, {w}"), Cfg { bud: b, ..s }) }
  add("P still, 2 clients".into(), still); add("P still, 2 clients, dead".into(), Cfg { bud: dead, ..still }); add("P still, 2 clients twice".into(), Cfg { left: [2; 3], ..still }); add("P still, 3 clients".into(), Cfg { n: 3, ..still });
  for (w, b) in [("no fault", z), ("crash", crash), ("conn", conn), ("lost message", lost), ("slow", slow), ("restart", restart), ("flush", flush), ("dead", dead), ("renew", renew)] { add(format!("P 2 clients, {w}"), Cfg { recheck: true, bud: b, ..p }) }
  for (bug, c) in [(Bug::Minority, s), (Bug::FromReply, s), (Bug::OneServer, now), (Bug::NoConfirm, Cfg { uneven: true, ..now }), (Bug::ConfirmNotMine, Cfg { uneven: true, bud: Bud { jump: 2, ..z }, ..now }), (Bug::NoDelay, Cfg { bud: restart, ..now }),
    (Bug::NoFloor, Cfg { bud: restart, ..s }), (Bug::EarlyFloor, Cfg { uneven: true, bud: restart, ..s }), (Bug::SameAttempt, Cfg { rounds: 2, bud: Bud { slow: 1, ..conn }, ..now }), (Bug::OldReplies, Cfg { progress: false, left: [2, 1, 0], bud: slow, ..p }),
    (Bug::RenewMinority, Cfg { bud: renew, ..s }), (Bug::ReleaseAll, Cfg { left: [2, 1, 0], bud: conn, ..now }), (Bug::NoGiveBack, Cfg { bud: dead, ..still }), (Bug::NoWake, still)] {
    add(format!("B {bug:?}"), Cfg { bug, ..c }) }
  for (w, b, u) in [("J 2 clients, 2 jumps", z, false), ("J uneven, 2 clients, 2 jumps", z, true), ("J uneven, 2 clients, 2 jumps, conn", conn, true)] { add(w.into(), Cfg { bud: Bud { jump: 2, ..b }, uneven: u, ..now }) }
  add("J 2 clients, queue, 2 jumps, slow, conn".into(), Cfg { queue: true, bud: Bud { jump: 2, slow: 1, ..conn }, ..now }); add("J 3 clients, 2 jumps".into(), Cfg { n: 3, bud: Bud { jump: 2, ..z }, ..now }); add("J 2 clients twice, 3 jumps".into(), Cfg { left: [2; 3], bud: Bud { jump: 3, ..z }, ..now });
  add("B HigherCounted".into(), Cfg { bug: Bug::HigherCounted, bud: Bud { jump: 2, ..z }, uneven: true, ..now });
  let q = Cfg { n: 3, left: [0, 1, 1], rounds: 2, places: true, queue: true, held: true, uneven: true, ..now };
  for (w, c) in [("", q), (" straight", Cfg { straight: true, ..q })] {
    for (w2, b) in [("no fault", z), ("slow", slow), ("conn", conn), ("restart", Bud { restart: 1, ..z })] { add(format!("Q{w}, {w2}"), Cfg { bud: b, tick: b.restart > 0, ..c }) }
    add(format!("O{w}"), Cfg { order: true, left: [0, 0, 1], ..c }); add(format!("S places{w}, 2 clients, conn, slow"), Cfg { n: 2, left: [1; 3], held: false, tick: true, bud: Bud { slow: 1, ..conn }, ..c }) }
  add("B NoLift".into(), Cfg { bug: Bug::NoLift, straight: true, ..q }); for (bug, name) in [(Bug::EarlyWake, "B EarlyWake"), (Bug::NoWake, "B NoWake, order")] { add(name.into(), Cfg { bug, order: true, left: [0, 0, 1], ..q }) }
  let d = Cfg { new: true, tokens: false, ..s };
  for (w, b) in [("no loss", z), ("flush", flush), ("restart", restart), ("2 flushes", Bud { flush: 2, ..z }), ("2 restarts", Bud { restart: 2, ..z }), ("flush, restart", Bud { flush: 1, ..restart }), ("all restart", Bud { all: 1, ..z }), ("all restart, flush", Bud { all: 1, ..flush })] { add(format!("D new, {w}"), Cfg { bud: b, ..d }) }
  let old = Bud { save: 1, ..restart }; add("D old data".into(), Cfg { bud: old, ..s }); let aged = Cfg { bud: restart, aged: true, ..s }; add("D old delay".into(), aged);
  for (bug, c) in [(Bug::OldCounts, Cfg { bud: old, ..now }), (Bug::OldDelay, Cfg { tick: false, ..aged }), (Bug::FreshAlone, Cfg { bud: flush, tick: false, ..d }), (Bug::FreshByTime, Cfg { bud: flush, tick: false, ..d }), (Bug::UptimeAhead, Cfg { bud: Bud { all: 1, ..z }, held: true, left: [0, 1, 0], ..d })] { add(format!("B {bug:?}"), Cfg { bug, ..c }) }
  let s = Cfg { prompt: false, n: 3, left: [3; 3], rounds: 4, ..s }; let all = Bud { conn: 2, crash: 1, restart: 1, flush: 1, dead: 0, slow: 2, lost: 1, renew: 2, ..z };
  add("W queue".into(), Cfg { queue: true, recheck: true, bud: all, ..s }); add("W no queue".into(), Cfg { bud: all, uneven: true, ..s });
  add("W dead".into(), Cfg { queue: true, recheck: true, bud: Bud { restart: 0, flush: 0, dead: 1, ..all }, ..s });
  v }
