#!/usr/bin/env python3
"""Runs the library from C, as its users do: compiles the examples and the programs of this directory against the header
and the built library, starts private servers, kills what is to be killed. One line a check, a count at the end.

    tests/c/run.py [part of a job's name …]       `--list` names the jobs

    DLOCK_INCLUDE_DIR    where dlock.h is; default include/
    DLOCK_LIB_DIR        where libdlock.so and libdlock.a are; default target/release/
    DLOCK_TEST_SERVER    the server; default redis-server on the PATH
    CC                   the C compiler; default cc
    DLOCK_RUN_UNDER      a command that the programs run under, such as valgrind with its options

The examples run linked with the shared and with the static library, each under valgrind, or, where there is none, built
with the compiler's leak sanitizer. Needs nothing but Python's standard library.
"""

import os
import re
import shlex
import shutil
import tempfile
import threading
from pathlib import Path

import crash
import harness
from harness import INCLUDE, LIBRARY, ROOT, SYSTEM_LIBRARIES, TEMPORARY, Agent, ClusterNode, Report, Server, link_shared, run
from private_server import certificates, start_service

CC = shlex.split(os.environ.get("CC", "cc"))
UNDER = shlex.split(os.environ.get("DLOCK_RUN_UNDER", ""))
EXAMPLES = ROOT / "examples" / "c"
WARNINGS = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
# Jobs that run at once: most of them wait for clocks.
WORKERS = 3

CONTENDERS = "1 attempts\n1 acquired\n2 attempts\n1 released\n2 acquired\n2 released\n"
TIMEOUTS = """try: held by somebody else
timeout of 100 ms: DLOCK_ERR_LOCK_TIMEOUT
backoff: acquired
release by the old holder: DLOCK_ERR_NOT_OWNER
"""
MINIMAL = "holding the lock: nobody else does, in any process on any machine\nreleased\n"
FENCED_WORK = """slow: 3 writes accepted
quick: 3 writes accepted
slow: late write refused, its token is older
slow: the lock is lost, I stop
6 writes in the resource
"""
EVENT_LOOP = [f"job {number} acquired" for number in range(5)] + \
             [f"job {number} released" for number in (0, 1, 2, 4)] + ["job 3 lost its lock"]
# Arguments after the URL, and what is printed. (The full pauses of the contenders are the README's; a fifth will do.)
EXAMPLE_RUNS = {
    "minimal": ([], MINIMAL),
    "contenders": (["20"], CONTENDERS),
    "timeouts": ([], TIMEOUTS),
    "fenced_work": ([], FENCED_WORK),
    "event_loop": ([], None),
    "deployed": ([], "holding the lock\n"),
}

report = Report()


def link_static():
    return [str(LIBRARY / "libdlock.a"), *SYSTEM_LIBRARIES]


def compile_program(source, name, libraries, *flags):
    """The compiled program, or None after a line that says why there is none. Optimised as a user would."""
    program = Path(TEMPORARY) / name
    command = [*CC, *WARNINGS, "-O1", "-g", *flags, f"-I{INCLUDE}", "-o", program, source, *libraries]
    status, output = run(command, 120)
    report.line(status == 0, f"compiles without a warning: {name}", output)
    return program if status == 0 else None


# The examples.

def examples():
    checker = leak_checker()
    report.note(f"leaks are looked for with {checker[0]}")
    for linking, libraries in (("shared", link_shared()), ("static", link_static())):
        for source in sorted(EXAMPLES.glob("*.c")):
            example(source, linking, libraries, checker)


def leak_checker():
    """What finds leaks: (name, flags for the compiler, command before the program)."""
    valgrind = shutil.which("valgrind")
    if valgrind:
        kinds = "definite,indirect,possible"
        return "valgrind", [], [valgrind, "-q", "--vgdb=no", "--leak-check=full", f"--show-leak-kinds={kinds}",
                                f"--errors-for-leak-kinds={kinds}", "--error-exitcode=99",
                                f"--suppressions={harness.HERE / 'valgrind.supp'}"]
    return "the address and leak sanitizers", ["-fsanitize=address,leak"], []


