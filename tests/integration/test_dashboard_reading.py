"""Optuna dashboard behind ours: it reads, and only what the caller may see."""

import io
import json
import re
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from optuna.artifacts import FileSystemArtifactStore
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import event

from autotune.results import LoadPoint, Trial
from autotune.spec import Sla
from autotune.study.dashboard import dashboard
from autotune.study.grid import Grid, Knob
from autotune.study.persisted import PersistedStudy, open_storage
from autotune.study.reader import VISIBLE, Reader

SLA = Sla.model_validate({"p99_ttft_ms": 200})
GRID = Grid((Knob("max_num_seqs", (4, 8, 16, 32), ordered=True),))
OURS, THEIRS = "chat-1", "rag-2"  # studies 1 and 2
READ = ("GET", "HEAD")

MakeTrial = Callable[..., Trial]
MakePoint = Callable[..., LoadPoint]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Site:
    """The application with the storage behind it; whoever asks sees one study unless the request says otherwise."""

    application: Reader
    storage: RDBStorage
    artifacts: Path

    def __call__(self, path: str, method: str = "GET", *, sees: Any = frozenset({OURS}), **environ: str) -> Answer:
        return self.plain(path, method, **{VISIBLE: sees}, **environ)

    def plain(self, path: str, method: str = "GET", **environ: Any) -> Answer:
        told: list[Any] = []
        path, _, query = path.partition("?")
        request = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(b"{}"),
            "wsgi.errors": io.StringIO(),
        }

        def start(status: str, headers: list[tuple[str, str]], _exc: Any = None) -> Any:
            told.append((status, headers))

        answer = self.application(request | environ, start)
        body = b"".join(answer)
        if close := getattr(answer, "close", None):
            close()
        status, headers = told[-1]
        return Answer(int(status.split()[0]), {name.lower(): value for name, value in headers}, body)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, make_trial: MakeTrial, make_point: MakePoint) -> Path:
    """Two studies; each has a trial that meets the SLA, one that violates it (both measured), and one that failed."""
    path = tmp_path_factory.mktemp("archive") / "study.db"
    storage = opened(path)
    for name in (OURS, THEIRS):
        study = PersistedStudy(storage, name, SLA, GRID)
        study.describe({"model": "tiny"}, f"# {name}")
        study.sync(
            [
                make_trial(0, {"max_num_seqs": 4}, make_point(120.0, 800.0)),
                make_trial(1, {"max_num_seqs": 8}, make_point(260.0, 990.0)),
                make_trial(2, {"max_num_seqs": 16}, oom=True),
            ]
        )
    return path


@pytest.fixture
def site(archive: Path, tmp_path: Path) -> Site:
    """The dashboard on a copy of the archive."""
    path = tmp_path / "study.db"
    shutil.copy(archive, path)
    artifacts = tmp_path / "artifacts"
    artifacts.mkdir()
    return Site(dashboard(f"sqlite:///{path}", artifacts), opened(path), artifacts)


def opened(path: Path) -> RDBStorage:
    """A storage that need not survive a crash of the machine."""
    storage = open_storage(f"sqlite:///{path}")
    storage.engine.dispose()
    event.listen(storage.engine, "connect", lambda driver, _record: driver.execute("PRAGMA synchronous = OFF"))
    return storage


def attach(site: Site, trial_id: int) -> str:
    """An artifact of a running trial."""
    artifact = str(uuid.uuid4())
    FileSystemArtifactStore(site.artifacts).write(artifact, io.BytesIO(b"INFO up"))
    told = json.dumps({"artifact_id": artifact, "filename": "a.log", "mimetype": "text/plain", "encoding": None})
    site.storage.set_trial_system_attr(trial_id, f"artifacts:{artifact}", told)
    return artifact


def test_the_list_has_the_studies_that_the_caller_may_see(site: Site) -> None:
    def listed(sees: Any) -> list[str]:
        return [study["study_name"] for study in site("/api/studies", sees=sees).document["study_summaries"]]

    assert listed(frozenset({OURS})) == [OURS]
    assert listed(lambda name: name == THEIRS) == [THEIRS]
    assert listed(frozenset()) == []
    assert listed(None) == [OURS, THEIRS]


def test_a_caller_of_whom_nothing_is_said_sees_nothing(site: Site) -> None:
    assert site.plain("/api/studies").document == {"study_summaries": []}
    assert site.plain("/api/studies/1").status == 404


def test_what_is_visible_is_read_from_the_asgi_scope_too(site: Site) -> None:
    answer = site.plain("/api/studies", **{"asgi.scope": {VISIBLE: frozenset({THEIRS})}})
    assert [study["study_name"] for study in answer.document["study_summaries"]] == [THEIRS]


def test_the_caller_s_study_is_shown_with_the_violator_infeasible_and_not_among_the_best(site: Site) -> None:
    study = site("/api/studies/1").document
    assert study["name"] == OURS
    assert study["note"]["body"] == f"# {OURS}"
    assert [max(trial["constraints"], default=0) > 0 for trial in study["trials"]] == [False, True, False]
    assert [trial["number"] for trial in study["best_trials"]] == [0]


@pytest.mark.parametrize(
    "route",
    ["/api/studies/{}", "/api/studies/{}/param_importances", "/api/studies/{}/plot/pareto_front", "/csv/{}"],
)
def test_somebody_else_s_study_is_as_if_it_did_not_exist(site: Site, route: str) -> None:
    assert site(route.format(1)).status == 200
    theirs, missing = site(route.format(2)), site(route.format(777))
    assert (theirs.status, missing.status) == (404, 404)
    assert theirs.body.replace(b"2", b"777") == missing.body
    assert theirs.headers.keys() == missing.headers.keys()


