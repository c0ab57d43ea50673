"""The worst days: holders and waiters killed or stopped, servers restarted, flushed, silent, refusing. Each check
drives agents (agent.c) against a server of its own. Knows the library only through the C ABI.
"""

import os
import re
import signal
import socket
import threading
import time

from harness import TEMPORARY, Agent, Server, eventually, expect, free_port

# What a busy machine may add to any bound.
SLACK = 1.5


def agents(server, count, **options):
    made = [Agent(server.url, **options) for _ in range(count)]
    for agent in made:
        agent.ok("new")
    return made


def waiting(agent, command="cycle"):
    """Starts a call that must wait, and gives its request the time to arrive. (The queue's key says when a waiter is in
    it, but its name is the protocol's business, not this file's.)"""
    agent.send(command)
    expect(agent.has_not_answered(0.15), f"{command} did not wait: {agent.lines.queue}")


def served(agent, seconds):
    answer = agent.answer(seconds)
    expect(answer.status == "OK", f"the waiter was not served: {answer}")
    return int(answer.value)


def end_all(*all_agents):
    for agent in all_agents:
        agent.end()


def subscribed(server, count):
    """Waits until that many clients are subscribed: until the server has noticed who is gone, and who is there."""
    eventually(lambda: server.command("CLIENT", "LIST", "TYPE", "pubsub").count(b"\n") == count, 5,
               f"not {count} clients subscribed")


# Holders and waiters that die.

def holder_killed():
    with Server() as server:
        holder, waiter = agents(server, 2, lease=1000)
        holder.ok("acquire")
        token = int(holder.ok("token"))
        waiting(waiter)
        holder.kill()
        begun = time.monotonic()
        expect(served(waiter, 1 + SLACK) > token, "the token did not grow")
        expect(time.monotonic() - begun < 1 + SLACK, "too late")
        end_all(waiter)
        server.expect_only_counter()


def waiter_killed():
    with Server() as server:
        holder, first, second = agents(server, 3, lease=30000)
        holder.ok("acquire")
        waiting(first)
        waiting(second)
        first.kill()
        subscribed(server, 1)
        holder.ok("release")
        served(second, SLACK)
        end_all(holder, second)
        server.expect_only_counter()


def many_waiters_killed():
    """More dead waiters than one release looks at (32)."""
    with Server() as server:
        holder, last = agents(server, 2)
        holder.ok("acquire")
        dead = agents(server, 40)
        for agent in dead:
            agent.send("cycle")
        subscribed(server, 40)
        waiting(last)
        for agent in dead:
            agent.kill()
        subscribed(server, 1)
        holder.ok("release")
        served(last, 2 * SLACK)
        end_all(holder, last)
        server.expect_only_counter()


def waiter_stopped():
    """Stopped, but its socket is open: it costs one claim lease and one re-check."""
    with Server() as server:
        holder, first, second = agents(server, 3, lease=1000)
        holder.ok("acquire")
        waiting(first)
        waiting(second)
        first.signal(signal.SIGSTOP)
        holder.ok("release")
        served(second, 1 + 4 + SLACK)
        first.signal(signal.SIGCONT)
        served(first, 5 + SLACK)
        end_all(holder, first, second)
        server.expect_only_counter()


def holder_stopped():
    """Paused beyond its lease: it learns of the loss from its own handle, before it asks anybody."""
    with Server() as server:
        holder, waiter = agents(server, 2, lease=500)
        holder.ok("acquire")
        waiting(waiter, "acquire")
        holder.signal(signal.SIGSTOP)
        expect(waiter.answer(0.5 + SLACK).status == "OK", "the waiter was not served")
        holder.signal(signal.SIGCONT)
        expect(holder.call("token").status == "LOST", "the stopped holder believes that it holds the lock")
        expect(holder.call("release").status == "NOT_OWNER", "the old holder's release")
        expect(waiter.ok("is_locked_by_me") == "true", "the new holder lost the lock")
        waiter.ok("release")
        end_all(holder, waiter)
        server.expect_only_counter()


