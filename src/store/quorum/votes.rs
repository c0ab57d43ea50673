//! The votes of the servers, and what they come to: requests, answers and `now` in; requests for single servers and merged
//! answers out. Does no I/O and reads no clock. The rules are those of `docs/quorum.md`.
//!
//! A *round* is one request of the engine, asked of all servers that are connected. It is decided by the vote that settles
//! it; what comes later is looked at only to be undone where that is needed.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use super::ledger::Ledger;
use crate::clock::Time;
use crate::store::{Acquisition, ErrorClass, HandOff, Holder, Op, Reply, Request, RequestId, ServerError, TOKEN_FLOOR};

/// Where votes differ, the rest is waited for at least this long.
const PAUSE_MIN_US: Time = 5_000;

const LOST_ITS_DATA: &str = "the server has lost its data and does not count";

/// What is to be done.
#[derive(Debug)]
pub enum Out {
    /// Send this to that server; report its answer under that number.
    Send {
        /// Which server.
        server: usize,
        /// Of this request among those of these votes.
        id: RequestId,
        /// What to send.
        request: Request,
    },
    /// The answer to a round.
    Reply {
        /// The engine's request.
        id: RequestId,
        /// What the servers' answers come to.
        reply: Reply,
    },
    /// That server will not do any more: end its connection, and report it lost.
    Drop {
        /// Which server.
        server: usize,
        /// Why, in the server's words where it said something.
        why: String,
    },
    /// A server has reserved the lock for a waiter of this locker.
    Wake {
        /// The lock's key.
        key: String,
        /// The waiter.
        acquisition: Acquisition,
    },
}

/// What one server says in a round.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Vote {
    /// It was not connected, or its connection ended.
    Absent,
    Awaited,
    Said(Reply),
    Failed(ServerError),
}

/// Does the server's counter stand at the token or above, under the key?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Confirmation {
    None,
    Awaited,
    Given,
    Refused,
}

/// What a request to one server is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Vote,
    Confirm,
    /// Take a key that a renewal found missing.
    Repair,
    /// Give up: what of a round comes to nothing, or what a server was not told in time.
    GiveUp,
}

/// A request to one server, without an answer.
struct Asked {
    server: usize,
    /// None: what was owed.
    round: Option<RequestId>,
    purpose: Purpose,
    /// Was it asked while the round was still to draw its place?
    draws: bool,
    /// Kept where it may have to be said again.
    request: Option<Request>,
}

struct Round {
    request: Request,
    begun: Time,
    votes: Vec<Vote>,
    confirmations: Vec<Confirmation>,
    /// Whose votes were *taken*, in order.
    taken: Vec<(usize, u64)>,
    /// The largest number of the first majority.
    token: Option<u64>,
    /// Votes that do not come by then are not waited for.
    due: Option<Time>,
    /// That time has come.
    over: bool,
    /// A join without a place: it is preceded by a try, whose numbers are the place.
    draws: bool,
    /// A majority has renewed: who lacks the key is to take it.
    repairs: bool,
    /// Waiters of this locker that a release named.
    named: Vec<Acquisition>,
    /// Requests to servers without an answer.
    open: usize,
}

/// The votes on one link.
pub struct Votes {
    names: Arc<[String]>,
    majority: usize,
    ledger: Arc<Ledger>,
    /// This link's bit in the ledger.
    link: u64,
    up: Vec<bool>,
    /// Servers that missed the end of a pause, until they have answered all that they were asked.
    slow: Vec<bool>,
    outstanding: Vec<usize>,
    /// Without an answer.
    rounds: BTreeMap<RequestId, Round>,
    /// Decided, with answers outstanding: under load as many as a slow server lets come together.
    late: HashMap<RequestId, Round>,
    asked: HashMap<RequestId, Asked>,
    next: u64,
    out: VecDeque<Out>,
}

impl Votes {
    /// No server is connected. `names` are their addresses.
    pub fn new(names: Arc<[String]>, ledger: Arc<Ledger>) -> Self {
        let servers = names.len();
        Votes {
            names,
            majority: servers / 2 + 1,
            link: ledger.link(),
            ledger,
            up: vec![false; servers],
            slow: vec![false; servers],
            outstanding: vec![0; servers],
            rounds: BTreeMap::new(),
            late: HashMap::new(),
            asked: HashMap::new(),
            next: 1,
            out: VecDeque::new(),
        }
    }

