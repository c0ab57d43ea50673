//! `include/dlock.h`: is it what the sources say, does every compiler take it, and does the built library export just
//! what it declares? `DLOCK_UPDATE_HEADER=1` writes the header instead of comparing it (`make header`).
//!
//! The tests of the libraries look at those of a release build, in `DLOCK_LIB_DIR` or the target directory.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The sources in the order in which the header presents them. Not `mod`: cbindgen follows its modules, in their order.
const SOURCES: [&str; 8] = ["limits", "version", "error", "options", "locker", "lock", "event", "queue"];

const VERSION_MACROS: &str = concat!(
    "\n/**\n * The version of this header, as numbers and as a text; see dlock_version().\n */\n",
    "#define DLOCK_VERSION_MAJOR ",
    env!("CARGO_PKG_VERSION_MAJOR"),
    "\n#define DLOCK_VERSION_MINOR ",
    env!("CARGO_PKG_VERSION_MINOR"),
    "\n#define DLOCK_VERSION_PATCH ",
    env!("CARGO_PKG_VERSION_PATCH"),
    "\n#define DLOCK_VERSION \"",
    env!("CARGO_PKG_VERSION"),
    "\""
);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn generated() -> String {
    let mut config = cbindgen::Config::from_file(root().join("cbindgen.toml")).expect("cbindgen.toml is readable");
    config.after_includes = Some(VERSION_MACROS.to_owned());
    let builder = SOURCES
        .iter()
        .fold(cbindgen::Builder::new(), |builder, name| builder.with_src(root().join(format!("src/ffi/{name}.rs"))));
    let mut text = Vec::new();
    builder.with_config(config).generate().expect("cbindgen understands src/ffi").write(&mut text);
    String::from_utf8(text).expect("the header is UTF-8")
}

fn committed() -> String {
    fs::read_to_string(root().join("include/dlock.h")).expect("include/dlock.h is readable")
}

#[test]
fn the_committed_header_is_what_the_sources_say() {
    let generated = generated();
    if std::env::var_os("DLOCK_UPDATE_HEADER").is_some() {
        fs::write(root().join("include/dlock.h"), &generated).expect("include/dlock.h is writable");
    }
    let committed = committed();
    for (number, (have, want)) in committed.lines().zip(generated.lines()).enumerate() {
        assert_eq!(have, want, "include/dlock.h is out of date from line {} on: run `make header`", number + 1);
    }
    assert_eq!(committed, generated, "include/dlock.h is out of date: run `make header`");
}

/// Every source of `src/ffi` that exports something is among [`SOURCES`].
#[test]
fn no_source_is_forgotten() {
    for entry in fs::read_dir(root().join("src/ffi")).expect("src/ffi is readable") {
        let path = entry.expect("src/ffi is readable").path();
        let text = fs::read_to_string(&path).expect("sources are readable");
        let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("source names are UTF-8");
        let exports = text.contains("no_mangle") || text.contains("repr(C)");
        assert!(!exports || SOURCES.contains(&stem), "src/ffi/{stem}.rs is not in SOURCES");
    }
}

/// The example in the header's introduction, written to a file.
fn example() -> PathBuf {
    let header = committed();
    let lines = header.lines().skip_while(|line| !line.contains("#include <dlock.h>"));
    let code: Vec<_> = lines.map_while(|line| line.strip_prefix(" *").filter(|l| !l.starts_with(" B"))).collect();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("example.c");
    fs::write(&path, code.join("\n")).expect("the directory for tests is writable");
    path
}

/// The first C block of README.md, as a file.
fn quick_start() -> PathBuf {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md can be read");
    let code = readme.split("```c\n").nth(1).and_then(|rest| rest.split("```").next()).expect("README.md has C code");
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("quick_start.c");
    fs::write(&file, code).expect("the quick start can be written");
    file
}

