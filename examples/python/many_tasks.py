"""A hundred tasks take turns, without a thread for each; one gives up: many_tasks.py [URL]"""

import asyncio
import sys

import dlock


async def work(locker, done):
    async with locker.lock("turns", group="examples"):
        done.append(len(done))


async def main():
    done = []
    async with dlock.AsyncLocker(*sys.argv[1:]) as locker:
        async with locker.lock("turns", group="examples"):
            tasks = [asyncio.ensure_future(work(locker, done)) for _ in range(100)]
            impatient = tasks[50]
            await asyncio.wait([impatient], timeout=0.05)
            impatient.cancel()
            await asyncio.wait([impatient])
        results = await asyncio.gather(*tasks, return_exceptions=True)
    print(f"{len(done)} tasks had their turn, {sum(isinstance(each, asyncio.CancelledError) for each in results)} was cancelled")


asyncio.run(main())
