//! The wire format (RESP2): arguments into a buffer, replies out of one. Knows no command and no socket.
//!
//! Replies are decoded here rather than by the `redis` crate because they are borrowed from the input buffer, keep the
//! server's error texts as they were sent, and are bounded: what a hostile peer may make us hold is fixed below.

/// The longest bulk string that is accepted.
pub const MAX_BULK: usize = 1 << 20;
/// The longest line: a simple string, an error, a number.
const MAX_LINE: usize = 64 * 1024;
/// The most elements of an array (those of `CLUSTER SLOTS`, where no two slots side by side are on one node), and how deep
/// arrays may nest.
const MAX_ELEMENTS: usize = super::slot::SLOTS;
const MAX_DEPTH: usize = 4;
/// The most bytes of one reply that are gathered before it is whole: several times what `CLUSTER SLOTS` may take.
const MAX_REPLY: usize = 16 << 20;

/// Begins a command of `arguments` arguments, its name included.
pub fn command(out: &mut Vec<u8>, arguments: usize) {
    header(out, b'*', arguments as u64);
}

/// One argument.
pub fn bytes(out: &mut Vec<u8>, argument: &[u8]) {
    header(out, b'$', argument.len() as u64);
    out.extend_from_slice(argument);
    out.extend_from_slice(b"\r\n");
}

/// One argument: a number in decimal.
pub fn number(out: &mut Vec<u8>, argument: u64) {
    let mut digits = [0; 20];
    bytes(out, decimal(argument, &mut digits));
}

/// A whole command.
pub fn words(out: &mut Vec<u8>, words: &[&[u8]]) {
    command(out, words.len());
    for word in words {
        bytes(out, word);
    }
}

fn header(out: &mut Vec<u8>, kind: u8, length: u64) {
    let digit = |number: u64| b'0' + number as u8;
    match length {
        // Almost all are that short, and a request has many.
        0..=9 => out.extend_from_slice(&[kind, digit(length), b'\r', b'\n']),
        10..=99 => out.extend_from_slice(&[kind, digit(length / 10), digit(length % 10), b'\r', b'\n']),
        _ => {
            let mut digits = [0; 20];
            out.push(kind);
            out.extend_from_slice(decimal(length, &mut digits));
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// `number` in decimal, without the machinery of `fmt`.
pub fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

/// If `input` begins with a bulk string that is longer than is accepted: its length, and how many bytes it takes in all.
pub fn oversized(input: &[u8]) -> Option<(usize, usize)> {
    let end = input.iter().take(24).position(|&b| b == b'\n')?;
    let length = integer(input[..end].strip_prefix(b"$")?.strip_suffix(b"\r")?).ok()?;
    let length = usize::try_from(length).ok().filter(|&n| n > MAX_BULK)?;
    Some((length, (end + 3).checked_add(length)?))
}

/// One reply, borrowed from the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// `+…`
    Simple(&'a [u8]),
    /// `-…`
    Error(&'a [u8]),
    /// `:…`
    Int(i64),
    /// `$…`
    Bulk(&'a [u8]),
    /// `$-1` or `*-1`
    Nil,
    /// `*…`
    Array(Array<'a>),
}

/// The elements of an array, on the wire. [`parse`] has looked at them all; each is read again when it is asked for,
/// which spares the room to keep them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Array<'a>(&'a [u8]);

impl<'a> Array<'a> {
    pub fn iter(self) -> impl Iterator<Item = Value<'a>> {
        let mut at = 0;
        std::iter::from_fn(move || value(self.0, &mut at, 1).ok().flatten())
    }

    /// The first elements, as many as the caller has a use for, and nothing for those that are not there.
    pub fn first<const N: usize>(self) -> [Option<Value<'a>>; N] {
        let mut elements = self.iter();
        std::array::from_fn(|_| elements.next())
    }
}

impl Value<'_> {
    /// The text of a string, or of a number sent as one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Value::Simple(text) | Value::Bulk(text) => std::str::from_utf8(text).ok(),
            _ => None,
        }
    }

    /// The number, sent as such or as text.
    pub fn int(&self) -> Option<i64> {
        match self {
            Value::Int(n) => Some(*n),
            _ => self.text()?.parse().ok(),
        }
    }
}

/// The peer does not speak the protocol, or exceeds the bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Reads the first reply of `input`: the value and how many bytes it took, or `None` while it is incomplete.
///
/// An incomplete reply is read again from its beginning when more has come. That costs a step for each element, not
/// each byte, except in a line, which is bounded.
pub fn parse(input: &[u8]) -> Result<Option<(Value<'_>, usize)>, Malformed> {
    let mut at = 0;
    match value(input, &mut at, 0)? {
        None if input.len() > MAX_REPLY => Err(Malformed("a reply without an end")),
        value => Ok(value.map(|value| (value, at))),
    }
}

fn value<'a>(input: &'a [u8], at: &mut usize, depth: usize) -> Result<Option<Value<'a>>, Malformed> {
    match input.get(*at) {
        None => return Ok(None),
        Some(b'+' | b'-' | b':' | b'$' | b'*') => {}
        Some(_) => return Err(Malformed("unknown type of reply")),
    }
    let kind = input[*at];
    let Some(line) = line(input, at)? else { return Ok(None) };
    Ok(Some(match kind {
        b'+' => Value::Simple(line),
        b'-' => Value::Error(line),
        b':' => Value::Int(integer(line)?),
        b'$' => {
            let Some(length) = length(line, MAX_BULK)? else { return Ok(Some(Value::Nil)) };
            let Some(body) = input.get(*at..*at + length + 2) else { return Ok(None) };
            if &body[length..] != b"\r\n" {
                return Err(Malformed("a string that does not end where it says"));
            }
            *at += length + 2;
            Value::Bulk(&body[..length])
        }
        _ => {
            let Some(length) = length(line, MAX_ELEMENTS)? else { return Ok(Some(Value::Nil)) };
            if depth == MAX_DEPTH {
                return Err(Malformed("arrays nested too deep"));
            }
            let begin = *at;
            for _ in 0..length {
                if value(input, at, depth + 1)?.is_none() {
                    return Ok(None);
                }
            }
            Value::Array(Array(&input[begin..*at]))
        }
    }))
}

