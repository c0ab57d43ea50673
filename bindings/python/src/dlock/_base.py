"""What lockers and locks of threads and of asyncio have in common: all that does not wait."""

import atexit
import inspect
import itertools
import os
import sys
import warnings
import weakref
from typing import Any, List, NoReturn, Optional

from . import _library
from ._errors import (
    ClosedError,
    DlockError,
    DlockWarning,
    ForkedError,
    InvalidArgumentError,
    LockLostError,
    NotOwnerError,
    UnlockUnlockedError,
)
from ._library import Duration, Options
from ._native import ffi, lib
from ._threads import call_apart

# What watches and operations are known by in a queue.
numbers = itertools.count(1)


class LockerBase:
    """A client of one server: its connections, its background thread, its locks."""

    def __init__(
        self,
        url: Optional[str] = None,
        *,
        host: Optional[str] = None,
        port: Optional[int] = None,
        lease: Optional[Duration] = None,
        auto_renew: bool = True,
        connect_timeout: Optional[Duration] = None,
        response_timeout: Optional[Duration] = None,
    ) -> None:
        """Opens nothing yet: the first lock connects. Bad options are an `InvalidArgumentError` at once.

        - `url`: `redis://[[user]:password@]host[:port][/db]`, `rediss://…` with TLS, `redis+unix:///path`, or, for tests without
          a server, `memory://name`; sentinels, clusters and quorums have URLs of their own (docs/deployments.md). Or `host` and
          `port`. Without any of them, localhost:6379.
        - `lease`: how long the server keeps a lock that is not renewed, which is how long others wait for a holder that
          crashed; from 0.1 s to a year; 30 s if not given.
        - `auto_renew`: whether held locks are renewed in the background, every third of their lease.
        - `connect_timeout`: of one attempt to connect; 5 s if not given.
        - `response_timeout`: how long the server may take to answer before the connection counts as lost, and how long calls
          without a timeout of their own then try to reconnect; 5 s if not given.
        """
        options = Options(url, host, port, lease, auto_renew, connect_timeout, response_timeout)
        self._native: Any = options.open()
        self._place = options.place()
        self._pid = os.getpid()
        self._begin()
        opened.add(self)

    def _begin(self) -> None:
        """What a kind of locker needs besides."""

    def _handle(self) -> Any:
        """The library's locker. The reference keeps it from being freed during a call."""
        handle = self._native
        if handle is None:
            raise ClosedError("the locker is closed")
        if self._pid != os.getpid():
            raise ForkedError("the locker belongs to the parent of this process")
        return handle

    @property
    def closed(self) -> bool:
        """Whether the locker was closed."""
        return self._native is None

    def warnings(self) -> List[str]:
        """What is not as locks would have it at the server connected to last, such as an eviction policy that may throw
        locks away: one sentence each, for a log. No I/O."""
        return _library.warnings_of(self._handle())

    def _blocks_to_close(self) -> bool:
        return self._native is not None and self._pid == os.getpid()

    def _close(self) -> None:
        handle, self._native = self._native, None
        if handle is not None and self._pid == os.getpid():  # a child only lets go of what is its parent's
            lib.dlock_locker_close(handle.pointer, ffi.NULL)

    def __del__(self) -> None:
        if getattr(self, "_native", None) is not None and self._pid == os.getpid():
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self)

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open" if self._pid == os.getpid() else "of the parent process"
        return f"<dlock.{type(self).__name__} {self._place} {state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a dlock.{type(self).__name__} cannot be pickled; make one in each process")


# Those that the end of the interpreter closes, so that held locks are free at once and not when their leases end.
opened: "weakref.WeakSet[LockerBase]" = weakref.WeakSet()


@atexit.register
def close_all() -> None:
    for locker in list(opened):
        call_apart(locker._close)  # so that Ctrl-C ends it, too


