"""The comparison of the load generator's times with a server's own: `benchmarks/known_delays.py`."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from autotune.level_run import RequestRecord

KNOWN_DELAYS = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "known_delays.py")))


def record(index: int, scheduled_s: float, *token_times_s: float) -> RequestRecord:
    return RequestRecord(index, scheduled_s, scheduled_s, token_times_s, token_times_s[-1], 1, 2, 2)


def test_an_error_is_the_measured_latency_less_the_servers_own_delay() -> None:
    """The server's clock has another zero: 100.0 there is when the request had come."""
    records = [record(0, 1.0, 1.502, 2.003), record(1, 2.0, 2.301)]
    found = KNOWN_DELAYS.errors(records, {0: [100.0, 100.5, 101.0], 1: [101.0, 101.3]})
    assert found.ttft_ms == pytest.approx((2.0, 1.0))
    assert found.token_ms == pytest.approx((3.0,))


def test_a_late_send_is_part_of_the_error() -> None:
    late = RequestRecord(0, 1.0, 1.25, (1.75,), 1.75, 1, 1, 1)
    assert KNOWN_DELAYS.errors([late], {0: [50.0, 50.5]}).ttft_ms == pytest.approx((250.0,))


def test_a_token_that_one_side_lacks_is_not_passed_over() -> None:
    with pytest.raises(ValueError, match="longer"):
        KNOWN_DELAYS.errors([record(0, 0.0, 1.0)], {0: [50.0, 50.5, 51.0]})


@pytest.mark.parametrize("streams", [4, None])
def test_no_measured_time_is_shorter_than_what_the_server_knows(streams: int | None) -> None:
    """A request has come after it was scheduled, and a token is read after it was written, on a busy machine too."""
    plan = KNOWN_DELAYS.plan_of(8, 3, streams=streams, rate=40.0)
    level, stamps = KNOWN_DELAYS.run(plan, 0.02)
    assert [(one.error, one.output_tokens) for one in level.records] == [(None, 3)] * 8
    found = KNOWN_DELAYS.errors(level.records, stamps)
    assert len(found.ttft_ms) == 8
    assert len(found.token_ms) == 16
    assert min(found.ttft_ms + found.token_ms) > 0