# Servers that are restarted, flushed, or drop their clients while waiters wait.

def flush(server):
    server.command("FLUSHALL")


def script_flush(server):
    server.command("SCRIPT", "FLUSH")


def kill_clients(*types):
    def disturb(server):
        for kind in types:
            server.command("CLIENT", "KILL", "TYPE", kind)
    return disturb


def restart(server):
    server.stop()
    server.start()


def resubscribed(server):
    """All four waiters' subscriptions are up again, and what follows a new subscription has had its time."""
    subscribed(server, 4)
    time.sleep(0.3)


def while_waiting(disturb, keeps_lock, ordered=False):
    """Four waiters in four processes; all are served, each with a token of its own. `ordered`: first come, first
    served, which is promised while the waiters can be reached."""
    with Server() as server:
        holder, *waiters = agents(server, 5)
        holder.ok("acquire")
        tokens = [int(holder.ok("token"))]
        for waiter in waiters:
            waiting(waiter)
        disturb(server)
        if ordered:
            resubscribed(server)
        released = holder.call("release")
        if keeps_lock:
            expect(released.status == "OK", f"release: {released}")
        tokens += [served(waiter, 20) for waiter in waiters]
        expect(len(set(tokens)) == 5 and min(tokens[1:]) > tokens[0], f"tokens: {tokens}")
        if ordered:
            expect(tokens == sorted(tokens), f"not in order: {tokens}")
        end_all(holder, *waiters)
        server.expect_only_counter()


def disturbed_all_the_time():
    """Clients killed and scripts flushed every 50 ms while four processes take turns: nothing fails, tokens grow."""
    with Server() as server:
        contenders = agents(server, 4)
        stop = threading.Event()

        def disturb():
            connection = server.connect()
            while not stop.wait(0.05):
                for words in (("CLIENT", "KILL", "TYPE", "normal"), ("CLIENT", "KILL", "TYPE", "pubsub"),
                              ("SCRIPT", "FLUSH")):
                    connection(*words)

        thread = threading.Thread(target=disturb)
        thread.start()
        tokens = []
        try:
            for _ in range(25):
                for contender in contenders:
                    contender.send("cycle")
                tokens.append([served(contender, 20) for contender in contenders])
        finally:
            stop.set()
            thread.join()
        flat = [token for batch in tokens for token in batch]
        expect(len(set(flat)) == len(flat), "a token was given twice")
        for before, after in zip(tokens, tokens[1:]):
            expect(max(before) < min(after), "tokens fell")
        end_all(*contenders)
        server.expect_only_counter()


def server_gone():
    """No deadline of its own: reconnects for the response timeout, then NOT_CONNECTED, with the address."""
    with Server() as server:
        holder, waiter, timed, idle = agents(server, 4, connect_timeout=1000, response_timeout=1000)
        holder.ok("acquire")
        waiting(waiter, "acquire")
        waiting(timed, "acquire_timeout 1500")
        server.stop()
        begun = time.monotonic()
        answer = waiter.answer(2 + SLACK)
        expect(answer.status == "NOT_CONNECTED", f"the waiter: {answer}")
        expect(str(server.port) in answer.message, f"no address in the message: {answer}")
        expect(time.monotonic() - begun > 0.8, "it did not try to reconnect")
        answer = timed.answer(2 + SLACK)
        expect(answer.status in ("NOT_CONNECTED", "LOCK_TIMEOUT"), f"the one with a deadline: {answer}")
        expect(answer.elapsed_ms < 1550 + SLACK * 1000, f"beyond its deadline: {answer}")
        for command in ("try", "is_locked", "owner", "release"):
            answer = idle.call(command, 2 + SLACK)
            expect(answer.status == "NOT_CONNECTED", f"{command}: {answer}")
        answer = idle.call("acquire_timeout 200")
        expect(answer.status == "NOT_CONNECTED", f"acquire_timeout: {answer}")
        expect(answer.elapsed_ms < 250 + 400, f"beyond its deadline: {answer}")
        answer = holder.call("release", 2 + SLACK)
        expect(answer.status == "NOT_CONNECTED", f"the holder's release: {answer}")
        server.start()
        served_again = idle.call("acquire_timeout 3000")
        expect(served_again.status == "OK", f"after the server came back: {served_again}")
        idle.ok("release")
        end_all(holder, waiter, timed, idle)
        server.expect_only_counter()


