"""Locks of threads: acquiring, waiting, releasing, asking."""

import gc
import pickle
import threading
import time
import uuid
from datetime import timedelta

import pytest
from conftest import eventually

import dlock
from dlock import _library


def in_thread(function):
    """Starts it; the result, or what it raised, is that of `result()`."""

    class Thread(threading.Thread):
        def run(self):
            try:
                self.value, self.error = function(), None
            except BaseException as error:
                self.error = error

        def result(self):
            self.join(20)
            assert not self.is_alive(), "the thread does not end"
            if self.error:
                raise self.error
            return self.value

    thread = Thread(daemon=True)
    thread.start()
    return thread


def test_with_acquires_and_releases(server, locker, name):
    with locker.lock(name, group="test") as lock:
        assert server.holder(name) == lock.id == lock.owner() == str(uuid.UUID(lock.id))
        assert lock.locked() and lock.owned() and not lock.lost
        assert 25 < lock.remaining <= 30
        assert lock.token > 0
    assert server.holder(name) is None
    assert lock.owner() is None and not lock.locked() and not lock.owned() and not lock.lost
    assert lock.remaining == 0.0
    with pytest.raises(dlock.UnlockUnlockedError):
        lock.token


def test_tokens_rise(locker, name):
    lock, tokens = locker.lock(name, "test"), []
    for _ in range(3):
        with lock:
            tokens.append(lock.token)
    assert tokens == sorted(set(tokens))


def test_one_holder_at_a_time(locker, name):
    inside, count = [], 0

    def work():
        nonlocal count
        lock = locker.lock(name, "test")
        for _ in range(25):
            with lock:
                inside.append(lock)
                assert inside == [lock]
                count += 1
                inside.pop()

    for thread in [in_thread(work) for _ in range(8)]:
        thread.result()
    assert count == 200


def test_a_held_lock_is_not_had_without_blocking(locker, name):
    with locker.lock(name, "test"):
        other = locker.lock(name, "test", blocking=False)
        assert not other.acquire(blocking=False)
        assert not other.try_acquire()
        with pytest.raises(dlock.LockTimeoutError, match=f'lock "test:{name}": not free'), other:
            pytest.fail("held by two")
    assert other.try_acquire()
    assert not other.try_acquire(), "its own lock"
    other.release()


@pytest.mark.parametrize("timeout", [0.2, timedelta(milliseconds=200)])
@pytest.mark.parametrize("thread", [lambda function: function(), lambda function: in_thread(function).result()])
def test_a_timeout_ends_the_wait(server, locker, name, timeout, thread):
    with locker.lock(name, "test"):
        other = locker.lock(name, "test", timeout=timeout)
        begun = time.monotonic()
        assert thread(lambda: other.acquire(timeout=timeout)) is False
        assert 0.2 <= time.monotonic() - begun < 5
        with pytest.raises(TimeoutError), other:
            pytest.fail("held by two")
        assert server.waiters(name) == 0


def test_those_who_wait_are_served_in_order(server, locker, name):
    order = []

    def wait(number):
        with locker.lock(name, "test"):
            order.append(number)

    with locker.lock(name, "test"):
        threads = []
        for number in range(4):
            threads.append(in_thread(lambda number=number: wait(number)))
            eventually(lambda: server.waiters(name) == len(threads), "a waiter in the queue")
    for thread in threads:
        thread.result()
    assert order == [0, 1, 2, 3]


def test_the_main_thread_gets_the_lock_that_it_waits_for(server, locker, name):
    first, second = locker.lock(name, "test"), locker.lock(name, "test", timeout=20)
    first.acquire()

    def release():
        eventually(lambda: server.waiters(name) == 1, "a waiter in the queue")
        first.release()

    thread = in_thread(release)
    with second:
        assert server.holder(name) == second.id
    thread.result()


