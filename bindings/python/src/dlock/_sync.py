"""Lockers and locks for threads.

Every call into the library lets other Python threads run. An acquire on the main thread waits for the descriptor of a
queue rather than inside the library, so that a signal's handler runs at once, and Ctrl-C ends the wait.
"""

import select
import sys
import threading
import time
import weakref
from types import TracebackType
from typing import Any, Callable, List, Optional, Type

from . import _library
from ._base import LockBase, LockerBase, check_on_lost, check_waiting, numbers, tell_beside
from ._errors import DlockError, LockTimeoutError, error_of
from ._library import FOREVER, Duration, Event, Events, Handle, LockHandle
from ._native import ffi, lib
from ._threads import call_apart


class Locker(LockerBase):
    """A client of one server, for any number of threads; one is enough for a program. Close it, or use it as a context
    manager: that releases what is held. At the end of the interpreter open lockers are closed by themselves.
    """

    def _begin(self) -> None:
        self._idle: List[Events] = []
        self._connected = False
        self._watcher: Optional[Watcher] = None
        self._watcher_made = threading.Lock()

    def lock(
        self,
        name: str,
        group: str,
        *,
        blocking: bool = True,
        timeout: Optional[Duration] = None,
        lease: Optional[Duration] = None,
        on_lost: "Optional[Callable[[Lock], object]]" = None,
    ) -> "Lock":
        """Makes a contender for a lock, which is not acquired yet. Connects where the locker has no connection, at most for
        the connect timeout and the response timeout together; else there is no I/O.

        `name` and `group` together name the lock: 1 to 512 bytes of UTF-8 without NUL each, and no ':' in the group.
        `blocking` and `timeout` are what `with` gives to `acquire`; `lease` is that of this lock, at the cost of one more round
        trip for an acquisition, which `timeout` does not count. `on_lost` is called with the lock when it is lost, on a thread
        of its own that all locks of the locker share: it should be short. What it raises goes to `threading.excepthook`;
        `SystemExit` ends nothing there.

        Raises `InvalidArgumentError`, `NotConnectedError`, `ClosedError`, `ForkedError`.
        """
        check_waiting(blocking, timeout)
        check_on_lost(on_lost)
        lock = Lock(self, name, group, blocking, timeout, lease)
        if on_lost is not None:
            self._watch().add(lock, on_lost)
        return lock

    def close(self) -> None:
        """Releases what is held and ends what waits, with `ClosedError`. Blocks for the releases, at most one response timeout.
        Closing again does nothing. Any thread. In a forked child it lets go of what is the parent's."""
        self._idle.clear()
        if self._blocks_to_close() and on_main_thread():
            call_apart(self._close)  # so that handlers of signals run
        else:
            self._close()

    def __enter__(self) -> "Locker":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _open(self, name: bytes, group: bytes) -> LockHandle:
        """On the main thread the connecting, which may take seconds, is done elsewhere, so that handlers of signals run."""
        apart = not self._connected and on_main_thread()
        self._connected = False
        arguments = self._handle(), name, group
        made: LockHandle = call_apart(_library.open_lock, *arguments) if apart else _library.open_lock(*arguments)
        self._connected = True
        return made

    def _watch(self) -> "Watcher":
        with self._watcher_made:
            if self._watcher is None:
                self._watcher = Watcher(self._handle())
            return self._watcher

    def _borrow(self) -> Events:
        """A queue of one's own for a while."""
        try:
            return self._idle.pop()
        except IndexError:
            return Events(_library.open_queue(self._handle()), 1)


def on_main_thread() -> bool:
    """Only there do signal handlers run."""
    return threading.get_ident() == threading.main_thread().ident


class Watcher:
    """The thread that calls `on_lost`. It keeps neither locks nor their locker alive, and ends when the locker is closed."""

    def __init__(self, locker: Handle) -> None:
        self._events = Events(_library.open_queue(locker), 16)
        self._locks: "weakref.WeakValueDictionary[int, Lock]" = weakref.WeakValueDictionary()
        threading.Thread(target=self._run, name="dlock-lost", daemon=True).start()

    def add(self, lock: "Lock", on_lost: "Callable[[Lock], object]") -> None:
        lock._on_lost = on_lost
        self._locks[lock._number] = lock
        _library.call(lib.dlock_lock_watch, lock._native, self._events.queue, lock._number)

    def _run(self) -> None:
        while True:
            events = self._events.take(FOREVER)
            if events is None:
                return
            for event in events:
                self._tell(event.user_data)

    def _tell(self, number: int) -> None:
        lock = self._locks.get(number)
        if lock is not None and lock._on_lost is not None:
            try:
                lock._on_lost(lock)
            except BaseException:
                threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))


