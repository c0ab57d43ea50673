#!/usr/bin/env python3
"""Runs include/dlock.hpp as its users do: the programs of this directory and the examples, by g++ as C++17 and by
clang++ as C++20, on private servers, with the sanitizers of the compiler. Each as the other standard is compiled and not run, as
is the code of docs/cpp.md and README.md.

    tests/cpp/run.py [part of a job's name …]       `--list` names the jobs

    CXX    the compilers, separated by ':'; default g++:clang++, of which one may be missing, which is said in a line of its own
    DLOCK_SANITIZERS    the flags for other sanitizers than those for addresses and undefined behaviour
    DLOCK_INCLUDE_DIR, DLOCK_LIB_DIR, DLOCK_TEST_SERVER    as for tests/c/run.py
"""

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "c"))

import harness  # noqa: E402
from harness import INCLUDE, LIBRARY, ROOT, TEMPORARY, Report, Server, free_port, link_shared, run  # noqa: E402

WANTED = os.environ.get("CXX", "g++:clang++").split(":")
COMPILERS = [compiler for compiler in WANTED if shutil.which(compiler)]
EXAMPLES = ROOT / "examples" / "cpp"
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wsign-conversion", "-Wshadow", "-Wold-style-cast", "-Wswitch-enum",
            "-Weffc++", "-Werror"]
SANITIZERS = shlex.split(os.environ.get("DLOCK_SANITIZERS") or "-fsanitize=address,undefined -fno-sanitize-recover=undefined")
WITHOUT = ["-fno-exceptions", "-fno-rtti"]
# Compiling takes most of the time, and there may be no more than two processors.
WORKERS = 3

# What the examples print.
HELLO = r"held, with the token \d+\nreleased\n"
FENCED = r"""the first worker writes with token (\d+): taken
the second worker writes with token (?!\1\n)\d+: taken
the first worker, too late, writes with token \1: refused
the first worker: DLOCK_ERR_(?:LOST|NOT_OWNER)
"""
COROUTINE = r"(?:worker \d has token \d+\n){5}5 workers, one thread\n"
EXAMPLE_RUNS = {"hello": ("17", HELLO), "fenced_write": ("17", FENCED), "coroutine": ("20", COROUTINE)}

report = Report()


def compile_program(compiler, standard, source, *flags):
    """The compiled program, or None after a line that says why there is none."""
    program = Path(TEMPORARY) / f"{source.stem}-{compiler.split('/')[-1]}-{standard}"
    status, output = run([compiler, f"-std=c++{standard}", *WARNINGS, "-g1", *flags, f"-I{INCLUDE}", "-o", program, source,
                          "-pthread", *link_shared()], 120)
    report.line(status == 0 and not output, f"compiles without a warning: {source.stem}, {compiler}, C++{standard}", output)
    return program if status == 0 else None


def program(name, compiler, standard, *flags):
    """Runs one program on a server of its own, where only the counter may be left, and without a server."""
    def job():
        compiled = compile_program(compiler, standard, HERE / f"{name}.cpp", *flags)
        if compiled is None:
            return
        what = f"{name}, {compiler}, C++{standard}"
        with Server() as server:
            status, output = run([compiled, server.url], 150)
            report.program(what, status, output)
            report.check(f"only the counter remains [{what}]", server.expect_only_counter)
        status, output = run([compiled, f"memory://{name}"], 150)
        report.program(f"{what}, memory store", status, output)
    return job


def mixed(compiler):
    """One program of two parts, one of them compiled without exceptions: as an object that the linker sees first, and as a shared
    library that hides its symbols."""
    def job():
        part, library, main = (Path(TEMPORARY) / name for name in ("mixed_plain.o", "libmixed_plain.so", "mixed.o"))
        command = [compiler, "-std=c++20", *WARNINGS, "-g1", "-fPIC", "-fvisibility=hidden", f"-I{INCLUDE}", "-c"]
        for source, made, flags in (("mixed_plain", part, WITHOUT), ("mixed", main, [])):
            status, output = run([*command, *flags, HERE / f"{source}.cpp", "-o", made], 120)
            report.line(status == 0 and not output, f"compiles without a warning: {source}, {compiler}, C++20", output)
        run([compiler, "-shared", part, "-o", library, *link_shared()], 60)
        for what, parts in (("one program", [part, main]),
                            ("a shared library", [main, library, f"-Wl,-rpath,{TEMPORARY}"])):
            program = Path(TEMPORARY) / "mixed"
            program.unlink(missing_ok=True)
            status, output = run([compiler, *parts, "-o", program, "-pthread", *link_shared()], 60)
            if status == 0:
                status, output = run([program, "memory://mixed"], 60)
            report.program(f"mixed as {what}, {compiler}", status, output)
    return job