def test_other_threads_run_during_every_wait(server, locker, name):
    """With the interpreter's lock held in a blocked call this thread would not come back from start()."""
    waiter = locker.lock(name, "test")
    with locker.lock(name, "test") as held:
        waiting = [
            in_thread(lambda: waiter.acquire(timeout=20)),
            in_thread(lambda: locker.lock(name, "test").acquire_retry_backoff(1, 0.05)),
        ]
        server.ask("CLIENT", "PAUSE", 300, "ALL")
        for question in (held.locked, held.owned, held.owner, lambda: held.extend(20)):
            waiting.append(in_thread(question))
        assert all(thread.is_alive() for thread in waiting[2:])
        for thread in waiting[1:]:
            thread.result()
        eventually(lambda: server.waiters(name) == 1, "a waiter in the queue")
        counted = sum(1 for _ in range(100_000))
        assert counted == 100_000 and waiting[0].is_alive()
    assert waiting[0].result()
    waiter.release()


def test_retries_with_backoff(locker, name):
    lock, other = locker.lock(name, "test"), locker.lock(name, "test")
    assert lock.acquire_retry_backoff(0, 0.01)
    assert not other.acquire_retry_backoff(2, timedelta(milliseconds=10))
    assert not in_thread(lambda: other.acquire_retry_backoff(2, 0.01)).result()
    lock.release()
    assert other.acquire_retry_backoff(2, 0.01)
    other.release()


def test_cancel_ends_a_wait(server, locker, name):
    with locker.lock(name, "test"):
        other = locker.lock(name, "test")
        other.cancel()  # does nothing
        waiting = in_thread(other.acquire)
        eventually(lambda: server.waiters(name) == 1, "a waiter in the queue")
        with pytest.raises(dlock.BusyError):
            other.acquire()
        other.cancel()
        with pytest.raises(dlock.LockCancelledError):
            waiting.result()
        eventually(lambda: server.waiters(name) == 0, "an empty queue")


def test_leases(server, name):
    with dlock.Locker(server.url, lease=timedelta(seconds=10)) as locker:
        with locker.lock(name, "test") as lock:
            assert 8 < lock.remaining <= 10
            lock.extend(60)
            assert 50 < lock.remaining <= 60
        with locker.lock(name, "test", lease=20) as lock:
            assert 15 < lock.remaining <= 20
            assert 15_000 < server.ask("PTTL", f"test:{name}") <= 20_000


def test_a_lease_that_cannot_be_set_leaves_nothing_held(server, locker, name):
    with pytest.raises(dlock.InvalidArgumentError, match="lease: 0.01 s, must be from 0.1"), locker.lock(name, "test", lease=0.01):
        pytest.fail("held without the lease asked for")
    assert server.holder(name) is None


def test_releasing_what_is_not_held(locker, name):
    lock, other = locker.lock(name, "test"), locker.lock(name, "test")
    with pytest.raises(dlock.UnlockUnlockedError):
        lock.release()
    with lock:
        with pytest.raises(dlock.NotOwnerError):
            other.release()
        with pytest.raises(dlock.AlreadyHeldError):
            lock.acquire()
        with pytest.raises(dlock.UnlockUnlockedError):
            other.extend(10)


def test_a_lock_released_inside_its_block_is_left_alone(locker, name):
    with locker.lock(name, "test") as lock:
        lock.release()
        other = locker.lock(name, "test")
        assert other.try_acquire()
    assert other.owned()
    other.release()


def test_an_exception_releases_and_goes_on(server, locker, name):
    with pytest.raises(KeyError, match="work"), locker.lock(name, "test"):
        raise KeyError("work")
    assert server.holder(name) is None


# --- the end of objects ---


def test_closing_releases_and_ends_waits(server, name):
    locker = dlock.Locker(server.url)
    held, other = locker.lock(name, "test"), locker.lock(name, "test")
    held.acquire()
    waiting = in_thread(other.acquire)
    eventually(lambda: server.waiters(name) == 1, "a waiter in the queue")
    locker.close()
    locker.close()
    with pytest.raises(dlock.ClosedError):
        waiting.result()
    assert server.holder(name) is None and server.waiters(name) == 0
    assert locker.closed
    for call in (held.acquire, held.release, held.locked, lambda: held.token, lambda: locker.lock(name, "test"), locker.warnings):
        with pytest.raises(dlock.ClosedError):
            call()
    assert "closed" in repr(locker) and "closed" in repr(held)


