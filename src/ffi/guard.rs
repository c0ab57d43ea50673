//! What surrounds every exported function: no panic gets out, no argument is used unchecked. Knows nothing of locks.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use uuid::Uuid;

use super::DLOCK_UUID_SIZE;
use super::error::{dlock_error, dlock_status};
use crate::error::{Error, Result, Status};
use crate::thread::is_ours;

thread_local! {
    /// Is this thread inside an exported function?
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    /// What the panic being caught on this thread said, and where.
    static STORY: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs the body of a fallible function: a panic becomes `DLOCK_ERR_PANIC`, and `err` gets the outcome.
///
/// # Safety
/// `err` is NULL or valid for writing.
pub unsafe fn call(err: *mut dlock_error, body: impl FnOnce() -> Result<()>) -> dlock_status {
    let outcome = catch(body).unwrap_or_else(|story| Err(Error::new(Status::Panic, story)));
    // SAFETY: the caller's promise.
    unsafe { dlock_error::write(err, &outcome) }
}

/// Runs a body that cannot fail; `otherwise` is the answer after a panic.
pub fn plain<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    catch(body).unwrap_or(otherwise)
}

/// Runs `body`; a panic's message and place come back as a text.
fn catch<T>(body: impl FnOnce() -> T) -> std::result::Result<T, String> {
    // A body that panics drops what it owns; handles are used through `&` and synchronise themselves.
    panic::catch_unwind(AssertUnwindSafe(|| {
        silence();
        let outer = INSIDE.replace(true);
        let result = panic::catch_unwind(AssertUnwindSafe(body));
        INSIDE.set(outer);
        result
    }))
    .flatten()
    .map_err(tell)
}

/// The text of a caught panic. The payload is leaked where dropping it would run unknown code.
fn tell(payload: Box<dyn Any + Send>) -> String {
    if !payload.is::<&'static str>() && !payload.is::<String>() {
        std::mem::forget(payload);
    }
    STORY.take().unwrap_or_else(|| "a panic inside the library".to_owned())
}

/// Installs, once, a panic hook that prints nothing for panics of this library: inside an exported function, or on a
/// background thread. The hook is per copy of the Rust runtime, so a host program written in Rust keeps its own, and
/// a Rust test of this crate still sees its failures.
fn silence() {
    static DONE: AtomicBool = AtomicBool::new(false);
    // `set_hook` refuses to work on a thread that is unwinding. Nobody waits for who is at it: that may be a thread of
    // the process that this one was forked from.
    if DONE.load(Ordering::Relaxed) || thread::panicking() || DONE.swap(true, Ordering::AcqRel) {
        return;
    }
    let previous = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if INSIDE.try_with(Cell::get).unwrap_or(true) {
            note(info);
        } else if !is_ours() {
            previous(info);
        }
    }));
}

/// Keeps what a panic says for [`tell`]: the place is known only while the hook runs.
fn note(info: &PanicHookInfo<'_>) {
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("no message");
    let story = match info.location() {
        Some(place) => format!("panic at {}:{}: {text}", place.file(), place.line()),
        None => format!("panic: {text}"),
    };
    let _ = STORY.try_with(|slot| slot.replace(Some(story)));
}

/// A handle or struct that must be there.
pub fn given<T>(parameter: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| null(parameter))
}

/// A NUL-terminated UTF-8 text that must be there.
///
/// # Safety
/// `text` is NULL or points to a NUL-terminated text that outlives the result.
pub unsafe fn text<'a>(parameter: &str, text: *const c_char) -> Result<&'a str> {
    if text.is_null() {
        return Err(null(parameter));
    }
    // SAFETY: not NULL; the rest is the caller's promise.
    let bytes = unsafe { CStr::from_ptr(text) };
    bytes.to_str().map_err(|_| Error::new(Status::InvalidArgument, format!("{parameter}: must be UTF-8")))
}

/// A place for a result: checked before the work, written after it. Never becomes a reference, since the caller's
/// memory may be uninitialised.
pub struct Out<T>(NonNull<T>);

impl<T> Out<T> {
    /// # Safety
    /// `place` is NULL or valid for writing, for as long as the result is used.
    pub unsafe fn new(parameter: &str, place: *mut T) -> Result<Self> {
        NonNull::new(place).map(Out).ok_or_else(|| null(parameter))
    }

    /// Writes the result.
    pub fn set(self, value: T) {
        // SAFETY: not NULL; valid by the promise made to `new`.
        unsafe { self.0.as_ptr().write(value) }
    }
}

impl<T> Out<*mut T> {
    /// Hands a new handle to the caller.
    pub fn give(self, value: T) {
        self.set(Box::into_raw(Box::new(value)));
    }
}

