"""The pages over a real store: what they show, what their forms do, and whom they refuse."""

import html
import re
import runpy
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient

from autotune.access import Role, secret_hash
from autotune.results import JobStatus, LoadPoint, Trial
from autotune.service import state
from autotune.service.app import create_app
from autotune.service.auth import COOKIE
from autotune.service.pages.visit import local_address
from autotune.settings import DATABASE_NAME, ServiceSettings, Settings
from autotune.store import SharedStore
from autotune.submission import JobProgress, WorkerSign

site = runpy.run_path(str(Path(__file__).parents[1] / "data" / "pages_site.py"))
NOW, csrf_of, send, submitted = site["NOW"], site["csrf_of"], site["send"], site["submitted"]

MakeTrial = Callable[..., Trial]
MakePoint = Callable[..., LoadPoint]
Open = Callable[[], TestClient]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that is up to date; tests begin with a copy."""
    place: Path = tmp_path_factory.mktemp("empty") / DATABASE_NAME
    SharedStore.open(f"sqlite:///{place}").close()
    return place


@pytest.fixture
def settings(tmp_path: Path, empty: Path) -> Settings:
    shutil.copy(empty, tmp_path)
    return Settings(home=tmp_path, database_url=None)


@pytest.fixture
def store(settings: Settings) -> Iterator[SharedStore]:
    with SharedStore.open(settings.database) as opened:
        yield opened


@pytest.fixture
def open_browser(settings: Settings, store: SharedStore) -> Iterator[Open]:
    """Opens browsers, each with cookies of its own."""
    opened: list[TestClient] = []

    def browser() -> TestClient:
        client = TestClient(create_app(settings, store), base_url="http://localhost")
        opened.append(client)
        return client

    yield browser
    for client in opened:
        client.close()


@pytest.fixture
def browser(open_browser: Open) -> TestClient:
    return open_browser()


@pytest.fixture
def trials(make_trial: MakeTrial, make_point: MakePoint) -> list[Trial]:
    """Baseline 500 tok/s at 100 ms; trial 1 700 at 150; trial 2 misses the SLA with 900 at 600; trial 3 cannot run."""

    def point(p99_ttft_ms: float, throughput: float) -> LoadPoint:
        return make_point(p99_ttft_ms, throughput, limit_ms=400.0)

    return [
        make_trial(0, {"max_num_seqs": 256, "block_size": 128}, point(100.0, 500.0)),
        make_trial(1, {"max_num_seqs": 32, "block_size": 64}, point(150.0, 700.0)),
        make_trial(2, {"max_num_seqs": 2, "block_size": 128}, point(600.0, 900.0)),
        make_trial(3, {"max_num_seqs": 8, "block_size": 16}, oom=True),
    ]


@pytest.fixture
def finished(browser: TestClient, store: SharedStore, trials: list[Trial]) -> str:
    job = submitted(browser)
    lease = site["begun"](store)
    site["played"](store, lease, trials)
    site["ended"](store, lease, trials)
    return str(job)


def text_of(page: Any) -> str:
    """What a page says, without its tags."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page.text)).split())


def log_in(browser: TestClient, token: str, next: str = "/") -> Any:
    csrf = csrf_of(browser, f"/login?next={next}")
    return browser.post("/login", data={"token": token, "next": next, "csrf_token": csrf}, follow_redirects=False)


# The list


def test_an_empty_list_leads_to_the_form(browser: TestClient):
    page = browser.get("/")
    assert "No jobs yet" in text_of(page)
    assert 'href="/submit"' in page.text


def test_the_list_shows_each_job_with_its_status_and_promise(browser: TestClient):
    job = submitted(browser)
    said = text_of(browser.get("/"))
    assert job in said
    assert "queued" in said
    assert "P99 TTFT ≤ 400 ms" in said


