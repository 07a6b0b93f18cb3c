"""What trials bring home: load points, outcomes, the front and the recommendation."""

import enum
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from autotune.engine_config import EngineConfig
from autotune.records import Record

LoadKind = Literal["request_rate", "max_concurrency", "replay_speed"]


class Load(Record):
    """The load of a level: an open-loop request rate, a closed-loop concurrency, or the speed of a replayed trace."""

    kind: LoadKind
    value: float  # requests/s, concurrent requests, or times the recorded speed; per device

    def __str__(self) -> str:
        unit = {"request_rate": " req/s", "max_concurrency": " concurrent", "replay_speed": "x speed"}[self.kind]
        return f"{self.value:g}{unit}"


class Quantile(Record):
    """A nearest-rank percentile with its distribution-free 95 % bounds. None is "never came": not finite."""

    percent: float
    value_ms: float | None
    lower_ms: float | None
    upper_ms: float | None


class Latency(Record):
    """A latency metric over all counted requests (for itl: over all gaps); failed requests count as infinite."""

    count: int
    mean_ms: float | None  # of the successful ones
    quantiles: tuple[Quantile, ...]

    def at(self, percent: float) -> Quantile:
        """The quantile at `percent`. Raises KeyError when it was not measured."""
        for quantile in self.quantiles:
            if quantile.percent == percent:
                return quantile
        raise KeyError(percent)


class Bottleneck(Record):
    """What held the engine back at one load level, and which knob to turn."""

    kind: Literal["kv_cache", "slots", "prefill_budget", "queueing", "compute", "host", "bandwidth", "client"]
    evidence: str  # the figures that told
    advice: str


class LoadPoint(Record):
    """One load level, measured. Throughputs are totals; divide by `devices` to compare configurations."""

    level: int  # position in the ladder, from 0
    load: Load
    devices: int
    seed: int
    duration_s: float
    completed: int
    failed: int
    failure_reasons: dict[str, int] = {}  # the most frequent ones first, with how many requests had each
    request_throughput: float  # requests/s
    output_throughput: float  # tokens/s
    total_token_throughput: float  # tokens/s, input and output
    request_goodput: float  # requests/s that met every latency line of the SLA
    ttft: Latency
    tpot: Latency
    itl: Latency
    e2el: Latency
    client_lag_ms: float  # P99 of the delay between the time a request could be sent and the time it was
    client_cpu_share: float = 0.0  # of one core, by the load generator
    client_pause_ms: float = 0.0  # P99 of the delay with which the load generator's event loop woke up
    unfinished: int = 0  # requests of a level that was ended early, and that were neither answered nor failed
    aborted: bool = False  # ended early: the SLA was out of reach; its percentiles are of the requests decided by then
    invalid: str = ""  # why it says nothing about the engine: the client was the bottleneck
    drift: float | None = None  # median latency of the second half over that of the first
    drift_of: str = "ttft"  # whose: the metric that grew most, where one grew beyond chance
    steady: bool = True  # False: latency still moved at the end, so a longer level would show other figures
    violations: dict[str, float]  # constraint name -> value, <= 0 is met; see `autotune.measurement`
    engine: dict[str, float] = {}  # what the engine's own counters, its processes and its devices say of the window
    bottleneck: Bottleneck | None = None  # None: nothing told
    mfu: float | None = None  # model FLOPs utilization, 0-1; None: the device's peak or the model's size is not known
    mbu: float | None = None  # model bandwidth utilization, 0-1; None as for `mfu`

    @property
    def feasible(self) -> bool:
        """Whether every line of the SLA is met at this level, and the measurement can be believed."""
        return not self.invalid and all(value <= 0 for value in self.violations.values())

    @property
    def output_throughput_per_device(self) -> float:
        """Tokens/s and device."""
        return self.output_throughput / self.devices

    @property
    def error_rate(self) -> float:
        """The share of the decided requests that failed; 0 of a level that was ended before any was decided."""
        return self.failed / max(1, self.failed + self.completed)

    @property
    def growth(self) -> str:
        """`the TPOT of the second half is 3.20x the first` of a level that is not steady; else empty."""
        if self.steady:
            return ""
        times = "longer without end" if self.drift is None else f"{self.drift:.2f}x the first"
        return f"the {self.drift_of.upper()} of the second half is {times}"

    @property
    def p99_ttft_ms(self) -> float | None:
        """P99 TTFT; None when more than one request in a hundred failed."""
        return self.ttft.at(99).value_ms


def unsteady(runs: Sequence[LoadPoint], when: str = "") -> list[str]:
    """A sentence on the runs that never reached a steady state, with the last one's growth; none when all did."""
    moved = [run for run in runs if not run.steady]
    if not moved:
        return []
    share = f" in {len(moved)} of {len(runs)} runs" if len(runs) > 1 else ""
    return [f"not steady{when}{share} ({moved[-1].growth}): a longer level would show worse figures"]


def cost_per_million_tokens(price_per_device_hour: float, tokens_per_s_per_device: float) -> float | None:
    """What a million tokens cost at this throughput, in the price's currency; None at no throughput.

    price x devices / (tokens/s x 3600) x 1e6; the devices cancel out.
    """
    if not tokens_per_s_per_device:
        return None
    return price_per_device_hour / (tokens_per_s_per_device * 3600) * 1e6


