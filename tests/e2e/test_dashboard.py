"""What people see of a study in Optuna dashboard, in a real browser."""

import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Page, sync_playwright

from autotune.study.dashboard import Dashboard
from autotune.study.reader import VISIBLE

pytestmark = pytest.mark.browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUIET = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
START_S = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until_listening(port: int) -> None:
    pause = threading.Event()
    for _ in range(int(START_S / 0.1)):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        pause.wait(0.1)
    pytest.fail(f"the dashboard does not listen on port {port} after {START_S:g} s")


@pytest.fixture(scope="module")
def address(archive: Any) -> Iterator[str]:
    """The dashboard on the archive's database, started as people start it; the first study's page."""
    port = free_port()
    command = archive.cli.command("dashboard", "--port", port)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=archive.cli.environment, cwd=archive.cli.home, **quiet) as server:
        until_listening(port)
        yield f"http://127.0.0.1:{port}/dashboard/studies/1"
        server.terminate()


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no Chromium on PATH (looked for {', '.join(BROWSERS)})")
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=found, args=QUIET) as browser:
        yield browser.new_page(viewport={"width": 1500, "height": 1100})


@pytest.fixture(scope="module")
def study(page: Page, address: str) -> Page:
    """The study's page, once its plots are drawn."""
    page.goto(address)
    page.wait_for_selector("#graph-pareto-front.js-plotly-plot")
    page.wait_for_selector("#graph-timeline.js-plotly-plot")
    return page


def drawn(page: Page, plot: str) -> list[dict[str, Any]]:
    """The traces of a plotly plot that show trials."""
    script = """plot => document.getElementById(plot).data
        .filter(trace => trace.marker && trace.marker.color !== '#ffffff00')
        .map(trace => ({name: trace.name, x: trace.x, y: trace.y, color: trace.marker.color}))"""
    return [trace for trace in page.evaluate(script, plot) if trace["x"]]


def test_the_pareto_plot_has_the_measured_trials_with_the_violator_told_apart(study: Page):
    infeasible, best = drawn(study, "graph-pareto-front")
    assert (infeasible["x"], infeasible["y"], infeasible["color"]) == ([900], [600], "#cccccc")
    assert (best["x"], best["y"]) == ([500, 700], [100, 150])


def test_the_timeline_tells_infeasible_and_failed_trials_apart(study: Page):
    assert {trace["name"]: len(trace["y"]) for trace in drawn(study, "graph-timeline")} == {
        "Complete": 2,
        "Infeasible": 1,
        "Fail": 1,
    }


def test_the_objectives_have_names_with_units(study: Page):
    text = study.inner_text("body")
    assert "output throughput per device (tok/s)" in text
    assert "P99 TTFT (ms)" in text


def test_a_trial_that_violates_the_sla_is_not_among_the_best(study: Page):
    best = study.locator(".MuiCard-root", has_text="Best Trials").inner_text()
    assert "Trial 0" in best
    assert "Trial 1" in best
    assert "Trial 2" not in best


def test_the_study_says_what_it_is_about(study: Page):
    text = study.inner_text("body")
    assert "engine version" in text
    assert "vllm 0.32.0" in text


@pytest.fixture(scope="module")
def failed(study: Page, address: str) -> str:
    """The text of the failed trial's page."""
    study.goto(f"{address}/trials?numbers=3")
    study.get_by_text("Trial 3 (trial_id=4)").wait_for()
    return study.inner_text("body")


def test_a_failed_trial_tells_its_cause_its_advice_and_the_line(failed: str):
    assert "cause: Out of device memory." in failed
    assert "advice: Lower gpu_memory_utilization." in failed
    assert "line: NPU out of memory. Tried to allocate 22.00 MiB" in failed


def test_knobs_are_shown_with_their_real_values(failed: str):
    assert "max_num_seqs 8" in failed
    assert "block_size 16" in failed


@pytest.fixture(scope="module")
def measured(study: Page, address: str) -> Page:
    """The page of a measured trial, once its picture is there."""
    study.goto(f"{address}/trials?numbers=1")
    study.get_by_text("Trial 1 (trial_id=2)").wait_for()
    study.wait_for_selector("img[src^='/artifacts/']")
    return study


