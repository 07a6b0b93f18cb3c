"""The submit form: from what was typed to a request as the API takes it, and from problems to their fields."""

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import yaml

from autotune.errors import InputError
from autotune.loading import load
from autotune.records import Record
from autotune.search_space import SearchSpace
from autotune.service.admission import SubmitRequest
from autotune.service.pages.visit import Fields, only
from autotune.workload import Workload

T = TypeVar("T", bound=Record)

MORE_LINES = 3  # empty SLA lines besides P99 TTFT and P99 TPOT

_PLACES = {  # field -> its place in the request, in the order of the form
    "name": "job.name",
    "model": "job.model",
    "engine": "job.engine",
    "resource": "job.devices.resource",
    "max_per_trial": "job.devices.max_per_trial",
    "p99_ttft_ms": "job.sla.p99_ttft_ms",
    "p99_tpot_ms": "job.sla.p99_tpot_ms",
    "error_rate": "job.sla.error_rate",
    "confidence": "job.sla.confidence",
    "workload": "job.workload",
    "search_space": "job.search_space",
    "trials": "job.budget.trials",
    "wall_clock_min": "job.budget.wall_clock_s",
    "device_hours": "job.budget.device_hours",
    "confirm_top": "job.budget.confirm_top",
    "confirm_runs": "job.budget.confirm_runs",
    "attribution": "job.attribution",
    "sampler": "job.sampler",
    "objectives": "job.objectives",
    "instrument": "job.instrument",
    "seed": "job.seed",
    "priority": "priority",
}
_TEXTS = frozenset(  # never numbers
    {
        *("name", "model", "engine", "resource", "search_space", "workload"),
        *("attribution", "sampler", "objectives", "instrument"),
    }
)
_ALIASES = {  # what checks beyond the record call the places
    "workload": "workload",
    "dataset": "workload",
    "search": "search_space",
    "search_space": "search_space",
    "engine": "engine",
}
_SENTENCES = {"no engine profile ": "engine"}  # beginning of a problem without a place -> field
_PASTED = {"search_space": "space_yaml", "workload": "workload_yaml"}  # field -> where a file can be pasted instead
_LINE = re.compile(r"^(?:form|pasted)(?::(?P<line>\d+))?: ")
_PLACE = re.compile(r"^(?P<place>[a-z]\w*(?:\.[\w.]*\w)?)(?P<end>:? )")
_SLA = "sla"  # the field of problems of all lines together


_LABELS = {  # where a field's name does not say it
    "p99_ttft_ms": "P99 time to first token",
    "p99_tpot_ms": "P99 time per output token",
    "max_per_trial": "most per trial",
    "wall_clock_min": "time",
    _SLA: "SLA lines",
    "workload_yaml": "pasted workload",
    "space_yaml": "pasted search space",
}
_ORDER = (*list(_PLACES)[:5], _SLA, *list(_PLACES)[5:])
_NAME_RULE = "needs letters, digits, dots, dashes or underscores only, a letter or digit first, and at most 63"


@dataclass(frozen=True, slots=True)
class Form:
    """What was typed, and what is wrong with it."""

    values: Mapping[str, str]
    lines: tuple[tuple[str, str], ...]  # the other lines of the SLA: name and limit
    errors: Mapping[str, list[str]] = field(default_factory=dict)  # field -> its problems; "": of none

    def value(self, name: str) -> str:
        """What a field holds."""
        return self.values.get(name, "")

    @property
    def wrong(self) -> list[tuple[str, str]]:
        """The fields with problems and what they are called, from top to bottom."""
        names = sorted((name for name in self.errors if name), key=_position)
        return [(name, _LABELS.get(name, name.replace("line_", "SLA line ").replace("_", " "))) for name in names]

    def problems(self, name: str) -> list[str]:
        """What is wrong with a field."""
        return self.errors.get(name, [])


def _position(name: str) -> int:
    """Where a field stands in the form: other SLA lines with the SLA, a pasted file with what it replaces."""
    near = next((field for field, text in _PASTED.items() if text == name), name)
    return _ORDER.index(_SLA if near.startswith("line_") else near)


def filled(fields: Fields) -> Form:
    """The form as it was sent."""
    names = [*_PLACES, *_PASTED.values(), "nonce"]
    lines = list(zip(fields.get("line_name", ()), fields.get("line_limit", ()), strict=False))
    lines = [(name.strip(), limit.strip()) for name, limit in lines]
    empty = max(0, MORE_LINES - len(lines))
    return Form({name: only(fields, name) for name in names}, tuple(lines + [("", "")] * empty))