    /// The next thing to be done.
    pub fn next_out(&mut self) -> Option<Out> {
        self.out.pop_front()
    }

    /// How many servers are connected.
    pub fn connected(&self) -> usize {
        self.up.iter().filter(|up| **up).count()
    }

    /// Is that server connected?
    pub fn is_up(&self, server: usize) -> bool {
        self.up[server]
    }

    /// The rounds without an answer, oldest first.
    pub fn pending(&self) -> Vec<RequestId> {
        self.rounds.keys().copied().collect()
    }

    /// Is there no round without an answer?
    pub fn is_idle(&self) -> bool {
        self.rounds.is_empty()
    }

    /// Is there a late answer that may have to be undone?
    pub fn has_late(&self) -> bool {
        !self.late.is_empty() && self.ledger.awaits_undoing()
    }

    /// When [`tick`](Self::tick) must be called.
    pub fn next_due(&self) -> Option<Time> {
        self.rounds.values().filter(|round| !round.over).filter_map(|round| round.due).min()
    }

    /// That server is connected, and counts.
    pub fn joined(&mut self, now: Time, server: usize) {
        self.up[server] = true;
        self.slow[server] = false;
        for request in self.ledger.takes_owed(now, server) {
            self.ask(server, None, Purpose::GiveUp, request);
        }
    }

    /// The connection of that server has ended.
    pub fn lost(&mut self, now: Time, server: usize) {
        self.up[server] = false;
        self.outstanding[server] = 0;
        let of_server: Vec<RequestId> =
            self.asked.iter().filter(|(_, asked)| asked.server == server).map(|(id, _)| *id).collect();
        for id in of_server {
            let Some(asked) = self.asked.remove(&id) else { continue };
            if let Some(request) = asked.request {
                self.ledger.owes(now, server, request);
            }
            let Some(id) = asked.round else { continue };
            let Some(round) = self.round(id) else { continue };
            round.open -= 1;
            match asked.purpose {
                _ if asked.draws != round.draws => {}
                Purpose::Vote => round.set_vote(server, Vote::Absent),
                Purpose::Confirm => round.set_confirmation(server, Confirmation::Refused),
                _ => {}
            }
            self.close(id);
        }
        let ids: Vec<RequestId> = self.rounds.keys().copied().collect();
        ids.into_iter().for_each(|id| self.judge(now, id));
    }

    /// Begins a round.
    pub fn start(&mut self, now: Time, id: RequestId, mut request: Request) {
        let servers = self.up.len();
        match &mut request.op {
            Op::Release { leave } => {
                *leave = true;
                self.ledger.gives_up(request.acquisition, self.link);
            }
            Op::Renew { lease_ms } => self.ledger.uses(*lease_ms),
            _ => {}
        }
        let draws = matches!(request.op, Op::Join { place: 0..TOKEN_FLOOR, queue: true, .. });
        self.ledger.opens(request.acquisition, self.link);
        self.rounds.insert(
            id,
            Round {
                request: request.clone(),
                begun: now,
                votes: vec![Vote::Absent; servers],
                confirmations: vec![Confirmation::None; servers],
                taken: Vec::new(),
                token: None,
                due: None,
                over: false,
                draws,
                repairs: false,
                named: Vec::new(),
                open: 0,
            },
        );
        let first = match request.op {
            Op::Join { lease_ms, .. } if draws => Request { op: Op::Try { lease_ms }, ..request },
            _ => request,
        };
        self.ask_all(id, &first);
        if matches!(first.op, Op::Release { .. }) {
            for server in (0..servers).filter(|&server| !self.up[server]) {
                self.ledger.owes(now, server, first.clone());
            }
        }
        self.judge(now, id);
    }

    /// Asks all servers for their vote.
    fn ask_all(&mut self, id: RequestId, request: &Request) {
        for server in (0..self.up.len()).filter(|&server| self.up[server]).collect::<Vec<_>>() {
            if let Some(round) = self.rounds.get_mut(&id) {
                round.votes[server] = Vote::Awaited;
            }
            self.ask(server, Some(id), Purpose::Vote, request.clone());
        }
    }

