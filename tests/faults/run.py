#!/usr/bin/env python3
"""Real servers, real processes, real faults: C and Go programs compete for a few locks while one kind of fault strikes again and
again; what they saw is judged by the checker of tests/history/, and in the end everybody is served and nothing is left.

    tests/faults/run.py [--seconds S] [--seed N] [--server PATH] [--keep DIR] [part of a row's name …]     `--list` names the rows

Each row prints `ok - …` or `not ok - …` with what its history amounted to. `--seconds` is how long the faults of a row last
(2). The histories of a row that fails are kept in target/faults/ (or `--keep`), for `make history`.

    DLOCK_INCLUDE_DIR, DLOCK_LIB_DIR, DLOCK_TEST_SERVER, CC      as in tests/c/run.py
"""

import argparse
import contextlib
import functools
import mmap
import os
import random
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "c"), str(HERE.parent.parent / "tools")]

import harness  # noqa: E402
import servers  # noqa: E402
from harness import INCLUDE, LIBRARY, ROOT, TEMPORARY, RespError, Server, run, start  # noqa: E402
from proxy import Proxy  # noqa: E402

CC = shlex.split(os.environ.get("CC", "cc"))
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
WORKERS = ("c1", "c2", "c3", "go1")
# Those that do not go through the bad network.
NEAR = ("c3",)
LOCKS = 2
THREADS = 4
# Of different processes. Who has no renewals has only that time.
LEASES_MS = (300, 600, 1200)
# Shorter than a lease: a silent server is given up. Longer: its answer comes when the lease is over.
TIMEOUTS_MS = (500, 2500)
# How long the longest stop of a process or a server lasts: longer than any lease.
STOP_SECONDS = 1.5
# In calm: the lease of the dead, the claims of those who do not answer, a re-check, and everybody's turn, on a busy machine.
SERVED_WITHIN_US = 20_000_000
CALM_SECONDS = 1.0
# After the end: what the dead left behind expires, or a release meets it.
LEFT_SECONDS = 10
ROWS_AT_ONCE = 2


def now_us():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


class Worker:
    """One process that competes."""

    def __init__(self, row, name, url):
        self.name = name
        program = row.programs["go" if name.startswith("go") else "c"]
        row.seed += 1
        self.log = open(row.directory / f"{name}.{row.seed}.err", "wb")
        lease, timeout = row.random.choice(LEASES_MS), row.random.choice(TIMEOUTS_MS)
        self.process = start([program, url, lease, timeout, name, row.directory / f"{name}.{row.seed}.history", row.register,
                              row.threads, LOCKS, row.seed], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
                             text=True)

    def hears(self, word):
        """Tells it, without waiting for the answer. A process that has ended is found out by `says`."""
        try:
            self.process.stdin.write(word + "\n")
            self.process.stdin.flush()
        except OSError:
            pass

    def says(self, word, seconds=60):
        """Its next line, which must be that."""
        timer = threading.Timer(seconds, harness.kill, [self.process])
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        if not line.startswith(word):
            self.log.flush()
            why = Path(self.log.name).read_text(errors="replace")[-2000:]
            raise AssertionError(f"{self.name} says {line!r} instead of {word}, status {self.process.poll()}\n{why}")
        return line

    def signal(self, number):
        os.kill(self.process.pid, number)

    def kill(self):
        harness.kill(self.process)
        self.log.close()


