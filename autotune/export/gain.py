"""How sure the gain over the baseline is, and which knob brought it, as sentences."""

from autotune.export.source import ExportSource
from autotune.results import AblationStep, Comparison


def gain_sentences(source: ExportSource) -> list[str]:
    """The interval of the gain, then one sentence per step of the attribution; nothing of what is not known."""
    interval = [] if source.comparison is None else _interval(source.comparison)
    found = source.attribution
    if found is None:
        return interval
    origin = "" if found.winner == source.trial.number else f" (of trial {found.winner}, which this one came from)"
    steps = [f"  {_step(step)}" for step in found.steps]
    reset = [f"  back at the engine's default: {', '.join(found.reset)}"] if found.reset else []
    return [*interval, f"whose effect the gain is{origin}, measured in {found.rounds} rounds:", *steps, *reset]


def _interval(comparison: Comparison) -> list[str]:
    difference = comparison.throughput_difference_tok_s
    low, high = comparison.throughput_difference_low_tok_s, comparison.throughput_difference_high_tok_s
    if difference is None or low is None or high is None:
        return []
    chosen = f" for the best of {comparison.best_of}" if comparison.best_of > 1 else ""
    interval = f"95 % interval {low:+.1f} to {high:+.1f}{chosen}"
    told = f"difference to the baseline {difference:+.1f} tok/s per device, {interval}"
    return [f"{told}: no clear winner over the baseline" if comparison.is_open else told]


def _step(step: AblationStep) -> str:
    """`max_num_seqs 256 -> 32: +210.0 tok/s per device, 61 % of the gain`."""
    told = " and ".join(f"{change.name} {change.baseline} -> {change.winner}" for change in step.changes)
    share = "" if step.share is None else f", {100 * step.share:.0f} % of the gain"
    return f"{told}: {step.gain_tok_s.value:+.1f} tok/s per device{share} ({step.verdict})"
