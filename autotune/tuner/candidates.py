"""What the search may launch next: the proposer asked, and every configuration it has had refused."""

from collections.abc import Mapping, Sequence

from autotune.engine_config import EngineConfig, Value
from autotune.results import Interrupted, Trial
from autotune.search_space import BASELINE, active, broken_rules, starting_point
from autotune.search_space.catalogue import conflicts, habits, predicted
from autotune.study.grid import Grid
from autotune.study.proposer import Plan, propose
from autotune.tuner.context import JobContext
from autotune.tuner.effective import Corrections, corrections, effective_hash
from autotune.tuner.owner import utc_now

MOST_START_POINTS = 10


class Candidates:
    """The next rows of a job; nothing is ever searched twice, not even under another name."""

    def __init__(self, context: JobContext) -> None:
        self._context = context
        self._plan = proposer_plan(context)
        self._names = frozenset(context.space.argument_names)
        self._engine = habits(context.installed)

    def lack_baseline(self, trials: Sequence[Trial]) -> bool:
        """Whether nobody knows how the baseline does, nor finds it out now: then it is launched before anything else.

        One that was interrupted told nothing, and without it there is nothing to compare with.
        """
        outcomes = [trial.result and trial.result.outcome for trial in trials if trial.purpose == "baseline"]
        return all(isinstance(outcome, Interrupted) for outcome in outcomes)

    def baseline(self, number: int) -> Trial:
        """The engine's own defaults; trial 0, unless that one was interrupted."""
        knobs = starting_point(self._context.space, BASELINE)
        return self._row(number, "baseline", knobs, self._context.baseline)

    def proposed(self, trials: Sequence[Trial], number: int, most_devices: int) -> Trial | None:
        """A new row that no trial so far has measured, is measuring or has failed; None when none is left.

        `trials` are the baseline and search trials. A trial that was cancelled was never judged: its configuration may
        come again, and the proposer goes on as if the job had never been stopped.
        """
        known = corrections(trials, self._names)
        judged = [trial for trial in trials if not trial.was_cancelled]
        seen = {name for trial in judged for name in self._names_of(trial, known)}

        def accept(knobs: dict[str, Value]) -> bool:
            config = self._context.configuration(knobs)
            return (
                config.devices <= most_devices
                and keeps_rules(self._context, knobs, config)
                and not conflicts(config, self._engine)
                and self._name(config, known) not in seen
            )

        proposal = propose(self._plan, judged, accept)
        if proposal is None:
            return None
        return self._row(number, proposal.origin, proposal.knobs, self._context.configuration(proposal.knobs))

    def _names_of(self, trial: Trial, known: Corrections) -> set[str]:
        """A trial's configuration, and for the baseline also the point where the space says that it lies."""
        placed = self._context.configuration({**self._plan.placement, **trial.knobs})
        return {self._name(trial.config, known), self._name(placed, known)}

    def _name(self, config: EngineConfig, known: Corrections) -> str:
        return effective_hash(config, known, lambda one: predicted(one, self._engine))

    def _row(self, number: int, origin: str, knobs: Mapping[str, Value], config: EngineConfig) -> Trial:
        return Trial(
            number=number,
            purpose="baseline" if origin == "baseline" else "search",
            origin=origin,
            knobs=active(self._context.space, knobs),
            config=config,
            started_at=utc_now(),
        )


def keeps_rules(context: JobContext, knobs: Mapping[str, Value], config: EngineConfig) -> bool:
    """Whether a choice of knobs, and the configuration that it launches, break none of the space's rules."""
    given = {name: value for name, value in config.arguments.items() if isinstance(value, bool | int | float | str)}
    return not broken_rules(context.space, knobs, {**given, **context.derived, "devices": config.devices})


def proposer_plan(context: JobContext) -> Plan:
    """What the proposer needs of a job."""
    spec, space = context.spec, context.space
    start = spec.budget.start_points
    return Plan(
        grid=Grid.of(space),
        sla=spec.sla,
        placement=starting_point(space, BASELINE),
        recipes={name: starting_point(space, name) for name in space.starting_points if name != BASELINE},
        start_points=start if start is not None else min(MOST_START_POINTS, max(1, spec.budget.trials // 3)),
        sampler=spec.sampler,
        objectives=spec.objectives,
        seed=spec.seed,
    )
