"""Who takes part in `peers`, `passing` and `asyncio` of run.py: how the programs of peers/ and go/ are built and started, and
how they are asked.

The programs speak the lines of peers/README.md; nothing else is known of a library. What is missing on this machine is left
out with a line that says so, and fails nothing.
"""

import contextlib
import functools
import hashlib
import os
import select
import shlex
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

from harness import HERE, ROOT

# Longer than any wait that ends: the leases are 30 s.
PATIENCE_SECONDS = 40
BUILD_SECONDS = 600


class Unavailable(Exception):
    """A language, or a contender, is left out; the text says why."""


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


# --- those who take part ---

class Contender:
    """`programs` are as many of its language as were asked for."""

    def __init__(self, name, label, language, programs):
        self.name, self.label, self.language, self.programs = name, label, language, programs
        self.left_out = None

    def leave_out(self, problem):
        self.left_out = str(problem)
        print(f"{self.label} is left out from here on: {problem}", flush=True)


def ours_beside(contender):
    """The dlock to compare with: that of the same language, for tasks that for tasks; that of C where there is none."""
    names = [name for name in contender.language.contenders if name.startswith("dlock")] or ["dlock"]
    return next((name for name in names if name.endswith("asyncio")), names[0]) if "asyncio" in contender.name else names[0]


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
    return contenders, left_out


def stop(contenders):
    for program in {program for contender in contenders for program in contender.programs}:
        program.stop()
