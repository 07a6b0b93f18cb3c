"""Where a workload's data file is looked for, and that it stays what it was when the job was loaded."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from autotune.cli.files import validate_file
from autotune.errors import EnvironmentProblem, InputError
from autotune.tuner.sources import load_job
from autotune.workload import Vocabulary, Workload, open_source, with_data_file

ROWS = "".join(json.dumps({"timestamp_s": n, "input_tokens": 3, "output_tokens": 3}) + "\n" for n in range(4))
DIGEST = hashlib.sha256(ROWS.encode()).hexdigest()
JOB = {
    "version": 1,
    "name": "j",
    "model": "m",
    "devices": {"resource": "CPU"},
    "search_space": "demo",
    "workload": "traffic/w.yaml",
    "sla": {"p99_ttft_ms": 100},
}


def workload(**dataset: Any) -> Workload:
    document = {
        "version": 1,
        "name": "w",
        "dataset": {"kind": "trace", "path": "t.jsonl", "max_input_tokens": 9, "max_output_tokens": 9} | dataset,
        "arrival": {"kind": "replay"},
        "levels": [1],
        "requests_per_level": 4,
    }
    return Workload.model_validate(document)


def write_job(folder: Path) -> Path:
    """A job whose workload file, in a folder of its own, names a trace beside itself."""
    (folder / "traffic").mkdir()
    (folder / "traffic" / "t.jsonl").write_text(ROWS)
    (folder / "traffic" / "w.yaml").write_text(yaml.safe_dump(workload().model_dump(mode="json")))
    (folder / "job.yaml").write_text(yaml.safe_dump(JOB))
    return folder / "job.yaml"


def test_a_path_starts_from_the_workload_files_folder_and_the_digest_is_recorded(tmp_path, monkeypatch):
    job = write_job(tmp_path)
    monkeypatch.chdir("/")
    dataset = load_job(job).workload.dataset
    assert (dataset.path, dataset.sha256) == (tmp_path / "traffic" / "t.jsonl", DIGEST)


def test_a_missing_file_is_told_with_the_workload_that_names_it(tmp_path):
    job = write_job(tmp_path)
    (tmp_path / "traffic" / "t.jsonl").unlink()
    with pytest.raises(InputError) as refused:
        load_job(job)
    (problem,) = refused.value.problems
    assert problem.startswith(f"{tmp_path}/traffic/w.yaml: dataset.path: no file is at {tmp_path}/traffic/t.jsonl; ")


def test_a_folder_is_not_a_data_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        with_data_file(workload(path=str(tmp_path)), tmp_path)


def test_a_workload_may_name_the_digest_that_its_file_must_have(tmp_path):
    (tmp_path / "t.jsonl").write_text(ROWS)
    assert with_data_file(workload(sha256=DIGEST), tmp_path).dataset.sha256 == DIGEST
    with pytest.raises(InputError, match="it is another file"):
        with_data_file(workload(sha256="0" * 64), tmp_path)


def test_a_stored_workload_is_read_back_as_it_was(tmp_path):
    (tmp_path / "t.jsonl").write_text(ROWS)
    located = with_data_file(workload(), tmp_path)
    assert Workload.model_validate(located.model_dump(mode="json")) == located


def test_a_file_that_has_changed_since_the_job_was_loaded_is_not_mixed_in(tmp_path):
    (tmp_path / "t.jsonl").write_text(ROWS)
    located = with_data_file(workload(), tmp_path)
    (tmp_path / "t.jsonl").write_text(ROWS + ROWS)
    with pytest.raises(EnvironmentProblem, match="is not what it was when the job was loaded"):
        open_source(located.dataset, Vocabulary(100))


def test_a_node_without_the_file_says_so(tmp_path):
    with pytest.raises(EnvironmentProblem, match=r"nowhere\.jsonl cannot be read here: No such file.*every node"):
        open_source(workload(path=str(tmp_path / "nowhere.jsonl")).dataset, Vocabulary(100))


def test_a_file_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "t.jsonl").write_bytes("größe".encode("latin-1"))
    with pytest.raises(InputError, match=r"t\.jsonl: cannot be read as UTF-8"):
        open_source(with_data_file(workload(), tmp_path).dataset, Vocabulary(100))


def test_a_workload_without_a_file_stays_as_it_is(tmp_path):
    document = workload().model_dump(mode="json") | {"arrival": {"kind": "poisson"}}
    fixed = {"kind": "fixed", "tokens": 4}
    document["dataset"] = {"kind": "synthetic", "input_tokens": fixed, "output_tokens": fixed}
    plain = Workload.model_validate(document)
    assert with_data_file(plain, tmp_path) is plain


def test_validate_says_what_the_data_file_holds(tmp_path, capsys):
    validate_file(write_job(tmp_path), [])
    told = capsys.readouterr().out
    assert f"data {tmp_path}/traffic/t.jsonl: 4 requests in 3 s, 0 of them cut to the limits" in told
