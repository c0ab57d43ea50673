"""Three ways not to wait for ever: timeouts.py [URL]"""

import sys

import dlock

with dlock.Locker(*sys.argv[1:]) as locker:
    holder, other = locker.lock("timeouts", group="examples"), locker.lock("timeouts", group="examples")
    with holder:
        print("one attempt:", other.acquire(blocking=False))
        print("a tenth of a second:", other.acquire(timeout=0.1))
        print("three attempts:", other.acquire_retry_backoff(2, 0.01))
        try:
            with locker.lock("timeouts", group="examples", timeout=0.1):
                pass
        except TimeoutError as error:
            print("with:", type(error).__name__)
    print("after the release:", other.acquire(timeout=5))
    other.release()
