"""The attribution as a table: whose effect the gain is."""

from rich.table import Table
from rich.text import Text

from autotune.report.rows import knob_text
from autotune.results import AblationStep, Attribution, Difference


def attribution_table(found: Attribution) -> Table:
    """One row per step of the path, in the order in which the knobs were changed, and the total below."""
    is_clear = found.total_tok_s.value > 0 and not found.total_tok_s.contains_zero
    table = Table(header_style="bold", show_footer=True)
    table.add_column("knob", footer="all")
    table.add_column("baseline → winner", footer=f"trial {found.winner}")
    table.add_column("tok/s per device", justify="right", footer=_signed(found.total_tok_s.value))
    table.add_column("share", justify="right", footer="100 %" if is_clear else "–")
    table.add_column("95 % interval", justify="right", footer=interval_text(found.total_tok_s))
    table.add_column("verdict")
    for step in found.steps:
        names = [Text(change.name) for change in step.changes]
        values = [Text(change_text(change.baseline, change.winner)) for change in step.changes]
        table.add_row(
            Text("\n").join(names),
            Text("\n").join(values),
            _signed(step.gain_tok_s.value),
            "–" if step.share is None else f"{100 * step.share:.0f} %",
            interval_text(step.gain_tok_s),
            step.verdict,
        )
    return table


def attribution_text(found: Attribution) -> str:
    """What the table was measured with, and what became of the recommendation."""
    rounds = f"{found.rounds} round" + ("" if found.rounds == 1 else "s")
    return (
        f"{rounds} of fresh launches, throughput under the SLA per device: baseline {found.baseline_tok_s:,.1f}, "
        f"trial {found.winner} {found.winner_tok_s:,.1f} tok/s. {found.outcome}"
    )


def step_text(step: AblationStep) -> str:
    """`max_num_seqs 256 → 32: +210.0 tok/s per device (61 %)`."""
    told = " and ".join(f"{change.name} {change_text(change.baseline, change.winner)}" for change in step.changes)
    share = "" if step.share is None else f" ({100 * step.share:.0f} %)"
    return f"{told}: {_signed(step.gain_tok_s.value)} tok/s per device{share}"


def change_text(before: object, after: object) -> str:
    """`256 → 32`, booleans as YAML writes them."""
    values = (knob_text({"": value}).removeprefix("=") for value in (before, after))
    return " → ".join(values)


def interval_text(difference: Difference) -> str:
    """`+309.0 … +315.0`; a dash where a single round shows none."""
    if difference.low is None or difference.high is None:
        return "–"
    return f"{_signed(difference.low)} … {_signed(difference.high)}"


def _signed(value: float) -> str:
    return f"{value:+,.1f}"