def test_closing_ends_the_wait_of_the_main_thread(server, name):
    locker = dlock.Locker(server.url)
    held, other = locker.lock(name, "test"), locker.lock(name, "test")
    held.acquire()

    def close():
        eventually(lambda: server.waiters(name) == 1, "a waiter in the queue")
        locker.close()

    thread = in_thread(close)
    with pytest.raises(dlock.ClosedError):
        other.acquire()
    thread.result()


def test_a_collected_lock_is_released_with_a_warning(server, locker, name):
    lock = locker.lock(name, "test")
    lock.acquire()
    with pytest.warns(ResourceWarning, match=name):
        del lock
        gc.collect()
    eventually(lambda: server.holder(name) is None, "the release")


def test_collected_objects_leave_no_connection_and_no_thread(server, name):
    def connections():
        return server.ask("CLIENT", "LIST").decode().count("name=collected")

    locker = dlock.Locker(f"{server.url}?client_name=collected")
    lost = threading.active_count()
    locker.lock(name, "test", on_lost=print)
    assert connections() == 1 and threading.active_count() == lost + 1
    with pytest.warns(ResourceWarning, match="unclosed <dlock.Locker"):
        del locker
        gc.collect()
    eventually(lambda: connections() == 0, "the end of the connections")
    eventually(lambda: threading.active_count() == lost, "the end of the thread")


def test_a_lock_keeps_its_locker(server, name):
    lock = dlock.Locker(server.url).lock(name, "test")
    gc.collect()
    with lock:
        assert lock.owned()
    with pytest.warns(ResourceWarning, match="unclosed"):
        del lock
        gc.collect()


def test_nothing_can_be_pickled(locker, name):
    for each in (locker, locker.lock(name, "test")):
        with pytest.raises(TypeError, match="process"):
            pickle.dumps(each)


# --- what it says ---


def test_repr_shows_state_and_no_secret(server, locker, name):
    assert repr(locker) == f"<dlock.Locker {server.url} open>"
    lock = locker.lock(name, "test")
    assert repr(lock) == f"<dlock.Lock test:{name} not held>"
    with lock:
        assert repr(lock).startswith(f"<dlock.Lock test:{name} held for 2")
    for url in ("redis://user:secret@h:1/2", "redis://:secret@h:1/2?client_name=secret", "redis+unix:///h:1/2?pass=secret"):
        with dlock.Locker(url) as other:
            assert "secret" not in repr(other) and "h:1/2" in repr(other)
    with dlock.Locker(host="::1", port=1) as other:
        assert repr(other) == "<dlock.Locker ::1:1 open>"
    with dlock.Locker() as other:
        assert repr(other) == "<dlock.Locker localhost:6379 open>"


def test_what_is_shown_of_a_lock_is_one_line(locker):
    """As the library shows it, so that a name cannot forge lines of a log."""
    lock = locker.lock('é"\\\n', "test")
    assert repr(lock) == r'<dlock.Lock test:é\"\\\n not held>'
    with pytest.raises(dlock.UnlockUnlockedError) as library:
        lock.release()
    with lock, pytest.raises(dlock.LockTimeoutError) as package, locker.lock(lock.name, "test", blocking=False):
        pytest.fail("held by two")
    assert library.value.message.partition(": ")[0] == package.value.message.partition(": ")[0]


@pytest.mark.parametrize(
    "url, shown",
    [
        ("rediss://user:secret@h:1/2?ca=/secret", "rediss://h:1/2"),
        ("redis-sentinel://:secret@a:1,b:2/primary?sentinel_password=secret@x", "redis-sentinel://a:1,b:2/primary"),
        ("redis+unix:///path?pass=secret", "redis+unix:///path"),
        ("secret://user:secret@h", "secret://h"),
        ("secret@h", "a malformed URL"),
        ("secret@h://x", "a malformed URL"),
    ],
)
def test_what_is_shown_of_a_url(url, shown):
    assert _library.redacted(url) == shown


