"""Whose effect a gain is: the order in which the winner's knobs are changed one by one, and what each step brought.

An ablation path (Fawcett, Hoos: Analysing differences between algorithm configurations through ablation, Journal of
Heuristics 22, 2016): its steps add up to the whole gain, which knobs changed one at a time against a fixed
configuration do not.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from autotune.results import INERT, AblationStep, Attribution, Difference, KnobChange, StepVerdict
from autotune.selection.comparison import paired_difference

MOST_DEAD_ENDS = 1_000  # before single steps are given up: twenty knobs have a million stations
MOST_GROUPS = 5_000  # of one size, to look for knobs that change together: four of twenty are 4,845

Names = frozenset[str]
Figures = Sequence[Sequence[float]]  # throughput under the SLA per device, by configuration and then by round


@dataclass(frozen=True, slots=True)
class Path:
    """The steps from the baseline to the winner: the knobs that change in each."""

    steps: tuple[tuple[str, ...], ...]

    @property
    def stations(self) -> tuple[Names, ...]:
        """The knobs that have the winner's value, at the baseline and after every step."""
        return tuple(frozenset(itertools.chain(*self.steps[:end])) for end in range(len(self.steps) + 1))

    def without(self, failed: Sequence[int]) -> "Path":
        """The path that leaves stations out, by number: the steps to one of them and onward are one step.

        The baseline (0) and the winner cannot be left out: raises ValueError.
        """
        if not set(failed) <= set(range(1, len(self.steps))):
            raise ValueError(f"only stations between the ends can be left out, not {sorted(failed)}")
        ends = [end for end in range(1, len(self.steps) + 1) if end not in failed]
        starts = [0, *ends[:-1]]
        return Path(tuple(tuple(itertools.chain(*self.steps[a:b])) for a, b in zip(starts, ends, strict=True)))


def greedy_path(knobs: Sequence[str], allowed: Callable[[Names], bool], predicted: Callable[[Names], float]) -> Path:
    """At every step the knob whose change promises the highest throughput; equal promises in the order of `knobs`.

    `allowed` says whether the configuration in which just those knobs have the winner's value can run; `predicted` is
    what a model expects of it. Where one order leads into a dead end another is taken; where none changes one knob at
    a time, or none was found before 1,000 dead ends, as few as possible change together.
    """
    dead: set[Names] = set()

    def singly(changed: Names) -> tuple[tuple[str, ...], ...] | None:
        """The rest of the path in single steps; None when there is none."""
        if changed in dead or len(dead) >= MOST_DEAD_ENDS:
            return None
        rest = [name for name in knobs if name not in changed]
        if not rest:
            return ()
        open_ = [name for name in rest if len(rest) == 1 or allowed(changed | {name})]
        for name in sorted(open_, key=lambda name: -predicted(changed | {name})):
            onward = singly(changed | {name})
            if onward is not None:
                return ((name,), *onward)
        dead.add(changed)
        return None

    return Path(singly(frozenset()) or _joined(knobs, allowed, predicted))


def _joined(
    knobs: Sequence[str], allowed: Callable[[Names], bool], predicted: Callable[[Names], float]
) -> tuple[tuple[str, ...], ...]:
    """Greedy steps of as few knobs as can change together; the winner itself is always allowed."""
    steps: list[tuple[str, ...]] = []
    changed: Names = frozenset()
    while rest := [name for name in knobs if name not in changed]:
        groups = ([group for group in same if allowed(changed.union(group))] for same in _by_size(rest))
        open_ = next((found for found in groups if found), [tuple(rest)])
        steps.append(max(open_, key=lambda group: predicted(changed.union(group))))
        changed = changed.union(steps[-1])
    return tuple(steps)


def _by_size(rest: Sequence[str]) -> Iterator[Iterator[tuple[str, ...]]]:
    """Groups that are not all of the rest, small ones first, up to the size that there are too many of."""
    for size in range(1, len(rest)):
        if math.comb(len(rest), size) > MOST_GROUPS:
            return
        yield itertools.combinations(rest, size)


def attribute(path: Path, figures: Figures, changes: Mapping[str, KnobChange], *, winner: int) -> Attribution:
    """What every step of the path brought, from the figures of its stations in rounds of the same requests.

    Neighbours are compared in pairs by round (Student's t, two-sided 95 %), so that what a round's requests and the
    machine's drift do to both cancels. The gains add up to the total. A step between two configurations that serve
    nothing under the SLA is unclear: whatever its knob does there cannot be seen. Raises ValueError unless there is a
    row of figures for every station, all of the same length of at least 1.
    """
    if len(figures) != len(path.stations):
        raise ValueError(f"{len(path.stations)} stations need as many rows of figures, not {len(figures)}")
    total = paired_difference(figures[-1], figures[0])
    is_shared = total.value > 0 and not total.contains_zero  # parts of what may be nothing are no figures
    means = [sum(row) / len(row) for row in figures]
    floor = INERT * (means[0] or means[-1])  # what an inert knob may seem to bring at most
    steps = []
    for names, before, after in zip(path.steps, figures, figures[1:], strict=False):
        gain = paired_difference(after, before)
        steps.append(
            AblationStep(
                changes=tuple(changes[name] for name in names),
                gain_tok_s=gain,
                share=gain.value / total.value if is_shared else None,
                verdict=_verdict(gain, floor) if any(before) or any(after) else "unclear",
            )
        )
    return Attribution(
        winner=winner,
        rounds=len(figures[0]),
        baseline_tok_s=means[0],
        winner_tok_s=means[-1],
        total_tok_s=total,
        steps=tuple(steps),
    )


def inert_knobs(attribution: Attribution) -> tuple[str, ...]:
    """The knobs of the steps that brought nothing."""
    return tuple(c.name for step in attribution.steps if step.verdict == "inert" for c in step.changes)


def _verdict(gain: Difference, floor: float) -> StepVerdict:
    """Inert needs both: an interval with zero in it, and a gain below 1 %.

    With two or three rounds intervals are so wide that many a real gain's contains zero; such a knob stays as it is,
    for resetting it costs its gain and keeping it costs nothing.
    """
    if not gain.contains_zero:
        return "gain" if gain.value > 0 else "loss"
    return "inert" if gain.low is not None and abs(gain.value) < floor else "unclear"
