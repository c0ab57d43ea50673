#!/usr/bin/env python3
"""Shows the lock at work: processes and threads take turns on one lock, one process is killed while it holds it, and a
timeline tells who held it when. What `make demo` runs, after building the library. With `--failover` (`make demo-failover`)
the server is one of two behind three sentinels, and it is the primary that is killed.

A private Redis is started for it and stopped again, as is everything else, also on Ctrl-C. The exit status is not 0 if
two held the lock at once, if a fencing token fell, or if anything failed. Knows nothing of the lock protocol.

Contenders may be written in any language. Each is one process, started as

    <command> <url> <first number> <threads> <seconds> <lease ms>

whose threads take the numbers from the first one on, contend for the lock `demo` of group `demo`, and stop after that
many seconds. It writes one line for each turn to stdout, at once:

    turn <number> <waits> <held> <freed> <token>    an acquisition, told after the release
    lost <number> <waits> <held> <freed> <token>    the same, where the release was answered that the lock was lost
    stuck <number> <waits> <held> <token>           told while holding; it will not release
    failed <number> <text>                          what went wrong, before it exits with a status that is not 0

The times are CLOCK_MONOTONIC in nanoseconds (one clock for all processes of a machine): when acquire was called, when
it returned, and just before release was called. It reads stdin: the line `stick` makes its next turn a stuck one; the
end of the input ends it. Add one with `--contender LABEL=COMMAND`, as often as you like.
"""

import argparse
import os
import queue
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import namedtuple
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT / "tools"))

from private_server import Failed, Processes, default_server, primary_of, start_server, start_service  # noqa: E402

PROCESSES = 4
THREADS = 3
SECONDS = 12.0
LEASE_MS = 2000
# When the process that is to be killed is told to get stuck, and which one it is.
KILL_AFTER = 4.0
VICTIM = 1
# A contender that is still there so long after the end hangs.
GRACE_SECONDS = 15

# One acquisition; `freed` of a killed holder is the moment of its death.
Turn = namedtuple("Turn", "contender waits held freed token killed lost", defaults=(False, False))


def library_directories():
    """Where dlock.h and libdlock.so are."""
    target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    include = Path(os.environ.get("DLOCK_INCLUDE_DIR") or ROOT / "include").resolve()
    library = Path(os.environ.get("DLOCK_LIB_DIR") or target / "release").resolve()
    if not (library / "libdlock.so").exists():
        raise Failed(f"{library / 'libdlock.so'} is missing: cargo build --release")
    return include, library