class Row:
    """One run: a server, perhaps a proxy, processes, and one kind of fault."""

    proxied = False
    once = False  # one fault is enough, or all that is promised
    arguments = ()
    threads = THREADS
    user = ""
    environment = None
    # Where the server counts what the fault does to it: a pattern with one group, in INFO. A row in which nothing was
    # counted has failed: a fault that does not strike shows nothing.
    counted = None

    def __init__(self, name, programs, seconds, seed, binary):
        self.name, self.programs, self.seconds = name, programs, seconds
        self.seed, self.random = seed * 1000, random.Random(seed)
        self.directory = Path(harness.tempfile.mkdtemp(dir=TEMPORARY, prefix="row-"))
        self.register = self.directory / "register"
        self.register.write_bytes(bytes(8 * 16))
        self.history = open(self.directory / "faults.history", "w", encoding="utf-8")
        self.history.write("history 1\n")
        self.binary = binary
        self.version = servers.version(binary)
        self.workers = {}
        self.faults = self.struck = 0

    # What a row is made of.

    def prepare(self):
        """Before the workers start."""

    def strike(self):
        """One fault."""

    def heal(self):
        """The end of all faults."""

    def strikes(self):
        """How often the fault really struck: by the row's own count, or by the server's."""
        if not self.counted:
            return self.struck
        return sum(map(int, re.findall(self.counted, self.command("INFO", "ALL").decode(errors="replace"))))

    # What it may use.

    def note(self, event, **values):
        words = "".join(f" {key}={value}" for key, value in {"at": now_us(), **values}.items())
        self.history.write(f"{event}{words}\n")
        self.history.flush()

    @contextlib.contextmanager
    def loss(self):
        """The server loses data somewhere in here."""
        begun = now_us()
        yield
        self.note("disturbed", at=begun, lock="*", until=now_us())

    def command(self, *words):
        return self.server.command(*words)

    def pause(self, most, least=0.0):
        time.sleep(self.random.uniform(least, most))

    def some_worker(self):
        return self.workers[self.random.choice(sorted(self.workers))]

    def crash_server(self):
        """It is gone at once, and what is under way to it with it."""
        os.kill(self.server.process.pid, signal.SIGKILL)
        self.struck += self.server.process.wait() == -signal.SIGKILL

    def stop_process(self, process):
        """Stops it for a while that may outlast a lease."""
        os.kill(process.pid, signal.SIGSTOP)
        self.pause(STOP_SECONDS)
        self.struck += Path(f"/proc/{process.pid}/stat").read_text().rsplit(") ", 1)[1].startswith("T")
        os.kill(process.pid, signal.SIGCONT)

    # How it goes.

    def start_servers(self):
        """Sets `servers`, of which `server` is the first, and the `url` for all but those that are near."""
        self.server = Server(*self.arguments, binary=self.binary, environment=self.environment)
        self.servers = [self.server]
        self.proxy = Proxy(self.server.port, self.seed) if self.proxied else None
        self.url = (self.proxy or self.server).url.replace("redis://", f"redis://{self.user}")

    def play(self):
        self.start_servers()
        try:
            self.prepare()
            for name in WORKERS:
                # Who is near the server is quick to take what another, far away, may believe to hold.
                near = self.proxied and name in NEAR
                self.workers[name] = Worker(self, name, self.server.url if near else self.url)
            for worker in self.workers.values():
                worker.says("ready")
            self.disturb()
            self.settle()
            return self.judge()
        finally:
            for worker in self.workers.values():
                worker.kill()
            if self.proxy:
                self.proxy.close()
            for server in self.servers:
                server.stop()
            self.history.close()

    def disturb(self):
        end = time.monotonic() + self.seconds
        self.pause(0.3, 0.2)
        while time.monotonic() < end or self.faults == 0:
            if not self.once or self.faults == 0:
                self.note("faults", kind=self.name.replace(" ", "%20"))
                self.faults += 1
                self.strike()
            self.pause(0.3, 0.05)
        self.struck = self.strikes()
        self.heal()
        if self.proxy:
            self.proxy.heal()

    def settle(self):
        for worker in self.workers.values():
            worker.hears("calm")
        for worker in self.workers.values():
            worker.says("calm")
        self.note("calm", bound=SERVED_WITHIN_US)
        time.sleep(CALM_SECONDS)
        for worker in self.workers.values():
            worker.hears("stop")
        for worker in self.workers.values():
            worker.says("done")
            worker.process.wait(30)
        end = time.monotonic() + LEFT_SECONDS
        while self.left() and time.monotonic() < end:
            time.sleep(0.05)
        for key in self.left():
            self.note("left", key=re.sub(r"[%\s]", "_", key.decode(errors="replace")))
        self.note("end")

    def left(self):
        return [key for key in self.command("KEYS", "*") if key != b":dlock:fence"]

    def judge(self):
        """The verdict on all that was written."""
        files = sorted(self.directory.glob("*.history"))
        status, output = run([TARGET / "debug" / "check-history", *files], 120)
        counts = re.search(r"^(\d+) acquisitions.*\n(\d+) writes accepted, (\d+) of.*\n(\d+) overlaps", output, re.MULTILINE)
        if status != 0 or not counts or int(counts.group(1)) < 20:
            return False, output
        if self.struck == 0:
            return False, f"the fault did not strike\n{output}"
        acquisitions, accepted, refused, overlaps = counts.groups()
        return True, (f"{self.faults} faults, struck {self.struck} times, {acquisitions} acquisitions, {accepted} writes "
                      f"accepted, {refused} stale ones refused, {overlaps} excused overlaps")


