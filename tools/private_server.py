"""A private Redis or Valkey server on a free port, or a service of several, a client, and the end of whatever was started:
for the demo, the benchmarks, the soak and the tests. Knows nothing of locks.
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


def start_server(processes, directory, path, *arguments, port=None):
    """The port and the process of a server of that path, which keeps nothing. `processes` has a `start`."""
    port = port or free_port()
    command = [path, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", directory, *arguments]
    return port, start_listener(processes, directory, port, command)


def start_listener(processes, directory, port, command):
    """The process of what answers at that port."""
    log = Path(directory) / f"server-{port}.log"
    with open(log, "wb") as output:
        server = processes.start(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    end = time.monotonic() + 10
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(OSError, RespError):
            connection = Resp(port)
            try:
                if connection("PING") == "PONG":
                    return server
            finally:
                connection.close()
        time.sleep(0.02)
    raise Failed("the server does not start:\n" + log.read_text(errors="replace"))


def certificates(directory):
    """A CA of one's own and a certificate for 127.0.0.1, made by openssl: the CA's file, and what a server of TLS is told."""
    ca, key, cert, cert_key, request, extensions = (str(Path(directory) / name) for name in (
        "ca.pem", "ca.key", "server.pem", "server.key", "request", "extensions"))
    Path(extensions).write_text("subjectAltName=IP:127.0.0.1\n")
    rsa = ["-newkey", "rsa:2048", "-nodes"]
    for command in (["req", "-x509", *rsa, "-keyout", key, "-out", ca, "-subj", "/CN=ca", "-days", "2"],
                    ["req", *rsa, "-keyout", cert_key, "-out", request, "-subj", "/CN=server"],
                    ["x509", "-req", "-in", request, "-CA", ca, "-CAkey", key, "-CAcreateserial", "-out", cert, "-days", "2",
                     "-extfile", extensions]):
        try:
            made = subprocess.run(["openssl", *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, timeout=30)
        except (OSError, subprocess.TimeoutExpired) as problem:
            raise Failed(f"openssl: {problem}")
        if made.returncode != 0:
            raise Failed(f"openssl {command[0]}: {made.stdout.decode(errors='replace')}")
    return ca, ["--tls-cert-file", cert, "--tls-key-file", cert_key, "--tls-ca-cert-file", ca, "--tls-auth-clients", "no"]


SERVICE = "mymaster"


def start_service(processes, directory, path, down_after_ms=1000):
    """A primary, a replica and three sentinels: the URL, the primary's process, and the sentinels' ports. Returns when all
    know each other."""
    port, primary = start_server(processes, directory, path)
    replica = ("--replicaof", "127.0.0.1", port, "--repl-diskless-sync-delay", "0")
    start_server(processes, directory, path, *replica)
    sentinels = []
    for _ in range(3):
        own = free_port()
        file = Path(directory) / f"sentinel-{own}.conf"
        file.write_text(f"bind 127.0.0.1\nport {own}\ndir {directory}\nsentinel monitor {SERVICE} 127.0.0.1 {port} 2\n"
                        f"sentinel down-after-milliseconds {SERVICE} {down_after_ms}\n")
        start_listener(processes, directory, own, [path, file, "--sentinel"])
        sentinels.append(own)
    until("the sentinels find each other", lambda: all(map(knows_all, sentinels)))
    hosts = ",".join(f"127.0.0.1:{own}" for own in sentinels)
    return f"redis-sentinel://{hosts}/{SERVICE}", primary, sentinels


def knows_all(sentinel):
    """Does it know the replica and the two other sentinels?"""
    words = ask(sentinel, "SENTINEL", "MASTER", SERVICE)
    fields = dict(zip(words[::2], words[1::2]))
    return fields[b"flags"] == b"master" and fields[b"num-slaves"] == b"1" and fields[b"num-other-sentinels"] == b"2"


def primary_of(sentinel):
    """The port of the primary that a sentinel names."""
    return int(ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1])


def ask(port, *words):
    """One answer, on a connection of its own."""
    connection = Resp(port)
    try:
        return connection(*words)
    finally:
        connection.close()


def start_cluster(processes, directory, path, primaries=3):
    """A cluster with a replica for each primary: (port, process) of the primaries, then of their replicas. A node is given
    up after 1.5 s of silence; the others' slots are served meanwhile."""
    nodes = []
    for number in range(2 * primaries):
        own = Path(directory) / f"node-{number}"
        own.mkdir()
        # A node's other port is 10,000 above.
        port = next(port for port in iter(free_port, 0) if port < 55000)
        nodes.append(start_server(processes, own, path, "--cluster-enabled", "yes", "--cluster-node-timeout", 1500,
                                  "--cluster-require-full-coverage", "no", port=port))
    ports = [port for port, _ in nodes]
    for number, port in enumerate(ports):
        ask(port, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        if number < primaries:
            ask(port, "CLUSTER", "ADDSLOTS", *range(16384 * number // primaries, 16384 * (number + 1) // primaries))
        for other in ports[:number]:
            ask(other, "CLUSTER", "MEET", "127.0.0.1", port)
    until("the nodes know each other", lambda: all(f"cluster_known_nodes:{len(ports)}\r".encode() in ask(port, "CLUSTER", "INFO")
                                                   for port in ports))
    for number, port in enumerate(ports[primaries:]):
        primary = ask(ports[number], "CLUSTER", "MYID")
        until("a replica knows its primary", lambda: not is_refused(port, "CLUSTER", "REPLICATE", primary))
        until("a replica follows", lambda: b"master_link_status:up" in ask(port, "INFO", "replication"))
    until("the cluster is up", lambda: all(b"cluster_state:ok" in ask(port, "CLUSTER", "INFO")
                                           and ask(port, "CLUSTER", "NODES").count(b"slave") == primaries for port in ports))
    return nodes


def is_refused(port, *words):
    try:
        ask(port, *words)
    except RespError:
        return True
    return False


def until(what, condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Failed(f"in vain: {what}")
        time.sleep(0.02)
