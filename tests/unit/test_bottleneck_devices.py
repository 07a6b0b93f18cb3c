"""How busy devices are, as the platforms' tools say it."""

from pathlib import Path

import pytest

from autotune.errors import EnvironmentProblem
from autotune.platforms import PLATFORMS, Utilization, ascend, cuda
from autotune.platforms.npu_smi import parse_usages

FIXTURES = Path(__file__).parent.parent / "data" / "npu_smi"


def usages(name: str) -> str:
    return (FIXTURES / f"usages_{name}.txt").read_text()


def tool(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool of this name, and no other program on PATH but the shell's own."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_an_a2_shows_its_cores_and_its_bandwidth():
    assert parse_usages(usages("a2")) == {0: Utilization(0.37, 0.41)}


def test_an_a3_has_two_chips_a_card_and_no_bandwidth():
    assert parse_usages(usages("a3")) == {0: Utilization(0.0, None), 1: Utilization(0.0, None)}


def test_a_chip_has_nothing_of_the_chip_before_it():
    first = "HBM Bandwidth Usage Rate(%) : 50\nAicore Usage Rate(%) : 20\nChip ID : 0\n"
    text = first + "Aicore Usage Rate(%) : 60\nChip ID : 1\n"
    assert parse_usages(text) == {0: Utilization(0.2, 0.5), 1: Utilization(0.6, None)}


def test_what_is_not_a_usage_says_nothing():
    assert parse_usages("dcmi module initialize failed. ret is -8005\n") == {}


def test_npus_are_asked_card_by_card_and_averaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Logic ids 2 and 3 are both chips of card 1."""
    answers = "  Aicore Usage Rate(%) : 20\n  Chip ID : 0\n\n  Aicore Usage Rate(%) : 60\n  Chip ID : 1\n"
    (tmp_path / "usages").write_text(answers)
    script = (
        f'[ "$*" = "info -m" ] && exec cat {FIXTURES / "m_a3.txt"}\n'
        f'[ "$*" = "info -t usages -i 1" ] && exec cat {tmp_path / "usages"}\n'
        "exit 3"
    )
    tool(tmp_path, "npu-smi", script, monkeypatch)
    assert ascend.utilization(["3", "2"]) == Utilization(0.4, None)
    assert ascend.utilization(["3"]) == Utilization(0.6, None)


def test_means_are_over_the_devices_that_have_the_figure():
    assert ascend.mean_utilization([Utilization(0.2, None), Utilization(0.4, 0.5)]) == Utilization(
        pytest.approx(0.3), 0.5
    )
    assert ascend.mean_utilization([]) is None


def test_gpus_are_averaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tool(tmp_path, "nvidia-smi", f'echo "$*" > {tmp_path / "asked"}; printf "90\\n50\\n"', monkeypatch)
    assert cuda.utilization(["10", "2"]) == Utilization(0.7)
    asked = (tmp_path / "asked").read_text()
    assert asked == "--query-gpu=utilization.gpu --format=csv,noheader,nounits -i 2,10\n"


def test_a_gpu_that_does_not_say_is_left_out():
    assert cuda.parse_utilization("[N/A]\n") is None
    assert cuda.parse_utilization("[N/A]\n80\n") == Utilization(0.8)


@pytest.mark.parametrize("name", ["cpu", "simulated"])
def test_where_no_tool_knows_nothing_is_told(name: str):
    assert PLATFORMS[name].utilization(["0"]) is None


def test_a_tool_that_fails_is_an_environment_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tool(tmp_path, "nvidia-smi", "exit 9", monkeypatch)
    with pytest.raises(EnvironmentProblem):
        cuda.utilization(["0"])
