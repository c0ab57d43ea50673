"""Distributed locks on Redis and Valkey.

    import dlock

    with dlock.Locker("redis://localhost:6379") as locker:
        with locker.lock("report", group="billing", timeout=5) as lock:
            write_report(fencing_token=lock.token)

and on asyncio:

    async with dlock.AsyncLocker("redis://localhost:6379") as locker:
        async with locker.lock("report", group="billing", timeout=5) as lock:
            await write_report(fencing_token=lock.token)

A lock is held by one `Lock` object at a time, among all threads, processes and machines. It has a lease, 30 seconds if
nothing else is said, that the library renews in the background while the lock is held. Those who wait are served in
order of arrival, and woken by the release itself. Each acquisition has a token, by which what the lock protects can refuse
a holder that came too late.

Durations are in seconds, as numbers or as `datetime.timedelta`. What goes wrong is a `DlockError`.
"""

from ._aio import AsyncLock, AsyncLocker
from ._errors import (
    AlreadyHeldError,
    BusyError,
    ClosedError,
    DlockError,
    DlockWarning,
    ForkedError,
    InvalidArgumentError,
    LockCancelledError,
    LockerError,
    LockLostError,
    LockTimeoutError,
    NotConnectedError,
    NotOwnerError,
    PanicError,
    UnlockUnlockedError,
)
from ._library import Duration as _Duration
from ._library import version
from ._sync import Lock, Locker

__version__ = version()

Duration = _Duration
"""A number of seconds, or a `datetime.timedelta`. For annotations."""

__all__ = [
    "Locker",
    "Lock",
    "AsyncLocker",
    "AsyncLock",
    "Duration",
    "DlockError",
    "LockTimeoutError",
    "LockLostError",
    "NotOwnerError",
    "UnlockUnlockedError",
    "AlreadyHeldError",
    "BusyError",
    "LockCancelledError",
    "NotConnectedError",
    "LockerError",
    "InvalidArgumentError",
    "ClosedError",
    "ForkedError",
    "PanicError",
    "DlockWarning",
]
