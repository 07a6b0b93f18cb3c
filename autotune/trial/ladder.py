"""The load ladder of one launch: warm up, climb the levels, stop after one that violates the SLA."""

from collections.abc import Callable
from dataclasses import dataclass

from autotune.engines.readback import counter_deltas
from autotune.measurement import clearly_violates, joined, load_point
from autotune.results import LoadPoint, RequestRecord
from autotune.telemetry import get_logger
from autotune.trial.artifacts import note_failures, write_records
from autotune.trial.request import Control, TrialRequest
from autotune.workload import LevelPlan, Vocabulary, plan_level, plan_warmup

log = get_logger()

# A level that is measured a second time and a confirmation run must not repeat the search's prompts.
SECOND_LOOK_SEED = 1_000_003


Stopped = Callable[[], bool]
Report = Callable[[int, int], None]  # finished requests, all requests
Send = Callable[[LevelPlan, Stopped, Report], list[RequestRecord]]


@dataclass(frozen=True, slots=True)
class Site:
    """The running engine as the ladder sees it."""

    send: Send  # sends a level's requests and returns a record of each that ended
    gone: Callable[[], bool]  # whether the engine has ended
    counters: Callable[[], dict[str, float]]  # the engine's own counters now; may raise Cancelled
    keep_records: bool = True  # write every request down; a simulation can simply be run again


class LevelLost(Exception):
    """The engine ended, or the trial was cancelled, during a level."""


def climb(request: TrialRequest, site: Site, control: Control) -> list[LoadPoint]:
    """Measure the levels from the lowest up. Raises LevelLost when the engine ends or the trial is cancelled.

    A level that violates the SLA ends the climb; one that violates it but whose bounds straddle the limit is
    measured once more first, and judged by all its requests.
    """
    ladder = _Ladder(request, site, control)
    ladder.warm_up()
    points = []
    for level in request.levels:
        point = ladder.measure(level)
        points.append(point)
        if not point.feasible:
            break
    return points


def repeat(request: TrialRequest, site: Site, control: Control) -> list[LoadPoint]:
    """Measure the one level of a confirmation with each of its seeds. Raises LevelLost as `climb` does."""
    ladder = _Ladder(request, site, control)
    ladder.warm_up()
    (level,) = request.levels
    return [ladder.measure_once(level, seed) for seed in request.confirm_seeds]


class _Ladder:
    def __init__(self, request: TrialRequest, site: Site, control: Control) -> None:
        self._request, self._site, self._control = request, site, control
        self._vocabulary = Vocabulary(request.model.vocab_size, request.model.special_ids)

    def warm_up(self) -> None:
        request = self._request
        plan = plan_warmup(
            request.workload, devices=request.config.devices, seed=request.search_seed, vocabulary=self._vocabulary
        )
        self._control.enter("warming up")
        self._send(plan)

    def measure(self, level: int) -> LoadPoint:
        seed = self._request.search_seed
        before = self._counters()
        plan, records = self._run(level, seed)
        point = self._point(level, plan, records, before)
        if point.feasible or clearly_violates(point, self._request.sla):
            return point
        _, second = self._run(level, seed + SECOND_LOOK_SEED)
        return self._point(level, plan, joined(records, second), before)

    def measure_once(self, level: int, seed: int) -> LoadPoint:
        before = self._counters()
        plan, records = self._run(level, seed)
        return self._point(level, plan, records, before)

    def _counters(self) -> dict[str, float]:
        """Before a level: nothing is lost when a cancel ends the ladder here."""
        if self._control.cancelled():
            raise LevelLost
        return self._site.counters()

    def _run(self, level: int, seed: int) -> tuple[LevelPlan, list[RequestRecord]]:
        request = self._request
        plan = plan_level(
            request.workload, level=level, devices=request.config.devices, seed=seed, vocabulary=self._vocabulary
        )
        self._control.enter("loading", level=str(plan.load), done=0, planned=len(plan.requests))
        records = self._send(plan)
        if self._site.keep_records:
            write_records(request.artifacts, level, seed, records)
        failures = note_failures(request.artifacts, str(plan.load), records)
        if all(record.error is not None for record in records):
            # Measured all the same: an engine that is up and serves nobody misses every line of the SLA.
            log.warning("level_served_nobody", trial=request.number, failures=failures, reason=records[0].error)
        return plan, records

    def _send(self, plan: LevelPlan) -> list[RequestRecord]:
        def report(done: int, planned: int) -> None:
            self._control.enter("loading", level=str(plan.load), done=done, planned=planned)

        def stopped() -> bool:
            return self._control.cancelled() or self._site.gone()

        records = self._site.send(plan, stopped, report)
        if self._site.gone() or len(records) < len(plan.requests):  # a cancel that came after the last answer: too late
            raise LevelLost
        return records

    def _point(self, level: int, plan: LevelPlan, records: list[RequestRecord], before: dict[str, float]) -> LoadPoint:
        after = self._site.counters()
        return load_point(
            records,
            level=level,
            load=plan.load,
            devices=self._request.config.devices,
            seed=plan.seed,
            sla=self._request.sla,
            engine_counters=counter_deltas(before, after),
        )
