"""From the name of a format to its text, and what else a reader of it needs to know."""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from autotune.errors import InputError
from autotune.export.compose import compose
from autotune.export.data import as_json, front_csv
from autotune.export.kubernetes import kubernetes
from autotune.export.shell import command, environment_file
from autotune.export.source import ExportSource
from autotune.export.vllm_yaml import vllm_yaml

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")  # in a file's name


@dataclass(frozen=True, slots=True)
class Format:
    """One way to write a selected configuration."""

    write: Callable[[ExportSource], str]
    media_type: str
    extension: str  # of a file's name, with its dot


FORMATS: Mapping[str, Format] = {
    "vllm": Format(vllm_yaml, "application/yaml", ".yaml"),
    "command": Format(command, "text/x-shellscript", ".sh"),
    "env": Format(environment_file, "text/plain", ".env"),
    "compose": Format(compose, "application/yaml", ".compose.yaml"),
    "kubernetes": Format(kubernetes, "application/yaml", ".kubernetes.yaml"),
    "json": Format(as_json, "application/json", ".json"),
    "csv": Format(front_csv, "text/csv", ".csv"),
}


def export(source: ExportSource, format: str) -> str:
    """The configuration as text in one of `FORMATS`. Raises InputError for an unknown format."""
    return format_of(format).write(source)


def format_of(name: str) -> Format:
    """The format of this name. Raises InputError for an unknown one."""
    if name not in FORMATS:
        close = difflib.get_close_matches(name, FORMATS, n=1)
        hint = f" did you mean {close[0]}?" if close else ""
        raise InputError(f"unknown export format {name!r};{hint} use one of: {', '.join(FORMATS)}")
    return FORMATS[name]


def file_name(source: ExportSource, format: str) -> str:
    """A name for the export as a file, such as `demo-b6a482da-trial-1.yaml`, of plain characters only.

    Raises InputError for an unknown format.
    """
    return _UNSAFE.sub("-", f"{source.job_id}-trial-{source.trial.number}") + format_of(format).extension
