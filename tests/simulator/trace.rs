//! The trace of one history: its last steps in text, and a hash over all of them. Off unless asked for, since writing
//! costs more than simulating: a failing seed is run again with it.

use std::cell::RefCell;
use std::collections::VecDeque;

#[derive(Default)]
struct Trace {
    on: bool,
    keep: usize,
    lines: VecDeque<String>,
    hash: u64,
}

thread_local! {
    static TRACE: RefCell<Trace> = RefCell::default();
}

/// Begins anew, keeping that many lines; 0: off.
pub fn start(keep: usize) {
    TRACE.with_borrow_mut(|trace| {
        *trace = Trace { on: keep > 0, keep, lines: VecDeque::new(), hash: 0xCBF2_9CE4_8422_2325 }
    });
}

pub fn is_on() -> bool {
    TRACE.with_borrow(|trace| trace.on)
}

pub fn line(text: String) {
    TRACE.with_borrow_mut(|trace| {
        for byte in text.bytes() {
            trace.hash = (trace.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
        if trace.lines.len() == trace.keep {
            trace.lines.pop_front();
        }
        trace.lines.push_back(text);
    });
}

pub fn hash() -> u64 {
    TRACE.with_borrow(|trace| trace.hash)
}

pub fn take() -> Vec<String> {
    TRACE.with_borrow_mut(|trace| std::mem::take(&mut trace.lines).into())
}

/// One line of the trace; its arguments are not looked at while that is off.
macro_rules! trace {
    ($world:expr, $($arg:tt)*) => {
        if $crate::trace::is_on() {
            $crate::trace::line(format!("{:>10} {}", $world.now, format!($($arg)*)));
        }
    };
}
pub(crate) use trace;