class FailureClass(enum.StrEnum):
    """What kind of failure ended a trial. The kind decides what the sampler hears and whether it is tried again."""

    OOM = "oom"
    CONFIG = "config"
    GRAPH = "graph"
    OPERATOR = "op"
    PORT = "port"
    BUSY = "busy"
    SHARED_MEMORY = "shm"
    COMMUNICATION = "comm"
    HANG = "hang"
    HARDWARE = "hw"
    ENVIRONMENT = "env"
    NODE = "node"
    CLIENT = "client"  # the load generator was the bottleneck
    CANCELLED = "cancelled"
    DEFECT = "defect"  # of the tuner itself
    UNKNOWN = "unknown"


class Evidence(Record):
    """Why a trial failed, for a person: cause, advice, the line that told, and where to look."""

    failure: FailureClass
    signature: str | None  # id of the log signature that matched
    cause: str
    advice: str
    line: str = ""  # the log line that told
    log_tail: str = ""
    log_path: str = ""


class Measured(Record):
    """The engine ran and was measured at one or more load levels."""

    kind: Literal["measured"] = "measured"
    points: Annotated[tuple[LoadPoint, ...], Field(min_length=1)]
    operating_level: int | None  # level of the feasible point with the highest throughput; None: no level is feasible
    effective_config: dict[str, str] = {}  # what the engine says it uses
    overridden: dict[str, str] = {}  # knob -> "asked X, runs Y"

    @property
    def operating_point(self) -> LoadPoint | None:
        """The feasible load point with the highest throughput."""
        return next((p for p in self.points if p.level == self.operating_level), None)

    @property
    def closest_point(self) -> LoadPoint:
        """The operating point, or where there is none the valid point that violates the SLA least."""
        return self.operating_point or min(
            self.points, key=lambda p: (bool(p.invalid), max(p.violations.values(), default=0.0))
        )


class Infeasible(Record):
    """The configuration cannot run: out of memory, refused argument, graph capture, operator error."""

    kind: Literal["infeasible"] = "infeasible"
    evidence: Evidence


class Interrupted(Record):
    """Nothing was learnt about the configuration: port taken, device lost, cancelled."""

    kind: Literal["interrupted"] = "interrupted"
    evidence: Evidence


TrialOutcome = Annotated[Measured | Infeasible | Interrupted, Field(discriminator="kind")]


class Timings(Record):
    """Where a trial's wall time went, in seconds."""

    wait_s: float = 0.0  # for device locks
    start_s: float = 0.0  # launch until the first completion
    load_s: float = 0.0  # warm-up and load levels
    stop_s: float = 0.0  # until the devices are idle again
    total_s: float = 0.0

    @property
    def overhead_s(self) -> float:
        """What is neither engine start nor load nor waiting."""
        return max(0.0, self.total_s - self.wait_s - self.start_s - self.load_s)


class TrialResult(Record):
    """What the actor hands back for one launch."""

    outcome: TrialOutcome
    timings: Timings = Timings()
    devices: tuple[str, ...] = ()
    node: str = ""
    engine_version: str = ""
    artifacts: dict[str, str] = {}  # name -> path below the job's artifact folder
    device_health: dict[str, str] = {}  # devices of the trial whose health is not OK -> what their tool says
    unwell: tuple[str, ...] = ()  # devices that nobody should be given any more
    node_unwell: bool = False  # none of the node's devices

    @property
    def device_s(self) -> float:
        """Device-seconds this launch occupied: its wall time without the wait for devices, times its devices."""
        return max(0.0, self.timings.total_s - self.timings.wait_s) * len(self.devices)


Purpose = Literal["baseline", "search", "confirmation", "ablation"]


class Trial(Record):
    """One row of a job: a configuration, why it was launched, and what came of it."""

    number: int  # from 0 within the job; 0 is the baseline, which an interruption may give another number
    purpose: Purpose
    origin: str  # "baseline", "recipe:NAME", "sobol", "gp", …; "trial N" of a confirmation, "ablation step 2 round 1"
    knobs: dict[str, Any]  # parameter -> real value
    config: EngineConfig
    result: TrialResult | None = None  # None while running
    confirms: int | None = None  # number of the search trial that is measured again
    attempts: int = 1  # launches so far: a failure that is not the configuration's fault, or a killed tuner, adds one
    failures: int = 0  # those of them that failed for what may not be the configuration's fault
    earlier_device_s: float = 0.0  # device-seconds of the launches before the last one
    started_at: datetime
    finished_at: datetime | None = None

    @property
    def is_searched(self) -> bool:
        """Whether it belongs to the search: the baseline or a proposal, no re-run and no launch of the attribution."""
        return self.purpose in ("baseline", "search")

    @property
    def was_cancelled(self) -> bool:
        """Whether it ended because somebody stopped the job: it was never judged and may run again."""
        outcome = self.result.outcome if self.result else None
        return isinstance(outcome, Interrupted) and outcome.evidence.failure is FailureClass.CANCELLED


