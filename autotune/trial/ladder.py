"""The load ladder of one launch: warm up, climb the levels, stop after one that violates the SLA."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from autotune.level_run import Hopeless, LevelRun, LevelWatch
from autotune.measurement import clearly_violates, joined, load_point
from autotune.results import LoadPoint
from autotune.telemetry import get_logger
from autotune.trial.artifacts import note_failures, write_records
from autotune.trial.request import Control, TrialRequest
from autotune.workload import Level, LevelPlan, Vocabulary, open_source, plan_level, plan_warmup

log = get_logger()

# A level that is measured a second time and a confirmation run must not repeat the search's prompts.
SECOND_LOOK_SEED = 1_000_003


Send = Callable[[LevelPlan, LevelWatch], LevelRun]


class Window(Protocol):
    """What the engine, its processes and its devices do while a level runs; it opens when it is made."""

    def close(self) -> dict[str, float]:
        """The figures of the time since it was opened; may raise Cancelled."""


@dataclass(frozen=True, slots=True)
class Site:
    """The running engine as the ladder sees it."""

    send: Send  # sends a level's requests
    gone: Callable[[], bool]  # whether the engine has ended
    window: Callable[[], Window]  # opened before a level; may raise Cancelled
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
        vocabulary = Vocabulary(request.model.vocab_size, request.model.special_ids)
        self._source = open_source(request.workload.dataset, vocabulary, model=request.model.path)

    def warm_up(self) -> None:
        request = self._request
        plan = plan_warmup(
            request.workload, devices=request.config.devices, seed=request.search_seed, source=self._source
        )
        self._control.enter("warming up")
        self._send(plan)

    def measure(self, level: Level) -> LoadPoint:
        seed = self._request.search_seed
        window = self._open()
        plan, run = self._run(level, seed)
        point = self._point(level, plan, run, window)
        if point.feasible or clearly_violates(point, self._request.sla):
            return point
        window = self._open()
        _, second = self._run(level, seed + SECOND_LOOK_SEED)
        return self._point(level, plan, joined(run, second), window)

    def measure_once(self, level: Level, seed: int) -> LoadPoint:
        window = self._open()
        plan, run = self._run(level, seed)
        return self._point(level, plan, run, window)

    def _open(self) -> Window:
        """Before a level: nothing is lost when a cancel ends the ladder here."""
        if self._control.cancelled():
            raise LevelLost
        return self._site.window()

    def _run(self, level: Level, seed: int) -> tuple[LevelPlan, LevelRun]:
        request = self._request
        plan = plan_level(request.workload, level, devices=request.config.devices, seed=seed, source=self._source)
        self._control.enter("loading", level=str(plan.load), done=0, planned=len(plan.requests))
        run = self._send(plan)
        if self._site.keep_records:
            write_records(request.artifacts, level.number, seed, run.records)
        failures = note_failures(request.artifacts, str(plan.load), run.records)
        if all(record.error is not None for record in run.records):
            # Measured all the same: an engine that is up and serves nobody misses every line of the SLA.
            log.warning("level_served_nobody", trial=request.number, failures=failures, reason=run.records[0].error)
        return plan, run

    def _send(self, plan: LevelPlan, hopeless: tuple[Hopeless, ...] = ()) -> LevelRun:
        def report(done: int, planned: int) -> None:
            self._control.enter("loading", level=str(plan.load), done=done, planned=planned)

        def stopped() -> bool:
            return self._control.cancelled() or self._site.gone()

        run = self._site.send(plan, LevelWatch(stopped, report, hopeless))
        short = len(run.records) < len(plan.requests) and not run.aborted  # a cancel after the last answer is too late
        if self._site.gone() or short:
            raise LevelLost
        return run

    def _point(self, level: Level, plan: LevelPlan, run: LevelRun, window: Window) -> LoadPoint:
        return load_point(
            run,
            level=level.number,
            load=plan.load,
            devices=self._request.config.devices,
            seed=plan.seed,
            sla=self._request.sla,
            engine_counters=window.close(),
        )
