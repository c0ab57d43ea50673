"""The C library as Python sees it: statuses become exceptions, durations milliseconds, handles what the garbage collector
frees. Knows nothing of threads and event loops.

The library could not survive a handle that is freed during a call that takes it, or is used afterwards. So what is passed around
is a `Handle`: whoever calls refers to it until the call returns, it frees what it stands for with the last reference, and stands
for NULL from then on, which the library refuses.
"""

import math
import re
import warnings
from datetime import timedelta
from typing import Any, Callable, List, NamedTuple, Optional, Union

from ._errors import InvalidArgumentError, error_of
from ._native import ffi, lib

Duration = Union[float, timedelta]

FOREVER: int = 2**64 - 1
OK: int = lib.DLOCK_OK


def version() -> str:
    """The version of the library."""
    return string(lib.dlock_version())


def string(text: Any) -> str:
    found: str = ffi.string(text).decode("utf-8", "replace")
    return found


def shown(group: str, name: str) -> str:
    """A lock for people, on one line whatever is in its name, as in the library's messages."""
    return "".join(
        f"\\{char}" if char in '"\\' else char if char.isprintable() else ascii(char)[1:-1] for char in f"{group}:{name}"
    )


class Handle:
    """Something of the library's. (cffi's own way to free it leaves a pointer to what is freed: the garbage collector ends the
    objects of a cycle in any order, and one of them may use another that is ended.)"""

    def __init__(self, pointer: Any, free: Callable[[Any], None]) -> None:
        self.pointer = pointer
        self._free = free

    def free(self) -> None:
        pointer, self.pointer = self.pointer, ffi.NULL
        if pointer:
            self._free(pointer)

    def __del__(self) -> None:
        self.free()


class LockHandle(Handle):
    """A dlock_lock, which is released where it is freed while it is held."""

    def __init__(self, pointer: Any, label: str) -> None:
        super().__init__(pointer, lib.dlock_lock_free)
        self._label = label

    def __del__(self) -> None:
        try:
            if view_of(self).status == OK:
                warnings.warn(f"the lock {self._label} was held when its object was garbage-collected, and is released", ResourceWarning)
        finally:
            self.free()


def call(function: Callable[..., int], *arguments: Any) -> None:
    """Calls a function whose last parameter is a dlock_error; what it says becomes an exception."""
    error = ffi.new("dlock_error *")
    status = function(*(each.pointer if isinstance(each, Handle) else each for each in arguments), error)
    if status != OK:
        raise error_of(status, in_seconds(string(error.message)))


def in_seconds(message: str) -> str:
    """What the library says of a duration that is out of range, in the unit in which it was given here."""
    found = re.fullmatch(r"(\w+)_ms: (\d+), must be from (\d+) to (\d+)", message)
    if found is None:
        return message
    given, least, most = (f"{int(number) / 1000:.10g}" for number in found.groups()[1:])
    return f"{found[1]}: {given} s, must be from {least} to {most}"