/// The rest of the line after its first byte, without the line end.
fn line<'a>(input: &'a [u8], at: &mut usize) -> Result<Option<&'a [u8]>, Malformed> {
    let rest = &input[*at + 1..];
    let Some(end) = rest[..rest.len().min(MAX_LINE)].iter().position(|&b| b == b'\n') else {
        return if rest.len() < MAX_LINE { Ok(None) } else { Err(Malformed("a line that does not end")) };
    };
    let Some(line) = rest[..end].strip_suffix(b"\r") else { return Err(Malformed("a line end without its half")) };
    *at += end + 2;
    Ok(Some(line))
}

/// What `str::parse` would read, without first making a text of it.
fn integer(line: &[u8]) -> Result<i64, Malformed> {
    let (sign, digits) = match line {
        [b'-', digits @ ..] => (-1, digits),
        [b'+', digits @ ..] => (1, digits),
        digits => (1, digits),
    };
    let append = |number: i64, &digit: &u8| match digit {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(sign * i64::from(digit - b'0')),
        _ => None,
    };
    let number = digits.iter().try_fold(0, append).filter(|_| !digits.is_empty());
    number.ok_or(Malformed("a number that is none"))
}

fn length(line: &[u8], most: usize) -> Result<Option<usize>, Malformed> {
    match integer(line)? {
        -1 => Ok(None),
        n => match usize::try_from(n) {
            Ok(n) if n <= most => Ok(Some(n)),
            _ => Err(Malformed("a length that is out of bounds")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_arrays_of_strings() {
        let mut out = Vec::new();
        command(&mut out, 3);
        bytes(&mut out, b"SET");
        bytes(&mut out, "ü".as_bytes());
        number(&mut out, u64::MAX);
        assert_eq!(out, "*3\r\n$3\r\nSET\r\n$2\r\nü\r\n$20\r\n18446744073709551615\r\n".as_bytes());
        out.clear();
        words(&mut out, &[b"GET", b""]);
        assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n");
        out.clear();
        number(&mut out, 0);
        assert_eq!(out, b"$1\r\n0\r\n");
    }

    #[test]
    fn a_reply_cut_at_any_byte_is_incomplete_and_never_something_else() {
        let wire = b"*5\r\n+OK\r\n:-12\r\n$4\r\na\r\nb\r\n*2\r\n$-1\r\n*-1\r\n-ERR no\r\n";
        for cut in 0..wire.len() {
            assert_eq!(parse(&wire[..cut]), Ok(None), "cut at {cut}");
        }
        let mut more = wire.to_vec();
        more.extend_from_slice(b"+next");
        let Ok(Some((Value::Array(array), length))) = parse(&more) else { panic!("a whole array") };
        assert_eq!(length, wire.len());
        let [ok, number, bulk, Some(Value::Array(inner)), error, none] = array.first() else {
            panic!("an inner array")
        };
        assert_eq!((ok, number), (Some(Value::Simple(b"OK")), Some(Value::Int(-12))));
        assert_eq!((bulk, error), (Some(Value::Bulk(b"a\r\nb")), Some(Value::Error(b"ERR no"))));
        assert_eq!((none, array.iter().count()), (None, 5));
        assert_eq!(inner.iter().collect::<Vec<_>>(), [Value::Nil, Value::Nil]);
    }

    #[test]
    fn numbers_are_read_as_the_standard_library_reads_them() {
        let texts = ["0", "-0", "+7", "-12", "007", "", "-", "+", "+-1", "1a", " 1", "9223372036854775807"];
        for text in texts.iter().chain(&["9223372036854775808", "-9223372036854775808", "-9223372036854775809"]) {
            assert_eq!(integer(text.as_bytes()).ok(), text.parse().ok(), "{text}");
        }
    }

    #[test]
    fn hostile_replies_are_refused() {
        for wire in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"\r\n",
            b":\r\n",
            b":1a\r\n",
            b"$-2\r\n",
            b"$99999999999999999999\r\n",
            b"$1048577\r\n",
            b"*16385\r\n",
            b"$2\r\nabcd",
            b"+OK\n",
            b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
        ] {
            assert!(parse(wire).is_err(), "{:?}", String::from_utf8_lossy(wire));
        }
        assert_eq!(oversized(b"$1048577\r\nabc"), Some((1_048_577, 1_048_577 + 12)));
        assert_eq!(oversized(b"$1048577\r"), None, "not yet");
        assert_eq!(oversized(b"$1048576\r\n"), None);
        let mut endless = vec![b'a'; MAX_LINE + 1];
        endless[0] = b'+';
        assert!(parse(&endless).is_err());
        // Each of its strings is short enough, and so is it; together they would be 16 GiB.
        let mut large = b"*16384\r\n".to_vec();
        while large.len() <= MAX_REPLY {
            assert_eq!(parse(&large), Ok(None));
            large.extend_from_slice(format!("${MAX_BULK}\r\n").as_bytes());
            large.resize(large.len() + MAX_BULK, b'x');
            large.extend_from_slice(b"\r\n");
        }
        assert!(parse(&large).is_err());
    }
}
