"""What of Optuna dashboard a request gets: the routes that read, of the studies its caller may see, and nothing else.

The dashboard has no authentication, and whoever reaches it may delete studies and tell trials.
"""

import contextlib
import json
import re
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.exceptions import StorageInternalError
from optuna_dashboard import _importance
from optuna_dashboard.artifact._backend import ARTIFACTS_ATTR_PREFIX

from autotune.errors import StoreError
from autotune.study.persisted import DATABASE_ERROR
from autotune.study.seen import SeenStorage, seeing

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

VISIBLE = "autotune.visible_studies"  # in the WSGI environment, or in the ASGI scope behind it

Visible = Callable[[str], bool] | Container[str] | None  # study names, which are job ids; None: every study

_READING = ("GET", "HEAD")
_ID = r"\d{1,9}"  # below 2^31, which is what the tables hold
_STUDY, _TRIAL = f"(?P<study>{_ID})", f"(?P<trial>{_ID})"
_ARTIFACT = r"(?P<artifact>[0-9a-fA-F-]{1,64})"
_PLOTS = "contour|slice|parallel_coordinate|rank|edf|timeline|pareto_front"
_ROUTES = tuple(
    re.compile(route, re.ASCII)
    for route in (
        "",
        r"(?P<page>/dashboard(/.*)?)",
        r"/favicon\.ico",
        r"/static/[\w.-]+",
        "/incompatible-rdb-schema",  # where the page is sent when another Optuna has upgraded the tables
        "/api/meta",
        "/api/studies",
        f"/api/studies/{_STUDY}(/param_importances|/plot/({_PLOTS}))?",
        f"/csv/{_STUDY}",
        f"/artifacts/{_STUDY}/({_TRIAL}/)?{_ARTIFACT}",
    )
)
# An artifact is opened as a document of our origin: it must not become a page with scripts, nor other sites' to read.
_ARTIFACT_HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox"),
]
_FOR_OTHER_SITES = "access-control-allow-origin"
# What writes is refused; this hides its buttons: new, other or no studies, notes and artifacts; failed trials.
_HIDE_WRITING = b"""<style>
    button:has([data-testid="AddBoxIcon"]), button[aria-label="rename study"],
    button:has([data-testid="DeleteIcon"]), button:has([data-testid="EditIcon"]),
    button:has([data-testid="StopCircleIcon"]),
    .MuiCard-root:has([data-testid="UploadFileIcon"]) { display: none; }
</style>
"""
_CONDITIONS = ("HTTP_IF_MODIFIED_SINCE", "HTTP_IF_NONE_MATCH", "HTTP_RANGE")
_OF_THE_FILE = ("content-length", "last-modified", "etag", "accept-ranges", "date")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a path that may be read names."""

    study: int | None = None
    trial: int | None = None
    artifact: str | None = None
    is_page: bool = False

    @classmethod
    def by(cls, path: str) -> "Asked | None":
        """What the path names; None for whatever is not read."""
        found = next(filter(None, (route.fullmatch(path) for route in _ROUTES)), None)
        if found is None:
            return None
        named = found.groupdict()
        study, trial = (int(named[key]) if named.get(key) else None for key in ("study", "trial"))
        return cls(study, trial, named.get("artifact"), "page" in named)


class Reader:
    """A WSGI application around the dashboard's own: reads, and only what the caller may see.

    Who calls it says under `VISIBLE` what that is; where it says nothing, nothing is visible. A study that is not
    visible, its trials and its artifacts are as if they did not exist.
    """

    def __init__(self, dashboard: Any, storage: SeenStorage, artifacts: Path) -> None:
        self._dashboard = dashboard
        self._storage = storage
        self._artifacts = artifacts
        self._names: dict[int, str] = {}

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer one request."""
        if environ["REQUEST_METHOD"] not in _READING:
            reason = "Optuna dashboard is read-only here: it shows what the tuner measured, and the tuner alone writes."
            return _refuse(start_response, "405 Method Not Allowed", reason, ("Allow", ", ".join(_READING)))
        path = environ["PATH_INFO"].rstrip("/")
        asked = Asked.by(path)
        try:
            if asked is None or not self._exists(asked, _visible(environ)):
                return _refuse(start_response, "404 Not Found", f"{path} is not found")
        except (StorageInternalError, DATABASE_ERROR):
            return _refuse(start_response, "503 Service Unavailable", "the database cannot be read; try again")
        return self._shown(asked, environ, start_response)

    def study_id(self, name: str) -> int | None:
        """The number of a study; None when there is none of that name. Raises StoreError."""
        try:
            return self._storage.get_study_id_from_name(name)
        except KeyError:
            return None
        except (StorageInternalError, DATABASE_ERROR) as exc:
            raise StoreError("the studies cannot be read") from exc

    def _exists(self, asked: Asked, is_visible: Callable[[str], bool]) -> bool:
        """Whether there is for this caller what the path names."""
        if asked.study is None:
            return True
        try:
            name = self._storage.get_study_name_from_id(asked.study)
            is_its_own = asked.trial is None or self._storage.study_of(asked.trial) == asked.study
            is_attached = asked.artifact is None or self._has_artifact(asked.artifact, asked.study, asked.trial)
        except KeyError:
            return False
        self._forget_another(asked.study, name)
        return is_visible(name) and is_its_own and is_attached

    def _has_artifact(self, artifact: str, study: int, trial: int | None) -> bool:
        """Whether the trial, or the study itself, names the artifact, and its file is there."""
        storage = self._storage
        named = storage.get_study_system_attrs(study) if trial is None else storage.get_trial_system_attrs(trial)
        return f"{ARTIFACTS_ATTR_PREFIX}{artifact}" in named and (self._artifacts / artifact).is_file()

    def _shown(self, asked: Asked, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        is_visible = _visible(environ)
        environ.setdefault("HTTP_ACCEPT_ENCODING", "")  # the dashboard takes it for given
        if asked.artifact:
            start_response = _as_document(start_response)
        with seeing(lambda study, name: is_visible(name) if asked.study is None else study == asked.study):
            if asked.is_page:
                return self._page(environ, start_response)
            answer: Iterable[bytes] = self._dashboard(environ, start_response)
            return answer

    def _forget_another(self, study: int, name: str) -> None:
        """A deleted study's id is given to another one in time, and the dashboard remembers trials by it."""
        if self._names.setdefault(study, name) != name:
            self._dashboard._inmemory_cache.clear()
            with _importance.param_importance_cache_lock:
                _importance.param_importance_cache.clear()
            self._names[study] = name

    def _page(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """The page of the application, without the buttons that write; never from a cache that knows an older one."""
        told: list[tuple[str, list[tuple[str, str]]]] = []
        plain = {key: value for key, value in environ.items() if key not in _CONDITIONS} | {"REQUEST_METHOD": "GET"}
        answer = self._dashboard(plain, lambda status, headers, exc_info=None: told.append((status, headers)))
        with contextlib.ExitStack() as open_files:
            open_files.callback(getattr(answer, "close", lambda: None))
            page = b"".join(answer).replace(b"</head>", _HIDE_WRITING + b"</head>", 1)
        status, headers = told[0]
        kept = [(name, value) for name, value in headers if name.lower() not in _OF_THE_FILE]
        start_response(status, [*kept, ("Content-Length", str(len(page))), ("Cache-Control", "no-cache")])
        return [page] if environ["REQUEST_METHOD"] == "GET" else []


def _visible(environ: "WSGIEnvironment") -> Callable[[str], bool]:
    place = environ if VISIBLE in environ else environ.get("asgi.scope", {})
    visible: Visible = place.get(VISIBLE, ())
    if visible is None:
        return lambda _name: True
    return visible if callable(visible) else visible.__contains__


def _refuse(start_response: "StartResponse", status: str, reason: str, *headers: tuple[str, str]) -> Iterable[bytes]:
    body = json.dumps({"reason": reason}).encode()  # the dashboard's own form, which its page shows
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *headers])
    return [body]


def _as_document(start_response: "StartResponse") -> "StartResponse":
    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        kept = [(name, value) for name, value in headers if name.lower() != _FOR_OTHER_SITES]
        return start_response(status, [*kept, *_ARTIFACT_HEADERS], exc_info)

    return start
