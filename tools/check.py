#!/usr/bin/env python3
"""Runs every check of the repository in order and counts them: what `make test` calls. Knows nothing about locks.

The last line is `N passed, N failed` over everything; the exit status is 0 only without failures. Nothing passes by not
running: a step that crashes, exceeds its time or finds no test counts as failed, and so does a skipped test. A step's
output is shown when it fails and is always in target/check/<step>.log.

Whatever a step starts is ended with the step, also after a timeout or Ctrl-C. Tests start their servers with a working
directory below $TMPDIR, which is fresh here; that no process outlived its step is the last check.
"""

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "target" / "check"
PYTHON = sys.executable
PYTHON_FILES = sorted(str(path.relative_to(ROOT)) for directory in ("tools", "tests", "demo", "benches", "bindings", "examples")
                      for path in (ROOT / directory).glob("**/*.py"))


def together(*commands):
    """One command that runs these two at a time; they have the same way of being counted."""
    words = [word for command in commands for word in ["--", *command]]
    return [PYTHON, str(ROOT / "tools" / "together.py"), *words[1:]]


# A step: its name; its command; its bound in seconds; how its results are counted (see `COUNTERS`); the directory to run
# in, without which there is no such step yet (`where`), or the file (`needs`).
Step = namedtuple("Step", "name command seconds count where needs", defaults=("exit", ".", None))
STEPS = [
    Step("rustfmt", ["cargo", "fmt", "--all", "--", "--check", "--color", "never"], 60),
    Step("python", [PYTHON, "-m", "py_compile"] + PYTHON_FILES, 60),
    Step("check itself", [PYTHON, "tools/check_test.py"], 120, "lines"),
    Step("notices", [PYTHON, "tools/notices.py", "--check"], 300),
    Step("bugs", [PYTHON, "tools/bugs.py", "--check"], 60, "lines"),
    Step("servers", [PYTHON, "tools/servers.py", "check"], 300, "lines"),
    Step("clippy", ["cargo", "clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"], 420),
    Step("clippy without TLS", ["cargo", "clippy", "--locked", "--all-targets", "--no-default-features", "--", "-D", "warnings"],
         420),
    Step("URLs without TLS", ["cargo", "test", "--locked", "--no-default-features", "--lib", "options"], 300, "cargo"),
    Step("release build", ["cargo", "build", "--locked", "--release"], 420),
    # With tests/header.rs, the check that include/dlock.h is what the sources say.
    Step("cargo test", [PYTHON, "tools/together.py", "--cargo", "--locked", "--workspace"], 600, "cargo"),
    Step("simulator", ["env", "DLOCK_SEEDS=10000", "cargo", "test", "--locked", "--release", "--test", "simulator"], 300, "cargo"),
    Step("interleavings", ["env", "DLOCK_SEEDS=2000", "cargo", "test", "--locked", "--release", "--features", "shuttle", "--lib",
                           "interleavings"], 300, "cargo"),
    Step("models", [PYTHON, "tools/model.py", "60000"], 180, "lines"),
    # A directory of its own: the library with planted bugs must never be in target/release.
    Step("planted bugs", ["cargo", "test", "--locked", "--release", "--features", "planted-bugs", "--target-dir",
                          "target/planted", "--test", "simulator", "every_planted_bug_is_found", "--", "--exact"], 420, "cargo"),
    Step("C, C++, faults, packages, stress",
         together([PYTHON, "tests/c/run.py"], [PYTHON, "tests/faults/run.py"], [PYTHON, "tests/cpp/run.py"],
                  [PYTHON, "tools/soak.py", "stress", "15"], [PYTHON, "tests/packages/run.py"]), 480, "lines"),
    Step("gofmt", ["gofmt", "-l", "."], 60, "silence", where="bindings/go"),
    Step("go vet", ["go", "vet", "./..."], 240, where="bindings/go"),
    # As it is, with the race detector, and with all checks of pointers that go into C.
    Step("go test", together(["go", "test", "-count=1", "-v", "./..."], ["go", "test", "-count=1", "-v", "-race", "."],
                             ["env", "GOEXPERIMENT=cgocheck2", "GODEBUG=cgocheck=1", "go", "test", "-count=1", "-v", "."]),
         300, "go", where="bindings/go"),
    Step("Python wheel", [PYTHON, "tools/python.py", "wheel"], 240),
    Step("Python types", [PYTHON, "tools/python.py", "types"], 240),
    Step("Python tests", [PYTHON, "tools/python.py", "test"], 240, "pytest"),
    Step("gofmt of the demo", ["gofmt", "-l", "."], 60, "silence", where="demo/go"),
    Step("go vet of the demo", ["go", "vet", "./..."], 240, where="demo/go"),
    Step("gofmt of the faults", ["gofmt", "-l", "."], 60, "silence", where="tests/faults/go"),
    Step("go vet of the faults", ["go", "vet", "./..."], 240, where="tests/faults/go"),
    Step("gofmt of the languages", ["gofmt", "-l", "."], 60, "silence", where="tests/languages/go"),
    Step("go vet of the languages", ["go", "vet", "./..."], 240, where="tests/languages/go"),
    Step("languages, documents", together([PYTHON, "tests/languages/run.py"], [PYTHON, "tests/docs/run.py"]), 300, "lines"),
]
# Everything together, a build from nothing included.
TOTAL_SECONDS = 890
# How long a process may take to end after its step did.
GRACE_SECONDS = 3
# In the environment of everything that a step starts: finds those that left the step's session.
MARK = f"DLOCK_CHECK_RUN={os.getpid()}-{time.time_ns()}"