def test_the_list_is_filtered_by_status_and_by_a_part_of_the_name(browser: TestClient, store: SharedStore):
    night, day = submitted(browser, name="nightly"), submitted(browser, name="daily", nonce="2")
    store.cancel(night, now=NOW)
    assert night in browser.get("/?status=cancelled").text
    assert day not in browser.get("/?status=cancelled").text
    assert day in browser.get("/?search=dail").text
    assert night not in browser.get("/?search=dail").text
    assert "No job fits" in browser.get("/?search=%25").text


def test_a_long_list_goes_on_at_its_next_page_and_misses_nothing(browser: TestClient):
    jobs = {submitted(browser, nonce=str(number)) for number in range(26)}
    first = browser.get("/").text
    older = re.search(r'href="(/\?cursor=[^"]+)"', first)
    assert older is not None
    second = browser.get(older[1]).text
    shown = [{job for job in jobs if f'href="/jobs/{job}"' in page} for page in (first, second)]
    assert (len(shown[0]), shown[0] | shown[1]) == (25, jobs)
    assert not shown[0] & shown[1]


def test_a_cursor_that_nobody_gave_out_is_told_on_a_page(browser: TestClient):
    page = browser.get("/?cursor=x")
    assert (page.status_code, page.headers["content-type"]) == (422, "text/html; charset=utf-8")


# The form


def test_the_form_makes_the_job_that_was_typed(browser: TestClient, store: SharedStore):
    job = submitted(
        browser,
        p99_tpot_ms="16",
        error_rate="0.02",
        line_name=["p95_e2el_ms", ""],
        line_limit=["1500", ""],
        wall_clock_min="90",
        device_hours="2.5",
        priority="7",
        confidence="0.95",
        attribution="true",
        objectives="pareto",
        instrument="vllm-bench",
    )
    found = store.submitted(job, tenant=None, now=NOW)
    assert found.job.spec["sla"] == {
        "error_rate": 0.02,
        "confidence": 0.95,
        "p99_ttft_ms": 400.0,
        "p99_tpot_ms": 16.0,
        "p95_e2el_ms": 1500.0,
    }
    spec, budget = found.job.spec, found.job.spec["budget"]
    assert (spec["attribution"], spec["objectives"], spec["instrument"]) == (True, "pareto", "vllm-bench")
    assert (budget["trials"], budget["wall_clock_s"], budget["device_hours"]) == (8, 5400.0, 2.5)
    assert (found.submission.priority, found.submission.tenant) == (7, "local")


def test_every_problem_stands_beside_its_field_and_what_was_typed_is_kept(browser: TestClient, store: SharedStore):
    page = send(browser, name="a b", model="", p99_ttft_ms="-5", trials="many", line_name="p95_foo_ms", line_limit="1")
    assert page.status_code == 422
    told = {
        field: html.unescape(text)
        for field, text in re.findall(r'<p class="error" id="(\w+)-error"><span[^>]*>✕</span> ([^<]*)</p>', page.text)
    }
    assert set(told) == {"name", "model", "p99_ttft_ms", "trials", "sla"}
    assert told["p99_ttft_ms"] == "must be above 0, not -5"
    assert told["trials"] == "must be a whole number, not 'many'"
    assert told["model"] == "has to be filled in"
    assert told["name"].startswith("needs letters, digits")
    assert re.findall(r'<a href="#(?!main)(\w+)">', page.text) == ["name", "model", "sla", "p99_ttft_ms", "trials"]
    assert 'value="many"' in page.text
    assert store.jobs() == ()


