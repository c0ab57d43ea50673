"""Where the time of an uncontended pair goes: the part `cost` of run.py.

What a pair costs by a tool that counts is the difference of two runs of different length, divided by the difference.
"""

import re
import shutil
import socket
import subprocess

from harness import PROGRAMS, Failed, rest_of, start_program, values_of

COUNTED = (1_000, 3_000)
TIMED = 20_000


def ask(port, *words):
    """What the server answers, as text: a status or a bulk string."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection, connection.makefile("rb") as replies:
        parts = [f"${len(word)}\r\n{word}\r\n" for word in words]
        connection.sendall(f"*{len(words)}\r\n{''.join(parts)}".encode())
        head = replies.readline().decode().strip()
        return replies.read(int(head[1:])).decode() if head.startswith("$") else head[1:]


def server_cpu_us(port):
    used = re.findall(r"^used_cpu_(?:user|sys):([\d.]+)", ask(port, "INFO", "cpu"), re.MULTILINE)
    return sum(map(float, used)) * 1e6


def commands_us(port):
    """Microseconds in each command. A transaction's and a script's include those of the commands in it."""
    stats = ask(port, "INFO", "commandstats")
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
    ask(bench.port, "CONFIG", "RESETSTAT")
    before = server_cpu_us(bench.port)
    command = ("pairs", bench.port, TIMED)
    found = values_of(rest_of(start_program(bench.processes, *command), command))
    cpu, commands = server_cpu_us(bench.port) - before, commands_us(bench.port)
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
