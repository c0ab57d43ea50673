"""How a lock passes on to those who wait for it, side by side: from one process to another, and among a thousand tasks or
threads of one. The parts `passing` and `asyncio` of run.py.

The programs are those of contenders.py, two of each language: one holds the lock, the other waits.
"""

import os
import random
import re
import resource
import time
from pathlib import Path
from statistics import median

from contenders import LANGUAGES, Unavailable, ours_beside, start, start_program, stop
from harness import Resp, line, spread, write_json

# --- from one process to another ---

# Until the lock is given, so that the other waits, at any point between two attempts: most try every 100 ms.
PAUSE_SECONDS = 0.01, 0.11


def handoffs(contender, count):
    """How long each took, in microseconds: from before the release to the return from the acquire in the other process."""
    holder, waiter = contender.programs
    holder.ask(contender.name, "take")
    times = []
    for _ in range(count):
        waiter.send(contender.name, "take")
        time.sleep(random.uniform(*PAUSE_SECONDS))
        given, = holder.ask(contender.name, "give")
        taken, = waiter.answer(0)
        times.append(float(taken) - float(given))
        holder, waiter = waiter, holder
    holder.ask(contender.name, "give")
    return times


def between_processes(bench, setup):
    rounds, count = (1, 5) if bench.quick else (4, 8)
    print("\nA lock passes from one process to another of the same library: from before the release to the other's return from "
          f"acquire.\n{rounds} rounds of {count}, in turns. Ratios: its p50 by that of dlock in the same language, or C, in the same round, "
          "their median, and\nin brackets their middle half", flush=True)
    contenders, _ = start(setup, bench.processes, bench.port, programs=2)
    found = {contender: [] for contender in contenders}
    for contender in contenders:
        attempt(contender, warm_up)
    for _ in range(rounds):
        for contender in contenders:
            if contender.left_out is None:
                found[contender].append(attempt(contender, handoffs, count))
    stop(contenders)
    found = {contender.name: (contender, times) for contender, times in found.items() if contender.left_out is None}
    widths = (28, 11, 11, 22)
    line(widths, "", "p50 us", "longest ms", "it / dlock")
    for contender, times in found.values():
        ours = [] if contender.name.startswith("dlock") else found.get(ours_beside(contender), (None, []))[1]
        ratios = [median(its) / median(mine) for mine, its in zip(ours, times)]
        every = [time for each in times for time in each]
        line(widths, contender.label, f"{median(every):,.0f}", f"{max(every) / 1000:,.1f}", spread(ratios))
    write_json("passing.json", {name: {"label": contender.label, "rounds": times} for name, (contender, times) in found.items()})


def warm_up(contender):
    for program in contender.programs:
        program.block(contender.name, "own", 8, contender.language.warm_up_ms)
    handoffs(contender, 3)


def attempt(contender, what, *arguments):
    """Does that with it; nothing comes of it where the contender fails: it is out from then on."""
    try:
        return what(contender, *arguments)
    except Unavailable as problem:
        contender.leave_out(problem)
        return None


# --- among many of one process ---

PYTHON = next(language for language in LANGUAGES if language.name == "Python")
CROWDS = {"dlock-asyncio": "dlock, asyncio", "redis-py-asyncio": "redis-py Lock, asyncio, 100 ms",
          "redis-py-asyncio-10ms": "redis-py Lock, asyncio, 10 ms", "dlock-python": "dlock, threads",
          "python-redis-lock": "python-redis-lock, threads"}
# redis-py ends the connection of a BLPOP after its timeout of 5 s: so long is a period of what waiters of it do.
SETTLE_SECONDS, QUIET_SECONDS, LIMIT_SECONDS = 2, 5, 20