def test_errors_have_no_secret(own_server):
    own_server.ask("CONFIG", "SET", "requirepass", "right")
    with dlock.Locker(f"redis://:secret@127.0.0.1:{own_server.port}") as locker:
        with pytest.raises(dlock.NotConnectedError) as caught:
            locker.lock("name", "test")
    assert "secret" not in str(caught.value) and str(own_server.port) in str(caught.value)


def test_warnings_of_the_server(own_server, name):
    own_server.ask("CONFIG", "SET", "maxmemory", "100mb")
    own_server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    with dlock.Locker(own_server.url) as locker:
        assert locker.warnings() == []
        locker.lock(name, "test")
        assert any("allkeys-lru" in warning for warning in locker.warnings())


@pytest.mark.parametrize(
    "make, what",
    [
        (lambda: dlock.Locker("http://x"), "url"),
        (lambda: dlock.Locker("redis://h\0"), "url"),
        (lambda: dlock.Locker("redis://\ud800"), "url"),
        (lambda: dlock.Locker("redis://h", port=1), "url"),
        (lambda: dlock.Locker(host=""), "host"),
        (lambda: dlock.Locker(port=65536), "port"),
        (lambda: dlock.Locker(lease=0.01), "^lease: 0.01 s, must be from 0.1 to 31536000$"),
        (lambda: dlock.Locker(lease=-1), "lease"),
        (lambda: dlock.Locker(connect_timeout=0), "^connect_timeout: 0 s, must be from 0.001"),
        (lambda: dlock.Locker(response_timeout=1e9), "^response_timeout: 1000000000 s, must be from"),
        (lambda: dlock.Locker(response_timeout=float("nan")), "^response_timeout: nan"),
    ],
)
def test_bad_options_are_named(make, what):
    with pytest.raises(dlock.InvalidArgumentError, match=what):
        make()


async def coroutine_function(_lock):
    """Nobody would wait for it."""


@pytest.mark.parametrize(
    "make, error, what",
    [
        (lambda locker: locker.lock("", "g"), dlock.InvalidArgumentError, "name"),
        (lambda locker: locker.lock("n", "g:h"), dlock.InvalidArgumentError, "group"),
        (lambda locker: locker.lock("n", "g\0"), dlock.InvalidArgumentError, "group"),
        (lambda locker: locker.lock(b"n", "g"), TypeError, "name"),
        (lambda locker: locker.lock("n", "g", timeout=-1), ValueError, "timeout"),
        (lambda locker: locker.lock("n", "g", timeout=1, blocking=False), ValueError, "timeout"),
        (lambda locker: locker.lock("n", "g", timeout="1"), TypeError, "timeout"),
        (lambda locker: locker.lock("n", "g").acquire_retry_backoff(-1, 1), ValueError, "retries"),
        (lambda locker: locker.lock("n", "g").acquire_retry_backoff(1.0, 1), TypeError, "retries"),
        (lambda locker: locker.lock("n", "g").acquire_retry_backoff(1, -1), ValueError, "initial_backoff"),
        (lambda locker: locker.lock("n", "g").extend(timedelta(-1)), ValueError, "lease"),
        (lambda locker: locker.lock("n", "g", timeout=float("nan")), ValueError, "timeout"),
        (lambda locker: locker.lock("n", "g", timeout=-(10**400)), ValueError, "timeout"),
        (lambda locker: locker.lock("n", "g", timeout=True), TypeError, "timeout"),
        (lambda locker: locker.lock("n", "g", on_lost=5), TypeError, "on_lost"),
        (lambda locker: locker.lock("n", "g", on_lost=coroutine_function), TypeError, "on_lost"),
    ],
)
def test_bad_arguments_are_named(locker, make, error, what):
    with pytest.raises(error, match=what):
        make(locker)


def test_long_timeouts_are_taken(locker, name):
    for timeout in (1e30, float("inf"), timedelta.max, 10**12, 10**400):
        lock = locker.lock(name, "test", timeout=timeout)
        with lock:
            assert lock.owned()
