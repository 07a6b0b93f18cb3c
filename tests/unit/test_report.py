"""Tables, plot and page: what people see of a job."""

import io
import math
import re
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, RenderableType

from autotune.engine_config import EngineConfig
from autotune.report.page import front_page
from autotune.report.plot import front_plot_text
from autotune.report.rows import baseline_point, changed_knobs, knob_text, milliseconds, searched_points
from autotune.report.tables import baseline_panel, baseline_summary, front_table, trials_table
from autotune.results import (
    Evidence,
    FailureClass,
    FrontPoint,
    Infeasible,
    Latency,
    Load,
    LoadPoint,
    Measured,
    ParetoFront,
    Quantile,
    Trial,
    TrialOutcome,
    TrialResult,
)
from autotune.spec import Sla

SLA = Sla(p99_ttft_ms=200)


def latency(value_ms: float | None) -> Latency:
    quantile = Quantile(percent=99, value_ms=value_ms, lower_ms=value_ms, upper_ms=value_ms)
    return Latency(count=100, mean_ms=value_ms, quantiles=(quantile,))


def point(throughput: float, ttft_ms: float | None) -> LoadPoint:
    overshoot = 1.5 if ttft_ms is None else math.log(ttft_ms / 200)
    return LoadPoint(
        level=1,
        load=Load(kind="max_concurrency", value=4),
        devices=1,
        seed=0,
        duration_s=10,
        completed=100,
        failed=0,
        request_throughput=8,
        output_throughput=throughput,
        total_token_throughput=throughput,
        request_goodput=8,
        ttft=latency(ttft_ms),
        tpot=latency(10),
        itl=latency(10),
        e2el=latency(1000),
        client_lag_ms=0,
        violations={"p99_ttft_ms": overshoot},
    )


def trial(number: int, outcome: TrialOutcome | None, **knobs: Any) -> Trial:
    return Trial(
        number=number,
        purpose="search" if number else "baseline",
        origin="gp" if number else "baseline",
        knobs=knobs,
        config=EngineConfig(),
        result=TrialResult(outcome=outcome) if outcome else None,
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        finished_at=datetime(2026, 1, 1, 0, 2, 3, tzinfo=UTC) if outcome else None,
    )


def measured(throughput: float, ttft_ms: float) -> Measured:
    return Measured(points=(point(throughput, ttft_ms),), operating_level=1 if ttft_ms <= 200 else None)


def refused() -> Infeasible:
    return Infeasible(
        evidence=Evidence(failure=FailureClass.OOM, signature=None, cause="The NPU's memory is exhausted.", advice="")
    )


BASELINE = trial(0, measured(500, 120), max_num_seqs=256, enforce_eager=False)
BETTER = trial(7, measured(812, 143), max_num_seqs=64, enforce_eager=False)
TRIALS = (BASELINE, trial(3, measured(900, 800), max_num_seqs=8), BETTER, trial(8, refused()), trial(9, None))
FRONT = ParetoFront(
    points=(
        FrontPoint(
            trial=7,
            level=1,
            load=Load(kind="max_concurrency", value=4),
            output_throughput_per_device=812,
            p99_ttft_ms=143,
            request_throughput=8,
        ),
    )
)