@pytest.mark.parametrize(
    ("typed", "field", "words"),
    [
        ({"model": "nowhere"}, "model", "no folder with a config.json"),
        ({"engine": "abacus"}, "engine", "no engine profile 'abacus'"),
        ({"search_space": "moon"}, "search_space", "no search space 'moon'"),
        ({"max_per_trial": "0"}, "max_per_trial", "must be"),
        ({"wall_clock_min": "-1"}, "wall_clock_min", "must be above 0"),
        ({"priority": "1000"}, "priority", "must be at most 100"),
        ({"line_name": "p95_ttft_ms", "line_limit": ""}, "line_0", "needs a limit"),
        ({"line_name": "p99_ttft_ms", "line_limit": "3"}, "line_0", "is given above already"),
        ({"line_name": "p95_ttft_ms", "line_limit": "soon"}, "line_0", "must be a number, not 'soon'"),
        ({"confidence": "95"}, "confidence", "must be below 1, not 95"),
        ({"instrument": "wrk"}, "instrument", "must be 'autotune', 'vllm-bench' or 'guidellm', not 'wrk'"),
        ({"p99_ttft_ms": ""}, "sla", "needs at least one latency line"),
        ({"space_yaml": "version: 1\nname: mine"}, "space_yaml", "missing key"),
        ({"space_yaml": "a: [1"}, "space_yaml", "line 1: not valid YAML"),
        ({"workload_yaml": "a: &x [1]\nb: " + "[" * 40}, "workload_yaml", "nested too deeply"),
    ],
)
def test_a_problem_is_told_at_its_field(browser: TestClient, typed: dict[str, str], field: str, words: str):
    page = send(browser, **typed)
    told = re.findall(rf'<p class="error" id="{field}-error\d*">(.*?)</p>', page.text)
    assert page.status_code == 422
    assert any(words in html.unescape(text) for text in told), text_of(page)


@pytest.mark.parametrize(
    "field",
    ["max_per_trial", "trials", "wall_clock_min", "device_hours", "confirm_top", "confirm_runs", "seed", "priority"],
)
@pytest.mark.parametrize("digits", [30, 300, 400, 5000])
def test_a_number_without_bounds_is_told_at_its_field(browser: TestClient, field: str, digits: int):
    """From 309 digits on no double holds it, from 4,301 on Python reads it no more."""
    page = send(browser, **{field: "9" * digits})
    assert page.status_code == 422
    assert re.findall(rf'<p class="error" id="{field}-error\d*">(.*?)</p>', page.text), text_of(page)


@pytest.mark.parametrize(
    "address", ["/?search=%00", "/jobs/%00", "/jobs/a%00b/progress", "/jobs/-", "/jobs/" + "a" * 101]
)
def test_an_address_that_no_database_could_answer_is_a_page_that_says_so(browser: TestClient, address: str):
    page = browser.get(address)
    assert (page.status_code, page.headers["content-type"]) == (422, "text/html; charset=utf-8")
    assert "The address is wrong" in text_of(page)


@pytest.mark.parametrize("address", ["/nowhere", "/dashboard/jobs/nowhere", "/assets/nowhere.css"])
def test_what_is_not_there_is_a_page_for_a_browser_and_a_problem_for_a_program(browser: TestClient, address: str):
    page = browser.get(address, headers={"Accept": "text/html,*/*;q=0.8"})
    assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert 'href="/"' in page.text
    told = browser.get(address)
    assert (told.status_code, told.headers["content-type"]) == (404, "application/problem+json")


def test_what_the_gate_refuses_is_a_page_for_a_browser(settings: Settings, store: SharedStore):
    hasty = settings.model_copy(update={"service": ServiceSettings(rate_per_s=0.001, rate_burst=1)})
    with TestClient(create_app(hasty, store), base_url="http://localhost", headers={"Accept": "text/html"}) as browser:
        assert browser.get("/").status_code == 200
        page = browser.get("/")
        assert page.status_code == 429
        assert "Too many requests" in text_of(page)
        assert int(page.headers["Retry-After"]) > 1
        assert browser.get("/v1/jobs").headers["content-type"] == "application/problem+json"
        lost = browser.get("/", headers={"Host": "elsewhere"})
        assert lost.status_code == 421
        assert "does not answer for the host 'elsewhere'" in text_of(lost)


