"""Lost locks, servers that are gone, signals, forks and the end of the interpreter."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings

import pytest
from conftest import PATIENCE, eventually, program, run

import dlock

# --- a lock that is lost ---


def lose(server, lock):
    """Takes the lock away; the holder finds out at its next renewal."""
    server.ask("DEL", f"{lock.group}:{lock.name}")


def test_a_lost_lock_is_told(server, name):
    told, threads = threading.Event(), []

    def on_lost(lost):
        threads.append(threading.current_thread())
        assert lost is lock
        told.set()

    with dlock.Locker(server.url, lease=0.6) as locker:
        lock = locker.lock(name, "test", on_lost=on_lost)
        with pytest.raises(dlock.LockLostError), lock:
            lose(server, lock)
            assert told.wait(PATIENCE)
            assert lock.lost and lock.remaining == 0.0 and "lost" in repr(lock)
            with pytest.raises(dlock.LockLostError):
                lock.token
        assert threads[0] is not threading.main_thread()
        with lock:
            assert not lock.lost


def test_a_lock_that_the_server_forgot_is_lost_at_the_end_of_the_block(server, locker, name):
    """Also before a renewal finds out, and also where another holds the lock now."""
    lock = locker.lock(name, "test")
    with pytest.raises(dlock.LockLostError, match=name), lock:
        lose(server, lock)
        assert not lock.lost
    other = locker.lock(name, "test")
    with pytest.raises(dlock.LockLostError, match=name), lock:
        lose(server, lock)
        assert other.try_acquire()
    assert other.owned()
    other.release()


def test_without_renewal_the_lease_ends(server, name):
    told = threading.Event()
    with dlock.Locker(server.url, lease=0.3, auto_renew=False) as locker:
        lock = locker.lock(name, "test", on_lost=lambda _: told.set())
        lock.acquire()
        assert told.wait(PATIENCE)
        with pytest.raises(dlock.LockLostError):
            lock.release()
        with pytest.raises(dlock.UnlockUnlockedError):
            lock.release()


def test_a_loss_does_not_hide_an_exception(server, locker, name):
    with pytest.warns(dlock.DlockWarning, match=name) as caught:
        with pytest.raises(KeyError, match="work") as raised, locker.lock(name, "test") as lock:
            lose(server, lock)
            raise KeyError("work")
    assert caught[0].filename == __file__
    # A warning is shown once for each place, a note with each traceback.
    assert sys.version_info < (3, 11) or name in raised.value.__notes__[0]


def test_what_on_lost_raises_goes_to_the_hook(server, name, monkeypatch):
    caught = []
    told = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda arguments: (caught.append(arguments.exc_type), told.set()))
    kinds = [ZeroDivisionError, SystemExit, ValueError]

    def on_lost(_):
        raise kinds[len(caught)]

    with dlock.Locker(server.url, lease=0.2, auto_renew=False) as locker:
        lock = locker.lock(name, "test", on_lost=on_lost)
        for _ in kinds:  # the thread lives on
            told.clear()
            lock.acquire()
            assert told.wait(PATIENCE)
    assert caught == kinds


# --- a server that is gone ---


def test_a_server_that_is_not_there(free_port=1):
    with dlock.Locker(f"redis://127.0.0.1:{free_port}", connect_timeout=1, response_timeout=1) as locker:
        with pytest.raises(dlock.NotConnectedError, match=str(free_port)) as caught:
            locker.lock("name", "test")
        assert caught.value.status_name == "DLOCK_ERR_NOT_CONNECTED"


def test_a_server_that_dies_meanwhile(own_server, name):
    with dlock.Locker(own_server.url, response_timeout=0.5) as locker:
        lock, free = locker.lock(name, "test"), locker.lock("free", "test")
        with pytest.raises(dlock.NotConnectedError), lock:
            own_server.processes.end(own_server.process)
            with pytest.raises(dlock.NotConnectedError):
                free.acquire()
            with pytest.raises(dlock.NotConnectedError):
                free.acquire(timeout=0.1)
            with pytest.raises(dlock.NotConnectedError):
                free.locked()
            assert not lock.lost


def test_a_lock_is_lost_where_the_server_is_gone_for_longer_than_the_lease(own_server, name):
    told = threading.Event()
    with dlock.Locker(own_server.url, lease=0.5, response_timeout=0.5) as locker:
        with pytest.raises(dlock.LockLostError), locker.lock(name, "test", on_lost=lambda _: told.set()):
            own_server.processes.end(own_server.process)
            assert told.wait(PATIENCE)


def test_what_the_server_refuses_is_in_the_message(own_server, name):
    with dlock.Locker(own_server.url) as locker:
        lock = locker.lock(name, "test")
        own_server.ask("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(dlock.LockerError, match="OOM"):
            lock.acquire()


# --- signals ---


class Rung(Exception):
    """Raised by the handler of a signal."""


class Alarm:
    """Raises once after each arming."""

    armed = True

    def ring(self, _number, _frame):
        if self.armed:
            self.armed = False
            raise Rung


@pytest.fixture
def alarm():
    alarm = Alarm()
    before = signal.signal(signal.SIGUSR1, alarm.ring)
    yield alarm
    signal.signal(signal.SIGUSR1, before)


def ring():
    """As the terminal sends one: to the process, whichever of its threads gets it."""
    os.kill(os.getpid(), signal.SIGUSR1)


def when_queued(server, name, function):
    def watch():
        eventually(lambda: server.waiters(name) == 1, "a waiter in the queue")
        function()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


@pytest.mark.parametrize("acquire", [lambda lock: lock.acquire(), lambda lock: lock.acquire(timeout=60), lambda lock: lock.__enter__()])
def test_a_signal_ends_the_wait_of_the_main_thread(server, locker, name, alarm, acquire):
    held, lock = locker.lock(name, "test"), locker.lock(name, "test")
    with held:
        thread = when_queued(server, name, ring)
        begun = time.monotonic()
        with pytest.raises(Rung):
            acquire(lock)
        assert time.monotonic() - begun < PATIENCE
        thread.join()
        eventually(lambda: server.waiters(name) == 0, "an empty queue")
    assert server.holder(name) is None
    with lock:  # at once: it is not in use any more
        assert lock.owned()


def test_a_signal_ends_the_connecting_of_the_main_thread(name, alarm):
    over = threading.Event()

    def ring_and_say_nothing():
        with silent.accept()[0]:
            ring()
            over.wait(PATIENCE)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        thread = threading.Thread(target=ring_and_say_nothing)
        thread.start()
        with dlock.Locker(host="127.0.0.1", port=silent.getsockname()[1], connect_timeout=30, response_timeout=30) as locker:
            with pytest.raises(Rung):
                locker.lock(name, "test")
            assert thread.is_alive(), "at once"
        over.set()
        thread.join()


def test_a_signal_ends_retries(server, locker, name, alarm):
    with locker.lock(name, "test"):
        thread = threading.Timer(0.1, ring)
        thread.start()
        with pytest.raises(Rung):
            locker.lock(name, "test").acquire_retry_backoff(1000, 0.5)
        thread.join()
    assert server.holder(name) is None


def test_a_handler_may_use_locks_itself(server, locker, name):
    """An acquire inside a handler, while the main thread waits in another: each gets its own answer, in new queues and in
    used ones."""
    held, lock, inner = locker.lock(name, "test"), locker.lock(name, "test"), locker.lock(f"{name}-inner", "test")
    done = []

    def handle(_number, _frame):
        blocker = locker.lock(f"{name}-inner", "test")
        blocker.acquire()

        def release():
            held.release()
            eventually(lambda: lock.remaining > 0, "the outer acquire's end")
            time.sleep(0.05)  # in which the inner one could take that for its own
            blocker.release()

        thread = when_queued(server, f"{name}-inner", release)
        inner.acquire()
        assert server.holder(inner.name) == inner.id
        thread.join()
        inner.release()
        done.append(True)

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        for turn in (1, 2):
            held.acquire()
            thread = when_queued(server, name, ring)
            with lock:
                assert len(done) == turn
            thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_signals_at_any_moment_leave_nothing_held(server, locker, name, alarm):
    """A stream of signals against a stream of acquires, some of which wait."""
    stop = threading.Event()
    main = threading.main_thread().ident
    interrupted = acquired = leaked = 0
    alarm.armed = False

    def shoot():
        while not stop.wait(0.003):
            signal.pthread_kill(main, signal.SIGUSR1)

    def compete():
        with dlock.Locker(server.url) as mine:
            lock = mine.lock(name, "test")
            while not stop.is_set():
                with lock:
                    time.sleep(0.001)

    threads = [threading.Thread(target=shoot), threading.Thread(target=compete)]
    for thread in threads:
        thread.start()
    try:
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            lock = locker.lock(name, "test")
            acquiring = True
            try:
                alarm.armed = True
                lock.acquire()
                acquiring = False
                acquired += 1
                lock.release()
            except Rung:
                interrupted += 1
                leaked += acquiring and lock.remaining > 0
            alarm.armed = False
            if lock.remaining:
                lock.release()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert interrupted > 20 and acquired > 20
    assert leaked == 0 or sys.version_info < (3, 11)  # those look for signals also between the return and the assignment
    eventually(lambda: server.holder(name) is None and server.waiters(name) == 0, "nothing held and nobody waiting")


def test_ctrl_c_ends_a_program_that_waits(server, locker, name):
    with locker.lock(name, "test"):
        waiting = program("""
