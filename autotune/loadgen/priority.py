"""A measuring client must be on time: while it measures, its thread goes before everything that computes."""

import contextlib
import os
from collections.abc import Iterator

_LOWEST = 1  # of the real-time priorities; any of them goes before all ordinary threads


@contextlib.contextmanager
def on_time() -> Iterator[bool]:
    """Real-time round-robin scheduling (sched(7)) for the calling thread, where it is permitted; tells whether it is.

    An engine on the same cores otherwise delays the client by its time slices, tens of milliseconds, which would be
    taken for the engine's latency. It needs root or CAP_SYS_NICE; processes that the thread starts do not inherit it.
    """
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(_LOWEST))
    except OSError:  # not permitted, or a kernel without it
        yield False
        return
    try:
        yield True
    finally:
        try:
            os.sched_setscheduler(0, policy, parameters)
        except OSError:  # RLIMIT_RTPRIO permits the priority, but not to take the reset on fork back
            os.sched_setscheduler(0, policy | os.SCHED_RESET_ON_FORK, parameters)
