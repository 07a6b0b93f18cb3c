"""A workload, as its file describes it, and its load levels."""

import hashlib
import itertools
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from autotune.records import Record
from autotune.results import LoadKind
from autotune.workload.arrival import Arrival, ClosedLoop, Replay
from autotune.workload.dataset import Dataset


class AutoLevels(Record):
    """A ladder that looks for the limit: the load doubles until it is reached, then the gap is halved.

    It doubles until a level violates the SLA or brings less than 3 % more throughput than the one below.
    """

    start: PositiveFloat = Field(default=1.0, description="The lowest level: what every configuration should manage.")
    most: PositiveFloat = Field(default=65536.0, description="No level is above it.")
    resolution: Annotated[
        float,
        Field(
            ge=0.01, le=1, description="Stop when the lowest bad level is at most so much above the highest good one."
        ),
    ] = 0.1

    @model_validator(mode="after")
    def _start_is_below_most(self) -> "AutoLevels":
        if self.start > self.most:
            raise ValueError(f"start {self.start:g} is above most {self.most:g}")
        return self


def _auto(value: Any) -> Any:
    return {} if value == "auto" else value


AUTO_LEVEL_S = 30.0  # of a level in an open loop that looks for its limit


def _least_duration_s(fields: dict[str, Any]) -> float:
    """Where throughputs are compared the offered time must outweigh the drain at its end."""
    is_open = "arrival" in fields and not isinstance(fields["arrival"], ClosedLoop)
    return AUTO_LEVEL_S if is_open and isinstance(fields.get("levels"), AutoLevels) else 0.0


GivenLevels = Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]


class Workload(Record):
    """Traffic, as its file describes it."""

    version: Literal[1]
    name: str
    description: str = ""
    dataset: Dataset
    arrival: Arrival
    levels: Annotated[GivenLevels | AutoLevels, BeforeValidator(_auto)] = Field(
        description="The load ladder, ascending: requests/s (closed loop: concurrent requests; replay: times the "
        "recorded speed) per device; or `auto`."
    )
    requests_per_level: PositiveInt = Field(
        description="Requests of one level (of a conversation: its turns); a closed loop sends at least two "
        "conversations per user."
    )
    warmup_requests: Annotated[int, Field(ge=0, description="Sent before the first level, not measured.")] = 0
    min_level_duration_s: float = Field(
        default_factory=_least_duration_s,
        ge=0,
        description="Open loop: requests are added until a level lasts so long. Default: 30 with levels: auto, else 0.",
    )
    request_timeout_s: PositiveFloat = 300.0

    @model_validator(mode="after")
    def _levels_ascend(self) -> "Workload":
        values = self.levels if isinstance(self.levels, tuple) else ()
        for below, above in itertools.pairwise(values):
            if above <= below:
                raise ValueError(f"levels must ascend, but {above:g} follows {below:g}")
        return self

    @model_validator(mode="after")
    def _closed_loop_counts_users(self) -> "Workload":
        if not isinstance(self.arrival, ClosedLoop):
            return self
        values = self.levels if isinstance(self.levels, tuple) else (self.levels.start,)
        fractions = [level for level in values if not level.is_integer()]
        if fractions:
            raise ValueError(
                f"levels of a closed loop are concurrent requests and must be whole numbers, not {fractions[0]:g}"
            )
        if self.min_level_duration_s > 0:
            raise ValueError("min_level_duration_s is for open-loop arrivals; in a closed loop set requests_per_level")
        return self

    @model_validator(mode="after")
    def _replay_has_a_trace(self) -> "Workload":
        if self.load_kind == "replay_speed" and self.dataset.kind != "trace":
            raise ValueError(f"arrival: replay needs a dataset of kind trace, not {self.dataset.kind}")
        return self

    @property
    def load_kind(self) -> LoadKind:
        """What the numbers of its levels count."""
        match self.arrival:
            case ClosedLoop():
                return "max_concurrency"
            case Replay():
                return "replay_speed"
            case _:
                return "request_rate"


@dataclass(frozen=True, slots=True)
class Level:
    """A rung of the ladder: its number there, its load per device, and which of the seed's traces it is given."""

    number: int
    value: float
    trace: int


def given_levels(workload: Workload) -> tuple[Level, ...]:
    """The levels that the file lists, ascending; empty where the ladder finds its own."""
    values = workload.levels if isinstance(workload.levels, tuple) else ()
    return tuple(Level(number, value, trace=number) for number, value in enumerate(values))


def found_level(number: int, value: float) -> Level:
    """A level that the ladder chose. The same load has the same trace in every trial, wherever the climb meets it."""
    digest = hashlib.sha256(repr(float(value)).encode()).digest()
    return Level(number, value, trace=_FOUND + int.from_bytes(digest[:6], "big"))


def level_at(workload: Workload, number: int, value: float) -> Level:
    """The level that a load point was measured at."""
    given = given_levels(workload)
    return given[number] if given else found_level(number, value)


_FOUND = 1_000_000  # above every position of a list


def ladder_text(workload: Workload) -> str:
    """The levels in words."""
    given = given_levels(workload)
    if given:
        return ", ".join(f"{level.value:g}" for level in given)
    assert isinstance(workload.levels, AutoLevels)
    return f"auto, from {workload.levels.start:g}"
