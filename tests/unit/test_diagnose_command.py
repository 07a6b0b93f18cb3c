"""`autotune diagnose`: any engine's log, of any size, without a job."""

import io
import json
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.cli.diagnose import diagnose_log
from autotune.diagnosis import blocks, diagnose, long_log, read_log
from autotune.diagnosis.long_log import BLOCK_BYTES, LINE_BYTES
from autotune.diagnosis.signatures import Signature, signatures
from autotune.errors import NotFound

LOGS = Path(__file__).parent.parent / "data" / "logs"
INFO = "(APIServer pid=7) INFO 03-25 06:14:02 [loggers.py:123] Engine 000: Running: 3 reqs, Waiting: 0 reqs\n"
OOM = "(Worker pid=9) ERROR 03-25 06:14:02 [x.py:1] RuntimeError: NPU out of memory. Tried to allocate 22.00 MiB\n"
MULTI_LINE = "ValidationError: 1 for AscendConfig\nweight_prefetch\n  Unexpected keyword argument\n"


def of(text: str, size: int) -> Iterator[str]:
    """The blocks of a log that is read in bites of `size` bytes at most."""
    source = io.BytesIO(text.encode())
    return blocks(lambda wanted: source.read(min(size, wanted)))


def test_cause_evidence_and_advice_are_told_with_the_lines_number(capsys: pytest.CaptureFixture[str]):
    code = diagnose_log(str(LOGS / "cpu_block_size_16.log"), as_json=False)
    told = capsys.readouterr().out.splitlines()
    number = next(
        n
        for n, line in enumerate((LOGS / "cpu_block_size_16.log").read_text().splitlines(), 1)
        if "No common block size" in line
    )
    assert code == 0
    assert told[0] == "Cause:    No attention kernel of this platform supports the requested `block_size`."
    assert told[1].startswith(f"Evidence: line {number}: ValueError: No common block size for 16")
    assert told[2].startswith("Advice:   Remove block_size from the search space")


def test_json_has_the_class_too(capsys: pytest.CaptureFixture[str]):
    log = str(LOGS / "cpu_bad_argument.log")
    assert diagnose_log(log, as_json=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["log"], told["class"], told["signature"]) == (log, "config", "argparse_unknown")
    assert told["line"] == "vllm: error: unrecognized arguments: --use-v2-block-manager"
    assert told["line_number"] >= 1
    assert told["cause"]
    assert told["advice"]


@pytest.mark.parametrize("known", [s for s in signatures() if s.kind != "wrapper"], ids=lambda s: s.id)
def test_every_known_message_is_found_in_the_middle_of_a_log(
    known: Signature, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    log = tmp_path / "engine.log"
    log.write_text(INFO * 50 + known.sample + "\n" + INFO * 50)
    assert diagnose_log(str(log), as_json=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["signature"], told["class"]) == (known.id, str(known.kind))
    assert 51 <= told["line_number"] <= 51 + known.sample.count("\n")


def test_a_dash_reads_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((INFO + OOM).encode())))
    assert diagnose_log("-", as_json=False) == 0
    assert "Evidence: line 2: RuntimeError: NPU out of memory." in capsys.readouterr().out


def test_a_log_without_a_known_cause_has_an_exit_code_of_its_own_and_shows_the_last_exception(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    log = tmp_path / "engine.log"
    log.write_text(f"{INFO}KeyError: 'rope'\nRuntimeError: Engine core initialization failed. See root cause above.\n")
    assert diagnose_log(str(log), as_json=False) == 6
    told = capsys.readouterr().out
    assert "no known cause" in told
    assert "Evidence: line 3: RuntimeError: Engine core initialization failed." in told
    assert diagnose_log(str(log), as_json=True) == 6
    assert json.loads(capsys.readouterr().out)["class"] is None


def test_a_log_of_a_healthy_engine_has_no_cause_and_no_evidence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    log = tmp_path / "engine.log"
    log.write_text(INFO * 3)
    assert diagnose_log(str(log), as_json=False) == 6
    assert "Evidence" not in capsys.readouterr().out


def test_a_log_that_cannot_be_read_is_one_clear_message(tmp_path: Path):
    with pytest.raises(NotFound, match=r"absent\.log: cannot be read: No such file or directory"):
        diagnose_log(str(tmp_path / "absent.log"), as_json=False)


def test_a_log_with_bytes_that_are_no_text_is_read(tmp_path: Path):
    log = tmp_path / "engine.log"
    log.write_bytes(b"\xff\x00\xfe\n" + OOM.encode())
    assert diagnose_log(str(log), as_json=False) == 0


@pytest.mark.parametrize("size", [1, 7, 64, 1000, BLOCK_BYTES])
def test_where_a_log_is_cut_into_blocks_changes_nothing(size: int):
    text = INFO * 30 + MULTI_LINE + OOM + INFO * 30 + "EI0006: Getting socket times out\nKeyError: 1"
    whole, cut = diagnose(text), read_log(of(text, size))
    assert whole is not None
    assert cut.finding == whole
    assert (whole.signature, whole.line_number) == ("extra_forbidden", 32)
    assert (cut.last_exception, cut.last_exception_number) == ("KeyError: 1", 66)


@given(st.lists(st.sampled_from([INFO, OOM, MULTI_LINE, "\n", "error code is 207008\n", "x\r\n"]), max_size=60))
def test_any_log_read_in_small_bites_says_what_it_says_whole(lines: list[str]):
    text = "".join(lines)
    assert read_log(of(text, 50)) == read_log([text])


def test_both_ends_of_a_line_without_end_count_and_it_counts_as_one_line():
    bar = "RuntimeError: NPU out of memory. Tried to allocate 22.00 MiB " + "#" * (9 * LINE_BYTES)
    reading = read_log(of(f"{INFO}{bar} error code is 107027\n{OOM}", LINE_BYTES))
    assert reading.finding is not None
    assert (reading.finding.signature, reading.finding.line_number) == ("npu_oom", 2)
    late = read_log(of(f"{INFO}{'#' * (9 * LINE_BYTES)} error code is 107027\n{OOM}", LINE_BYTES))
    assert late.finding is not None
    assert (late.finding.signature, late.finding.line_number) == ("launch_blocking_graph", 2)


def test_a_log_of_many_blocks_takes_the_memory_of_a_few(monkeypatch: pytest.MonkeyPatch):
    size, count, given_out = 1 << 15, 100, 0
    monkeypatch.setattr(long_log, "BLOCK_BYTES", size)
    chunk = (INFO * (size // len(INFO))).encode()

    def read(_size: int) -> bytes:
        nonlocal given_out
        given_out += 1
        return chunk if given_out <= count else OOM.encode() if given_out == count + 1 else b""

    diagnose(OOM)  # what is kept from the first time on does not count
    tracemalloc.start()
    reading = read_log(blocks(read))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reading.finding is not None
    assert reading.finding.line_number == count * (size // len(INFO)) + 1
    assert peak < 20 * size
