"""The job file's JSON Schema, which editors read from docs/job.schema.json."""

import json
from pathlib import Path

from autotune.spec import json_schema

COMMITTED = Path(__file__).parents[2] / "docs" / "job.schema.json"


def test_the_committed_copy_is_what_the_code_says() -> None:
    """After a change of the job file: `autotune schema > docs/job.schema.json`."""
    assert json.loads(COMMITTED.read_text()) == json_schema()