import dlock, sys
with dlock.Locker(sys.argv[1]) as locker, locker.lock(sys.argv[2], "test"):
    pass
""", server.url, name)
        eventually(lambda: server.waiters(name) == 1, "a waiter in the queue")
        waiting.send_signal(signal.SIGINT)
        _, errors = waiting.communicate(timeout=PATIENCE)
        assert "KeyboardInterrupt" in errors and waiting.returncode == -signal.SIGINT
        eventually(lambda: server.waiters(name) == 0, "an empty queue")


def test_ctrl_c_again_ends_what_leaving_the_blocks_waits_for(own_server, name):
    """Releasing and closing, where the server stands still."""
    holding = program("""
import dlock, sys, time
with dlock.Locker(sys.argv[1], response_timeout=9) as locker, locker.lock(sys.argv[2], "test"):
    print("held")
    time.sleep(600)
""", own_server.url, name)
    try:
        assert holding.stdout.readline() == "held\n"
        own_server.process.send_signal(signal.SIGSTOP)
        end = time.monotonic() + PATIENCE
        while holding.poll() is None:
            assert time.monotonic() < end, "it does not end"
            holding.send_signal(signal.SIGINT)
            time.sleep(0.1)  # as somebody presses the key
        errors = holding.communicate()[1]
        assert holding.returncode == -signal.SIGINT and errors.rstrip().endswith("KeyboardInterrupt"), errors
    finally:
        holding.kill()
        holding.communicate()


# --- forks ---

FORK = """
import dlock, os, sys, threading, warnings
url, name = sys.argv[1:]
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with threads, which is what this is about
locker = dlock.Locker(url)
lock, other = locker.lock(name, "test"), locker.lock(name + "-other", "test", on_lost=print)
lock.acquire()

