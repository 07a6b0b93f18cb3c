"""What the results of every tool become."""

from dataclasses import dataclass

from autotune.level_run import RequestRecord


class Unusable(Exception):
    """A tool's result file is missing or not what was expected; the message says which."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The requests of a level, in the plan's order, and when it began on the tool's clock (s).

    The clock is CLOCK_MONOTONIC, which all processes of a host share, or the wall clock.
    """

    records: tuple[RequestRecord, ...]
    start_s: float
    wall_clock: bool
