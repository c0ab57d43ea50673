"""What a program may write, for the type checker: `tools/python.py types`. What it marks as wrong must be found wrong."""

import asyncio
from datetime import timedelta
from typing import Optional, Type

import dlock
from dlock import *  # noqa: F403


def threads(locker: dlock.Locker, timeout: dlock.Duration) -> int:
    with locker.lock("report", group="billing", timeout=timedelta(seconds=1), on_lost=lost) as lock:
        name: str = lock.name + lock.group + lock.id
        owner: Optional[str] = lock.owner()
        seconds: float = lock.remaining
        state: bool = lock.lost or lock.locked() or lock.owned()
        if lock.acquire(False) or lock.acquire(timeout=timeout) or lock.acquire_retry_backoff(1, 0.5):
            lock.extend(5)
            print(name, owner, seconds, state)
        return lock.token


def lost(lock: dlock.Lock) -> None:
    lock.cancel()


async def tasks(locker: dlock.AsyncLocker) -> Optional[str]:
    task = asyncio.current_task()
    async with locker.lock("report", "billing", blocking=False, on_lost=lambda lock: task and task.cancel()) as lock:
        acquired: bool = await lock.acquire(timeout=0.5)
        token: int = lock.token
        print(acquired, token, await lock.owner())
        return lock.id


def errors(locker: dlock.Locker) -> Type[Warning]:
    try:
        print(locker.warnings(), locker.closed)
    except (dlock.LockTimeoutError, TimeoutError) as error:
        print(error)
    except dlock.DlockError as error:
        status: int = error.status
        print(status, error.status_name + error.message)
    return DlockWarning  # noqa: F405


def wrong(locker: dlock.Locker, others: dlock.AsyncLocker) -> None:
    locker.lock("report")  # type: ignore[call-arg]
    locker.lock("report", "billing", timeout="1")  # type: ignore[arg-type]
    locker.lock(b"report", "billing")  # type: ignore[arg-type]
    others.lock("report", "billing", on_lost=lost)  # type: ignore[arg-type]
    with others:  # type: ignore[attr-defined]
        pass
