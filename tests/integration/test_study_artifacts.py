"""The artifacts and notes that a finished trial has in the dashboard: once, whatever happens, and never in the way."""

import json
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore, download_artifact, get_all_artifact_meta
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from optuna_dashboard import _note
from sqlalchemy import event

from autotune.errors import StoreError
from autotune.results import Bottleneck, LoadPoint, Trial
from autotune.spec import Sla
from autotune.study.artifacts import LOG_BYTES, Shelf
from autotune.study.grid import Grid, Knob
from autotune.study.persisted import PersistedStudy, open_storage

SLA = Sla.model_validate({"p99_ttft_ms": 200})
GRID = Grid((Knob("max_num_seqs", (4, 8, 16, 32), ordered=True),))
MEASURED = ["benchmark.json", "engine.log", "latency.svg"]

MakeTrial = Callable[..., Trial]
MakePoint = Callable[..., LoadPoint]


@pytest.fixture
def storage(tmp_path: Path) -> RDBStorage:
    opened = open_storage(f"sqlite:///{tmp_path / 'study.db'}")
    opened.engine.dispose()
    event.listen(opened.engine, "connect", lambda driver, _record: driver.execute("PRAGMA synchronous = OFF"))  # fast
    return opened


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "artifacts", tmp_path / "jobs" / "demo-1", "demo-1", SLA)


@pytest.fixture
def study(storage: RDBStorage, shelf: Shelf) -> PersistedStudy:
    return PersistedStudy(storage, "demo-1", SLA, GRID, shelf)


