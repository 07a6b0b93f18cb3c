"""What stopping the climb and ending levels early save of the load time: `python benchmarks/ladder_savings.py`.

Whole ladders are recorded, every level to its end and twice, for random configurations on the simulated engine in
virtual time. Then the rules are applied to the recorded requests, and the operating points are compared.
"""

import dataclasses
import itertools
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import spearmanr

from autotune.engines.simulated import launch, model, options
from autotune.engines.simulated.core import Core
from autotune.engines.simulated.replay import play
from autotune.level_run import Hopeless, LevelRun, LevelWatch, RequestRecord, ended_early
from autotune.loading import find, load
from autotune.measurement import (
    clearly_violates,
    hopeless_rules,
    joined,
    load_point,
    operating_point,
    out_of_reach,
    sla_crossing_throughput,
    straddles,
)
from autotune.results import Load, LoadPoint
from autotune.spec import Sla
from autotune.trial.ladder import CLOSE, SECOND_LOOK_SEED
from autotune.workload import Level, Vocabulary, Workload, given_levels, open_source, plan_level

TINY = Path(__file__).parents[1] / "autotune" / "demo" / "tiny-llama"
CONFIGURATIONS = 24
KNOBS = {"max-num-seqs": (4, 8, 16, 24, 32, 48, 64, 128), "max-num-batched-tokens": (128, 256, 512, 2048)}
RATES = (20.0, 40.0, 80.0, 120.0, 160.0, 240.0, 320.0)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A level that ran to its end: the first look, and the second where it was recorded."""

    level: Level
    load: Load
    looks: tuple[LevelRun, ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """What a climb leaves out."""

    stops: bool  # after the first level that violates the SLA
    early: bool  # what is left of a level whose verdict is certain


@dataclass(slots=True)
class Climb:
    """What a climb over recorded levels came to."""

    points: list[LoadPoint]
    load_s: float = 0.0


EVERYTHING = Rules(stops=False, early=False)
VARIANTS = {"stop the climb": Rules(stops=True, early=False), "and end levels early": Rules(stops=True, early=True)}


def main() -> None:
    """Print what each rule saves, and in how many ladders it changes the operating point."""
    demo = _bundled("demo")
    _report("demo, 8 to 64 users, 300 requests", _simulated(demo), Sla(p99_ttft_ms=150, p99_tpot_ms=16))
    poisson = demo.model_dump() | {"arrival": {"kind": "poisson"}, "levels": RATES, "requests_per_level": 500}
    ladders = _simulated(Workload.model_validate(poisson))
    _report("poisson, 20 to 320 requests/s, 500 requests", ladders, Sla(p99_ttft_ms=100))
    _report("the same, E2EL", ladders, Sla(p99_e2el_ms=400))
    _report("the same, upper bound", ladders, Sla(p99_ttft_ms=100, confidence=0.95))
    lasting = Workload.model_validate(poisson | {"min_level_duration_s": 10})
    _report("the same, every level 10 s at least", _simulated(lasting), Sla(p99_ttft_ms=100))


def climbed(ladder: Sequence[Recorded], sla: Sla, rules: Rules) -> Climb:
    """Climb recorded levels as `trial.ladder.climb` does, with the rules that are asked for."""
    climb = Climb([])
    for recorded in ladder:
        exact = not climb.points or recorded.load.value > CLOSE * climb.points[-1].load.value
        point = _judged(_Sight(recorded, sla, rules.early, exact), climb)
        climb.points.append(point)
        if rules.stops and not point.feasible:
            break
    _look_again(ladder, sla, rules, climb)
    return climb


def _look_again(ladder: Sequence[Recorded], sla: Sla, rules: Rules, climb: Climb) -> None:
    """At the operating point, where its verdict is open and it was measured once."""
    below = list(itertools.takewhile(lambda point: point.feasible, climb.points))
    best = operating_point(below)
    if best is None or not straddles(best, sla):
        return
    recorded, number = ladder[best.level], best.level
    exact = number == 0 or recorded.load.value > CLOSE * climb.points[number - 1].load.value
    sight = _Sight(recorded, sla, rules.early, exact)
    run, first_s = sight.look(0)
    if best.completed + best.failed == len(run.records):
        climb.points[number] = _second(sight, climb, run, first_s)


@dataclass(frozen=True, slots=True)
class _Sight:
    recorded: Recorded
    sla: Sla
    early: bool
    exact: bool

    def look(self, number: int, first: LevelRun | None = None) -> tuple[LevelRun, float]:
        """One look as it would have come home, and how long it took (s)."""
        full = self.recorded.looks[number]
        rules = hopeless_rules(self.sla, full.planned, exact=self.exact, first=first) if self.early else ()
        early_s = ended_early(full.records, rules)
        if early_s is None:
            return full, max(record.end_s for record in full.records)
        return cut(full, early_s, rules), early_s

    def point(self, run: LevelRun, *ends_s: float) -> LoadPoint:
        """The load point, with the tokens that the engine had counted at the end of each look."""
        looks, level = zip(self.recorded.looks, ends_s, strict=False), self.recorded.level.number
        tokens = sum(at_s <= end_s for look, end_s in looks for record in look.records for at_s in record.token_times_s)
        counted = {"generation_tokens": float(tokens)}
        load = self.recorded.load
        return load_point(run, level=level, load=load, devices=1, seed=0, sla=self.sla, engine_counters=counted)


def _judged(sight: _Sight, climb: Climb) -> LoadPoint:
    run, first_s = sight.look(0)
    climb.load_s += first_s
    point = sight.point(run, first_s)
    if point.feasible or clearly_violates(point, sight.sla) or len(sight.recorded.looks) == 1:
        return point
    if sight.early and out_of_reach(sight.sla, run, sight.recorded.looks[1].planned):
        return point
    return _second(sight, climb, run, first_s)


def _second(sight: _Sight, climb: Climb, run: LevelRun, first_s: float) -> LoadPoint:
    second, second_s = sight.look(1, first=run)
    climb.load_s += second_s
    return sight.point(joined(run, second), first_s, second_s)


def cut(full: LevelRun, at_s: float, rules: tuple[Hopeless, ...]) -> LevelRun:
    """A level as it would have come home, had the rules ended it at a time (s)."""
    kept = (_cut_record(record, at_s, rules) for record in full.records)
    return dataclasses.replace(full, records=tuple(record for record in kept if record is not None), aborted=True)


def _cut_record(record: RequestRecord, at_s: float, rules: tuple[Hopeless, ...]) -> RequestRecord | None:
    if record.end_s <= at_s:
        return record
    times_s = tuple(time_s for time_s in record.token_times_s if time_s <= at_s)
    ages_s = {"ttft": (times_s[0] if times_s else at_s) - record.scheduled_s, "e2el": at_s - record.scheduled_s}
    if not any(ages_s[rule.metric] >= rule.limit_s for rule in rules):
        return None
    return dataclasses.replace(record, token_times_s=times_s, end_s=at_s, error="ended early", unfinished=True)


def _simulated(workload: Workload) -> list[list[Recorded]]:
    chosen = random.Random(1)
    served = model.read(TINY)
    ladders = []
    for _ in range(CONFIGURATIONS):
        knobs = {name: chosen.choice(values) for name, values in KNOBS.items()}
        words = ["serve", str(TINY), "--max-model-len", "64", *(f"--{name}={value}" for name, value in knobs.items())]
        ladders.append(_recorded(workload, Core(launch.prepare(options.read(words, {}), served))))
    return ladders


def _recorded(workload: Workload, core: Core) -> list[Recorded]:
    source = open_source(workload.dataset, Vocabulary(384))
    ladder = []
    for level in given_levels(workload):
        plans = [plan_level(workload, level, devices=1, seed=seed, source=source) for seed in (1, 1 + SECOND_LOOK_SEED)]
        looks = tuple(play(core, plan, LevelWatch()) for plan in plans)
        ladder.append(Recorded(level, plans[0].load, looks))
    return ladder


def _bundled(name: str) -> Workload:
    place = find(name, "workloads", relative_to=Path.cwd())
    return load(place.read_text(), Workload, source=str(place))


def _report(what: str, ladders: Sequence[Sequence[Recorded]], sla: Sla) -> None:
    full = [climbed(ladder, sla, EVERYTHING) for ladder in ladders]
    climbs = {name: [climbed(ladder, sla, rules) for ladder in ladders] for name, rules in VARIANTS.items()}
    whole_s = _load_s(full)
    print(f"{what}; {sla.text}: {len(ladders)} ladders, {whole_s:.0f} s of load")
    stopped = next(iter(climbs.values()))
    heard = [sla_crossing_throughput(climb.points) for climb in stopped]
    for name, short in climbs.items():
        saved = 1 - _load_s(short) / whole_s
        same = sum(_operating(a) == _operating(b) for a, b in zip(full, short, strict=True))
        crossings = [sla_crossing_throughput(climb.points) for climb in short]
        order = spearmanr(heard, crossings).statistic if len(set(heard)) > 1 else 1.0
        print(f"  {name}: saves {saved:.0%}; {same} same operating points; crossings correlate {order:.3f} in rank")


def _load_s(climbs: Iterable[Climb]) -> float:
    return sum(climb.load_s for climb in climbs)


def _operating(climb: Climb) -> tuple[int, float] | None:
    """Of the levels below the first bad one: above it a whole ladder may meet the SLA by luck."""
    below = list(itertools.takewhile(lambda point: point.feasible, climb.points))
    best = operating_point(below)
    return (best.level, best.output_throughput) if best else None


if __name__ == "__main__":
    main()
