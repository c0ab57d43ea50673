"""dlock's Python package, with threads and with tasks of asyncio, redis-py's Lock and python-redis-lock; serves the lines that
../README.md describes.

    main.py <port>

The latter two use one client with its pool of connections, which reads replies by hiredis, as redis-py's documentation advises.
"""

import asyncio
import sys
import threading
import time

import dlock
import redis
import redis_lock

LEASE = 30
CLIENT = redis.Redis(host="127.0.0.1", port=int(sys.argv[1]))
LOCKER = dlock.Locker(host="127.0.0.1", port=int(sys.argv[1]))
ASYNC_LOCKER = dlock.AsyncLocker(host="127.0.0.1", port=int(sys.argv[1]))


def redis_py(name):
    """Tries every 0.1 s, its default, without an end."""
    return CLIENT.lock(name, timeout=LEASE)


def python_redis_lock(name):
    """Waits by BLPOP. Without auto_renewal, as by default: that would start a thread for each acquisition."""
    return redis_lock.Lock(CLIENT, name, expire=LEASE)


def dlock_python(name):
    return LOCKER.lock(name, group="peers")


def dlock_asyncio(name):
    return ASYNC_LOCKER.lock(name, group="peers")


OPEN = {"dlock-python": dlock_python, "dlock-asyncio": dlock_asyncio, "redis-py": redis_py, "python-redis-lock": python_redis_lock}
LOCKS = {}  # of earlier requests, by contender, name and thread


def lock_of(contender, mode, thread):
    name = f"{contender}-own-{thread}" if mode == "own" else f"{contender}-hot"
    if (name, thread) not in LOCKS:
        LOCKS[name, thread] = OPEN[contender](name)
    return LOCKS[name, thread]


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
            return f"! {type(self.failure).__name__}: {self.failure}".replace("\n", " ")
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


LOOP = asyncio.new_event_loop()


def main():
    for line in sys.stdin:
        if line.strip() == "quit":
            break
        contender, mode, threads, milliseconds = line.split()
        if contender not in OPEN:
            print("! no such contender", flush=True)
            continue
        locks = [lock_of(contender, mode, i) for i in range(int(threads))]
        block = AsyncBlock if contender == "dlock-asyncio" else Block
        print(block(locks, mode == "hot", int(milliseconds) / 1000).answer(), flush=True)


if __name__ == "__main__":
    main()
