"""A bad network between clients and one server: connections are delayed, fall silent in one direction or both, or are cut at
some byte. Knows nothing of what they carry."""

import random
import socket
import threading
import time

PIECE = 16 * 1024


class Connection:
    def __init__(self, client, server):
        self.sides = (client, server)
        self.cut_after = [None, None]  # bytes that still pass, by direction
        self.silent = [False, False]
        self.alive = True

    def cut(self):
        self.alive = False
        for side in self.sides:
            try:
                side.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Proxy:
    def __init__(self, server_port, seed):
        self.server_port = server_port
        self.delay = 0.0
        self.disturbed = 0  # pieces that were delayed, kept back or cut
        self.random = random.Random(seed)
        self.connections = []
        self.changed = threading.Condition()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.server_port), 5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            for side in (client, server):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(client, server)
            with self.changed:
                self.connections = [one for one in self.connections if one.alive] + [connection]
            for direction in (0, 1):
                threading.Thread(target=self.pump, args=(connection, direction), daemon=True).start()

    def pump(self, connection, direction):
        """Carries one direction of one connection to its end."""
        source, target = connection.sides[direction], connection.sides[1 - direction]
        try:
            while True:
                piece = source.recv(PIECE)
                if self.delay:
                    time.sleep(self.random.uniform(0, self.delay))
                with self.changed:
                    self.disturbed += bool(self.delay or connection.silent[direction])
                    self.changed.wait_for(lambda: not connection.silent[direction] or not connection.alive)
                    left = connection.cut_after[direction]
                if not piece or not connection.alive:
                    break
                if left is not None and left < len(piece):
                    target.sendall(piece[:left])
                    self.disturbed += 1
                    break
                if left is not None:
                    connection.cut_after[direction] = left - len(piece)
                target.sendall(piece)
        except OSError:
            pass
        connection.cut()
        with self.changed:
            self.changed.notify_all()

    def some(self):
        with self.changed:
            alive = [one for one in self.connections if one.alive]
        return self.random.choice(alive) if alive else None

    def cut_some(self):
        """One connection is cut, when some more bytes have passed in one direction."""
        connection = self.some()
        if connection:
            connection.cut_after[self.random.randrange(2)] = self.random.randrange(300)

    def silence_some(self):
        """Nothing passes any more in one direction of a connection, or in both; it stays open."""
        connection = self.some()
        if connection:
            with self.changed:
                connection.silent = self.random.choice([[True, False], [False, True], [True, True]])

    def heal(self):
        """What was kept back is delivered, and nothing more is disturbed."""
        self.delay = 0.0
        with self.changed:
            for connection in self.connections:
                connection.silent = [False, False]
            self.changed.notify_all()

    def close(self):
        self.listener.close()
        with self.changed:
            for connection in self.connections:
                connection.cut()
            self.changed.notify_all()
