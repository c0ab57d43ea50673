#!/usr/bin/env python3
"""Runs the C programs of tests/c on a library with ThreadSanitizer, then on one with AddressSanitizer, then under valgrind:
what `make sanitize` does; with ThreadSanitizer the C++ programs too (those of tests/cpp have the others in `make test`). Each report
of theirs is a failure.

    tools/sanitize.py [thread] [address] [valgrind]      all three if none is named

Needs a nightly Rust with its source (`rustup toolchain install nightly --component rust-src`), clang with its runtime, and
valgrind. The libraries are built in target/sanitize/.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "target" / "sanitize"
TRIPLE = "x86_64-unknown-linux-gnu"
# The examples have their own leak check in tests/c/run.py; what starts other processes or measures time is left out here.
JOBS = ["semantics", "queue", "errors", "threads", "random", "fork"]
CPP_JOBS = ["mutex", "coroutines", "waiting", "errors"]
VALGRIND = ["valgrind", "-q", "--vgdb=no", "--error-exitcode=99", "--trace-children=yes",
            f"--suppressions={ROOT / 'tests' / 'c' / 'valgrind.supp'}"]


def build(kind):
    """The directory of the library with that sanitizer."""
    flags = dict(os.environ, RUSTFLAGS=f"-Zsanitizer={kind}")
    words = ["cargo", "+nightly", "build", "--locked", "-Zbuild-std", "--target", TRIPLE, "--target-dir", TARGET / kind, "--lib"]
    if subprocess.run(words, cwd=ROOT, env=flags, check=False).returncode != 0:
        sys.exit("not ok - built with a sanitizer; it needs: rustup toolchain install nightly --component rust-src")
    directory = TARGET / kind / TRIPLE / "debug"
    for name in {name.decode().rstrip(".") for name in re.findall(rb"libdlock\.so\.[0-9.]+", (directory / "libdlock.so").read_bytes())}:
        if not (directory / name).exists():
            (directory / name).symlink_to("libdlock.so")
    return directory


def play(name, jobs, suite="c", **variables):
    """One run of tests/c/run.py, or of the other suite's."""
    print(f"# {name}", flush=True)
    words = [sys.executable, ROOT / "tests" / suite / "run.py", *jobs]
    return subprocess.run(words, env=dict(os.environ, **variables), check=False).returncode == 0


def sanitized(kind):
    variables = dict(DLOCK_LIB_DIR=str(build(kind)), CC=f"clang -fsanitize={kind} -rdynamic")
    if kind == "address":
        return play(kind, JOBS, ASAN_OPTIONS="exitcode=66:detect_leaks=1", **variables)
    missing = TARGET / "tsan.o"
    subprocess.run(["clang", "-fsanitize=thread", "-c", ROOT / "tests" / "c" / "tsan.c", "-o", missing], check=True)
    variables.update(CC=f"{variables['CC']} {missing}", TSAN_OPTIONS="exitcode=66:die_after_fork=0")
    in_c = play(kind, JOBS, **variables)
    return play(f"{kind}, C++", CPP_JOBS, "cpp", CXX="clang++", DLOCK_SANITIZERS=f"-fsanitize=thread -rdynamic {missing}",
                **variables) and in_c


def main(arguments):
    kinds = arguments or ["thread", "address", "valgrind"]
    for tool in {"clang", "clang++"} if kinds == ["thread"] or kinds == ["address"] else {"clang", "clang++", "valgrind"}:
        if not shutil.which(tool):
            sys.exit(f"not ok - {tool} is not installed")
    failed = [kind for kind in kinds if not (
        play(kind, ["semantics-memory", "queue-memory", "random"], DLOCK_RUN_UNDER=" ".join(VALGRIND))
        if kind == "valgrind" else sanitized(kind))]
    print(f"# {', '.join(kinds)}: " + (f"failed: {', '.join(failed)}" if failed else "no report"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