def examples(compiler):
    def job():
        report.line(sorted(EXAMPLE_RUNS) == sorted(source.stem for source in EXAMPLES.glob("*.cpp")),
                    "every example has an expected output in run.py")
        with Server() as server:
            for name, (standard, expected) in EXAMPLE_RUNS.items():
                compiled = compile_program(compiler, standard, EXAMPLES / f"{name}.cpp", *SANITIZERS)
                if compiled is None:
                    continue
                status, output = run([compiled, server.url], 60)
                report.line(status == 0 and re.fullmatch(expected, output) is not None,
                            f"example {name}, {compiler}: prints what it should", f"exit status {status}\n{output}")
                status, output = run([compiled, f"redis://127.0.0.1:{free_port()}"], 60)
                report.line(status == 1 and "DLOCK_ERR_NOT_CONNECTED" in output,
                            f"example {name}, {compiler}: an error ends it with a message", f"exit status {status}\n{output}")
            report.check(f"only the counter remains [examples, {compiler}]", server.expect_only_counter)
    return job


def documented():
    """The blocks of code of the documents: whole programs as they are, all others in a function that has what they use."""
    text = "".join(path.read_text() for path in (ROOT / "docs" / "cpp.md", ROOT / "README.md"))
    programs, parts = [], {"17": [], "20": []}
    for note, code in re.findall(r"(<!-- C\+\+20 -->\n)?```cpp\n(.*?)```", text, re.DOTALL):
        if "int main" in code:
            programs.append(("20" if note else "17", code))
        else:
            parts["20" if note else "17"].append(code)
    report.line(len(programs) > 0 and all(parts.values()), "the documents have code of each kind")
    for standard, blocks in parts.items():
        includes, functions = set(), []
        for number, code in enumerate(blocks):
            lines = code.splitlines()
            includes.update(line for line in lines if line.startswith("#include"))
            body = "\n".join(line for line in lines if not line.startswith("#include"))
            # What is defined stands outside of a function, and may be a coroutine.
            outside = re.match(r"(?:struct|class|task|void|bool)\b.*\{$", body.lstrip().split("\n", 1)[0])
            functions.append(f"namespace block_{number} {{\n{body}\n}}\n" if outside else
                             f"namespace block_{number} {{\nvoid run(dlock::locker &locker, dlock::mutex &report, "
                             f"std::string_view url) {{\n(void)locker, (void)report, (void)url;\n{body}\n}}\n}}\n")
        prelude = (HERE / "documented.hpp").read_text()
        programs.append((standard, "\n".join(sorted(includes)) + "\n" + prelude + "\n".join(functions)))
    for number, (standard, code) in enumerate(programs):
        source = Path(TEMPORARY) / f"documented_{number}.cpp"
        source.write_text(code)
        for compiler in COMPILERS:
            # The parts need not use all that they have.
            status, output = run([compiler, f"-std=c++{standard}", *WARNINGS, "-Wno-unused", "-fsyntax-only", f"-I{INCLUDE}",
                                  source], 60)
            report.line(status == 0 and not output, f"documents: code {number} compiles, {compiler}", output)


def compiles(compiler, standard):
    """Through the compiler only, for a standard whose programs are run by the other one."""
    def job():
        with_exceptions = [*(HERE / f"{name}.cpp" for name in ("mutex", "waiting", "errors", "fork")),
                           *(EXAMPLES / f"{name}.cpp" for name, (least, _) in EXAMPLE_RUNS.items() if least <= standard)]
        for sources, flags in ((with_exceptions, []), ([HERE / "plain.cpp"], WITHOUT)):
            names = ", ".join(source.stem for source in sources)
            status, output = run([compiler, f"-std=c++{standard}", *WARNINGS, *flags, "-fsyntax-only", f"-I{INCLUDE}",
                                  *sources], 120)
            report.line(status == 0 and not output, f"compiles without a warning: {names}, {compiler}, C++{standard}", output)
    return job


def jobs():
    """Each compiler and each standard, but not each of them with each: compiling takes most of the time."""
    made = {}
    for number, compiler in enumerate(COMPILERS):
        mine, other = ("17", "20") if number % 2 == 0 else ("20", "17")
        made[f"mutex-{compiler}"] = program("mutex", compiler, mine, *SANITIZERS)
        made[f"coroutines-{compiler}"] = program("coroutines", compiler, "20", *SANITIZERS)
        made[f"waiting-{compiler}"] = program("waiting", compiler, "20", *SANITIZERS)
        made[f"errors-{compiler}"] = program("errors", compiler, mine, *SANITIZERS)
        made[f"plain-{compiler}"] = program("plain", compiler, mine, *SANITIZERS, *WITHOUT)
        made[f"compiles-{compiler}"] = compiles(compiler, other)
    if not made:
        return made
    made["examples"] = examples(COMPILERS[0])
    made["mixed"] = mixed(COMPILERS[0])
    made["fork"] = program("fork", COMPILERS[0], "17")
    made["documented"] = documented
    return made


JOBS = jobs()


def main(arguments):
    if not COMPILERS:
        harness.fail_early(f"no C++ compiler: {', '.join(WANTED)}")
    for compiler in WANTED:
        if compiler not in COMPILERS:
            report.line(True, f"notice: {compiler} is not installed, so what it would compile was not tried")
    return harness.run_jobs(JOBS, arguments, report, WORKERS)


if __name__ == "__main__":
    harness.run_main(main, JOBS, (INCLUDE / "dlock.hpp", LIBRARY / "libdlock.so"))
