"""Lockers and locks for asyncio: no thread waits for a lock.

What waits is submitted to a queue of the library, one for each event loop, whose descriptor the loop watches. What blocks
without a queue, connecting above all, is done by a few threads of the locker.
"""

import asyncio
import contextvars
import time
import weakref
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Callable, Dict, List, Optional, Tuple, Type

from . import _library
from ._base import LockBase, LockerBase, check_on_lost, check_waiting, numbers, tell_beside
from ._errors import DlockError, LockTimeoutError, NotConnectedError
from ._library import FOREVER, Duration, Event, Events, Handle, LockHandle
from ._native import ffi, lib
from ._threads import Threads

# How long a cancelled task waits for the library to say that it has left the queue: it takes a round trip, which a silent
# server does not complete.
CANCEL_PATIENCE = 0.05
# What an acquire with a shorter timeout than this many seconds may take to connect.
CONNECT_PATIENCE = 1.0
# For what blocks besides connecting: setting a lease.
THREADS = 4


class AsyncLocker(LockerBase):
    """A client of one server, for the tasks of any number of event loops; one is enough for a program. Close it, or use it
    in an `async with`: that releases what is held. At the end of the interpreter open lockers are closed by themselves.
    """

    def _begin(self) -> None:
        # A loop keeps its port alive until it is closed, or the locker is.
        self._ports: "weakref.WeakValueDictionary[int, Port]" = weakref.WeakValueDictionary()
        self._opener = Opener()
        self._closer = Threads(1, "dlock-close")
        self._threads = Threads(THREADS, "dlock-extend")

    def lock(
        self,
        name: str,
        group: str,
        *,
        blocking: bool = True,
        timeout: Optional[Duration] = None,
        lease: Optional[Duration] = None,
        on_lost: "Optional[Callable[[AsyncLock], object]]" = None,
    ) -> "AsyncLock":
        """Makes a contender for a lock, which is not acquired yet. No I/O: the first use of the lock connects where the locker
        has no connection.

        `name` and `group` together name the lock: 1 to 512 bytes of UTF-8 without NUL each, and no ':' in the group.
        `blocking` and `timeout` are what `async with` gives to `acquire`; `lease` is that of this lock, at the cost of one more
        round trip for an acquisition, which `timeout` does not count. `on_lost`, a plain function, is called with the lock when
        it is lost: by the event loop that acquired it, in the context (`contextvars`) of the acquire. What it raises goes to
        the loop's exception handler.
        """
        check_waiting(blocking, timeout)
        check_on_lost(on_lost)
        return AsyncLock(self, name, group, blocking, timeout, lease, on_lost)

    async def close(self) -> None:
        """Releases what is held and ends what waits, with `ClosedError`; takes at most one response timeout. Closing again does
        nothing. A cancelled task does not stop it. In a forked child it lets go of what is the parent's."""
        if self._blocks_to_close():
            await asyncio.shield(asyncio.wrap_future(self._closer.call(self._close)))
        else:
            self._close()

    async def __aenter__(self) -> "AsyncLocker":
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    def _blocking(self, function: Callable[..., Any], *arguments: Any) -> "asyncio.Future[Any]":
        """Calls what blocks, elsewhere."""
        self._handle()  # in a forked child the threads are the parent's
        return asyncio.wrap_future(self._threads.call(function, *arguments))

    def _port(self) -> "Port":
        """That of the running loop."""
        loop, handle = asyncio.get_running_loop(), self._handle()
        port = self._ports.get(id(loop))
        if port is None or port.loop is not loop:
            port = self._ports[id(loop)] = Port(handle, loop)
        return port


class Opener:
    """Makes handles, in the order in which tasks ask for them, so that they come to the server in that order. Connects where
    there is no connection."""

    def __init__(self) -> None:
        self._thread = Threads(1, "dlock-connect")
        self._failed: Optional[Tuple[float, str]] = None

    def open(self, locker: Handle, name: bytes, group: bytes) -> "Future[LockHandle]":
        return self._thread.call(self._make, time.monotonic(), locker, name, group)

    def _make(self, asked: float, locker: Handle, name: bytes, group: bytes) -> LockHandle:
        """Where the last attempt to connect was begun after this one was asked for, and failed, that is the answer: those who
        came together do not fail one after another."""
        if self._failed is not None and self._failed[0] >= asked:
            raise NotConnectedError(self._failed[1])
        begun = time.monotonic()
        try:
            return _library.open_lock(locker, name, group)
        except NotConnectedError as error:
            self._failed = begun, error.message
            raise


