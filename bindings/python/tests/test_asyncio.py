"""Locks of asyncio: no thread waits, a cancelled task holds nothing, several loops share a locker."""

import asyncio
import contextvars
import functools
import gc
import inspect
import os
import signal
import threading
import time

import pytest
from conftest import PATIENCE, eventually, program, run

import dlock


def on_loop(test):
    """A test that is a coroutine, in a loop of its own and with a limit."""

    @functools.wraps(test)  # pytest sees its parameters
    def wrapped(**fixtures):
        asyncio.run(asyncio.wait_for(test(**fixtures), 60))

    del wrapped.__dict__["__wrapped__"]
    wrapped.__signature__ = inspect.signature(test)
    return wrapped


async def until(condition, what):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"it never came to pass: {what}"
        await asyncio.sleep(0.002)


async def acquire_when_idle(lock):
    """After a cancellation, which may still be going on by itself."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            assert await lock.acquire()
            return
        except dlock.BusyError:
            assert time.monotonic() < end
            await asyncio.sleep(0.002)


@on_loop
async def test_async_with_acquires_and_releases(server, name):
    async with dlock.AsyncLocker(server.url) as locker:
        lock = locker.lock(name, group="test")
        assert lock.id is None and lock.remaining == 0 and not lock.lost
        with pytest.raises(dlock.UnlockUnlockedError):
            lock.token
        async with lock:
            assert server.holder(name) == lock.id == await lock.owner()
            assert await lock.locked() and await lock.owned() and lock.token > 0 and 25 < lock.remaining <= 30
            assert "held" in repr(lock)
            await lock.extend(60)
            assert lock.remaining > 50
            other = locker.lock(name, "test", blocking=False)
            assert not await other.try_acquire() and not await other.acquire(timeout=0.05)
            assert not await other.acquire_retry_backoff(1, 0.01)
            assert not await other.owned() and await other.owner() == lock.id
            with pytest.raises(dlock.LockTimeoutError, match=name):
                await other.__aenter__()
            with pytest.raises(dlock.NotOwnerError):
                await other.release()
            with pytest.raises(dlock.AlreadyHeldError):
                await lock.acquire()
        assert server.holder(name) is None and await lock.owner() is None
        async with locker.lock(name, "test", lease=20) as short:
            assert 15 < short.remaining <= 20
        with pytest.raises(dlock.InvalidArgumentError, match="lease"):
            await locker.lock(name, "test", lease=0.01).acquire()
        assert server.holder(name) is None
        assert await other.acquire_retry_backoff(0, 0.01)
        await other.release()
        with pytest.raises(dlock.UnlockUnlockedError):
            await other.release()


@on_loop
async def test_many_tasks_wait_without_threads(server, name):
    count, inside = 500, 0

    async def work():
        nonlocal inside
        async with locker.lock(name, "test"):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0)
            inside -= 1

    async with dlock.AsyncLocker(server.url) as locker:
        async with locker.lock(name, "test"):
            tasks = [asyncio.ensure_future(work()) for _ in range(count)]
            await until(lambda: server.waiters(name) == count, "all in the queue")
            assert len(os.listdir("/proc/self/task")) < 15
        await asyncio.gather(*tasks)
    assert server.holder(name) is None


@on_loop
async def test_tasks_are_served_in_the_order_in_which_they_asked(server, name):
    order = []

    async def work(number):
        async with locker.lock(name, "test"):
            order.append(number)

    async with dlock.AsyncLocker(server.url) as locker:
        async with locker.lock(name, "test"):
            tasks = [asyncio.ensure_future(work(number)) for number in range(200)]
            await until(lambda: server.waiters(name) == len(tasks), "all in the queue")
        await asyncio.gather(*tasks)
    assert order == sorted(order)


@on_loop
async def test_a_cancelled_task_leaves_the_queue(server, name):
    async with dlock.AsyncLocker(server.url) as locker:
        lock, other = locker.lock(name, "test"), locker.lock(name, "test")
        async with lock:
            task = asyncio.ensure_future(other.acquire())
            await until(lambda: server.waiters(name) == 1, "a waiter in the queue")
            with pytest.raises(dlock.BusyError):
                await other.acquire()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: server.waiters(name) == 0, "an empty queue")
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(locker.lock(name, "test").acquire(), 0.05)
            await until(lambda: server.waiters(name) == 0, "an empty queue")
            task = asyncio.ensure_future(acquire_when_idle(other))
            await until(lambda: server.waiters(name) == 1, "a waiter in the queue")
            other.cancel()
            with pytest.raises(dlock.LockCancelledError):
                await task
        await acquire_when_idle(other)
        await other.release()


@pytest.mark.parametrize("lease", [None, 20])
@on_loop
async def test_a_task_cancelled_at_any_moment_holds_nothing(server, name, lease):
    """Also in the instant in which the lock is handed to it, and while it sets its lease."""
    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with dlock.AsyncLocker(server.url) as locker:
        lock, other = locker.lock(name, "test"), locker.lock(name, "test", lease=lease)
        cancelled = acquired = busy = 0
        for turn in range(300):
            await lock.acquire()
            task = asyncio.ensure_future(other.acquire())
            for _ in range(turn % 5):
                await asyncio.sleep(0)
            release = asyncio.ensure_future(lock.release())
            await asyncio.sleep((turn % 60) * 0.00002)
            task.cancel()
            try:
                assert await task
                acquired += 1
                await other.release()
            except asyncio.CancelledError:
                cancelled += 1
            except dlock.BusyError:  # what was cancelled last is not over
                busy += 1
            await until(lambda: other.remaining == 0, "the end of what was acquired all the same")
            await release
        assert cancelled > 10 and acquired > 0 and acquired + cancelled + busy == 300
        await until(lambda: server.holder(name) is None and server.waiters(name) == 0, "nothing held")
    gc.collect()
    assert complaints == []


@pytest.mark.parametrize("times", [1, 2])
@on_loop
async def test_a_lock_that_came_before_the_cancellation_is_given_back(server, name, times):
    """The server has given it, and the loop has not seen that yet."""
    async with dlock.AsyncLocker(server.url) as locker:
        lock = locker.lock(name, "test")
        await lock.locked()
        task = asyncio.ensure_future(lock.acquire())
        await asyncio.sleep(0)  # it is under way
        eventually(lambda: lock.remaining > 0, "the acquisition, while the loop stands still")
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: server.holder(name) is None, "the release")


@on_loop
async def test_a_cancelled_task_does_not_wait_for_a_silent_server(server, name):
    async with dlock.AsyncLocker(server.url) as locker:
        lock = locker.lock(name, "test")
        await lock.locked()
        server.ask("CLIENT", "PAUSE", 1000, "ALL")
        task = asyncio.ensure_future(lock.acquire())
        await asyncio.sleep(0.05)
        begun = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        took = time.monotonic() - begun
        assert took < 0.8
        await until(lambda: server.holder(name) is None, "the release, once the server answers")
        await acquire_when_idle(lock)
        await lock.release()


@on_loop
async def test_a_task_cancelled_twice_holds_nothing(server, name):
    async with dlock.AsyncLocker(server.url) as locker:
        lock = locker.lock(name, "test")
        await lock.locked()
        server.ask("CLIENT", "PAUSE", 300, "ALL")
        task = asyncio.ensure_future(lock.acquire())
        for _ in range(3):
            await asyncio.sleep(0.01)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        server.ask("PING")  # as soon as the pause is over
        await until(lambda: lock.remaining == 0 and server.holder(name) is None, "nothing held")
        async with locker.lock(name, "test", timeout=PATIENCE) as other:
            assert await other.owned()


@on_loop
async def test_a_task_cancelled_while_the_locker_closes_is_cancelled(server, name):
    """`asyncio.timeout` and task groups count on that."""
    locker = dlock.AsyncLocker(server.url)
    with dlock.Locker(server.url) as other, other.lock(name, "test"):
        task = asyncio.ensure_future(locker.lock(name, "test").acquire())
        await until(lambda: server.waiters(name) == 1, "a waiter in the queue")
        locker._close()  # as close() does, on another thread
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

@on_loop
async def test_a_lost_lock_is_told(server, name):
    told = asyncio.get_running_loop().create_future()

    def on_lost(lost):
        asyncio.get_running_loop()
        told.set_result(lost)

    async with dlock.AsyncLocker(server.url, lease=0.6) as locker:
        lock = locker.lock(name, "test", on_lost=on_lost)
        with pytest.raises(dlock.LockLostError):
            async with lock:
                server.ask("DEL", f"test:{name}")
                assert await asyncio.wait_for(told, PATIENCE) is lock
                assert lock.lost
        async with lock:
            assert not lock.lost
        with pytest.raises(dlock.LockLostError, match=name):
            async with lock:
                server.ask("DEL", f"test:{name}")
        with pytest.warns(dlock.DlockWarning, match=name) as caught:
            with pytest.raises(KeyError):
                async with lock:
                    server.ask("DEL", f"test:{name}")
                    raise KeyError
        assert caught[0].filename == __file__


@on_loop
async def test_what_on_lost_raises_goes_to_the_loop(server, name):
    caught = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: caught.set_result(context["exception"]))
    async with dlock.AsyncLocker(server.url, lease=0.3, auto_renew=False) as locker:
        lock = locker.lock(name, "test", on_lost=lambda lock: 1 / 0)
        await lock.acquire()
        assert isinstance(await asyncio.wait_for(caught, PATIENCE), ZeroDivisionError)


@on_loop
async def test_on_lost_has_the_context_of_its_own_acquire(server, name):
    request = contextvars.ContextVar("request")
    told = asyncio.get_running_loop().create_future()

    async def work(number):
        request.set(number)
        lock = locker.lock(name, "test", on_lost=lambda lost: told.set_result(request.get()))
        await lock.acquire()
        await told

    async with dlock.AsyncLocker(server.url, lease=0.3, auto_renew=False) as locker:
        request.set("the first who used the locker")
        await locker.lock(name, "test").locked()
        request.set("another")
        await asyncio.wait_for(work("its own"), PATIENCE)
        assert told.result() == "its own"


def test_one_locker_serves_loops_one_after_another_and_side_by_side(server, name):
    locker = dlock.AsyncLocker(server.url)
    inside = []

    async def work(turns):
        for _ in range(turns):
            async with locker.lock(name, "test", timeout=60) as lock:
                inside.append(lock)
                await asyncio.sleep(0)
                assert inside == [lock]
                inside.pop()

    async def crowd():
        await asyncio.gather(*(work(5) for _ in range(4)))

    asyncio.run(crowd())
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        asyncio.run(crowd())
    assert len(os.listdir("/proc/self/fd")) < before + 20, "a loop's descriptors are gone with it"
    failures = []

    def thread():
        try:
            asyncio.run(crowd())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=thread) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(PATIENCE)
        assert not each.is_alive()
    assert failures == []
    asyncio.run(locker.close())
    assert server.holder(name) is None


def test_a_lock_goes_from_one_loop_to_another(server, name):
    locker = dlock.AsyncLocker(server.url, lease=1)
    told = []
    lock = locker.lock(name, "test", on_lost=lambda lost: told.append((lost, asyncio.get_running_loop())))
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    first.run_until_complete(lock.acquire())
    assert lock.remaining > 0

    async def go_on():
        assert await lock.owned()
        await lock.release()
        with pytest.raises(dlock.LockLostError):
            async with lock:
                server.ask("DEL", f"test:{name}")
                await until(lambda: told == [(lock, second)], "the news, in this loop")

    second.run_until_complete(go_on())
    first.run_until_complete(locker.close())
    for loop in (first, second):
        loop.close()


def test_a_loop_that_ends_while_a_task_waits_leaves_nothing(server, locker, name):
    others = dlock.AsyncLocker(server.url)
    with locker.lock(name, "test"):
        loop = asyncio.new_event_loop()

        async def wait():
            task = loop.create_task(others.lock(name, "test").acquire())
            await until(lambda: server.waiters(name) == 1, "a waiter in the queue")
            return task

        task = loop.run_until_complete(wait())
        loop.close()
        task._log_destroy_pending = False  # as asyncio does for tasks that it gives up itself
        del task
        gc.collect()
        eventually(lambda: server.waiters(name) == 0, "an empty queue")
    asyncio.run(others.close())


@on_loop
async def test_closing_releases_and_ends_waits(server, name):
    locker = dlock.AsyncLocker(server.url)
    held, other = locker.lock(name, "test"), locker.lock(name, "test")
    await held.acquire()
    waiting = asyncio.ensure_future(other.acquire())
    await until(lambda: server.waiters(name) == 1, "a waiter in the queue")
    await locker.close()
    await locker.close()
    with pytest.raises(dlock.ClosedError):
        await asyncio.wait_for(waiting, PATIENCE)
    assert server.holder(name) is None and server.waiters(name) == 0
    for call in (held.acquire, held.release, held.locked, lambda: held.extend(1), locker.lock(name, "test").acquire):
        with pytest.raises(dlock.ClosedError):
            await call()
    assert repr(locker) == f"<dlock.AsyncLocker {server.url} closed>"
    selector = asyncio.get_running_loop()._selector  # whose one other descriptor is the loop's own
    await until(lambda: len(selector.get_map()) == 1, "the loop's leaving the descriptor alone")


@on_loop
async def test_a_cancelled_close_goes_on(server, name):
    locker = dlock.AsyncLocker(server.url)
    lock = locker.lock(name, "test")
    await lock.acquire()
    closing = asyncio.ensure_future(locker.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await until(lambda: locker.closed and server.holder(name) is None, "the release")


@on_loop
async def test_what_is_not_closed_is_collected(server, name):
    def connections():
        return server.ask("CLIENT", "LIST").decode().count("name=async-collected")

    locker = dlock.AsyncLocker(f"{server.url}?client_name=async-collected")
    lock = locker.lock(name, "test")
    await lock.acquire()
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.warns(ResourceWarning, match=name), pytest.warns(ResourceWarning, match="unclosed <dlock.AsyncLocker"):
        del lock, locker
        gc.collect()
    await until(lambda: server.holder(name) is None and connections() == 0, "the release and the end of the connections")
    await until(lambda: len(os.listdir("/proc/self/fd")) < descriptors, "the end of the descriptors")


@on_loop
async def test_the_loop_goes_on_while_a_lock_connects(silent, name):
    async with dlock.AsyncLocker(silent, connect_timeout=0.3, response_timeout=0.3) as locker:
        task = asyncio.ensure_future(locker.lock(name, "test").acquire())
        turns = 0
        while not task.done():
            await asyncio.sleep(0.005)
            turns += 1
        with pytest.raises(dlock.NotConnectedError, match=silent.partition("//")[2]):
            await task
        assert turns > 5


@on_loop
async def test_those_who_wait_for_a_connection_fail_together(silent, name):
    async with dlock.AsyncLocker(silent, connect_timeout=0.3, response_timeout=0.3) as locker:
        tasks = [asyncio.ensure_future(locker.lock(name, "test").acquire()) for _ in range(100)]
        begun = time.monotonic()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(outcome, dlock.NotConnectedError)
        assert time.monotonic() - begun < 6, "two attempts for all, and not some for each"


@on_loop
async def test_a_timeout_counts_while_a_lock_connects(silent, name, monkeypatch):
    monkeypatch.setattr("dlock._aio.CONNECT_PATIENCE", 0.1)
    async with dlock.AsyncLocker(silent, connect_timeout=30, response_timeout=30) as locker:
        for timeout in (0, 0.2):
            begun = time.monotonic()
            with pytest.raises(dlock.NotConnectedError, match=name):
                await locker.lock(name, "test").acquire(timeout=timeout)
            assert 0.1 <= time.monotonic() - begun < 10


def test_nobody_waits_for_a_connecting_that_was_interrupted(silent, name):
    """Neither the loop nor the end of the interpreter."""
    connecting = program("""
