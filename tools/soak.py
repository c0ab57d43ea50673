#!/usr/bin/env python3
"""Runs the stress program against a private server whose connections it kills; what `make soak` runs.

    tools/soak.py [SECONDS [ROUND_SECONDS]]      60 seconds in all if not said, in rounds of 20

Each round has a seed of its own and prints `ok - …` or `not ok - …` with what the program said. The server comes from
tools/servers.py, listens on a free port and is stopped at the end, also on Ctrl-C.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
# A round does not end at once: what it began is brought to its end and checked.
MORE_SECONDS = 60


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_server(program, directory):
    port = free_port()
    words = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", directory]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return server, port
        except OSError:
            time.sleep(0.02)
    server.kill()
    raise SystemExit(f"not ok - the server {program} does not listen")


def play(port, seconds, seed):
    words = [str(TARGET / "release" / "examples" / "stress"), str(port), str(seconds), str(seed)]
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


def main(arguments):
    seconds = int(arguments[0]) if arguments else 60
    length = int(arguments[1]) if len(arguments) > 1 else min(20, seconds)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    subprocess.run(["cargo", "build", "--locked", "--release", "--quiet", "--example", "stress"], cwd=ROOT, check=True)
    default = [sys.executable, str(ROOT / "tools" / "servers.py"), "default"]
    program = os.environ.get("DLOCK_TEST_SERVER") or subprocess.run(
        default, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    with tempfile.TemporaryDirectory(prefix="dlock-soak-") as directory:
        server, port = start_server(program, directory)
        try:
            first = int(time.time())
            rounds = max(1, seconds // length)
            passed = sum(play(port, length, first + n) for n in range(rounds))
        finally:
            server.terminate()
            server.wait()
    return 0 if passed == rounds else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