def compile_contender(directory):
    include, library = library_directories()
    program = Path(directory) / "contender"
    command = [*shlex.split(os.environ.get("CC", "cc")), "-std=c11", "-O2", "-Wall", "-Wextra", f"-I{include}", "-o",
               str(program), str(HERE / "contender.c"), f"-L{library}", f"-Wl,-rpath,{library}", "-ldlock", "-lpthread"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        raise Failed("the contender does not compile:\n" + done.stdout.decode(errors="replace"))
    return program


def build_go_contender(directory):
    """The same in Go; None where there is no Go."""
    if shutil.which("go") is None:
        return None
    include, library = library_directories()
    program = Path(directory) / "go-contender"
    environment = dict(os.environ, CGO_CFLAGS=f"-O2 -I{include} -I{library}",
                       CGO_LDFLAGS=f"-L{library} -Wl,-rpath,{library}")
    done = subprocess.run(["go", "build", "-o", str(program), "."], cwd=str(HERE / "go"), env=environment,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        print("without a Go contender, which does not compile:\n" + done.stdout.decode(errors="replace"), file=sys.stderr)
        return None
    return program


class Contest:
    """The contenders' processes, and what they tell."""

    def __init__(self, processes, url, commands, lease_ms=LEASE_MS):
        self.processes = processes
        self.lines = queue.Queue()
        self.turns = []
        self.labels = []
        self.killed = None
        self.children = []
        self.open = 0
        self.begun = time.monotonic_ns()
        for label, command in commands:
            first = len(self.labels)
            child = processes.start([*command, url, first, THREADS, SECONDS, lease_ms], stdin=subprocess.PIPE,
                                    stdout=subprocess.PIPE)
            threading.Thread(target=self.read, args=(child,), daemon=True).start()
            self.children.append(child)
            self.labels += [f"{label}.{thread + 1}" for thread in range(THREADS)]
            self.open += 1

    def read(self, child):
        for line in child.stdout:
            self.lines.put((child, line.decode(errors="replace").split()))
        self.lines.put((child, None))

    def run(self, strike):
        """Until all have ended; strikes on the way."""
        end = time.monotonic() + SECONDS + GRACE_SECONDS
        stick_at = time.monotonic() + KILL_AFTER
        while self.open > 0:
            if stick_at is not None and time.monotonic() > stick_at:
                strike(self)
                stick_at = None
            try:
                child, words = self.lines.get(timeout=0.05)
            except queue.Empty:
                if time.monotonic() > end:
                    raise Failed(f"{self.open} contenders still wait {GRACE_SECONDS} s after the end")
                continue
            if words is None:
                self.ended(child)
            else:
                self.told(child, words)

    @staticmethod
    def tell(child, line):
        try:
            child.stdin.write(line)
            child.stdin.flush()
        except OSError:
            pass  # It has ended already; `ended` says how.

    def told(self, child, words):
        numbers = [int(word) for word in words[1:]] if words[0] in ("turn", "lost", "stuck") else []
        if words[0] in ("turn", "lost") and len(numbers) == 5:
            self.turns.append(Turn(*numbers, lost=words[0] == "lost"))
        elif words[0] == "stuck" and len(numbers) == 4:
            contender, waits, held, token = numbers
            time.sleep(0.3)  # A holder like any other, until now.
            self.killed = child
            died = time.monotonic_ns()
            os.killpg(child.pid, signal.SIGKILL)
            self.turns.append(Turn(contender, waits, held, died, token, killed=True))
        else:
            raise Failed("a contender says: " + " ".join(words))

    def ended(self, child):
        self.open -= 1
        status = child.wait()
        if child is not self.killed and status != 0:
            raise Failed(f"a contender ended with status {status}")


class Findings:
    """What the turns show."""

    def __init__(self, turns):
        self.turns = sorted(turns, key=lambda turn: turn.held)
        self.overlaps = []
        self.falling = []
        self.hand_offs = []
        latest = self.turns[0]
        for before, after in zip(self.turns, self.turns[1:]):
            # The one that was to hold it the longest, which need not be the one before.
            latest = max(latest, before, key=lambda turn: turn.freed)
            if after.held < latest.freed:
                self.overlaps.append((latest, after))
            if after.token <= before.token:
                self.falling.append((before, after))
            # Somebody was waiting when the lock was released, and got it.
            if after.waits < before.freed and not before.killed:
                self.hand_offs.append(after.held - before.freed)
        self.hand_offs.sort()

    @property
    def violations(self):
        return len(self.overlaps) + len(self.falling)

    def hand_off(self, share):
        if not self.hand_offs:
            return "-"
        return duration(self.hand_offs[min(len(self.hand_offs) - 1, int(share * len(self.hand_offs)))])


def duration(nanoseconds):
    """Three digits or so, with a unit."""
    milliseconds = nanoseconds / 1e6
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.1f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 100 else f"{milliseconds:.2f} ms"


class Drawing:
    """Text for a terminal, a pipe, or one that knows no more than ASCII."""

    def __init__(self, output):
        encoding = (output.encoding or "").lower().replace("-", "")
        self.levels = " ▁▂▃▄▅▆▇█" if encoding == "utf8" else " .:-=+*#@"
        self.cross = "✗" if encoding == "utf8" else "X"
        self.colour = output.isatty() and "NO_COLOR" not in os.environ
        self.width = max(40, min(shutil.get_terminal_size((110, 24)).columns, 140) - 14)

    def paint(self, text, code):
        return f"\033[{code}m{text}\033[0m" if self.colour and text.strip() else text

    def timeline(self, labels, turns, start, end):
        """A row a contender; the higher a block, the more of its time the contender held the lock."""
        slot = (end - start) / self.width
        for number, label in enumerate(labels):
            held = [0.0] * self.width
            died = None
            for turn in turns:
                if turn.contender != number or turn.freed <= start or turn.held >= end:
                    continue
                for column in range(self.column(turn.held, start, slot), self.column(turn.freed, start, slot) + 1):
                    left = start + column * slot
                    held[column] += max(0.0, min(turn.freed, left + slot) - max(turn.held, left)) / slot
                if turn.killed:
                    died = self.column(turn.freed, start, slot)
            row = "".join(self.block(share) for share in held)
            if died is not None:
                row = self.paint(row[:died], "36") + self.paint(self.cross, "1;31") + row[died + 1:]
            else:
                row = self.paint(row, "36")
            print(f"{label:>8} |{row}|")
        self.scale(end - start)

    def column(self, moment, start, slot):
        return max(0, min(self.width - 1, int((moment - start) / slot)))

    def block(self, share):
        if share <= 0:
            return self.levels[0]
        # The square root: a twelfth of the time, the usual share, is to be more than a dash.
        return self.levels[max(1, min(len(self.levels) - 1, round(share ** 0.5 * (len(self.levels) - 1))))]

    def scale(self, span):
        left, right = "0", duration(span)
        print(" " * 10 + left + " " * max(1, self.width - len(left) - len(right)) + right)


def show(contest, findings):
    turns, labels = findings.turns, contest.labels
    drawing = Drawing(sys.stdout)
    start, end = contest.begun, max(turn.freed for turn in turns)
    print("\nWho held the lock, and when:\n")
    drawing.timeline(labels, turns, start, end)
    killed = [turn for turn in turns if turn.killed]
    after = turns[turns.index(killed[0]) + 1:] if killed else []
    if after:
        waited = after[0].held - killed[0].freed
        print(f"\n{drawing.cross} {labels[killed[0].contender]} was killed (SIGKILL) while it held the lock. Its lease "
              f"of {LEASE_MS / 1000:g} s ended it: {labels[after[0].contender]} had the lock {duration(waited)} later.")
    middle = (after or turns)[len(after or turns) // 2].held
    window = 150_000_000
    print(f"\nA closer look at {duration(window)} of it:\n")
    drawing.timeline(labels, turns, middle, middle + window)
    table(labels, turns, killed)


def kill_a_holder(contest):
    contest.tell(contest.children[VICTIM], b"stick\n")


class PrimaryKiller:
    """Kills the primary, and waits until the sentinels name another."""

    def __init__(self, primary, sentinels):
        self.primary = primary
        self.sentinels = sentinels
        self.killed = self.replaced = None

    def strike(self, _contest):
        before = primary_of(self.sentinels[0])
        self.killed = time.monotonic_ns()
        os.killpg(self.primary.pid, signal.SIGKILL)
        threading.Thread(target=self.watch, args=(before,), daemon=True).start()

    def watch(self, before):
        while primary_of(self.sentinels[0]) == before:
            time.sleep(0.01)
        self.replaced = time.monotonic_ns()

    def show(self, contest, findings):
        """What the failover cost."""
        drawing = Drawing(sys.stdout)
        turns, killed = findings.turns, self.killed
        print("\nWho held the lock, and when:\n")
        drawing.timeline(contest.labels, turns, contest.begun, max(turn.freed for turn in turns))
        after = next((turn for turn in turns if turn.held > killed), None)
        if self.replaced is None or after is None:
            raise Failed("nobody got the lock after the primary was killed")
        lost = sum(turn.lost for turn in turns)
        # What was not copied can be given twice: not a fault of the lock's, and what its tokens are for.
        excused = [pair for pair in findings.overlaps if pair[0].held < killed < pair[1].held]
        findings.overlaps = [pair for pair in findings.overlaps if pair not in excused]
        print(f"\nThe primary was killed (SIGKILL) {duration(killed - contest.begun)} after the beginning. The sentinels named "
              f"another {duration(self.replaced - killed)} later;\n{contest.labels[after.contender]} had the lock "
              f"{duration(after.held - killed)} after the kill, with a token above all before. {lost} holders were told of a loss, "
              f"{len(excused)} held it beside its next holder.")
        print("\nA closer look at the failover:\n")
        drawing.timeline(contest.labels, turns, killed - 200_000_000, after.held + 200_000_000)
        table(contest.labels, turns, [])


def table(labels, turns, killed):
    print(f"\n{'':8} {'acquired':>9} {'mean wait':>11} {'longest':>10}   {'first token':>18} {'last token':>18}")
    for number, label in enumerate(labels):
        own = [turn for turn in turns if turn.contender == number]
        if not own:
            print(f"{label:>8} {0:>9}")
            continue
        waits = [turn.held - turn.waits for turn in own]
        note = "  killed" if killed and killed[0].contender // THREADS == number // THREADS else ""
        print(f"{label:>8} {len(own):>9} {duration(sum(waits) / len(own)):>11} {duration(max(waits)):>10}   "
              f"{own[0].token:>18} {own[-1].token:>18}{note}")


def verdict(labels, findings):
    print()
    for name, found in (("two held the lock at once", findings.overlaps), ("a fencing token fell", findings.falling)):
        for before, after in found[:5]:
            print(f"VIOLATION: {name}: {labels[before.contender]} with token {before.token}, held {before.held} to "
                  f"{before.freed}; {labels[after.contender]} with token {after.token}, held from {after.held}")
    print(f"never two holders: {'no' if findings.overlaps else 'yes'}; "
          f"tokens strictly increasing: {'no' if findings.falling else 'yes'}")
    longest = max(turn.held - turn.waits for turn in findings.turns)
    print(f"shown: {len(findings.turns)} acquisitions, {findings.violations} violations, "
          f"hand-off p50 {findings.hand_off(0.5)}, p99 {findings.hand_off(0.99)}, longest wait {duration(longest)}",
          flush=True)


def demo(arguments, processes, directory):
    program = compile_contender(directory)
    killer, go_program = None, None
    if arguments.failover:
        url, *service = start_service(processes, directory, default_server())
        killer = PrimaryKiller(*service)
    else:
        go_program = build_go_contender(directory)
        port, _ = start_server(processes, directory, default_server())
        url = f"redis://127.0.0.1:{port}"
    commands = [(f"C{number + 1}", [program]) for number in range(PROCESSES)]
    if go_program:
        commands.append(("Go", [go_program]))
    for contender in arguments.contender:
        label, _, command = contender.partition("=")
        if not command:
            raise Failed(f"--contender {contender}: LABEL=COMMAND is expected")
        commands.append((label, shlex.split(command)))
    print(f"{len(commands)} processes with {THREADS} threads each take turns on one lock for {SECONDS:g} s; "
          f"{'the primary' if killer else 'one process'} is killed {'on the way' if killer else 'while it holds it'}.", flush=True)
    contest = Contest(processes, url, commands)
    contest.run(killer.strike if killer else kill_a_holder)
    if not contest.turns:
        raise Failed("nobody got the lock")
    if killer is None and contest.killed is None:
        raise Failed("the process that was to be killed never held the lock")
    findings = Findings(contest.turns)
    if killer:
        killer.show(contest, findings)
    else:
        show(contest, findings)
    verdict(contest.labels, findings)
    return 1 if findings.violations else 0


def interrupted(number, _frame):
    raise KeyboardInterrupt(signal.Signals(number).name)


def run(name, demo, arguments):
    """Runs a demo; ends all that it started, however it ends. The exit status."""
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, interrupted)
    processes = Processes()
    directory = tempfile.mkdtemp(prefix="dlock-demo-")
    try:
        return demo(arguments, processes, directory)
    except Failed as reason:
        print(f"{name}: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted; everything is being stopped", file=sys.stderr)
        return 130
    finally:
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, signal.SIG_IGN)  # The cleaning up is not to be interrupted.
        processes.stop()
        shutil.rmtree(directory, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description="Shows the lock at work.")
    parser.add_argument("--contender", metavar="LABEL=COMMAND", action="append", default=[],
                        help="one more process, in whatever language; see the top of this file")
    parser.add_argument("--failover", action="store_true", help="behind sentinels; the primary is killed")
    return run("demo", demo, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
