"""A level from its plan to its records."""

import asyncio
import contextlib
import gc
from collections.abc import Iterator

from autotune.level_run import LevelRun, LevelWatch
from autotune.loadgen.endpoint import Endpoint, allow_connections, body, open_session
from autotune.loadgen.level import Level
from autotune.loadgen.priority import on_time
from autotune.loadgen.watch import EngineStalled, Pulse, look_after
from autotune.workload import LevelPlan

WATCHED_BY_NOBODY = LevelWatch()


def measure(
    plan: LevelPlan, endpoint: Endpoint, watch: LevelWatch = WATCHED_BY_NOBODY, pulse: Pulse | None = None
) -> LevelRun:
    """Run a level in the calling thread; see `run_level`.

    Raises TooFewFiles when the process may not open enough connections.
    """
    allow_connections(plan.max_concurrency or len(plan.requests))
    with _frozen_garbage(), on_time():
        return asyncio.run(run_level(plan, endpoint, watch, pulse))


async def run_level(
    plan: LevelPlan, endpoint: Endpoint, watch: LevelWatch = WATCHED_BY_NOBODY, pulse: Pulse | None = None
) -> LevelRun:
    """Send every request of the plan and return one record each, in the plan's order.

    Open loop: each is scheduled at its offset, whatever the server does; with `max_concurrency` it then waits its turn
    for a place, which counts in its latency. Closed loop: `max_concurrency` users, each of whom is scheduled to send
    when the last answer is there. A request that `follows` another is scheduled `pause_s` after that one's end; a user
    of a closed loop takes a conversation from its first turn to its last. Every request ends within the plan's
    time-out, counted from its sending. A failed request is a record with an `error`.

    When `watch` stops it the level stops within half a second and only the requests that had finished are returned.
    When a rule of `watch.hopeless` is broken it ends as soon, `aborted`: open requests that are beyond a limit come
    home `unfinished`, those that are not and those that were not due yet do not.

    Raises EngineStalled when the engine owes answers and gives no sign of life for as long as its `pulse` allows,
    which counts on from the level before; None allows any silence. Requests that wait for their first token behind
    others that get theirs are no stall.
    """
    pulse = pulse or Pulse()
    bodies = {request.index: body(request, endpoint) for request in plan.requests}
    async with open_session(endpoint) as session:
        level = Level(plan, bodies, session, watch, exact=endpoint.exact)
        async with asyncio.TaskGroup() as group:
            stalled = await look_after(group.create_task(level.run()), level, watch.stopped, pulse)
    if stalled:
        raise EngineStalled(
            f"no request got a token for {pulse.limit_s:g} s, with {len(level.records)} of {len(plan.requests)} "
            f"requests finished at {plan.load}"
        )
    return LevelRun(
        tuple(sorted(level.records, key=lambda record: record.index)),
        client=level.client,
        planned=len(plan.requests),
        aborted=level.aborted,
    )


@contextlib.contextmanager
def _frozen_garbage() -> Iterator[None]:
    """Keep the collector away from everything that exists by now, so that its pauses do not look like latency."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
