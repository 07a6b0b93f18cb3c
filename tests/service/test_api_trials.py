"""Trials, load points, and the files that trials leave."""

import gzip
import os
from pathlib import Path

import pytest

from autotune.results import Trial

from .conftest import MakeTrial, Service


def test_trials_come_with_their_load_points_in_the_form_of_the_records(
    service: Service, finished: str, trials: tuple[Trial, ...]
):
    page = service.client().get(f"/v1/jobs/{finished}/trials").json()
    shown = [Trial.model_validate(trial) for trial in page["trials"]]
    assert [trial.result for trial in shown] == [trial.result for trial in trials]
    assert page["next_after"] is None


def test_trials_are_given_by_the_page(service: Service, finished: str):
    client = service.client()
    first = client.get(f"/v1/jobs/{finished}/trials?limit=2").json()
    assert ([t["number"] for t in first["trials"]], first["next_after"]) == ([0, 1], 1)
    rest = client.get(f"/v1/jobs/{finished}/trials?limit=2&after=1").json()
    assert ([t["number"] for t in rest["trials"]], rest["next_after"]) == ([2], None)


def test_a_trial_that_does_not_exist_is_not_found(service: Service, finished: str):
    answer = service.client().get(f"/v1/jobs/{finished}/trials/7")
    assert (answer.status_code, answer.json()["detail"]) == (404, "job 'done-1' has no trial 7")


def test_load_points_say_whether_they_meet_the_sla(service: Service, finished: str):
    points = service.client().get(f"/v1/jobs/{finished}/load-points").json()["load_points"]
    assert [(p["trial"], p["point"]["level"], p["feasible"]) for p in points] == [
        (0, 0, True),
        (1, 0, True),
        (1, 1, False),
    ]


# Artifacts


@pytest.fixture
def folder(service: Service, make_trial: MakeTrial) -> Path:
    """The folder of a trial that runs, with a log of three lines."""
    service.play(service.begin("job-1"), make_trial(0, {"max_num_seqs": 16}))
    folder = service.home / "jobs" / "job-1" / "trial-0000"
    folder.mkdir(parents=True)
    (folder / "engine.log").write_bytes(b"one\ntwo\nthree\n")
    return folder


ARTIFACTS = "/v1/jobs/job-1/trials/0/artifacts"


def test_the_files_of_a_running_trial_are_listed_with_their_sizes(service: Service, folder: Path):
    (folder / "requests-level-0-seed-0.jsonl.gz").write_bytes(gzip.compress(b"{}"))
    (folder / "plog").mkdir()
    listed = service.client().get(ARTIFACTS).json()["artifacts"]
    assert [(a["name"], a["media_type"]) for a in listed] == [
        ("engine.log", "text/plain"),
        ("requests-level-0-seed-0.jsonl.gz", "application/gzip"),
    ]
    assert (listed[0]["size"], listed[0]["href"]) == (14, f"{ARTIFACTS}/engine.log")


def test_a_trial_without_files_has_an_empty_list(service: Service, finished: str):
    assert service.client().get(f"/v1/jobs/{finished}/trials/0/artifacts").json()["artifacts"] == []


def test_a_file_is_downloaded_whole(service: Service, folder: Path):
    content = os.urandom(200_000)
    (folder / "requests.bin").write_bytes(content)
    answer = service.client().get(f"{ARTIFACTS}/requests.bin")
    assert answer.content == content
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-length"] == "200000"


def test_a_log_is_followed_from_where_the_last_answer_ended(service: Service, folder: Path):
    client = service.client()
    first = client.get(f"{ARTIFACTS}/engine.log?offset=4")
    assert (first.text, first.headers["x-next-offset"]) == ("two\nthree\n", "14")
    nothing = client.get(f"{ARTIFACTS}/engine.log?offset=14")
    assert (nothing.status_code, nothing.text, nothing.headers["x-next-offset"]) == (200, "", "14")
    with (folder / "engine.log").open("ab") as log:
        log.write(b"four\n")
    rest = client.get(f"{ARTIFACTS}/engine.log?offset=14")
    assert (rest.text, rest.headers["x-next-offset"]) == ("four\n", "19")


@pytest.mark.parametrize(
    ("lines", "text"),
    [(0, ""), (1, "three\n"), (2, "two\nthree\n"), (3, "one\ntwo\nthree\n"), (9, "one\ntwo\nthree\n")],
)
def test_a_tail_begins_with_the_last_lines(service: Service, folder: Path, lines: int, text: str):
    answer = service.client().get(f"{ARTIFACTS}/engine.log?tail={lines}")
    assert (answer.text, answer.headers["x-next-offset"]) == (text, "14")


def test_a_last_line_that_has_not_ended_counts(service: Service, folder: Path):
    (folder / "engine.log").write_bytes(b"one\ntwo")
    assert service.client().get(f"{ARTIFACTS}/engine.log?tail=1").text == "two"


def test_a_long_file_is_followed_a_mebibyte_at_a_time(service: Service, folder: Path):
    (folder / "engine.log").write_bytes(b"x" * 1_048_577)
    first = service.client().get(f"{ARTIFACTS}/engine.log?offset=0")
    assert (len(first.content), first.headers["x-next-offset"]) == (1_048_576, "1048576")


@pytest.mark.parametrize(
    "name",
    [
        "../../../autotune.db",
        "..%2f..%2f..%2fautotune.db",
        "%2e%2e",
        "%2e",
        "plog",
        "link",
        "/etc/passwd",
        "a%00b",
        "pipe",
    ],
)
def test_nothing_but_a_file_of_the_trials_own_folder_is_served(service: Service, folder: Path, name: str):
    (folder / "plog").mkdir()
    (folder / "link").symlink_to(service.home / "autotune.db")
    os.mkfifo(folder / "pipe")
    answer = service.client().get(f"{ARTIFACTS}/{name}")
    assert answer.status_code in (404, 422)
    assert b"SQLite" not in answer.content


def test_a_folder_that_is_a_link_is_not_followed(service: Service, folder: Path):
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("elsewhere"))
    client = service.client()
    assert client.get(ARTIFACTS).json()["artifacts"] == []
    assert client.get(f"{ARTIFACTS}/engine.log").status_code == 404


def test_each_launch_of_a_trial_has_files_of_its_own(service: Service, folder: Path):
    lease = service.store.claim("job-1", "somebody", now=service.now, gone=lambda _: True)
    service.store.relaunch_trial(lease, 0, attempts=2, earlier_device_s=1.0)
    second = folder.with_name("trial-0000-attempt-2")
    second.mkdir()
    (second / "engine.log").write_text("again\n")
    client = service.client()
    assert client.get(f"{ARTIFACTS}/engine.log").text == "again\n"
    assert client.get(f"{ARTIFACTS}/engine.log?attempt=1").text == "one\ntwo\nthree\n"
    assert client.get(f"{ARTIFACTS}?attempt=1").json()["artifacts"][0]["href"].endswith("engine.log?attempt=1")
    assert client.get(f"{ARTIFACTS}?attempt=3").status_code == 404