@pytest.fixture
def with_log(shelf: Shelf) -> Callable[..., Trial]:
    """Gives a trial the log that its engine left."""

    def give(trial: Trial, text: str = "INFO up\n") -> Trial:
        path = Path(f"trial-{trial.number:04d}") / "engine.log"
        (shelf.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (shelf.folder / path).write_text(text)
        assert trial.result is not None
        return trial.model_copy(
            update={"result": trial.result.model_copy(update={"artifacts": {path.name: str(path)}})}
        )

    return give


@pytest.fixture
def rows(make_trial: MakeTrial, make_point: MakePoint, with_log: Callable[..., Trial]) -> list[Trial]:
    """Measured, infeasible, running."""
    slots = Bottleneck(kind="slots", evidence="4.0 of 4 slots were in use", advice="Raise max_num_seqs.")
    held_back = make_point(120.0, 800.0).model_copy(update={"bottleneck": slots})
    return [
        with_log(make_trial(0, {"max_num_seqs": 4}, held_back, make_point(300.0, 990.0, level=1, value=8.0))),
        with_log(make_trial(1, {"max_num_seqs": 8}, oom=True), "NPU out of memory\n"),
        make_trial(2, {"max_num_seqs": 16}),
    ]


def attached(storage: RDBStorage, number: int) -> list[str]:
    """The file names of a trial's artifacts, by name as the dashboard shows them."""
    trial = optuna.load_study(study_name="demo-1", storage=storage).trials[number]
    return sorted(meta.filename for meta in get_all_artifact_meta(study_or_trial=trial, storage=storage))


def content(storage: RDBStorage, shelf: Shelf, number: int, name: str) -> str:
    trial = optuna.load_study(study_name="demo-1", storage=storage).trials[number]
    metas = get_all_artifact_meta(study_or_trial=trial, storage=storage)
    (artifact,) = [meta.artifact_id for meta in metas if meta.filename == name]
    path = shelf.root.with_name(f"downloaded-{artifact}")
    store = FileSystemArtifactStore(shelf.root)
    download_artifact(artifact_store=store, file_path=str(path), artifact_id=artifact)
    return path.read_text()


def note(storage: RDBStorage, number: int) -> str:
    study_id = storage.get_study_id_from_name("demo-1")
    trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
    body: str = _note.get_note_from_system_attrs(storage.get_study_system_attrs(study_id), trial_id)["body"]
    return body


def tell(study: PersistedStudy, rows: list[Trial]) -> None:
    """As a job does: started, then finished."""
    for row in rows:
        study.started(row)
        study.finished(row)


def test_a_measured_trial_has_picture_benchmark_and_log(
    study: PersistedStudy, storage: RDBStorage, shelf: Shelf, rows: list[Trial]
) -> None:
    tell(study, rows)
    assert attached(storage, 0) == MEASURED
    assert content(storage, shelf, 0, "latency.svg").startswith("<svg ")
    benchmark = json.loads(content(storage, shelf, 0, "benchmark.json"))
    assert [level["output_throughput"] for level in benchmark["levels"]] == [800.0, 990.0]
    assert (benchmark["knobs"], benchmark["operating_level"]) == ({"max_num_seqs": 4}, 0)
    assert content(storage, shelf, 0, "engine.log") == "INFO up\n"


def test_a_failed_launch_has_its_log_and_a_running_trial_nothing(
    study: PersistedStudy, storage: RDBStorage, shelf: Shelf, rows: list[Trial]
) -> None:
    tell(study, rows)
    assert attached(storage, 1) == ["engine.log"]
    assert content(storage, shelf, 1, "engine.log") == "NPU out of memory\n"
    assert attached(storage, 2) == []


def test_a_trial_told_again_after_a_resume_has_each_artifact_once(
    study: PersistedStudy, storage: RDBStorage, shelf: Shelf, rows: list[Trial]
) -> None:
    tell(study, rows)
    files = {path: path.stat().st_mtime_ns for path in shelf.root.iterdir()}
    resumed = PersistedStudy(storage, "demo-1", SLA, GRID, shelf)
    resumed.sync(rows)
    resumed.finished(rows[0])
    assert attached(storage, 0) == MEASURED
    assert {path: path.stat().st_mtime_ns for path in shelf.root.iterdir()} == files


def test_sync_writes_the_files_that_are_missing(
    study: PersistedStudy, storage: RDBStorage, shelf: Shelf, rows: list[Trial]
) -> None:
    tell(study, rows)
    whole = {path.name: path.read_bytes() for path in shelf.root.iterdir()}
    assert len(whole) == 4
    for path in shelf.root.iterdir():
        path.unlink()
    study.sync(rows)
    assert {path.name: path.read_bytes() for path in shelf.root.iterdir()} == whole


def test_a_study_that_was_deleted_is_made_anew_with_its_notes_and_artifacts(
    study: PersistedStudy, storage: RDBStorage, shelf: Shelf, rows: list[Trial]
) -> None:
    tell(study, rows)
    files = set(shelf.root.iterdir())
    storage.delete_study(storage.get_study_id_from_name("demo-1"))
    study.sync(rows)
    assert attached(storage, 0) == MEASURED
    assert note(storage, 0)
    assert set(shelf.root.iterdir()) == files


def test_a_disk_that_refuses_is_a_store_error_and_hides_no_figure(
    storage: RDBStorage, shelf: Shelf, rows: list[Trial]
) -> None:
    """What raises StoreError is behind and is made right later: it never holds up a job."""
    shelf.root.write_text("no folder")
    study = PersistedStudy(storage, "demo-1", SLA, GRID, shelf)
    with pytest.raises(StoreError, match="the artifacts of row 0 of 'demo-1' cannot be kept"):
        study.sync(rows)
    assert [t.state for t in optuna.load_study(study_name="demo-1", storage=storage).trials] == [
        TrialState.COMPLETE,
        TrialState.FAIL,
        TrialState.RUNNING,
    ]
    shelf.root.unlink()
    study.sync(rows)
    assert content(storage, shelf, 0, "engine.log") == "INFO up\n"


def test_a_file_that_was_half_written_when_the_tuner_was_killed_is_not_taken_for_whole(
    study: PersistedStudy, storage: RDBStorage, shelf: Shelf, rows: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_source: object, target: object) -> None:
        target.write(b"INF")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("optuna.artifacts._filesystem.shutil.copyfileobj", killed)
        with pytest.raises(KeyboardInterrupt):
            study.sync(rows)
    study.sync(rows)
    assert content(storage, shelf, 0, "latency.svg").endswith("</svg>\n")
    assert [path.name for path in shelf.root.iterdir() if path.suffix] == []


def test_of_a_very_long_log_the_end_is_shown_and_where_the_rest_is(
    study: PersistedStudy,
    storage: RDBStorage,
    shelf: Shelf,
    make_trial: MakeTrial,
    with_log: Callable[..., Trial],
) -> None:
    lines = "".join(f"INFO step {number:09d}\n" for number in range(LOG_BYTES // 10))
    study.sync([with_log(make_trial(0, {"max_num_seqs": 4}, oom=True), lines)])
    shown = content(storage, shelf, 0, "engine.log")
    heading, _, end = shown.partition("\n")
    assert heading.endswith(f"of {len(lines):,} bytes; the whole log: trial-0000/engine.log in the job's folder]")
    assert lines.endswith(f"\n{end}")
    assert LOG_BYTES * 0.9 < len(end) < LOG_BYTES


def test_a_trial_whose_log_is_on_another_machine_has_the_others(
    study: PersistedStudy, storage: RDBStorage, shelf: Shelf, rows: list[Trial]
) -> None:
    (shelf.folder / "trial-0000" / "engine.log").unlink()
    study.sync(rows)
    assert attached(storage, 0) == ["benchmark.json", "latency.svg"]


def test_a_measured_trial_s_note_tells_operating_point_bottleneck_and_log(
    study: PersistedStudy, storage: RDBStorage, rows: list[Trial]
) -> None:
    tell(study, rows)
    assert note(storage, 0).split("\n\n") == [
        "**operating point**: 4 concurrent, 800.0 tok/s per device, P99 TTFT 120.0 ms",
        "**bottleneck**: slots: 4.0 of 4 slots were in use. Raise max_num_seqs.",
        "**log**: `trial-0000/engine.log`",
    ]


def test_a_violator_s_note_says_which_line_it_misses(
    study: PersistedStudy, storage: RDBStorage, make_trial: MakeTrial, make_point: MakePoint
) -> None:
    study.sync([make_trial(0, {"max_num_seqs": 4}, make_point(300.0, 990.0))])
    assert note(storage, 0).split("\n\n") == [
        "**operating point**: none; closest: 4 concurrent, 990.0 tok/s per device, P99 TTFT 300.0 ms",
        "**misses the SLA**: p99_ttft_ms <= 200",
    ]


def test_a_failed_trial_s_note_tells_cause_advice_and_line(
    study: PersistedStudy, storage: RDBStorage, rows: list[Trial]
) -> None:
    tell(study, rows)
    assert note(storage, 1).split("\n\n") == [
        "**failure**: oom",
        "**cause**: Out of device memory.",
        "**advice**: Lower gpu_memory_utilization.",
        "**line**: `NPU out of memory. Tried to allocate 22.00 MiB`",
        "**log**: `trial-0001/engine.log`",
    ]
    assert note(storage, 2) == ""


def test_a_note_that_is_missing_or_was_changed_is_noticed_and_made_right_by_sync(
    study: PersistedStudy, storage: RDBStorage, rows: list[Trial]
) -> None:
    tell(study, rows)
    right = note(storage, 0)
    study_id = storage.get_study_id_from_name("demo-1")
    _note.save_note_with_version(storage, study_id, 1, 7, "nonsense " * 500)
    assert study.differences(rows) == ["trial 0 of row 0 differs in note"]
    study.sync(rows)
    assert note(storage, 0) == right
    assert study.differences(rows) == []