class Lock(LockBase):
    """One contender for one lock; `Locker.lock` makes it. For one thread at a time: a second one gets `BusyError`. What only
    asks (`token`, `remaining`, `lost`, `locked`, `owned`, `owner`) and `cancel` may be used beside an acquire.

    As a context manager it acquires and releases. Leaving the block raises `LockLostError` where the lock was lost meanwhile,
    and what `release` raises. Where an exception is leaving the block already, that one goes on, and a `DlockWarning`, with
    Python 3.11 and newer also a note on the exception, tells of the other. A lock that the block has released itself is left
    alone.

    A lock that is held when its object is garbage-collected is released, with a `ResourceWarning`.
    """

    def __init__(
        self, locker: Locker, name: str, group: str, blocking: bool, timeout: Optional[Duration], lease: Optional[Duration]
    ) -> None:
        super().__init__(locker, name, group, lease)
        self._locker: Locker
        self._blocking, self._timeout = blocking, timeout
        self._on_lost: "Optional[Callable[[Lock], object]]" = None
        self._native = locker._open(*self._names)

    @property
    def id(self) -> str:
        """The owner id of this object, a random UUID: what `owner` tells while it holds the lock."""
        return _library.id_of(self._native)

    # --- acquiring ---

    def acquire(self, blocking: bool = True, timeout: Optional[Duration] = None) -> bool:
        """Acquires the lock, and returns whether it did. Without a timeout it waits as long as it takes, first come, first
        served; with one it returns False at most 50 ms after it, even where the server is silent. With `blocking=False` it
        waits for one round trip, and returns False if somebody holds the lock, this object included.

        On the main thread, signal handlers run while it waits. What they raise, such as KeyboardInterrupt, ends the wait, and
        the lock is not held then.

        Raises `NotConnectedError` where the server cannot be reached for the response timeout, or at the end of `timeout`;
        `LockerError`, `AlreadyHeldError`, `LockCancelledError`, `ClosedError`, `BusyError`, `InvalidArgumentError`, `ForkedError`,
        `PanicError`.
        """
        try:
            return self._acquire(blocking, timeout)
        except LockTimeoutError:
            return False

    def _acquire(self, blocking: bool, timeout: Optional[Duration]) -> bool:
        wait_ms = check_waiting(blocking, timeout)
        return self._acquire_by((lambda: self._wait(wait_ms)) if blocking else self._try)

    def try_acquire(self) -> bool:
        """`acquire(blocking=False)`."""
        return self.acquire(blocking=False)

    def acquire_retry_backoff(self, retries: int, initial_backoff: Duration) -> bool:
        """Makes one attempt, then up to `retries` more, after waits of 1, 2, 4, … times `initial_backoff`, and returns whether
        one of them acquired the lock. It does not queue: those who wait in `acquire` come first. Raises what `acquire` raises."""
        retries = _library.integer("retries", retries, 2**32 - 1)
        backoff_ms = _library.milliseconds("initial_backoff", initial_backoff)
        try:
            return self._acquire_by(lambda: self._attempts(retries, backoff_ms))
        except LockTimeoutError:
            return False

    def _acquire_by(self, acquire: Callable[[], bool]) -> bool:
        """Nothing stays acquired that the caller is not told of."""
        before = _library.token_or_zero(self._native)
        try:
            acquired = acquire()
            if acquired and self._lease_ms is not None:
                _library.call(lib.dlock_lock_extend, self._native, self._lease_ms)
            return acquired
        except BaseException:
            if _library.token_or_zero(self._native) not in (0, before):
                lib.dlock_lock_release(self._native.pointer, ffi.NULL)
            raise

    def _try(self) -> bool:
        acquired = ffi.new("bool *")
        _library.call(lib.dlock_lock_try_acquire, self._native, acquired)
        return bool(acquired[0])

    def _wait(self, wait_ms: int) -> bool:
        if not on_main_thread():
            _library.call(lib.dlock_lock_acquire_timeout, self._native, wait_ms)
            return True
        # A free lock is had sooner without the queue.
        begun = time.monotonic()
        try:
            _library.call(lib.dlock_lock_acquire_timeout, self._native, 0)
            return True
        except DlockError as error:
            if wait_ms == 0 or error.status not in (lib.DLOCK_ERR_LOCK_TIMEOUT, lib.DLOCK_ERR_NOT_CONNECTED):
                raise
        if wait_ms != FOREVER:
            wait_ms = max(0, wait_ms - int((time.monotonic() - begun) * 1000))
        self._through_queue(lib.dlock_submit_acquire, wait_ms)
        return True

    def _attempts(self, retries: int, backoff_ms: int) -> bool:
        if not on_main_thread():
            _library.call(lib.dlock_lock_acquire_retry_backoff, self._native, retries, backoff_ms)
        else:
            self._through_queue(lib.dlock_submit_acquire_retry_backoff, retries, backoff_ms)
        return True

    def _through_queue(self, submit: Any, *arguments: int) -> None:
        """Where a signal's handler raises, the queue goes, and with it, in the library, what was submitted: a lock that came in
        that instant is handed on."""
        events = self._locker._borrow()
        try:
            _library.call(submit, events.queue, self._native, *arguments, next(numbers))
            descriptor = select.poll()
            descriptor.register(lib.dlock_queue_fd(events.queue.pointer), select.POLLIN)
            taken: Optional[List[Event]] = []
            while taken == []:
                descriptor.poll()
                taken = events.take()
        except BaseException:
            events.queue.free()
            raise
        if taken is None:
            raise error_of(lib.DLOCK_ERR_CLOSED, "the locker is closed")
        self._locker._idle.append(events)
        taken[0].check()

    # --- releasing ---

    def release(self) -> None:
        """Releases the lock. The first who waits for it becomes its holder in the same step.

        Blocks for one round trip; where the server is silent or gone, for two response timeouts at most. Raises
        `LockLostError`, once, where this object's time was over before; `UnlockUnlockedError` where nobody holds the lock;
        `NotOwnerError` where somebody else does; `NotConnectedError` (the lease then ends the lock), `LockerError`, `ClosedError`,
        `BusyError`, `ForkedError`, `PanicError`.
        """
        _library.call(lib.dlock_lock_release, self._native)

    def extend(self, lease: Duration) -> None:
        """Sets the lease of the lock held, from now on and for later renewals; from 0.1 s to a year. One round trip, as
        `release`. Raises `UnlockUnlockedError`, `LockLostError`, `InvalidArgumentError`, and what else `release` raises."""
        _library.call(lib.dlock_lock_extend, self._native, _library.milliseconds("lease", lease))

    def __enter__(self) -> "Lock":
        if not self._acquire(self._blocking, self._timeout):
            raise LockTimeoutError(f"{self._label()}: not free")
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], exception: Optional[BaseException], _traceback: Optional[TracebackType]
    ) -> None:
        if not self._to_be_left():
            return
        lost = self.lost
        try:
            if exception is not None and on_main_thread():  # such as that of Ctrl-C: the next one need not wait
                self._through_queue(lib.dlock_submit_release)
            else:
                self.release()
        except DlockError as error:
            if exception is None:
                raise self._missed(error, lost) from None
            tell_beside(exception, self._missed(error, lost))

    # --- asking the server ---

    def locked(self) -> bool:
        """Asks the server whether anybody holds the lock. One round trip, as `release`. Raises `NotConnectedError`,
        `LockerError`, `ClosedError`, `ForkedError`, `PanicError`."""
        return self._ask(lib.dlock_lock_is_locked)

    def owned(self) -> bool:
        """Asks the server whether this object holds the lock; as `locked`. For how long it does for certain, without asking,
        says `remaining`."""
        return self._ask(lib.dlock_lock_is_locked_by_me)

    def owner(self) -> Optional[str]:
        """Asks the server who holds the lock: the `id` of the object that does, or None; as `locked`."""
        exists, owner = ffi.new("bool *"), ffi.new("char[]", lib.DLOCK_UUID_SIZE)
        _library.call(lib.dlock_lock_owner, self._native, exists, owner)
        return _library.string(owner) if exists[0] else None

    def _ask(self, function: Any) -> bool:
        answer = ffi.new("bool *")
        _library.call(function, self._native, answer)
        return bool(answer[0])