def forked(call):
    try:
        call()
    except dlock.ForkedError:
        return
    raise SystemExit(f"no ForkedError: {call}")

child = os.fork()
if child == 0:
    for call in (lock.acquire, other.acquire, lock.release, lock.locked, lock.owner, lambda: lock.extend(1), lock.cancel,
                 lambda: lock.token, lambda: lock.id, lambda: locker.lock("x", "test"),
                 lambda: locker.lock("x", "test", on_lost=print), locker.warnings, lambda: other.__enter__()):
        forked(call)
    assert lock.remaining == 0 and not lock.lost
    assert "parent" in repr(lock) and "parent" in repr(locker)
    with dlock.Locker(url) as fresh:
        own, theirs = fresh.lock(name + "-other", "test"), fresh.lock(name, "test")
        with own:
            assert own.owned() and theirs.owner() is not None and not theirs.try_acquire()
    del lock, other
    locker.close()
    print("child done", flush=True)
    sys.exit()  # with the ends of the interpreter
_, status = os.waitpid(child, 0)
assert status == 0, status
assert lock.owned() and lock.remaining > 20
lock.release()
with lock, other:
    pass
locker.close()
print("parent done")
"""


def test_a_forked_child_has_nothing_of_its_parents(server, name):
    assert run(FORK, server.url, name) == "child done\nparent done\n"


POOL = """
import dlock, multiprocessing, sys
url, name = sys.argv[1:]
locker = None

