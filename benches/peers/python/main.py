"""dlock's Python package, redis-py's Lock and python-redis-lock, with threads, and with tasks of asyncio where there are
such; serves the lines that ../README.md describes.

    main.py <port>

The peers read replies by hiredis, as redis-py's documentation advises, and share a pool of connections: with threads as many
as there are threads (100 are redis-py's default), on asyncio 50, for which its tasks wait, the default of that pool.
"""

import asyncio
import sys
import threading
import time
from collections import namedtuple

import dlock
import redis
import redis.asyncio
import redis_lock

LEASE = 30
HOST, PORT = "127.0.0.1", int(sys.argv[1])
CLIENT = redis.Redis(host=HOST, port=PORT, max_connections=2000)
ASYNC_CLIENT = redis.asyncio.Redis(connection_pool=redis.asyncio.BlockingConnectionPool(host=HOST, port=PORT))
LOCKER = dlock.Locker(host=HOST, port=PORT)
ASYNC_LOCKER = dlock.AsyncLocker(host=HOST, port=PORT)
LOOP = asyncio.new_event_loop()

# How a lock is made, and whether it is one for tasks. Leases are 30 s; redis-py asks again every 0.1 s, its default.
# python-redis-lock waits by BLPOP; without auto_renewal, as by default: that would start a thread for each acquisition.
Contender = namedtuple("Contender", "open tasks")
CONTENDERS = {
    "dlock-python": Contender(lambda name: LOCKER.lock(name, group="peers"), False),
    "dlock-asyncio": Contender(lambda name: ASYNC_LOCKER.lock(name, group="peers"), True),
    "redis-py": Contender(lambda name: CLIENT.lock(name, timeout=LEASE), False),
    "redis-py-asyncio": Contender(lambda name: ASYNC_CLIENT.lock(name, timeout=LEASE), True),
    "redis-py-asyncio-10ms": Contender(lambda name: ASYNC_CLIENT.lock(name, timeout=LEASE, sleep=0.01), True),
    "python-redis-lock": Contender(lambda name: redis_lock.Lock(CLIENT, name, expire=LEASE), False),
}
LOCKS = {}  # of earlier requests, by name and thread


def lock_of(contender, name, thread=0):
    name = f"{contender}-{name}"
    if (name, thread) not in LOCKS:
        LOCKS[name, thread] = CONTENDERS[contender].open(name)
    return LOCKS[name, thread]


def microseconds():
    """Of CLOCK_MONOTONIC, which is one clock for all processes."""
    return time.monotonic() * 1e6


# --- blocks ---

