"""What can go wrong: one exception for each status of the C library."""

from typing import Dict, Optional, Type

from ._native import ffi, lib


class DlockError(Exception):
    """Something went wrong; which subclass it is says what. A status that this package does not know, of a later library,
    comes as a plain `DlockError`."""

    status: int = -1
    """The number that the C library gave."""

    def __init__(self, message: str = "", status: Optional[int] = None) -> None:
        super().__init__(message)
        if status is not None:
            self.status = status

    @property
    def message(self) -> str:
        """What went wrong, for people. It names the lock, the argument or the server, and has no secret in it."""
        return str(self)

    @property
    def status_name(self) -> str:
        """The name of the status in `dlock.h`, such as `DLOCK_ERR_LOST`; `DLOCK_ERR_UNKNOWN` for one of a later library."""
        name: str = ffi.string(lib.dlock_status_name(self.status)).decode()
        return name


class LockerError(DlockError):
    """The server answered with an error, which the message quotes, or the owner found is no UUID."""

    status = lib.DLOCK_ERR_LOCKER


class NotOwnerError(DlockError):
    """Somebody else holds the lock that was to be released, and keeps it."""

    status = lib.DLOCK_ERR_NOT_OWNER


class UnlockUnlockedError(DlockError):
    """Nobody holds the lock that was to be released, or this object does not hold it."""

    status = lib.DLOCK_ERR_UNLOCK_UNLOCKED


class LockTimeoutError(DlockError, TimeoutError):
    """The time was over before the lock could be had. Also a `TimeoutError`."""

    status = lib.DLOCK_ERR_LOCK_TIMEOUT


class NotConnectedError(DlockError, ConnectionError):
    """The server cannot be reached, or refused the handshake (a wrong password, still loading, not a Redis).

    Also a `ConnectionError`.
    """

    status = lib.DLOCK_ERR_NOT_CONNECTED


class InvalidArgumentError(DlockError, ValueError):
    """An argument is out of range; the message names it. Also a `ValueError`."""

    status = lib.DLOCK_ERR_INVALID_ARGUMENT


class AlreadyHeldError(DlockError):
    """This very object holds the lock: waiting for it would never end. Locks do not nest."""

    status = lib.DLOCK_ERR_ALREADY_HELD


class LockCancelledError(DlockError):
    """`cancel()` ended the call. (A cancelled task gets `asyncio.CancelledError`, as ever.)"""

    status = lib.DLOCK_ERR_CANCELLED


class LockLostError(DlockError):
    """The lock was held and then lost: its lease ran out, or the server forgot it. Others may have held it since."""

    status = lib.DLOCK_ERR_LOST


class ClosedError(DlockError):
    """The locker is closed."""

    status = lib.DLOCK_ERR_CLOSED


class ForkedError(DlockError):
    """The object belongs to the parent of this process. Make a locker in the child."""

    status = lib.DLOCK_ERR_FORKED


class PanicError(DlockError):
    """A defect inside the library, which the message describes. Close the locker and make another."""

    status = lib.DLOCK_ERR_PANIC


class BusyError(DlockError):
    """Another thread or task is using this lock object. Each needs one of its own."""

    status = lib.DLOCK_ERR_BUSY


class DlockWarning(RuntimeWarning):
    """What a `with` block could not raise, because an exception was under way already: the lock was lost, or could not be
    released."""


CLASSES: Dict[int, Type[DlockError]] = {
    each.status: each
    for each in (
        LockerError, NotOwnerError, UnlockUnlockedError, LockTimeoutError, NotConnectedError, InvalidArgumentError,
        AlreadyHeldError, LockCancelledError, LockLostError, ClosedError, ForkedError, PanicError, BusyError,
    )
}  # fmt: skip


def error_of(status: int, message: str) -> DlockError:
    """The exception for a status that is not OK."""
    found = CLASSES.get(status)
    return found(message) if found else DlockError(message, status)
