"""Threads for what blocks inside the library where the caller must not. They are daemons: the end of the interpreter, which
closes the lockers and so ends what blocks, waits for none of them. Knows nothing of locks.
"""

import threading
from collections import deque
from concurrent.futures import Future
from typing import Any, Callable, Deque, Tuple

# How long a thread without work stays, in seconds: starting one costs more than waking one.
LINGER = 1.0

Work = Tuple["Future[Any]", Callable[..., Any], Tuple[Any, ...]]


class Threads:
    """Calls functions, in the order in which that was asked for, on `limit` threads at most."""

    def __init__(self, limit: int, name: str) -> None:
        self._limit, self._name = limit, name
        self._work: Deque[Work] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._count = self._idle = 0

    def call(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Where the future is cancelled before its turn, there is no call. Where no thread is to be had, this one makes it."""
        future: "Future[Any]" = Future()
        with self._changed:
            if self._count < self._limit and self._idle <= len(self._work):
                self._count += started(threading.Thread(target=self._run, name=self._name, daemon=True))
            if self._count > 0:
                self._work.append((future, function, arguments))
                self._changed.notify()
                return future
        fulfil(future, function, arguments)
        return future

    def _run(self) -> None:
        while self._do_next():
            pass

    def _do_next(self) -> bool:
        with self._changed:
            self._idle += 1
            found = self._changed.wait_for(lambda: self._work, LINGER)
            self._idle -= 1
            if not found:
                self._count -= 1
                return False
            future, function, arguments = self._work.popleft()
        if future.set_running_or_notify_cancel():
            fulfil(future, function, arguments)
        return True


def started(thread: threading.Thread) -> bool:
    """False at the end of the interpreter, and where the system has no more of them."""
    try:
        thread.start()
    except RuntimeError:
        return False
    return True


def fulfil(future: "Future[Any]", function: Callable[..., Any], arguments: Tuple[Any, ...]) -> None:
    try:
        future.set_result(function(*arguments))
    except BaseException as error:
        future.set_exception(error)
    del future, function, arguments  # the traceback of what was raised keeps this frame


def call_apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function on a thread of its own and waits for it, which handlers of signals may interrupt."""
    future: "Future[Any]" = Future()
    thread = threading.Thread(target=fulfil, args=(future, function, arguments), name="dlock-apart", daemon=True)
    if not started(thread):
        return function(*arguments)
    thread.join()
    return future.result()