def process_seconds(pid):
    """CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def status_of(pid, name):
    return int(re.search(rf"^{name}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[1])


# What a waiter of dlock sends: all else is called within its scripts. The others run no script while they wait.
SENT_BY_DLOCK = {"evalsha", "eval", "multi", "exec", "ping", "subscribe", "unsubscribe"}


def use(control, pid, contender):
    """So far: time, commands that clients sent, CPU of the process, CPU of the server."""
    info = control("INFO", "everything").decode()
    calls = {name: int(count) for name, count in re.findall(r"^cmdstat_(\S+):calls=(\d+)", info, re.MULTILINE) if name != "info"}
    sent = sum(count for name, count in calls.items() if name in SENT_BY_DLOCK or not contender.startswith("dlock"))
    server = sum(map(float, re.findall(r"^used_cpu_(?:user|sys):([\d.]+)", info, re.MULTILINE)))
    return time.monotonic(), sent, process_seconds(pid), server


def crowd(bench, setup, contender, count):
    """What so many waiters of one process cost while another process holds the lock, and how they are served."""
    holder, waiters = (start_program(PYTHON, setup, bench.processes, bench.port, number) for number in (1, 2))
    control = Resp(bench.port)
    try:
        holder.ask(contender, "take")
        waiters.ask(contender, "crowd", count, LIMIT_SECONDS * 1000)
        time.sleep(SETTLE_SECONDS)
        pid = waiters.process.pid
        before = use(control, pid, contender)
        time.sleep(QUIET_SECONDS)
        seconds, commands, client, server = (after - begin for after, begin in zip(use(control, pid, contender), before))
        found = {"commands": commands / seconds, "client_percent": 100 * client / seconds, "server_percent": 100 * server / seconds,
                 "threads": status_of(pid, "Threads"), "megabytes": status_of(pid, "VmRSS") / 1000}
        given, = map(float, holder.ask(contender, "give"))
        served, last, overtaken = map(float, waiters.answer(LIMIT_SECONDS))
        took = (last - given) / 1e6
        return {**found, "served": served, "seconds": took, "per_second": served / took, "overtaken": overtaken}
    finally:
        control.close()
        holder.stop()
        waiters.stop()


def among_many(bench, setup):
    rounds, count = (1, 200) if bench.quick else (3, 1000)
    print(f"\n{count:,} tasks (threads) of one process wait for one lock that another holds; from its release on each takes it and gives it "
          f"back.\nMedians of {rounds} rounds, in turns. While they wait: commands sent to the server, CPU of the client and of the server (of one "
          "core),\nthreads and memory of the client. Overtaken: served after one that asked later. Ratio: dlock's acquisitions a second\non "
          "asyncio, or with threads, by the row's in the same round, and in brackets their middle half", flush=True)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # some take a connection for each waiter
    found = {name: [] for name in CROWDS}
    for number in range(rounds):
        for name in [*CROWDS][number:] + [*CROWDS][:number]:
            if name in found:
                try:
                    found[name].append(crowd(bench, setup, name, count))
                except Unavailable as problem:
                    del found[name]
                    print(f"{CROWDS[name]} is left out: {problem}", flush=True)
    show_crowds(found, count)
    write_json("asyncio.json", found)


def show_crowds(found, count):
    widths = (30, 7, 7, 10, 18, 9, 10, 7, 7, 7, 7)
    line(widths, "", "served", "in s", "acquired/s", "dlock / it", "overtaken", "commands/s", "client", "server", "threads", "MB")
    for name, rows in found.items():
        ours = "dlock-asyncio" if "asyncio" in name else "dlock-python"
        ratios = [mine["per_second"] / row["per_second"] for mine, row in zip(found.get(ours, ()), rows)] if name != ours else []
        row = {key: median(each[key] for each in rows) for key in rows[0]}
        line(widths, CROWDS[name], f"{row['served']:,.0f}", f"{row['seconds']:.2f}", f"{row['per_second']:,.0f}", spread(ratios),
             f"{row['overtaken']:,.0f}", f"{row['commands']:,.0f}", f"{row['client_percent']:.0f} %", f"{row['server_percent']:.0f} %",
             f"{row['threads']:.0f}", f"{row['megabytes']:.0f}")
