"""A private Redis or Valkey server on a free port, a client for it, and the end of whatever was started: for the demo, the
benchmarks, the soak and the tests. Knows nothing of locks.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

SERVERS = Path(__file__).resolve().parent / "servers.py"


class Failed(Exception):
    """What was asked for cannot be done; the text says why."""


class Processes:
    """What was started, each in a group of its own, so that Ctrl-C reaches this program only, and all is stopped."""

    def __init__(self):
        self.running = []

    def start(self, command, **options):
        process = subprocess.Popen([str(part) for part in command], start_new_session=True, **options)
        self.running.append(process)
        return process

    def end(self, process):
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self.running.remove(process)

    def stop(self):
        for process in list(self.running):
            self.end(process)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class RespError(Exception):
    """An error that the server answered."""


class Resp:
    """A connection to a server: enough of RESP2 for all that is asked here."""

    def __init__(self, port, password=None):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=5)
        self.file = self.socket.makefile("rb")
        if password:
            self("AUTH", password)

    def __call__(self, *words):
        words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        message = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
        self.socket.sendall(message)
        reply = self.read()
        if isinstance(reply, RespError):
            raise reply
        return reply

    def read(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the server closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest.decode()
        if kind == b"-":
            return RespError(rest.decode())
        if kind == b":":
            return int(rest)
        if int(rest) < 0:
            return None
        if kind == b"$":
            return self.file.read(int(rest) + 2)[:-2]
        return [self.read() for _ in range(int(rest))]

    def close(self):
        self.file.close()
        self.socket.close()


def default_server():
    """The path of a server, fetched where none is installed."""
    found = subprocess.run([sys.executable, str(SERVERS), "default"], stdout=subprocess.PIPE)
    if found.returncode != 0:
        raise Failed("no server to run against")
    return found.stdout.decode().strip()


def start_server(processes, directory, path):
    """The port and the process of a server of that path, which keeps nothing."""
    port = free_port()
    log = Path(directory) / f"server-{port}.log"
    with open(log, "wb") as output:
        server = processes.start([path, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                                  "--dir", directory], stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    end = time.monotonic() + 10
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(OSError, RespError):
            connection = Resp(port)
            try:
                if connection("PING") == "PONG":
                    return port, server
            finally:
                connection.close()
        time.sleep(0.02)
    raise Failed("the server does not start:\n" + log.read_text(errors="replace"))