def example(source, linking, libraries, checker):
    program = compile_program(source, f"{source.stem}-{linking}", libraries)
    if program is None:
        return
    expected = EXAMPLE_RUNS.get(source.stem)
    if expected is None:
        report.line(False, f"example {source.stem} has an expected output in run.py")
        return
    name, flags, prefix = checker
    with Server() as server:
        arguments = [server.url, *expected[0]]
        status, output = run([program, *arguments], 30)
        report.line(status == 0 and is_expected(source.stem, output, expected[1]),
                    f"example {source.stem}, {linking}: prints what it should", f"exit status {status}\n{output}")
        checked = compile_program(source, f"{source.stem}-{linking}-leaks", libraries, *flags) if flags else program
        if checked is None:
            return
        # Slower by far: what is checked is the end, not the pace at which it came.
        status, output = run([*prefix, checked, *arguments], 90)
        report.line(status == 0, f"example {source.stem}, {linking}: no leak, no bad access ({name})",
                    f"exit status {status}\n{output}")
        report.check(f"example {source.stem}, {linking}: only the counter remains", server.expect_only_counter)


def is_expected(name, output, expected):
    if name != "event_loop":
        return output == expected
    lines = output.splitlines()
    first_four = [line for line in lines if re.fullmatch(r"job [0-3] acquired", line)]
    # One after the other, as they were submitted; the job with another lock comes in anywhere.
    return sorted(lines) == sorted(EVENT_LOOP) and first_four == sorted(first_four)


def example_without_server():
    """What goes wrong is said on stderr and by the exit status."""
    program = compile_program(EXAMPLES / "minimal.c", "minimal-refused", link_shared())
    if program is None:
        return
    status, output = run([program, f"redis://127.0.0.1:{harness.free_port()}"], 30)
    report.line(status == 1 and "DLOCK_ERR_NOT_CONNECTED" in output, "example minimal: an error ends it with a message",
                f"exit status {status}\n{output}")
    status, output = run(["make", "-C", EXAMPLES, "-n", f"DLOCK_LIB_DIR={LIBRARY}"], 30)
    report.line(status == 0, "examples: the Makefile names every program", output)
    for source in EXAMPLES.glob("*.c"):
        report.line(f"-o {source.stem} " in output, f"examples: the Makefile builds {source.stem}", output)


# TLS.

class SecuredServer(Server):
    """A server that speaks TLS at `url`, with certificates made by openssl, and without it at its usual port."""

    def __init__(self):
        self.secured_port = harness.free_port()
        self.ca, arguments = certificates(tempfile.mkdtemp(dir=TEMPORARY))  # RSA; the Rust tests have elliptic curves
        super().__init__("--tls-port", self.secured_port, *arguments, binary=server_with_tls())
        self.url = f"rediss://127.0.0.1:{self.secured_port}?ca={self.ca}"


def server_with_tls():
    """The first of the servers that was built with TLS: it stumbles over what comes behind `tls-port`, not over that."""
    named = os.environ.get("DLOCK_TEST_SERVERS", "").split(os.pathsep)
    for binary in [Server.binary, *filter(None, named)]:
        if "'tls-port" not in run([binary, "--port", "0", "--tls-port", "0", "--version"], 20)[1]:
            return binary
    raise RuntimeError(f"neither {Server.binary} nor any of DLOCK_TEST_SERVERS was built with TLS")


def secured():
    """Programs of every kind over TLS, linked with both libraries; the errors of a URL that does not fit."""
    name, flags, prefix = leak_checker()
    if prefix:
        # Valgrind takes what the assembly of the ciphers computes for uninitialised. Leaks and bad accesses remain.
        prefix = [*prefix, "--undef-value-errors=no"]
    with SecuredServer() as server:
        for linking, libraries in (("shared", link_shared()), ("static", link_static())):
            for source, expected in (("deployed", "holding the lock\n"), ("minimal", MINIMAL), ("event_loop", None)):
                program = compile_program(EXAMPLES / f"{source}.c", f"{source}-{linking}-tls", libraries, *flags)
                if program is None:
                    continue
                status, output = run([program, server.url], 30)
                report.line(status == 0 and is_expected(source, output, expected),
                            f"TLS: example {source}, {linking}: prints what it should", output)
                if prefix and source == "deployed":
                    status, output = run([*prefix, program, server.url], 90)
                    report.line(status == 0, f"TLS: example {source}, {linking}: no leak, no bad access ({name})", output)
        secured_programs(server)
        program = compile_program(EXAMPLES / "deployed.c", "deployed-refused", link_shared())
        if program is None:
            return
        for what, url, words in (
                ("no CA", f"rediss://user:secret@127.0.0.1:{server.secured_port}", "no CA"),
                ("another name", f"{server.url}&server_name=elsewhere.example", "not for \"elsewhere.example\""),
                ("no TLS", f"redis://user:secret@127.0.0.1:{server.secured_port}", "rediss://")):
            status, output = run([program, url], 30)
            good = status == 1 and "DLOCK_ERR_NOT_CONNECTED" in output and words in output and "secret" not in output
            report.line(good, f"TLS: {what} is refused and named", output)
        report.check("TLS: only the counter remains", server.expect_only_counter)
    with Server() as server:
        server.command("CONFIG", "SET", "maxmemory", "100mb")
        server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        status, output = run([program, server.url + "?client_name=x"], 30)
        lines = output.splitlines()
        good = status == 0 and len(lines) == 2 and lines[0].startswith("warning: maxmemory-policy is allkeys-lru")
        report.line(good, "example deployed: tells of a policy that evicts", output)


