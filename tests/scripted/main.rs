//! Answers that go wrong, each in its turn: every answer of the server, to every command of every operation, is cut at
//! every byte, swallowed, sent late, twice, or replaced by an error of each class; and after each the operation's outcome
//! is what `docs/guarantees.md` says, and nothing is left on the server.
//!
//! A story (`stories.rs`) is played once undisturbed, through a relay that notes each answer (`relay.rs`); then once for
//! each answer and each fate of it. `DLOCK_STORY=part of its name` plays only some.

#[path = "../support/redis_server.rs"]
#[allow(dead_code)]
mod redis_server;
mod relay;
mod stories;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dlock::Status;

use self::redis_server::RedisServer;
use self::relay::{ANY, Fate, Plan, Relay, Seen};
use self::stories::{Outcome, STORIES, Setting, Story};

/// Nothing that a story waits for takes longer, on however busy a machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Plays a story once; what it left on the server must be gone soon.
fn play(
    server: &RedisServer,
    story: &Story,
    number: usize,
    plan: Option<Plan>,
) -> Result<(Vec<Seen>, usize, Outcome), String> {
    let stays_out = plan.as_ref().is_some_and(|plan| matches!(plan.fate, Fate::Silent(_) | Fate::Late(_)));
    let response_timeout = if stays_out { stories::RESPONSE_TIMEOUT } else { PATIENCE / 4 };
    let relay = Relay::start(server.port(), plan);
    let setting = Setting { server, relay: &relay, response_timeout, name: format!("{} {number:06}.", story.name) };
    let outcome = (story.play)(&setting)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = setting.keys();
        if left.is_empty() {
            return Ok((relay.seen(), relay.struck(), outcome));
        }
        if Instant::now() > deadline {
            return Err(format!("left on the server: {left:?}"));
        }
        std::thread::yield_now();
    }
}

/// What is asked of a story that is played with a fate.
enum Asked {
    /// That it ends well.
    Unharmed,
    /// That, or an error that says this.
    OrSays(&'static str),
}

impl Asked {
    fn allows(&self, text: &str) -> bool {
        matches!(self, Asked::OrSays(words) if text.contains(words))
    }
}

/// Stories to be played, each with a plan, on one server; several at once, since most of the time they wait.
struct Runs {
    server: RedisServer,
    jobs: Vec<(&'static Story, Plan, Asked)>,
}

/// What became of them.
#[derive(Default)]
struct Ends {
    reported: usize,
    failures: Vec<String>,
}

const AT_ONCE: usize = 8;

impl Runs {
    /// Each story's answers, and what is to be tried on each: fates, and what is asked then.
    fn new(fates: impl Fn(Seen) -> Vec<(Fate, Asked)>) -> Self {
        let mut runs = Runs { server: RedisServer::start(&[]), jobs: Vec::new() };
        let only = std::env::var("DLOCK_STORY").unwrap_or_default();
        for story in STORIES.iter().filter(|story| story.name.contains(&only)) {
            let (seen, ..) = play(&runs.server, story, 0, None).unwrap_or_else(|why| panic!("{}: {why}", story.name));
            for seen in seen.into_iter().filter(|seen| story.tries(seen.kind)) {
                for (fate, asked) in fates(seen).into_iter().filter(|(fate, _)| story.bears(fate)) {
                    let plan = Plan { kind: seen.kind, nth: seen.nth, lasting: false, fate };
                    runs.jobs.push((story, plan, asked));
                }
            }
        }
        runs
    }

    fn run(&self, number: usize, ends: &Mutex<Ends>) {
        let (story, plan, asked) = &self.jobs[number];
        // A deadline may come before the answer does, where the machine is busy.
        let mut played = (0..5).map(|_| play(&self.server, story, number, Some(plan.clone())));
        let played =
            played.find(|played| !matches!(played, Ok((_, 0, _)))).unwrap_or(Ok((Vec::new(), 0, Outcome::Well)));
        let problem = match played {
            Err(why) => why,
            Ok((_, 0, _)) => "it never came to that".to_owned(),
            Ok((_, _, Outcome::Well)) => return,
            Ok((_, _, Outcome::Refused(status, text))) => {
                // The first connection is made by the call that makes the handle, which says why there is none.
                let no_connection = stories::is_handshake(plan.kind) && status == Status::NotConnected;
                if no_connection && text.starts_with("127.0.0.1:") || asked.allows(&text) {
                    return lock(ends).reported += 1;
                }
                format!("{status:?}: {text}")
            }
        };
        lock(ends).failures.push(format!("{}: {plan:?}: {problem}", story.name));
    }