def set_lease(lock: Handle, token: int, lease_ms: int, cancelled: List[bool]) -> None:
    """Blocks. The lock is released where that fails, or was `cancelled` meanwhile; not a later acquisition of it."""
    if cancelled:
        return
    done = False
    try:
        _library.call(lib.dlock_lock_extend, lock, lease_ms)
        done = True
    finally:
        if (cancelled or not done) and _library.token_or_zero(lock) == token:
            lib.dlock_lock_release(lock.pointer, ffi.NULL)


def see(future: "asyncio.Future[Any]") -> None:
    """asyncio complains of an exception that nobody looks at; where the task is cancelled, nobody does."""
    if not future.cancelled():
        future.exception()


class Operation:
    """A submission. Its event comes once, also where the future that was waited for is cancelled by then; `left` gets it
    where nobody waits any more."""

    def __init__(self, future: "asyncio.Future[None]") -> None:
        self.future = future
        self.event: Optional[Event] = None
        self.left: Optional[Callable[[Event], None]] = None

    async def outcome(self) -> Event:
        await self.future
        assert self.event is not None
        self.event.check()
        return self.event

    def end(self, event: Event) -> None:
        self.event = event
        if not self.future.done():
            self.future.set_result(None)
        if self.left is not None:
            self.left(event)