# The rows. The name of the class is the name of the row.

class Network(Row):
    """What is between the processes and the server."""
    proxied = True

    def strikes(self):
        return self.proxy.disturbed


class NetworkDelays(Network):
    def strike(self):
        self.proxy.delay = self.random.choice([0.0, 0.005, 0.05, 0.3, 1.0])


class NetworkFallsSilent(Network):
    def strike(self):
        for _ in range(self.random.randrange(1, 6)):
            self.proxy.silence_some()


class NetworkDeliversLate(Network):
    """All that was kept back arrives at once, also on connections that the clients have given up."""

    def strike(self):
        for _ in range(self.random.randrange(2, 8)):
            self.proxy.silence_some()
        self.pause(STOP_SECONDS, 0.1)
        self.proxy.heal()


class NetworkCutsAtAnyByte(Network):
    def strike(self):
        for _ in range(self.random.randrange(1, 4)):
            self.proxy.cut_some()


class ProcessesStop(Row):
    def strike(self):
        self.stop_process(self.some_worker().process)


class ProcessesAreKilled(Row):
    def strike(self):
        name = self.some_worker().name
        self.workers[name].kill()
        self.struck += self.workers[name].process.returncode == -signal.SIGKILL
        self.workers[name] = Worker(self, name, self.url)
        self.workers[name].says("ready")


class ServerStops(Row):
    def strike(self):
        self.stop_process(self.server.process)


