"""The front as a picture: every point is there, in both forms."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from autotune.cli.pictures import drawing
from autotune.errors import InputError
from autotune.report.picture import front_picture
from autotune.results import LoadPoint, ParetoFront, Trial
from autotune.selection import pareto_front
from autotune.spec import Sla

SLA = Sla.model_validate({"p99_ttft_ms": 200})


@pytest.fixture
def trials(make_trial: Callable[..., Trial], make_point: Callable[..., LoadPoint]) -> list[Trial]:
    return [
        make_trial(0, {"block_size": 16}, make_point(100.0, 500.0)),
        make_trial(1, {"block_size": 32}, make_point(150.0, 700.0), make_point(600.0, 900.0, level=1, value=8.0)),
    ]


def test_an_svg_names_the_job_its_axes_and_what_each_mark_means(trials: list[Trial]):
    text = front_picture(pareto_front(trials), trials, SLA, title="demo-1", form="svg").decode()
    for words in ("demo-1", "P99 TTFT (ms)", "Pareto front", "misses the SLA", "baseline", "SLA 200 ms"):
        assert f"<!-- {words} -->" in text


def test_a_png_is_a_picture_of_1296_by_792_pixels_that_is_not_empty(trials: list[Trial]):
    picture = Image.open(io.BytesIO(front_picture(pareto_front(trials), trials, SLA, title="demo-1", form="png")))
    assert (picture.format, picture.size) == ("PNG", (1296, 792))
    colours = {colour for _, colour in picture.convert("RGB").getcolors(maxcolors=1 << 20) or []}
    assert {(31, 111, 235), (26, 127, 55), (207, 34, 46)} <= colours  # a search point, the baseline, the SLA


def test_a_front_without_a_point_is_a_picture_too():
    assert front_picture(ParetoFront(), [], SLA, title="demo-1", form="png").startswith(b"\x89PNG")


def test_a_plot_of_an_unknown_ending_is_refused_with_those_that_are_known():
    with pytest.raises(InputError, match=r"front\.pdf: a plot is a \.png, \.svg, \.html file"):
        drawing(Path("front.pdf"))
