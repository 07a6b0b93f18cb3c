"""The table of `autotune bench`: what `vllm bench serve` prints, and whether it can be believed."""

from collections.abc import Callable

from autotune.report.serving import serving_document, serving_table
from autotune.results import Latency, LoadPoint

MakePoint = Callable[..., LoadPoint]


def rows(point: LoadPoint) -> dict[str, str]:
    """The lines with a value: label -> value."""
    split = [line.split(":", 1) for line in serving_table(point).splitlines() if ":" in line]
    return {label: value.strip() for label, value in split}


def test_the_table_has_the_lines_of_vllm_bench_serve_with_its_figures(make_point: MakePoint):
    """10 s at 500 output tokens/s and 1,500 in all: 5,000 generated, 10,000 read."""
    shown = rows(make_point(failed=3))
    assert shown["Successful requests"] == "297"
    assert shown["Failed requests"] == "3"
    assert shown["Benchmark duration (s)"] == "10.00"
    assert (shown["Total input tokens"], shown["Total generated tokens"]) == ("10000", "5000")
    assert shown["Request throughput (req/s)"] == "31.25"
    assert shown["Output token throughput (tok/s)"] == "500.00"


def test_a_percentile_stands_beside_its_bounds(make_point: MakePoint):
    found = make_point(100.0).ttft.at(99)
    bounds = [f"{value:.2f}" if value is not None else "-" for value in (found.lower_ms, found.upper_ms)]
    assert rows(make_point(100.0))["P99 TTFT (ms)"].split() == ["100.00", f"[{bounds[0]},", f"{bounds[1]}]"]


def test_a_percentile_that_never_came_is_no_number(make_point: MakePoint):
    assert rows(make_point(None))["P99 TTFT (ms)"].startswith("never")
    assert serving_document(make_point(None))["p99_ttft_ms"] is None


def test_an_invalid_or_unsteady_level_says_so(make_point: MakePoint):
    point = make_point().model_copy(update={"invalid": "the client was late", "steady": False, "drift": 2.5})
    assert "INVALID: the client was late" in serving_table(point)
    assert rows(point)["Steady state"] == "no: the TTFT of the second half is 2.50x the first"
    assert "INVALID" not in serving_table(make_point())


def test_requests_of_a_level_that_was_ended_early_are_counted(make_point: MakePoint):
    point = make_point().model_copy(update={"unfinished": 12, "aborted": True})
    assert rows(point)["Unfinished requests (ended early)"] == "12"
    assert "Unfinished requests (ended early)" not in rows(make_point())


def test_the_document_spells_its_fields_as_vllm_does(make_point: MakePoint):
    document = serving_document(make_point(100.0))
    known = {"duration", "completed", "failed", "total_input_tokens", "total_output_tokens", "request_throughput"}
    known |= {"output_throughput", "total_token_throughput", "mean_ttft_ms", "p99_ttft_ms", "p99_e2el_ms"}
    assert known <= document.keys()
    assert (document["total_output_tokens"], document["p99_ttft_ms"]) == (5000, 100.0)


def test_what_was_not_judged_is_not_called_steady(make_point: MakePoint):
    """A level that was ended early, or one of few requests, has no drift."""
    unknown, judged = make_point(), make_point().model_copy(update={"drift": 1.1})
    assert (rows(unknown)["Steady state"], rows(judged)["Steady state"]) == ("not judged", "yes")
    assert (serving_document(unknown)["steady"], serving_document(judged)["steady"]) == (None, True)


def test_without_an_sla_there_is_neither_goodput_nor_verdict(make_point: MakePoint):
    document = serving_document(make_point(), is_judged=False)
    assert (document["request_goodput"], document["feasible"], document["violations"]) == (None, None, None)
    assert "goodput" not in serving_table(make_point(), is_judged=False)
    assert "Request goodput (req/s)" in rows(make_point())


def test_a_metric_without_samples_has_no_figures(make_point: MakePoint):
    """One-token answers have no TPOT: it did not fail to come."""
    empty = {
        "count": 0,
        "mean_ms": None,
        "quantiles": [{"percent": 99, "value_ms": None, "lower_ms": None, "upper_ms": None}],
    }
    shown = rows(make_point().model_copy(update={"tpot": Latency.model_validate(empty)}))
    assert (shown["Mean TPOT (ms)"], shown["P99 TPOT (ms)"].split()[0]) == ("-", "-")
