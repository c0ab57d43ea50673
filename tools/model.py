#!/usr/bin/env python3
"""Compiles the models of docs/model/ and explores some of their configurations: what `make model` does.

    tools/model.py [STATES]      at most so many states each; 3,000,000 if not said, a run of minutes and gigabytes

Each line says whether the configuration did what it must: those with the rules as built find nothing, and those that leave
one out find a failure.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "target" / "model"

# Model, beginning of the configurations' names, whether they are to fail, and from how many states on they are explored at all:
# a short run leaves out what would take it too long, or could not fail yet.
RUNS = [("one_waiter", "F0 ", False, 0), ("one_waiter", "R0", False, 0), ("one_waiter", "R1", False, 0), ("one_waiter", "R2", False, 0),
        ("one_waiter", "R3", False, 0), ("one_waiter", "R4", False, 0), ("one_waiter", "L1 ", True, 0), ("one_waiter", "L1b", True, 0),
        ("one_waiter", "L6", True, 0), ("one_waiter", "L7", True, 0), ("one_waiter", "RL", True, 0), ("many_waiters", "P fixed", False, 0)]
RUNS += [("quorum", name, False, 0) for name in ("S 2 clients, no fault", "S 2 clients, conn", "S 2 clients, restart, conn", "S 2 clients, flush",
                                                 "S 2 clients, queue, no fault", "S 2 clients, queue, restart", "P still, 2 clients",
                                                 "P 2 clients, crash", "J uneven, 2 clients, 2 jumps")]
RUNS += [("quorum", name, False, 500000) for name in ("S 2 clients, slow", "S 2 clients, crash", "S 2 clients, dead", "S 2 clients, renew",
                                                      "S 2 clients, queue, conn", "S 2 clients, 2 restarts", "S uneven, 2 clients, restart",
                                                      "S 2 clients twice, restart", "S 3 clients, no fault", "P 2 clients, restart",
                                                      "P 2 clients, dead", "P 2 clients, renew", "J 3 clients")]
RUNS += [("quorum", f"B {name}", True, states) for name, states in (
    ("Minority", 0), ("FromReply", 0), ("OneServer", 0), ("NoConfirm", 0), ("ConfirmNotMine", 0), ("NoDelay", 0), ("RenewMinority", 0),
    ("NoGiveBack", 0), ("NoWake", 0), ("HigherCounted", 0), ("NoFloor", 100000), ("ReleaseAll", 150000), ("SameAttempt", 300000), ("EarlyFloor", 1000000),
    ("OldReplies", 2000000))]
RUNS += [("replica", name, False, 0) for name in ("C 2 clients", "C 3 clients", "T counter", "T 3 clients")]
RUNS += [("replica", name, True, states) for name, states in (
    ("A asynchronous", 0), ("B NoWait", 0), ("B RenewUncounted", 0), ("B NoLife", 0), ("B ClockAlways", 0), ("B MessageCounts", 100000),
    ("B JoinUnwritten", 300000))]

RUNS += [("membership", "N 3 servers, no flush", False, 0), ("membership", "N 3 servers, a flush", False, 500000),
         ("membership", "N 5 servers", False, 500000), ("membership", "B FreshForgotten", True, 1000000)]


def main(arguments):
    states = arguments[0] if arguments else "3000000"
    TARGET.mkdir(parents=True, exist_ok=True)
    failed = 0
    for model in sorted({run[0] for run in RUNS}):
        subprocess.run(["rustc", "-O", "-Awarnings", ROOT / "docs" / "model" / f"{model}.rs", "-o", TARGET / model], check=True)
    for model, name, fails, enough in RUNS:
        if int(states) < enough:
            continue
        output = subprocess.run([TARGET / model, states, name], stdout=subprocess.PIPE, text=True, check=True).stdout
        results = re.findall(r"^(.{40,60}?) +(\d+) states depth.*?\b(PASS|pass|FAIL|fail)", output, re.MULTILINE)
        if not results:
            failed += 1
            print(f"not ok - {model}: no configuration named {name}\n{output[-2000:]}")
        for configuration, seen, verdict in results:
            good = (verdict.upper() == "FAIL") == fails
            failed += not good
            found = "a failure, as it must be" if fails else "nothing"
            print(f"{'ok' if good else 'not ok'} - {model}, {configuration.strip()}: {found if good else verdict} in {seen} states")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
