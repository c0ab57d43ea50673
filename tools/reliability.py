#!/usr/bin/env python3
"""Measures what docs/reliability.md shows, prints it, and writes it into the page: what `make reliability` runs.

    tools/reliability.py [--seeds N] [--only BLOCK …]     `--list` names the blocks

The page is written by hand but for its blocks, each between `<!-- BLOCK -->` and `<!-- /BLOCK -->`, which this program
writes anew. Each block says which command its figures are from, and at which commit. A block whose command fails is left as
it was, and the exit status is 1.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reliability.md"


class Failed(Exception):
    """A command failed, or printed something else than expected."""


def run(words, **variables):
    """The output of a command of this repository, which must succeed."""
    done = subprocess.run(words, cwd=ROOT, env=dict(os.environ, **variables), stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise Failed("\n".join(done.stdout.splitlines()[-40:]) + f"\n{' '.join(map(str, words))}: {done.returncode}")
    return done.stdout


def find(pattern, text):
    found = re.search(pattern, text, re.MULTILINE)
    if not found:
        raise Failed(f"no {pattern!r} in: {text[-2000:]}")
    return found


def thousands(number):
    return f"{int(number):,}"


def table(head, rows):
    lines = [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines)


def commit():
    changed = run(["git", "status", "--porcelain", "--", "src", "tests", "bindings"]).strip()
    return run(["git", "rev-parse", "--short", "HEAD"]).strip() + (" with changes" if changed else "")


def simulator(seeds):
    """Histories, what was in them, violations."""
    output = run(["make", "sim", f"SEEDS={seeds}"])
    total = find(r"^(\d+) histories, (\d+) a second on (\d+) threads$", output)
    events = find(r"^(\d+) events$", output).group(1)
    counts = re.findall(r"^ +(\d+) ([^:\n]+): (.+)$", output, re.MULTILINE)
    faults = [[how, thousands(count)] for count, what, how in counts if what == "fault"]
    calls = {}
    for count, what, _how in counts:
        if what in ("acquire", "try", "retry", "release", "extend", "is_locked", "is_locked_by_me", "owner"):
            calls[what] = calls.get(what, 0) + int(count)
    acquired = sum(int(count) for count, _what, how in counts if how == "acquired")
    writes = {how: thousands(count) for count, what, how in counts if what == "write"}
    return "\n\n".join([
        f"`make sim SEEDS={seeds}`, commit {commit()}: {thousands(total.group(1))} histories (seeds from 0), "
        f"{thousands(events)} events, {total.group(2)} histories a second on {total.group(3)} threads, **0 violations**.",
        f"{thousands(sum(calls.values()))} calls were answered, {thousands(acquired)} of them with the lock; of the writes, "
        f"{writes.get('accepted', '0')} were accepted and {writes.get('refused', '0')} of earlier holders refused.",
        table(["fault", "injected"], faults)])


def planted(_seeds):
    """Which planted bugs are found, and by how many seeds."""
    output = run(["make", "planted"])
    found = find(r"^(\d+) of (\d+) planted bugs found$", output)
    rows = re.findall(r"^\| (`\w+`) \| (.*?) \| (\d+) \| (\(\w\)|panic).* \|$", output, re.MULTILINE)
    seeds = sorted(int(row[2]) for row in rows)
    median = seeds[len(seeds) // 2]
    return "\n\n".join([
        f"`make planted`, commit {commit()}: {found.group(1)} of {found.group(2)} found; the median takes {median} seeds, "
        f"the rarest {thousands(seeds[-1])}.",
        table(["bug", "what it does", "seeds", "found by"], [[row[0], row[1], thousands(row[2]), row[3]] for row in rows])])


def scripted(_seeds):
    """How many answers were tried, and with which fates."""
    output = run(["cargo", "test", "--locked", "--test", "scripted", "--", "--nocapture"])
    rows = re.findall(r"^scripted: (.+): (\d+) histories, the error reported in (\d+) of them, (\d+) failed$", output, re.MULTILINE)
    if not rows:
        raise Failed("the scripted tests printed no counts")
    total = sum(int(row[1]) for row in rows)
    return "\n\n".join([
        f"`cargo test --test scripted -- --nocapture`, commit {commit()}: {thousands(total)} stories.",
        table(["fate", "stories", "error reported", "failed"], [[row[0], *map(thousands, row[1:])] for row in sorted(rows)])])


def faults(_seeds):
    """What each kind of fault on real servers led to."""
    run(["cargo", "build", "--locked", "--release"])
    output = run([sys.executable, "tests/faults/run.py", "--seconds", "5"])
    pattern = (r"^ok - (.+) \[(.+)\]: \d+ faults, struck (\d+) times, (\d+) acquisitions, (\d+) writes accepted, (\d+) stale ones refused, "
               r"(\d+) excused overlaps$")
    rows = re.findall(pattern, output, re.MULTILINE)
    seed = find(r"^# seed (\d+)", output).group(1)
    total = [sum(int(row[column]) for row in rows) for column in range(2, 7)]
    sums = ["**all**", *map(thousands, total)]
    lines = [[row[0], *map(thousands, row[2:])] for row in sorted(rows)]
    return "\n\n".join([
        f"`tests/faults/run.py --seconds 5`, {rows[0][1]}, seed {seed}, commit {commit()}: {len(rows)} of "
        f"{len(rows)} kinds of fault, **0 violations**.",
        table(["fault", "struck", "acquisitions", "writes accepted", "stale writes refused", "excused overlaps"], [*lines, sums])])


def bugs(_seeds):
    """The bugs found so far."""
    output = run([sys.executable, "tools/bugs.py", "--table"])
    return output.strip()


BLOCKS = {"simulator": simulator, "planted": planted, "scripted": scripted, "faults": faults, "bugs": bugs}


def write(page, block, text):
    """The page with that block's text."""
    begin, end = f"<!-- {block} -->", f"<!-- /{block} -->"
    before, found, rest = page.partition(begin)
    _old, closed, after = rest.partition(end)
    if not found or not closed:
        raise Failed(f"{PAGE.name} has no {begin} … {end}")
    return f"{before}{begin}\n{text}\n{end}{after}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=100_000)
    parser.add_argument("--only", nargs="+", choices=BLOCKS, default=list(BLOCKS))
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(BLOCKS))
        return 0
    failed = 0
    for block in arguments.only:
        try:
            text = BLOCKS[block](arguments.seeds)
            PAGE.write_text(write(PAGE.read_text(encoding="utf-8"), block, text), encoding="utf-8")
            print(f"{block}\n\n{text}\n", flush=True)
        except Failed as why:
            print(f"{block}: not measured\n{why}", file=sys.stderr)
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
