"""The way from a job's baseline to its winner: which configurations lie on it, and in which order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autotune.engine_config import EngineConfig, Value
from autotune.measurement import sla_crossing_throughput
from autotune.results import Infeasible, KnobChange, Measured, Trial
from autotune.search_space import BASELINE, active, config_of, starting_point, tunable
from autotune.selection import Path, greedy_path
from autotune.study.grid import Grid
from autotune.study.surrogate import Lesson, expectation
from autotune.tuner.candidates import keeps_rules
from autotune.tuner.context import JobContext, with_profile


@dataclass(frozen=True, slots=True)
class Station:
    """One configuration between the baseline and the winner, with all its active knobs."""

    knobs: Mapping[str, Value]
    config: EngineConfig


def changed_knobs(context: JobContext, winner: Trial) -> tuple[str, ...]:
    """The winner's knobs that are not where the baseline's are, in the order of the space."""
    base = starting_point(context.space, BASELINE)
    return tuple(name for name in tunable(context.space) if name in winner.knobs and winner.knobs[name] != base[name])


def changes(context: JobContext, winner: Trial) -> dict[str, KnobChange]:
    """What the path changes, by the knob's name; a baseline value is where the space says that the default lies."""
    base = starting_point(context.space, BASELINE)
    names = changed_knobs(context, winner)
    return {name: KnobChange(name=name, baseline=base[name], winner=winner.knobs[name]) for name in names}


def station(context: JobContext, winner: Trial, changed: frozenset[str]) -> Station:
    """The baseline with the winner's values for `changed`; the other knobs are not given, as in the baseline.

    With all of the winner's changed knobs it is the winner as it was launched.
    """
    if changed == frozenset(changed_knobs(context, winner)):
        return Station(winner.knobs, winner.config)
    return _station(context, winner, back=frozenset(winner.knobs) - changed)


def without(context: JobContext, winner: Trial, reset: Sequence[str]) -> Station:
    """The winner as it was launched, but for the knobs in `reset`: these are the engine's own defaults again."""
    return _station(context, winner, back=frozenset(reset))


def is_as_launched(context: JobContext, winner: Trial) -> bool:
    """Whether the winner's knobs would be launched today with the same arguments as they were."""
    return _station(context, winner, back=frozenset()).config.hash == winner.config.hash


def _station(context: JobContext, winner: Trial, back: frozenset[str]) -> Station:
    base = starting_point(context.space, BASELINE)
    knobs = {**base, **{name: value for name, value in winner.knobs.items() if name not in back}}
    config = config_of(context.space, knobs, frozenset(winner.knobs) - back, derived=context.derived)
    return Station(active(context.space, knobs), with_profile(config, context.profile))


def can_run(context: JobContext, found: Station, changed: frozenset[str], most_devices: int) -> bool:
    """Whether a station fits the devices, keeps the rules, and has all of `changed` in force."""
    return (
        found.config.devices <= most_devices
        and changed <= found.knobs.keys()  # a knob whose condition is not met yet changes nothing
        and keeps_rules(context, found.knobs, found.config)
    )


def ablation_path(context: JobContext, winner: Trial, searched: Sequence[Trial], most_devices: int) -> Path:
    """The order in which the winner's knobs are changed: what the job's own trials promise most comes first.

    The same for the same rows and devices, so that an explanation that was stopped goes on along the same path.
    """
    lessons = [Lesson(trial.knobs, told) for trial in searched if (told := figure(trial)) is not None]
    expected = expectation(Grid.of(context.space), starting_point(context.space, BASELINE), lessons)
    stations: dict[frozenset[str], Station] = {}

    def at(changed: frozenset[str]) -> Station:
        return stations.setdefault(changed, station(context, winner, changed))

    return greedy_path(
        changed_knobs(context, winner),
        allowed=lambda changed: can_run(context, at(changed), changed, most_devices),
        predicted=lambda changed: expected(at(changed).knobs),
    )


def figure(trial: Trial) -> float | None:
    """Throughput under the SLA per device (tokens/s), by which a path is judged; None: nothing was learnt.

    What the sampler hears of a trial that meets the SLA: interpolated between the last good level and the first bad
    one. A configuration that meets the SLA at no level, or cannot run, serves nothing under it: 0.
    """
    outcome = trial.result.outcome if trial.result else None
    if isinstance(outcome, Measured):
        return sla_crossing_throughput(outcome.points) if outcome.operating_point else 0.0
    return 0.0 if isinstance(outcome, Infeasible) else None