import asyncio, dlock, sys
async def main():
    async with dlock.AsyncLocker(sys.argv[1], connect_timeout=30, response_timeout=30) as locker:
        asyncio.get_running_loop().call_later(0.2, print, "connecting")
        await locker.lock(sys.argv[2], "test").acquire()
asyncio.run(main())
""", silent, name)
    try:
        assert connecting.stdout.readline() == "connecting\n"
        connecting.send_signal(signal.SIGINT)
        _, errors = connecting.communicate(timeout=PATIENCE)
    finally:
        connecting.kill()
    assert "KeyboardInterrupt" in errors and connecting.returncode == -signal.SIGINT


FORK = """
import asyncio, dlock, os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with threads, which is what this is about
url, name = sys.argv[1:]
locker = dlock.AsyncLocker(url)
lock = locker.lock(name, "test")
asyncio.run(lock.acquire())

async def child():
    for call in (lock.release, lock.acquire, locker.lock("x", "test").acquire, lambda: lock.extend(1)):
        try:
            await asyncio.wait_for(call(), 10)
        except dlock.ForkedError:
            continue
        raise SystemExit("no ForkedError")
    async with dlock.AsyncLocker(url) as fresh:
        assert not await fresh.lock(name, "test").try_acquire()
    await asyncio.wait_for(locker.close(), 10)

