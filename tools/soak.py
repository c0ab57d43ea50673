#!/usr/bin/env python3
"""Random orders on private servers until the time is over; what `make soak` runs.

    tools/soak.py [SECONDS]            rounds of the stress program and of tests/faults/run.py in turn, on every server
                                       that tools/servers.py knows; 60 seconds if not said
    tools/soak.py stress [SECONDS]     one round of the stress program, on the default server

The stress program (examples/stress.rs) has threads, lockers and locks in random order while connections are killed. Each
round has a seed of its own and prints `ok - …` or `not ok - …` lines; what fails says how to play it again. Servers
listen on free ports and are stopped at the end, also on Ctrl-C.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from private_server import Failed, Processes, start_server

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
# A round does not end at once: what it began is brought to its end and checked.
MORE_SECONDS = 60


def play(port, seconds, seed):
    words = [str(TARGET / "debug" / "examples" / "stress"), str(port), str(seconds), str(seed)]
    name = f"stress: {seconds} s, seed {seed}"
    program = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said, _ = program.communicate(timeout=seconds + MORE_SECONDS)
        passed = program.returncode == 0
    except subprocess.TimeoutExpired:
        program.kill()
        said, passed = program.communicate()[0] + "\nit did not come to its end", False
    if not passed:
        print("\n".join("  " + line for line in said.splitlines()[-60:]))
    print(f"{'ok' if passed else 'not ok'} - {name}", flush=True)
    return passed


def stress(program, seconds, seed):
    """One round of the stress program on that server."""
    with tempfile.TemporaryDirectory(prefix="dlock-soak-") as directory:
        processes = Processes()
        try:
            port, _ = start_server(processes, directory, program)
            return play(port, seconds, seed)
        except Failed as reason:
            raise SystemExit(f"not ok - {reason}")
        finally:
            processes.stop()


def faults(program, seconds, seed):
    """One round of every kind of fault on that server."""
    words = [sys.executable, str(ROOT / "tests" / "faults" / "run.py"), "--server", program, "--seed", str(seed),
             "--seconds", str(seconds)]
    runner = subprocess.Popen(words)
    try:
        return runner.wait() == 0
    except BaseException:
        runner.terminate()
        runner.wait()
        raise


def servers(which):
    """(name, path) of the servers."""
    words = [sys.executable, str(ROOT / "tools" / "servers.py"), which]
    lines = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    return [line.split("=", 1) if "=" in line else (line, line) for line in lines]


def main(arguments):
    only_stress = arguments[:1] == ["stress"]
    arguments = arguments[only_stress:]
    seconds = int(arguments[0]) if arguments else 60
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    subprocess.run(["cargo", "build", "--locked", "--quiet", "--example", "stress"], cwd=ROOT, check=True)
    chosen = os.environ.get("DLOCK_TEST_SERVER")
    default = [(chosen, chosen)] if chosen else servers("default")
    seed = int(time.time())
    if only_stress:
        return 0 if stress(default[0][1], seconds, seed) else 1
    subprocess.run(["cargo", "build", "--locked", "--quiet", "--release"], cwd=ROOT, check=True)
    every = default if chosen else default + servers("all")
    begun, rounds, failed = time.monotonic(), 0, 0
    while rounds == 0 or time.monotonic() - begun < seconds:
        name, program = every[rounds % len(every)]
        print(f"# round {rounds + 1}, {name}: {time.monotonic() - begun:.0f} of {seconds} s, {failed} rounds failed", flush=True)
        passed = stress(program, min(20, seconds), seed + rounds) and faults(program, 4, seed + rounds)
        rounds, failed = rounds + 1, failed + (not passed)
    print(f"# {rounds} rounds, {failed} failed, {time.monotonic() - begun:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