def test_a_pasted_space_and_workload_take_the_place_of_bundled_ones(browser: TestClient, store: SharedStore):
    space = {
        "version": 1,
        "name": "mine",
        "parameters": {"max_num_seqs": {"type": "int", "values": [4, 8]}},
        "starting_points": {"baseline": {"max_num_seqs": 8}},
    }
    fixed = {"kind": "fixed", "tokens": 16}
    workload = {
        "version": 1,
        "name": "tiny",
        "dataset": {"kind": "synthetic", "input_tokens": fixed, "output_tokens": dict(fixed)},
        "arrival": {"kind": "closed_loop"},
        "levels": [4],
        "requests_per_level": 32,
    }
    texts = {"space_yaml": yaml.safe_dump(space), "workload_yaml": yaml.safe_dump(workload)}
    job = store.job(submitted(browser, **texts))
    assert (job.spec["search_space"], job.space["name"]) == ("mine", "mine")
    assert (job.spec["workload"], job.workload["levels"]) == ("tiny", [4.0])


def test_a_pasted_workload_reads_no_file_of_the_server(browser: TestClient, store: SharedStore):
    workload = (
        "version: 1\nname: spy\ndataset: {kind: sharegpt, path: /etc/passwd}\narrival: {kind: closed_loop}\n"
        "levels: [4]\nrequests_per_level: 32\n"
    )
    page = send(browser, workload_yaml=workload)
    assert page.status_code == 422
    assert "root:" not in page.text
    assert store.jobs() == ()


def test_pressing_the_button_twice_makes_one_job(browser: TestClient, store: SharedStore):
    assert submitted(browser) == submitted(browser)
    assert submitted(browser, p99_ttft_ms="300") != submitted(browser)
    assert len(store.jobs()) == 2


def test_a_form_without_its_sessions_token_is_refused(browser: TestClient, open_browser: Open, store: SharedStore):
    foreign = csrf_of(open_browser())
    own = csrf_of(browser)
    for sent in ({}, {"csrf_token": "0" * 64}, {"csrf_token": foreign}):
        assert browser.post("/submit", data={**site["FORM"], **sent}).status_code == 403
    assert store.jobs() == ()
    assert browser.post("/submit", data={**site["FORM"], "csrf_token": own}).status_code == 200


def test_a_form_of_another_site_is_refused(browser: TestClient, store: SharedStore):
    csrf = csrf_of(browser)
    data = {**site["FORM"], "csrf_token": csrf}
    assert browser.post("/submit", data=data, headers={"origin": "http://evil.example"}).status_code == 403
    assert store.jobs() == ()


# The job page


def test_a_waiting_job_says_that_no_worker_runs(browser: TestClient):
    assert "no worker is running" in text_of(browser.get(f"/jobs/{submitted(browser)}"))


def test_a_waiting_job_says_that_the_workers_are_busy(browser: TestClient, store: SharedStore):
    from autotune.service.app import utc_now

    store.sign(WorkerSign(owner="w", started_at=utc_now(), seen_at=utc_now(), version="1", job="another"))
    assert "the worker is busy" in text_of(browser.get(f"/jobs/{submitted(browser)}"))


def test_a_running_job_shows_how_far_it_is(browser: TestClient, store: SharedStore, trials: list[Trial]):
    job = submitted(browser)
    lease = site["begun"](store)
    site["played"](store, lease, trials[:2])
    facts = {"stage": "load level", "level": 2, "done": 30, "planned": 300}
    store.report(lease, JobProgress(phase="baseline and search", done=2, planned=9, running={2: facts}, at=NOW))
    for address in (f"/jobs/{job}", f"/jobs/{job}/progress"):
        said = text_of(browser.get(address))
        assert "2 of 9 launches" in said
        assert "trial 2 load level 2 30 of 300 requests" in said
    assert "Files to export are offered once the job has ended" in text_of(browser.get(f"/jobs/{job}?select=trial=1:0"))