def secured_programs(server):
    for name, seconds in (("fork", 120), ("queue", 120)):
        program = compile_program(harness.HERE / f"{name}.c", f"{name}-tls", link_shared())
        if program is not None:
            plain = dict(os.environ, DLOCK_TEST_PLAIN_URL=f"redis://127.0.0.1:{server.port}")
            status, output = run([*UNDER, program, server.url], seconds * (4 if UNDER else 1), env=plain)
            report.program(f"{name}, TLS", status, output)
    program = compile_program(harness.HERE / "dlopen.c", "dlopen-tls", ["-ldl"])
    if program is not None:
        status, output = run([program, server.url, LIBRARY / "libdlock.so"], 60)
        report.program("dlopen, TLS", status, output)


# Sentinel.

def behind_sentinels():
    """Programs of both kinds on a server that sentinels name, before and after its failover; the errors of a URL."""
    directory = tempfile.mkdtemp(dir=TEMPORARY)
    url, primary, sentinels = start_service(harness, directory, Server.binary)
    programs = [(linking, compile_program(EXAMPLES / "deployed.c", f"deployed-{linking}-sentinel", libraries))
                for linking, libraries in (("shared", link_shared()), ("static", link_static()))]
    programs = [(linking, program) for linking, program in programs if program is not None]
    for when in ("before", "after"):
        for linking, program in programs:
            status, output = run([program, f"{url}?client_name=x"], 30)
            report.line(status == 0 and output == "holding the lock\n",
                        f"Sentinel: example deployed, {linking}: prints what it should {when} a failover", output)
        if when == "before":
            harness.kill(primary)
    hosts = ",".join(f"127.0.0.1:{port}" for port in sentinels)
    for what, bad, words in (("an unknown service", f"redis-sentinel://user:secret@{hosts}/other", "no sentinel knows it"),
                             ("no service", f"redis-sentinel://user:secret@{hosts}", "must name the service")):
        for linking, program in programs[:1]:
            status, output = run([program, bad], 30)
            report.line(status == 1 and words in output and "secret" not in output, f"Sentinel: {what} is refused and named", output)
    report.line(len(programs) == 2, "Sentinel: the programs were built")


# The programs of this directory.

def on_server(name, seconds, arguments=()):
    """Runs one program against a server of its own; afterwards only the counter may be there."""
    program = compile_program(harness.HERE / f"{name}.c", name, link_shared())
    if program is None:
        return
    with Server() as server:
        status, output = run([*UNDER, program, server.url, *arguments], seconds * (4 if UNDER else 1))
        report.program(name, status, output)
        report.check(f"only the counter remains [{name}]", server.expect_only_counter)


def on_cluster():
    """By the URL alone: an example, waiting in a queue, and fork, whose child has descriptors of all kinds to close."""
    with ClusterNode() as node:
        program = compile_program(EXAMPLES / "event_loop.c", "event_loop-cluster", link_shared())
        if program is not None:
            status, output = run([program, node.url], 30)
            report.line(status == 0 and is_expected("event_loop", output, None), "cluster: example event_loop", output)
    for name in ("queue", "fork"):
        program = compile_program(harness.HERE / f"{name}.c", f"{name}-cluster", link_shared())
        if program is not None:
            with ClusterNode() as node:
                plain = dict(os.environ, DLOCK_TEST_PLAIN_URL=f"redis://127.0.0.1:{node.port}")
                status, output = run([*UNDER, program, node.url], 120 * (4 if UNDER else 1), env=plain)
                report.program(f"{name}, cluster", status, output)
                report.check(f"only counters remain [{name}, cluster]", node.expect_only_counter)