# Keys of other programs.

FOREIGN = {
    "string": ["SET", "{key}", "somebody"],
    "list": ["RPUSH", "{key}", "0f8fad5b-d9cb-469f-a165-70867728950e"],
    "set": ["SADD", "{key}", "member"],
    "sorted set": ["ZADD", "{key}", "1", "member"],
    "hash": ["HSET", "{key}", "field", "value"],
    "stream": ["XADD", "{key}", "1-1", "field", "value"],
    "HyperLogLog": ["PFADD", "{key}", "element"],
    "bitmap": ["SETBIT", "{key}", "7", "1"],
    "UUID": ["SET", "{key}", "0f8fad5b-d9cb-469f-a165-70867728950e"],
}


def foreign_key(server, kind):
    name = "foreign_" + kind.replace(" ", "_")
    key = "test:" + name
    server.command(*[word.replace("{key}", key) for word in FOREIGN[kind]])
    before = server.command("DUMP", key)
    agent = Agent(server.url, name=name)
    agent.ok("new")
    expect(agent.ok("is_locked") == "true", "is_locked is false")
    expect(agent.ok("is_locked_by_me") == "false", "is_locked_by_me is true")
    owner = agent.call("owner")
    if kind == "UUID":
        expect(owner.value == "0f8fad5b-d9cb-469f-a165-70867728950e", f"owner: {owner}")
    else:
        expect(owner.status == "LOCKER" and owner.message, f"owner: {owner}")
    expect(agent.ok("try") == "false", "it was taken")
    expect(agent.call("acquire_timeout 250").status == "LOCK_TIMEOUT", "acquire_timeout")
    expect(agent.call("backoff 2 20").status == "LOCK_TIMEOUT", "backoff")
    expect(agent.call("release").status == "NOT_OWNER", "release")
    expect(server.command("DUMP", key) == before and server.command("PTTL", key) == -1, "the key was touched")
    # Its holder does not tell us when it goes: waiting on it polls.
    agent.send("cycle")
    expect(agent.has_not_answered(0.2), "it did not wait")
    server.command("DEL", key)
    served(agent, 0.5 + SLACK)
    agent.end()


# Servers that refuse.