def test_a_measured_trial_has_its_note(measured: Page):
    text = measured.inner_text("body")
    assert "operating point: 4 concurrent, 700.0 tok/s per device, P99 TTFT 150.0 ms" in text
    assert "bottleneck: slots: 31.8 of 32 slots were in use. Raise max_num_seqs." in text


def test_a_measured_trial_shows_its_latency_against_its_load(measured: Page):
    picture = measured.locator("img[src^='/artifacts/']")
    picture.evaluate("img => img.decode()")
    assert picture.evaluate("img => img.naturalWidth") == 640


def test_an_artifact_downloads(measured: Page):
    with measured.expect_download() as downloading:
        card = measured.locator(".MuiCard-root", has_text="benchmark.json").last
        card.locator("a[download]").click()
    assert downloading.value.suggested_filename == "benchmark.json"
    document = json.loads(downloading.value.path().read_text())
    assert [level["output_throughput"] for level in document["levels"]] == [700.0]


def test_the_engine_s_log_of_a_failed_trial_can_be_read(failed: str, page: Page, address: str):
    assert "engine.log" in failed
    details = page.request.get(address.replace("/dashboard/", "/api/")).json()
    trial = details["trials"][3]
    (log,) = trial["artifacts"]
    path = f"/artifacts/1/{trial['trial_id']}/{log['artifact_id']}"
    assert "NPU out of memory" in page.request.get(address.partition("/dashboard")[0] + path).text()


def test_the_study_s_note_links_to_the_job_and_its_export(page: Page, address: str, archive: Any):
    page.goto(f"{address}/note")
    link = page.get_by_role("link", name="the job in the service")
    link.wait_for()
    assert link.get_attribute("href") == f"/jobs/{archive.job.id}"
    text = page.inner_text("body")
    assert "SLA: p99_ttft_ms ≤ 400, error_rate ≤ 0.01" in text
    assert f"autotune export {archive.job.id}" in text


def test_nothing_that_writes_is_offered(page: Page, address: str):
    page.goto(address.partition("/studies")[0])
    page.get_by_text("Compare").wait_for()
    for name in ("Create", "rename study", "delete study"):
        assert page.get_by_role("button", name=name).count() == 0, name
    page.goto(f"{address}/trials?numbers=1")
    page.wait_for_selector("img[src^='/artifacts/']")
    assert page.locator("[data-testid=DeleteIcon]:visible, [data-testid=EditIcon]:visible").count() == 0


def test_a_study_cannot_be_deleted_nor_a_trial_told(page: Page, address: str):
    site = address.partition("/dashboard")[0]
    for method, path in (("DELETE", "/api/studies/1"), ("POST", "/api/trials/1/tell"), ("PUT", "/api/studies/1/note")):
        answer = page.request.fetch(site + path, method=method, data={})
        assert (answer.status, "read-only" in answer.json()["reason"]) == (405, True), path
    page.goto(address)
    page.wait_for_selector("#graph-pareto-front.js-plotly-plot")


@pytest.fixture(scope="module")
def tenants_address(archive: Any) -> Iterator[str]:
    """The dashboard as a server shows it to somebody who may see the second study only."""
    home = archive.cli.home
    shown = Dashboard(f"sqlite:///{home / 'autotune.db'}", home / "artifacts").asgi

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await shown({**scope, VISIBLE: frozenset({archive.hopeless.id})}, receive, send)

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(application, port=port, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    until_listening(port)
    yield f"http://127.0.0.1:{port}/dashboard"
    server.should_exit = True
    thread.join()


def test_the_list_has_only_the_studies_that_are_visible(page: Page, tenants_address: str, archive: Any):
    page.goto(tenants_address)
    page.get_by_text(archive.hopeless.id).wait_for()
    assert archive.job.id not in page.inner_text("body")


def test_somebody_else_s_study_is_not_shown(page: Page, tenants_address: str, archive: Any):
    with page.expect_response("**/api/studies/1*") as asked:
        page.goto(f"{tenants_address}/studies/1")
    assert asked.value.status == 404
    assert archive.job.id not in page.inner_text("body")
