#!/usr/bin/env python3
"""Measures the library against hiredis and against what a socket and a server can do at all; what `make bench` runs.

    benches/run.py [--quick] [part ...]     parts: pair handoff inflight waiters held threads hot timeline start memory go
                                            peers; all of them if none is named. With all, the curves
                                            and plots of docs/performance.md too

Compiles the programs beside it into target/bench/, starts a private server on a free port and stops it again, also on
Ctrl-C, and prints one table: each figure with the limit it is measured against. Contenders take turns in one run, since
on a machine that does other things too only their ratio means anything. A missed aim is shown and fails nothing; the
exit status is not 0 only where something does not run.
"""

import argparse
import contextlib
import json
import os
import platform
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import peers

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve()
LIBRARY = Path(os.environ.get("DLOCK_LIB_DIR") or TARGET / "release").resolve()
PROGRAMS = TARGET / "bench"
SCRIPTS = ROOT / "src" / "store" / "redis" / "scripts"
PARTS = ["pair", "handoff", "inflight", "waiters", "held", "threads", "hot", "timeline", "start", "memory", "go", "peers"]


class Failed(Exception):
    """A measurement cannot be made; the text says why."""


# --- processes ---

class Processes:
    """What was started, each in a group of its own, so that Ctrl-C reaches this program only, and all is stopped."""

    def __init__(self):
        self.running = []

    def start(self, command, **options):
        process = subprocess.Popen([str(part) for part in command], start_new_session=True, **options)
        self.running.append(process)
        return process

    def stop(self):
        for process in self.running:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.running.clear()