def shown(renderable: RenderableType, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def cells(text: str, first: str) -> list[str]:
    row = next(line for line in text.splitlines() if re.match(rf"│\s*{first} │", line))
    return [cell.strip() for cell in row.strip("│").split("│")]


def test_the_front_table_shows_gain_and_changed_knobs() -> None:
    row = cells(shown(front_table(FRONT, TRIALS)), "7:1")
    assert row == ["7:1", "4 concurrent", "812.0", "143 ms", "1.62×", "1.19×", "max_num_seqs=64"]


def test_the_trials_table_shows_every_state() -> None:
    text = shown(trials_table(TRIALS))
    assert cells(text, "0") == [
        "0",
        "baseline",
        "4 concurrent",
        "500.0",
        "120 ms",
        "1.00×",
        "1.00×",
        "2:03",
        "measured",
    ]
    assert cells(text, "3") == ["3", "gp", "4 concurrent", "900.0", "800 ms", "–", "–", "2:03", "misses the SLA"]
    assert cells(text, "8")[-1] == "cannot run: The NPU's memory is exhausted."
    assert cells(text, "9")[-2:] == ["–", "running"]


def test_the_trials_table_marks_an_operating_point_and_re_runs_that_were_not_steady() -> None:
    moved = measured(900, 150)
    moved = moved.model_copy(update={"points": tuple(p.model_copy(update={"steady": False}) for p in moved.points)})
    again = trial(8, moved).model_copy(update={"purpose": "confirmation", "confirms": 7})
    text = shown(trials_table((trial(0, measured(500, 120)), trial(7, moved), again)))
    assert [cells(text, number)[-1] for number in "07"] == ["measured", "measured, not steady"]
    assert cells(text, "8")[-1] == "1 of 1 runs meet the SLA, 1 not steady"


def test_the_last_trials_in_short_keep_their_columns_on_a_narrow_terminal() -> None:
    """A state that does not fit is cut, and takes no room from the number, the origin and the load."""
    outcome = refused()
    told = outcome.evidence.model_copy(update={"cause": "No attention kernel of this platform supports " * 3})
    failed = trial(8, outcome.model_copy(update={"evidence": told}))
    text = shown(trials_table((*TRIALS, failed), last=10), width=100)
    row = next(line for line in text.splitlines() if re.match(r"^│\s+8 │ gp", line))
    assert "cannot" in row
    assert "baseline" in text
    assert "supports No" not in text


def test_a_level_that_was_ended_early_has_no_throughput_to_show() -> None:
    early = point(0.0, 300).model_copy(update={"aborted": True})
    ended = trial(0, Measured(points=(early,), operating_level=None))
    assert cells(shown(trials_table((ended,))), "0")[3] == "–"
    told = "closest: – tok/s per device at 4 concurrent, P99 TTFT 300 ms (ended early, for the SLA was out of reach)."
    assert baseline_summary((ended,), SLA).endswith(told)
    assert searched_points((ended,)) == []
    plotted = front_plot_text(ParetoFront(), [point(500, 150)], early, SLA)
    assert "B" not in "\n".join(plotted.splitlines()[:-1])  # the last line is the key
    assert "300 ms" not in front_page(ParetoFront(), (ended,), SLA, title="demo-1")


def test_without_a_feasible_baseline_there_is_no_gain() -> None:
    trials = (trial(0, measured(500, 300)), BETTER)
    assert cells(shown(front_table(FRONT, trials)), "7:1")[4] == "–"
    assert "no gain to show" in shown(trials_table(trials))


def test_markup_in_a_knob_is_shown_as_text() -> None:
    odd = trial(7, measured(812, 143), mode="[red]x[/red]")
    assert "mode=[red]x[/red]" in shown(front_table(FRONT, (BASELINE, odd)))


def test_the_baseline_is_told_in_a_sentence() -> None:
    assert baseline_summary(TRIALS, SLA) == (
        "The baseline keeps the SLA (p99_ttft_ms ≤ 200) with 500.0 tok/s per device at 4 concurrent, P99 TTFT 120 ms."
    )
    assert "keeps the SLA" in shown(baseline_panel(TRIALS, SLA))


def test_a_baseline_that_misses_fails_or_waits_is_told_so() -> None:
    missing = baseline_summary((trial(0, measured(500, 300)),), SLA)
    assert missing.startswith("The baseline misses the SLA (p99_ttft_ms ≤ 200) at every measured load; closest: 500.0")
    assert baseline_summary((trial(0, refused()),), SLA) == (
        "The baseline has no measurement: cannot run: The NPU's memory is exhausted."
    )
    assert baseline_summary((), SLA) == "The baseline has not been measured yet."


def test_a_knob_the_baseline_does_not_have_counts_as_changed() -> None:
    assert changed_knobs({"a": 1, "b": None}, {"a": 1}) == {"b": None}
    assert knob_text({"a": True, "b": 2}) == "a=true b=2"


def test_latencies_are_whole_above_ten_milliseconds() -> None:
    assert [milliseconds(value) for value in (None, 9.94, 143.2, 12345.0)] == ["–", "9.9 ms", "143 ms", "12,345 ms"]


def test_the_plot_shows_points_front_baseline_and_limit_without_control_codes() -> None:
    points = [point(500, 120), point(900, 800), point(812, 143), point(100, None)]
    text = front_plot_text(FRONT, points, baseline_point(TRIALS), SLA)
    canvas = "\n".join(line for line in text.splitlines() if "│" in line or "┤" in line)
    assert {mark: mark in canvas for mark in "x*B-"} == {"x": True, "*": True, "B": True, "-": True}
    assert "SLA 200 ms" in text
    assert "\x1b" not in text


def test_the_highest_latency_is_at_the_top_of_the_plot() -> None:
    text = front_plot_text(FRONT, [point(500, 100), point(900, 1000)], None, SLA)
    labels = [line.split("┤")[0].strip() for line in text.splitlines() if "┤" in line]
    assert (labels[0], labels[-1]) == ("1,000", "100")


def test_two_plots_do_not_mix() -> None:
    first = front_plot_text(FRONT, [point(500, 100), point(900, 1000)], None, SLA)
    front_plot_text(ParetoFront(), [point(1, 1)], point(1, 1), Sla(p99_tpot_ms=50))
    assert front_plot_text(FRONT, [point(500, 100), point(900, 1000)], None, SLA) == first


def test_nothing_measured_is_said_in_words() -> None:
    assert (
        front_plot_text(ParetoFront(), [], None, SLA) == "There is no measured load point with a P99 TTFT to plot yet."
    )


def test_the_page_is_self_contained_and_escapes_what_users_named() -> None:
    odd = trial(7, measured(812, 143), mode="<img src=x>")
    page = front_page(FRONT, (BASELINE, odd), SLA, title="chat <b>")
    assert "<title>chat &lt;b&gt;</title>" in page
    assert "<img src=x>" not in page
    assert not re.search(r"<(?:script|link)[^>]+(?:src|href)=", page)


def test_the_page_shows_every_group_of_points_with_hover() -> None:
    page = front_page(FRONT, TRIALS, SLA, title="chat")
    data = page[page.rindex("Plotly.newPlot(") :]
    for name in ("misses the SLA", "meets the SLA", "baseline", "Pareto front", "SLA 200 ms"):
        assert f'"{name}"' in data
    assert "max_num_seqs=64" in data