class FrontPoint(Record):
    """A load point on the Pareto front of throughput versus P99 TTFT."""

    trial: int
    level: int
    load: Load
    output_throughput_per_device: float
    p99_ttft_ms: float
    request_throughput: float


class ParetoFront(Record):
    """The non-dominated feasible load points over all trials, by rising throughput."""

    points: tuple[FrontPoint, ...] = ()


INERT = 0.01  # of the other's throughput: a smaller difference is none


class Comparison(Record):
    """A candidate against the baseline, each at its operating point: ratios above 1 are larger than the baseline.

    The difference is that of the re-runs' mean output throughputs, in tokens/s per device, with its two-sided 95 %
    interval, which holds for the best of `best_of` candidates; no bounds: a single re-run shows no spread.
    """

    throughput_ratio: float | None
    p99_ttft_ratio: float | None
    throughput_difference_tok_s: float | None = None
    throughput_difference_low_tok_s: float | None = None
    throughput_difference_high_tok_s: float | None = None
    best_of: int = 1  # candidates that were compared with the baseline by these runs

    @property
    def is_open(self) -> bool:
        """Whether neither is clearly faster: they differ by less than 1 %, or the interval contains zero."""
        low, high = self.throughput_difference_low_tok_s, self.throughput_difference_high_tok_s
        is_small = self.throughput_ratio is not None and abs(self.throughput_ratio - 1) < INERT
        return is_small or (low is not None and high is not None and low <= 0 <= high)


class Confirmation(Record):
    """A candidate's fresh re-runs at its operating level; each run has its own seed."""

    trial: int
    load: Load
    runs: tuple[LoadPoint, ...]
    holds: bool  # mean plus one standard error of every SLA line is within its limit
    output_throughput_per_device: float  # mean over the runs
    p99_ttft_ms: float | None  # worst over the runs


class JudgedLine(Record):
    """One line of an SLA as re-runs keep it: the mean plus one standard error decides. None: it never came in a run."""

    name: str  # p99_ttft_ms, error_rate
    limit: float
    mean: float | None
    decides: float | None  # mean plus standard error; where the SLA has a confidence, of the upper bounds
    lower: float | None  # the lowest of the runs' 95 % bounds; an error rate has none
    upper: float | None  # the highest
    holds: bool


class Recommendation(Record):
    """The choice with its reason, or why there is none."""

    trial: int | None
    level: int | None
    reason: str
    confirmed: bool = False
    versus_baseline: Comparison | None = None
    closest_trial: int | None = None  # when nothing meets the SLA


class Difference(Record):
    """A difference of two means with its two-sided 95 % interval; None: a single pair shows no spread."""

    value: float
    low: float | None
    high: float | None
    best_of: int = 1  # differences that this one was chosen from by the same values

    @property
    def contains_zero(self) -> bool:
        """Whether the sign is open: the interval contains zero, or there is none."""
        return self.low is None or self.high is None or self.low <= 0 <= self.high


class KnobChange(Record):
    """One knob at both ends of the ablation path."""

    name: str
    baseline: Any
    winner: Any


StepVerdict = Literal["gain", "loss", "inert", "unclear"]


class AblationStep(Record):
    """One step of the path from the baseline to the winner: what changed there, and what it brought."""

    changes: tuple[KnobChange, ...]  # several: they can be told apart by no configuration that runs
    gain_tok_s: Difference  # throughput under the SLA per device, over the configuration before
    share: float | None  # of the total gain; None: there is none to share
    verdict: StepVerdict


class Attribution(Record):
    """Which knob brought which part of the winner's gain, measured along one path; the steps add up to the total."""

    winner: int  # the trial that was explained
    rounds: int  # launches of every configuration of the path that count
    baseline_tok_s: float  # mean throughput under the SLA per device at the path's start
    winner_tok_s: float  # and at its end
    total_tok_s: Difference
    steps: tuple[AblationStep, ...]
    reset: tuple[str, ...] = ()  # inert knobs that are back at the engine's default in `trial`
    trial: int | None = None  # the row of the winner without its inert knobs; None: it was not launched
    outcome: str = ""  # what became of the recommendation, in a sentence


class JobResult(Record):
    """How a job ended."""

    stopped_by: str  # a line of the budget, "exhausted", "infeasible", "cancelled" or "failed"
    front: ParetoFront
    recommendation: Recommendation
    confirmations: tuple[Confirmation, ...] = ()
    attribution: Attribution | None = None  # after `autotune explain`


class JobStatus(enum.StrEnum):
    """queued -> running -> succeeded | failed | cancelled."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})


class Job(Record):
    """One row of the job list; the documents are what the job was started with, kept whole."""

    id: str
    name: str
    status: JobStatus
    spec: dict[str, Any]
    space: dict[str, Any]
    workload: dict[str, Any]
    model_path: str  # the model's folder, resolved
    folder: str  # artifacts
    message: str = ""  # why it failed
    worked_s: float = 0.0  # seconds of search so far, over all resumes
    result: JobResult | None = None
    created_at: datetime
    finished_at: datetime | None = None
