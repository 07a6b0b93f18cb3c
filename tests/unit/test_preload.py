"""jemalloc is preloaded where it exists."""

from pathlib import Path

import pytest

from autotune.engines import preload


@pytest.fixture
def library(tmp_path: Path) -> Path:
    place = tmp_path / "usr/lib/aarch64-linux-gnu/libjemalloc.so.2"
    place.parent.mkdir(parents=True)
    place.touch()
    return place


def test_a_library_that_does_not_exist_is_not_preloaded(tmp_path: Path):
    """The loader would complain in every process of the engine."""
    assert preload.environment({}, root=tmp_path) == {}


def test_it_comes_before_what_is_preloaded_already(tmp_path: Path, library: Path):
    assert preload.environment({}, root=tmp_path) == {"LD_PRELOAD": f"/{library.relative_to(tmp_path)}"}
    assert preload.environment({"LD_PRELOAD": "/a.so"}, root=tmp_path) == {
        "LD_PRELOAD": f"/{library.relative_to(tmp_path)}:/a.so"
    }


def test_it_is_preloaded_once(tmp_path: Path, library: Path):
    assert preload.environment({"LD_PRELOAD": f"/a.so:{library}"}, root=tmp_path) == {}