def start_server(processes, directory):
    """The port and the version of a private server."""
    found = subprocess.run([sys.executable, str(ROOT / "tools" / "servers.py"), "default"], stdout=subprocess.PIPE)
    if found.returncode != 0:
        raise Failed("no server to measure against")
    path = found.stdout.decode().strip()
    version = subprocess.run([path, "--version"], stdout=subprocess.PIPE).stdout.decode().split()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    log = Path(directory) / "server.log"
    with open(log, "wb") as output:
        server = processes.start([path, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                                  "--dir", directory], stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    end = time.monotonic() + 10
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            if connection.recv(16).startswith(b"+PONG"):
                return port, " ".join(version[:3])
        time.sleep(0.02)
    raise Failed("the server does not start:\n" + log.read_text(errors="replace"))


# --- the programs ---

def compiler(*arguments):
    return subprocess.run([*shlex.split(os.environ.get("CC", "cc")), *map(str, arguments)], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def hiredis_flags():
    """What to compile with for hiredis, or nothing where it is not installed."""
    probe = PROGRAMS / "probe.c"
    probe.write_text("#include <hiredis/hiredis.h>\nint main(void) { redisFree(0); return 0; }\n")
    there = compiler(probe, "-o", PROGRAMS / "probe", "-lhiredis").returncode == 0
    return ["-DHAVE_HIREDIS", "-lhiredis"] if there else []


def compile_programs():
    """Returns whether hiredis is among the peers."""
    if not (LIBRARY / "libdlock.so").exists():
        raise Failed(f"{LIBRARY / 'libdlock.so'} is missing: cargo build --release")
    PROGRAMS.mkdir(parents=True, exist_ok=True)
    hiredis = hiredis_flags()
    linked = [f"-L{LIBRARY}", f"-Wl,-rpath,{LIBRARY}", "-ldlock", "-lpthread", *hiredis]
    for name in ("pair", "handoff", "inflight", "waiters", "held", "threads", "timeline", "start"):
        done = compiler("-std=gnu11", "-O2", "-Wall", "-Wextra", f"-I{ROOT / 'include'}", "-o", PROGRAMS / name,
                        HERE / f"{name}.c", *(["-ldl"] if name == "start" else linked))
        if done.returncode != 0:
            raise Failed(f"{name}.c does not compile:\n" + done.stdout.decode(errors="replace"))
    # The release script as the library sends it, to be sent by a bare socket too.
    parts = [SCRIPTS / f"{part}.lua" for part in ("draw", "notmine", "release")]
    (PROGRAMS / "release.lua").write_text("\n".join(part.read_text() for part in parts))
    return bool(hiredis)


def measure(processes, *command):
    """Runs a program; returns the lines `name value` that it printed, `distribution_…` as lists."""
    return dict(map(value_of, output_of(processes, *command).splitlines()))


def value_of(line):
    name, value = line.split(" ", 1)
    if name.startswith("distribution_"):
        return name, [float(part) for part in value.split(",")]
    return name, value if name == "peer" else float(value)


def output_of(processes, *command):
    command = [str(part) for part in command]
    program = processes.start([PROGRAMS / command[0], *command[1:]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE)
    try:
        output, errors = program.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(command)}: not done after five minutes")
    if program.returncode != 0:
        raise Failed(f"{' '.join(command)}: {errors.decode(errors='replace').strip() or program.returncode}")
    return output.decode()


# --- the table ---

class Table:
    """Prints each part as soon as it is measured."""

    WIDTHS = (46, 13, 13, 19, 10)

    def line(self, *cells):
        print("  ".join([f"{cells[0]:<{self.WIDTHS[0]}}"]
                        + [f"{cell:>{width}}" for cell, width in zip(cells[1:], self.WIDTHS[1:])]).rstrip(), flush=True)

    def head(self):
        self.line("", "dlock", "limit", "ratio", "aim")

    def part(self, title, *command):
        print(f"\n{title}\n$ {' '.join(['target/bench/' + str(command[0]), *map(str, command[1:])])}", flush=True)

    def ratio(self, what, ours, limit, unit, aim="", spread=None, form=".1f", at_least=False):
        """A row of two figures and their ratio; the spread is that of the ratios of single rounds."""
        ratio = ours / limit
        text = f"{ratio:.2f}" + (f" ({spread[0]:.2f}-{spread[1]:.2f})" if spread else "")
        self.line(what, f"{ours:,{form}} {unit}", f"{limit:,{form}} {unit}", text, self.aim(aim, ratio, at_least))

    def figure(self, what, value, unit, aim=None, form=",.0f"):
        """A row of one figure, with the most that it may be."""
        limit = f"{aim:{form}} {unit}".rstrip() if aim is not None else ""
        self.line(what, f"{value:{form}} {unit}".rstrip(), limit, "", "" if aim is None else self.verdict(value <= aim))

    @staticmethod
    def verdict(met):
        return "met" if met else "missed"

    @staticmethod
    def aim(aim, ratio, at_least):
        if aim == "":
            return ""
        sign = ">=" if at_least else "<="
        return f"{sign} {aim:.2f}" + ("" if (ratio >= aim if at_least else ratio <= aim) else " *")


def pair(table, processes, port, record):
    command = ("pair", port, PROGRAMS / "release.lua")
    table.part("One uncontended acquire + release, one thread, blocks in turn (* = aim missed; in brackets: the middle "
               "half of the rounds)", "pair", port, "target/bench/release.lua")
    found = record["pair"] = measure(processes, *command)
    rows = [("classic", f"{found['peer']}, SET NX PX + compare-and-delete", 1.0, 1.2),
            ("argv", "the same by redisCommandArgv" if found["peer"] == "hiredis" else "the same again", "", ""),
            ("pings", f"{found['peer']}, two PINGs", "", ""),
            ("bare", "bare socket, the same classic commands", "", ""),
            ("own", "bare socket, the commands that dlock sends", "", "")]
    for name, what, aim, _ in rows:
        spread = (found[f"ratio_low_{name}"], found[f"ratio_high_{name}"])
        table.ratio(f"p50, {what}", found["p50_dlock"], found[f"p50_{name}"], "us", aim, spread)
    for name, what, _, aim in rows:
        table.ratio(f"p99, {what}", found["p99_dlock"], found[f"p99_{name}"], "us", aim)


def handoff(table, processes, port, record):
    table.part("Hand-off between two processes: from before the release to the other's return from acquire; limit: "
               "EVAL to socket readable", "handoff", port)
    found = record["handoff"] = measure(processes, "handoff", port)
    table.ratio("p50", found["p50_dlock"], found["p50_floor"], "us", 1.2)
    table.ratio("p99", found["p99_dlock"], found["p99_floor"], "us", 3.0)


def inflight(table, processes, port):
    table.part("256 locks in flight from one thread: the completion queue; limit: the classic lock pipelined on one "
               "connection by hiredis", "inflight", port, 256)
    found = measure(processes, "inflight", port, 256)
    table.ratio("pairs a second", found["dlock_per_second"], found["classic_per_second"], "/s", 0.7,
                (found["ratio_low"], found["ratio_high"]), ".0f", at_least=True)
    table.ratio("  CPU of the server a pair", found["dlock_server_us"], found["classic_server_us"], "us")
    table.ratio("  CPU of the client a pair", found["dlock_client_us"], found["classic_client_us"], "us")


def waiters(table, processes, port, quick, record):
    for count, seconds in [(1000, 5)] if quick else [(10_000, 30), (100_000, 30)]:
        table.part(f"{count:,} waiters for one lock in one process, through the completion queue, {seconds} s of quiet",
                   "waiters", port, count, seconds)
        found = record.setdefault("waiters", {})[count] = measure(processes, "waiters", port, count, seconds)
        table.figure("threads of the process", max(found["threads"], found["threads_after"]), "", 3)
        table.figure("memory a waiter, resident", found["rss_per_waiter"], "B", 1024)
        table.figure("  of it allocated", found["allocated_per_waiter"], "B")
        table.figure("  the handle alone", found["handle_allocated"], "B")
        table.figure("commands a second, mean", found["requests_per_second"], "/s", 500)
        table.figure("  busiest second", found["requests_busiest_second"], "/s")
        table.figure("  calls within scripts included", found["executed_per_second"], "/s")
        table.figure("CPU while nothing happens", found["cpu_percent"], "%", form=",.1f")
        table.figure("all submitted after", found["submitting_seconds"], "s", form=",.2f")
        table.figure("all queued after", found["queueing_seconds"], "s", form=",.2f")
        table.figure("all served after", found["serving_seconds"], "s", form=",.2f")
        table.figure("served out of order", found["out_of_order"], "", 0)


def held(table, processes, port, quick):
    count, seconds = (1000, 12) if quick else (100_000, 35)
    table.part(f"{count:,} locks held by one process, leases of 30 s, for {seconds} s", "held", port, count, seconds)
    found = measure(processes, "held", port, count, seconds)
    table.figure("CPU of the client, of one core", found["cpu_percent"], "%", 2, form=",.2f")
    table.figure("latest renewal after the last", 30_000 - found["least_left_ms"], "ms", 15_000)
    table.figure("shortest validity by the holder's view", found["shortest_validity_ms"], "ms")
    table.figure("renewals a second", found["renewals_per_second"], "/s")
    table.figure("  in one read of the server", found["renewals_per_read"], "", form=",.1f")
    table.figure("all taken after", found["taking_seconds"], "s", form=",.2f")
    table.figure("all released by freeing the locker after", found["closing_seconds"], "s", form=",.2f")


def start(table, processes, port):
    table.part("The first lock in a fresh process: dlopen, connect, acquire; limit: a bare connect and one PING", "start", port,
               "target/bench/libdlock.so")
    library = PROGRAMS / "libdlock.so"
    if subprocess.run(["strip", "-o", library, LIBRARY / "libdlock.so"], stderr=subprocess.DEVNULL).returncode != 0:
        library = LIBRARY / "libdlock.so"
    found = measure(processes, "start", port, library)
    table.ratio("p50", found["first_lock_us"], found["bare_connect_us"], "us", 3.0)


def threads(table, processes, port, quick, record):
    table.part("Pairs a second, each thread with a lock of its own, one process; limit: the peer with a connection for "
               "each thread", "threads own", port, "1|8|64")
    for count, aim in ((1, ""), (8, 1.0), (64, 1.8)) if not quick else ((8, 1.0),):
        found = record.setdefault("threads", {})[count] = measure(processes, "threads", "own", port, count)
        spread = (found["ratio_low"], found["ratio_high"])
        table.ratio(f"{count} thread{'s' if count > 1 else ''}, {found['peer']}", found["dlock_per_second"], found["classic_per_second"], "/s",
                    aim, spread, ".0f", at_least=True)


def hot(table, processes, port):
    table.part("16 threads of one process at one lock, 5 s", "threads hot", port, 16)
    found = measure(processes, "threads", "hot", port, 16)
    table.figure("acquisitions a second", found["per_second"], "/s")
    table.figure("longest wait", found["longest_wait_ms"], "ms", form=",.1f")
    table.figure("acquisitions of the threads: most - least", found["most"] - found["least"], "", 1)


def go(table, processes, port, quick):
    """The Go package beside its peers; limit: the best of them."""
    if shutil.which("go") is None:
        raise Failed("Go is not installed: its peers are not measured")
    flags = {"CGO_LDFLAGS": f"-L{LIBRARY} -Wl,-rpath,{LIBRARY}"}
    built = subprocess.run(["go", "build", "-o", PROGRAMS / "peers", "."], cwd=HERE / "go", env={**os.environ, **flags},
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if built.returncode != 0:
        raise Failed("benches/go does not build:\n" + built.stdout.decode(errors="replace"))
    seconds = 0.2 if quick else 0.7
    table.part("The Go package beside redsync, bsm/redislock and rueidislock; limit: the best of them", "peers", port, seconds)
    waiters = 10_000 if quick else 100_000
    program = processes.start([PROGRAMS / "peers", port, seconds, waiters], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE)
    output, errors = program.communicate(timeout=300)
    if program.returncode != 0:
        raise Failed(f"peers: {errors.decode(errors='replace').strip()[-400:]}")
    found = {}
    for line in output.decode().splitlines():
        name, key, value = line.split(" ")
        found.setdefault(key, {})[name] = float(value)
    rows = [("own_1", "pairs a second, 1 goroutine", "/s", 1.2, max), ("own_64", "pairs a second, 64 goroutines", "/s", 1.25, max),
            ("hot_rate", "16 goroutines, one lock: acquisitions", "/s", 1.0, max),
            ("hot_longest_ms", "  longest wait", "ms", 0.2, min), ("hot_handoff_us", "  hand-off p50", "us", 1.0, min),
            ("allocs", "allocations a pair", "", "", min)]
    stalled = ", ".join(f"{name} {count:.0f}" for name, count in found["stalls"].items() if count)
    for key, what, unit, aim, best in rows:
        ours = found[key].pop("dlock")
        peer = best(found[key], key=found[key].get)
        table.ratio(f"{what} ({peer})", ours, found[key][peer], unit, aim, None, ".0f", at_least=best is max)
    costs = {key: values["dlock"] for key, values in found.items() if key.startswith(("crossing", "park", "waiting"))}
    table.figure("one crossing into C", costs["crossing_ns"], "ns")
    table.figure("one goroutine parked and woken", costs["park_ns"], "ns")
    table.figure(f"{costs['waiting']:,.0f} goroutines waiting: threads", costs["waiting_threads"], "", 24)
    table.figure("  memory of each beside its stack", costs["waiting_bytes"] / 1000, "KB", 4, form=",.1f")
    table.figure("  stack of each", costs["waiting_stack_bytes"] / 1000, "KB", form=",.1f")
    table.figure("  Close, until all have returned", costs["waiting_close_ms"] / 1000, "s", form=",.1f")
    if stalled:
        print(f"waits of two seconds given up and begun again: {stalled}")


def timeline(table, processes, port, record):
    table.part("6 threads at one lock that each holds for 0.2 ms, over 60 ms; limit: the classic lock, asked for every 10 ms",
               "timeline", port, "dlock|polling", 6, 60)
    found = record["timeline"] = {}
    for name in ("dlock", "polling"):
        lines = output_of(processes, "timeline", port, name, 6, 60).splitlines()
        found[name] = sorted(([float(part) for part in line.split()] for line in lines), key=lambda hold: hold[1])
    table.ratio("turns", len(found["dlock"]), len(found["polling"]), "", form="d")
    between = {name: sorted(b[1] - a[2] for a, b in zip(holds, holds[1:])) for name, holds in found.items()}
    median = {name: gaps[len(gaps) // 2] for name, gaps in between.items()}
    table.ratio("  nobody holds it between two turns, p50", median["dlock"], median["polling"], "us")
    table.ratio("  at most", between["dlock"][-1], between["polling"][-1], "us")


def curves(table, processes, port, record):
    """How cost grows with the work: what the plots need besides."""
    table.part("Curves, for the plots", "threads own", port, "2|4|16|32|128|256")
    for count in (2, 4, 16, 32, 128, 256):
        found = record["threads"][count] = measure(processes, "threads", "own", port, count)
        table.ratio(f"{count} threads, {found['peer']}", found["dlock_per_second"], found["classic_per_second"], "/s",
                    "", (found["ratio_low"], found["ratio_high"]), ".0f")
    for count in (10, 100, 1000):
        found = record["waiters"][count] = measure(processes, "waiters", port, count, 5)
        table.figure(f"{count:,} waiters: commands a second", found["requests_per_second"], "/s", form=",.1f")


def plot(record):
    """Draws what was measured into docs/performance/, with a matplotlib of its own in target/bench/venv."""
    venv, file = PROGRAMS / "venv", PROGRAMS / "measurements.json"
    file.write_text(json.dumps(record) + "\n", encoding="utf-8")
    python = venv / "bin" / "python"
    steps = [[python, HERE / "plots.py", file, ROOT / "docs" / "performance"]]
    if not python.exists() or subprocess.run([python, "-c", "import matplotlib"], stderr=subprocess.DEVNULL).returncode != 0:
        steps = [[sys.executable, "-m", "venv", venv], [python, "-m", "pip", "install", "-q", "-r", HERE / "requirements.txt"], *steps]
    for step in steps:
        done = subprocess.run([str(part) for part in step], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            print(f"\nNo plots: {done.stdout.strip().splitlines()[-1] if done.stdout.strip() else step}")
            return
    print("\nPlots: docs/performance/")


def memory(table, processes):
    table.part("The library itself", "pair", "memory")
    found = measure(processes, "pair", "memory")
    table.figure("acquire + release on memory://", found["memory_ns"] / 1000, "us", form=",.2f")
    stripped = PROGRAMS / "libdlock.so"
    if subprocess.run(["strip", "-o", stripped, LIBRARY / "libdlock.so"], stderr=subprocess.DEVNULL).returncode == 0:
        table.figure("libdlock.so, stripped", stripped.stat().st_size / 1e6, "MB", 2.5, form=",.2f")


def run(arguments, processes, directory):
    if platform.system() != "Linux":
        raise Failed("The benchmark reads /proc and so runs on Linux only.")
    hiredis = compile_programs()
    port, version = start_server(processes, directory)
    load = os.getloadavg()[0]
    print(f"{version}, {os.cpu_count()} cores, {platform.machine()}, load {load:.1f} before; times are wall-clock")
    if load > os.cpu_count() / 2:
        print("The machine is busy with other work: trust the ratios, and of them those of medians.")
    if not hiredis:
        print("hiredis is not installed (headers and library): a bare socket stands in for it.")
    table = Table()
    table.head()
    wanted = arguments.parts or PARTS
    record = {"server": version, "load_before": load}
    measurements = {"pair": lambda: pair(table, processes, port, record), "handoff": lambda: handoff(table, processes, port, record),
                    "inflight": lambda: inflight(table, processes, port),
                    "waiters": lambda: waiters(table, processes, port, arguments.quick, record),
                    "held": lambda: held(table, processes, port, arguments.quick),
                    "threads": lambda: threads(table, processes, port, arguments.quick, record),
                    "hot": lambda: hot(table, processes, port), "timeline": lambda: timeline(table, processes, port, record),
                    "start": lambda: start(table, processes, port), "memory": lambda: memory(table, processes),
                    "go": lambda: go(table, processes, port, arguments.quick),
                    "peers": lambda: peers.measure(processes, port, version, LIBRARY, PROGRAMS, hiredis_flags(), arguments.quick),
                    "curves": lambda: curves(table, processes, port, record)}
    if not arguments.parts and not arguments.quick:
        wanted = [*wanted, "curves"]
    failed = 0
    for part in wanted:
        try:
            measurements[part]()
        except (Failed, peers.Failed) as problem:
            failed += 1
            print(f"FAILED: {problem}", flush=True)
    if "curves" in wanted and not failed:
        plot(record)
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer waiters, fewer threads")
    parser.add_argument("parts", nargs="*", help=" ".join(PARTS))
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {' '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    processes, directory = Processes(), tempfile.mkdtemp(prefix="dlock-bench-")
    try:
        return run(arguments, processes, directory)
    finally:
        processes.stop()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as problem:
        print(problem, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