class ServerSleeps(Row):
    """It does nothing else for a while, and then everything that has come meanwhile."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        if self.version[1].split(".")[0] != "6":
            self.arguments = ("--enable-debug-command", "local")

    def strike(self):
        begun = time.monotonic()
        self.command("DEBUG", "SLEEP", self.random.uniform(0.05, STOP_SECONDS))
        self.struck += time.monotonic() - begun > 0.05


class ServerRestartsEmpty(Row):
    """Two losses of the counter within 17 s are beyond what is promised (guarantees, section 2)."""
    once = True

    def strike(self):
        with self.loss():
            self.crash_server()
            self.server.start()


class ServerRestartsWithItsLog(Row):
    """Everything that was answered is on the disk: nothing is excused."""
    arguments = ("--appendonly", "yes", "--appendfsync", "always")

    def strike(self):
        self.crash_server()
        self.server.start()
        self.pause(0.6)


class ServerRestartsWithAnOldLog(Row):
    once = True
    arguments = ("--appendonly", "yes", "--appendfsync", "no", "--aof-load-truncated", "yes")

    def strike(self):
        with self.loss():
            self.crash_server()
            log = max(Path(self.server.directory).rglob("*.aof"), key=lambda path: path.stat().st_size)
            before = log.stat().st_size
            os.truncate(log, max(0, before - self.random.randrange(1, 20_000)))
            self.struck = before - log.stat().st_size  # in bytes
            self.server.start()


class Flush(Row):
    def strike(self):
        with self.loss():
            self.struck += self.command("DBSIZE") > 0
            self.command("FLUSHALL")


class ScriptsForgotten(Row):
    counted = r"errorstat_NOSCRIPT:count=(\d+)"

    def strike(self):
        self.command("SCRIPT", "FLUSH")


class ClientsKilled(Row):
    def strike(self):
        self.struck += self.command("CLIENT", "KILL", "TYPE", self.random.choice(["normal", "pubsub"]))


class ClientsPaused(Row):
    def strike(self):
        begun = time.monotonic()
        self.command("CLIENT", "PAUSE", self.random.randrange(50, 1200), self.random.choice(["WRITE", "ALL"]))
        self.command("DEL", "nothing")  # a write waits for the end of it
        self.struck += time.monotonic() - begun > 0.045

    def heal(self):
        self.command("CLIENT", "UNPAUSE")


class ServerBusyWithAScript(Row):
    arguments = ("--lua-time-limit", "20")
    counted = r"errorstat_BUSY:count=(\d+)"

    def strike(self):
        ends = "local t = redis.call('TIME'); local e = t[1] * 1000 + t[2] / 1000 + tonumber(ARGV[1]) " \
               "repeat t = redis.call('TIME') until t[1] * 1000 + t[2] / 1000 > e"
        try:
            self.command("EVAL", ends, "0", self.random.randrange(50, 800))
        except (RespError, OSError):
            pass  # killed, or the connection took too long


class MemoryFull(Row):
    arguments = ("--maxmemory-policy", "noeviction")
    counted = r"errorstat_OOM:count=(\d+)"

    def strike(self):
        self.command("CONFIG", "SET", "maxmemory", "1")
        self.pause(0.4)
        self.heal()

    def heal(self):
        self.command("CONFIG", "SET", "maxmemory", "0")


class Eviction(Row):
    """Other programs' keys fill the memory: locks, and with some policies the counter, are evicted."""
    policy = ""

    def prepare(self):
        self.command("CONFIG", "SET", "maxmemory-policy", self.policy)

    def strike(self):
        with self.loss():
            self.fill()

    def fill(self):
        connection = self.server.connect()

        def info(word):
            return int(re.search(rf"{word}:(\d+)".encode(), connection("INFO", "ALL")).group(1))

        before, written = info("evicted_keys"), 0
        connection("CONFIG", "SET", "maxmemory", info("used_memory") + 64 * 1024)
        try:
            for number in range(200):
                connection("SET", f"junk:{number}", b"x" * 2048, "PX", 60_000)
                written += 1
        except RespError:
            pass  # nothing is left to be evicted
        connection("CONFIG", "SET", "maxmemory", "0")
        left = connection("UNLINK", *[f"junk:{number}" for number in range(200)])
        self.struck += info("evicted_keys") - before - (written - left)  # locks, queues and counters
        connection.close()


class EvictionAllkeysLru(Eviction):
    policy = "allkeys-lru"


class EvictionAllkeysRandom(Eviction):
    policy = "allkeys-random"


class EvictionVolatileLru(Eviction):
    policy = "volatile-lru"


class EvictionVolatileTtl(Eviction):
    policy = "volatile-ttl"


class EvictionVolatileRandom(Eviction):
    policy = "volatile-random"


class NotEnoughReplicas(Row):
    counted = r"errorstat_NOREPLICAS:count=(\d+)"

    def strike(self):
        self.command("CONFIG", "SET", "min-replicas-to-write", "1")
        self.pause(0.4)
        self.heal()

    def heal(self):
        self.command("CONFIG", "SET", "min-replicas-to-write", "0")


class ChannelsForbidden(Row):
    """Nobody may subscribe or publish, then they may again."""
    counted = r"errorstat_NOPERM:count=(\d+)"
    user = "someone:secret@"

    def prepare(self):
        self.command("ACL", "SETUSER", "someone", "on", ">secret", "~*", "+@all", "resetchannels")

    def strike(self):
        self.command("ACL", "SETUSER", "someone", self.random.choice(["resetchannels", "allchannels"]))
        self.pause(0.4)

    def heal(self):
        self.command("ACL", "SETUSER", "someone", "allchannels")


class SubscribersTooSlow(Row):
    """What a subscriber has not read is too much, and the server drops it."""

    def prepare(self):
        self.command("CONFIG", "SET", "client-output-buffer-limit", "pubsub 65536 0 0")

    def strike(self):
        flood = "for _ = 1, 100 do redis.call('PUBLISH', ARGV[1], ARGV[2]) end"
        for channel in self.command("PUBSUB", "CHANNELS"):
            self.command("EVAL", flood, "0", channel, b"x" * 10_000)

    def strikes(self):
        log = Path(self.server.directory, "log").read_text(errors="replace")
        return log.count("overcoming of output buffer limits")