def request_of(form: Form) -> SubmitRequest:
    """What the form asks for. Raises FormErrors with every problem at its field."""
    errors: dict[str, list[str]] = {}
    space = _pasted(form, "search_space", SearchSpace, errors)
    workload = _pasted(form, "workload", Workload, errors)
    document = _document(form, errors)
    job = document["job"]
    job.update({name: given.name for name, given in (("search_space", space), ("workload", workload)) if given})
    for name, text in _PASTED.items():  # so that a broken file is not also a missing name
        job.setdefault(name, "pasted" if form.value(text) else "")
    try:
        asked = load(yaml.safe_dump(document, allow_unicode=True), SubmitRequest, source="form")
    except InputError as exc:
        merge(errors, placed(exc.problems, form))
    if errors:
        raise FormErrors(errors)
    return asked.model_copy(update={"search_space": space, "workload": workload})


class FormErrors(Exception):
    """The form cannot be a request; `errors` are its problems by field."""

    def __init__(self, errors: Mapping[str, list[str]]) -> None:
        super().__init__(str(errors))
        self.errors = errors


def idempotency_key(form: Form) -> str:
    """One for each form that was opened and each content: pressing the button twice makes one job."""
    content = repr((sorted(form.values.items()), form.lines))
    return hashlib.sha256(content.encode()).hexdigest()


def placed(problems: Iterable[str], form: Form) -> dict[str, list[str]]:
    """Problems by the field they are of; those that fit nowhere under the empty name."""
    found: dict[str, list[str]] = {}
    for problem in problems:
        name, message = _field_of(_LINE.sub("", problem), form)
        found.setdefault(name, []).append(message)
    return found


def merge(errors: dict[str, list[str]], more: Mapping[str, list[str]]) -> None:
    """Add problems to those there are."""
    for name, messages in more.items():
        errors.setdefault(name, []).extend(messages)


def _field_of(problem: str, form: Form) -> tuple[str, str]:
    match = _PLACE.match(problem)
    told = next((name for start, name in _SENTENCES.items() if problem.startswith(start)), "")
    if told or match is None:
        return told, problem
    place, is_label = match["place"], match["end"] == ": "
    name = _field_at(place.removeprefix("job."), form)
    if name is None:
        return "", problem
    message = problem[match.end() :] if is_label else problem
    if name == "wall_clock_min":  # typed in minutes, told in seconds
        message = message.partition(", not ")[0]
    if name == "name" and message.startswith("must be text that matches"):
        message = _NAME_RULE
    return _or_pasted(name, form), message.replace("missing key", "has to be filled in")


def _field_at(place: str, form: Form) -> str | None:
    for name, known in _PLACES.items():
        if place == known.removeprefix("job."):
            return name
    if place.startswith("sla"):
        typed = [name for name, _ in form.lines]
        line = place.removeprefix("sla.")
        return f"line_{typed.index(line)}" if line in typed else _SLA
    if place.startswith("devices"):
        return "resource"
    return _ALIASES.get(place.partition(".")[0])


def _or_pasted(name: str, form: Form) -> str:
    text = _PASTED.get(name, "")
    return text if text and form.value(text) else name


def _pasted(form: Form, name: str, model: type[T], errors: dict[str, list[str]]) -> T | None:
    text = form.value(_PASTED[name])
    if not text:
        return None
    try:
        return load(text, model, source="pasted")
    except InputError as exc:
        told = [_LINE.sub(lambda match: f"line {match['line']}: " if match["line"] else "", p) for p in exc.problems]
        merge(errors, {_PASTED[name]: told})
        return None


def _document(form: Form, errors: dict[str, list[str]]) -> dict[str, Any]:
    """The request as plain values; what is no number stays text, so that the message quotes what was typed."""
    document: dict[str, Any] = {"job": {"version": 1, "sla": {}, "budget": {}, "devices": {}}}
    for name, place in _PLACES.items():
        text = form.value(name)
        if not text or (name in _PASTED and form.value(_PASTED[name])):
            continue
        value = text if name in _TEXTS else _number(text)
        _put(document, place, value * 60 if name == "wall_clock_min" and not isinstance(value, str) else value)
    sla = document["job"]["sla"]
    for index, (name, limit) in enumerate(form.lines):
        if name in sla:
            merge(errors, {f"line_{index}": [f"{name} is given above already"]})
        elif name and limit:
            sla[name] = _number(limit)
        elif name or limit:
            merge(errors, {f"line_{index}": ["needs a limit" if name else "needs a name, such as p95_ttft_ms"]})
    return document


def _put(document: dict[str, Any], place: str, value: Any) -> None:
    *folders, name = place.split(".")
    for folder in folders:
        document = document[folder]
    document[name] = value


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            value = kind(text.replace(",", ".") if kind is float else text)
            return value if math.isfinite(value) else text
        except (ValueError, OverflowError):  # the second: a whole number that no double holds
            continue
    return text