Process = namedtuple("Process", "pid group session cwd marked name")


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP."""


# How results are counted: (passed, failed) from a step's exit status and output.

def count_exit(status, _output):
    return (1, 0) if status == 0 else (0, 1)


def count_silence(status, output):
    """For programs that name what is wrong and exit with 0."""
    return (1, 0) if status == 0 and not output.strip() else (0, 1)


def count_lines(status, output):
    """`ok - name` and `not ok - name`, as in TAP; a skipped one has not passed."""
    passed = failed = 0
    for line in re.findall(r"^(?:not )?ok\b.*", output, re.MULTILINE):
        if line.startswith("ok") and not re.search(r"# *SKIP", line, re.IGNORECASE):
            passed += 1
        else:
            failed += 1
    return at_least_one(status, passed, failed)


def count_go(status, output):
    passed = len(re.findall(r"^--- PASS: ", output, re.MULTILINE))
    failed = len(re.findall(r"^--- (?:FAIL|SKIP): ", output, re.MULTILINE))
    return at_least_one(status, passed, failed)


def count_cargo(status, output):
    """Each test program's result. One without a result crashed; ignored tests, and a file in tests/ without any, are
    failures."""
    passed = failed = 0
    programs = re.split(r"^ +(?:Running|Doc-tests) ", output, flags=re.MULTILINE)[1:]
    for program in programs:
        results = re.findall(r"test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", program)
        good = sum(int(result[0]) for result in results)
        bad = sum(int(result[1]) + int(result[2]) for result in results)
        if not results or (program.startswith("tests/") and good + bad == 0):
            bad += 1
        passed += good
        failed += bad
    return at_least_one(status, passed, failed)


def count_pytest(status, output):
    """The last line; whatever is not `passed` there, such as an error or a test skipped, has failed."""
    passed = failed = 0
    lines = [line for line in output.splitlines() if re.match(r"=* *\d+ .* in [\d.]+s", line)]
    for number, what in re.findall(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed)", lines[-1] if lines else ""):
        if what == "passed":
            passed += int(number)
        else:
            failed += int(number)
    return at_least_one(status, passed, failed)


def at_least_one(status, passed, failed):
    """A step that failed, or that ran nothing, has one failure at least."""
    if failed == 0 and (status != 0 or passed == 0):
        failed = 1
    return passed, failed


COUNTERS = {"exit": count_exit, "silence": count_silence, "lines": count_lines, "go": count_go, "cargo": count_cargo,
            "pytest": count_pytest}


# Processes: which belong to a step, and how they are ended.

def processes():
    """All processes that still run, zombies left out. Without /proc (macOS), the working directory and the mark are
    unknown and a process is found by its group only."""
    if not os.path.isdir("/proc/self"):
        listing = subprocess.run(["ps", "-axo", "pid=,pgid=,stat=,comm="], stdout=subprocess.PIPE, check=False)
        for line in listing.stdout.decode(errors="replace").splitlines():
            pid, group, state, name = line.split(None, 3)
            if not state.startswith("Z"):
                yield Process(int(pid), int(group), int(group), "", False, name)
        return
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            name, rest = Path("/proc", entry, "stat").read_text(errors="replace").split("(", 1)[1].rsplit(") ", 1)
            state, _parent, group, session = rest.split()[:4]
            if state not in "ZX":
                yield Process(int(entry), int(group), int(session), link(f"/proc/{entry}/cwd"), marked(entry), name)
        except (OSError, IndexError):
            continue  # It ended meanwhile.


def link(path):
    try:
        return os.readlink(path)
    except OSError:
        return ""


def marked(entry):
    try:
        return MARK.encode() in Path("/proc", entry, "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def adopt_orphans():
    """Makes this process the parent of those whose own parent ended (Linux only), so that none stays as a zombie where
    process 1 does not collect them, as in many containers."""
    if sys.platform == "linux":
        set_child_subreaper = 36
        ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0)


def collect(child):
    """Collects the ended processes that were adopted. `child` is left for its own object to collect."""
    try:
        while True:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None or (child and ended.si_pid == child.pid):
                return
            os.waitpid(ended.si_pid, 0)
    except (AttributeError, ChildProcessError):
        pass  # No waitid on this system, or nothing to collect.


class Run:
    """One run over all steps: the counts, the environment, the step under way."""

    def __init__(self):
        self.passed = self.failed = 0
        self.deadline = time.monotonic() + TOTAL_SECONDS
        self.temporary = os.path.realpath(tempfile.mkdtemp(prefix="dlock-"))
        self.child = None
        self.leaks = []
        target = target_directory()
        self.environment = dict(
            os.environ, TMPDIR=self.temporary, CARGO_TERM_COLOR="never", NO_COLOR="1",
            PYTHONPYCACHEPREFIX=os.path.join(self.temporary, "pycache"), DLOCK_LIB_DIR=os.path.join(target, "release"),
            DLOCK_INCLUDE_DIR=str(ROOT / "include"))
        # For cgo, wherever cargo builds.
        library, include = self.environment["DLOCK_LIB_DIR"], self.environment["DLOCK_INCLUDE_DIR"]
        self.environment.update(CGO_CFLAGS=f"-O2 -g -I{include} -I{library}",
                                CGO_LDFLAGS=f"-L{library} -Wl,-rpath,{library}")
        self.environment.update([MARK.split("=", 1)])

    def step(self, step):
        """Runs one step and counts it."""
        print(f"{step.name} ...", end=" ", flush=True)
        begun = time.monotonic()
        bound = min(step.seconds, self.deadline - begun)
        log = LOGS / (step.name.replace(" ", "-") + ".log")
        status, problem = self.execute(step, bound, log)
        output = log.read_text(errors="replace")
        passed, failed = COUNTERS[step.count](status, output)
        self.passed += passed
        self.failed += failed
        print(f"{passed} passed, {failed} failed ({time.monotonic() - begun:.1f} s)", flush=True)
        if failed:
            print(output.rstrip("\n"))
            print(f"{step.name}: {problem or f'exit status {status}'}; {' '.join(step.command)}", flush=True)
        for name, value in re.findall(r"^# env (\w+)=(.*)$", output, re.MULTILINE):
            self.environment[name] = value

    def execute(self, step, bound, log):
        """The exit status of a step's command, and what went wrong with it besides. Ends all that it started."""
        with open(str(log), "wb") as out:
            if bound <= 0:
                return 1, f"not run, the {TOTAL_SECONDS} s for everything are over"
            try:
                self.child = subprocess.Popen(step.command, cwd=str(ROOT / step.where), env=self.environment,
                                              stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                                              start_new_session=True)
            except OSError as error:
                return 1, f"{step.command[0]} does not run: {error.strerror}"
            try:
                status, problem = self.wait(bound), None
                self.note_leaks(step)
            except subprocess.TimeoutExpired:
                status, problem = 1, f"stopped after {bound:.0f} s"
            self.end_all()
            return status, problem

    def wait(self, bound):
        """The exit status of the step under way. Orphans are collected meanwhile: a test may wait for their end."""
        until = time.monotonic() + bound
        while time.monotonic() < until:
            try:
                return self.child.wait(0.1)
            except subprocess.TimeoutExpired:
                collect(self.child)
        raise subprocess.TimeoutExpired(self.child.args, bound)

    def ours(self):
        """The processes that the step under way started and that still run."""
        session = self.child.pid if self.child else -1
        inside = self.temporary + os.sep
        return [process for process in processes()
                if process.marked or session in (process.session, process.group) or process.cwd.startswith(inside)]

    def note_leaks(self, step):
        """What outlives a step is a leak: a server, or anything that shares its session or works in the temporary
        directory. (A tool's own daemon, as of a compiler cache, is ended too but is no fault of the tests.)"""
        until = time.monotonic() + GRACE_SECONDS
        while True:
            left = [process for process in self.ours()
                    if process.session == self.child.pid or process.cwd.startswith(self.temporary)
                    or re.match("redis|valkey", process.name)]
            if not left or time.monotonic() > until:
                break
            collect(self.child)
            time.sleep(0.05)
        self.leaks += [f"{process.name} (process {process.pid}) outlived {step.name}" for process in left]

    def end_all(self):
        """Kills what the step under way started, until nothing is left of it: what is killed may just have forked."""
        until = time.monotonic() + 10
        while time.monotonic() < until:
            left = self.ours()
            for process in left:
                try:
                    os.kill(process.pid, signal.SIGKILL)
                except OSError:
                    pass
            if self.child:
                self.child.poll()
            collect(None)
            if not left:
                break
            time.sleep(0.02)
        self.child = None

    def check_leaks(self):
        """The last check: nothing outlived its step, and nothing is left now."""
        left = [f"{process.name} (process {process.pid}) cannot be ended" for process in self.ours()]
        if self.leaks or left:
            self.failed += 1
            print("no process left ... 0 passed, 1 failed", *self.leaks, *left, sep="\n", flush=True)
        else:
            self.passed += 1
            print("no process left ... 1 passed, 0 failed", flush=True)


