"""Which configuration to run, with the reason in a sentence."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from autotune.results import INERT, Comparison, Confirmation, Infeasible, LoadPoint, Recommendation, Trial, unsteady
from autotune.selection import words
from autotune.selection.comparison import compare, ratio, throughput_difference
from autotune.selection.points import measured, operating_point, searched, worst
from autotune.spec import Sla

SECOND_LOOK = math.log(1.05)  # a latency 5 % over its limit; violations are log(value / limit)


@dataclass(frozen=True, slots=True)
class Reset:
    """A recommended trial without the knobs that did nothing, and the re-runs of both."""

    trial: Trial
    winner: Confirmation
    again: Confirmation
    level: int | None
    knobs: tuple[str, ...]  # back at the engine's default
    rivals: tuple[Confirmation, ...] = ()  # every trial of the job whose re-runs hold the SLA

    @property
    def keeps_up(self) -> bool:
        """Whether it is slower by at most 1 % than the winner, and than the best that holds the SLA.

        How much the runs scatter excuses nothing: the noisier they are, the slower a reset would pass.
        """
        best = max(c.output_throughput_per_device for c in (self.winner, *self.rivals))
        return self.again.output_throughput_per_device >= (1 - INERT) * best


def candidates(trials: Sequence[Trial], count: int) -> tuple[Trial, ...]:
    """The search trials to measure again: the best by throughput per device at their operating point.

    When fewer than `count` meet the SLA, those that miss it by up to 5 % follow, the closest first: they may have been
    unlucky. The baseline is measured again anyway and is not among them.
    """
    found = [(trial, m) for trial in trials if trial.purpose == "search" and (m := measured(trial)) is not None]
    feasible = [(trial, point) for trial, m in found if (point := m.operating_point) is not None]
    feasible.sort(key=lambda pair: (-pair[1].output_throughput_per_device, pair[0].number))
    missed = [(trial, worst(m.closest_point)) for trial, m in found if m.operating_point is None]
    close = sorted((pair for pair in missed if pair[1] <= SECOND_LOOK), key=lambda pair: (pair[1], pair[0].number))
    return tuple(trial for trial, _ in [*feasible, *close])[:count]


def recommend(
    trials: Sequence[Trial], confirmations: Sequence[Confirmation], sla: Sla, *, broken: Collection[int] = ()
) -> Recommendation:
    """The configuration to run, with its reason in one sentence.

    With re-runs, those that hold the SLA are ranked by their mean throughput per device, the baseline among them, and
    those within 1 % of the fastest by their margin to the SLA; without, the best observed operating point is named as
    unconfirmed. Otherwise the closest trial is named. `broken` are the trials whose configuration did not start again:
    nobody wants one of those.
    """
    if confirmations:
        return _from_reruns(trials, confirmations, sla)
    observed = [(trial, point) for trial in searched(trials) if (point := operating_point(trial)) is not None]
    unbroken = [pair for pair in observed if pair[0].number not in broken]
    if not observed:
        return _nothing_feasible(trials, sla)
    if not unbroken:
        return _nothing_starts_again(sorted(broken))
    trial, point = min(unbroken, key=lambda pair: (-pair[1].output_throughput_per_device, pair[0].number))
    return _from_observation(trials, trial, point, sla)


def recommend_reset(reset: Reset, base: Confirmation | None, sla: Sla) -> Recommendation:
    """The winner without its inert knobs, in the winner's place; `base` are the re-runs of the baseline.

    The interval of its gain is that of a single comparison, for its runs chose nothing. Raises ValueError when it does
    not hold the SLA or does not keep up with the winner.
    """
    again = reset.again
    if not (again.holds and reset.keeps_up):
        raise ValueError(f"trial {reset.trial.number} is no better choice than trial {reset.winner.trial}")
    reason = "; ".join(
        [
            f"trial {reset.winner.trial} without its inert knobs ({', '.join(reset.knobs)} at the engine's default)",
            f"confirmed by {words.count(again.runs)}: {words.summary(again.runs, sla)} at {again.load}",
            *unsteady(again.runs),
            _gain(again, base),
        ]
    )
    return Recommendation(
        trial=reset.trial.number,
        level=reset.level,
        reason=reason,
        confirmed=True,
        versus_baseline=_versus(again, base),
    )


def _from_reruns(trials: Sequence[Trial], confirmations: Sequence[Confirmation], sla: Sla) -> Recommendation:
    by_number = {trial.number: trial for trial in trials}
    base = next((c for c in confirmations if by_number[c.trial].purpose == "baseline"), None)
    holding = _ranked([c for c in confirmations if c.holds])
    failed = [c.trial for c in confirmations if not c.holds]
    if not holding:
        closest = min(confirmations, key=lambda c: max(map(worst, c.runs)))
        reason = f"nothing holds the SLA when measured again; the closest was trial {closest.trial}: "
        return Recommendation(
            trial=None,
            level=None,
            reason=reason + words.miss(max(closest.runs, key=worst), sla),
            closest_trial=closest.trial,
        )
    best = holding[0]
    parts = [f"confirmed by {words.count(best.runs)}: {words.summary(best.runs, sla)} at {best.load}"]
    parts += unsteady(best.runs)
    parts += [f"{words.trials(failed)} did not hold the SLA when measured again"] if failed else []
    compared = max(1, sum(c is not base for c in confirmations))
    parts.append(_kept_baseline(holding, base) if base is best else _gain(best, base, compared))
    parts += _missed_once(by_number, best, base, sla) if base is not None else []
    return Recommendation(
        trial=best.trial,
        level=_level(by_number[best.trial], best),
        reason="; ".join([*parts, *_rival(holding, base, compared)]),
        confirmed=True,
        versus_baseline=_versus(best, base, compared),
    )


def _ranked(holding: Sequence[Confirmation]) -> list[Confirmation]:
    """By mean throughput; but those within 1 % of the fastest lead, the one that keeps the SLA by most first.

    At one open-loop load all serve what is offered, and the last answers of a run decide by how little they differ.
    """
    by_throughput = sorted(holding, key=lambda c: (-c.output_throughput_per_device, c.trial))
    alike = [c for c in by_throughput if _keeps_up(c, by_throughput[0])]
    by_margin = sorted(alike, key=lambda c: (max(map(worst, c.runs)), c.p99_ttft_ms or math.inf))
    return by_margin + by_throughput[len(alike) :]


def _keeps_up(candidate: Confirmation, fastest: Confirmation) -> bool:
    return candidate.output_throughput_per_device >= (1 - INERT) * fastest.output_throughput_per_device


def _from_observation(trials: Sequence[Trial], best: Trial, point: LoadPoint, sla: Sla) -> Recommendation:
    base = next((operating_point(trial) for trial in reversed(trials) if trial.purpose == "baseline"), None)
    comparison = compare(point, base)
    parts = [f"best observed, not confirmed by re-runs: {words.summary([point], sla)} at {point.load}"]
    parts += unsteady([point])
    if best.purpose == "baseline":
        parts.append("no clear winner over the baseline: no other configuration was faster")
    elif comparison.throughput_ratio is None:
        parts.append("the baseline meets the SLA at no measured load")
    else:
        assert base is not None
        parts.append(f"baseline {base.output_throughput_per_device:.0f} tok/s ({comparison.throughput_ratio:.2f}×)")
    return Recommendation(
        trial=best.number, level=point.level, reason="; ".join(parts), confirmed=False, versus_baseline=comparison
    )


def _nothing_feasible(trials: Sequence[Trial], sla: Sla) -> Recommendation:
    found = [(trial, m.closest_point) for trial in searched(trials) if (m := measured(trial)) is not None]
    if not found:
        return Recommendation(trial=None, level=None, reason=f"no trial could be measured{_last_cause(trials)}")
    trial, point = min(found, key=lambda pair: (worst(pair[1]), pair[0].number))
    reason = f"nothing meets the SLA; the closest was trial {trial.number}: {words.miss(point, sla)}"
    return Recommendation(trial=None, level=None, reason=reason, closest_trial=trial.number)


def _nothing_starts_again(broken: Sequence[int]) -> Recommendation:
    numbers = ", ".join(map(str, broken))
    reason = (
        f"what met the SLA did not start again when it was to be confirmed (trials {numbers}): the machine is not what "
        "it was during the search, see why the re-runs failed in `autotune trials`"
    )
    return Recommendation(trial=None, level=None, reason=reason)


def _last_cause(trials: Sequence[Trial]) -> str:
    outcomes = [trial.result.outcome for trial in trials if trial.result]
    failed = [outcome for outcome in outcomes if isinstance(outcome, Infeasible)]
    return f"; {len(failed)} could not run, the last because: {failed[-1].evidence.cause}" if failed else ""


def _gain(best: Confirmation, base: Confirmation | None, best_of: int = 1) -> str:
    """How the best compares with the baseline, and whether it is a clear winner."""
    if base is None:
        return "the baseline was not measured again"
    if not base.holds:
        return f"the baseline does not hold the SLA at {base.load}"
    found = throughput_difference(best.runs, base.runs, best_of=best_of)
    times = ratio(best.output_throughput_per_device, base.output_throughput_per_device)
    factor = "" if times is None else f"{times:.2f}×, "
    told = f"baseline {base.output_throughput_per_device:.0f} tok/s ({factor}{words.difference(found)})"
    is_open = _versus(best, base, best_of).is_open
    return f"no clear winner over the baseline, trial {base.trial}: {told}" if is_open else told


def _missed_once(trials: Mapping[int, Trial], best: Confirmation, base: Confirmation, sla: Sla) -> list[str]:
    """What kept the baseline from the winner's load: one measurement of the search, which may have been disturbed."""
    found = measured(trials[base.trial])
    if found is None or base.load.kind != best.load.kind or base.load.value >= best.load.value:
        return []
    above = [p for p in found.points if p.load.value > base.load.value and not (p.feasible or p.invalid)]
    missed = min(above, key=lambda p: p.load.value, default=None)
    return [] if missed is None else [f"above its load the baseline was measured once: {words.miss(missed, sla)}"]


