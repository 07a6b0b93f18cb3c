"""The pages in a real browser: by keyboard alone, on a phone, without scripts, and while a real worker runs a job."""

import re
import runpy
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import yaml
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from autotune.results import LoadPoint, Trial
from autotune.service.app import create_app
from autotune.settings import Settings
from autotune.store import SharedStore

pytestmark = pytest.mark.browser

site = runpy.run_path(str(Path(__file__).parents[1] / "data" / "pages_site.py"))

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
PHONE = {"width": 360, "height": 740}
MOST_TABS = 90
LIVE_S = 120.0
ATTACK = "</script><img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no Chromium on PATH (looked for {', '.join(BROWSERS)})")
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=found, args=QUIET) as browser:
        yield browser


@dataclass(frozen=True)
class Site:
    """A service that listens, with a finished job and one that attacks whoever looks at it."""

    address: str
    store: SharedStore
    finished: str
    attacking: str


@pytest.fixture(scope="module")
def shown(
    tmp_path_factory: pytest.TempPathFactory,
    make_trial: Callable[..., Trial],
    make_point: Callable[..., LoadPoint],
) -> Iterator[Site]:
    settings = Settings(home=tmp_path_factory.mktemp("pages"))

    def point(p99_ttft_ms: float, throughput: float, level: int = 0) -> LoadPoint:
        return make_point(p99_ttft_ms, throughput, limit_ms=400.0, level=level, value=4.0 * (level + 1))

    trials = [
        make_trial(0, {"max_num_seqs": 256, "block_size": 128}, point(100.0, 500.0)),
        make_trial(1, {"max_num_seqs": 32, "block_size": 64}, point(150.0, 700.0), point(250.0, 800.0, 1)),
        make_trial(2, {"max_num_seqs": 2, "block_size": 128}, point(600.0, 900.0)),
        make_trial(3, {"max_num_seqs": 8, "block_size": 16}, oom=True),
    ]
    with SharedStore.open(settings.database) as store:
        app = create_app(settings, store)
        with TestClient(app, base_url="http://localhost") as client:
            jobs = [site["submitted"](client, nonce=nonce) for nonce in "12"]
        leases = [site["begun"](store), site["begun"](store)]
        by_job = {lease.job_id: lease for lease in leases}
        site["played"](store, by_job[jobs[0]], trials)
        site["ended"](store, by_job[jobs[0]], trials)
        evil = trials[1].model_copy(update={"origin": ATTACK, "knobs": {"max_num_seqs": ATTACK}})
        site["played"](store, by_job[jobs[1]], [trials[0], evil])
        site["failed"](store, by_job[jobs[1]], ATTACK)
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield Site(f"http://127.0.0.1:{listening.getsockname()[1]}", store, *jobs)
        server.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture
def context(chromium: Browser, shown: Site) -> Iterator[BrowserContext]:
    with chromium.new_context(base_url=shown.address) as opened:
        yield opened


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A page that may not complain: a script that fails or is refused fails the test."""
    complaints: list[str] = []
    opened = context.new_page()
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    yield opened
    assert [told for told in complaints if not told.startswith("Failed to load resource")] == []


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until the element has the focus, as somebody without a mouse does."""
    for _ in range(MOST_TABS):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    pytest.fail(f"{selector} is not reached with Tab")


def type_into(page: Page, selector: str, text: str) -> None:
    tab_to(page, selector)
    page.keyboard.press("Control+A")
    page.keyboard.type(text)


# By keyboard


def test_a_job_is_submitted_with_the_keyboard_alone(page: Page, shown: Site):
    page.goto("/")
    tab_to(page, 'a.button[href="/submit"]')
    page.keyboard.press("Enter")
    page.wait_for_url("**/submit")
    type_into(page, "#name", "by-keyboard")
    type_into(page, "#p99_ttft_ms", "321")
    tab_to(page, "form[action='/submit'] button.button")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/jobs/by-keyboard-"))
    job = shown.store.job("by-keyboard")
    assert (job.spec["sla"]["p99_ttft_ms"], job.spec["model"]) == (321.0, "tiny-llama")


