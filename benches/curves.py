"""How cost grows with the work, and the plots: the parts `curves` and `plots` of run.py.

What the other parts have measured already in this run is not measured again; a point takes a few seconds.
"""

import os
import subprocess
import sys

from harness import HERE, PROGRAMS, ROOT, Failed, read_json, rest_of, start_program, start_private_server, values_of, write_json

THREADS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
WAITERS = (10, 100, 1_000, 10_000, 100_000)
HELD = (1, 10, 100, 1_000, 10_000, 100_000)
# Longer than the longest pause of a waiter, which for 10,000 is 25 s; than a third of the lease, after which it is renewed.
QUIET_SECONDS, QUIET_SECONDS_OF_MANY = 7, 30
HELD_SECONDS = 12


def threads_row(bench, count, rounds, block_ms, aim=""):
    """So many threads, each with a lock of its own, beside as many connections of the peer."""
    found = bench.record.setdefault("threads", {})[count] = bench.measure("threads", "own", bench.port, count, rounds, block_ms)
    spread = (found["ratio_low"], found["ratio_high"])
    bench.ratio(f"{count} thread{'s' if count > 1 else ''}, {found['peer']}", found["dlock_per_second"],
                found["classic_per_second"], "/s", aim, spread, ".0f", at_least=True)


def left(bench, part, counts):
    """Of these, what this run has not measured."""
    return [count for count in counts if count not in bench.record.setdefault(part, {})]


def threads(bench):
    bench.part("Curve: pairs a second against threads, as above but shorter", "threads own", bench.port, "1|2|…|256", 3, 250)
    for count in left(bench, "threads", THREADS if not bench.quick else (2, 16)):
        threads_row(bench, count, 3, 250)


def waiters(bench):
    bench.part("Curve: what waiting costs against the number of waiters", "waiters", bench.port, "10|100|…|100000",
               f"{QUIET_SECONDS}|{QUIET_SECONDS_OF_MANY}")
    for count in left(bench, "waiters", WAITERS if not bench.quick else (10, 100)):
        seconds = QUIET_SECONDS if count < 10_000 else QUIET_SECONDS_OF_MANY
        found = bench.record["waiters"][count] = bench.measure("waiters", bench.port, count, seconds)
        bench.figure(f"{count:,} waiters: commands a second", found["requests_per_second"], "/s", form=",.1f")
        bench.figure("  until all are served", found["serving_seconds"] * 1000, "ms", form=",.1f")


def held(bench):
    """Each process has a server of its own, so that they can hold their locks at the same time: together they ask less of the
    machine than the 100,000, which are measured alone."""
    bench.part("Curve: what holding costs against the number of locks held", "held", "PORT", "1|10|…|100000", HELD_SECONDS)
    wanted = left(bench, "held", HELD if not bench.quick else (1, 100))
    started = []
    for count in wanted:
        port, _, server = start_private_server(bench.processes, bench.directory)
        started.append((count, server, ("held", port, count, HELD_SECONDS)))
    together = [(*each, start_program(bench.processes, *each[2])) for each in started if each[0] < 100_000]
    alone = [each for each in started if each[0] >= 100_000]
    for count, server, command, program in together:
        bench.record["held"][count] = values_of(rest_of(program, command))
    for count, server, command in alone:
        bench.record["held"][count] = bench.measure(*command)
    for count, server, _ in started:
        bench.processes.end(server)
        found = bench.record["held"][count]
        bench.figure(f"{count:,} held: CPU of the client, of one core", found["cpu_percent"], "%", form=",.3f")
        bench.figure("  renewals a second", found["renewals_per_second"], "/s", form=",.1f")


def measure(bench):
    threads(bench)
    waiters(bench)
    held(bench)
    write_json("measurements.json", bench.record)


# --- plots ---

def plotter():
    """A Python that has what requirements.txt names, made where it is missing; raises Failed where it cannot be had."""
    venv, wanted = PROGRAMS / "venv", HERE / "requirements.txt"
    python, stamp = venv / "bin" / "python", venv / ".requirements"
    if python.exists() and stamp.exists() and stamp.read_bytes() == wanted.read_bytes():
        return python
    for step in ([sys.executable, "-m", "venv", "--clear", venv],
                 [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", wanted]):
        run(step, "no plots: their Python cannot be made")
    stamp.write_bytes(wanted.read_bytes())
    return python


def run(command, otherwise):
    try:
        done = subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=300)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise Failed(f"{otherwise}: {problem}")
    if done.returncode != 0:
        said = done.stdout.decode(errors="replace").strip().splitlines() or [str(done.returncode)]
        raise Failed(f"{otherwise}: {said[-1]}")
    return done.stdout.decode()


def plot(bench):
    """From what the last run with the part `curves` measured, which may be this one."""
    if read_json("measurements.json") is None:
        raise Failed("nothing to draw: the part `curves` was never measured here")
    try:
        python = plotter()
    except Failed as problem:
        print(f"\n{problem}", flush=True)
        return
    drawn = run([python, HERE / "plots.py", PROGRAMS / "measurements.json", ROOT / "docs" / "performance"], "the plots fail")
    print("\nPlots: " + ", ".join(os.path.relpath(line, ROOT) for line in drawn.splitlines()), flush=True)
