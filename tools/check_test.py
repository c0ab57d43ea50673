#!/usr/bin/env python3
"""Tests of tools/check.py itself, on toy steps: that it counts failures that are easy to miss, and that nothing it
started outlives it, whether it ends by itself or by a signal. Prints `ok` or `not ok` lines."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
RUNNER = """
import sys
sys.path.insert(0, sys.argv[1])
import check
from pathlib import Path
check.ROOT = Path(sys.argv[2])
check.LOGS = check.ROOT / "logs"
check.GRACE_SECONDS = 0.2
check.STEPS = [check.Step(*step) for step in eval(sys.argv[3])]
sys.exit(check.main())
"""
failures = 0


def verify(name, condition, detail=""):
    global failures
    failures += not condition
    print(f"{'ok' if condition else 'not ok'} - check.py: {name}" + ("" if condition else f"\n{detail}"), flush=True)


def start(directory, *steps):
    return subprocess.Popen([sys.executable, "-c", RUNNER, str(TOOLS), directory, repr(steps)],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)


def shell(script, seconds=30, count="exit"):
    return ("toy", ["sh", "-c", script], seconds, count)


def counts(name, step, passed, failed):
    """The step's own results, with one more for the check that no process is left."""
    with tempfile.TemporaryDirectory() as directory:
        run = start(directory, step)
        output = run.communicate(timeout=60)[0]
        last = output.splitlines()[-1]
        good = last == f"{passed + 1} passed, {failed} failed" and run.returncode == (1 if failed else 0)
        verify(name, good, output)


def cargo(program, result):
    return shell(f"echo '     Running {program} (target/x)'; echo '{result}'", count="cargo")


def results():
    good = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out"
    counts("a step that ends well passes", shell("true"), 1, 0)
    counts("a step that fails is counted", shell("exit 3"), 0, 1)
    counts("a step that cannot start is counted", ("toy", ["/nonexistent/program"], 5), 0, 1)
    counts("a step beyond its bound is counted", shell("sleep 60", 0.3), 0, 1)
    counts("a crash after results is counted", shell("echo ok - a; kill -9 $$", count="lines"), 1, 1)
    counts("no line at all is a failure", shell("true", count="lines"), 0, 1)
    counts("a skipped line is a failure", shell("echo ok - a; echo 'ok - b # SKIP c'", count="lines"), 1, 1)
    counts("cargo's results are added", cargo("tests/a.rs", good), 3, 0)
    counts("a test program without a result is a failure", cargo("tests/a.rs", "abort"), 0, 1)
    counts("ignored tests are failures", cargo("tests/a.rs", good.replace("0 ignored", "2 ignored")), 3, 2)
    counts("a test file without tests is a failure", cargo("tests/a.rs", good.replace("3 passed", "0 passed")), 0, 1)
    counts("a test that Go skipped is a failure", shell("echo '--- PASS: A'; echo '--- SKIP: B'", count="go"), 1, 1)
    counts("what pytest skipped or could not set up is a failure",
           shell("echo '===== 1 failed, 3 passed, 2 skipped, 1 error in 4.20s ====='; exit 1", count="pytest"), 3, 4)
    counts("pytest's results are counted", shell("echo '12 passed, 1 warning in 61.20s (0:01:01)'", count="pytest"), 12, 0)
    counts("pytest without a result is a failure", shell("echo 5 passed", count="pytest"), 0, 1)
    counts("a name from gofmt is a failure", shell("echo a.go", count="silence"), 0, 1)


def alive(pid):
    """Whether the process is there, be it as a zombie."""
    try:
        os.kill(pid, 0)
        return True
    except ProcessLookupError:
        return False


def pid_in(path):
    """The process number that a toy step writes to `path`, waited for."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if path.exists() and path.read_text().endswith("\n"):
            return int(path.read_text())
        time.sleep(0.02)
    raise TimeoutError(f"{path} was not written")


# A process that behaves like a server: it left its parent's session, and works below TMPDIR.
SERVER = ("import os, sys, time; os.setsid(); os.chdir(os.environ['TMPDIR']); "
          "open(sys.argv[1], 'w').write(str(os.getpid()) + chr(10)); time.sleep(60)")


def processes():
    with tempfile.TemporaryDirectory() as directory:
        note = Path(directory, "pid")
        leave = f"\"{sys.executable}\" -c \"{SERVER}\" {note} & while [ ! -s {note} ]; do sleep 0.05; done"
        for name, script, status, line in (
                ("a server that outlives a good step is counted and killed", leave, 1, "1 passed, 1 failed"),
                ("a server that outlives a failed step is counted and killed", leave + "; exit 1", 1, "0 passed, 2 failed"),
                ("a server is killed when its step's time is over", leave + "; sleep 60", 1, "1 passed, 1 failed")):
            run = start(directory, shell(script, 3))
            output = run.communicate(timeout=60)[0]
            good = run.returncode == status and output.splitlines()[-1] == line
            verify(name, good and not alive(pid_in(note)), output)
            note.unlink()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            run = start(directory, shell(leave + "; sleep 60"), shell("true"))
            server = pid_in(note)
            os.kill(run.pid, number)
            output = run.communicate(timeout=60)[0]
            good = run.returncode == 130 and output.splitlines()[-1] == "1 passed, 2 failed"
            verify(f"{signal.Signals(number).name} ends every process", good and not alive(server), output)
            note.unlink()


if __name__ == "__main__":
    results()
    processes()
    sys.exit(1 if failures else 0)
