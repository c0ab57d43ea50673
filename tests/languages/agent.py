"""The lines of tests/c/agent.c, by the Python package.

    agent <url> <lease ms> <renew 0|1> <connect timeout ms> <response timeout ms> <group> <name>
"""

import sys
import time

import dlock


class NotInTime(Exception):
    """False, and no error: the lock was not to be had."""


def in_time(taken):
    if not taken:
        raise NotInTime
    return "-"


class Agent:
    def __init__(self, locker, group, name):
        self.locker, self.group, self.name = locker, group, name
        self.lock = None

    def open(self, group, name):
        self.lock = None
        self.lock = self.locker.lock(name, group=group)
        return "-"

    def cycle(self):
        with self.lock as lock:
            return lock.token

    def run(self, command, *words):
        """The value."""
        lock = self.lock
        calls = {
            "new": lambda: self.open(self.group, self.name),
            "open": lambda group, name: self.open(group.strip("'"), name.strip("'")),
            "acquire": lambda: in_time(lock.acquire()),
            "acquire_timeout": lambda ms: in_time(lock.acquire(timeout=int(ms) / 1000)),
            "try": lambda: lock.try_acquire(),
            "backoff": lambda retries, ms: in_time(lock.acquire_retry_backoff(int(retries), int(ms) / 1000)),
            "release": lambda: lock.release() or "-",
            "extend": lambda ms: lock.extend(int(ms) / 1000) or "-",
            "is_locked": lambda: lock.locked(),
            "is_locked_by_me": lambda: lock.owned(),
            "owner": lambda: lock.owner() or "nobody",
            "id": lambda: lock.id,
            "token": lambda: lock.token,
            "remaining": lambda: int(lock.remaining * 1000),
            "cycle": self.cycle,
        }
        return calls[command](*words)


def main():
    url, lease, renew, connect_timeout, response_timeout, group, name = sys.argv[1:]
    with dlock.Locker(url, lease=int(lease) / 1000, auto_renew=renew == "1", connect_timeout=int(connect_timeout) / 1000,
                      response_timeout=int(response_timeout) / 1000) as locker:
        agent = Agent(locker, group, name)
        for line in sys.stdin:
            status, value, message, begun = "DLOCK_OK", "-", "", time.monotonic()
            try:
                value = agent.run(*line.split())
            except NotInTime:
                status = "DLOCK_ERR_LOCK_TIMEOUT"
            except dlock.DlockError as error:
                status, message = error.status_name, error.message
            if isinstance(value, bool):
                value = str(value).lower()
            print(status, int((time.monotonic() - begun) * 1000), value, message, flush=True)


main()
