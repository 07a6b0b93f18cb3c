"""What the documents for users on Ascend say exists: job files, commands and links, the same in both languages."""

import re
from pathlib import Path

import pytest
import typer

from autotune.cli.main import app
from autotune.settings import Settings
from autotune.tuner.context import checked_without_engine
from autotune.tuner.sources import load_job

ROOT = Path(__file__).parents[2]
JOBS = ROOT / "docs" / "jobs"
PAIRS = [("README.md", "README.zh-CN.md"), ("docs/tuning-ascend.md", "docs/tuning-ascend.zh-CN.md")]
DOCUMENTS = [name for pair in PAIRS for name in pair]


def text(name: str) -> str:
    return (ROOT / name).read_text()


def prose(name: str) -> str:
    """A document without its code blocks."""
    return re.sub(r"^```.*?^```$", "", text(name), flags=re.DOTALL | re.MULTILINE)


def code(name: str) -> list[list[str]]:
    """The lines of each block of commands, without what a comment says."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", text(name), flags=re.DOTALL | re.MULTILINE)
    return [[re.sub(r"\s+#.*", "", line) for line in block.splitlines()] for block in blocks]


def links(name: str) -> list[str]:
    """What a document links to in this repository."""
    return [target for target in re.findall(r"\]\(([^)]+)\)", prose(name)) if not target.startswith("http")]


def anchors(page: Path) -> set[str]:
    found = page.read_text()
    headings = re.findall(r"^#+ (.*)$", found, flags=re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([^"]+)">', found))


@pytest.mark.parametrize("name", ["ascend-chat-low-ttft", "ascend-batch-throughput"])
def test_a_scenario_is_a_job_on_npus_none_of_whose_knobs_is_left_out(name: str) -> None:
    sources = load_job(JOBS / f"{name}.yaml")
    assert sources.spec.name == name
    assert sources.spec.devices.resource == "NPU"
    assert checked_without_engine(sources, Settings()).parameters == sources.space.parameters


def test_chat_promises_the_first_token_and_batch_work_the_whole_answer() -> None:
    chat, batch = (load_job(JOBS / f"{name}.yaml") for name in ("ascend-chat-low-ttft", "ascend-batch-throughput"))
    assert (chat.spec.document["sla"]["p99_ttft_ms"], chat.space.name) == (500, "ascend-low-latency")
    assert (batch.spec.document["sla"]["p95_e2el_ms"], batch.space.name) == (300_000, "ascend-throughput")


def test_every_job_file_is_a_scenario_of_both_guides() -> None:
    names = {f"jobs/{file.name}" for file in JOBS.iterdir()}
    for guide in PAIRS[1]:
        assert {target for target in links(guide) if target.startswith("jobs/")} == names


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_that_a_document_names_exists(name: str) -> None:
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    shown = set(re.findall(r"(?<![\w-])autotune ([a-z]+)", "\n".join(line for block in code(name) for line in block)))
    told = set(re.findall(r"`autotune ([a-z]+)", prose(name)))
    assert shown
    assert shown | told <= known


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_somewhere(name: str) -> None:
    for target in links(name):
        place, _, anchor = target.partition("#")
        page = (ROOT / name).parent / place if place else ROOT / name
        assert page.exists(), target
        assert not anchor or anchor in anchors(page), target


@pytest.mark.parametrize(("english", "chinese"), PAIRS)
def test_both_languages_have_the_same_commands_headings_and_rows(english: str, chinese: str) -> None:
    assert code(chinese) == code(english)
    for line in (r"^(#+) ", r"^(\|)[^|]*\|"):
        headings = [re.findall(line, prose(name), flags=re.MULTILINE) for name in (english, chinese)]
        assert headings[0] == headings[1]


def test_both_readmes_name_the_same_commands_and_pages() -> None:
    english, chinese = PAIRS[0]
    first_cells = [
        [set(re.findall(r"`([a-z]+)", row)) for row in re.findall(r"^\| `([^|]*)\|", text(name), flags=re.MULTILINE)]
        for name in (english, chinese)
    ]
    assert first_cells[0] == first_cells[1]
    pages = [{target for target in links(name) if target.startswith("docs/")} for name in (english, chinese)]
    assert pages[0] - pages[1] == {"docs/tuning-ascend.md"}
    assert pages[1] - pages[0] == {"docs/tuning-ascend.zh-CN.md"}


@pytest.mark.parametrize(("english", "chinese"), PAIRS)
def test_each_language_begins_with_a_link_to_the_other(english: str, chinese: str) -> None:
    for here, there in ((english, chinese), (chinese, english)):
        assert f"]({Path(there).name})" in text(here).splitlines()[2]