def test_the_mark_of_the_progress_changes_when_a_trial_ends(
    browser: TestClient, store: SharedStore, trials: list[Trial]
):
    job = submitted(browser)
    lease = site["begun"](store)

    def mark() -> str:
        found = re.search(r'data-mark="([^"]*)"', browser.get(f"/jobs/{job}/progress").text)
        assert found is not None
        return found[1]

    before = mark()
    site["played"](store, lease, trials[:1])
    assert mark() != before


def test_a_finished_job_selects_its_recommendation_and_offers_every_format(browser: TestClient, finished: str):
    page = browser.get(f"/jobs/{finished}")
    assert "★ Run trial 1" in text_of(page)
    assert "Trial 1 at 4 concurrent" in text_of(page)
    offered = re.findall(rf'href="/v1/jobs/{finished}/export\?select=trial=1:0&amp;format=(\w+)"', page.text)
    assert offered == ["vllm", "command", "env", "compose", "kubernetes", "json", "csv"]
    assert "max-num-seqs: 32" in page.text


def test_a_point_is_selected_by_its_address(browser: TestClient, finished: str):
    said = text_of(browser.get(f"/jobs/{finished}?select=trial=0:0"))
    assert "Trial 0 at 4 concurrent" in said
    assert "Nothing: it is the baseline's configuration" in said


def test_a_point_that_was_not_steady_says_what_moved(
    browser: TestClient, store: SharedStore, make_trial: MakeTrial, make_point: MakePoint
):
    moved = make_point(100.0, 500.0, limit_ms=400.0).model_copy(
        update={"steady": False, "drift": 3.2, "drift_of": "tpot"}
    )
    job = submitted(browser)
    site["played"](store, site["begun"](store), [make_trial(0, {"max_num_seqs": 256, "block_size": 128}, moved)])
    said = text_of(browser.get(f"/jobs/{job}?select=trial=0:0"))
    assert (
        "Latency still moved at the end (the TPOT of the second half is 3.20x the first): "
        "a longer level would show worse figures."
    ) in said


@pytest.mark.parametrize(("rule", "trial"), [("min-latency", 0), ("max-throughput", 1), ("recommended", 1)])
def test_a_rule_selects_its_point(browser: TestClient, finished: str, rule: str, trial: int):
    assert f"Trial {trial} at" in text_of(browser.get(f"/jobs/{finished}?select={rule}"))


def test_a_point_that_misses_the_sla_is_shown_and_not_exported(browser: TestClient, finished: str):
    page = browser.get(f"/jobs/{finished}?select=trial=2:0")
    assert "P99 TTFT 600.0 ms of 400 ms, missed" in text_of(page)
    assert "/export?" not in page.text


@pytest.mark.parametrize("select", ["trial=99", "trial=3", "nonsense", "trial=1:7", "<script>"])
def test_a_selection_that_means_nothing_is_told_on_the_page(browser: TestClient, finished: str, select: str):
    page = browser.get(f"/jobs/{finished}", params={"select": select})
    assert page.status_code == 200
    assert "No point selected" in page.text
    assert "<script>" not in page.text


def test_the_plot_tells_front_baseline_and_violators_apart_and_names_every_point(browser: TestClient, finished: str):
    page = browser.get(f"/jobs/{finished}").text
    labels = re.findall(r'<a class="spot" [^>]*aria-label="([^"]*)"', page, re.DOTALL)
    assert sorted(labels) == [
        "trial 0 (baseline) at 4 concurrent, 500 tok/s per device, P99 TTFT 100 ms, on the Pareto front",
        "trial 1 at 4 concurrent, 700 tok/s per device, P99 TTFT 150 ms, on the Pareto front, recommended",
        "trial 2 at 4 concurrent, 900 tok/s per device, P99 TTFT 600 ms, misses the SLA",
    ]
    assert page.count('class="frontline"') == 1
    assert "SLA 400 ms" in page


