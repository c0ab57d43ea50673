"""Where the time of an uncontended pair goes: the part `cost` of run.py.

What a pair costs by a tool that counts is the difference of two runs of different length, divided by the difference.
"""

import re
import shutil
import subprocess

from harness import PROGRAMS, Failed, Resp, rest_of, start_program, values_of

COUNTED = (1_000, 3_000)
TIMED = 20_000


def server_cpu_us(control):
    used = re.findall(r"^used_cpu_(?:user|sys):([\d.]+)", control("INFO", "cpu").decode(), re.MULTILINE)
    return sum(map(float, used)) * 1e6


def commands_us(control):
    """Microseconds in each command. A transaction's and a script's include those of the commands in it."""
    stats = control("INFO", "commandstats").decode()
    return {name: float(us) for name, us in re.findall(r"^cmdstat_(\S+):calls=\d+,usec=(\d+)", stats, re.MULTILINE)}


def counted(bench, tool, pattern, *command):
    """How many of what `tool` counts a pair costs; None where the tool is missing."""
    if shutil.which(tool) is None:
        print(f"({tool} is not installed: left out)")
        return None
    counts = []
    for pairs in COUNTED:
        done = subprocess.run([tool, *command, PROGRAMS / "pairs", str(bench.port), str(pairs)], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=300)
        found = re.search(pattern, done.stderr, re.MULTILINE)
        if done.returncode != 0 or found is None:
            raise Failed(f"{tool}: {done.stderr[-1000:]}")
        counts.append(int(found[1].replace(",", "")))
    return (counts[1] - counts[0]) / (COUNTED[1] - COUNTED[0])


def measure(bench):
    bench.part("Where the time of a pair goes", "pairs", bench.port, TIMED)
    control = Resp(bench.port)
    control("CONFIG", "RESETSTAT")
    before = server_cpu_us(control)
    command = ("pairs", bench.port, TIMED)
    found = values_of(rest_of(start_program(bench.processes, *command), command))
    cpu, commands = server_cpu_us(control) - before, commands_us(control)
    control.close()
    bench.figure("CPU of the client", found["client_us"], "us", form=",.1f")
    bench.figure("CPU of the server", cpu / TIMED, "us", form=",.1f")
    bench.figure("  of it in MULTI, SET, INCR, EXEC", (commands["multi"] + commands["exec"]) / TIMED, "us", form=",.1f")
    bench.figure("  of it in the release script", commands["evalsha"] / TIMED, "us", form=",.1f")
    for what, tool, pattern, command in (
            ("system calls of the client", "strace", r"^\s*[\d.]+\s+[\d.]+\s+(?:\d+\s+)?(\d+)\s+(?:\d+\s+)?total$", ("-c", "-f")),
            ("instructions of the client", "valgrind", r"Collected : (\d+)", ("--tool=callgrind", "--callgrind-out-file=/dev/null")),
            ("allocations of the client", "valgrind", r"total heap usage: ([\d,]+) allocs", ("--tool=memcheck",))):
        value = counted(bench, tool, pattern, *command)
        if value is not None:
            bench.figure(what, value, "", form=",.1f")