class Block:
    """What each thread or task did before the end."""

    def __init__(self, locks, hot, seconds):
        self.hot = hot
        self.end = None
        self.times = [[] for _ in locks]
        self.longest = [0.0] * len(locks)
        self.failure = None
        self.run(locks, seconds)

    def run(self, locks, seconds):
        self.begin = threading.Barrier(len(locks), lambda: setattr(self, "end", time.perf_counter() + seconds))
        threads = [threading.Thread(target=self.guarded, args=(i, lock)) for i, lock in enumerate(locks)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def guarded(self, i, lock):
        try:
            self.work(i, lock)
        except Exception as error:  # of any kind: it is the request's answer
            self.failure = error

    def work(self, i, lock):
        clock = time.perf_counter
        self.begin.wait()
        before = clock()
        while before < self.end:
            if not lock.acquire():
                raise RuntimeError("acquire gave up")
            acquired = clock()
            lock.release()
            before = self.note(i, before, acquired, clock())

    def note(self, i, before, acquired, after):
        took = (acquired if self.hot else after) - before
        self.longest[i] = max(self.longest[i], took)
        if after <= self.end:
            self.times[i].append(took)
        return after

    def answer(self):
        if self.failure:
            raise self.failure
        each = [len(times) for times in self.times]
        ordered = sorted(took for times in self.times for took in times)
        p50, p99 = (ordered[int(share * len(ordered))] * 1e6 if ordered else 0 for share in (0.5, 0.99))
        return f"{len(ordered)} {p50:.1f} {p99:.1f} {max(self.longest) * 1e6:.1f} {min(each)} {max(each)}"


class AsyncBlock(Block):
    """With tasks in the place of threads."""

    def run(self, locks, seconds):
        self.end = time.perf_counter() + seconds
        LOOP.run_until_complete(self.all(locks))

    async def all(self, locks):
        await asyncio.gather(*(self.guarded_task(i, lock) for i, lock in enumerate(locks)))

    async def guarded_task(self, i, lock):
        try:
            await self.task(i, lock)
        except Exception as error:  # of any kind: it is the request's answer
            self.failure = error

    async def task(self, i, lock):
        clock = time.perf_counter
        before = clock()
        while before < self.end:
            if not await lock.acquire():
                raise RuntimeError("acquire gave up")
            acquired = clock()
            await lock.release()
            before = self.note(i, before, acquired, clock())


def block(contender, mode, threads, milliseconds):
    locks = [lock_of(contender, f"own-{i}" if mode == "own" else "hot", i) for i in range(int(threads))]
    kind = AsyncBlock if CONTENDERS[contender].tasks else Block
    return kind(locks, mode == "hot", int(milliseconds) / 1000).answer()


# --- from one process to another ---

def now(contender, call):
    """Calls what may be a coroutine function."""
    if CONTENDERS[contender].tasks:
        return LOOP.run_until_complete(call())
    return call()


def take(contender):
    if not now(contender, lock_of(contender, "passed").acquire):
        raise RuntimeError("acquire gave up")
    return f"{microseconds():.1f}"


def give(contender):
    before = microseconds()
    now(contender, lock_of(contender, "passed").release)
    return f"{before:.1f}"


# --- a crowd ---

class Crowd:
    """Many threads that wait for the lock that another process holds; each gives it back at once. `served` has their numbers,
    in the order in which they had it: only the holder writes."""

    def __init__(self, contender, count, seconds):
        self.locks = [CONTENDERS[contender].open(f"{contender}-passed") for _ in range(count)]
        self.served, self.last, self.failure = [], 0.0, None
        self.seconds = seconds
        self.run()

    def note(self, i):
        self.served.append(i)
        self.last = microseconds()

    def run(self):
        first, over = threading.Event(), threading.Event()

        def one(i, lock):
            try:
                with lock:
                    self.note(i)
                    first.set()
            except Exception as error:  # of any kind: it is the request's answer
                self.failure = error
            if self.failure or len(self.served) == len(self.locks):
                first.set()
                over.set()

        threading.stack_size(256 * 1024)
        for i, lock in enumerate(self.locks):
            threading.Thread(target=one, args=(i, lock), daemon=True).start()
        print("waiting", flush=True)
        first.wait()
        over.wait(self.seconds)

    def answer(self):
        if self.failure:
            raise self.failure
        served = list(self.served)
        furthest = overtaken = 0
        for i in served:
            overtaken += i < furthest
            furthest = max(furthest, i)
        return f"{len(served)} {self.last:.1f} {overtaken}"


class AsyncCrowd(Crowd):
    """With tasks in the place of threads."""

    def run(self):
        LOOP.run_until_complete(self.all())

    async def all(self):
        first = asyncio.Event()

        async def one(i, lock):
            async with lock:
                self.note(i)
                first.set()

        tasks = [asyncio.ensure_future(one(i, lock)) for i, lock in enumerate(self.locks)]
        print("waiting", flush=True)
        await asyncio.wait([asyncio.ensure_future(first.wait()), *tasks], return_when=asyncio.FIRST_COMPLETED)
        done, left = await asyncio.wait(tasks, timeout=self.seconds, return_when=asyncio.FIRST_EXCEPTION)
        self.failure = next((task.exception() for task in done if task.exception()), None)
        for task in left:
            task.cancel()


def crowd(contender, count, milliseconds):
    kind = AsyncCrowd if CONTENDERS[contender].tasks else Crowd
    return kind(contender, int(count), int(milliseconds) / 1000).answer()


# --- requests ---

def answer(contender, what, *numbers):
    if contender not in CONTENDERS:
        raise ValueError("no such contender")
    if what in ("own", "hot"):
        return block(contender, what, *numbers)
    return {"take": take, "give": give, "crowd": crowd}[what](contender, *numbers)


def main():
    for line in sys.stdin:
        if line.strip() == "quit":
            break
        try:
            print(answer(*line.split()), flush=True)
        except Exception as error:  # of any kind: it is the answer
            print(f"! {type(error).__name__}: {error}".replace("\n", " "), flush=True)


if __name__ == "__main__":
    main()
