//! Writes down what holders see, in the text form of a history, and has it judged by the checker of histories.

use std::fmt::Display;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use dlock::{Lock, Result, Status};
use dlock_history::file::{Event, VERSION, Verdict, judge};

type Line<'a> = Event<&'a str, &'a str, &'a str>;

pub struct Recorder {
    begun: Instant,
    lines: Mutex<Vec<String>>,
}

/// One handle on one lock, whose every call is written down.
pub struct Witness<'a> {
    recorder: &'a Recorder,
    lock: Lock,
    name: &'a str,
    by: String,
}

impl Recorder {
    pub fn new() -> Self {
        Recorder { begun: Instant::now(), lines: Mutex::new(vec![VERSION.to_owned()]) }
    }

    pub fn now(&self) -> u64 {
        self.begun.elapsed().as_micros() as u64
    }

    pub fn tell(&self, event: Line) {
        self.lines.lock().unwrap().push(event.to_string());
    }

    pub fn witness<'a>(&'a self, lock: Lock, name: &'a str, by: impl Display) -> Witness<'a> {
        Witness { recorder: self, lock, name, by: by.to_string() }
    }

    /// From then until now the servers may have lost what they knew.
    pub fn disturbed_since(&self, at: u64) {
        self.tell(Event::Disturbed { at, lock: None, until: self.now() });
    }

    /// No faults from here on: whoever asks is served within that time.
    pub fn calm(&self, bound: Duration) {
        self.tell(Event::Calm { at: self.now(), bound: bound.as_micros() as u64 });
    }

    /// From then until now two servers gave the locks.
    pub fn divided_since(&self, at: u64) {
        self.tell(Event::Divided { at, until: self.now() });
    }

    pub fn fault(&self, kind: &str) -> u64 {
        let at = self.now();
        self.tell(Event::Faults { at, kind });
        at
    }

    /// Judges all that was written down. No violation is accepted.
    pub fn judge(&self) -> Verdict {
        self.tell(Event::End { at: self.now() });
        let text = self.lines.lock().unwrap().join("\n") + "\n";
        let verdict = judge([("run", text.as_str())]).unwrap_or_else(|why| panic!("{why}"));
        println!("{verdict}");
        if !verdict.violations.is_empty() {
            let path = std::env::temp_dir().join(format!("dlock-history-{}", std::process::id()));
            std::fs::write(&path, text).expect("the history of a run with violations");
            panic!("{verdict}\nthe history is in {}", path.display());
        }
        verdict
    }
}

impl Witness<'_> {
    /// Acquires within that time, and writes with the token; answers the token.
    pub fn acquire(&self, timeout_ms: u64) -> Result<u64> {
        let (at, lock, by) = (self.recorder.now(), self.name, self.by.as_str());
        self.recorder.tell(Event::Asks { at, lock, by, deadline: Some(at + timeout_ms * 1_000) });
        let token = self.lock.acquire_timeout(timeout_ms).and_then(|()| self.lock.fencing_token());
        match token {
            Ok(token) => {
                let (at, until) = self.view();
                self.recorder.tell(Event::Acquired { at, lock, by, token, until });
                self.write(token);
                Ok(token)
            }
            Err(error) => {
                let status = format!("{:?}", error.status);
                self.recorder.tell(Event::Fails { at: self.recorder.now(), lock, by, status: &status });
                Err(error)
            }
        }
    }

    /// The time, and until when the lock is certainly held.
    fn view(&self) -> (u64, u64) {
        let at = self.recorder.now();
        (at, at + self.lock.remaining_ms().unwrap_or(0) * 1_000)
    }

    pub fn write(&self, token: u64) {
        let at = self.recorder.now();
        self.recorder.tell(Event::Writes { at, lock: self.name, by: &self.by, token });
    }

    /// Looks how long the lock is still held. False: it is lost.
    pub fn look(&self) -> bool {
        let (lock, by) = (self.name, self.by.as_str());
        let at = self.recorder.now();
        match self.lock.remaining_ms() {
            Ok(ms) if ms > 0 => self.recorder.tell(Event::Renewed { at, lock, by, until: at + ms * 1_000 }),
            _ => {
                self.recorder.tell(Event::Lost { at: self.recorder.now(), lock, by });
                return false;
            }
        }
        true
    }

    pub fn release(&self) -> Result<()> {
        let (lock, by) = (self.name, self.by.as_str());
        self.recorder.tell(Event::Released { at: self.recorder.now(), lock, by });
        self.lock.release()
    }

    pub fn lock(&self) -> &Lock {
        &self.lock
    }

    pub fn into_lock(self) -> Lock {
        self.lock
    }
}

/// Is this what a holder is told whose lock did not survive?
pub fn tells_of_a_loss(answer: &Result<()>) -> bool {
    use Status::{Lost, NotOwner, UnlockUnlocked};
    answer.as_ref().is_err_and(|error| matches!(error.status, Lost | NotOwner | UnlockUnlocked))
}
