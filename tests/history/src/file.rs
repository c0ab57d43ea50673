//! Histories in files. One event a line: its kind, then `key=value` words, separated by spaces; `%20` and the like stand
//! for what would not be a word. The first line is [`VERSION`]; empty lines and those that begin with `#` are comments.
//!
//! | kind | words | when |
//! | --- | --- | --- |
//! | `asks` | `lock` `by`, perhaps `deadline` | before an acquire is called; `by` is one lock handle |
//! | `fails` | `lock` `by` `status` | it ended without the lock |
//! | `misses` | `lock` `by` | it ended with the lock, whose lease was over before the caller could look |
//! | `withdraws` | `lock` `by` | its caller does not want it any more, or is gone |
//! | `acquired` | `lock` `by` `token` `until` | it returned with the lock, certainly held until then: the time before asking how long it is valid, and the answer |
//! | `renewed` | `lock` `by` `until` | the holder asked again how long it is valid |
//! | `writes` | `lock` `by` `token` | a write with that token reaches what the lock protects |
//! | `released` | `lock` `by` | before a release is called |
//! | `lost` | `lock` `by` | the holder was told of the loss, or found out |
//! | `disturbed` | `lock` (`*`: all) `until` | from `at` until then the server loses what it knows, or may |
//! | `divided` | `until` | from `at` until then two servers may give the locks, as in a failover |
//! | `faults` | `kind` | a fault begins, for the count |
//! | `calm` | `bound` | no faults from here on: whoever asks is served within that time |
//! | `left` | `key` | after all is released: a key that is still there |
//! | `end` | | nothing more happens |
//!
//! Every line has `at`. All times are microseconds on one clock for all files of a history; on Linux, `CLOCK_BOOTTIME`.
//! A process needs a file of its own; lines need not be in order. A last line without its end is a writer's that was
//! killed, and is left out. A process that was killed needs no line for it: what it held is held until its `until`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::{self, Display};
use std::rc::Rc;

use crate::checker::{Counts, History, HoldingId, Time};

/// The first line.
pub const VERSION: &str = "history 1";

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<L, W, S> {
    Asks { at: Time, lock: L, by: W, deadline: Option<Time> },
    Fails { at: Time, lock: L, by: W, status: S },
    Misses { at: Time, lock: L, by: W },
    Withdraws { at: Time, lock: L, by: W },
    Acquired { at: Time, lock: L, by: W, token: u64, until: Time },
    Renewed { at: Time, lock: L, by: W, until: Time },
    Writes { at: Time, lock: L, by: W, token: u64 },
    Released { at: Time, lock: L, by: W },
    Lost { at: Time, lock: L, by: W },
    Disturbed { at: Time, until: Time, lock: Option<L> },
    Divided { at: Time, until: Time },
    Faults { at: Time, kind: S },
    Calm { at: Time, bound: Time },
    Left { at: Time, key: S },
    End { at: Time },
}

impl<L: Display, W: Display, S: Display> Display for Event<L, W, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |text: &dyn Display| encode(&text.to_string());
        let holder = |kind, at, lock: &L, by: &W| format!("{kind} at={at} lock={} by={}", word(lock), word(by));
        match self {
            Event::Asks { at, lock, by, deadline: None } => write!(f, "{}", holder("asks", at, lock, by)),
            Event::Asks { at, lock, by, deadline: Some(deadline) } => {
                write!(f, "{} deadline={deadline}", holder("asks", at, lock, by))
            }
            Event::Fails { at, lock, by, status } => {
                write!(f, "{} status={}", holder("fails", at, lock, by), word(status))
            }
            Event::Misses { at, lock, by } => write!(f, "{}", holder("misses", at, lock, by)),
            Event::Withdraws { at, lock, by } => write!(f, "{}", holder("withdraws", at, lock, by)),
            Event::Acquired { at, lock, by, token, until } => {
                write!(f, "{} token={token} until={until}", holder("acquired", at, lock, by))
            }
            Event::Renewed { at, lock, by, until } => write!(f, "{} until={until}", holder("renewed", at, lock, by)),
            Event::Writes { at, lock, by, token } => write!(f, "{} token={token}", holder("writes", at, lock, by)),
            Event::Released { at, lock, by } => write!(f, "{}", holder("released", at, lock, by)),
            Event::Lost { at, lock, by } => write!(f, "{}", holder("lost", at, lock, by)),
            Event::Disturbed { at, until, lock } => {
                let lock = lock.as_ref().map_or("*".to_owned(), |lock| word(lock));
                write!(f, "disturbed at={at} lock={lock} until={until}")
            }
            Event::Divided { at, until } => write!(f, "divided at={at} until={until}"),
            Event::Faults { at, kind } => write!(f, "faults at={at} kind={}", word(kind)),
            Event::Calm { at, bound } => write!(f, "calm at={at} bound={bound}"),
            Event::Left { at, key } => write!(f, "left at={at} key={}", word(key)),
            Event::End { at } => write!(f, "end at={at}"),
        }
    }
}