def target_directory():
    """Where cargo puts what it builds."""
    try:
        metadata = subprocess.run(["cargo", "metadata", "--no-deps", "--format-version", "1"], cwd=str(ROOT),
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60)
        return json.loads(metadata.stdout)["target_directory"]
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError):
        return str(ROOT / "target")


def handle_signals(handler):
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, handler)


def interrupt(number, _frame):
    handle_signals(signal.SIG_IGN)  # The cleaning up is not to be interrupted.
    raise Interrupted(signal.Signals(number).name)


def main():
    adopt_orphans()
    handle_signals(interrupt)
    LOGS.mkdir(parents=True, exist_ok=True)
    steps = [step for step in STEPS if (ROOT / step.where).is_dir() and (not step.needs or (ROOT / step.needs).exists())]
    begun = time.monotonic()
    run = Run()
    interrupted = None
    done = 0
    try:
        for step in steps:
            run.step(step)
            done += 1
    except Interrupted as signal_name:
        interrupted = signal_name
        print()
        run.failed += len(steps) - done
    finally:
        handle_signals(signal.SIG_IGN)
        run.end_all()
        run.check_leaks()
        shutil.rmtree(run.temporary, ignore_errors=True)
    if interrupted:
        print(f"ended by {interrupted}: {len(steps) - done} steps not finished")
    print(f"{time.monotonic() - begun:.0f} s; logs in {LOGS.relative_to(ROOT)}/")
    print(f"{run.passed} passed, {run.failed} failed", flush=True)
    if interrupted:
        return 130
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