impl Out<u8> {
    /// Writes a text and a NUL.
    ///
    /// # Safety
    /// The place has room for one byte more than the text has.
    pub unsafe fn set_text(self, text: &str) {
        // SAFETY: there is room, by the caller's promise.
        unsafe {
            self.0.as_ptr().copy_from_nonoverlapping(text.as_ptr(), text.len());
            self.0.as_ptr().add(text.len()).write(0);
        }
    }
}

impl Out<[c_char; DLOCK_UUID_SIZE]> {
    /// Writes an owner id, or an empty text where there is none.
    pub fn set_uuid(self, id: Option<Uuid>) {
        self.set(uuid_text(id));
    }
}

/// An owner id as the caller's buffers hold it.
pub fn uuid_text(id: Option<Uuid>) -> [c_char; DLOCK_UUID_SIZE] {
    let mut buffer = [0; DLOCK_UUID_SIZE];
    if let Some(id) = id {
        id.hyphenated().encode_lower(&mut buffer);
    }
    buffer.map(|byte| byte as c_char)
}

fn null(parameter: &str) -> Error {
    Error::new(Status::InvalidArgument, format!("{parameter}: must not be NULL"))
}

#[cfg(test)]
mod tests {
    use std::mem::MaybeUninit;
    use std::ptr;

    use super::*;
    use crate::ffi::DLOCK_ERROR_MESSAGE_SIZE;

    /// Runs `body` in the guard; its status, and the message.
    fn run(body: impl FnOnce() -> Result<()>) -> (dlock_status, String) {
        let mut err = MaybeUninit::<dlock_error>::uninit();
        // SAFETY: `err` is writable, and `call` writes the status and the text up to its NUL.
        unsafe {
            let status = call(err.as_mut_ptr(), body);
            assert_eq!(ptr::addr_of!((*err.as_ptr()).status).read(), status);
            let message = CStr::from_ptr(ptr::addr_of!((*err.as_ptr()).message).cast());
            (status, message.to_str().unwrap().to_owned())
        }
    }

    #[test]
    fn a_panic_becomes_a_status_and_says_where() {
        let (status, message) = run(|| panic!("the {} fell over", "engine"));
        assert_eq!(status, dlock_status::DLOCK_ERR_PANIC);
        assert!(message.ends_with(": the engine fell over"), "{message}");
        assert!(message.contains("guard.rs:"), "{message}");
    }

    #[test]
    fn a_panic_with_a_payload_that_panics_when_dropped_stays_inside() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("dropped");
            }
        }
        let (status, _) = run(|| panic::panic_any(Bomb));
        assert_eq!(status, dlock_status::DLOCK_ERR_PANIC);
        assert_eq!(plain(-1, || panic!("no descriptor")), -1);
    }

    #[test]
    fn success_resets_the_error_and_null_is_fine() {
        assert_eq!(run(|| Ok(())), (dlock_status::DLOCK_OK, String::new()));
        // SAFETY: NULL is allowed.
        let status = unsafe { call(ptr::null_mut(), || Err(Error::new(Status::Busy, "b"))) };
        assert_eq!(status, dlock_status::DLOCK_ERR_BUSY);
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        // 'ß' has two bytes: one of them would be the 255th.
        let (_, message) = run(|| Err(Error::new(Status::Locker, "ß".repeat(200))));
        assert_eq!(message, "ß".repeat(127));
        let (_, message) = run(|| Err(Error::new(Status::Locker, "x".repeat(300))));
        assert_eq!(message.len(), DLOCK_ERROR_MESSAGE_SIZE - 1);
    }

    #[test]
    fn arguments_are_named() {
        let message = |r: Result<()>| r.unwrap_err().to_string();
        // SAFETY: NULL, or a NUL-terminated text.
        unsafe {
            assert_eq!(message(text("name", ptr::null()).map(drop)), "name: must not be NULL");
            assert_eq!(message(text("name", c"\xff".as_ptr()).map(drop)), "name: must be UTF-8");
            assert_eq!(text("name", c"gr\u{fc}n".as_ptr()).unwrap(), "grün");
            assert_eq!(message(Out::<u64>::new("token", ptr::null_mut()).map(drop)), "token: must not be NULL");
        }
        assert_eq!(message(given::<()>("lock", None)), "lock: must not be NULL");
    }

    #[test]
    fn owner_ids_are_lower_case_and_terminated() {
        let id = Uuid::from_u128(0xABCD_EF01_2345_4789_8ABC_DEF0_1234_5678);
        let buffer = uuid_text(Some(id)).map(|c| c as u8);
        assert_eq!(&buffer, b"abcdef01-2345-4789-8abc-def012345678\0");
        assert_eq!(uuid_text(None)[0], 0);
    }
}