def test_a_failed_launch_tells_its_cause_and_advice(browser: TestClient, finished: str):
    said = text_of(browser.get(f"/jobs/{finished}"))
    assert "Out of device memory." in said
    assert "Lower gpu_memory_utilization." in said


def test_a_job_without_a_solution_names_the_closest_trial(browser: TestClient, store: SharedStore, trials: list[Trial]):
    job = submitted(browser)
    lease = site["begun"](store)
    missing = [trials[2].model_copy(update={"number": 0, "purpose": "baseline", "origin": "baseline"})]
    site["played"](store, lease, missing)
    site["ended"](store, lease, missing)
    page = browser.get(f"/jobs/{job}")
    assert "Nothing to recommend" in text_of(page)
    assert "Trial 0 at 4 concurrent ✕ misses the SLA" in text_of(page)
    assert f'href="/jobs/{job}?select=trial=0#selected"' in page.text


def test_cancel_and_resume_are_buttons_of_the_page(browser: TestClient, store: SharedStore):
    job = submitted(browser)
    csrf = csrf_of(browser, f"/jobs/{job}")
    page = browser.post(f"/jobs/{job}/cancel", data={"csrf_token": csrf})
    assert (page.status_code, store.job(job).status) == (200, JobStatus.CANCELLED)
    assert f'action="/jobs/{job}/resume"' in page.text
    browser.post(f"/jobs/{job}/resume", data={"csrf_token": csrf})
    assert store.job(job).status is JobStatus.QUEUED


@pytest.mark.parametrize("action", ["cancel", "resume"])
def test_a_button_without_its_token_does_nothing(browser: TestClient, store: SharedStore, action: str):
    job = submitted(browser)
    assert browser.post(f"/jobs/{job}/{action}").status_code == 403
    assert store.job(job).status is JobStatus.QUEUED


def test_a_resumed_job_does_not_recommend_what_its_last_run_did(
    browser: TestClient, store: SharedStore, trials: list[Trial]
):
    job = submitted(browser)
    lease = site["begun"](store)
    site["played"](store, lease, trials)
    result = store.job(job).result
    assert result is None
    site["ended"](store, lease, trials)
    assert "★ Run trial 1" in text_of(browser.get(f"/jobs/{job}"))
    again = store.claim(job, "a test", now=NOW)
    store.set_status(again, JobStatus.RUNNING)
    assert "★ Run trial" not in text_of(browser.get(f"/jobs/{job}"))


def test_an_unknown_job_is_a_page_that_says_so(browser: TestClient):
    page = browser.get("/jobs/nowhere")
    assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert "nowhere" in page.text


def test_what_people_and_engines_write_is_never_markup(browser: TestClient, store: SharedStore, trials: list[Trial]):
    attack = "</script><img src=x onerror=alert(1)>"
    refused = send(browser, name=attack, model=attack, space_yaml=attack)
    assert refused.status_code == 422
    job = submitted(browser)
    lease = site["begun"](store)
    evil = trials[1].model_copy(update={"origin": attack, "knobs": {"max_num_seqs": attack}})
    failed = trials[3].model_copy(update={"result": trials[3].result and trials[3].result.model_copy()})
    assert failed.result is not None
    assert failed.result.outcome.kind == "infeasible"
    evidence = failed.result.outcome.evidence.model_copy(update={"cause": attack, "line": attack, "advice": attack})
    outcome = failed.result.outcome.model_copy(update={"evidence": evidence})
    failed = failed.model_copy(update={"result": failed.result.model_copy(update={"outcome": outcome})})
    rows = [trials[0], evil, trials[2], failed]
    site["played"](store, lease, rows)
    store.finish_job(lease, JobStatus.FAILED, None, finished_at=NOW, message=attack)
    pages = [refused, *(browser.get(address) for address in ("/", f"/jobs/{job}", f"/jobs/{job}?select=trial=1:0"))]
    for page in [*pages, browser.get("/", params={"search": attack}), browser.get("/jobs/" + attack)]:
        assert "<img src=x" not in page.text
    assert html.escape(attack, quote=False).replace("&", "&") in pages[2].text