class LockBase:
    """One contender for one lock."""

    def __init__(self, locker: LockerBase, name: str, group: str, lease: Optional[Duration]) -> None:
        self._native: Any = None
        self._name, self._group = name, group
        self._names = _library.text("name", name), _library.text("group", group)
        self._lease_ms = None if lease is None else _library.milliseconds("lease", lease)
        self._locker = locker
        self._number = next(numbers)

    @property
    def name(self) -> str:
        """The name within the group, as it was given."""
        return self._name

    @property
    def group(self) -> str:
        """The group, as it was given. The server's key is `group:name`."""
        return self._group

    def _label(self) -> str:
        """As the library's messages begin."""
        return f'lock "{_library.shown(self._group, self._name)}"'

    def _held_handle(self) -> Any:
        if self._native is None:
            raise UnlockUnlockedError(f"{self._label()}: not held by this object")
        return self._native

    @property
    def token(self) -> int:
        """The fencing token of the lock held: greater than that of every earlier acquisition of this lock. Send it along
        with what the lock protects, and refuse there what carries a smaller one. No I/O.

        Raises `UnlockUnlockedError` where the lock is not held, `LockLostError` where it was lost, `ClosedError`, `ForkedError`.
        """
        return _library.token_of(self._held_handle())

    @property
    def remaining(self) -> float:
        """For how many seconds the lock is certainly still held, by the holder's own careful view; 0.0 while it is not held.
        Renewals in the background set it up again. No I/O."""
        return 0.0 if self._native is None else _library.view_of(self._native).remaining

    @property
    def lost(self) -> bool:
        """Whether the lock was held and then lost: its lease ran out before it could be renewed, or the server forgot it.
        False again with the next acquisition. A lock that is released is not lost. No I/O."""
        return self._native is not None and _library.view_of(self._native).lost

    def _to_be_left(self) -> bool:
        """Whether leaving a with block has something to release, or to tell."""
        return _library.view_of(self._native).status != int(lib.DLOCK_ERR_UNLOCK_UNLOCKED)

    def _missed(self, error: DlockError, lost: bool) -> DlockError:
        """What leaving a with block says where the release failed: that the lock was lost, if it was."""
        if lost or isinstance(error, (UnlockUnlockedError, NotOwnerError)):
            return LockLostError(f"{self._label()}: lost before it was released ({error})")
        return error

    def cancel(self) -> None:
        """Ends the acquire that another thread or task has under way on this object; it raises `LockCancelledError`. Where none
        is, nothing happens, now or later. Never blocks; from any thread."""
        if self._native is not None:
            _library.call(lib.dlock_lock_cancel, self._native)

    def __repr__(self) -> str:
        state = "not held" if self._native is None else str(_library.view_of(self._native))
        return f"<dlock.{type(self).__name__} {_library.shown(self._group, self._name)} {state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a dlock.{type(self).__name__} cannot be pickled; make one in each process")


def check_waiting(blocking: bool, timeout: Optional[Duration]) -> int:
    """How long an acquire may wait, in milliseconds."""
    if not blocking and timeout is not None:
        raise InvalidArgumentError("timeout: only with blocking=True")
    return _library.waiting(timeout) if blocking else 0


def check_on_lost(on_lost: Any) -> None:
    """Now, and not when a lock is lost."""
    if inspect.iscoroutinefunction(on_lost):
        raise TypeError("on_lost: a function is wanted, not a coroutine function: nothing would wait for it; have it start a task")
    if on_lost is not None and not callable(on_lost):
        raise TypeError(f"on_lost: a function is wanted, not {type(on_lost).__name__}")


def tell_beside(exception: BaseException, error: DlockError) -> None:
    """In the place of an exception that would hide the one that is under way."""
    if sys.version_info >= (3, 11):
        exception.add_note(f"dlock, on leaving the with block: {error}")
    warnings.warn(f"on leaving a with block by an exception: {error}", DlockWarning, stacklevel=3)
