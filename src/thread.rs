//! The library's own threads. The standard library's end by taking a mutex of the process (Rust 1.89 to 1.9x: the table of
//! guard pages), which in a forked child may be held for ever by a thread that does not exist there: freeing a locker of
//! the child's own would wait for it. These have nothing in common with each other.

use std::any::Any;
use std::cell::Cell;
use std::ffi::{CStr, c_void};
use std::io;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a thread of ours has for itself.
const STACK: usize = 256 * 1024;

thread_local! {
    static OURS: Cell<bool> = const { Cell::new(false) };
}

/// Is this thread the library's?
pub fn is_ours() -> bool {
    OURS.try_with(Cell::get).unwrap_or(false)
}

/// A thread that was started; dropping this lets it run on by itself.
pub struct Thread {
    id: libc::pthread_t,
    ended: Arc<AtomicBool>,
}

struct Start {
    name: &'static CStr,
    ended: Arc<AtomicBool>,
    body: Box<dyn FnOnce() + Send>,
}

impl Thread {
    /// `name`: at most 15 bytes. All signals are blocked in it: the program's handlers run on the program's threads.
    pub fn spawn(name: &'static CStr, body: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        let start = Box::into_raw(Box::new(Start { name, ended: Arc::clone(&ended), body: Box::new(body) }));
        let (mut id, mut attributes) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: both are set up by the calls that get them first; `start` is the new thread's from then on.
        unsafe {
            let mut result = libc::pthread_attr_init(attributes.as_mut_ptr());
            if result == 0 {
                result = libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), STACK + taken(attributes.as_ptr()));
                if result == 0 {
                    let before = mask_signals(&all_signals());
                    result = libc::pthread_create(id.as_mut_ptr(), attributes.as_ptr(), run, start.cast());
                    mask_signals(&before);
                }
                libc::pthread_attr_destroy(attributes.as_mut_ptr());
            }
            if result != 0 {
                drop(Box::from_raw(start));
                return Err(io::Error::from_raw_os_error(result));
            }
            Ok(Thread { id: id.assume_init(), ended })
        }
    }

    /// Has its body ended?
    pub fn is_finished(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Waits until it has ended altogether.
    pub fn join(self) {
        let this = ManuallyDrop::new(self);
        // SAFETY: joined once, and not detached.
        unsafe {
            libc::pthread_join(this.id, std::ptr::null_mut());
            drop(std::ptr::read(&this.ended));
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        // SAFETY: neither joined nor detached before.
        unsafe { libc::pthread_detach(self.id) };
    }
}

/// How much of a thread's stack the C library takes for other things: in glibc all thread-local variables of the program and
/// its libraries are there, however many they are. (The standard library asks the same function.)
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn taken(attributes: *const libc::pthread_attr_t) -> usize {
    // SAFETY: a name that ends with NUL.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__pthread_get_minstack".as_ptr()) };
    if found.is_null() {
        return 0;
    }
    // SAFETY: this is what glibc has under that name; the attributes are set up.
    unsafe {
        let ask: unsafe extern "C" fn(*const libc::pthread_attr_t) -> libc::size_t = std::mem::transmute(found);
        ask(attributes)
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn taken(_attributes: *const libc::pthread_attr_t) -> usize {
    0
}

fn all_signals() -> libc::sigset_t {
    let mut all = MaybeUninit::uninit();
    // SAFETY: fills the set.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        all.assume_init()
    }
}

/// Sets which signals this thread blocks; returns those it blocked before. A new thread begins with those of its maker.
fn mask_signals(blocked: &libc::sigset_t) -> libc::sigset_t {
    let mut before = MaybeUninit::uninit();
    // SAFETY: two sets, of which the second is filled; it fails for nothing but a first argument out of range.
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, blocked, before.as_mut_ptr());
        before.assume_init()
    }
}

extern "C" fn run(start: *mut c_void) -> *mut c_void {
    // SAFETY: what `spawn` made for this thread.
    let Start { name, ended, body } = *unsafe { Box::from_raw(start.cast::<Start>()) };
    OURS.set(true);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    // SAFETY: this thread, and a text that ends with NUL.
    unsafe {
        libc::pthread_setname_np(libc::pthread_self(), name.as_ptr());
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = name;
    // What a panic carries is leaked: dropping it could run unknown code.
    let _: Result<(), ()> = catch_unwind(AssertUnwindSafe(body)).map_err(|payload: Box<dyn Any + Send>| {
        std::mem::forget(payload);
    });
    ended.store(true, Ordering::Release);
    std::ptr::null_mut()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn a_thread_runs_is_ours_and_can_be_joined_also_after_a_panic() {
        static RAN: AtomicU32 = AtomicU32::new(0);
        assert!(!is_ours());
        let thread = Thread::spawn(c"dlock-test", || {
            RAN.fetch_add(u32::from(is_ours()), Ordering::SeqCst);
        });
        thread.unwrap().join();
        assert_eq!(RAN.load(Ordering::SeqCst), 1);
        Thread::spawn(c"dlock-test", || std::panic::panic_any(1)).unwrap().join();
    }

    /// Does this thread block it?
    fn blocks(signal: libc::c_int) -> bool {
        let mut blocked = MaybeUninit::uninit();
        // SAFETY: reads the mask, changes nothing.
        unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), blocked.as_mut_ptr());
            libc::sigismember(blocked.as_ptr(), signal) == 1
        }
    }

    #[test]
    fn signals_are_left_to_the_programs_own_threads() {
        static BLOCKED: AtomicBool = AtomicBool::new(false);
        Thread::spawn(c"dlock-test", || {
            BLOCKED.store([libc::SIGINT, libc::SIGTERM, libc::SIGUSR1].into_iter().all(blocks), Ordering::SeqCst);
        })
        .unwrap()
        .join();
        assert!(BLOCKED.load(Ordering::SeqCst));
        assert!(![libc::SIGINT, libc::SIGTERM, libc::SIGUSR1].into_iter().any(blocks), "the maker's are as before");
    }
}
