"""Commands about job files and settings."""

import json
from pathlib import Path

from rich.table import Table
from rich.text import Text

from autotune.cli.console import console as open_console
from autotune.errors import EnvironmentProblem
from autotune.search_space import size, tunable
from autotune.settings import built_in_profiles, load_settings, profile
from autotune.spec import json_schema
from autotune.tuner.context import checked_without_engine
from autotune.tuner.sources import load_job
from autotune.workload import file_summary, ladder_text


def validate_file(job_file: Path, overrides: list[str]) -> None:
    """Check a job file with its space and workload, as far as that needs no engine; prints what it would do."""
    sources = load_job(job_file, overrides)
    settings = load_settings()
    space = checked_without_engine(sources, settings)
    levels, data = ladder_text(sources.workload), file_summary(sources.workload.dataset)
    print(f"{job_file} is valid: job {sources.spec.name!r}, model {sources.spec.model!r}")
    print(f"  space {space.name!r}: {size(space)} configurations of {len(tunable(space))} knobs")
    for name, why in space.dropped.items():
        print(f"  not searched: {name}, since {why}")
    print(f"  workload {sources.workload.name!r}: levels {levels}" + (f"\n  data {data}" if data else ""))


def print_schema(*, of_api: bool) -> None:
    """The JSON Schema of the job file, or the description of the service's API."""
    if of_api:
        from autotune.service.app import api  # FastAPI takes half a second to import

        print(json.dumps(api().openapi(), indent=2))
    else:
        print(json.dumps(json_schema(), indent=2))


def list_profiles() -> None:
    """The engine profiles that jobs may name."""
    settings = load_settings()
    table = Table("profile", "platform", "executable", "from", header_style="bold")
    for name, configured in settings.profiles.items():
        table.add_row(name, configured.platform, str(configured.executable), "settings")
    if "vllm" not in settings.profiles:
        try:
            found = profile(settings, "vllm")
            table.add_row("vllm", found.platform, str(found.executable), "detected")
        except EnvironmentProblem as exc:
            table.add_row("vllm", "-", "-", Text(str(exc)))
    for name, simulated in built_in_profiles().items():
        if name not in settings.profiles:
            table.add_row(name, simulated.platform, str(simulated.executable), "built in")
    open_console().print(table)
