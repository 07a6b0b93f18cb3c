"""A trial's latency against its load as a picture."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable

import pytest

from autotune.report.latency import latency_picture
from autotune.results import LoadPoint
from autotune.spec import Sla

SLA = Sla.model_validate({"p99_ttft_ms": 200, "p90_tpot_ms": 50})
SVG = "{http://www.w3.org/2000/svg}"

MakePoint = Callable[..., LoadPoint]


@pytest.fixture
def ladder(make_point: MakePoint) -> list[LoadPoint]:
    """Two levels that meet the SLA, one that the client could not drive, one far too late, one without a P99."""
    return [
        make_point(50.0, 300.0, level=0, value=4.0),
        make_point(100.0, 560.0, level=1, value=8.0),
        make_point(120.0, 700.0, level=2, value=16.0).model_copy(update={"invalid": "the client"}),
        make_point(9000.0, 750.0, level=3, value=32.0),
        make_point(None, 720.0, level=4, value=64.0, failed=30),
    ]


def texts(picture: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(picture).iter(f"{SVG}text")]


def test_there_is_a_plot_for_ttft_for_every_other_line_of_the_sla_and_for_throughput(ladder: list[LoadPoint]) -> None:
    found = texts(latency_picture(ladder, SLA, title="trial 7"))
    assert [text for text in found if text.endswith("(ms)") or text.endswith("(tok/s)")] == [
        "P99 TTFT (ms)",
        "P90 TPOT (ms)",
        "output throughput per device (tok/s)",
    ]
    assert [text for text in found if text.endswith(" ms")] == ["200 ms", "50 ms"]


def test_levels_stand_in_the_order_of_their_load_whatever_order_they_were_measured_in(ladder: list[LoadPoint]) -> None:
    found = texts(latency_picture(ladder[::-1], SLA, title="trial 7"))
    assert found[-6:] == ["4", "8", "16", "32", "64", "load per device: concurrent requests"]


def test_marks_tell_levels_that_meet_the_sla_from_those_that_miss_it_and_those_that_tell_nothing(
    ladder: list[LoadPoint],
) -> None:
    picture = ET.fromstring(latency_picture(ladder, SLA, title="trial 7"))
    fills = [circle.get("fill") for circle in picture.iter(f"{SVG}circle")]
    assert fills == ["#1f6feb", "#1f6feb", "white"] * 3
    assert len(list(picture.iter(f"{SVG}path"))) == 2 * 3


def test_latencies_beyond_the_plot_are_told_as_numbers_and_do_not_flatten_the_rest(ladder: list[LoadPoint]) -> None:
    picture = latency_picture(ladder, SLA, title="trial 7")
    assert "9,000" in texts(picture)
    assert "∞" in texts(picture)
    first, second, *_ = ET.fromstring(picture).iter(f"{SVG}circle")
    assert float(first.get("cy", "")) - float(second.get("cy", "")) > 5  # px: 50 ms and 100 ms can be told apart


def test_what_a_name_holds_is_text_and_nothing_else(ladder: list[LoadPoint]) -> None:
    picture = latency_picture(ladder, SLA, title='<script>alert("x")</script>')
    assert "<script" not in picture
    assert '<script>alert("x")</script>' in texts(picture)


def test_the_picture_needs_nothing_from_elsewhere(ladder: list[LoadPoint]) -> None:
    picture = latency_picture(ladder, SLA, title="trial 7")
    assert re.findall(r"https?://[^\"]*", picture) == ["http://www.w3.org/2000/svg"]


def test_a_level_in_which_nothing_was_served_can_be_drawn(make_point: MakePoint) -> None:
    picture = latency_picture([make_point(None, 0.0, failed=300)], SLA, title="trial 7")
    assert "∞" in texts(picture)
