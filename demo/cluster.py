#!/usr/bin/env python3
"""Shows a failover: processes take turns on three locks, one on each primary of a cluster of six, and one of the primaries
is killed. A timeline tells who held which lock when. What `make demo-cluster` runs, after building the library.

The exit status is not 0 if two held a lock at once, if a fencing token fell, or if anything failed. The contenders, and what
they tell, are those of demo.py.
"""

import sys
import time

import demo
from demo import Contest, Drawing, Failed, Findings, default_server, duration
from private_server import ask, start_cluster

# Longer than a failover takes, so that what is held outlives it.
LEASE_MS = 8000
SLOTS = 16384
PRIMARIES = 3
VICTIM = 1


def slot_of(port, lock):
    return ask(port, "CLUSTER", "KEYSLOT", f"demo:{lock}")


def owner(port, slot):
    """The port of the primary that has the slot, as that node sees it."""
    for first, last, primary, *_ in ask(port, "CLUSTER", "SLOTS"):
        if first <= slot <= last:
            return primary[1]
    return None


class FailoverContest(Contest):
    """Kills the primary of one of the locks on the way."""

    def __init__(self, processes, nodes, locks, commands):
        url = "redis-cluster://" + ",".join(f"127.0.0.1:{port}" for port, _ in nodes)
        super().__init__(processes, url, commands, LEASE_MS)
        self.nodes = nodes
        self.slot = slot_of(nodes[0][0], locks[VICTIM])
        self.died = self.switched = None

    def run(self):
        kill_at = time.monotonic() + demo.KILL_AFTER
        end = time.monotonic() + demo.SECONDS + demo.GRACE_SECONDS
        while self.open > 0:
            now = time.monotonic()
            if self.died is None and now > kill_at:
                self.died = time.monotonic_ns()
                self.processes.end(self.nodes[VICTIM][1])
            elif self.died is not None and self.switched is None and owner(self.nodes[0][0], self.slot) != self.nodes[VICTIM][0]:
                self.switched = time.monotonic_ns()
            try:
                child, words = self.lines.get(timeout=0.02)
            except demo.queue.Empty:
                if now > end:
                    raise Failed(f"{self.open} contenders still wait {demo.GRACE_SECONDS} s after the end") from None
                continue
            if words is None:
                self.ended(child)
            else:
                self.told(child, words)


def longest_gap(turns, start, end):
    """How long nobody took the lock, at most, in that time."""
    moments = [start, *sorted(turn.held for turn in turns if start < turn.held < end), end]
    return max(after - before for before, after in zip(moments, moments[1:]))


def show(contest, locks):
    drawing = Drawing(sys.stdout)
    turns = sorted(contest.turns, key=lambda turn: turn.held)
    end = max(turn.freed for turn in turns)
    print("\nWho held which lock, and when:\n")
    drawing.timeline(contest.labels, turns, contest.begun, end)
    row = [" "] * drawing.width
    for moment, mark in ((contest.died, drawing.cross), (contest.switched, "^")):
        row[drawing.column(moment, contest.begun, (end - contest.begun) / drawing.width)] = mark
    print(f"{'':>8} |{''.join(row)}|  {drawing.cross} the primary of {locks[VICTIM]} was killed, ^ its replica took over")
    violations = 0
    print(f"\n{'':8} {'acquired':>9} {'longest without anybody':>24}   tokens")
    for number, lock in enumerate(locks):
        findings = Findings([turn for turn in turns if turn.contender // demo.THREADS % len(locks) == number])
        violations += findings.violations
        gap = longest_gap(findings.turns, contest.died, end)
        first, last = findings.turns[0].token, findings.turns[-1].token
        note = "  its primary was killed" if number == VICTIM else ""
        print(f"{lock:>8} {len(findings.turns):>9} {duration(gap):>24}   {first} to {last}{note}")
        for name, found in (("two held the lock at once", findings.overlaps), ("a fencing token fell", findings.falling)):
            for before, after in found[:5]:
                print(f"VIOLATION: {lock}: {name}: tokens {before.token} and {after.token}")
    back = min((turn.held for turn in turns if turn.held > contest.switched
                and turn.contender // demo.THREADS % len(locks) == VICTIM), default=None)
    if back is None:
        raise Failed("nobody had the lock after the failover")
    print(f"\nThe servers needed {duration(contest.switched - contest.died)} to replace the primary; "
          f"{locks[VICTIM]} was taken again {duration(back - contest.switched)} after that.")
    print(f"shown: {len(turns)} acquisitions, {violations} violations", flush=True)
    return violations


def failover(_arguments, processes, directory):
    program = demo.compile_contender(directory)
    print("starting a cluster of six ...", flush=True)
    nodes = start_cluster(processes, directory, default_server(), PRIMARIES)
    port = nodes[0][0]
    names = (f"lock{number}" for number in range(1000))
    locks = [None] * PRIMARIES
    while None in locks:
        lock = next(names)
        there = slot_of(port, lock) * PRIMARIES // SLOTS
        locks[there] = locks[there] or lock
    # Two processes for each lock.
    commands = [(f"{lock}", ["env", f"DLOCK_DEMO_LOCK={lock}", program]) for _ in range(2) for lock in locks]
    print(f"{len(commands)} processes with {demo.THREADS} threads each take turns on {PRIMARIES} locks for "
          f"{demo.SECONDS:g} s; the primary of {locks[VICTIM]} is killed.", flush=True)
    contest = FailoverContest(processes, nodes, locks, commands)
    contest.run()
    if contest.switched is None:
        raise Failed("the cluster did not replace the primary")
    return 1 if show(contest, locks) else 0


if __name__ == "__main__":
    sys.exit(demo.run("demo-cluster", failover, None))
