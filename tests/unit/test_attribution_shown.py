"""How an attribution and the interval of a gain are told: in the terminal, and inside an exported file."""

from collections.abc import Callable

import pytest
from rich.console import Console

from autotune.export.gain import gain_sentences
from autotune.export.source import ExportSource
from autotune.report.attribution import attribution_table, attribution_text
from autotune.results import Attribution, Comparison, KnobChange, LoadPoint, Trial
from autotune.selection import Path, attribute
from autotune.spec import Devices, Sla

CHANGES = {
    "max_num_seqs": KnobChange(name="max_num_seqs", baseline=16, winner=64),
    "async_scheduling": KnobChange(name="async_scheduling", baseline=False, winner=True),
    "block_size": KnobChange(name="block_size", baseline=128, winner=16),
}
PATH = Path((("max_num_seqs",), ("async_scheduling", "block_size")))


@pytest.fixture
def found() -> Attribution:
    """The seats bring 150 in both rounds, the other two nothing on average."""
    told = attribute(PATH, [[500.0, 510.0], [650.0, 660.0], [651.0, 659.0]], CHANGES, winner=7)
    return told.model_copy(update={"outcome": "They were reset.", "reset": ("async_scheduling", "block_size")})


def printed(found: Attribution) -> list[str]:
    console = Console(width=120, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(attribution_table(found))
    return [" ".join(line.replace("│", " ").split()) for line in capture.get().splitlines()]


def test_the_table_has_a_row_for_each_step_and_the_total_below(found: Attribution):
    lines = printed(found)
    assert "max_num_seqs 16 → 64 +150.0 100 % +150.0 … +150.0 gain" in lines
    assert "async_scheduling false → true +0.0 0 % -12.7 … +12.7 inert" in lines
    assert "block_size 128 → 16" in lines
    assert lines[-2].startswith("all trial 7 +150.0 100 %")


def test_the_text_says_what_was_measured_and_what_it_means(found: Attribution):
    assert attribution_text(found) == (
        "2 rounds of fresh launches, throughput under the SLA per device: baseline 505.0, trial 7 655.0 tok/s. "
        "They were reset."
    )


def test_a_single_round_shows_no_interval():
    told = attribute(Path((("block_size",),)), [[500.0], [400.0]], CHANGES, winner=7)
    assert "block_size 128 → 16 -100.0 – – unclear" in printed(told)


@pytest.fixture
def source(make_trial: Callable[..., Trial], make_point: Callable[..., LoadPoint]) -> ExportSource:
    point = make_point()
    trial = make_trial(7, {"max_num_seqs": 64}, point)
    return ExportSource(
        job_id="tiny-1",
        job_name="tiny",
        model="/models/tiny",
        workload="chat",
        workload_digest="",
        engine="vllm",
        devices=Devices(resource="CPU"),
        instrument="autotune",
        confirm_runs=3,
        sla=Sla.model_validate({"p99_ttft_ms": 200}),
        engine_version="vllm 0",
        trial=trial,
        point=point,
        exported_at=trial.started_at,
    )


def test_an_export_names_the_effect_of_each_knob(source: ExportSource, found: Attribution):
    assert gain_sentences(source.model_copy(update={"attribution": found})) == [
        "whose effect the gain is, measured in 2 rounds:",
        "  max_num_seqs 16 -> 64: +150.0 tok/s per device, 100 % of the gain (gain)",
        "  async_scheduling False -> True and block_size 128 -> 16: +0.0 tok/s per device, 0 % of the gain (inert)",
        "  back at the engine's default: async_scheduling, block_size",
    ]


@pytest.mark.parametrize(
    ("low", "told"),
    [
        (10.0, "difference to the baseline +20.0 tok/s per device, 95 % interval +10.0 to +30.0"),
        (
            -5.0,
            "difference to the baseline +20.0 tok/s per device, 95 % interval -5.0 to +30.0: "
            "no clear winner over the baseline",
        ),
    ],
)
def test_an_export_names_the_interval_of_the_gain(low: float, told: str, source: ExportSource):
    comparison = Comparison(
        throughput_ratio=1.04,
        p99_ttft_ratio=1.0,
        throughput_difference_tok_s=20.0,
        throughput_difference_low_tok_s=low,
        throughput_difference_high_tok_s=30.0,
    )
    assert gain_sentences(source.model_copy(update={"comparison": comparison})) == [told]


def test_an_export_calls_less_than_one_percent_no_clear_winner(source: ExportSource):
    comparison = Comparison(
        throughput_ratio=1.001,
        p99_ttft_ratio=1.0,
        throughput_difference_tok_s=1.0,
        throughput_difference_low_tok_s=0.9,
        throughput_difference_high_tok_s=1.1,
    )
    (told,) = gain_sentences(source.model_copy(update={"comparison": comparison}))
    assert told.endswith("+0.9 to +1.1: no clear winner over the baseline")


def test_an_export_says_of_how_many_candidates_the_interval_is_the_best(source: ExportSource):
    comparison = Comparison(
        throughput_ratio=1.04,
        p99_ttft_ratio=1.0,
        throughput_difference_tok_s=20.0,
        throughput_difference_low_tok_s=10.0,
        throughput_difference_high_tok_s=30.0,
        best_of=5,
    )
    (told,) = gain_sentences(source.model_copy(update={"comparison": comparison}))
    assert told.endswith("95 % interval +10.0 to +30.0 for the best of 5")


def test_an_export_says_nothing_of_what_nobody_measured(source: ExportSource):
    assert gain_sentences(source) == []