# Who may see what


def test_a_stranger_is_led_to_the_login_and_back(open_browser: Open, store: SharedStore):
    token, browser = site["token_of"](store, "red", Role.SUBMITTER), open_browser()
    asked = browser.get("/?status=running", follow_redirects=False)
    assert (asked.status_code, asked.headers["location"]) == (303, "/login?next=%2F%3Fstatus%3Drunning")
    done = log_in(browser, token, "/?status=running")
    assert (done.status_code, done.headers["location"]) == (303, "/?status=running")
    assert browser.get("/?status=running", follow_redirects=False).status_code == 200


@pytest.mark.parametrize("wrong", ["", "vat_0", "vat_000000000000_" + "x" * 43])
def test_a_wrong_token_is_told_beside_its_field(open_browser: Open, store: SharedStore, wrong: str):
    site["token_of"](store, "red", Role.VIEWER)
    browser = open_browser()
    page = log_in(browser, wrong)
    assert page.status_code == 401
    assert re.search(r'id="token-error">.*unknown, expired or revoked', page.text)
    assert browser.get("/", follow_redirects=False).status_code == 303


def test_the_token_is_never_shown_again(open_browser: Open, store: SharedStore):
    site["token_of"](store, "red", Role.VIEWER)
    assert "vat_secret" not in log_in(open_browser(), "vat_secret").text


def test_a_login_form_of_another_site_is_refused(open_browser: Open, store: SharedStore):
    token, browser = site["token_of"](store, "red", Role.VIEWER), open_browser()
    assert browser.post("/login", data={"token": token}).status_code == 403
    browser.get("/login")
    assert browser.post("/login", data={"token": token, "csrf_token": "0" * 64}).status_code == 403


@pytest.mark.parametrize(("https", "address"), [(True, "http://localhost"), (False, "https://localhost")])
def test_behind_tls_the_cookie_is_never_sent_without(settings: Settings, store: SharedStore, https: bool, address: str):
    """Whether its operator says so, or the request itself came through it."""
    behind = settings.model_copy(update={"service": ServiceSettings(https=https)})
    with TestClient(create_app(behind, store), base_url=address) as browser:
        assert "; Secure" in browser.get("/").headers["set-cookie"]


def test_a_session_begins_with_a_key_of_its_own(open_browser: Open, store: SharedStore):
    token, browser = site["token_of"](store, "red", Role.VIEWER), open_browser()
    browser.get("/login")
    planted = browser.cookies[COOKIE]
    log_in(browser, token)
    assert browser.cookies[COOKIE] != planted
    assert store.web_session(secret_hash(planted)) is None


def test_logging_out_ends_the_session_on_the_server(open_browser: Open, store: SharedStore):
    token, browser = site["token_of"](store, "red", Role.SUBMITTER), open_browser()
    log_in(browser, token)
    key = browser.cookies[COOKIE]
    browser.post("/logout", data={"csrf_token": csrf_of(browser)})
    assert store.web_session(secret_hash(key)) is None
    assert browser.get("/", follow_redirects=False).status_code == 303


@pytest.mark.parametrize(
    "goal", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "/\n//evil", ""]
)
def test_the_way_back_stays_on_this_site(goal: str):
    assert local_address(goal) == "/"


def test_a_tenant_sees_its_own_jobs_only(open_browser: Open, store: SharedStore):
    red, blue = open_browser(), open_browser()
    log_in(red, site["token_of"](store, "red", Role.SUBMITTER))
    log_in(blue, site["token_of"](store, "blue", Role.SUBMITTER))
    job = submitted(red)
    assert red.get(f"/jobs/{job}").status_code == 200
    assert job not in blue.get("/").text
    for address in (f"/jobs/{job}", f"/jobs/{job}/progress"):
        assert blue.get(address).status_code == 404
    stolen = blue.post(f"/jobs/{job}/cancel", data={"csrf_token": csrf_of(blue)})
    assert (stolen.status_code, store.job(job).status) == (404, JobStatus.QUEUED)


