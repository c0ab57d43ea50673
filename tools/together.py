#!/usr/bin/env python3
"""Runs several commands, two at a time, and prints what each said when it has ended: most tests wait for clocks and events, and
leave the processors to others. Knows nothing about what it runs.

    tools/together.py COMMAND… [-- COMMAND…]…      each as it stands
    tools/together.py --cargo ARGUMENT…            the test programs that `cargo test ARGUMENT…` would run one after the other

The exit status is 0 only where all ended well. What is started first is named first: give the longest first.
"""

import concurrent.futures
import json
import subprocess
import sys
from pathlib import Path

LANES = 2


def run(title, command, where=None):
    done = subprocess.run(command, cwd=where, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return title, done.returncode, done.stdout.decode(errors="replace")


def all_of(commands):
    """Runs (title, command, directory); the exit status."""
    failed = False
    with concurrent.futures.ThreadPoolExecutor(LANES) as lanes:
        for future in concurrent.futures.as_completed([lanes.submit(run, *command) for command in commands]):
            title, status, output = future.result()
            print(title, output, sep="\n", flush=True)
            if status != 0:
                failed = True
                print(f"# exit status {status}: {title.strip()}", flush=True)
    return 1 if failed else 0


def test_programs(arguments):
    """The test programs that cargo builds for these arguments: (title, command, directory)."""
    build = subprocess.run(["cargo", "test", "--no-run", "--message-format", "json-render-diagnostics", *arguments],
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    if build.returncode != 0:
        sys.exit(build.returncode)
    programs = []
    for line in build.stdout.decode().splitlines():
        message = json.loads(line)
        if message.get("executable") and message.get("profile", {}).get("test"):
            package = Path(message["manifest_path"]).parent
            source = Path(message["target"]["src_path"]).relative_to(package)
            title = f"     Running {source} ({message['executable']})"
            programs.append((title, [message["executable"], "--color", "never"], str(package)))
    return programs


def split(words):
    """The commands between `--`."""
    commands = [[]]
    for word in words:
        if word == "--":
            commands.append([])
        else:
            commands[-1].append(word)
    return commands


def main(arguments):
    if arguments[:1] == ["--cargo"]:
        # A big program tends to be a long one.
        programs = sorted(test_programs(arguments[1:]), key=lambda program: -Path(program[1][0]).stat().st_size)
        documents = ("   Doc-tests", ["cargo", "test", "--doc", *arguments[1:]], None)
        return all_of([*programs, documents])
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    return all_of([(f"$ {' '.join(command)}", command, None) for command in split(arguments)])


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