def scripted_server(reply):
    """A server that answers every command, or whatever else is sent, with `reply`; None: never."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(16)

    def serve(connection):
        try:
            while True:
                received = connection.recv(1 << 20)
                if not received:
                    return
                commands = len(re.findall(rb"(?:^|\r\n)\*\d+\r\n", received))
                if reply is not None:
                    connection.sendall(reply * max(1, commands))
        except OSError:
            pass

    def accept():
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener, f"redis://127.0.0.1:{listener.getsockname()[1]}"


def first_failure(url, *commands):
    """What the first failing call answers: `new`, then the commands. Bounded by the timeouts of half a second."""
    agent = Agent(url, connect_timeout=500, response_timeout=500, lease=1000)
    try:
        for command in ("new", *commands):
            answer = agent.call(command, 5)
            expect(answer.elapsed_ms < 1100 + SLACK * 1000, f"{command} took {answer.elapsed_ms} ms: {answer.message}")
            if answer.status != "OK":
                return answer
        return None
    finally:
        agent.kill()


def refusal(messages, what, url, statuses, words, *commands):
    answer = first_failure(url, *commands)
    expect(answer is not None, "nothing failed")
    expect(answer.status in statuses, f"{answer}, expected {' or '.join(statuses)}")
    expect(any(word.lower() in answer.message.lower() for word in words), f"unclear: {answer.message}")
    if answer.status == "NOT_CONNECTED" and url.startswith("redis://"):
        port = url.rsplit(":", 1)[1].split("/")[0]
        expect(port in answer.message, f"the message does not name the address: {answer.message}")
    expect("secret" not in answer.message, f"a password is in the message: {answer.message}")
    messages[what] = answer.message.replace(url.rsplit(":", 1)[1], "<port>")


def refuse_unreachable(messages):
    refusal(messages, "refused", f"redis://127.0.0.1:{free_port()}", ["NOT_CONNECTED"], ["refused"])


def refuse_password(messages):
    with Server(password="right") as server:
        address = f"127.0.0.1:{server.port}"
        refusal(messages, "no password", f"redis://{address}", ["NOT_CONNECTED"], ["NOAUTH", "password", "authenticat"])
        refusal(messages, "wrong password", f"redis://:secret@{address}", ["NOT_CONNECTED"],
                ["WRONGPASS", "password", "authenticat"])
        expect(first_failure(f"redis://:right@{address}", "cycle") is None, "the right password is refused")


def refuse_http(messages):
    listener, url = scripted_server(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    refusal(messages, "HTTP", url, ["NOT_CONNECTED"], ["protocol", "RESP", "not a Redis", "parse", "speak"])
    listener.close()


def refuse_silent(messages):
    listener, url = scripted_server(None)
    refusal(messages, "silent", url, ["NOT_CONNECTED"], ["answer", "time", "respon"])
    listener.close()


def refuse_loading(messages):
    listener, url = scripted_server(b"-LOADING Redis is loading the dataset in memory\r\n")
    refusal(messages, "loading", url, ["NOT_CONNECTED"], ["loading"], "try")
    listener.close()


def refuse_replica(messages):
    with Server() as primary, Server("--replicaof", "127.0.0.1", str(primary.port)) as replica:
        eventually(lambda: b"master_link_status:up" in replica.command("INFO", "replication"), 10, "no replication")
        refusal(messages, "replica", replica.url, ["NOT_CONNECTED", "LOCKER"], ["READONLY", "read only", "read-only"],
                "try")


def refuse_memory(messages):
    with Server() as server:
        server.command("SET", "filler", "x")
        server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
        server.command("CONFIG", "SET", "maxmemory", "1")
        refusal(messages, "memory", server.url, ["NOT_CONNECTED", "LOCKER"], ["OOM", "memory"], "acquire_timeout 400")


def release_without_memory():
    """A release frees memory: it works where nothing else that writes does."""
    with Server() as server:
        (holder,) = agents(server, 1)
        holder.ok("acquire")
        server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
        server.command("CONFIG", "SET", "maxmemory", "1")
        holder.ok("release")
        expect(holder.ok("is_locked") == "false", "still locked")
        server.command("CONFIG", "SET", "maxmemory", "0")
        holder.ok("cycle")
        holder.end()
        server.expect_only_counter()


def refuse_scripts(messages):
    with Server() as server:
        server.command("ACL", "SETUSER", "noscripts", "on", ">secret", "~*", "&*", "+@all", "-@scripting")
        url = f"redis://noscripts:secret@127.0.0.1:{server.port}"
        refusal(messages, "scripts", url, ["NOT_CONNECTED", "LOCKER"], ["NOPERM", "permission", "script"], "try",
                "acquire_timeout 300", "release")


def messages_differ(messages):
    expect(len(messages) >= 9, f"only {sorted(messages)}")
    expect(len(set(messages.values())) == len(messages), f"two are alike: {messages}")


def accepted():
    """Kinds of addresses and of logins that are to work."""
    path = os.path.join(TEMPORARY, "socket")
    with Server("--unixsocket", path) as server:
        server.command("ACL", "SETUSER", "user", "on", ">p@ss", "~*", "&*", "+@all")
        address = f"127.0.0.1:{server.port}"
        for url in (f"redis://{address}/3", f"redis://user:p%40ss@{address}", f"redis://localhost:{server.port}",
                    f"redis+unix://{path}"):
            failure = first_failure(url, "cycle", "is_locked")
            expect(failure is None, f"{url}: {failure}")


def no_publish():
    """Where the server refuses SUBSCRIBE and PUBLISH nobody queues: waiters poll, and are served."""
    with Server() as server:
        server.command("ACL", "SETUSER", "nopubsub", "on", ">secret", "~*", "resetchannels", "+@all", "-@pubsub")
        url = f"redis://nopubsub:secret@127.0.0.1:{server.port}"
        holder, waiter = Agent(url), Agent(url)
        holder.ok("new")
        waiter.ok("new")
        holder.ok("acquire")
        waiting(waiter)
        holder.ok("release")
        served(waiter, 3 + SLACK)
        end_all(holder, waiter)
        server.expect_only_counter()


def crash_checks(report):
    for check in [
        ("crash: a holder killed with SIGKILL: the waiter gets the lock when the lease ends", holder_killed),
        ("crash: a waiter killed while first in the queue: the next one is served at once", waiter_killed),
        ("crash: forty waiters killed: the one behind them is served", many_waiters_killed),
        ("crash: a waiter stopped while first in the queue costs a claim and a re-check", waiter_stopped),
        ("crash: a holder stopped beyond its lease knows it, and cannot release another's lock", holder_stopped),
        ("crash: FLUSHALL while four wait: all are served", while_waiting, flush, False),
        ("crash: the server restarted empty while four wait: all are served", while_waiting, restart, False),
        ("crash: SCRIPT FLUSH while four wait: all are served, in order", while_waiting, script_flush, True, True),
        ("crash: CLIENT KILL TYPE normal, and a release at once: all are served", while_waiting,
         kill_clients("normal"), True),
        ("crash: CLIENT KILL TYPE pubsub, and a release at once: all are served", while_waiting,
         kill_clients("pubsub"), True),
        ("crash: all clients killed, and a release at once: all are served", while_waiting,
         kill_clients("normal", "pubsub"), True),
        ("crash: CLIENT KILL TYPE pubsub, and a release later: all are served, in order", while_waiting,
         kill_clients("pubsub"), True, True),
        ("crash: all clients killed, and a release later: all are served, in order", while_waiting,
         kill_clients("normal", "pubsub"), True, True),
        ("crash: clients killed and scripts flushed all the time: nothing fails, tokens grow", disturbed_all_the_time),
        ("crash: the server gone: NOT_CONNECTED within the timeouts, and all is well when it is back", server_gone),
    ]:
        report.check(*check)


def refusal_checks(report):
    messages = {}
    for name, check in [
        ("refused: nobody listens: NOT_CONNECTED", refuse_unreachable),
        ("refused: no password, a wrong one: NOT_CONNECTED; the right one works", refuse_password),
        ("refused: an HTTP server: NOT_CONNECTED", refuse_http),
        ("refused: a server that accepts and never answers: NOT_CONNECTED within the timeouts", refuse_silent),
        ("refused: a server that is loading: NOT_CONNECTED", refuse_loading),
        ("refused: a read-only replica", refuse_replica),
        ("refused: no memory left", refuse_memory),
        ("refused: scripts are not allowed", refuse_scripts),
        ("refused: every refusal has a message of its own", messages_differ),
    ]:
        report.check(name, check, messages)
    report.check("a release works when memory is full", release_without_memory)
    report.check("a database number, a user with a password, localhost and a unix socket work", accepted)
    report.check("where SUBSCRIBE and PUBLISH are refused waiters poll and are served", no_publish)


def foreign_checks(report):
    with Server() as server:
        for kind in FOREIGN:
            report.check(f"foreign key: {kind}: locked, never touched, waited for", foreign_key, server, kind)
        report.check("foreign key: nothing of ours is left", server.expect_only_counter)
