//! The decoders as the fuzzer calls them; see `src/fuzzing.rs`.

use super::codec::Replies;
use super::resp;
use super::subscription::read;
use crate::store::Op;

/// Reads answers until the bytes are used up or are none; an answer that does not fit its request ends it.
pub fn replies(mut data: &[u8], ops: impl Iterator<Item = Op>) {
    for op in ops {
        let mut gathered = Replies::default();
        loop {
            let Ok(Some((value, length))) = resp::parse(data) else { return };
            data = &data[length..];
            match gathered.take(op, &value) {
                Ok(None) => {}
                Ok(Some(_)) => break,
                Err(_) => return,
            }
        }
    }
}

/// However the bytes are cut into pieces, the first answer is the same, and is there as soon as its last byte is.
pub fn cut_anywhere(data: &[u8]) {
    let whole = resp::parse(data);
    let complete = if let Ok(Some((_, length))) = &whole { *length } else { data.len() };
    assert!(complete <= data.len() && (complete > 0 || !matches!(whole, Ok(Some(_)))));
    for end in 0..complete {
        match resp::parse(&data[..end]) {
            Ok(None) => {}
            Err(_) => assert!(whole.is_err(), "{end} bytes are refused, all are not"),
            Ok(Some(_)) => panic!("an answer after {end} of {complete} bytes"),
        }
    }
    if let Ok(Some((value, length))) = whole {
        assert_eq!(resp::parse(&data[..length]), Ok(Some((value, length))));
    }
    if let Some((length, all)) = resp::oversized(data) {
        assert!(length > resp::MAX_BULK && all > length);
    }
}

/// Reads messages until the bytes are used up or are none.
pub fn messages(mut data: &[u8]) {
    while let Ok(Some((value, length))) = resp::parse(data) {
        let _ = read(&value, "c");
        #[cfg(any(target_os = "linux", target_os = "android"))]
        super::cluster::fuzzing::answer(&value, &data[..length]);
        data = &data[length..];
    }
}
