"""The load ladder of one launch: warm up, climb the given levels or look for the limit, end hopeless levels early."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from autotune.level_run import Hopeless, LevelRun, LevelWatch
from autotune.loadgen import TooFewFiles
from autotune.measurement import (
    Doubling,
    Given,
    clearly_violates,
    hopeless_rules,
    joined,
    load_point,
    next_load,
    operating_point,
    out_of_reach,
    pooled_figures,
    straddles,
)
from autotune.results import LoadPoint
from autotune.telemetry import get_logger
from autotune.trial.artifacts import note_failures, renumber_records, write_records
from autotune.trial.reading import read
from autotune.trial.request import Control, Course, TrialRequest
from autotune.workload import (
    AutoLevels,
    Level,
    LevelPlan,
    Vocabulary,
    found_level,
    open_source,
    plan_level,
    plan_warmup,
)

log = get_logger()

# A level that is measured a second time and a confirmation run must not repeat the search's prompts.
SECOND_LOOK_SEED = 1_000_003
AFTER_INVALID_SEED = 2_000_003

# A level at most twice the load of the one below may end as soon as it is lost. Between levels farther apart the
# proposer depends on the interpolated SLA crossing, so what it hears of the upper one must be exact.
CLOSE = 2.0

# After a level that was ended early the engine still computes what its client has dropped.
SETTLE_LOOKS = 20
SETTLE_PAUSE_S = 0.25  # between two looks: 5 s in all, and the time that the answers take

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
    settled: Callable[[], bool] = lambda: True  # whether the engine has no request any more; may raise Cancelled
    pause: Callable[[float], None] = time.sleep  # between two looks at it (s)
    tell: Callable[[LoadPoint], None] = lambda _: None  # of each level as soon as it is measured


class LevelLost(Exception):
    """The engine ended, or the trial was cancelled, during a level."""


def measure_levels(request: TrialRequest, site: Site, control: Control) -> list[LoadPoint]:
    """What a trial measures: its ladder, or for a confirmation its one level with each seed."""
    if request.confirm_seeds:
        return repeat(request.course, request.confirm_seeds, site, control)
    return climb(request.course, site, control)


def climb(course: Course, site: Site, control: Control) -> list[LoadPoint]:
    """Measure the levels of a course. Raises LevelLost when the engine ends or the trial is cancelled.

    Given levels are climbed until one violates the SLA; a course without levels looks for its limit, and numbers the
    levels it has found by rising load. A level ends early as soon as it is lost for certain. One that violates the SLA
    but whose bounds straddle the limit is measured once more, and judged by all its requests; so is, when the climb has
    ended, the one that would be the operating point. One in which the load generator was the bottleneck is measured
    anew; the second time that ends the climb.
    """
    ladder = _Ladder(course, site, control)
    ladder.warm_up()
    points: list[LoadPoint] = []
    while (level := _next_level(course, points)) is not None:
        try:
            points.append(ladder.measure(level, exact=_must_be_exact(course, level, points)))
        except TooFewFiles as exc:
            if not points:
                raise
            log.warning("climb_ended", trial=course.name, level=level.value, reason=str(exc))
            break  # what is measured is measured
        site.tell(points[-1])
    best = operating_point(points)
    points = [ladder.look_again(point) if point is best else point for point in points]
    return points if course.levels else _numbered(points, course.artifacts)


def repeat(course: Course, seeds: Sequence[int], site: Site, control: Control) -> list[LoadPoint]:
    """Measure the one level of a confirmation with each of its seeds. Raises LevelLost as `climb` does."""
    ladder = _Ladder(course, site, control)
    ladder.warm_up()
    (level,) = course.levels
    return [ladder.measure_once(level, seed) for seed in seeds]


def _next_level(course: Course, points: list[LoadPoint]) -> Level | None:
    if course.levels:
        value = next_load(points, Given(tuple(level.value for level in course.levels)))
        return None if value is None else course.levels[len(points)]
    levels = course.workload.levels
    assert isinstance(levels, AutoLevels)
    whole = course.workload.load_kind == "max_concurrency"
    value = next_load(points, Doubling(levels.start, levels.most, levels.resolution, whole))
    return None if value is None else found_level(len(points), value)


def _must_be_exact(course: Course, level: Level, points: list[LoadPoint]) -> bool:
    """Whether an early end may only come when the proposer would hear the same of the whole level.

    So it is on the lowest level, whose violations are the trial's constraints. A ladder that looks for the limit
    comes back to what lies between two levels.
    """
    return not points or (bool(course.levels) and level.value > CLOSE * points[-1].load.value)


def _numbered(points: list[LoadPoint], folder: Path) -> list[LoadPoint]:
    """Levels by rising load, whatever the order of the climb; the files of their requests go with them."""
    rising = sorted(points, key=lambda point: point.load.value)
    renumber_records(folder, [point.level for point in rising])
    return [point.model_copy(update={"level": number}) for number, point in enumerate(rising)]


@dataclass(frozen=True, slots=True)
class _Look:
    """The first look at a level, which a second one is judged together with."""

    level: Level
    plan: LevelPlan
    run: LevelRun
    point: LoadPoint
    exact: bool  # how the level may end early


class _Ladder:
    def __init__(self, course: Course, site: Site, control: Control) -> None:
        self._course, self._site, self._control = course, site, control
        vocabulary = Vocabulary(course.model.token_ids, course.model.special_ids)
        self._source = open_source(course.workload.dataset, vocabulary, model=course.model.path)
        self._dropped = False  # whether the last level was ended early
        self._fastest: _Look | None = None  # of the levels that met the SLA at the first look

    def warm_up(self) -> None:
        course = self._course
        plan = plan_warmup(course.workload, devices=course.devices, seed=course.seed, source=self._source)
        self._control.enter("warming up")
        self._send(plan)

    def measure(self, level: Level, *, exact: bool) -> LoadPoint:
        seed = self._course.seed
        point = self._judged(level, seed, exact=exact)
        if not point.invalid:
            return point
        log.warning("level_repeated", trial=self._course.name, level=str(point.load), reason=point.invalid)
        return self._judged(level, seed + AFTER_INVALID_SEED, exact=exact)

    def look_again(self, point: LoadPoint) -> LoadPoint:
        """A level that meets the SLA, by the requests of two looks where one leaves its verdict open."""
        first = self._fastest
        if first is None or first.point is not point or not straddles(point, self._course.sla):
            return point
        both = self._with_second(first)
        return point if both.invalid else both  # a busy client proves nothing against what was measured without it

    def measure_once(self, level: Level, seed: int) -> LoadPoint:
        """Never ended early: a confirmation's figures are shown and averaged."""
        window = self._open()
        plan = self._plan(level, seed)
        run = self._run(level, plan)
        return self._point(level, plan, run, window.close())

    def _judged(self, level: Level, seed: int, *, exact: bool) -> LoadPoint:
        sla, plan = self._course.sla, self._plan(level, seed)
        window = self._open()
        run = self._run(level, plan, hopeless_rules(sla, len(plan.requests), exact=exact))
        point = self._point(level, plan, run, window.close())
        first = _Look(level, plan, run, point, exact)
        if point.feasible:
            self._note_fastest(first)
        if point.feasible or point.invalid or clearly_violates(point, sla):
            return point
        return self._with_second(first)

    def _note_fastest(self, look: _Look) -> None:
        """Only one is kept: the requests of a whole ladder are many."""
        known = self._fastest
        if known is None or look.point.output_throughput > known.point.output_throughput:
            self._fastest = look

    def _with_second(self, first: _Look) -> LoadPoint:
        """The level by its first look and another one, unless that could not save it."""
        sla, again = self._course.sla, self._plan(first.level, first.plan.seed + SECOND_LOOK_SEED)
        if out_of_reach(sla, first.run, len(again.requests)):
            return first.point
        window = self._open()
        rules = hopeless_rules(sla, len(again.requests), exact=first.exact, first=first.run)
        run = joined(first.run, self._run(first.level, again, rules))
        return self._point(first.level, first.plan, run, pooled_figures(first.point.engine, window.close()))

    def _plan(self, level: Level, seed: int) -> LevelPlan:
        course = self._course
        return plan_level(course.workload, level, devices=course.devices, seed=seed, source=self._source)

    def _open(self) -> Window:
        """Before a level: nothing is lost when a cancel ends the ladder here."""
        self._let_settle()
        if self._control.cancelled():
            raise LevelLost
        return self._site.window()

    def _let_settle(self) -> None:
        """What is left of a level that was ended early must not slow the next one; bounded, as nobody may tell."""
        if not self._dropped:
            return
        self._dropped = False
        for _ in range(SETTLE_LOOKS):
            if self._control.cancelled() or self._site.gone():
                raise LevelLost
            if self._site.settled():
                return
            self._site.pause(SETTLE_PAUSE_S)
        log.warning("engine_not_settled", trial=self._course.name, waited_s=SETTLE_LOOKS * SETTLE_PAUSE_S)

    def _run(self, level: Level, plan: LevelPlan, hopeless: tuple[Hopeless, ...] = ()) -> LevelRun:
        course, load = self._course, str(plan.load)
        self._control.enter("loading", level=load, done=0, planned=len(plan.requests))
        run = self._send(plan, hopeless)
        if self._site.keep_records:
            write_records(course.artifacts, level.number, plan.seed, run.records)
        failures = note_failures(course.artifacts, load, run.records)
        self._dropped = run.aborted
        if run.aborted:
            log.info("level_ended_early", trial=course.name, level=load, decided=len(run.records))
        if failures is not None and all(record.error is not None for record in run.records):
            # Measured all the same: an engine that is up and serves nobody misses every line of the SLA.
            log.warning("level_served_nobody", trial=course.name, failures=failures, reason=run.records[0].error)
        return run

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

    def _point(self, level: Level, plan: LevelPlan, run: LevelRun, figures: Mapping[str, float]) -> LoadPoint:
        point = load_point(
            run,
            level=level.number,
            load=plan.load,
            devices=self._course.devices,
            seed=plan.seed,
            sla=self._course.sla,
            engine_counters=figures,
        )
        return read(point, self._course.model, self._course.peaks)
