"""The tests run against a server of their own, on a free port; what they import as dlock is the installed wheel."""

import faulthandler
import itertools
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools"))
import private_server  # noqa: E402

import dlock  # noqa: E402

PATIENCE = 20
numbers = itertools.count(1)
# A run that hangs says where, and ends with its servers; the time is for machines that do much else.
LIMIT = 200
faulthandler.dump_traceback_later(LIMIT + 20, exit=True)  # also where no thread of Python's can run


class Server:
    """A server, and a client that looks behind the library's back."""

    def __init__(self, processes, directory):
        self.processes, self.directory = processes, directory
        self.port, self.process = private_server.start_server(processes, directory, private_server.default_server())
        self.url = f"redis://127.0.0.1:{self.port}"
        self.ask = private_server.Resp(self.port)

    def waiters(self, name, group="test"):
        """How many stand in the queue for a lock."""
        return sum(self.ask("ZCARD", key) for key in self.ask("KEYS", f":dlock:wait:*:{group}:{name}"))

    def holder(self, name, group="test"):
        value = self.ask("GET", f"{group}:{name}")
        return value.decode().split(":")[0] if value else None


@pytest.fixture(scope="session")
def processes():
    processes = private_server.Processes()

    def give_up():
        faulthandler.dump_traceback()
        processes.stop()
        os._exit(1)

    limit = threading.Timer(LIMIT, give_up)
    limit.daemon = True
    limit.start()
    yield processes
    limit.cancel()
    processes.stop()


@pytest.fixture(scope="session")
def server(processes):
    with tempfile.TemporaryDirectory(prefix="dlock-python-") as directory:
        server = Server(processes, directory)
        yield server
        server.ask.close()
        processes.end(server.process)


@pytest.fixture
def own_server(processes):
    """For tests that harm it."""
    with tempfile.TemporaryDirectory(prefix="dlock-python-") as directory:
        server = Server(processes, directory)
        yield server
        server.ask.close()
        if server.process in processes.running:
            processes.end(server.process)


@pytest.fixture
def silent():
    """The URL of one that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def locker(server):
    with dlock.Locker(server.url) as locker:
        yield locker


@pytest.fixture
def name():
    """A lock that no other test uses."""
    return f"lock-{next(numbers)}"


def eventually(condition, what):
    """Waits for what nothing announces."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"it never came to pass: {what}"
        time.sleep(0.002)


def program(text, *arguments, **options):
    """Starts a Python program that has the same dlock."""
    return subprocess.Popen([sys.executable, "-c", text, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            stdin=subprocess.PIPE, universal_newlines=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}, **options)


def run(text, *arguments):
    """What a program printed; it must end well."""
    process = program(text, *arguments)
    try:
        output, errors = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = process.communicate()
        pytest.fail(f"the program does not end\n{output}{errors}")
    assert process.returncode == 0, f"{process.returncode}\n{output}{errors}"
    assert errors == ""
    return output