def test_an_admin_sees_whose_each_job_is(open_browser: Open, store: SharedStore):
    red, admin = open_browser(), open_browser()
    log_in(red, site["token_of"](store, "red", Role.SUBMITTER))
    log_in(admin, site["token_of"](store, "ops", Role.ADMIN))
    submitted(red)
    assert 'data-label="Tenant">red<' in admin.get("/").text
    assert 'data-label="Tenant"' not in red.get("/").text


def test_a_viewer_sees_no_form_and_may_send_none(open_browser: Open, store: SharedStore):
    viewer, submitter = open_browser(), open_browser()
    log_in(viewer, site["token_of"](store, "red", Role.VIEWER))
    log_in(submitter, site["token_of"](store, "red", Role.SUBMITTER))
    job = submitted(submitter)
    for address in ("/", f"/jobs/{job}"):
        page = viewer.get(address).text
        assert 'href="/submit"' not in page
        assert "/cancel" not in page
    assert viewer.get("/submit").status_code == 403
    csrf = csrf_of(viewer, "/")
    assert viewer.post("/submit", data={**site["FORM"], "csrf_token": csrf}).status_code == 403
    assert viewer.post(f"/jobs/{job}/cancel", data={"csrf_token": csrf}).status_code == 403
    assert store.job(job).status is JobStatus.QUEUED


def test_a_local_session_is_worth_nothing_once_there_are_tokens(
    browser: TestClient, store: SharedStore, monkeypatch: pytest.MonkeyPatch
):
    assert browser.get("/", follow_redirects=False).status_code == 200
    site["token_of"](store, "red", Role.ADMIN)
    monkeypatch.setattr(state, "OPEN", timedelta(0))  # as if the second had gone by
    assert browser.get("/", follow_redirects=False).status_code == 303


def test_a_link_of_another_site_is_followed_once_more_from_here(open_browser: Open, store: SharedStore):
    """Browsers send no strict cookie with it: without the second step everybody would be led to the login."""
    site["token_of"](store, "red", Role.ADMIN)
    page = open_browser().get("/jobs/x?select=knee", headers={"sec-fetch-site": "cross-site"}, follow_redirects=False)
    assert page.status_code == 200
    assert 'content="0; url=/jobs/x?select=knee"' in page.text
    assert "set-cookie" not in page.headers


def test_the_api_still_answers_strangers_with_a_problem(open_browser: Open, store: SharedStore):
    site["token_of"](store, "red", Role.ADMIN)
    answer = open_browser().get("/v1/jobs")
    assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")


# What every page carries


@pytest.mark.parametrize("address", ["/", "/submit", "/jobs/nowhere"])
def test_pages_allow_nothing_but_their_own_files(browser: TestClient, address: str):
    page = browser.get(address)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert page.headers["cache-control"] == "no-store"
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert all(place.startswith(("/", "#")) and not place.startswith("//") for place in loaded), loaded
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", page.text)


@pytest.mark.parametrize("name", ["pages.css", "live.js", "form.js", "mark.svg"])
def test_the_files_of_the_pages_come_from_the_package(browser: TestClient, name: str):
    found = browser.get(f"/assets/{name}")
    assert found.status_code == 200
    assert "http" not in found.text.replace("http://www.w3.org/2000/svg", "")


def test_every_field_of_the_form_has_its_own_label(browser: TestClient):
    page = browser.get("/submit").text
    fields = re.findall(r'<(?:input|select|textarea)\b(?![^>]*type="hidden")[^>]*\bid="(\w+)"', page)
    assert len(fields) == len(set(fields)) > 15
    assert [field for field in fields if f'<label for="{field}"' not in page and f'for="{field}">' not in page] == []