class Port:
    """A queue, and the loop that watches its descriptor. Only that loop's thread comes here."""

    def __init__(self, locker: Handle, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._events = Events(_library.open_queue(locker), 64)
        self._operations: Dict[int, Operation] = {}
        self._watched: "weakref.WeakValueDictionary[int, AsyncLock]" = weakref.WeakValueDictionary()
        self._descriptor: int = lib.dlock_queue_fd(self._events.queue.pointer)
        # Not in the context of the task that happens to be the first.
        contextvars.Context().run(loop.add_reader, self._descriptor, self._read)

    def submit(self, function: Any, *arguments: Any) -> Operation:
        """Starts an operation."""
        number = next(numbers)
        _library.call(function, self._events.queue, *arguments, number)
        operation = self._operations[number] = Operation(self.loop.create_future())
        return operation

    async def do(self, function: Any, *arguments: Any) -> Event:
        """Starts an operation, and waits for its end. It goes on by itself where the task is cancelled."""
        return await self.submit(function, *arguments).outcome()

    def watch(self, lock: "AsyncLock") -> None:
        self._watched[lock._number] = lock
        _library.call(lib.dlock_lock_watch, lock._native, self._events.queue, lock._number)

    def _read(self) -> None:
        events = self._events.take()
        if events is None:
            self._end()
        for event in events or ():
            if event.kind == lib.DLOCK_EVENT_LOST:
                lock = self._watched.get(event.user_data)
                if lock is not None and lock._on_lost is not None:
                    self.loop.call_soon(lock._on_lost, lock, context=lock._context)
            else:
                self._operations.pop(event.user_data).end(event)

    def _end(self) -> None:
        """The locker is closed."""
        self.loop.remove_reader(self._descriptor)
        left, self._operations = self._operations, {}
        for operation in left.values():
            operation.end(Event(0, 0, lib.DLOCK_ERR_CLOSED, False, "", "the locker is closed"))


class AsyncLock(LockBase):
    """One contender for one lock; `AsyncLocker.lock` makes it. For one task at a time: a second one gets `BusyError`. What only
    asks (`token`, `remaining`, `lost`, `locked`, `owned`, `owner`) and `cancel` may be used beside an acquire.

    With `async with` it acquires and releases. Leaving the block raises `LockLostError` where the lock was lost meanwhile, and
    what `release` raises. Where an exception is leaving the block already, that one goes on, and a `DlockWarning`, with Python
    3.11 and newer also a note on the exception, tells of the other. A lock that the block has released itself is left alone.

    A lock that is held when its object is garbage-collected is released, with a `ResourceWarning`.
    """

    def __init__(
        self,
        locker: AsyncLocker,
        name: str,
        group: str,
        blocking: bool,
        timeout: Optional[Duration],
        lease: Optional[Duration],
        on_lost: "Optional[Callable[[AsyncLock], object]]",
    ) -> None:
        super().__init__(locker, name, group, lease)
        self._locker: AsyncLocker
        self._blocking, self._timeout = blocking, timeout
        self._on_lost = on_lost
        self._context: Optional[contextvars.Context] = None
        self._watched_by: "Optional[weakref.ref[Port]]" = None

    @property
    def id(self) -> Optional[str]:
        """The owner id of this object, a random UUID: what `owner` tells while it holds the lock. None before its first use."""
        return None if self._native is None else _library.id_of(self._native)

    async def _open(self, patience: Optional[float] = None) -> Port:
        """Makes the handle at its first use, in so many seconds, and returns the running loop's queue."""
        if self._native is None:
            opening = asyncio.wrap_future(self._locker._opener.open(self._locker._handle(), *self._names))
            try:
                await asyncio.wait([opening], timeout=patience)
            finally:
                if not opening.cancel():
                    see(opening)
            if opening.cancelled():
                raise NotConnectedError(f"{self._label()}: no connection to {self._locker._place} in {patience} s")
            made = opening.result()
            if self._native is None:  # another task may have been first
                self._native = made
        return self._locker._port()

    # --- acquiring ---

    async def acquire(self, blocking: bool = True, timeout: Optional[Duration] = None) -> bool:
        """Acquires the lock, and returns whether it did. Without a timeout it waits as long as it takes, first come, first
        served; with one it returns False at most 50 ms after it, even where the server is silent (connecting, where there is
        no connection yet, has a second in any case). With `blocking=False` it waits for one round trip, and returns False if
        somebody holds the lock, this object included.

        Where the task is cancelled, the lock is not held, or its release is under way. Where the server is slow then, leaving the
        queue goes on by itself. Until that is done the object answers `BusyError`.

        Raises `NotConnectedError` where the server cannot be reached for the response timeout, or at the end of `timeout`;
        `LockerError`, `AlreadyHeldError`, `LockCancelledError`, `ClosedError`, `BusyError`, `InvalidArgumentError`, `ForkedError`,
        `PanicError`.
        """
        try:
            return await self._acquire(blocking, timeout)
        except LockTimeoutError:
            return False

    async def _acquire(self, blocking: bool, timeout: Optional[Duration]) -> bool:
        wait_ms = check_waiting(blocking, timeout)
        if not blocking:
            return await self._acquire_by(await self._open(), lib.dlock_submit_try_acquire)
        if wait_ms == FOREVER:
            port = await self._open()
        else:
            begun = time.monotonic()
            port = await self._open(max(wait_ms / 1000, CONNECT_PATIENCE))
            wait_ms = max(0, wait_ms - int((time.monotonic() - begun) * 1000))
        return await self._acquire_by(port, lib.dlock_submit_acquire, wait_ms)

    async def try_acquire(self) -> bool:
        """`acquire(blocking=False)`."""
        return await self.acquire(blocking=False)

    async def acquire_retry_backoff(self, retries: int, initial_backoff: Duration) -> bool:
        """Makes one attempt, then up to `retries` more, after waits of 1, 2, 4, … times `initial_backoff`, and returns whether
        one of them acquired the lock. It does not queue: those who wait in `acquire` come first. Raises what `acquire` raises."""
        retries = _library.integer("retries", retries, 2**32 - 1)
        backoff_ms = _library.milliseconds("initial_backoff", initial_backoff)
        port = await self._open()
        try:
            return await self._acquire_by(port, lib.dlock_submit_acquire_retry_backoff, retries, backoff_ms)
        except LockTimeoutError:
            return False

    async def _acquire_by(self, port: Port, submit: Any, *arguments: int) -> bool:
        if self._on_lost is not None:
            self._context = contextvars.copy_context()
            if self._watched_by is None or self._watched_by() is not port:
                port.watch(self)
                self._watched_by = weakref.ref(port)
        operation = port.submit(submit, self._native, *arguments)
        try:
            event = await operation.outcome()
        except asyncio.CancelledError:
            await self._leave_queue(port, operation)
            raise
        acquired = event.flag or submit is not lib.dlock_submit_try_acquire
        if acquired and self._lease_ms is not None:
            await self._set_lease(port, self._lease_ms)
        return acquired

    async def _set_lease(self, port: Port, lease_ms: int) -> None:
        """Of a lock just acquired, which is given back where that fails or the task is cancelled."""
        cancelled: List[bool] = []
        token = _library.token_or_zero(self._native)
        setting = self._locker._blocking(set_lease, self._native, token, lease_ms, cancelled)
        setting.add_done_callback(see)
        try:
            await asyncio.shield(setting)
        except asyncio.CancelledError:
            cancelled.append(True)
            self._give_back(port)  # during a request the lock is in use, and the thread does it
            raise

    async def _leave_queue(self, port: Port, operation: Operation) -> None:
        """After a cancellation. A lock that came before it is given back."""

        def left(event: Event) -> None:
            if event.status == _library.OK and _library.token_or_zero(self._native):
                self._give_back(port)

        try:
            _library.call(lib.dlock_lock_cancel, self._native)
        except DlockError:
            pass  # closed meanwhile, and ended by that
        try:
            if operation.event is None:
                operation.future = port.loop.create_future()
                await asyncio.wait([operation.future], timeout=CANCEL_PATIENCE)
        finally:
            if operation.event is None:
                operation.left = left
            else:
                left(operation.event)

    def _give_back(self, port: Port) -> None:
        """Releases without waiting."""
        try:
            port.submit(lib.dlock_submit_release, self._native)
        except DlockError:
            pass  # closed meanwhile, and released by that

    # --- releasing ---

    async def release(self) -> None:
        """Releases the lock. The first who waits for it becomes its holder in the same step.

        Takes one round trip; where the server is silent or gone, two response timeouts at most. A cancelled task does not stop
        it. Raises `LockLostError`, once, where this object's time was over before; `UnlockUnlockedError` where nobody holds the
        lock; `NotOwnerError` where somebody else does; `NotConnectedError` (the lease then ends the lock), `LockerError`,
        `ClosedError`, `BusyError`, `ForkedError`, `PanicError`.
        """
        port = await self._open()
        await port.do(lib.dlock_submit_release, self._native)

    async def extend(self, lease: Duration) -> None:
        """Sets the lease of the lock held, from now on and for later renewals; from 0.1 s to a year. One round trip, as
        `release`. Raises `UnlockUnlockedError`, `LockLostError`, `InvalidArgumentError`, and what else `release` raises."""
        lease_ms = _library.milliseconds("lease", lease)
        await self._open()
        await self._locker._blocking(_library.call, lib.dlock_lock_extend, self._native, lease_ms)

    async def __aenter__(self) -> "AsyncLock":
        if not await self._acquire(self._blocking, self._timeout):
            raise LockTimeoutError(f"{self._label()}: not free")
        return self

    async def __aexit__(
        self, kind: Optional[Type[BaseException]], exception: Optional[BaseException], _traceback: Optional[TracebackType]
    ) -> None:
        if not self._to_be_left():
            return
        lost = self.lost
        try:
            await self.release()
        except DlockError as error:
            if exception is None:
                raise self._missed(error, lost) from None
            tell_beside(exception, self._missed(error, lost))

    # --- asking the server ---

    async def locked(self) -> bool:
        """Asks the server whether anybody holds the lock. One round trip, as `release`. Raises `NotConnectedError`,
        `LockerError`, `ClosedError`, `ForkedError`, `PanicError`."""
        return (await self._ask(lib.dlock_submit_is_locked)).flag

    async def owned(self) -> bool:
        """Asks the server whether this object holds the lock; as `locked`. For how long it does for certain, without asking,
        says `remaining`."""
        return (await self._ask(lib.dlock_submit_is_locked_by_me)).flag

    async def owner(self) -> Optional[str]:
        """Asks the server who holds the lock: the `id` of the object that does, or None; as `locked`."""
        event = await self._ask(lib.dlock_submit_owner)
        return event.owner if event.flag else None

    async def _ask(self, submit: Any) -> Event:
        port = await self._open()
        return await port.do(submit, self._native)