    /// The try that precedes a join without a place has not taken the lock: the join itself, under the same attempt. What the
    /// try took at some servers is found by it.
    fn queue_up(&mut self, id: RequestId) {
        let place = self.ledger.place(); // behind all numbers that the votes carried
        let Some(round) = self.rounds.get_mut(&id) else { return };
        let Op::Join { lease_ms, queue, .. } = round.request.op else { return };
        round.request.op = Op::Join { lease_ms, place, queue };
        round.draws = false;
        round.votes.fill(Vote::Absent);
        round.confirmations.fill(Confirmation::None);
        round.taken.clear();
        (round.token, round.due, round.over) = (None, None, false);
        let request = round.request.clone();
        self.ask_all(id, &request);
    }

    /// A server's answer.
    pub fn answer(&mut self, now: Time, id: RequestId, reply: Reply) {
        let Some(Asked { server, round, purpose, draws, request }) = self.asked.remove(&id) else { return };
        self.outstanding[server] -= 1;
        if self.outstanding[server] == 0 {
            self.slow[server] = false;
        }
        if let Reply::Error(ServerError { class: ErrorClass::Reconnect, text }) = &reply {
            let why = text.clone();
            // It has lost its data, is loading it, or is a replica now: no answer. What it was to give up is owed.
            self.asked.insert(id, Asked { server, round, purpose, draws, request });
            self.outstanding[server] += 1;
            self.out.push_back(Out::Drop { server, why });
            return;
        }
        // An answer to the try that preceded a join counts no more: the join has asked anew.
        let current = match round.and_then(|id| self.round(id)) {
            None => true,
            Some(round) => {
                round.open -= 1;
                let current = round.draws == draws;
                if purpose == Purpose::Confirm && current {
                    let given = reply == Reply::Confirmed;
                    round.set_confirmation(server, if given { Confirmation::Given } else { Confirmation::Refused });
                }
                current
            }
        };
        match purpose {
            Purpose::Vote if !current => self.ledger.saw(number(&reply)),
            Purpose::Vote => self.take_vote(server, round.expect("a vote is of a round"), reply),
            Purpose::Confirm => {}
            Purpose::Repair => {
                if let Some(id) = round
                    && let Reply::Taken { .. } = reply
                {
                    self.undo_if_given_up(server, id);
                }
            }
            Purpose::GiveUp => self.given_up(server, round, reply, request),
        }
        if let Some(id) = round {
            self.judge(now, id);
        }
    }

    /// Time has come to [`next_due`](Self::next_due).
    pub fn tick(&mut self, now: Time) {
        let due = |round: &Round| !round.over && round.due.is_some_and(|due| due <= now);
        let ids: Vec<RequestId> = self.rounds.iter().filter(|(_, round)| due(round)).map(|(id, _)| *id).collect();
        for id in ids {
            let round = self.rounds.get_mut(&id).expect("looked up above");
            round.over = true;
            for (server, vote) in round.votes.iter().enumerate() {
                self.slow[server] |= *vote == Vote::Awaited;
            }
            self.judge(now, id);
        }
    }

    /// Asks a server, if it is connected.
    fn ask(&mut self, server: usize, round: Option<RequestId>, purpose: Purpose, request: Request) {
        if !self.up[server] {
            return;
        }
        let id = RequestId(self.next);
        self.next += 1;
        self.outstanding[server] += 1;
        let mut draws = false;
        if let Some(round) = round.and_then(|id| self.round(id)) {
            round.open += 1;
            draws = round.draws;
        }
        let again = purpose == Purpose::GiveUp || matches!(request.op, Op::Release { .. });
        let kept = again.then(|| request.clone());
        self.asked.insert(id, Asked { server, round, purpose, draws, request: kept });
        self.out.push_back(Out::Send { server, id, request });
    }

    /// A round, decided or not.
    fn round(&mut self, id: RequestId) -> Option<&mut Round> {
        match self.rounds.get_mut(&id) {
            Some(round) => Some(round),
            None => self.late.get_mut(&id),
        }
    }

