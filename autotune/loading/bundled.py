"""Search spaces and workloads that ship with the product, and how a job's reference finds one."""

from pathlib import Path
from typing import Literal

from autotune.errors import NotFound
from autotune.loading.explain import suggestion

Kind = Literal["search_spaces", "workloads"]

_PACKAGE = Path(__file__).resolve().parent.parent


def _folder(kind: Kind) -> Path:
    """Inside a wheel `autotune/_bundled/<kind>`; in an editable install the repository's own folder."""
    packaged = _PACKAGE / "_bundled" / kind
    return packaged if packaged.is_dir() else _PACKAGE.parent / kind


def bundled(kind: Kind) -> tuple[str, ...]:
    """The names that ship with the product, sorted."""
    return tuple(sorted(path.stem for path in _folder(kind).glob("*.yaml")))


def bundled_file(name: str, kind: Kind) -> Path:
    """The file of something that ships with the product. Raises NotFound with what there is."""
    names = bundled(kind)
    if name not in names:
        noun = kind.replace("_", " ").removesuffix("s")
        guess = suggestion(name, names) or "."
        raise NotFound(f"no {noun} {name!r} ships with this version{guess} Bundled are {', '.join(names)}")
    return _folder(kind) / f"{name}.yaml"


def find(reference: str, kind: Kind, *, relative_to: Path) -> Path:
    """The file a job means: a bundled name, or a path relative to the folder of the job file.

    A bundled name wins over a file of that name. Raises NotFound with what there is.
    """
    names = bundled(kind)
    if reference in names:
        return _folder(kind) / f"{reference}.yaml"
    candidate = relative_to / Path(reference).expanduser()
    if candidate.is_file():
        return candidate
    noun = kind.replace("_", " ").removesuffix("s")
    guess = suggestion(reference, names) or "."
    raise NotFound(f"no {noun} '{reference}'{guess} Bundled are {', '.join(names)}; no file is at {candidate}")