class ServersClockJumps(Row):
    """Forward, an hour or some seconds: leases end early, which is excused; back: they end late. Tokens rise all the same."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        path = self.directory / "offset"
        path.write_bytes(struct.pack("q", 0))
        with open(path, "r+b") as file:
            self.map = mmap.mmap(file.fileno(), 8)
        self.offset = self.furthest = 0
        self.environment = dict(os.environ, LD_PRELOAD=str(self.programs["clock"]), CLOCK_OFFSET_FILE=str(path))

    def prepare(self):
        self.jump(10)

    def clock(self):
        return int(self.command("TIME")[0])

    def jump(self, seconds):
        self.offset += seconds * 1_000_000
        with self.loss():
            before = self.clock()
            self.map[:] = struct.pack("q", self.offset)
            harness.eventually(lambda: abs(self.clock() - before - seconds) < 5, 5, "the server does not see its clock")
        self.furthest = max(self.furthest, self.offset)
        self.struck += 1

    def strike(self):
        self.jump(self.random.choice([10, 3600, -10, -3600]))
        self.pause(0.5)

    def heal(self):
        # What was set while it was behind would live for too long.
        self.jump((self.furthest - self.offset) // 1_000_000)


class Quorum(Row):
    """Three servers, of which one at a time fails: nothing is to be excused."""
    proxy = None
    swept = False

    def start_servers(self):
        self.servers = [Server(*self.arguments, binary=self.binary) for _ in range(3)]
        self.server = self.servers[0]
        self.url = "redis-quorum://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    def left(self):
        kept = (b":dlock:fence", b":dlock:quorum")
        left = [key for server in self.servers for key in server.command("KEYS", "*") if key not in kept]
        if left and not self.swept:
            # A join that was on its way to a server that stood still when its process ended: the next release there meets it.
            self.swept = True
            worker = self.workers["sweeper"] = Worker(self, "c9", self.url)
            for heard, said in ((None, "ready"), ("calm", "calm"), ("stop", "done")):
                if heard:
                    worker.hears(heard)
                worker.says(said)
                self.pause(0.3, 0.3)
            # It came when all was calm, and cancelled calls as all do at first: that is not to be judged.
            for file in self.directory.glob(f"{worker.name}.*.history"):
                file.rename(file.with_suffix(".swept"))
            return self.left()
        return left

    def judge(self):
        passed, text = super().judge()
        return passed and " 0 excused" in text, text

    def wait_counted(self, server):
        """Until a server that lost its data counts again: a lease, if somebody looks."""
        counts = lambda: int(server.command("GET", ":dlock:fence") or 0) >= 1 << 50  # noqa: E731
        harness.eventually(counts, 20, "a server does not count again")


class QuorumServersFail(Quorum):
    """They die and come back empty, are flushed, or stand still."""

    def strike(self):
        server = self.random.choice(self.servers)
        how = self.random.randrange(3)
        if how == 0:
            self.stop_process(server.process)
            return
        if how == 1:
            server.command("FLUSHALL")
        else:
            os.kill(server.process.pid, signal.SIGKILL)
            server.process.wait()
            self.pause(0.2)
            server.start()
        self.struck += 1
        self.wait_counted(server)


class QuorumProcessesFail(Quorum):
    """Holders and waiters are killed or stop, while a server stands still."""

    def strike(self):
        server = self.random.choice(self.servers)
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            (ProcessesAreKilled if self.random.randrange(2) else ProcessesStop).strike(self)
        finally:
            os.kill(server.process.pid, signal.SIGCONT)


class Herd(Row):
    """Hundreds of threads lose their connections at once."""
    threads = 75
    arguments = ("--appendonly", "yes", "--appendfsync", "always")

    def strike(self):
        self.struck += self.command("CLIENT", "KILL", "TYPE", "pubsub")
        self.struck += self.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        self.pause(0.3, 0.2)
        clients = int(re.search(rb"connected_clients:(\d+)", self.command("INFO", "clients")).group(1))
        # Of the two lockers of a process each has three for commands, one for renewals, one for messages; ours; some that are
        # just being closed.
        if clients > 10 * len(WORKERS) + 12:
            raise AssertionError(f"{clients} connections of {len(WORKERS)} processes")


ROWS = [NetworkDelays, NetworkFallsSilent, NetworkDeliversLate, NetworkCutsAtAnyByte, ProcessesStop,
        ProcessesAreKilled, ServerStops, ServerSleeps, ServerRestartsEmpty, ServerRestartsWithItsLog, ServerRestartsWithAnOldLog, Flush, ScriptsForgotten, ClientsKilled,
        ClientsPaused, ServerBusyWithAScript, MemoryFull, EvictionAllkeysLru, EvictionAllkeysRandom, EvictionVolatileLru,
        EvictionVolatileTtl, EvictionVolatileRandom, NotEnoughReplicas, ChannelsForbidden, SubscribersTooSlow,
        ServersClockJumps, QuorumServersFail, QuorumProcessesFail, Herd]


def name_of(row):
    return re.sub(r"(?<!^)([A-Z])", r" \1", row.__name__).lower()


def build():
    """The programs, by name."""
    programs = {}
    warnings = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O1", "-g"]
    builds = {
        "c": [*CC, *warnings, f"-I{INCLUDE}", "-o", "{}", HERE / "worker.c", f"-L{LIBRARY}", f"-Wl,-rpath,{LIBRARY}", "-ldlock",
              "-lpthread"],
        "clock": [*CC, *warnings, "-shared", "-fPIC", "-o", "{}", HERE / "clock.c", "-ldl"],
        "go": ["go", "build", "-o", "{}", "."],
    }
    flags = {"CGO_CFLAGS": f"-O2 -g -I{INCLUDE} -I{LIBRARY}", "CGO_LDFLAGS": f"-L{LIBRARY} -Wl,-rpath,{LIBRARY}"}
    for name, command in builds.items():
        programs[name] = Path(TEMPORARY) / f"faults-{name}"
        command = [str(part).replace("{}", str(programs[name])) for part in command]
        status, output = run(command, 300, cwd=HERE / "go" if name == "go" else HERE, env=dict(flags, **os.environ))
        if status != 0:
            harness.fail_early(f"{name} is built\n{output}")
    status, output = run(["cargo", "build", "--locked", "--quiet", "--package", "dlock-history"], 300, cwd=ROOT)
    if status != 0:
        harness.fail_early(f"the checker is built\n{output}")
    return programs


def play(kind, programs, arguments, report):
    name = f"{name_of(kind)} [{' '.join(servers.version(arguments.server))}]"
    row = kind(name_of(kind), programs, arguments.seconds, arguments.seed, arguments.server)
    try:
        passed, text = row.play()
    except Exception as error:  # A defect here is a failure of the row, not of the others.
        passed, text = False, f"{type(error).__name__}: {error}"
    if passed:
        report.line(True, f"{name}: {text}")
        shutil.rmtree(row.directory, ignore_errors=True)
        return
    kept = Path(arguments.keep) / f"{kind.__name__}-{arguments.seed}"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(row.directory, kept)
    report.line(False, name, f"{text}\nseed {arguments.seed}; the history is in {kept}")


def main(words):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--server", default=os.environ.get("DLOCK_TEST_SERVER") or shutil.which("redis-server")
                        or shutil.which("valkey-server"))
    parser.add_argument("--keep", default=str(TARGET / "faults"))
    parser.add_argument("--list", action="store_true")
    parser.add_argument("rows", nargs="*")
    arguments = parser.parse_args(words)
    chosen = [row for row in ROWS if not arguments.rows or any(part in name_of(row) for part in arguments.rows)]
    if arguments.list:
        print("\n".join(map(name_of, chosen)))
        return 0
    if not arguments.server:
        harness.fail_early("no redis-server on the PATH; set DLOCK_TEST_SERVER")
    arguments.server = os.path.abspath(arguments.server)
    programs, report = build(), harness.Report()
    report.note(f"seed {arguments.seed}, {arguments.server}")
    jobs = {name_of(kind): functools.partial(play, kind, programs, arguments, report) for kind in chosen}
    return harness.run_jobs(jobs, [], report, ROWS_AT_ONCE)


if __name__ == "__main__":
    harness.end_well(main, sys.argv[1:])