/// A name as it is in memory: shared by all lines that have it.
type Text = Rc<str>;

/// A line as it was read.
pub type Line = Event<Text, Text, Text>;

fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_whitespace() || c.is_control() || matches!(c, '%' | '*') {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                out += &format!("%{byte:02X}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

fn decode(word: &str) -> Option<String> {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'%' {
            out.push(byte);
            rest = after;
            continue;
        }
        let digits = std::str::from_utf8(after.get(..2)?).ok()?;
        out.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &after[2..];
    }
    String::from_utf8(out).ok()
}

/// Reads lines, and keeps every name once.
#[derive(Default)]
struct Reader {
    names: BTreeSet<Text>,
}

impl Reader {
    fn name(&mut self, word: &str) -> Result<Text, String> {
        if let Some(name) = self.names.get(word).filter(|_| !word.contains('%')) {
            return Ok(Rc::clone(name));
        }
        let text = decode(word).ok_or_else(|| format!("{word} is no word"))?;
        let text: Text = Rc::from(text);
        self.names.insert(Rc::clone(&text));
        Ok(text)
    }

    fn line(&mut self, line: &str) -> Result<Line, String> {
        let mut words = line.split_ascii_whitespace();
        let kind = words.next().unwrap_or_default();
        let mut values = HashMap::new();
        for word in words {
            let (key, value) = word.split_once('=').ok_or_else(|| format!("{word} has no ="))?;
            values.insert(key, value);
        }
        let mut names = |key: &str| {
            let value = values.get(key).ok_or_else(|| format!("{kind} has no {key}"))?;
            self.name(value)
        };
        let number = |key: &str| -> Result<u64, String> {
            let value = values.get(key).ok_or_else(|| format!("{kind} has no {key}"))?;
            value.parse().map_err(|_| format!("{key}={value} is no number"))
        };
        let at = number("at")?;
        Ok(match kind {
            "asks" => {
                let deadline = values.contains_key("deadline").then(|| number("deadline")).transpose()?;
                Event::Asks { at, lock: names("lock")?, by: names("by")?, deadline }
            }
            "fails" => Event::Fails { at, lock: names("lock")?, by: names("by")?, status: names("status")? },
            "misses" => Event::Misses { at, lock: names("lock")?, by: names("by")? },
            "withdraws" => Event::Withdraws { at, lock: names("lock")?, by: names("by")? },
            "acquired" => Event::Acquired {
                at,
                lock: names("lock")?,
                by: names("by")?,
                token: number("token")?,
                until: number("until")?,
            },
            "renewed" => Event::Renewed { at, lock: names("lock")?, by: names("by")?, until: number("until")? },
            "writes" => Event::Writes { at, lock: names("lock")?, by: names("by")?, token: number("token")? },
            "released" => Event::Released { at, lock: names("lock")?, by: names("by")? },
            "lost" => Event::Lost { at, lock: names("lock")?, by: names("by")? },
            "disturbed" => {
                let all = values.get("lock") == Some(&"*");
                Event::Disturbed { at, until: number("until")?, lock: if all { None } else { Some(names("lock")?) } }
            }
            "divided" => Event::Divided { at, until: number("until")? },
            "faults" => Event::Faults { at, kind: names("kind")? },
            "calm" => Event::Calm { at, bound: number("bound")? },
            "left" => Event::Left { at, key: names("key")? },
            "end" => Event::End { at },
            other => return Err(format!("{other} is no kind of event")),
        })
    }
}

impl<L, W, S> Event<L, W, S> {
    /// When it happened.
    pub fn at(&self) -> Time {
        match self {
            Event::Asks { at, .. }
            | Event::Fails { at, .. }
            | Event::Misses { at, .. }
            | Event::Withdraws { at, .. }
            | Event::Acquired { at, .. }
            | Event::Renewed { at, .. }
            | Event::Writes { at, .. }
            | Event::Released { at, .. }
            | Event::Lost { at, .. }
            | Event::Disturbed { at, .. }
            | Event::Divided { at, .. }
            | Event::Faults { at, .. }
            | Event::Calm { at, .. }
            | Event::Left { at, .. }
            | Event::End { at } => *at,
        }
    }
}

/// What the files of a history show.
#[derive(Debug, Default)]
pub struct Verdict {
    pub counts: Counts,
    pub events: usize,
    pub locks: usize,
    pub handles: usize,
    /// By kind.
    pub faults: BTreeMap<String, u64>,
    /// Each with its file and line. What comes after the first may be its consequence.
    pub violations: Vec<String>,
}

/// Judges the history in those files: pairs of a name for messages and the text. `Err`: a line that is none.
pub fn judge<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Verdict, String> {
    let mut reader = Reader::default();
    let mut lines: Vec<(Line, &str, usize)> = Vec::new();
    for (file, text) in files {
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        let mut numbered = whole.lines().enumerate();
        match numbered.next() {
            Some((_, VERSION)) => {}
            None => continue, // killed before its first line was whole
            Some((_, other)) => return Err(format!("{file}:1: not a history: {other:?} instead of {VERSION:?}")),
        }
        for (n, line) in numbered.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let read = reader.line(line).map_err(|why| format!("{file}:{}: {why}: {line}", n + 1))?;
            lines.push((read, file, n + 1));
        }
    }
    lines.sort_by_key(|(line, ..)| line.at());
    let mut replay = Replay::default();
    for (line, file, n) in &lines {
        if let Err(what) = replay.tell(line) {
            replay.verdict.violations.push(format!("{file}:{n}: {what}"));
        }
    }
    replay.verdict.events = lines.len();
    replay.verdict.counts = replay.history.counts;
    replay.verdict.locks = replay.locks.len();
    replay.verdict.handles = replay.handles.len();
    Ok(replay.verdict)
}