    fn take_vote(&mut self, server: usize, id: RequestId, reply: Reply) {
        let late = !self.rounds.contains_key(&id);
        let ledger = Arc::clone(&self.ledger);
        let Some(round) = self.round(id) else { return };
        match reply {
            Reply::Taken { token } if token >= TOKEN_FLOOR => {
                ledger.saw(token);
                round.set_vote(server, Vote::Said(reply));
                round.taken.push((server, token));
                if late {
                    self.undo_if_given_up(server, id);
                }
            }
            // No number, or one below the floor: the server has lost its data, and does not count for a lease, to which
            // what it took is left: the attempt may go on, and so must not be given back anywhere (rule Q5).
            Reply::Taken { .. } | Reply::Held { place: 1..TOKEN_FLOOR, .. } => {
                round.set_vote(server, Vote::Absent);
                self.out.push_back(Out::Drop { server, why: LOST_ITS_DATA.to_owned() });
            }
            Reply::TakenUndrawn { error } => {
                round.set_vote(server, Vote::Failed(error));
                self.out.push_back(Out::Drop { server, why: LOST_ITS_DATA.to_owned() });
            }
            Reply::Again => {
                let request = round.request.clone();
                self.ask(server, Some(id), Purpose::Vote, request);
            }
            Reply::Released { next: Some(HandOff { acquisition, .. }) } => {
                round.set_vote(server, Vote::Said(Reply::Released { next: None }));
                if !round.named.contains(&acquisition) {
                    round.named.push(acquisition);
                    // The first is named in the answer, if that is still to come.
                    if late || round.named.len() > 1 {
                        let key = round.request.name.key().to_owned();
                        self.out.push_back(Out::Wake { key, acquisition });
                    }
                }
            }
            Reply::Queued { .. } if late => self.undo_if_given_up(server, id),
            Reply::NotMine(Holder::Nobody) if round.repairs => {
                round.set_vote(server, Vote::Said(reply));
                self.repair(server, id);
            }
            Reply::Error(error) => round.set_vote(server, Vote::Failed(error)),
            Reply::Held { place, .. } => {
                ledger.saw(place);
                round.set_vote(server, Vote::Said(reply));
            }
            reply => round.set_vote(server, Vote::Said(reply)),
        }
    }

    /// What was owed, or the giving back of a round, was answered.
    fn given_up(&mut self, server: usize, round: Option<RequestId>, reply: Reply, request: Option<Request>) {
        let Some(request) = request else { return };
        match reply {
            Reply::Again => self.ask(server, round, Purpose::GiveUp, request),
            Reply::Released { next: Some(HandOff { acquisition, .. }) } => {
                self.out.push_back(Out::Wake { key: request.name.key().to_owned(), acquisition });
            }
            _ => {}
        }
    }

    /// A server has taken the lock, or queued, after all. What was given up on this link went out behind that request.
    fn undo_if_given_up(&mut self, server: usize, id: RequestId) {
        let (ledger, link) = (Arc::clone(&self.ledger), self.link);
        let Some(round) = self.round(id) else { return };
        if ledger.is_to_undo(round.request.acquisition, link) {
            let request = Request { op: Op::Back, ..round.request.clone() };
            self.ask(server, Some(id), Purpose::GiveUp, request);
        }
    }

    /// Has a server that lacks the key take it.
    fn repair(&mut self, server: usize, id: RequestId) {
        let ledger = Arc::clone(&self.ledger);
        let Some(round) = self.round(id) else { return };
        let Op::Renew { lease_ms } = round.request.op else { return };
        if !ledger.is_given_up(round.request.acquisition) {
            let op = Op::Join { lease_ms, place: 0, queue: false };
            let request = Request { op, ..round.request.clone() };
            self.ask(server, Some(id), Purpose::Repair, request);
        }
    }

    /// Ends a round with that answer.
    fn decide(&mut self, id: RequestId, reply: Reply) {
        if let Some(mut round) = self.rounds.remove(&id) {
            (round.votes, round.confirmations, round.taken) = (Vec::new(), Vec::new(), Vec::new());
            self.late.insert(id, round);
            self.out.push_back(Out::Reply { id, reply });
        }
    }

    /// Forgets a decided round of which nothing is outstanding.
    fn close(&mut self, id: RequestId) {
        if let Some(round) = self.late.get(&id)
            && round.open == 0
        {
            self.ledger.closes(round.request.acquisition);
            self.late.remove(&id);
        }
    }

    /// Gives up at every server what it took or will take of a round.
    fn give_back(&mut self, id: RequestId, op: Op) {
        let Some(round) = self.rounds.get_mut(&id) else { return };
        let request = Request { op, ..round.request.clone() };
        self.ledger.gives_up(request.acquisition, self.link);
        for server in (0..self.up.len()).filter(|&server| self.up[server]).collect::<Vec<_>>() {
            self.ask(server, Some(id), Purpose::GiveUp, request.clone());
        }
    }

