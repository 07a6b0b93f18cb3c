"""The catalogue's arguments are those of the real vLLM, as far as it is of the release that was looked at."""

import os
from pathlib import Path

import pytest

from autotune.engines.examine import probe
from autotune.search_space.catalogue import Installed, knobs
from autotune.search_space.catalogue.installed import exists

pytestmark = [pytest.mark.live, pytest.mark.timeout(240)]


def test_the_engine_knows_every_argument_that_its_release_should_have_and_no_other(real_vllm: Path) -> None:
    info = probe(str(real_vllm), environment=dict(os.environ))
    installed = Installed(platform="cpu", versions=info.versions)
    said = {knob.name: exists(knob, installed) for knob in knobs().values() if knob.target == "argument"}
    assert {name for name, so in said.items() if so} <= info.arguments
    assert {name for name, so in said.items() if so is False} & info.arguments == set()
