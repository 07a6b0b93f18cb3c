"""An engine that runs already, anywhere, measured without being tuned."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from autotune.engines import loopback
from autotune.engines.loopback import Server
from autotune.engines.readback import counters, fetch_metrics, gauges
from autotune.errors import EnvironmentProblem, InputError
from autotune.level_run import LevelRun, LevelWatch
from autotune.loadgen import Endpoint, Pulse, measure
from autotune.results import LoadPoint
from autotune.trial.ladder import Site, climb
from autotune.trial.request import Control, Course
from autotune.trial.window import EngineWindow, Sources, idle
from autotune.workload import LevelPlan

_HINTS = {
    **dict.fromkeys((401, 403), "set OPENAI_API_KEY to its key"),
    **dict.fromkeys((301, 302, 303, 307, 308), "redirects are not followed; name the address that it leads to"),
}
ASK_TIMEOUT_S = 10.0
STALL_TIMEOUT_S = 120.0  # an endpoint that owes answers and gives no token for so long is given up


@dataclass(frozen=True, slots=True)
class Target:
    """An endpoint that has answered: where it is, and the folder of the model that it serves, if it told."""

    server: Server
    told_folder: str


def find_target(url: str, *, model: str | None, api_key: str) -> Target:
    """Ask an OpenAI-compatible endpoint which models it serves; `model` None takes the only or first one.

    Raises InputError for a URL that is none or a model that is not served, EnvironmentProblem when nobody answers.
    """
    server = Server(_base_url(url), model or "", api_key)
    answer = loopback.request(server, "/v1/models", timeout_s=ASK_TIMEOUT_S)
    if answer.status != 200:
        said = f"HTTP {answer.status}: {answer.body[:200].strip()}" if answer.status else answer.body
        hint = _HINTS.get(answer.status, "is the engine up, and is it there?")
        raise EnvironmentProblem(f"{server.base_url}/v1/models does not answer as it should ({said}); {hint}")
    served = _served(answer.body)
    if not served:
        raise EnvironmentProblem(f"{server.base_url}/v1/models names no model; is it an OpenAI-compatible endpoint?")
    chosen = model or next(iter(served))
    if chosen not in served:
        raise InputError(f"--model {chosen}: {server.base_url} serves {', '.join(served)}")
    return Target(Server(server.base_url, chosen, api_key), served[chosen])


def climb_endpoint(
    course: Course, target: Target, control: Control, tell: Callable[[LoadPoint], None], *, exact: bool = True
) -> list[LoadPoint]:
    """Measure the levels of a course and tell each; not `exact`: answers may be shorter than was asked for.

    Raises LevelLost when cancelled, EngineStalled when answers stop coming.
    """
    server = target.server
    pulse = Pulse(STALL_TIMEOUT_S, course.workload.request_timeout_s)

    def send(plan: LevelPlan, watch: LevelWatch) -> LevelRun:
        return measure(plan, Endpoint(server.base_url, server.model, server.api_key, exact), watch, pulse)

    sources = Sources(
        counters=lambda: counters(fetch_metrics(server)),
        gauges=lambda: gauges(fetch_metrics(server)),
        over=control.cancelled,
    )
    site = Site(
        send=send,
        gone=lambda: False,
        window=lambda: EngineWindow(sources),
        tell=tell,
        settled=lambda: idle(gauges(fetch_metrics(server))) is not False,  # some endpoints tell nothing
    )
    return climb(course, site, control)


def local_folder(target: Target, named: Path | None) -> Path:
    """The folder with the served model's config and tokenizer: the one named, or the one that the endpoint told.

    Raises InputError when there is none on this machine.
    """
    folder = named or Path(target.told_folder or target.server.model)
    if (folder / "config.json").is_file():
        return folder
    raise InputError(
        f"{folder}: no folder with a config.json; name the served model's folder with --tokenizer: prompts are made of "
        "its token ids, so that their lengths are exact"
    )


def _base_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"--url {url}: not an address; write it as http://HOST:PORT")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"


def _served(body: str) -> dict[str, str]:
    """Name of each served model -> its folder, as vLLM tells it in `root`; empty where it does not."""
    try:
        document: Any = json.loads(body)
    except ValueError:
        return {}
    models = document.get("data") if isinstance(document, dict) else None
    entries = [entry for entry in models or () if isinstance(entry, dict)]
    return {str(entry["id"]): str(entry.get("root") or "") for entry in entries if "id" in entry}