    /// Is a round decided? Is it over altogether?
    fn judge(&mut self, now: Time, id: RequestId) {
        if let Some(round) = self.rounds.get(&id) {
            let verdict = match round.request.op {
                Op::Try { .. } | Op::Join { .. } | Op::Leave { .. } => self.judge_taking(id),
                Op::Renew { .. } => self.judge_renewal(id),
                Op::Release { .. } => self.judge_release(id),
                Op::Inspect => self.judge_inspection(id),
                // Asked of servers, and never of a quorum.
                Op::Back | Op::Confirm { .. } => Some(Reply::Stale),
            };
            match verdict {
                Some(reply) => self.decide(id, reply),
                None => self.set_pause(now, id),
            }
        }
        self.close(id);
    }

    /// Once a majority has answered, the others have twice the time that it took.
    fn set_pause(&mut self, now: Time, id: RequestId) {
        let majority = self.majority;
        let Some(round) = self.rounds.get_mut(&id) else { return };
        if round.due.is_none() && round.token.is_none() && round.said().count() >= majority {
            let most = match round.request.op {
                Op::Try { lease_ms } | Op::Join { lease_ms, .. } | Op::Renew { lease_ms } | Op::Leave { lease_ms } => {
                    lease_ms * 1_000 / 10
                }
                _ => Time::MAX,
            };
            let pause = (2 * now.saturating_sub(round.begun)).max(PAUSE_MIN_US).min(most);
            round.due = Some(now + pause);
        }
    }

    /// How many votes of the round are still waited for.
    fn awaited(&self, round: &Round) -> usize {
        let answered = round.said().count() >= self.majority;
        let waits = |server: usize| !answered || !(round.over || self.slow[server]);
        round.votes.iter().enumerate().filter(|(server, vote)| **vote == Vote::Awaited && waits(*server)).count()
    }

    fn judge_taking(&mut self, id: RequestId) -> Option<Reply> {
        let (majority, leaves) = (self.majority, matches!(self.rounds[&id].request.op, Op::Leave { .. }));
        let awaited = self.awaited(&self.rounds[&id]);
        let round = self.rounds.get_mut(&id)?;
        if round.taken.len() >= majority {
            return self.judge_token(id, awaited);
        }
        if round.taken.len() + awaited >= majority {
            return None;
        }
        let round = &self.rounds[&id];
        let said = round.said().count();
        if said < majority && said + awaited >= majority {
            return None;
        }
        let any_taken = !round.taken.is_empty();
        let op = round.request.op;
        if round.draws && said >= majority {
            self.queue_up(id);
            return None;
        }
        if said < majority {
            let error = self.too_few(round);
            // Where nothing is to be undone, or the same attempt goes on or is released by the engine.
            if !any_taken || error.class != ErrorClass::Memory {
                return Some(Reply::Error(error));
            }
        } else if let Some(agreed) = self.agreed(round) {
            return Some(agreed);
        }
        let place = round.place();
        let outstanding = round.votes.contains(&Vote::Awaited);
        let remaining_ms = round.smallest_remaining(majority);
        if leaves {
            let holder = round.most_named();
            self.give_back(id, Op::Release { leave: true });
            return Some(Reply::NotMine(holder));
        }
        let queues = matches!(op, Op::Join { queue: true, .. });
        if queues && !any_taken && said >= majority {
            return Some(Reply::Queued { place, remaining_ms, waiters: round.waiters() });
        }
        if !any_taken && !outstanding {
            return Some(Reply::Held { place, remaining_ms });
        }
        self.give_back(id, if queues { Op::Back } else { Op::Release { leave: true } });
        Some(Reply::GivenBack { place })
    }