pid = os.fork()
if pid == 0:
    asyncio.run(child())
    sys.exit()
assert os.waitpid(pid, 0)[1] == 0
assert lock.remaining > 20
asyncio.run(lock.release())
print("done")
"""


def test_a_forked_child_has_nothing_of_its_parents(server, name):
    assert run(FORK, server.url, name) == "done\n"


def test_handlers_of_the_end_of_the_interpreter_may_close(server, name):
    assert run("""
import atexit, asyncio, dlock, sys

@atexit.register
def close():
    asyncio.run(locker.close())
    print(locker)

locker = dlock.AsyncLocker(sys.argv[1])
lock = locker.lock(sys.argv[2], "test")
asyncio.run(lock.acquire())
""", server.url, name) == f"<dlock.AsyncLocker {server.url} closed>\n"
    assert server.holder(name) is None


def test_the_end_of_the_interpreter_releases_and_does_not_hang(server, name):
    ending = program("""
import asyncio, dlock, sys, threading
locker = dlock.AsyncLocker(sys.argv[1])
held = locker.lock(sys.argv[2], "test")
async def wait():
    await held.acquire()
    await locker.lock(sys.argv[2], "test").acquire()
threading.Thread(target=lambda: asyncio.run(wait()), daemon=True).start()
input()
""", server.url, name)
    try:
        eventually(lambda: server.waiters(name) == 1, "a waiter in the queue")
        _, errors = ending.communicate("\n", timeout=PATIENCE)
    finally:
        ending.kill()
    assert ending.returncode == 0, errors
    eventually(lambda: server.holder(name) is None, "the release")
