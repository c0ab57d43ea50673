#!/usr/bin/env python3
"""Compares the ABI of the library as it is here with that of an older revision, by abidiff, from the debug information of both:
what `make abidiff BASE=<revision>` does. Symbols and values that were added are fine; what is gone or different is a failure.

    tools/abidiff.py [revision]     default: the last tag
    tools/abidiff.py --prove        does it find changes that were made to be found, and pass those that are none?

abidiff is in the package abigail-tools of Debian, libabigail of others. The revision is built in a temporary git worktree; what is
built is in target/abidiff/. Unlike packaging/dlock.abi, which has the words of the header, this sees what the compiler made of them,
and says what else a change of one type changes.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "target" / "abidiff"
IGNORED = ROOT / "packaging" / "dlock.abignore"
STANDS_IN = ("nothing was compared. What stands in are packaging/dlock.abi and packaging/dlock.symbols, with which `make abi` and "
             "the tests compare")
LOCK, ERROR, EVENT = (f"src/ffi/{name}.rs" for name in ("lock", "error", "event"))

# For --prove: what is changed, is that a failure, and where: file, text, other text.
CHANGES = (
    ("another type of a parameter", True, ((LOCK, "    lease_ms: u64,\n", "    lease_ms: u32,\n"),
                                           (LOCK, "extend(lease_ms)", "extend(lease_ms.into())"))),
    ("another handle as a parameter", True, (
        (LOCK, "dlock_lock_cancel(lock: Option<&dlock_lock>", "dlock_lock_cancel(lock: Option<&dlock_queue>"),
        (LOCK, "given(\"lock\", lock)?.0.cancel()", "given(\"lock\", lock).map(|_| ())"))),
    ("another number of a status", True, ((ERROR, "    DLOCK_ERR_BUSY = 13,", "    DLOCK_ERR_BUSY = 14,"),)),
    ("a member of a struct between others", True, ((EVENT, "    pub flag: bool,", "    pub more: bool,\n    pub flag: bool,"),
                                                   (EVENT, "user_data: event.user_data,", "user_data: event.user_data, more: true,"))),
    ("a function that is gone", True, ((LOCK, "fn dlock_lock_extend(", "fn dlock_lock_prolong("),)),
    ("a function more", False, ((LOCK, "#[unsafe(no_mangle)]\npub unsafe extern \"C\" fn dlock_lock_extend(",
                                 "#[unsafe(no_mangle)]\npub extern \"C\" fn dlock_lock_more() {}\n\n"
                                 "#[unsafe(no_mangle)]\npub unsafe extern \"C\" fn dlock_lock_extend("),)),
    ("a status more", False, ((ERROR, "    DLOCK_ERR_BUSY = 13,", "    DLOCK_ERR_BUSY = 13,\n    DLOCK_ERR_MORE = 14,"),)),
    ("another inside of a handle", False, (("src/lock.rs", "    owner: Uuid,\n", "    owner: Uuid,\n    _more: u64,\n"),
                                           ("src/lock.rs", "handle, owner }", "handle, owner, _more: 0 }"))),
)


class Failed(Exception):
    """What was asked for cannot be done; the text says why."""


def git(*words):
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    except OSError as error:
        raise Failed(f"git does not run: {error.strerror}") from error
    return done.stdout.strip() if done.returncode == 0 else None


def base_of(arguments):
    if not (ROOT / ".git").exists():
        raise Failed("these sources are in no git repository, so there is no older revision to compare with; " + STANDS_IN)
    base = arguments[0] if arguments else git("describe", "--tags", "--abbrev=0")
    if base is None:
        raise Failed("there is no tag to compare with yet: name a revision, BASE=<revision>; " + STANDS_IN)
    if git("rev-parse", "--verify", "--quiet", f"{base}^{{commit}}") is None:
        raise Failed(f"BASE: there is no revision {base}")
    return base


@contextmanager
def worktree(revision):
    """The sources of that revision, for a while."""
    with tempfile.TemporaryDirectory(prefix="dlock-abidiff-") as temporary:
        tree = Path(temporary) / "dlock"
        if git("worktree", "add", "--detach", str(tree), revision) is None:
            raise Failed(f"git makes no worktree of {revision}")
        try:
            yield tree
        finally:
            git("worktree", "remove", "--force", str(tree))


def build(tree, name):
    """The shared library with debug information; not optimised, which is the same ABI."""
    words = [os.environ.get("CARGO", "cargo"), "rustc", "--locked", "--quiet", "--lib", "--crate-type", "cdylib", "--target-dir",
             TARGET / name]
    if subprocess.run(words, cwd=tree, env=dict(os.environ, CARGO_PROFILE_DEV_DEBUG="full"), check=False).returncode != 0:
        raise Failed(f"{name}: does not compile")
    return TARGET / name / "debug" / "libdlock.so"


def compare(old, new):
    """What abidiff has to say, and whether that is a failure."""
    done = subprocess.run(["abidiff", "--no-added-syms", "--suppr", IGNORED, old, new], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode & 3:
        raise Failed(f"abidiff: {done.stdout.strip()}")
    return done.stdout, done.returncode != 0


def prove():
    wrong = 0
    with worktree("HEAD") as tree:
        base = TARGET / "libdlock-unchanged.so"
        shutil.copy(build(tree, "changed"), base)
        for what, failure, edits in CHANGES:
            before = {file: (tree / file).read_text() for file, _, _ in edits}
            for file, old, new in edits:
                text = (tree / file).read_text()
                if old not in text:
                    raise Failed(f"{what}: {file} has no longer {old!r}")
                (tree / file).write_text(text.replace(old, new, 1))
            output, failed = compare(base, build(tree, "changed"))
            for file, text in before.items():
                (tree / file).write_text(text)
            wrong += failed != failure
            print(f"{'ok' if failed == failure else f'{output}not ok'} - {'found' if failure else 'passed'}: {what}", flush=True)
    return 1 if wrong else 0


def main(arguments):
    if not shutil.which("abidiff"):
        raise Failed("abidiff is not installed: it is in the package abigail-tools of Debian and Ubuntu, libabigail of others")
    if arguments == ["--prove"]:
        return prove()
    base = base_of(arguments)
    with worktree(base) as tree:
        old = build(tree, "base")
    output, failed = compare(old, build(ROOT, "here"))
    print(output.strip())
    print(f"{'not ok' if failed else 'ok'} - a program that was linked with the library of {base} runs with this one")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Failed as problem:
        sys.exit(f"abidiff: {problem}")
