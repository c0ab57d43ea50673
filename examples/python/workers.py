"""A pool of processes, each with a locker of its own, counts without losing a count: workers.py [URL]"""

import multiprocessing
import sys
import tempfile
from pathlib import Path

import dlock

locker = None


def begin(arguments):
    """In each process: nothing of the parent's is used."""
    global locker
    locker = dlock.Locker(*arguments)


def count(path):
    with locker.lock("counter", group="examples"):
        number = int(path.read_text())
        path.write_text(str(number + 1))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "counter")
        path.write_text("0")
        with multiprocessing.get_context("spawn").Pool(3, begin, [sys.argv[1:]]) as pool:
            pool.map(count, [path] * 60)
        print("counted to", path.read_text())
