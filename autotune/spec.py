"""The job an operator submits: model, engine, devices, traffic, SLA, search space and budget."""

import re
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PositiveFloat,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from autotune.records import Record

LATENCY_METRICS = ("ttft", "tpot", "itl", "e2el")
_LIMIT_NAME = re.compile(r"^p(?P<percent>[1-9]\d?(?:\.\d+)?)_(?P<metric>ttft|tpot|itl|e2el)_ms$")

Count = Annotated[int, Field(ge=1, le=1_000_000)]  # what a job can use, and every number it is compared with can hold
Amount = Annotated[float, Field(gt=0, le=1e9)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]


class LatencyLimit(Record):
    """One latency line of an SLA, such as `p99_ttft_ms <= 200`."""

    name: str
    percent: float
    metric: Literal["ttft", "tpot", "itl", "e2el"]
    limit_ms: PositiveFloat


def _problems_of_names(lines: dict[Any, Any]) -> list[str]:
    names = [str(name) for name in lines if name not in Sla.model_fields]
    unknown = [name for name in names if not _LIMIT_NAME.match(name)]
    problems = []
    if unknown:
        problems.append(
            f"unknown SLA line {', '.join(map(repr, unknown))}; "
            "use error_rate or pNN_METRIC_ms with METRIC one of ttft, tpot, itl, e2el (such as p99_ttft_ms)"
        )
    if not names:
        problems.append("the SLA needs at least one latency line, such as p99_ttft_ms: 200")
    return problems


def _details(error: ErrorDetails) -> InitErrorDetails:
    details = InitErrorDetails(type=error["type"], loc=error["loc"], input=error["input"])
    if "ctx" in error:
        details["ctx"] = error["ctx"]
    return details


class Sla(Record):
    """The promise to keep: `p99_ttft_ms: 200`, any of `pNN_{ttft,tpot,itl,e2el}_ms`, and `error_rate` (0-1).

    At least one latency line is needed; limits are positive.
    """

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "additionalProperties": False,
            "patternProperties": {
                _LIMIT_NAME.pattern.replace("?P<percent>", "").replace("?P<metric>", ""): {
                    "type": "number",
                    "exclusiveMinimum": 0,
                    "description": "Upper limit of this percentile, in ms.",
                }
            },
            "minProperties": 1,
        },
    )
    __pydantic_extra__: dict[str, PositiveFloat] = Field(init=False)

    error_rate: Annotated[float, Field(ge=0, le=1, description="Largest share of requests that may fail.")] = 0.01
    confidence: Annotated[
        float | None,
        Field(
            ge=0.5,
            lt=1,
            description="Keep the latency lines with this confidence: the upper bound of each percentile decides. "
            "Default: the measured value decides.",
        ),
    ] = None

    @model_validator(mode="wrap")
    @classmethod
    def _lines_are_percentiles(cls, lines: Any, validate: ModelWrapValidatorHandler["Sla"]) -> "Sla":
        """Judge the names beside the values, so that problems of both kinds are told at once."""
        problems = _problems_of_names(lines) if isinstance(lines, dict) else []
        found: list[InitErrorDetails] = [
            {"type": PydanticCustomError("value_error", "{error}", {"error": problem}), "input": lines}
            for problem in problems
        ]
        try:
            sla = validate(lines)
        except ValidationError as exc:
            if not found:
                raise
            found += [_details(error) for error in exc.errors()]
        if found:
            raise ValidationError.from_exception_data(cls.__name__, found)
        return sla

    @property
    def text(self) -> str:
        """All lines in words, as they are written."""
        limits = [(name, limit) for name, limit in self.model_dump().items() if name != "confidence"]
        lines = ", ".join(f"{name} <= {limit:g}" for name, limit in limits)
        return lines if self.confidence is None else f"{lines}, with {self.confidence:.0%} confidence"

    @property
    def latency_limits(self) -> tuple[LatencyLimit, ...]:
        """The latency lines in one fixed order: by metric (ttft, tpot, itl, e2el), then by percentile."""
        lines = []
        for name, limit_ms in self.__pydantic_extra__.items():
            match = _LIMIT_NAME.match(name)
            assert match is not None
            lines.append(
                LatencyLimit.model_validate(
                    {"name": name, "percent": float(match["percent"]), "metric": match["metric"], "limit_ms": limit_ms}
                )
            )
        return tuple(sorted(lines, key=lambda line: (LATENCY_METRICS.index(line.metric), line.percent)))


class Devices(Record):
    """Which kind of accelerator the trials use, and the most that one trial may take."""

    resource: Literal["NPU", "GPU", "CPU"]
    max_per_trial: Count | Literal["all"] = Field(
        default="all", description="Devices of one trial at most (on CPU: cores); `all` is a whole node."
    )


class Budget(Record):
    """When to stop searching. The first limit reached wins and is named in the result."""

    trials: Count = Field(default=60, description="Search trials, the baseline not counted.")
    start_points: Count | None = Field(
        default=None, description="Trials before the model proposes; default min(10, a third of the trials)."
    )
    wall_clock_s: Amount | None = Field(
        default=None,
        description="Seconds of search after which nothing is launched; time between resumes is not counted.",
    )
    device_hours: Amount | None = Field(
        default=None,
        description="Hours that launches have occupied devices, times devices, after which the search ends.",
    )
    failures: Count = Field(default=20, description="Failed launches in a row that end the search.")
    environment_failures: Count = Field(
        default=5, description="Trials in a row that end without a verdict (port, node, device lost); they end the job."
    )
    patience: Count = Field(default=15, description="Trials without a 1 % gain that end the search, after 30.")
    confirm_top: Annotated[int, Field(ge=0, le=16)] = 5
    confirm_runs: Count = 3


class JobSpec(Record):
    """One tuning job, as its file says it."""

    version: Literal[1]
    name: Name
    model: Annotated[str, Field(min_length=1, description="A model folder, or a hub name the engine has at hand.")]
    engine: Name = Field(default="vllm", description="Name of an engine profile in the settings.")
    devices: Devices
    search_space: str = Field(description="A bundled space's name, or a file.")
    workload: str = Field(description="A bundled workload's name, or a file.")
    sla: Sla
    sampler: Literal["gp", "tpe", "nsga2", "random", "qmc"] = "gp"
    objectives: Literal["throughput", "pareto"] = Field(
        default="throughput", description="What the sampler optimises: throughput under the SLA, or both objectives."
    )
    budget: Budget = Budget()
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    instrument: Literal["autotune", "vllm-bench", "guidellm"] = Field(
        default="autotune", description="What sends the load: our own client, `vllm bench serve` or GuideLLM."
    )
    attribution: bool = Field(
        default=False, description="After the confirmation, find out which knob brought which share of the gain."
    )

    @property
    def document(self) -> dict[str, Any]:
        """The spec as plain JSON values."""
        return self.model_dump(mode="json")


def json_schema() -> dict[str, Any]:
    """The job file's JSON Schema (draft 2020-12), for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **JobSpec.model_json_schema()}