    /// Plays all. Answers how often the error was reported.
    fn finish(&self, what: &str) -> usize {
        let (next, ends) = (AtomicUsize::new(0), Mutex::default());
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    while let Some(number) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|n| *n < self.jobs.len())
                    {
                        self.run(number, &ends);
                    }
                });
            }
        });
        let ends = ends.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (all, bad) = (self.jobs.len(), ends.failures.len());
        println!("scripted: {what}: {all} histories, the error reported in {} of them, {bad} failed", ends.reported);
        let some = &ends.failures[..bad.min(10)];
        assert!(bad == 0 && all > 0, "{bad} of {all} failed, among them\n{}", some.join("\n"));
        ends.reported
    }
}

fn lock(ends: &Mutex<Ends>) -> MutexGuard<'_, Ends> {
    ends.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fates that nobody but the first connection's maker is to notice.
fn unharmed(fates: impl IntoIterator<Item = Fate>) -> Vec<(Fate, Asked)> {
    fates.into_iter().map(|fate| (fate, Asked::Unharmed)).collect()
}

#[test]
fn every_answer_is_cut_at_every_byte_and_nothing_is_lost() {
    Runs::new(|seen| unharmed((0..=seen.length).map(Fate::Cut))).finish("cut at each byte");
}

#[test]
fn a_command_that_never_arrives_is_asked_again() {
    let is_answer = |seen: Seen| !seen.kind.starts_with("message");
    Runs::new(|seen| unharmed(is_answer(seen).then_some(Fate::Unsent))).finish("never arrived");
}

#[test]
fn an_answer_that_stays_out_or_comes_late_or_twice_shifts_no_other() {
    let late = stories::RESPONSE_TIMEOUT * 3 / 2;
    let fates = |seen: Seen| {
        let silent = [0, seen.length / 2, seen.length].map(Fate::Silent);
        unharmed(silent.into_iter().chain([Fate::Late(late / 10), Fate::Late(late), Fate::Twice]))
    };
    Runs::new(fates).finish("silent, late, twice");
}

#[test]
fn what_is_no_answer_ends_the_connection_and_shifts_no_other() {
    let garbage: [&[u8]; 4] = [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"*-7\r\n", b"$-99\r\n", b":1\n"];
    Runs::new(|_| unharmed(garbage.map(|bytes| Fate::Replace(bytes.to_vec())))).finish("garbage");
}

/// Errors after which the library asks again or elsewhere, once each: the call does not fail.
const PASSING: [&str; 9] = [
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "CLUSTERDOWN The cluster is down",
    "READONLY You can't write against a read only replica.",
    "LOADING Redis is loading the dataset in memory",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "NOAUTH Authentication required.",
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
    "NOSCRIPT No matching script. Please use EVAL.",
];

/// Errors that are told to the caller.
const LASTING: [&str; 8] = [
    "MISCONF Errors writing to the AOF file: No space left on device",
    "NOREPLICAS Not enough good replicas to write.",
    "NOPERM this user has no permissions to run the command",
    "MOVED 866 127.0.0.1:7001",
    "ASK 866 127.0.0.1:7001",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "EXECABORT Transaction discarded because of previous errors.",
    "ERR something that is not known",
];

fn code(text: &'static str) -> &'static str {
    text.split(' ').next().expect("a word")
}

#[test]
fn an_error_that_passes_fails_no_call() {
    let fates = |seen: Seen| {
        let script = ["join", "renew", "release", "leave"].contains(&seen.kind);
        let errors = PASSING.iter().filter(|text| script || code(text) != "NOSCRIPT");
        let answer = !seen.kind.starts_with("message");
        unharmed(errors.filter(|_| answer).map(|text| Fate::Refused(text)))
    };
    Runs::new(fates).finish("errors that pass");
}

#[test]
fn an_error_that_stays_is_told_in_the_servers_words_and_leaves_nothing_behind() {
    let fates = |seen: Seen| {
        let errors = LASTING.iter().filter(|_| !seen.kind.starts_with("message"));
        errors.map(|text| (Fate::Refused(text), Asked::OrSays(code(text)))).collect()
    };
    let reported = Runs::new(fates).finish("errors that stay");
    assert!(reported > 0);
}

#[test]
fn an_error_that_does_not_pass_ends_a_call_at_its_deadline_with_the_servers_words() {
    let server = RedisServer::start(&[]);
    for kind in [ANY, "floor"] {
        for text in PASSING.iter().chain(&LASTING).filter(|text| code(text) != "NOSCRIPT") {
            let plan = Plan { kind, nth: 0, lasting: true, fate: Fate::Refused(text) };
            let relay = Relay::start(server.port(), Some(plan));
            let begun = Instant::now();
            let refused = stories::with_a_deadline(&relay);
            assert!(begun.elapsed() < PATIENCE / 2, "{kind} {text}: {:?}", begun.elapsed());
            let Some(refused) = refused else { panic!("{kind} {text}: acquired") };
            let expected = [Status::Locker, Status::NotConnected, Status::LockTimeout];
            assert!(expected.contains(&refused.status), "{kind} {text}: {refused:?}");
            let told = refused.message.contains(code(text)) || refused.status == Status::LockTimeout;
            assert!(told, "{kind} {text}: {refused:?}");
        }
    }
}
