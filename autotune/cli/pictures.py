"""The front as a file: a page or a picture, by the file's ending."""

from collections.abc import Callable, Sequence
from pathlib import Path

from autotune.cli.outcome import write
from autotune.errors import InputError
from autotune.results import ParetoFront, Trial
from autotune.spec import Sla

Draw = Callable[[Path, ParetoFront, Sequence[Trial], Sla, str], None]


def drawing(path: Path) -> Draw:
    """What draws a file of this ending. Raises InputError for another one."""
    try:
        return _DRAWINGS[path.suffix.lower()]
    except KeyError:
        raise InputError(f"{path}: a plot is a {', '.join(_DRAWINGS)} file; choose one of these endings") from None


def _page(path: Path, front: ParetoFront, trials: Sequence[Trial], sla: Sla, title: str) -> None:
    from autotune.report.page import front_page  # plotly takes a second to import

    write(path, front_page(front, trials, sla, title=title))


def _picture(path: Path, front: ParetoFront, trials: Sequence[Trial], sla: Sla, title: str) -> None:
    from autotune.report.picture import front_picture  # matplotlib too

    content = front_picture(front, trials, sla, title=title, form=path.suffix.lower().removeprefix("."))
    try:
        path.write_bytes(content)
    except OSError as exc:
        raise InputError(f"{path}: cannot be written: {exc}") from exc


_DRAWINGS: dict[str, Draw] = {".png": _picture, ".svg": _picture, ".html": _page}
