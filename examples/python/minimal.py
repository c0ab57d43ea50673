"""One lock, acquired and released: minimal.py [URL]"""

import sys

import dlock

with dlock.Locker(*sys.argv[1:]) as locker, locker.lock("report", group="billing", timeout=5) as lock:
    print("nobody else writes the billing report now")
    assert lock.remaining > 0
