"""The one lock of the process.

Re-entrant, because a signal handler or a destructor may observe while the same thread is observing: a plain lock
would never be released. One, because a fork must find every structure of ours whole: it is taken before a fork and
released on both sides of it, so that no child is born with it held by a thread that does not exist there.

The interpreter's own, also where gevent has put another in its place: nothing waits while it holds this one, so that no
greenlet needs to be switched to; and gevent's loses the wake-up of real threads that wait for it.
"""

import os
from _thread import RLock

lock = RLock()


def held() -> bool:
    """Whether this very thread holds the lock: then it was interrupted in the middle of something, and is not done."""
    return bool(lock._is_owned())  # type: ignore[attr-defined]  # what threading.Condition asks as well


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