def begin():
    global locker
    locker = dlock.Locker(url)

def work(number):
    with locker.lock(name, "test") as lock:
        return lock.token

if __name__ == "__main__":
    with dlock.Locker(url) as parents:
        parents.lock(name, "test")
        with multiprocessing.get_context("fork").Pool(3, begin) as pool:
            tokens = pool.map(work, range(30))
    assert len(set(tokens)) == 30
    print("done")
"""


def test_workers_of_a_pool_make_lockers_of_their_own(server, name):
    program = f"import warnings; warnings.simplefilter('ignore', DeprecationWarning)\n{POOL}"
    assert run(program, server.url, name) == "done\n"


# --- the end of the interpreter ---

END = """
import dlock, sys, threading, time
url, name, how = sys.argv[1:]
locker = dlock.Locker(url)
held = locker.lock(name, "test", on_lost=print)
held.acquire()
waiting = locker.lock(name, "test")
ended = []
def wait():
    try:
        waiting.acquire()
    except dlock.ClosedError:
        ended.append(True)
threading.Thread(target=wait, daemon=True).start()
input()
if how == "raise":
    raise SystemExit(0)
"""


@pytest.mark.parametrize("how", ["return", "raise"])
def test_the_end_of_the_interpreter_releases_and_does_not_hang(server, name, how):
    ending = program(END, server.url, name, how)
    try:
        eventually(lambda: server.waiters(name) == 1, "a waiter in the queue")
        output, errors = ending.communicate("\n", timeout=PATIENCE)
    finally:
        ending.kill()
    assert (ending.returncode, output, errors) == (0, "", "")
    eventually(lambda: server.holder(name) is None, "the release")


def test_the_wheel_needs_nothing_but_libc_and_libgcc():
    import dlock._native

    needed = subprocess.run(["ldd", dlock._native.__file__], stdout=subprocess.PIPE, universal_newlines=True, check=True).stdout
    libraries = {line.split()[0].rpartition("/")[2].partition(".")[0] for line in needed.splitlines()}
    assert libraries - {"linux-vdso", "ld-linux-x86-64", "ld-linux-aarch64"} == {"libc", "libgcc_s"}
    assert dlock._native.__file__.startswith(sys.prefix)


def test_the_wheel_carries_the_licences_of_what_is_in_it():
    from importlib.metadata import files

    licences = {file.name: file.read_text() for file in files("dlock-redis") if "licenses" in file.parts}
    assert sorted(licences) == ["LICENSE", "THIRD-PARTY-NOTICES"]
    assert "rustls" in licences["THIRD-PARTY-NOTICES"]


# --- garbage ---

CYCLES = """
import dlock, gc, sys, warnings
warnings.simplefilter("ignore", ResourceWarning)
gc.disable()

class Owner:
    def __init__(self, locker, lock):
        self.lock, self.locker = lock, locker
        lock.owned_by = locker.owned_by = self

    def __del__(self):
        # The collector ends the objects of a cycle in any order: the lock may be freed already.
        repr(self.lock), self.lock.remaining, self.lock.lost, repr(self.locker)
        for use in (self.lock.release, self.lock.acquire, self.lock.locked, self.lock.cancel, self.locker.warnings,
                    lambda: self.lock.token, lambda: self.locker.lock("x", "test"), self.locker.close):
            try:
                use()
            except dlock.DlockError:
                pass

url, name = sys.argv[1:]
for turn in range(40):
    locker = dlock.Locker(url)
    lock = locker.lock(f"{name}-{turn}", "test", on_lost=print)
    lock.acquire()
    Owner(locker, lock)
    del lock, locker
    if turn % 4 == 3:
        gc.collect()
print("done")
"""


def test_what_is_freed_can_be_used_without_harm(server, name):
    assert run(CYCLES, server.url, name) == "done\n"
    eventually(lambda: server.ask("KEYS", f"test:{name}-*") == [], "the releases")
