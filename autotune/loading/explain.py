"""Validation errors in the user's words: the place, the value, what is allowed, and what was probably meant."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from autotune.loading.document import Document, Path, dotted

_WHOLE, _NUMBER, _FLAG, _TEXT = "a whole number", "a number", "true or false", "text"
_MAPPING, _LIST = "a mapping of keys", "a list"
_EXPECTED = {
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": "a finite number",
    "bool_type": _FLAG,
    "bool_parsing": _FLAG,
    "string_type": _TEXT,
    "path_type": "a path",
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "dict_type": _MAPPING,
    "mapping_type": _MAPPING,
    "list_type": _LIST,
    "tuple_type": _LIST,
    "greater_than": "above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "below {lt:g}",
    "less_than_equal": "at most {le:g}",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "string_pattern_mismatch": "text that matches {pattern}",
    "string_too_short": "text of at least {min_length} characters",
    "string_too_long": "text of at most {max_length} characters",
    "too_short": "a list of at least {min_length} entries",
    "too_long": "a list of at most {max_length} entries",
}
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an error is: the path without the labels of unions, the value there, the schemas that could apply."""

    path: Path
    value: Any
    schemas: tuple[Mapping[str, Any], ...]

    @property
    def keys(self) -> list[str]:
        return sorted({key for schema in self.schemas for key in schema.get("properties", ())})

    @property
    def tags(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for schema in self.schemas:
            found.update(schema.get("discriminator", {}).get("mapping", {}))
        return found


def explain(error: ValidationError, document: Document, schema: Mapping[str, Any]) -> list[str]:
    """One message per problem, in the order of the file. `schema` is the model's JSON schema."""
    expectations: dict[Path, list[str]] = {}
    found: list[tuple[Path, str]] = []
    for problem in error.errors(include_url=False):
        if problem["type"] == "default_factory_not_called":
            continue  # it waits for keys whose own problems are told
        place = _locate(problem["loc"], document.value, schema)
        phrase = _expectation(problem)
        if phrase:  # the members of an untagged union each complain: one message for all of them
            expectations.setdefault(place.path, []).append(phrase)
        else:
            found.extend(_messages(problem, place, document.value, schema))
    for path, phrases in expectations.items():
        found.append((path, _mismatch(phrases, _at(document.value, path))))
    found.sort(key=lambda item: document.line(item[0]))
    return [_with_place(document, path, message) for path, message in found]


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """`; did you mean 'trials'?`, or nothing when no known name is close."""
    close = get_close_matches(wrong, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _with_place(document: Document, path: Path, message: str) -> str:
    origin, name = document.origin(path), dotted(path)
    if not path or origin == f"--set {name}":
        return f"{origin}: {message}"
    return f"{origin}: {name}: {message}"


def _expectation(problem: Mapping[str, Any]) -> str:
    template = _EXPECTED.get(problem["type"])
    told = template.format(**problem.get("ctx", {})) if template else ""
    return told.replace(" 1 characters", " 1 character").replace(" 1 entries", " 1 entry")


def _mismatch(phrases: Sequence[str], value: Any) -> str:
    allowed = " or ".join(dict.fromkeys(phrases))
    guess = suggestion(value, re.findall(r"'([^']*)'", allowed)) if isinstance(value, str) else ""
    return f"must be {allowed}, not {_shown(value)}{guess}"


def _messages(
    problem: Mapping[str, Any], place: _Place, root: Any, schema: Mapping[str, Any]
) -> Iterator[tuple[Path, str]]:
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "missing":
        yield place.path, "missing key"
    elif kind == "extra_forbidden":
        known = _locate(problem["loc"][:-1], root, schema).keys
        guess = suggestion(str(place.path[-1]), known) or f"; known are {', '.join(known)}"
        yield place.path, f"unknown key{guess}"
    elif kind in ("union_tag_not_found", "union_tag_invalid"):
        yield _tag_message(context, place)
    elif kind == "value_error":
        yield from _own_words(str(context["error"]), place)
    else:
        yield place.path, f"{problem['msg'].removeprefix('Input ')}, not {_shown(problem['input'])}"


def _tag_message(context: Mapping[str, Any], place: _Place) -> tuple[Path, str]:
    key = str(context["discriminator"]).strip("'")
    tags = sorted(place.tags) or re.findall(r"'([^']+)'", str(context.get("expected_tags", "")))
    allowed = f"one of {', '.join(map(repr, tags))}"
    if "tag" not in context:
        return (*place.path, key), f"missing key; {allowed}"
    return (*place.path, key), f"must be {allowed}, not {context['tag']!r}{suggestion(str(context['tag']), tags)}"


def _own_words(text: str, place: _Place) -> Iterator[tuple[Path, str]]:
    """A validator's sentences, one problem a line; a line may begin with its own `dotted.path: `."""
    for line in text.splitlines():
        head, _, rest = line.partition(": ")
        parts = tuple(int(part) if part.isdecimal() else part for part in head.split("."))
        inside = isinstance(place.value, dict) and parts[0] in place.value
        yield (place.path + parts, rest) if inside and rest else (place.path, line)


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


def _at(value: Any, path: Path) -> Any:
    for part in path:
        value = _child(value, part)
    return value


def _child(value: Any, part: str | int) -> Any:
    if isinstance(value, dict):
        return value.get(part)
    if isinstance(value, list) and isinstance(part, int) and part < len(value):
        return value[part]
    return None


def _locate(loc: Path, value: Any, schema: Mapping[str, Any]) -> _Place:
    """Follow an error's `loc`, which also holds union tags and labels such as `constrained-int`, to a real path."""
    place = _Place((), value, _flatten(schema, schema))
    for part in loc:
        if part in place.tags:
            place = _Place(place.path, place.value, _flatten({"$ref": place.tags[str(part)]}, schema))
            continue
        schemas = tuple(
            found for outer in place.schemas for inner in _inner(outer, part) for found in _flatten(inner, schema)
        )
        inside = part in place.value if isinstance(place.value, dict) else isinstance(part, int)
        if schemas or inside:
            place = _Place((*place.path, part), _child(place.value, part), schemas)
    return place


def _inner(schema: Mapping[str, Any], part: str | int) -> Iterator[Mapping[str, Any]]:
    if isinstance(part, int):
        inner = schema.get("items")
    else:
        inner = schema.get("properties", {}).get(part, schema.get("additionalProperties"))
    if isinstance(inner, dict) and not (isinstance(part, str) and part.startswith("[")):  # "[key]" is a label
        yield inner


def _flatten(schema: Mapping[str, Any], root: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """The schema itself and every alternative it refers to."""
    if "$ref" in schema:
        return _flatten(root["$defs"][schema["$ref"].rsplit("/", 1)[-1]], root)
    members = [member for key in ("anyOf", "oneOf", "allOf") for member in schema.get(key, ())]
    return (schema, *(found for member in members for found in _flatten(member, root)))