def test_a_wrong_field_is_reached_from_the_summary_of_the_problems(page: Page):
    page.goto("/submit")
    type_into(page, "#trials", "many")
    page.keyboard.press("Enter")
    page.wait_for_selector("[role=alert]")
    tab_to(page, 'a[href="#trials"]')
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "trials"
    described = page.get_attribute("#trials", "aria-describedby") or ""
    assert page.inner_text(f"#{described.split()[0]}").endswith("must be a whole number, not 'many'")
    assert page.input_value("#trials") == "many"


def test_a_point_is_selected_and_its_export_downloaded_with_the_keyboard_alone(page: Page, shown: Site, tmp_path: Path):
    page.goto(f"/jobs/{shown.finished}")
    tab_to(page, "a.spot")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowRight")
    while page.evaluate("document.activeElement.id") != "spot-0-0":
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator("#selected")).to_contain_text("Trial 0 at 4 concurrent")
    assert page.evaluate("document.activeElement.id") == "selected"
    assert page.url.endswith("?select=trial=0:0#selected")
    tab_to(page, 'a[data-format="vllm"]')
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    saved = tmp_path / "config.yaml"
    download.value.save_as(saved)
    assert yaml.safe_load(saved.read_text())["max-num-seqs"] == 256
    assert shown.finished in download.value.suggested_filename


def test_the_focus_can_be_seen_on_a_point(page: Page, shown: Site):
    page.goto(f"/jobs/{shown.finished}")
    tab_to(page, "a.spot")
    width = page.evaluate("getComputedStyle(document.activeElement.querySelector('.hit')).strokeWidth")
    assert width == "3px"


def test_going_back_shows_the_selection_before(page: Page, shown: Site):
    page.goto(f"/jobs/{shown.finished}?select=trial=1:1")
    page.click("#spot-0-0")
    expect(page.locator("#selected")).to_contain_text("Trial 0")
    page.go_back()
    expect(page.locator("#selected")).to_contain_text("Trial 1")


# Without scripts, and on a phone


def test_a_point_is_selected_without_scripts(chromium: Browser, shown: Site):
    with chromium.new_context(base_url=shown.address, java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f"/jobs/{shown.finished}")
        page.click("#spot-0-0")
        page.wait_for_url("**/*select=trial=0:0*")
        assert "Trial 0 at 4 concurrent" in page.inner_text("#selected")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_a_phone_and_fingers_hit_what_they_mean(chromium: Browser, shown: Site, scheme: Any):
    with chromium.new_context(
        base_url=shown.address, viewport=PHONE, has_touch=True, is_mobile=True, color_scheme=scheme
    ) as context:
        page = context.new_page()
        for address in (
            "/",
            "/submit",
            f"/jobs/{shown.finished}",
            f"/jobs/{shown.attacking}",
            "/jobs/none",
            "/?search=q",
        ):
            page.goto(address)
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= PHONE["width"], f"{address} is {wide} px wide"
            small = page.evaluate(
                """() => [...document.querySelectorAll('button, select, input:not([type=hidden]), a.spot .hit')]
                    .map(e => [e.getBoundingClientRect(), e.outerHTML.slice(0, 80)])
                    .filter(([box]) => box.width > 1 && (box.width < 24 || box.height < 24)).map(([, html]) => html)"""
            )
            assert small == [], address
        page.goto(f"/jobs/{shown.finished}")
        page.tap("#spot-1-1")
        expect(page.locator("#selected")).to_contain_text("Trial 1 at 8 concurrent")


def test_text_has_enough_contrast_in_light_and_dark(chromium: Browser, shown: Site):
    """WCAG AA: 4.5 to 1 for every text, against the nearest background that is painted."""
    script = (Path(__file__).parents[1] / "data" / "contrast.js").read_text()
    for scheme in ("light", "dark"):
        with chromium.new_context(base_url=shown.address, color_scheme=scheme) as context:
            page = context.new_page()
            for address in ("/", "/submit", f"/jobs/{shown.finished}", f"/jobs/{shown.attacking}"):
                page.goto(address)
                assert page.evaluate(script) == [], f"{address} in {scheme}"
            page.evaluate("document.querySelector('h1').style.color = getComputedStyle(document.body).backgroundColor")
            assert page.evaluate(script) != [], "the measure does not see what nobody can read"


