"""A process of the server and the system: signals, scheduling, privileges, and what ends it.

Linux and Python details that a reader of pool.py and parent.py can take on trust.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import signal
import sys

from mpmkit.config.directives import Directives

ALL_SIGNALS = tuple(map(int, signal.valid_signals()))


def set_child_signals() -> None:
    """TERM ends a child at once, as httpd's: by the kernel, since a Python handler would wait until a
    script's C code returns. The others are for the parent alone.

    By the C module: `signal`'s own functions make an enum of each number, and the pages that this writes
    to would be 0.3 MB of each child's own memory."""
    _signal.set_wakeup_fd(-1)
    _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
    for number in (_signal.SIGINT, _signal.SIGHUP, _signal.SIGUSR1, _signal.SIGWINCH):
        _signal.signal(number, _signal.SIG_IGN)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, ALL_SIGNALS)


def fork_with_signals_blocked() -> int:
    """`os.fork`; in the child all signals stay blocked until `set_child_signals`. Raises OSError."""
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, ALL_SIGNALS)
    pid = -1
    try:
        pid = os.fork()
    finally:
        if pid:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
    return pid


def takes_turns() -> bool:
    """Whether threads take turns, by the interpreter's lock. In a free-threaded Python it may be off."""
    return getattr(sys, "_is_gil_enabled", lambda: True)()


def use_batch_scheduling() -> None:
    """Run under SCHED_BATCH (sched(7)): a thread that wakes up waits until the running one sleeps.

    By default a woken thread interrupts the one that woke it, and can't go on: the other has the
    interpreter's lock. SCHED_IDLE or SCHED_FIFO is an operator's choice (chrt(1)), and stays."""
    try:
        if takes_turns() and os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError:
        pass  # forbidden here: it only costs speed


def preload_modules(directives: Directives) -> None:
    """What a child would import when it needs it: as User it may not reach Python's library."""
    if os.geteuid() == 0 and directives.User is not None:
        import calendar  # noqa: F401
        import traceback  # noqa: F401


def drop_privileges(directives: Directives) -> None:
    """Become User and Group; only root can, for others the directives have no effect (as in httpd)."""
    if os.geteuid() != 0 or (directives.User is None and directives.Group is None):
        return
    import grp
    import pwd

    user, group = directives.User or "#0", directives.Group
    uid = int(user[1:]) if user.startswith("#") else pwd.getpwnam(user).pw_uid
    group = group or f"#{pwd.getpwuid(uid).pw_gid}"
    gid = int(group[1:]) if group.startswith("#") else grp.getgrnam(group).gr_gid
    os.setgid(gid)
    os.setgroups([gid]) if user.startswith("#") else os.initgroups(user, gid)
    os.setuid(uid)