def on_memory(name, seconds, arguments=()):
    program = compile_program(harness.HERE / f"{name}.c", f"{name}-memory", link_shared())
    if program is not None:
        status, output = run([*UNDER, program, f"memory://{name}", *arguments], seconds * (4 if UNDER else 1))
        report.program(f"{name}, memory store", status, output)


def fork():
    """In the child every function of the header is called, but for those that make what a child inherits."""
    declared = set(re.findall(r"\b(dlock_\w+)\(", re.sub(r"/\*.*?\*/", "", (INCLUDE / "dlock.h").read_text(), flags=re.S)))
    called = set(re.findall(r"\b(dlock_\w+)\(", (harness.HERE / "fork.c").read_text()))
    report.line(len(declared) > 30 and declared <= called, "fork: every function of the header is called in a child",
                f"declared: {len(declared)}; not called: {sorted(declared - called)}")
    on_server("fork", 120)


def dlopen():
    program = compile_program(harness.HERE / "dlopen.c", "dlopen", ["-ldl"])
    if program is None:
        return
    with Server() as server:
        for url in (server.url, "memory://dlopen"):
            status, output = run([program, url, LIBRARY / "libdlock.so"], 60)
            report.program(f"dlopen, {url.split(':')[0]}", status, output)


def panics():
    """Builds the library anew, with the feature that makes it panic, in a directory of its own."""
    target = Path(os.environ.get("DLOCK_PANIC_TARGET_DIR") or LIBRARY.parent / "provoke-panic")
    status, output = run(["nice", "cargo", "rustc", "--locked", "--lib", "--crate-type", "cdylib", "--features",
                          "provoke-panic", "--manifest-path", ROOT / "Cargo.toml", "--target-dir", target], 280)
    library = target / "debug" / "libdlock.so"
    if status != 0 or not library.exists():
        report.line(False, "the library with the feature provoke-panic is built", output)
        return
    # Beside the library under the name that programs ask for.
    directory = Path(TEMPORARY) / "provoke-panic"
    directory.mkdir()
    names = {name.decode() for name in re.findall(rb"libdlock\.so[.0-9]*", library.read_bytes())} | {"libdlock.so"}
    for name in names:
        (directory / name.rstrip(".")).symlink_to(library)
    program = compile_program(harness.HERE / "panic.c", "panic", link_shared(directory))
    if program is None:
        return
    with Server() as server:
        status, output = run([program, server.url], 60, env=dict(os.environ, LD_LIBRARY_PATH=str(directory)))
        report.program("panic", status, output)


def with_agent(checks):
    def job():
        agent_ready.wait()
        if Agent.program is None:
            report.line(False, f"{checks.__name__} have no agent to drive")
        else:
            checks(report)
    return job


agent_ready = threading.Event()


def compile_agent():
    Agent.program = compile_program(harness.HERE / "agent.c", "agent", link_shared())
    agent_ready.set()


JOBS = {
    "panic": panics,
    "crash": with_agent(crash.crash_checks),
    "semantics": lambda: on_server("semantics", 200),
    "semantics-memory": lambda: on_memory("semantics", 200),
    "refused": with_agent(crash.refusal_checks),
    "examples": examples,
    "queue": lambda: on_server("queue", 120),
    "queue-memory": lambda: on_memory("queue", 120),
    "errors": lambda: on_server("errors", 90),
    "limits": lambda: on_server("limits", 90),
    "limits-memory": lambda: on_memory("limits", 90),
    "random": lambda: on_server("random", 60, ["6"]),
    "random-memory": lambda: on_memory("random", 60, ["4"]),
    "foreign": with_agent(crash.foreign_checks),
    "tls": secured,
    "sentinel": behind_sentinels,
    "fork": fork,
    "fork-memory": lambda: on_memory("fork", 90),
    "dlopen": dlopen,
    "cluster": on_cluster,
    "makefile": example_without_server,
    # Last, and therefore nearly alone.
    "threads": lambda: on_server("threads", 150),
}


def main(arguments):
    if any(name in ("crash", "refused", "foreign") for name in harness.chosen(JOBS, arguments)):
        compile_agent()
    return harness.run_jobs(JOBS, arguments, report, WORKERS)


if __name__ == "__main__":
    harness.run_main(main, JOBS, (INCLUDE / "dlock.h", LIBRARY / "libdlock.so", LIBRARY / "libdlock.a"))