def milliseconds(parameter: str, value: Duration) -> int:
    """Rounds up: a wait is never cut short."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{parameter}: seconds or a timedelta are wanted, not {type(value).__name__}")
    if not value >= 0:  # nor NaN
        raise InvalidArgumentError(f"{parameter}: {value} is not a duration")
    return FOREVER if value > FOREVER / 1000 else min(math.ceil(value * 1000), FOREVER)


def waiting(timeout: Optional[Duration]) -> int:
    """A timeout; None has no end."""
    return FOREVER if timeout is None else milliseconds("timeout", timeout)


def text(parameter: str, value: str) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"{parameter}: a str is wanted, not {type(value).__name__}")
    try:
        encoded = value.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"{parameter}: not UTF-8") from None
    if 0 in encoded:
        raise InvalidArgumentError(f"{parameter}: contains a NUL")
    return encoded


def integer(parameter: str, value: int, largest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{parameter}: an int is wanted, not {type(value).__name__}")
    if not 0 <= value <= largest:
        raise InvalidArgumentError(f"{parameter}: {value} is not from 0 to {largest}")
    return value


def redacted(url: str) -> str:
    """The URL without credentials and parameters, however malformed it is."""
    scheme, found, rest = url.partition("://")
    if not found or not re.fullmatch(r"[a-z+-]+", scheme):
        return "a malformed URL"
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"


class Options(NamedTuple):
    """What a locker is made with."""

    url: Optional[str]
    host: Optional[str]
    port: Optional[int]
    lease: Optional[Duration]
    auto_renew: bool
    connect_timeout: Optional[Duration]
    response_timeout: Optional[Duration]

    def place(self) -> str:
        """Where the server is, for people."""
        return f"{self.host or 'localhost'}:{self.port or 6379}" if self.url is None else redacted(self.url)

    def open(self) -> Handle:
        """A dlock_locker. No I/O."""
        if self.url is not None and (self.host is not None or self.port is not None):
            raise InvalidArgumentError("url: not together with host and port, which a URL names itself")
        made = ffi.new("dlock_options **")
        call(lib.dlock_options_new, made)
        options = Handle(made[0], lib.dlock_options_free)
        if self.url is not None:
            call(lib.dlock_options_set_url, options, text("url", self.url))
        if self.host is not None:
            call(lib.dlock_options_set_host, options, text("host", self.host))
        if self.port is not None:
            call(lib.dlock_options_set_port, options, integer("port", self.port, 65535))
        set_duration(lib.dlock_options_set_lease_ms, options, "lease", self.lease)
        call(lib.dlock_options_set_auto_renew, options, bool(self.auto_renew))
        set_duration(lib.dlock_options_set_connect_timeout_ms, options, "connect_timeout", self.connect_timeout)
        set_duration(lib.dlock_options_set_response_timeout_ms, options, "response_timeout", self.response_timeout)
        locker = ffi.new("dlock_locker **")
        call(lib.dlock_locker_new, options, locker)
        return Handle(locker[0], lib.dlock_locker_free)


def set_duration(function: Callable[..., int], options: Handle, parameter: str, value: Optional[Duration]) -> None:
    if value is None:
        return
    try:
        call(function, options, milliseconds(parameter, value))
    except InvalidArgumentError as error:  # both timeouts are "timeout" to the library
        raise InvalidArgumentError(re.sub("^timeout:", f"{parameter}:", error.message)) from None


def open_lock(locker: Handle, name: bytes, group: bytes) -> LockHandle:
    """A dlock_lock. Connects where there is no connection."""
    lock = ffi.new("dlock_lock **")
    call(lib.dlock_lock_new, locker, name, group, lock)
    return LockHandle(lock[0], shown(group.decode(), name.decode()))


def open_queue(locker: Handle) -> Handle:
    """A dlock_queue."""
    queue = ffi.new("dlock_queue **")
    call(lib.dlock_queue_new, locker, queue)
    return Handle(queue[0], lib.dlock_queue_free)


def warnings_of(locker: Handle) -> List[str]:
    buffer = ffi.new("char[]", lib.DLOCK_WARNINGS_SIZE)
    call(lib.dlock_locker_warnings, locker, buffer, lib.DLOCK_WARNINGS_SIZE)
    return string(buffer).splitlines()


def id_of(lock: Handle) -> str:
    identity = ffi.new("char[]", lib.DLOCK_UUID_SIZE)
    status = lib.dlock_lock_id(lock.pointer, identity)
    if status != OK:
        raise error_of(status, "the lock belongs to the parent of this process")
    return string(identity)


def token_of(lock: Handle) -> int:
    token = ffi.new("uint64_t *")
    call(lib.dlock_lock_fencing_token, lock, token)
    return int(token[0])


def token_or_zero(lock: Handle) -> int:
    """0 while the lock is not held; tokens are greater."""
    token = ffi.new("uint64_t *")
    lib.dlock_lock_fencing_token(lock.pointer, token, ffi.NULL)
    return int(token[0])


class View(NamedTuple):
    """What a handle says of its lock without asking the server."""

    status: int
    remaining: float

    @property
    def lost(self) -> bool:
        return self.status == int(lib.DLOCK_ERR_LOST)

    def __str__(self) -> str:
        if self.status == OK:
            return f"held for {self.remaining:.1f} s more"
        other = {lib.DLOCK_ERR_LOST: "lost", lib.DLOCK_ERR_CLOSED: "closed", lib.DLOCK_ERR_FORKED: "of the parent process"}
        return other.get(self.status, "not held")


def view_of(lock: Handle) -> View:
    left = ffi.new("uint64_t *")
    status = lib.dlock_lock_remaining_ms(lock.pointer, left, ffi.NULL)
    return View(status, left[0] / 1000)


class Event(NamedTuple):
    """One finished operation, or one lost lock."""

    user_data: int
    kind: int
    status: int
    flag: bool
    owner: str
    message: str

    def check(self) -> None:
        if self.status != OK:
            raise error_of(self.status, self.message)


class Events:
    """Takes events out of a queue. Not for two threads at once."""

    def __init__(self, queue: Handle, capacity: int) -> None:
        self.queue = queue
        self._room = ffi.new("dlock_event[]", capacity)
        self._capacity = capacity
        self._count = ffi.new("size_t *")

    def take(self, wait_ms: int = 0) -> Optional[List[Event]]:
        """What is there, after waiting for the first; None where the locker is closed and nothing is left."""
        if lib.dlock_queue_wait(self.queue.pointer, self._room, self._capacity, wait_ms, self._count, ffi.NULL) != OK:
            return None
        return [
            Event(each.user_data, each.kind, each.status, each.flag, string(each.owner), string(each.message))
            for each in (self._room[index] for index in range(self._count[0]))
        ]
