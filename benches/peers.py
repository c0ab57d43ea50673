"""Lock libraries side by side: what `benches/run.py peers` runs.

Builds the programs of peers/ and go/, starts each against run.py's private server, lets all contenders take turns in
short blocks, and prints what they did beside dlock. The programs speak the lines of peers/README.md; this file knows
nothing else about a library. What is missing on this machine is left out with a line that says so, and fails nothing.
"""

import contextlib
import functools
import hashlib
import os
import platform
import select
import shlex
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# Longer than any wait that ends: the leases are 30 s.
PATIENCE_SECONDS = 40
BUILD_SECONDS = 600


class Failed(Exception):
    """No comparison; the text says why."""


class Unavailable(Exception):
    """A language is left out; the text says why."""


# --- what to build; each function returns the command to start, and what to add to its environment ---

def need(*tools):
    for tool in tools:
        if shutil.which(tool) is None:
            raise Unavailable(f"{tool} is not installed")


def build(*command, where=None, environment=None):
    """Runs a step of a build; what it prints is its reason to fail."""
    try:
        done = subprocess.run([str(part) for part in command], cwd=where, env={**os.environ, **(environment or {})},
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=BUILD_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise Unavailable(str(problem))
    if done.returncode != 0:
        lines = done.stdout.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise Unavailable(f"{Path(command[0]).name}: {lines[-1]}")


@contextlib.contextmanager
def fetched(directory, *manifests):
    """A directory for what manifests name: true, and empty, unless it was filled by the same manifests before."""
    digest = hashlib.sha256(b"\0".join(manifest.read_bytes() for manifest in manifests)).hexdigest()
    stamp = directory / ".fetched"
    if stamp.exists() and stamp.read_text() == digest:
        yield False
        return
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    yield True
    stamp.write_text(digest)


def c(setup):
    program = setup.target / "peers-c"
    build(*shlex.split(os.environ.get("CC", "cc")), "-std=gnu11", "-O2", "-Wall", "-Wextra", f"-I{ROOT / 'include'}", f"-I{HERE}",
          "-o", program, HERE / "peers" / "c" / "main.c", f"-L{setup.library}", f"-Wl,-rpath,{setup.library}", "-ldlock",
          "-lpthread", *setup.hiredis)
    return [program], {}


def cpp(setup):
    program = setup.target / "peers-cpp"
    build(*shlex.split(os.environ.get("CXX", "c++")), "-std=c++17", "-O2", "-Wall", "-Wextra", f"-I{ROOT / 'include'}",
          "-o", program, HERE / "peers" / "cpp" / "main.cpp", f"-L{setup.library}", f"-Wl,-rpath,{setup.library}", "-ldlock",
          "-lpthread", *setup.redispp)
    return [program], {}


def go(setup):
    need("go")
    program = setup.target / "peers-go"
    build("go", "build", "-o", program, ".", where=HERE / "go",
          environment={"CGO_LDFLAGS": f"-L{setup.library} -Wl,-rpath,{setup.library}"})
    return [program, "serve"], {}


def rust(setup):
    need("cargo")
    target = setup.target / "rust"
    build("cargo", "build", "--locked", "--release", "--quiet", where=HERE / "peers" / "rust",
          environment={"CARGO_TARGET_DIR": str(target)})
    return [target / "release" / "dlock-peers"], {}


def python(setup):
    directory, manifest = setup.target / "python", HERE / "peers" / "python" / "requirements.txt"
    with fetched(directory, manifest) as wanted:
        if wanted:
            build(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", directory,
                  "--requirement", manifest)
    build(sys.executable, ROOT / "tools" / "python.py", "wheel")
    ours = setup.target / "python-dlock"
    shutil.rmtree(ours, ignore_errors=True)
    build(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--target", ours,
          *(ROOT / "target" / "python" / "wheels").glob("*.whl"))
    return ([sys.executable, HERE / "peers" / "python" / "main.py"],
            {"PYTHONPATH": f"{directory}{os.pathsep}{ours}", "PYTHONDONTWRITEBYTECODE": "1"})


def java(setup):
    need("java", "javac", "mvn")
    directory, source = setup.target / "java", HERE / "peers" / "java"
    with fetched(directory, source / "pom.xml") as wanted:
        if wanted:
            build("mvn", "--quiet", "--batch-mode", "--file", source / "pom.xml", f"-Dmaven.repo.local={directory / 'repository'}",
                  "dependency:copy-dependencies", f"-DoutputDirectory={directory / 'jars'}")
    path = f"{directory / 'jars'}/*"
    build("javac", "-cp", path, "-d", directory / "classes", source / "Main.java")
    return ["java", "-cp", f"{path}:{directory / 'classes'}", "Main"], {}


def node(setup):
    need("node", "npm")
    directory, source = setup.target / "node", HERE / "peers" / "node"
    manifests = [source / "package.json", source / "package-lock.json"]
    with fetched(directory, *manifests) as wanted:
        if wanted:
            for manifest in manifests:
                shutil.copy(manifest, directory)
            build("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", where=directory)
    return ["node", source / "main.js"], {"NODE_PATH": str(directory / "node_modules")}


# Where things are, and with what flags hiredis and redis-plus-plus are compiled; none where they are not installed.
Setup = namedtuple("Setup", "library target hiredis redispp")
# A language: how it is built; its contenders, by their names in requests; how long they run before they are measured,
# which is until a just-in-time compiler has seen all.
Language = namedtuple("Language", "name build contenders warm_up_ms")
LANGUAGES = [
    Language("C", c, {"dlock": "dlock", "dlock-queue": "dlock's completion queue", "hiredis": "hiredis, connection a thread",
                      "hiredis-shared": "hiredis, shared connection"}, 200),
    Language("C++", cpp, {"dlock-cpp": "dlock.hpp", "redispp-redmutex": "redis-plus-plus RedMutex",
                          "redispp-redlock": "redis-plus-plus RedLock"}, 200),
    Language("Rust", rust, {"rslock": "rslock"}, 200),
    Language("Go", go, {"dlock-go": "dlock's Go package", "redsync": "redsync", "redislock": "bsm/redislock",
                        "rueidislock": "rueidislock"}, 200),
    Language("Java", java, {"redisson": "Redisson RLock", "redisson-fair": "Redisson RFairLock"}, 3000),
    Language("Node", node, {"redlock": "redlock (ioredis)"}, 1000),
    Language("Python", python, {"dlock-python": "dlock's Python package", "dlock-asyncio": "dlock's, asyncio",
                                "redis-py": "redis-py Lock", "redis-py-asyncio": "redis-py Lock, asyncio",
                                "python-redis-lock": "python-redis-lock"}, 200),
]


def lacks(setup, contender):
    """What a contender of a program that was built needs and this machine has not."""
    if contender.startswith("hiredis") and not setup.hiredis:
        return "hiredis is not installed (Debian's libhiredis-dev)"
    if contender.startswith("redispp") and not setup.redispp:
        return ("redis-plus-plus is not installed: Debian has no package of it; build github.com/sewenew/redis-plus-plus by CMake, "
                "and name its lib/pkgconfig in PKG_CONFIG_PATH where that is not below /usr")
    return None


@functools.lru_cache(maxsize=None)
def built(build_of_language, setup):
    return build_of_language(setup)


def start_program(language, setup, processes, port, number=1):
    """A program of that language, which is built the first time; raises Unavailable. Of two, one has another number."""
    command, environment = built(language.build, setup)
    return Program(processes, command, environment, port, setup.target / f"{language.name.lower()}-{number}.log")


# --- a program under way ---

Block = namedtuple("Block", "pairs p50_us p99_us longest_us least most given_up")


class Program:
    """Answers requests; after a failure it is over and answers none."""

    def __init__(self, processes, command, environment, port, log):
        self.processes, self.log = processes, log
        self.buffer = b""
        self.stuck = None
        with open(log, "wb") as errors:
            try:
                self.process = processes.start([*command, port], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                                               env={**os.environ, **environment})
            except OSError as problem:
                raise Unavailable(str(problem))

    def send(self, *request):
        try:
            self.process.stdin.write((" ".join(map(str, request)) + "\n").encode())
            self.process.stdin.flush()
        except (OSError, ValueError):
            raise Unavailable(self.reason())

    def answer(self, seconds):
        """The words of the next answer, which may take so much longer than it should."""
        answer = self.line(time.monotonic() + seconds + PATIENCE_SECONDS)
        if answer.startswith("!"):
            raise Unavailable(answer[1:].strip())
        return answer.split()

    def ask(self, *request, seconds=0):
        self.send(*request)
        return self.answer(seconds)

    def block(self, contender, mode, threads, milliseconds):
        numbers = list(map(float, self.ask(contender, mode, threads, milliseconds, seconds=milliseconds / 1000)))
        return Block(*numbers, *[0] * (len(Block._fields) - len(numbers)))

    def line(self, until):
        output = self.process.stdout.fileno()
        while b"\n" not in self.buffer:
            if not select.select([output], [], [], max(0, until - time.monotonic()))[0]:
                self.stop()
                self.stuck = f"no answer for {PATIENCE_SECONDS} s: a wait does not end"
                raise Unavailable(self.stuck)
            part = os.read(output, 4096)
            if not part:
                raise Unavailable(self.reason())
            self.buffer += part
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.decode(errors="replace")

    def reason(self):
        """Why it ended: what it said first."""
        if self.stuck:
            return self.stuck
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[0] if lines else f"exit status {self.process.poll()}"

    def stop(self):
        if self.process in self.processes.running:
            self.processes.end(self.process)
        with contextlib.suppress(OSError):
            self.process.stdin.close()


# --- the measurement ---

class Contender:
    """`programs` are as many of its language as were asked for."""

    def __init__(self, name, label, language, programs):
        self.name, self.label, self.language, self.programs = name, label, language, programs
        self.left_out = None

    def leave_out(self, problem):
        self.left_out = str(problem)
        print(f"{self.label} is left out from here on: {problem}", flush=True)


class Measurement:
    """Blocks of each contender that has not failed: one list a table."""

    def __init__(self, contenders):
        self.contenders = contenders

    def stop(self):
        for program in {program for contender in self.contenders for program in contender.programs}:
            program.stop()

    def alive(self):
        return [contender for contender in self.contenders if contender.left_out is None]

    def block(self, contender, *request):
        """A block, or nothing where the contender fails: it is out from now on."""
        try:
            return contender.programs[0].block(contender.name, *request)
        except Unavailable as problem:
            contender.leave_out(problem)
            return None

    def rounds(self, mode, threads, milliseconds, rounds):
        """For each contender its blocks, in turns that begin with another contender each."""
        blocks = {contender: [] for contender in self.alive()}
        for contender in self.alive():
            self.block(contender, mode, threads, 150)
        for round_number in range(rounds):
            order = self.alive()
            first = round_number * len(order) // rounds
            for contender in order[first:] + order[:first]:
                if contender.left_out is None:
                    blocks[contender].append(self.block(contender, mode, threads, milliseconds))
        return {contender: list(found) for contender, found in blocks.items() if contender.left_out is None}


def start(setup, processes, port, programs=1):
    """The contenders that can be had, with so many programs of each language, and which cannot."""
    contenders, left_out = [], []
    for language in LANGUAGES:
        lacking = {}
        for name, label in language.contenders.items():
            lacking.setdefault(lacks(setup, name), []).append((name, label))
        there = lacking.pop(None, [])
        try:
            started = [start_program(language, setup, processes, port, 1 + number) for number in range(programs)]
        except Unavailable as problem:
            lacking.setdefault(str(problem), []).extend(there)
        else:
            contenders += [Contender(name, label, language, started) for name, label in there]
        for reason, those in lacking.items():
            labels = [label for _, label in those]
            left_out.append({"language": language.name, "contenders": labels, "reason": reason})
            print(f"left out ({language.name}): {', '.join(labels)}: {reason}", flush=True)
    return Measurement(contenders), left_out


# --- the tables ---

# A table: what JSON calls it; its title; the requests, in so many rounds; aims: of which row's ratio, of what, the bound.
# Many short rounds, since the blocks of one round are compared. One lock takes longer blocks: some sleep for 250 ms.
Comparison = namedtuple("Comparison", "name title mode threads rounds milliseconds aims")
COMPARISONS = [
    Comparison("own-1", "One thread, a lock of its own", "own", 1, 9, 150,
               [("hiredis", "p50", "<=", 1.0), ("hiredis", "p99", "<=", 1.2)]),
    Comparison("own-8", "8 threads, each with a lock of its own", "own", 8, 9, 150,
               [("hiredis", "rate", ">=", 1.0)]),
    Comparison("own-64", "64 threads (goroutines, tasks), each with a lock of its own", "own", 64, 9, 150,
               [("hiredis", "rate", ">=", 1.8)]),
    Comparison("hot-16", "16 threads (goroutines, tasks) at one lock", "hot", 16, 5, 600, [("*", "rate", ">", 1.0)]),
]
MOST_APART = 1 / 10_000  # of all acquisitions: between the threads of dlock, and at least one


def quartiles(values):
    ordered = sorted(values)
    return ordered[len(ordered) // 4], ordered[(3 * len(ordered)) // 4 - (len(ordered) % 4 == 0)]


def spread(ratios):
    """Their median, and in brackets their middle half; nothing where there are none."""
    return f"{median(ratios):.2f} ({quartiles(ratios)[0]:.2f}-{quartiles(ratios)[1]:.2f})" if ratios else ""


def figures(comparison, contender, blocks, ours):
    """A row: the medians of the rounds, and of the ratios of dlock's blocks `ours` to them."""
    row = {"contender": contender.name, "label": contender.label, "language": contender.language.name,
           "per_second": median(block.pairs for block in blocks) * 1000 / comparison.milliseconds}
    for field in ("p50_us", "p99_us", "longest_us", "least", "most"):
        row[field] = median(getattr(block, field) for block in blocks)
    row["apart"] = median(block.most - block.least for block in blocks)
    row["given_up"] = sum(block.given_up for block in blocks)
    row["rounds"] = [block._asdict() for block in blocks]
    if ours is not None:
        # Of the blocks of one round, since what else the machine does changes from round to round.
        by_round = {name: [getattr(mine, field) / max(getattr(block, field), 0.1) for mine, block in zip(ours, blocks)]
                    for name, field in (("rate", "pairs"), ("p50", "p50_us"), ("p99", "p99_us"), ("longest", "longest_us"))}
        row["ratio"] = {name: median(ratios) for name, ratios in by_round.items()}
        row["ratio"]["rates"] = by_round["rate"]
    row["aims"] = verdicts(comparison, row)
    return row


def verdicts(comparison, row):
    found = []
    for contender, what, sign, bound in comparison.aims:
        if "ratio" in row and (contender == row["contender"] or (contender == "*" and not row["contender"].startswith("dlock-"))):
            ratio = row["ratio"][what]
            met = ratio <= bound if sign == "<=" else ratio >= bound if sign == ">=" else ratio > bound
            found.append({"what": what, "sign": sign, "bound": bound, "met": met})
    if comparison.mode == "hot" and row["contender"] == "dlock":
        bound = max(1, round(sum(block["pairs"] for block in row["rounds"]) / len(row["rounds"]) * MOST_APART))
        found.append({"what": "most-least", "sign": "<=", "bound": bound, "met": row["apart"] <= bound})
    return found


def shown_aims(row):
    return ", ".join(f"{'' if aim['what'] == 'rate' else aim['what'] + ' '}{aim['sign']} "
                     f"{aim['bound']:{'.2f' if isinstance(aim['bound'], float) else 'd'}}{'' if aim['met'] else ' *'}"
                     for aim in row["aims"])


def line(widths, *cells):
    print("  ".join([f"{cells[0]:<{widths[0]}}"] + [f"{cell:>{width}}" for cell, width in zip(cells[1:], widths[1:])]).rstrip(),
          flush=True)


def show(comparison, rows):
    hot = comparison.mode == "hot"
    print(f"\n{comparison.title}: {len(rows[0]['rounds'])} rounds of blocks of {comparison.milliseconds} ms", flush=True)
    widths = (28, 10, 9, 9, 11, 18, 9, 9, 24) if not hot else (28, 10, 11, 13, 18, 13, 24)
    if hot:
        line(widths, "", "acquired/s", "longest ms", "least-most", "dlock / it", "longest", "aim")
    else:
        line(widths, "", "pairs/s", "p50 us", "p99 us", "longest ms", "dlock / it", "p50", "p99", "aim")
    for row in rows:
        ratio = row.get("ratio")
        low_high = spread(ratio["rates"]) if ratio else ""
        rate, longest = f"{row['per_second']:,.0f}", f"{row['longest_us'] / 1000:,.1f}"
        part = {name: f"{ratio[name]:.2f}" if ratio else "" for name in ("p50", "p99", "longest")}
        if hot:
            line(widths, row["label"], rate, longest, f"{row['least']:.0f}-{row['most']:.0f}", low_high, part["longest"],
                 shown_aims(row))
        else:
            line(widths, row["label"], rate, f"{row['p50_us']:,.1f}", f"{row['p99_us']:,.1f}", longest, low_high, part["p50"],
                 part["p99"], shown_aims(row))
    given_up = [f"{row['label']} {row['given_up']:.0f}" for row in rows if row["given_up"]]
    if given_up:
        print(f"waits of two seconds given up and begun again: {', '.join(given_up)}", flush=True)


def measure(processes, port, server, setup, quick):
    """The part: prints the tables, and returns what peers.json is to have. Raises Failed where dlock itself cannot run."""
    print("\nLock libraries side by side: medians of the rounds; times of a pair (of a wait, where all want one lock). Ratios: "
          "dlock's\nfigure by the row's in the same round, their median, and in brackets their middle half (* = aim missed)", flush=True)
    load = os.getloadavg()[0]
    measurement, left_out = start(setup, processes, port)
    if "dlock" not in [contender.name for contender in measurement.alive()]:
        raise Failed("dlock's own program does not run: " + left_out[0]["reason"])
    begun = time.monotonic()
    for contender in measurement.alive():
        measurement.block(contender, "own", 8, contender.language.warm_up_ms // (4 if quick else 1))
    tables = []
    for comparison in COMPARISONS:
        found = measurement.rounds(comparison.mode, comparison.threads, comparison.milliseconds, 3 if quick else comparison.rounds)
        rows = []
        ours = next((blocks for contender, blocks in found.items() if contender.name == "dlock"), None)
        if ours is None:
            raise Failed("dlock failed in a block")
        for contender, blocks in found.items():
            rows.append(figures(comparison, contender, blocks, None if blocks is ours else ours))
        show(comparison, rows)
        tables.append({"name": comparison.name, "title": comparison.title, "mode": comparison.mode,
                       "threads": comparison.threads, "block_ms": comparison.milliseconds, "rows": rows})
    left_out += [{"language": contender.language.name, "contenders": [contender.label], "reason": contender.left_out}
                 for contender in measurement.contenders if contender.left_out]
    report = {"server": server, "cores": os.cpu_count(), "machine": platform.machine(), "load_before": load,
              "seconds": round(time.monotonic() - begun, 1), "left_out": left_out, "tables": tables}
    measurement.stop()
    return report
