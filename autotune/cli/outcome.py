"""Exit codes, and files written so that a failure to write is a message."""

from pathlib import Path

from autotune.errors import InputError

DONE, FAILED, NOTHING_MEETS_SLA, TRIAL_FAILED, NO_CAUSE, INTERRUPTED = 0, 3, 4, 5, 6, 130
SLA_BROKEN = NOTHING_MEETS_SLA  # by what was verified


def check_writable(*paths: Path | None) -> None:
    """Refuse outputs that could not be written, before hours of measuring and not after."""
    problems = []
    for path in paths:
        if path is None:
            continue
        if path.is_dir():
            problems.append(f"{path}: is a folder; name a file in it")
        elif not path.absolute().parent.is_dir():
            problems.append(f"{path}: the folder {path.absolute().parent} does not exist; create it")
    if problems:
        raise InputError(problems)


def write(path: Path, text: str) -> None:
    """Write a file. Raises InputError when it cannot be written."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise InputError(f"{path}: cannot be written: {exc}") from exc