def test_an_artifact_belongs_to_its_trial_and_its_study(site: Site) -> None:
    """The dashboard itself would look for any trial's artifact under any study's number."""
    ours = site.storage.create_new_trial(1)
    theirs = site.storage.create_new_trial(2)
    of_ours, of_theirs = attach(site, ours), attach(site, theirs)
    assert site(f"/artifacts/1/{ours}/{of_ours}").body == b"INFO up"
    for path in (
        f"/artifacts/2/{theirs}/{of_theirs}",
        f"/artifacts/1/{theirs}/{of_theirs}",
        f"/artifacts/1/{ours}/{of_theirs}",
        f"/artifacts/1/{of_theirs}",
        f"/artifacts/2/{of_theirs}",
        f"/artifacts/1/{ours}/{uuid.uuid4()}",
        f"/artifacts/1/777/{of_ours}",
    ):
        answer = site(path)
        assert (answer.status, answer.document) == (404, {"reason": f"{path} is not found"})  # whatever is elsewhere


def test_an_artifact_is_no_page_of_ours_and_not_for_other_sites(site: Site) -> None:
    trial = site.storage.create_new_trial(1)
    headers = site(f"/artifacts/1/{trial}/{attach(site, trial)}").headers
    assert headers["content-type"] == "text/plain"
    assert "sandbox" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers


def test_an_artifact_whose_file_is_gone_is_not_found(site: Site) -> None:
    trial = site.storage.create_new_trial(1)
    artifact = attach(site, trial)
    (site.artifacts / artifact).unlink()
    assert site(f"/artifacts/1/{trial}/{artifact}").status == 404


def routes(site: Site) -> list[tuple[str, str]]:
    """Every route of the dashboard with an example's path: study 1, trial 1."""
    examples = {"study_id": "1", "trial_id": "1", "artifact_id": "a1", "plot_type": "slice", "filename": "bundle.js"}
    bottle: Any = site.application._dashboard
    return [
        (route.method, re.sub(r"<(\w+)?(:[^>]*)?>", lambda found: examples.get(found[1] or "", ""), route.rule))
        for route in bottle.routes
    ]


def test_every_route_that_writes_is_refused_and_changes_nothing(site: Site) -> None:
    before = site("/api/studies/1").document
    writing = [(method, path) for method, path in routes(site) if method not in READ]
    assert len(writing) > 15
    for method, path in writing:
        answer = site(path, method, sees=None)
        assert answer.status == 405, (method, path)
        assert answer.headers["allow"] == "GET, HEAD"
        assert "read-only" in answer.document["reason"]
    assert site("/api/studies/1").document == before


def test_the_dashboard_has_no_reading_route_that_we_do_not_know(site: Site) -> None:
    """A new version may bring one: decide whether it shows more than the caller may see, then add it in `reader`."""
    assert {path for method, path in routes(site) if method in READ} == {
        "/",
        "/dashboard",
        "/favicon.ico",
        "/static/bundle.js",
        "/incompatible-rdb-schema",
        "/api/meta",
        "/api/studies",
        "/api/studies/1",
        "/api/studies/1/param_importances",
        "/api/studies/1/plot/slice",
        "/csv/1",
        "/artifacts/1/a1",
        "/artifacts/1/1/a1",
    }


@pytest.mark.parametrize(
    "path",
    [
        "/api/studies/-1",
        "/api/studies/٢",
        "/api/studies/99999999999999999999",
        "//api/studies/1",
        "/api/studies/1/../2",
        "/api/studies/1/plot/terminator_improvement",
        "/static/../_app.py",
        "/artifacts/1/../1/1/a1",
        "/metrics",
    ],
)
def test_a_path_that_is_not_known_to_be_read_is_not_found(site: Site, path: str) -> None:
    assert site(path, sees=None).status == 404


@pytest.mark.parametrize("path", ["/dashboard", "/dashboard/", "/dashboard/studies/1/trials", "/static/bundle.js"])
@pytest.mark.parametrize("method", READ)
def test_the_page_comes_with_what_it_needs_also_to_a_client_that_accepts_no_encoding(
    site: Site, path: str, method: str
) -> None:
    answer = site(path, method)
    assert answer.status == 200
    assert int(answer.headers["content-length"]) == len(site(path).body)
    assert len(answer.body) == (len(site(path).body) if method == "GET" else 0)


def test_the_page_keeps_the_dashboard_s_security_policy_and_is_asked_for_anew(site: Site) -> None:
    headers = site("/dashboard", HTTP_IF_MODIFIED_SINCE="Fri, 01 Jan 2100 00:00:00 GMT").headers
    assert "script-src 'self'" in headers["content-security-policy"]
    assert headers["cache-control"] == "no-cache"


def test_a_study_that_got_the_number_of_a_deleted_one_shows_nothing_of_it(site: Site, make_trial: MakeTrial) -> None:
    """SQLite gives the highest number again, and the dashboard remembers a study's trials for seconds by its number."""
    assert len(site("/api/studies/2", sees=None).document["trials"]) == 3
    site.storage.delete_study(2)
    study = PersistedStudy(site.storage, "new-3", SLA, GRID)
    study.sync([make_trial(0, {"max_num_seqs": 32})])
    shown = site("/api/studies/2", sees=frozenset({"new-3"})).document
    assert shown["name"] == "new-3"
    assert [trial["state"] for trial in shown["trials"]] == [TrialState.RUNNING.name.capitalize()]


def test_a_database_that_does_not_answer_is_said(site: Site, tmp_path: Path) -> None:
    (tmp_path / "study.db").rename(tmp_path / "elsewhere.db")
    site.application._storage.engine.dispose()
    answer = site("/api/studies/1")
    assert (answer.status, answer.document) == (503, {"reason": "the database cannot be read; try again"})
