"""Looking after a level while it runs: cancel, a silent engine, an SLA out of reach."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass

from autotune.errors import AutotuneError
from autotune.loadgen.level import Level

POLL_S = 0.1  # how often a level is looked at


class EngineStalled(AutotuneError):
    """For some time no request got a token or an end, though there were requests that waited for one."""


@dataclass(slots=True)
class Pulse:
    """How long an engine that owes answers has been silent, and may be; kept from its first level to its last.

    Before its first token an engine may compile, or read a huge prompt: then both limits must have passed.
    """

    stall_timeout_s: float = math.inf
    first_token_timeout_s: float = 0.0
    has_spoken: bool = False  # some request got a token
    quiet_s: float = 0.0

    @property
    def limit_s(self) -> float:
        """How long it may be silent now."""
        return self.stall_timeout_s if self.has_spoken else max(self.stall_timeout_s, self.first_token_timeout_s)


async def look_after(sending: asyncio.Task[None], level: Level, stopped: Callable[[], bool], pulse: Pulse) -> bool:
    """Wait for the level's end, and bring it about when somebody wants it or the rest would tell nothing new.

    Returns whether it was ended because the engine gave no sign of life.
    """
    stalled = False
    heard_s = 0.0
    while not sending.done():
        stalled = stalled or pulse.quiet_s >= pulse.limit_s
        if stopped() or stalled or level.give_up():
            sending.cancel()
        await asyncio.wait({sending}, timeout=POLL_S)
        pulse.has_spoken = pulse.has_spoken or level.has_tokens
        if level.heard_s != heard_s:
            pulse.quiet_s, heard_s = 0.0, level.heard_s
        elif level.owed:
            pulse.quiet_s += POLL_S  # not the time that has passed: a pause of this process is not the engine's
    return stalled