def _kept_baseline(holding: Sequence[Confirmation], base: Confirmation) -> str:
    others = [c for c in holding if c is not base]
    told = f"trial {others[0].trial} reached {others[0].output_throughput_per_device:.0f} tok/s" if others else ""
    return "no clear winner over the baseline: " + (told or "no other candidate held the SLA")


def _rival(holding: Sequence[Confirmation], base: Confirmation | None, best_of: int) -> list[str]:
    """The next best candidate, when its throughput is that of the best or the re-runs do not tell them apart."""
    best, others = holding[0], [c for c in holding[1:] if c is not base]
    if best is base or not others:
        return []
    found, rival = throughput_difference(best.runs, others[0].runs, best_of=best_of), others[0]
    named = f"trial {rival.trial} ({rival.output_throughput_per_device:.0f} tok/s)"
    if _keeps_up(rival, best):
        return [f"{named} is as fast within 1 %, where the margin to the SLA decides"]
    is_open = found.low is not None and found.contains_zero
    return [f"the re-runs do not tell it from {named}"] if is_open else []


def _versus(best: Confirmation, base: Confirmation | None, best_of: int = 1) -> Comparison:
    if base is None or not base.holds:
        return Comparison(throughput_ratio=None, p99_ttft_ratio=None)
    ratios = Comparison(
        throughput_ratio=ratio(best.output_throughput_per_device, base.output_throughput_per_device),
        p99_ttft_ratio=ratio(best.p99_ttft_ms, base.p99_ttft_ms),
    )
    if best is base:
        return ratios
    found = throughput_difference(best.runs, base.runs, best_of=best_of)
    return Comparison(
        throughput_ratio=ratios.throughput_ratio,
        p99_ttft_ratio=ratios.p99_ttft_ratio,
        throughput_difference_tok_s=found.value,
        throughput_difference_low_tok_s=found.low,
        throughput_difference_high_tok_s=found.high,
        best_of=best_of,
    )


def _level(trial: Trial, confirmation: Confirmation) -> int | None:
    found = measured(trial)
    return next((p.level for p in found.points if p.load == confirmation.load), None) if found else None