    /// A majority has taken the lock: is the token confirmed?
    fn judge_token(&mut self, id: RequestId, awaited: usize) -> Option<Reply> {
        let majority = self.majority;
        let round = self.rounds.get_mut(&id)?;
        let first = round.taken.iter().take(majority).map(|(_, number)| *number).max();
        let token = *round.token.get_or_insert(first.expect("a majority is not empty"));
        let mut confirm = Vec::new();
        for &(server, number) in &round.taken {
            if round.confirmations[server] == Confirmation::None {
                // A number above the token was drawn for nobody to be compared with: it does not count.
                round.confirmations[server] = match number.cmp(&token) {
                    std::cmp::Ordering::Equal => Confirmation::Given,
                    std::cmp::Ordering::Greater => Confirmation::Refused,
                    std::cmp::Ordering::Less if !self.up[server] => Confirmation::Refused,
                    std::cmp::Ordering::Less => {
                        confirm.push(server);
                        Confirmation::Awaited
                    }
                };
            }
        }
        let count = |of| round.confirmations.iter().filter(|confirmation| **confirmation == of).count();
        let (given, asked) = (count(Confirmation::Given), count(Confirmation::Awaited));
        let request = Request { op: Op::Confirm { token }, ..round.request.clone() };
        let leaves = matches!(round.request.op, Op::Leave { .. });
        let (place, holder, draws) = (round.place(), round.most_named(), round.draws);
        let queues = matches!(round.request.op, Op::Join { queue: true, .. });
        if given >= majority {
            return Some(Reply::Taken { token });
        }
        if given + asked + awaited < majority && draws {
            self.queue_up(id);
            return None;
        }
        if given + asked + awaited < majority {
            self.give_back(id, if queues { Op::Back } else { Op::Release { leave: true } });
            return Some(if leaves { Reply::NotMine(holder) } else { Reply::GivenBack { place } });
        }
        confirm.into_iter().for_each(|server| self.ask(server, Some(id), Purpose::Confirm, request.clone()));
        None
    }

    /// What a majority says that is no taking and no holding.
    fn agreed(&self, round: &Round) -> Option<Reply> {
        let most = |is: fn(&Reply) -> bool| round.said().filter(|reply| is(reply)).count() >= self.majority;
        if most(|reply| matches!(reply, Reply::Stale)) {
            return Some(Reply::Stale);
        }
        if most(|reply| matches!(reply, Reply::Foreign { .. })) {
            return Some(Reply::Foreign { remaining_ms: round.smallest_remaining(self.majority) });
        }
        if most(|reply| matches!(reply, Reply::Unqueued { .. })) {
            return round.said().find(|reply| matches!(reply, Reply::Unqueued { .. })).cloned();
        }
        None
    }

    fn judge_renewal(&mut self, id: RequestId) -> Option<Reply> {
        let (majority, round) = (self.majority, &self.rounds[&id]);
        let remaining =
            |reply: &Reply| if let Reply::Renewed { remaining_ms } = reply { Some(*remaining_ms) } else { None };
        let mut renewed: Vec<u64> = round.said().filter_map(remaining).collect();
        if renewed.len() >= majority {
            renewed.sort_unstable_by(|a, b| b.cmp(a));
            let lacks = |vote: &Vote| *vote == Vote::Said(Reply::NotMine(Holder::Nobody));
            let lacking: Vec<usize> = (0..self.up.len()).filter(|&server| lacks(&round.votes[server])).collect();
            self.rounds.get_mut(&id)?.repairs = true;
            lacking.into_iter().for_each(|server| self.repair(server, id));
            return Some(Reply::Renewed { remaining_ms: renewed[majority - 1] });
        }
        let not_mine = round.not_mine();
        if not_mine >= majority {
            return Some(Reply::NotMine(round.most_named()));
        }
        let awaited = self.awaited(round);
        let undecided = renewed.len() + awaited >= majority || not_mine + awaited >= majority;
        (!undecided).then(|| Reply::Error(self.too_few(round)))
    }

    fn judge_release(&self, id: RequestId) -> Option<Reply> {
        let round = &self.rounds[&id];
        let acquisition = round.request.acquisition;
        let released = round.said().any(|reply| matches!(reply, Reply::Released { .. }));
        if round.said().count() >= self.majority {
            // Repeated, it may find nothing left of what it released the first time.
            return Some(if self.ledger.was_partly_released(acquisition) || released {
                let first = round.named.first();
                Reply::Released { next: first.map(|&acquisition| HandOff { acquisition, token: 0 }) }
            } else {
                Reply::NotMine(round.most_named())
            });
        }
        if round.said().count() + self.awaited(round) >= self.majority {
            return None;
        }
        if released {
            self.ledger.partly_released(acquisition);
        }
        Some(Reply::Error(self.too_few(round)))
    }

    fn judge_inspection(&self, id: RequestId) -> Option<Reply> {
        let round = &self.rounds[&id];
        let (most, holder) = round.named_most_often();
        if most >= self.majority {
            return Some(Reply::Holder(holder));
        }
        if self.awaited(round) > 0 {
            return None;
        }
        let few = round.said().count() < self.majority;
        Some(if few { Reply::Error(self.too_few(round)) } else { Reply::Holder(Holder::Nobody) })
    }

