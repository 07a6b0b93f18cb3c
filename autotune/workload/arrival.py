"""How requests arrive."""

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from autotune.records import Record


class OpenLoop(Record):
    """Requests come when users want, whatever the server does."""

    max_concurrency: Annotated[
        PositiveInt | None,
        Field(description="Requests in flight per device at most, as behind a gateway; the others wait their turn."),
    ] = None


class Poisson(OpenLoop):
    """Independent users: exponential gaps between requests."""

    kind: Literal["poisson"]


class Gamma(OpenLoop):
    """Gamma-distributed gaps, as `vllm bench serve --burstiness`: below 1 in bursts, above 1 more even."""

    kind: Literal["gamma"]
    burstiness: Annotated[float, Field(ge=0.01)]


class Constant(OpenLoop):
    """Equal gaps between requests."""

    kind: Literal["constant"]


class Replay(OpenLoop):
    """The timestamps of the dataset's trace; a level says how much faster than recorded."""

    kind: Literal["replay"]


class ClosedLoop(Record):
    """A fixed number of users, each of whom sends the next request when the last one is answered."""

    kind: Literal["closed_loop"]


Arrival = Annotated[Poisson | Gamma | Constant | Replay | ClosedLoop, Field(discriminator="kind")]


def offsets_s(
    arrival: Poisson | Gamma | Constant, count: int, duration_s: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Arrival times, scaled so that the last one is `duration_s` whatever the draw was.

    As `vllm.benchmarks.serve.get_request` does it: else the true rate differs by some percent between seeds.
    """
    offsets: NDArray[np.float64] = np.cumsum(_unit_gaps(arrival, count, rng))
    return offsets * (duration_s / float(offsets[-1]))


def _unit_gaps(arrival: Poisson | Gamma | Constant, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    match arrival:
        case Poisson():
            return rng.standard_exponential(count)
        case Gamma():
            return rng.standard_gamma(arrival.burstiness, count)
        case Constant():
            return np.ones(count)
