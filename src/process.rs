//! Which process this is, without a system call each time, and what each process has for itself.

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

/// A value of this process: a forked child begins with one of its own, since other threads of the parent may have held
/// mutexes in it. The parent's is leaked in the child.
pub(crate) struct PerProcess<T>(AtomicPtr<(u32, T)>);

impl<T: Default + Send + Sync + 'static> PerProcess<T> {
    pub(crate) const fn new() -> Self {
        PerProcess(AtomicPtr::new(ptr::null_mut()))
    }

    /// Takes no lock: a fork may come at any time.
    pub(crate) fn get(&self) -> &'static T {
        let id = id();
        let found = self.0.load(Ordering::Acquire);
        // SAFETY: null, or what was leaked below.
        if let Some((of, value)) = unsafe { found.as_ref() }
            && *of == id
        {
            return value;
        }
        let made = Box::into_raw(Box::new((id, T::default())));
        match self.0.compare_exchange(found, made, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: never freed.
            Ok(_) => unsafe { &(*made).1 },
            Err(other) => {
                // SAFETY: `made` was not handed out; another thread of this process was faster, and its value is never freed.
                unsafe {
                    drop(Box::from_raw(made));
                    &(*other).1
                }
            }
        }
    }
}

/// The process id. It is kept in a page that the kernel empties in a forked child, however that was made (Linux 4.14 and
/// later; elsewhere each call asks the kernel).
pub(crate) fn id() -> u32 {
    let Some(kept) = page() else { return std::process::id() };
    match kept.load(Ordering::Relaxed) {
        0 => {
            let id = std::process::id();
            kept.store(id, Ordering::Relaxed);
            id
        }
        id => id,
    }
}

/// Made by the first call and never unmapped. No lock: a fork may come at any time.
#[cfg(target_os = "linux")]
fn page() -> Option<&'static AtomicU32> {
    static PAGE: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());
    /// Stands for a kernel without such pages.
    static NONE: AtomicU32 = AtomicU32::new(0);
    let none = ptr::from_ref(&NONE).cast_mut();
    let mut page = PAGE.load(Ordering::Acquire);
    if page.is_null() {
        let made = wiped_on_fork().unwrap_or(none);
        page = match PAGE.compare_exchange(ptr::null_mut(), made, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => made,
            Err(other) => other, // one page too many stays mapped
        };
    }
    // SAFETY: `NONE`, or a page that is never unmapped, and zeroed memory is an atomic integer.
    (page != none).then(|| unsafe { &*page })
}

#[cfg(not(target_os = "linux"))]
fn page() -> Option<&'static AtomicU32> {
    None
}

#[cfg(target_os = "linux")]
fn wiped_on_fork() -> Option<*mut AtomicU32> {
    // SAFETY: a new private page; given back where it cannot be had as wanted.
    unsafe {
        let size = libc::sysconf(libc::_SC_PAGESIZE).max(4096) as usize;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let page = libc::mmap(ptr::null_mut(), size, access, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
        if page == libc::MAP_FAILED {
            return None;
        }
        if libc::madvise(page, size, libc::MADV_WIPEONFORK) != 0 {
            libc::munmap(page, size);
            return None;
        }
        Some(page.cast())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_forked_child_has_its_own() {
        assert_eq!(super::id(), std::process::id());
        // SAFETY: the child only compares two numbers and exits.
        let child = unsafe {
            match libc::fork() {
                0 => libc::_exit((super::id() != libc::getpid() as u32).into()),
                child => child,
            }
        };
        let mut status = 0;
        // SAFETY: `status` is a valid place for the child's status.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0);
    }
}
