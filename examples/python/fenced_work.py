"""A holder that was stopped for too long writes after its successor, and the register refuses: fenced_work.py [URL]"""

import sys
import threading

import dlock


class Register:
    """What the lock protects. It keeps the greatest token beside the data, and refuses smaller ones."""

    def __init__(self):
        self.value, self.token = None, 0

    def write(self, value, token):
        if token < self.token:
            return "refused"
        self.value, self.token = value, token
        return "taken"


register = Register()
lost = threading.Event()
# Without renewal the first holder loses the lock as if it had been stopped.
with dlock.Locker(*sys.argv[1:], lease=0.2, auto_renew=False) as sleepy, dlock.Locker(*sys.argv[1:]) as locker:
    first = sleepy.lock("register", group="examples", on_lost=lambda lock: lost.set())
    first.acquire()
    token = first.token
    lost.wait()
    with locker.lock("register", group="examples", timeout=30) as second:
        print("the second holder's write is", register.write("new", second.token))
        print("the first holder's late write is", register.write("stale", token))
    print("the register has:", register.value)
