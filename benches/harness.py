"""What the parts of run.py stand on: a private server, the compiler, the table and what is kept of it.

Knows nothing of what is measured.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT / "tools"))

from private_server import Failed, Processes, Resp, default_server, start_server  # noqa: E402,F401

TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve()
LIBRARY = Path(os.environ.get("DLOCK_LIB_DIR") or TARGET / "release").resolve()
PROGRAMS = TARGET / "bench"
SCRIPTS = ROOT / "src" / "store" / "redis" / "scripts"
# What is compiled with the library, and with hiredis where there is one; start.c loads the library itself.
LINKED = ["pair", "pairs", "deployments", "handoff", "inflight", "waiters", "held", "distance", "threads", "timeline"]


# --- the server ---

def start_private_server(processes, directory):
    """The port, the version and the process of a private server."""
    path = default_server()
    version = subprocess.run([path, "--version"], stdout=subprocess.PIPE).stdout.decode().split()
    port, server = start_server(processes, directory, path)
    return port, " ".join(version[:3]), server


# --- the programs ---

def compiler(*arguments):
    return subprocess.run([*shlex.split(os.environ.get("CC", "cc")), *map(str, arguments)], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def hiredis_flags():
    """What to compile with for hiredis, or nothing where it is not installed."""
    probe = PROGRAMS / "probe.c"
    probe.write_text("#include <hiredis/hiredis.h>\nint main(void) { redisFree(0); return 0; }\n")
    there = compiler(probe, "-o", PROGRAMS / "probe", "-lhiredis").returncode == 0
    return ["-DHAVE_HIREDIS", "-lhiredis"] if there else []


def redispp_flags():
    """The same for redis-plus-plus, which pkg-config knows where it is installed."""
    try:
        known = [subprocess.run(["pkg-config", *words, "redis++"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
                 for words in (["--cflags", "--libs"], ["--variable=libdir"])]
    except (OSError, subprocess.CalledProcessError):
        return []
    flags, directory = (each.stdout.decode() for each in known)
    return ["-DHAVE_REDISPP", *shlex.split(flags), f"-Wl,-rpath,{directory.strip()}"]


def compile_programs():
    """Returns whether hiredis is among the peers."""
    if not (LIBRARY / "libdlock.so").exists():
        raise Failed(f"{LIBRARY / 'libdlock.so'} is missing: cargo build --release")
    PROGRAMS.mkdir(parents=True, exist_ok=True)
    hiredis = hiredis_flags()
    linked = [f"-L{LIBRARY}", f"-Wl,-rpath,{LIBRARY}", "-ldlock", "-lpthread", *hiredis]
    for name in [*LINKED, "start"]:
        done = compiler("-std=gnu11", "-O2", "-Wall", "-Wextra", f"-I{ROOT / 'include'}", "-o", PROGRAMS / name,
                        HERE / f"{name}.c", *(["-ldl"] if name == "start" else linked))
        if done.returncode != 0:
            raise Failed(f"{name}.c does not compile:\n" + done.stdout.decode(errors="replace"))
    # The release script as the library sends it, to be sent by a bare socket too.
    parts = [SCRIPTS / f"{part}.lua" for part in ("draw", "notmine", "release")]
    (PROGRAMS / "release.lua").write_text("\n".join(part.read_text() for part in parts))
    return bool(hiredis)


def values_of(output):
    return dict(map(value_of, output.splitlines()))


def value_of(line):
    name, value = line.split(" ", 1)
    if name.startswith("distribution_"):
        return name, [float(part) for part in value.split(",")]
    return name, value if name == "peer" else float(value)


def start_program(processes, *command):
    return processes.start([PROGRAMS / command[0], *command[1:]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE)


def rest_of(program, command):
    """What the program prints until it ends."""
    command = [str(part) for part in command]
    try:
        output, errors = program.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(command)}: not done after five minutes")
    if program.returncode != 0:
        raise Failed(f"{' '.join(command)}: {errors.decode(errors='replace').strip() or program.returncode}")
    return output.decode()


# --- the table ---

def line(widths, *cells):
    print("  ".join([f"{cells[0]:<{widths[0]}}"] + [f"{cell:>{width}}" for cell, width in zip(cells[1:], widths[1:])]).rstrip(),
          flush=True)


def quartiles(values):
    ordered = sorted(values)
    return ordered[len(ordered) // 4], ordered[(3 * len(ordered)) // 4 - (len(ordered) % 4 == 0)]


def spread(ratios):
    """Their median, and in brackets their middle half; nothing where there are none."""
    return f"{median(ratios):.2f} ({quartiles(ratios)[0]:.2f}-{quartiles(ratios)[1]:.2f})" if ratios else ""


class Table:
    """Prints each part as soon as it is measured, and keeps its rows."""

    WIDTHS = (46, 13, 13, 19, 10)

    def __init__(self):
        self.rows = []
        self.title = ""

    def line(self, *cells):
        line(self.WIDTHS, *cells)

    def head(self):
        self.line("", "dlock", "limit", "ratio", "aim")

    def part(self, title, *command):
        self.title = title
        print(f"\n{title}\n$ {' '.join(['target/bench/' + str(command[0]), *map(str, command[1:])])}", flush=True)

    def ratio(self, what, ours, limit, unit, aim="", spread=None, form=".1f", at_least=False):
        """A row of two figures and their ratio; the spread is that of the ratios of single rounds."""
        ratio = ours / limit
        met = None if aim == "" else ratio >= aim if at_least else ratio <= aim
        self.keep(what, ours, unit, limit=limit, ratio=ratio, spread=spread, aim=aim, met=met)
        text = f"{ratio:.2f}" + (f" ({spread[0]:.2f}-{spread[1]:.2f})" if spread else "")
        shown = "" if met is None else f"{'>=' if at_least else '<='} {aim:.2f}" + ("" if met else " *")
        self.line(what, f"{ours:,{form}} {unit}", f"{limit:,{form}} {unit}", text, shown)

    def figure(self, what, value, unit, aim=None, form=",.0f"):
        """A row of one figure, with the most that it may be."""
        met = None if aim is None else value <= aim
        self.keep(what, value, unit, aim=aim, met=met)
        limit = f"{aim:{form}} {unit}".rstrip() if aim is not None else ""
        self.line(what, f"{value:{form}} {unit}".rstrip(), limit, "", {None: "", True: "met", False: "missed"}[met])

    def keep(self, what, value, unit, **more):
        kept = {name: value for name, value in more.items() if value not in (None, "")}
        self.rows.append({"part": self.title, "what": what.strip(), "value": value, "unit": unit, **kept})


class Bench(Table):
    """What a part is given: the table, the server, and what was measured so far, by part, for the plots."""

    def __init__(self, processes, directory, port, version, hiredis, quick):
        super().__init__()
        self.processes, self.directory, self.port, self.version = processes, directory, port, version
        self.hiredis, self.quick = hiredis, quick
        self.record = {"server": version, "load_before": os.getloadavg()[0]}

    def measure(self, *command):
        """What a program printed: the lines `name value`, `distribution_…` as lists."""
        return values_of(self.output_of(*command))

    def output_of(self, *command):
        return rest_of(start_program(self.processes, *command), command)


def write_json(name, content):
    (PROGRAMS / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_json(name):
    """What was kept under that name; nothing where nothing was."""
    try:
        return json.loads((PROGRAMS / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
