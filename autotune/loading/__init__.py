"""Files people write -> records, with every problem of a file named at once, each at its line."""

from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from autotune.errors import InputError
from autotune.loading.bundled import Kind, bundled, bundled_file, find
from autotune.loading.document import override, read
from autotune.loading.explain import explain, suggestion

__all__ = ["Kind", "bundled", "bundled_file", "find", "load", "suggestion"]

T = TypeVar("T", bound=BaseModel)


def load(text: str, model: type[T], *, source: str, overrides: Sequence[str] = ()) -> T:
    """A record from YAML text, with `dotted.path=yaml-value` overrides on top (list positions count from 0).

    `source` names the text in messages. Raises InputError with every problem, each as
    `job.yaml:12: budget.trails: unknown key; did you mean 'trials'?` or, when an override is at
    fault, `--set budget.trails: …`. A model's own validator may name several problems, one a
    line, each led by its `dotted.path: `.
    """
    document = override(read(text, source), overrides)
    problems = list(document.problems)
    try:
        record = model.model_validate(document.value)
    except ValidationError as exc:
        problems += explain(exc, document, model.model_json_schema(mode="validation"))
        raise InputError(problems) from exc
    if problems:
        raise InputError(problems)
    return record