#[test]
fn compilers_take_the_header_without_a_warning() {
    let c = [("cc", "c"), ("gcc", "c"), ("clang", "c")].map(|(cc, language)| (cc, language, ["c99", "c11"]));
    let cxx = [("c++", "c++"), ("g++", "c++"), ("clang++", "c++")].map(|(cc, l)| (cc, l, ["c++11", "c++17"]));
    let programs = [root().join("tests/c_abi/header.c"), example(), quick_start()];
    let mut tried = 0;
    for (compiler, language, standards) in c.into_iter().chain(cxx) {
        if Command::new(compiler).arg("--version").output().is_err() {
            continue;
        }
        for standard in standards {
            let output = Command::new(compiler)
                .args(["-x", language, &format!("-std={standard}"), "-Wall", "-Wextra", "-Wpedantic", "-Werror"])
                .args(["-fsyntax-only", "-I"])
                .arg(root().join("include"))
                .args(&programs)
                .output()
                .expect("the compiler runs");
            let complaints = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && complaints.is_empty(), "{compiler} -std={standard}:\n{complaints}");
            tried += 1;
        }
    }
    assert!(tried > 0, "no C or C++ compiler found");
}

#[test]
fn every_name_of_the_header_is_ours() {
    let header = committed();
    for line in header.lines().filter_map(|line| line.strip_prefix("#define ")) {
        assert!(line.starts_with("DLOCK_"), "{line}");
    }
    // A type's name is the last word of its definition: `typedef struct name name;`, or `} name;`.
    let definitions =
        |line: &&str| (line.starts_with("typedef ") && line.ends_with(';')) || line.starts_with("} dlock");
    let types: Vec<_> = header.lines().filter(definitions).filter_map(|line| line.split_whitespace().last()).collect();
    assert_eq!(types.len(), 8, "{types:?}");
    for name in types {
        assert!(name.starts_with("dlock_"), "{name}");
    }
    for name in declared() {
        assert!(name.starts_with("dlock_"), "{name}");
    }
    assert_eq!(declared().len(), 42);
}

/// The functions that the header declares.
fn declared() -> BTreeSet<String> {
    let header = committed();
    let mut code = String::new();
    let mut rest = header.as_str();
    while let Some((before, after)) = rest.split_once("/*") {
        code.push_str(before);
        rest = after.split_once("*/").expect("comments end").1;
    }
    code.push_str(rest);
    let mut names = BTreeSet::new();
    for (position, _) in code.match_indices('(') {
        let name: String = code[..position].chars().rev().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        names.insert(name.chars().rev().collect());
    }
    names
}

/// A library of the release build.
#[cfg(target_os = "linux")]
fn library(name: &str) -> PathBuf {
    let directory = std::env::var_os("DLOCK_LIB_DIR").map(PathBuf::from).unwrap_or_else(|| {
        // This program is <target>/<profile>/deps/header-<hash>.
        let program = std::env::current_exe().expect("a program knows its path");
        program.ancestors().nth(3).expect("tests run in a target directory").join("release")
    });
    let path = directory.join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --release` first, or set DLOCK_LIB_DIR", path.display());
    path
}

#[cfg(target_os = "linux")]
fn run(tool: &str, arguments: &[&str], file: &Path) -> String {
    let output = Command::new(tool).args(arguments).arg(file).output().unwrap_or_else(|e| panic!("{tool}: {e}"));
    assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[cfg(target_os = "linux")]
#[test]
fn the_shared_library_exports_what_the_header_declares_and_nothing_else() {
    let symbols = run("nm", &["-D", "--defined-only", "--format=posix"], &library("libdlock.so"));
    let exported: BTreeSet<_> = symbols.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    assert_eq!(exported, declared());
    assert!(exported.iter().all(|name| name.starts_with("dlock_")));
}

#[cfg(target_os = "linux")]
#[test]
fn the_static_library_defines_what_the_header_declares() {
    let symbols = run("nm", &["-g", "--defined-only", "--format=posix"], &library("libdlock.a"));
    let defined: BTreeSet<_> = symbols
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| name.starts_with("dlock_"))
        .map(str::to_owned)
        .collect();
    assert_eq!(defined, declared());
}

#[cfg(target_os = "linux")]
#[test]
fn the_soname_carries_the_abi_version_and_is_there_beside_the_library() {
    let shared = library("libdlock.so");
    let dynamic = run("readelf", &["-d"], &shared);
    assert!(dynamic.contains("Library soname: [libdlock.so.0]"), "{dynamic}");
    let link = fs::canonicalize(library("libdlock.so.0")).expect("libdlock.so.0 leads to a file");
    assert_eq!(link, fs::canonicalize(&shared).expect("libdlock.so is a file"));
}