    /// Too few servers have answered: the error that most have.
    fn too_few(&self, round: &Round) -> ServerError {
        let failed = |(server, vote): (usize, &Vote)| match vote {
            Vote::Failed(error) => Some((server, error.clone())),
            _ => None,
        };
        let failures: Vec<(usize, ServerError)> = round.votes.iter().enumerate().filter_map(failed).collect();
        let like = |class: ErrorClass| failures.iter().filter(|(_, error)| error.class == class).count();
        match failures.iter().max_by_key(|(_, error)| like(error.class)) {
            Some((server, error)) if like(error.class) + round.said().count() >= self.majority => {
                ServerError { class: error.class, text: format!("{}: {}", self.names[*server], error.text) }
            }
            _ => {
                let silent = |(server, vote): (usize, &Vote)| match vote {
                    Vote::Said(_) => None,
                    Vote::Failed(error) => Some(format!("{}: {}", self.names[server], error.text)),
                    _ => Some(format!("{}: no answer", self.names[server])),
                };
                let texts: Vec<String> = round.votes.iter().enumerate().filter_map(silent).collect();
                let text =
                    format!("fewer than {} of {} servers agree: {}", self.majority, self.up.len(), texts.join("; "));
                ServerError { class: ErrorClass::Retry, text }
            }
        }
    }
}

impl Drop for Votes {
    fn drop(&mut self) {
        let all = self.rounds.values().chain(self.late.values());
        all.for_each(|round| self.ledger.closes(round.request.acquisition));
    }
}

impl Round {
    fn set_vote(&mut self, server: usize, vote: Vote) {
        if let Some(of_server) = self.votes.get_mut(server) {
            *of_server = vote;
        }
    }

    fn set_confirmation(&mut self, server: usize, confirmation: Confirmation) {
        if let Some(of_server) = self.confirmations.get_mut(server) {
            *of_server = confirmation;
        }
    }

    fn said(&self) -> impl Iterator<Item = &Reply> {
        self.votes.iter().filter_map(|vote| if let Vote::Said(reply) = vote { Some(reply) } else { None })
    }

    /// The largest number that the votes carry, or 0.
    fn place(&self) -> u64 {
        self.said().map(number).max().unwrap_or(0)
    }

    fn waiters(&self) -> u64 {
        let waiters = |reply: &Reply| if let Reply::Queued { waiters, .. } = reply { *waiters } else { 0 };
        self.said().map(waiters).max().unwrap_or(0)
    }

    /// After which time so many servers can be free; `None`: that is not known.
    fn smallest_remaining(&self, so_many: usize) -> Option<u64> {
        let remaining = |reply: &Reply| match reply {
            Reply::Taken { .. } => Some(0),
            Reply::Held { remaining_ms, .. } | Reply::Queued { remaining_ms, .. } | Reply::Foreign { remaining_ms } => {
                *remaining_ms
            }
            _ => None,
        };
        let mut all: Vec<u64> = self.said().filter_map(remaining).collect();
        all.sort_unstable();
        all.get(so_many - 1).copied()
    }

    fn not_mine(&self) -> usize {
        self.said().filter(|reply| matches!(reply, Reply::NotMine(_))).count()
    }

    /// Whom most name as the holder, and how many.
    fn named_most_often(&self) -> (usize, Holder) {
        let holder = |reply: &Reply| match reply {
            Reply::NotMine(holder) | Reply::Holder(holder) => Some(holder.clone()),
            _ => None,
        };
        let named: Vec<Holder> = self.said().filter_map(holder).collect();
        let count = |of: &Holder| named.iter().filter(|holder| *holder == of).count();
        let most = named.iter().max_by_key(|holder| count(holder));
        most.map_or((0, Holder::Nobody), |holder| (count(holder), holder.clone()))
    }

    fn most_named(&self) -> Holder {
        self.named_most_often().1
    }
}

/// The number that a vote carries, or 0.
fn number(reply: &Reply) -> u64 {
    match reply {
        Reply::Taken { token } => *token,
        Reply::Held { place, .. } | Reply::Queued { place, .. } => *place,
        _ => 0,
    }
}

#[cfg(test)]
#[path = "votes_tests.rs"]
mod tests;
