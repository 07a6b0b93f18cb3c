"""`autotune verify`: an exported configuration launched again under fresh traffic."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from autotune.cli.console import console as open_console
from autotune.cli.evidence import print_evidence
from autotune.cli.outcome import DONE, INTERRUPTED, SLA_BROKEN, TRIAL_FAILED
from autotune.cli.progress import progress_bar
from autotune.errors import InputError, NotFound, StoreError
from autotune.export import Exported, read_export
from autotune.report.verification import verification_table
from autotune.results import Confirmation, JudgedLine, Measured, TrialResult, unsteady
from autotune.settings import Settings, load_settings
from autotune.store import Store
from autotune.trial import TrialRequest
from autotune.tuner.confirm import judge, judged_lines, valid_points
from autotune.tuner.rerun import rerun
from autotune.tuner.verify import Traffic, Verification, fresh_seed, named_traffic, own_traffic, prepare_verification
from autotune.tuner.work import open_devices


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of the command."""

    file: Path
    workload: str | None
    profile: str | None
    seed: int | None


def verify_file(asked: Asked, *, as_json: bool) -> int:
    """Launch the file's configuration and judge its SLA; returns the exit code."""
    console = Console(stderr=True) if as_json else open_console()  # with --json the standard output is the document
    settings = load_settings()
    exported = read_export(_text(asked.file), str(asked.file))
    seed = fresh_seed() if asked.seed is None else asked.seed
    ready = prepare_verification(
        exported, _traffic(asked, exported, settings), settings, engine=asked.profile, seed=seed
    )
    _introduce(console, exported, ready)
    try:
        with (
            open_devices(ready.devices, ready.request.profile, settings) as fleet,
            progress_bar(console) as observe,
        ):
            result = rerun(ready.request, fleet, observe)
    except KeyboardInterrupt:
        return INTERRUPTED
    return _conclude(console, exported, ready, result, as_json=as_json)


def _text(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError(f"{path}: cannot be read as UTF-8 text: {exc}") from exc


def _traffic(asked: Asked, exported: Exported, settings: Settings) -> Traffic:
    if asked.workload is not None:
        return named_traffic(exported, asked.workload, Path.cwd())
    return own_traffic(exported, _stored_workload(exported, settings), asked.file.resolve().parent)


def _stored_workload(exported: Exported, settings: Settings) -> Mapping[str, Any] | None:
    """What the database knows; a file can be verified without one."""
    with contextlib.suppress(StoreError, NotFound), Store.open(settings.database) as store:
        job = store.job(exported.replay.job)
        return job.workload if job.id == exported.replay.job else None  # a name, or the start of an id, is another job
    return None


def _introduce(console: Console, exported: Exported, ready: Verification) -> None:
    request, replay = ready.request, exported.replay
    console.print(
        f"[bold]{escape(replay.job)}[/bold] trial {replay.trial}: {escape(request.model.path.name)} on "
        f"{request.engine_version}, workload {escape(request.workload.name)}, {replay.load} per device, "
        f"{_count(request)}\nits files: {escape(str(request.artifacts))}",
        highlight=False,
        soft_wrap=True,
    )
    for note in ready.notes:
        console.print(f"[yellow]note[/yellow]: {escape(note)}", highlight=False, soft_wrap=True)


def _count(request: TrialRequest) -> str:
    seeds = request.confirm_seeds
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"


def _conclude(console: Console, exported: Exported, ready: Verification, result: TrialResult, *, as_json: bool) -> int:
    request = ready.request
    if not isinstance(result.outcome, Measured):
        print_evidence(console, result.outcome.evidence)
        return TRIAL_FAILED
    runs = valid_points(result)  # a launch of which every run is invalid is no measurement
    found, lines = judge(request.number, runs, request.sla), judged_lines(runs, request.sla)
    if as_json:
        print(json.dumps(_document(exported, ready, found, lines), indent=2))
    else:
        console.print(verification_table(lines))
        verdict = "[green]the SLA holds[/green]" if found.holds else "[red]the SLA does not hold[/red]"
        told = (
            f"{found.output_throughput_per_device:,.1f} tok/s per device in {len(runs)} runs at {found.load} per device"
        )
        console.print(f"{verdict}: {told}", highlight=False)
        for sentence in unsteady(runs):
            console.print(f"[yellow]note[/yellow]: {sentence}", highlight=False, soft_wrap=True)
    return DONE if found.holds else SLA_BROKEN


def _document(
    exported: Exported, ready: Verification, found: Confirmation, lines: Sequence[JudgedLine]
) -> dict[str, Any]:
    return {
        "job": exported.replay.job,
        "trial": exported.replay.trial,
        "holds": found.holds,
        "lines": [line.model_dump(mode="json") for line in lines],
        "output_throughput_per_device": found.output_throughput_per_device,
        "load": found.load.model_dump(mode="json"),
        "workload": ready.request.workload.name,
        "seeds": list(ready.request.confirm_seeds),
        "engine_version": ready.request.engine_version,
        "measured_with": exported.replay.engine_version,
        "notes": [*ready.notes, *unsteady(found.runs)],
        "folder": str(ready.request.artifacts),
        "runs": [run.model_dump(mode="json") for run in found.runs],
    }
