//! Names the shared library: its SONAME carries the major version of the ABI, and a link of that name beside it lets
//! programs run that were linked with `-rpath target/<profile>`.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

/// Rises when a program linked against the previous library could no longer run with this one.
const ABI_MAJOR: u32 = 0;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return;
    }
    let soname = format!("libdlock.so.{ABI_MAJOR}");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,{soname}");

    // OUT_DIR is <target>/<profile>/build/<package>/out.
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    if env::var("CARGO_CFG_TARGET_ENV").as_deref() == Ok("gnu") && has_static_unwinder() {
        static_unwinder(Path::new(&out));
    }
    let profile = Path::new(&out).ancestors().nth(3).expect("OUT_DIR is four levels deep");
    link(&profile.join(soname));
}

/// Does the linker know libgcc_eh.a? (It prints the bare name where it does not.)
fn has_static_unwinder() -> bool {
    let linker = env::var("RUSTC_LINKER").unwrap_or_else(|_| "cc".into());
    let asked = Command::new(linker).arg("-print-file-name=libgcc_eh.a").output();
    asked.is_ok_and(|answer| Path::new(String::from_utf8_lossy(&answer.stdout).trim()).is_absolute())
}

/// Links the shared library with the unwinder as an archive: to load libgcc_s.so.1 takes a process that does not need it
/// otherwise longer than to load this library. The standard library names gcc_s; the linker finds this script for it.
/// (Exceptions do not leave the library, so it does not matter that a program may have another unwinder.)
fn static_unwinder(out: &Path) {
    if fs::write(out.join("libgcc_s.so"), "INPUT ( -lgcc_eh -lgcc )\n").is_ok() {
        println!("cargo:rustc-cdylib-link-arg=-L{}", out.display());
    }
}

/// The library need not be there yet: the link is made before it is. A failure costs a convenience, no more.
#[cfg(unix)]
fn link(path: &Path) {
    let wanted = Path::new("libdlock.so");
    if fs::read_link(path).is_ok_and(|target| target == wanted) {
        return;
    }
    let _ = fs::remove_file(path);
    if let Err(error) = std::os::unix::fs::symlink(wanted, path) {
        println!("cargo:warning=cannot create the link {}: {error}", path.display());
    }
}

#[cfg(not(unix))]
fn link(_path: &Path) {}
