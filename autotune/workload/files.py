"""The files of datasets: where they are, and that they stay what they were when the job was loaded."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.errors import EnvironmentProblem, InputError
from autotune.workload.dataset import ShareGpt, Trace
from autotune.workload.workload import Workload


def with_data_file(workload: Workload, folder: Path) -> Workload:
    """The workload with the absolute path and the SHA-256 of its data file; relative paths start from `folder`.

    Raises InputError when the file cannot be read, or is not the one whose SHA-256 the workload file gives.
    """
    dataset = workload.dataset
    if not isinstance(dataset, ShareGpt | Trace):
        return workload
    place = (folder / dataset.path.expanduser()).resolve()
    digest = _digest(place)
    if dataset.sha256 not in ("", digest):
        raise InputError(f"dataset.sha256: {place} has {digest}, not {dataset.sha256}: it is another file")
    found = dataset.model_copy(update={"path": place, "sha256": digest})
    return workload.model_copy(update={"dataset": found})


def document_digest(document: Mapping[str, Any]) -> str:
    """The SHA-256 of a workload's JSON document with the digest of its data, wherever the data file lies."""
    traffic = dict(document)
    if isinstance(traffic.get("dataset"), dict):
        traffic["dataset"] = {name: value for name, value in traffic["dataset"].items() if name != "path"}
    text = json.dumps(traffic, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_data(dataset: ShareGpt | Trace) -> str:
    """The text of a dataset's file.

    Raises EnvironmentProblem when it is not there, or has changed since the job was loaded; InputError when it is not
    UTF-8.
    """
    try:
        content = dataset.path.read_bytes()
    except OSError as exc:
        raise EnvironmentProblem(
            f"the workload's data file {dataset.path} cannot be read here: {exc.strerror}; every node that runs trials "
            "needs it under this path"
        ) from exc
    digest = hashlib.sha256(content).hexdigest()
    if dataset.sha256 not in ("", digest):
        raise EnvironmentProblem(
            f"the workload's data file {dataset.path} is not what it was when the job was loaded (SHA-256 {digest}, "
            f"then {dataset.sha256}): measurements of both cannot be compared. Bring that file back, or start the job "
            "anew with: autotune run"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise InputError(f"{dataset.path}: cannot be read as UTF-8 text: {exc}") from exc


def _digest(place: Path) -> str:
    try:
        with place.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as exc:
        raise InputError(
            f"dataset.path: no file is at {place}; a relative path starts from the workload file's folder"
        ) from exc
    except OSError as exc:
        raise InputError(f"dataset.path: {place} cannot be read: {exc.strerror}") from exc