#[derive(Default)]
struct Replay {
    history: History<Text, Text>,
    verdict: Verdict,
    /// What each handle acquired last, if it has not ended.
    held: HashMap<Text, HoldingId>,
    by_token: HashMap<(Text, u64), HoldingId>,
    locks: BTreeSet<Text>,
    handles: BTreeSet<Text>,
}

impl Replay {
    fn tell(&mut self, line: &Line) -> Result<(), String> {
        match line {
            Event::Asks { at, lock, by, deadline } => {
                self.locks.insert(Rc::clone(lock));
                self.handles.insert(Rc::clone(by));
                self.history.asked(*at, Rc::clone(lock), Rc::clone(by), *deadline);
            }
            Event::Fails { at, by, status, .. } => return self.history.failed(*at, by, status),
            Event::Misses { at, by, .. } => return self.history.missed(*at, by),
            Event::Withdraws { at, by, .. } => self.history.withdrawn(*at, by),
            Event::Acquired { at, by, token, until, .. } => {
                let id = self.history.acquired(*at, Rc::clone(by), *token, *until)?;
                self.held.insert(Rc::clone(by), id);
                self.by_token.insert((Rc::clone(by), *token), id);
            }
            Event::Renewed { at, by, until, .. } => {
                let id = *self.held.get(by).ok_or_else(|| format!("{by} holds nothing"))?;
                return self.history.seen(*at, id, *until);
            }
            Event::Writes { at, by, token, .. } => {
                let id = self.by_token.get(&(Rc::clone(by), *token));
                let id = *id.ok_or_else(|| format!("{by} never acquired token {token}"))?;
                return self.history.write(*at, id).map(drop);
            }
            Event::Released { at, by, .. } => {
                let id = self.held.remove(by).ok_or_else(|| format!("{by} holds nothing"))?;
                self.history.released(*at, id);
            }
            Event::Lost { at, by, .. } => {
                let id = self.held.remove(by).ok_or_else(|| format!("{by} holds nothing"))?;
                self.history.lost(*at, id);
            }
            Event::Disturbed { at, until, lock: Some(lock) } => self.history.disturbed(*at, *until, Rc::clone(lock)),
            Event::Disturbed { at, until, lock: None } => self.history.disturbed_all(*at, *until),
            Event::Divided { at, until } => self.history.divided(*at, *until),
            Event::Faults { kind, .. } => *self.verdict.faults.entry(kind.to_string()).or_default() += 1,
            Event::Calm { at, bound } => self.history.calm(*at, *bound),
            Event::Left { at, key } => return self.history.left(*at, key),
            Event::End { at } => return self.history.end(*at),
        }
        Ok(())
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { acquisitions, failed, lost, writes_accepted, writes_refused, overlaps } = self.counts;
        writeln!(f, "{} events of {} handles on {} locks", self.events, self.handles, self.locks)?;
        writeln!(f, "{acquisitions} acquisitions, {failed} calls without one, {lost} losses told")?;
        writeln!(f, "{writes_accepted} writes accepted, {writes_refused} of earlier holders refused")?;
        writeln!(f, "{overlaps} overlaps, excused by a loss of the server's data")?;
        for (kind, count) in &self.faults {
            writeln!(f, "{count} x {kind}")?;
        }
        for violation in self.violations.iter().take(20) {
            writeln!(f, "VIOLATION {violation}")?;
        }
        write!(f, "{} violations", self.violations.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "history 1
# a comment

asks at=1 lock=g:n by=c1.h1
acquired at=2 lock=g:n by=c1.h1 token=7 until=100
asks at=3 lock=g:n by=c2.h1 deadline=5
fails at=5 lock=g:n by=c2.h1 status=LOCK_TIMEOUT
renewed at=60 lock=g:n by=c1.h1 until=150
writes at=70 lock=g:n by=c1.h1 token=7
faults at=75 kind=flush
disturbed at=75 lock=* until=75
disturbed at=76 lock=g:n until=77
divided at=78 until=79
lost at=80 lock=g:n by=c1.h1
calm at=90 bound=100
asks at=91 lock=g:n by=c1.h1
withdraws at=92 lock=g:n by=c1.h1
asks at=92 lock=g:n by=c1.h1
misses at=93 lock=g:n by=c1.h1
asks at=93 lock=g:n by=a%20name
acquired at=94 lock=g:n by=a%20name token=8 until=200
released at=95 lock=g:n by=a%20name
left at=99 key=:dlock:fence
end at=100
";

    fn violations(files: &[&str]) -> Vec<String> {
        judge(files.iter().map(|text| ("file", *text))).expect("lines that can be read").violations
    }

    #[test]
    fn a_history_is_counted() {
        let verdict = judge([("file", GOOD)]).unwrap();
        assert_eq!(verdict.violations, [""; 0]);
        assert_eq!((verdict.locks, verdict.handles, verdict.faults["flush"]), (1, 3, 1));
        let counts = verdict.counts;
        assert_eq!((counts.acquisitions, counts.failed, counts.lost, counts.writes_accepted), (2, 2, 1, 1));
    }

    #[test]
    fn every_line_is_written_as_it_is_read() {
        let mut reader = Reader::default();
        for line in GOOD.lines().skip(3) {
            assert_eq!(reader.line(line).unwrap().to_string(), line);
        }
        let odd: Text = Rc::from("a b\n%*é");
        let line: Line = Event::Left { at: 1, key: Rc::clone(&odd) };
        assert_eq!(reader.line(&line.to_string()), Ok(line));
        let all: Line = Event::Disturbed { at: 1, until: 2, lock: None };
        assert_eq!(reader.line(&all.to_string()), Ok(all));
    }

    #[test]
    fn files_are_merged_by_time_and_a_violation_names_its_line() {
        let one = "history 1\nasks at=1 lock=l by=a\nacquired at=2 lock=l by=a token=1 until=50\n";
        let other = "history 1\nacquired at=10 lock=l by=b token=2 until=40\nasks at=3 lock=l by=b\n";
        let found = violations(&[other, one]);
        assert!(
            found.len() == 1 && found[0].starts_with("file:2: (a) overlap: b holds lock l, a holds it"),
            "{found:?}"
        );
    }

    #[test]
    fn each_kind_of_violation_is_found_in_a_file() {
        let begin = "history 1\nasks at=1 lock=l by=a\nacquired at=2 lock=l by=a token=5 until=50\n";
        for (rest, letter) in [
            ("asks at=3 lock=l by=b\nacquired at=60 lock=l by=b token=5 until=99\n", "(b)"),
            ("calm at=3 bound=10\nasks at=4 lock=l by=b\nend at=15\n", "(d)"),
            ("left at=9 key=g:n\n", "(e)"),
            ("writes at=9 lock=l by=a token=6\n", "a never acquired token 6"),
            ("released at=9 lock=l by=b\n", "b holds nothing"),
        ] {
            let found = violations(&[&format!("{begin}{rest}")]);
            assert!(found.len() == 1 && found[0].contains(letter), "{rest}{found:?}");
        }
    }

    #[test]
    fn what_a_killed_writer_left_unfinished_is_no_line() {
        let cut = "history 1\nasks at=1 lock=l by=a\nacquired at=2 lock=l by=a tok";
        assert_eq!(violations(&[cut, "hist", ""]), [""; 0]);
        assert_eq!(judge([("f", cut)]).unwrap().events, 1);
    }

    #[test]
    fn what_is_no_history_is_told_with_its_line() {
        for (text, words) in [
            ("asks at=1\n", "f:1: not a history"),
            ("history 1\n\nasks at=1 lock=l\n", "f:3: asks has no by"),
            ("history 1\nasks lock=l by=b\n", "f:2: asks has no at"),
            ("history 1\nflies at=1\n", "f:2: flies is no kind"),
            ("history 1\nend at=soon\n", "f:2: at=soon is no number"),
            ("history 1\nleft at=1 key=%zz\n", "f:2: %zz is no word"),
            ("history 1\nend at=1 now\n", "f:2: now has no ="),
        ] {
            let error = judge([("f", text)]).unwrap_err();
            assert!(error.starts_with(words), "{error}");
        }
    }
}
