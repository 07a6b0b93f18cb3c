"""From the name of a format to its text."""

import difflib
from collections.abc import Callable, Mapping
from typing import Literal, get_args

from autotune.errors import InputError
from autotune.export.data import as_json, front_csv
from autotune.export.shell import command, environment_file
from autotune.export.source import ExportSource
from autotune.export.vllm_yaml import vllm_yaml

Format = Literal["vllm", "command", "env", "json", "csv"]

FORMATS: tuple[Format, ...] = get_args(Format)

_WRITERS: Mapping[str, Callable[[ExportSource], str]] = {
    "vllm": vllm_yaml,
    "command": command,
    "env": environment_file,
    "json": as_json,
    "csv": front_csv,
}


def export(source: ExportSource, format: str) -> str:
    """The configuration as text in one of `FORMATS`. Raises InputError for an unknown format."""
    if format not in _WRITERS:
        close = difflib.get_close_matches(format, FORMATS, n=1)
        hint = f" did you mean {close[0]}?" if close else ""
        raise InputError(f"unknown export format {format!r};{hint} use one of: {', '.join(FORMATS)}")
    return _WRITERS[format](source)