# What is written by others


def test_an_attack_in_what_was_measured_stays_text(page: Page, shown: Site):
    for address in (f"/jobs/{shown.attacking}", f"/jobs/{shown.attacking}?select=trial=1:0", "/"):
        page.goto(address)
        assert page.title().endswith("vllm-autotune")
        assert page.locator("img[src=x]").count() == 0
    page.goto(f"/jobs/{shown.attacking}")
    assert ATTACK in page.inner_text("#progress")


# While a job runs


def test_a_page_follows_its_job_where_nothing_can_be_pushed(context: BrowserContext, shown: Site):
    context.route("**/events", lambda route: route.abort())
    page = context.new_page()
    page.goto("/submit")
    page.fill("#name", "polled")
    page.get_by_role("button", name="Submit the job").click()
    page.wait_for_url(re.compile("/jobs/polled-"))
    badge = page.locator("#progress .badge")
    expect(badge).to_contain_text("queued")
    shown.store.cancel(shown.store.job("polled").id, now=site["NOW"])
    expect(badge).to_contain_text("cancelled", timeout=LIVE_S * 1000)
    expect(page.get_by_role("button", name="Resume the job")).to_be_visible()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until_listening(port: int) -> None:
    pause = threading.Event()
    for _ in range(int(LIVE_S / 0.1)):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        pause.wait(0.1)
    pytest.fail(f"the service does not listen on port {port} after {LIVE_S:g} s")


@pytest.fixture
def served(make_cli: Callable[..., Any], tmp_path: Path) -> Iterator[str]:
    """The service as people start it, with its worker."""
    cli, port = make_cli(tmp_path), free_port()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = cli.command("serve", "--port", port)
    with subprocess.Popen(command, env=cli.environment, cwd=cli.home, **quiet) as server:
        until_listening(port)
        yield f"http://127.0.0.1:{port}"
        server.terminate()


WORKLOAD = {
    "version": 1,
    "name": "short",
    "dataset": {
        "kind": "synthetic",
        "input_tokens": {"kind": "fixed", "tokens": 16},
        "output_tokens": {"kind": "fixed", "tokens": 8},
    },
    "arrival": {"kind": "closed_loop"},
    "levels": [4],
    "requests_per_level": 32,
}


@pytest.mark.ray
def test_a_page_follows_a_real_job_to_its_end_without_being_loaded_again(chromium: Browser, served: str):
    with chromium.new_context(base_url=served) as context:
        page = context.new_page()
        pushed: list[int] = []
        page.on("response", lambda answer: pushed.append(answer.status) if answer.url.endswith("/events") else None)
        page.goto("/submit")
        page.fill("#name", "live")
        page.fill("#model", "tiny-llama")
        page.select_option("#engine", "simulated")
        page.select_option("#resource", "CPU")
        page.fill("#max_per_trial", "1")
        page.select_option("#search_space", "demo")
        page.get_by_text("Paste a workload of your own", exact=True).first.click()
        page.fill("#workload_yaml", yaml.safe_dump(WORKLOAD))
        page.fill("#p99_ttft_ms", "5000")
        page.fill("#p99_tpot_ms", "1000")
        page.fill("#trials", "2")
        page.get_by_text("Confirmation, sampler and instrument").click()
        page.fill("#confirm_top", "0")
        page.get_by_role("button", name="Submit the job").click()
        page.wait_for_url(re.compile("/jobs/live-"))
        page.evaluate("window.neverReloaded = true")
        badge = page.locator("#progress .badge")
        expect(badge).to_contain_text("running", timeout=LIVE_S * 1000)
        expect(page.locator("#progress .phase")).to_contain_text("of 3 launches", timeout=LIVE_S * 1000)
        expect(page.locator("a.spot").first).to_be_visible(timeout=LIVE_S * 1000)
        expect(badge).to_contain_text("succeeded", timeout=LIVE_S * 1000)
        expect(page.locator("#choice-title")).to_contain_text("Run trial")
        expect(page.locator('a[data-format="vllm"]')).to_be_visible()
        expect(page.locator("#said")).to_contain_text("succeeded")
        assert page.evaluate("window.neverReloaded")
        assert pushed == [200]
