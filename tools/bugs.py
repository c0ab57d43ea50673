#!/usr/bin/env python3
"""Each bug that was found in this library, put back: does the command that is said to find it fail? What `make bugs` does.

    tools/bugs.py [part of a name …]     takes out the fix of each bug of tests/bugs/ in turn, in a copy of the sources, and runs
                                         its command, which must fail in a test
    tools/bugs.py --check                only: does each patch still apply?
    tools/bugs.py --table                only: the table of docs/reliability.md

A file of tests/bugs/ begins with `Bug:`, `Found by:` and `Command:` lines; below is a patch that takes the fix out again. One that
does not apply any more must be made anew: the code that it is about has changed.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections import namedtuple
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUGS = ROOT / "tests" / "bugs"
TARGET = ROOT / "target" / "bugs"
SECONDS = 600

Bug = namedtuple("Bug", "path what found command")


def read(path):
    """A file of tests/bugs/."""
    head = path.read_text(encoding="utf-8").split("\ndiff --git", 1)[0]
    values = dict(re.findall(r"^(Bug|Found by|Command): (.+)$", head, re.MULTILINE))
    return Bug(path, values["Bug"], values["Found by"], values["Command"])


def git(*words, **options):
    return subprocess.run(["git", *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **options)


def copy_sources(directory):
    """The tracked files as they are now."""
    for name in git("ls-files", "-z").stdout.decode().split("\0"):
        source = ROOT / name
        if name and source.is_file():
            target = directory / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
            os.utime(target, ns=(source.stat().st_atime_ns, source.stat().st_mtime_ns))
            target.chmod(source.stat().st_mode)


def play(bug, directory):
    """Why the bug was not found; None: it was."""
    applied = subprocess.run(["git", "apply", "--unsafe-paths", f"--directory={directory}", bug.path], cwd="/", stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True, check=False)
    if applied.returncode != 0:
        return f"the patch does not apply: {applied.stdout}"
    variables = dict(os.environ, CARGO_TARGET_DIR=str(TARGET), DLOCK_LIB_DIR=str(TARGET / "release"), CARGO_TERM_COLOR="never")
    try:
        done = subprocess.run(["sh", "-c", bug.command], cwd=directory, env=variables, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"the command took more than {SECONDS} s"
    if done.returncode == 0:
        return "the command passes"
    if "could not compile" in done.stdout:
        return "it does not compile\n" + done.stdout[-3000:]
    if not re.search(r"^test .*FAILED|^not ok|ThreadSanitizer", done.stdout, re.MULTILINE):
        return "the command failed, but no test did\n" + done.stdout[-3000:]
    return None


def restore(bug, directory):
    """The copy as it was; what a patch has changed is newer than what was built from it."""
    for name in re.findall(r"^\+\+\+ b/(.+)$", bug.path.read_text(encoding="utf-8"), re.MULTILINE):
        (directory / name).write_bytes((ROOT / name).read_bytes())


def main(arguments):
    bugs = [read(path) for path in sorted(BUGS.glob("*.patch"))]
    if arguments == ["--table"]:
        print("| bug | found by | found again by |\n| --- | --- | --- |")
        for bug in bugs:
            print(f"| {bug.what} | {bug.found} | `{bug.command}` |")
        return 0
    failed = 0
    if arguments == ["--check"]:
        for bug in bugs:
            check = git("apply", "--check", str(bug.path))
            failed += check.returncode != 0
            print(f"{'not ok' if check.returncode else 'ok'} - applies: {bug.path.stem}\n{check.stdout.decode()}", end="")
        return 1 if failed else 0
    chosen = [bug for bug in bugs if not arguments or any(part in bug.path.stem for part in arguments)]
    with tempfile.TemporaryDirectory(prefix="dlock-bugs-") as temporary:
        directory = Path(temporary) / "dlock"
        copy_sources(directory)
        for bug in chosen:
            why = play(bug, directory)
            restore(bug, directory)
            failed += why is not None
            print(f"{'not ok' if why else 'ok'} - {bug.path.stem}: {why or bug.command}", flush=True)
    print(f"{len(chosen) - failed} of {len(chosen)} bugs found again")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
