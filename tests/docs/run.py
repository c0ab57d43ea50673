#!/usr/bin/env python3
"""Compiles every block of C and Go in README.md and docs/: whole programs as they are, and lines of one inside a function
that has what the page speaks of. Whole programs run, too, with memory:// for a server.

The settings are those of tests/c/run.py.
"""

import os
import re
import shlex
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "c"))

import harness  # noqa: E402
from harness import INCLUDE, LIBRARY, TEMPORARY, Report, link_shared, run  # noqa: E402

URL = "memory://docs"

C_LINES = """#include <dlock.h>
#include <stdio.h>
void lines(dlock_options *options, dlock_locker *locker, dlock_lock *lock, dlock_queue *queue, dlock_error err);
void lines(dlock_options *options, dlock_locker *locker, dlock_lock *lock, dlock_queue *queue, dlock_error err)
{
    (void)options, (void)locker, (void)lock, (void)queue, (void)err;
%s
}
"""
GO_LINES = """package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/araminian/dlock"
)

var _ = fmt.Errorf
var _ = errors.Is
var _ time.Duration

func lines(ctx context.Context, locker *dlock.RedisLocker, lock *dlock.Lock, db *sql.DB, text string, done chan bool, err error) error {
	{
%s
	}
	return err
}

func main() { _ = lines }
"""
GO_MODULE = """module docs

go 1.24

require github.com/araminian/dlock v0.0.0

require github.com/google/uuid v1.6.0 // indirect

replace github.com/araminian/dlock => %s
"""

report = Report()


def blocks(path, language):
    """(line, text) of the blocks of that language."""
    text = path.read_text(encoding="utf-8")
    for found in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield text.count("\n", 0, found.start()) + 2, found.group(1)


def c(code, name):
    whole = "int main(" in code
    source, program = Path(TEMPORARY) / f"{name}.c", Path(TEMPORARY) / name
    source.write_text(code if whole else C_LINES % code, encoding="utf-8")
    link = link_shared() if whole else ["-c"]
    status, output = run([*shlex.split(os.environ.get("CC", "cc")), "-std=c11", "-Wall", "-Wextra", "-Werror", f"-I{INCLUDE}", "-o",
                          program, source, *link], 60)
    return program if whole and status == 0 else None, status, output


def go(code, name):
    whole = code.startswith("package main")
    directory = Path(TEMPORARY) / name
    directory.mkdir()
    (directory / "main.go").write_text(code if whole else GO_LINES % code, encoding="utf-8")
    (directory / "go.mod").write_text(GO_MODULE % (ROOT / "bindings" / "go"), encoding="utf-8")
    (directory / "go.sum").write_bytes((ROOT / "bindings" / "go" / "go.sum").read_bytes())
    environment = {**os.environ, "CGO_CFLAGS": f"-I{INCLUDE}", "CGO_LDFLAGS": f"-L{LIBRARY} -Wl,-rpath,{LIBRARY}"}
    status, output = run(["go", "build", "-o", directory / "program", "."], 240, cwd=directory, env=environment)
    return directory / "program" if whole and status == 0 else None, status, output


def main(_arguments):
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for language, compiled in (("c", c), ("go", go)):
            for line, code in blocks(path, language):
                name = f"{path.relative_to(ROOT)}:{line}"
                program, status, output = compiled(code, f"{path.stem}-{line}")
                report.line(status == 0, f"{name} compiles ({language})", output)
                # The README's names no server and so wants one at the usual port, which is the user's.
                if program and path.name != "README.md":
                    status, output = run([program, URL], 30)
                    report.line(status == 0 and "mine" in output, f"{name} runs ({language})", output)
    return report.end()


if __name__ == "__main__":
    harness.end_well(main, sys.argv[1:])
