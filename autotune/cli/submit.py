"""`autotune submit`: a job file, checked here as `run` checks it, into the queue of a server."""

import json
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.cli.console import console as open_console
from autotune.cli.outcome import DONE
from autotune.cli.place import connected
from autotune.cli.watch import watch_there
from autotune.errors import InputError
from autotune.loading import bundled
from autotune.tuner.sources import Sources, load_job


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of the command."""

    job_file: Path
    overrides: list[str]
    priority: int
    idempotency_key: str | None


def submit(server: str | None, asked: Asked, *, watch: bool, as_json: bool) -> int:
    """Check a job file and submit it; with `watch` the exit code is that of the job's outcome."""
    sources = load_job(asked.job_file, asked.overrides)
    if not server:
        raise InputError(
            "no server is named; use --server URL or set AUTOTUNE_SERVER to what `autotune serve` prints. Without a "
            f"server the job runs here with: autotune run {asked.job_file}"
        )
    _warn_of_local_model(sources)
    with connected(server) as there:
        job_id = there.submit(document(sources, asked.priority), asked.idempotency_key or secrets.token_urlsafe(24))
        addresses = {"id": job_id, "page": there.address.page_of(job_id), "dashboard": there.address.dashboard}
        if as_json:
            print(json.dumps(addresses), flush=True)
        else:
            print(
                f"{job_id} is in the queue of {there.address.url}\n"
                f"  its page:         {addresses['page']}\n"
                f"  Optuna dashboard: {addresses['dashboard']}\n"
                f"  watch it with:    autotune watch {job_id}{there.options}",
                flush=True,
            )
        if not watch:
            return DONE
        return watch_there(open_console(), there, there.job(job_id), as_json=as_json)


def document(sources: Sources, priority: int) -> dict[str, Any]:
    """What is sent: a space and a workload that ship with the product by their names, files of the user's own whole."""
    spec = sources.spec
    found: dict[str, Any] = {"job": spec.document, "priority": priority}
    if spec.search_space not in bundled("search_spaces"):
        found["search_space"] = sources.space.model_dump(mode="json")
    if spec.workload not in bundled("workloads"):
        found["workload"] = sources.workload.model_dump(mode="json")
    return found


def _warn_of_local_model(sources: Sources) -> None:
    """A folder beside the job file means nothing to a server, which looks below its own roots."""
    model = Path(sources.spec.model)
    if not model.is_absolute() and (sources.folder / model).is_dir():
        print(
            f"note: model {sources.spec.model!r} is a folder beside the job file here, but the server looks for it "
            "below its own model roots; there, name a folder by its absolute path",
            file=sys.stderr,
        )
