"""Text of a YAML file -> plain values that remember their lines, with `--set` overrides on top."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from autotune.errors import InputError

Path = tuple[str | int, ...]

MAX_BYTES = 1 << 20
MAX_ALIASES = 16
MAX_DEPTH = 32
MAX_VALUES = 20_000  # aliases multiply: 16 of them can unfold one line into megabytes

_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


@dataclass(frozen=True, slots=True)
class Document:
    """Plain values, and for each path the line (from 1) or the override it comes from."""

    source: str
    value: Any
    lines: dict[Path, int]
    overrides: dict[Path, str] = field(default_factory=dict)  # path -> dotted path as the user wrote it
    problems: tuple[str, ...] = ()  # found while reading, such as a key that is written twice

    def origin(self, path: Path) -> str:
        """Where a value comes from, for a message: `job.yaml:12` or `--set budget.trials`."""
        for known, written in reversed(self.overrides.items()):
            if path[: len(known)] == known:
                return f"--set {written}"
        if path not in self.lines:
            for known, written in self.overrides.items():
                if known[: len(path)] == path:
                    return f"--set {written}"
        return f"{self.source}:{self.line(path)}"

    def line(self, path: Path) -> int:
        """The line of the nearest thing above `path` that stands in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


class _Loader(yaml.SafeLoader):
    """A SafeLoader that refuses deep nesting and many aliases before any value is made."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.alias_count = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            self.alias_count += 1
        if self.alias_count > MAX_ALIASES or self.depth > MAX_DEPTH:
            limit = f"more than {MAX_ALIASES} aliases" if self.alias_count > MAX_ALIASES else "nested too deeply"
            raise yaml.MarkedYAMLError(problem=limit, problem_mark=self.get_mark())
        self.depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Reader:
    """Walks composed nodes into plain values; a class because lines and problems gather on the way."""

    def __init__(self, loader: _Loader, source: str) -> None:
        self.loader = loader
        self.source = source
        self.lines: dict[Path, int] = {}
        self.problems: list[str] = []

    def read(self, node: yaml.Node, path: Path) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        if len(path) > MAX_DEPTH or len(self.lines) > MAX_VALUES:
            raise yaml.MarkedYAMLError(problem="too many or too deeply nested values", problem_mark=node.start_mark)
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node)
        if node.tag not in _TAGS:
            raise yaml.MarkedYAMLError(problem=f"tag {node.tag} is not supported", problem_mark=node.start_mark)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
        assert isinstance(node, yaml.MappingNode)
        return self.mapping(node, path)

    def scalar(self, node: yaml.ScalarNode) -> Any:
        try:
            return self.loader.construct_object(node)
        except ValueError as exc:  # such as the date 2026-13-45
            raise yaml.MarkedYAMLError(problem=str(exc), problem_mark=node.start_mark) from exc

    def mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be plain text", problem_mark=key_node.start_mark)
            key: str = key_node.value  # as written: YAML would turn the key `on` into true
            inner = (*path, key)
            if key in result:
                self.problems.append(
                    f"{self.source}:{line}: {dotted(inner)}: written twice, first on line {self.lines[inner]}"
                )
            self.lines[inner] = line
            result[key] = self.read(value_node, inner)
        return result


def dotted(path: Path) -> str:
    """`("budget", "trials")` -> `budget.trials`."""
    return ".".join(map(str, path))


def read(text: str, source: str, *, numbered: bool = True) -> Document:
    """Parse YAML text; `source` names it in messages, with line numbers unless it is a single line.

    Raises InputError when the text is not YAML, larger than 1 MiB, nested too deeply or full of aliases.
    """
    if len(text.encode()) > MAX_BYTES:
        raise InputError(f"{source}: larger than 1 MiB; this is not a file to read here")
    try:
        loader = _Loader(text)  # refuses characters YAML does not know
        try:
            node = loader.get_single_node()
            reader = _Reader(loader, source)
            value = reader.read(node, ()) if node is not None else {}
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as exc:
        raise InputError(_syntax(exc, source, numbered=numbered)) from exc
    except yaml.YAMLError as exc:
        raise InputError(f"{source}: not YAML: {' '.join(str(exc).split())}") from exc
    return Document(source=source, value=value, lines=reader.lines, problems=tuple(reader.problems))


def _syntax(exc: yaml.MarkedYAMLError, source: str, *, numbered: bool) -> str:
    mark = exc.problem_mark or exc.context_mark
    place = f"{source}:{mark.line + 1}" if mark and numbered else source
    context = f"{exc.context}: " if exc.context else ""
    return f"{place}: not valid YAML: {context}{exc.problem}"


def override(document: Document, settings: Sequence[str]) -> Document:
    """The document with `dotted.path=value` settings applied in order. Problems are gathered, not raised."""
    root = {"": document.value}
    origins: dict[Path, str] = {}
    problems = list(document.problems)
    for setting in settings:
        written, separator, text = setting.partition("=")
        if not separator or not written.strip():
            problems.append(f"--set {setting}: write dotted.path=value, such as sla.p99_ttft_ms=200")
            continue
        written = written.strip()
        try:
            value = read(text, f"--set {written}", numbered=False).value if text.strip() else None
            path = _put(root, written, value)
        except InputError as exc:
            problems.extend(exc.problems)
        else:
            origins[path] = written
    return Document(document.source, root[""], document.lines, origins, tuple(problems))


def _put(root: dict[str, Any], written: str, value: Any) -> Path:
    """Set one value, making mappings on the way. Raises InputError when the path does not fit what is there."""
    parts = re.split(r"\.(?!\d+_)", written)  # the dot of p99.9_ttft_ms is part of a name
    place: Any = root
    key: str | int = ""
    path: list[str | int] = []
    for part in parts:
        if isinstance(place, dict) and place.get(str(key)) is None:
            place[str(key)] = {}
        place = place[key]
        key = _key(place, part, written)
        path.append(key)
    place[key] = value
    return tuple(path)


def _key(place: Any, part: str, written: str) -> str | int:
    if isinstance(place, dict):
        return part
    if not isinstance(place, list):
        raise InputError(f"--set {written}: '{part}' cannot be set inside {place!r}, which is a single value")
    if not part.isdecimal() or int(part) >= len(place):
        raise InputError(f"--set {written}: '{part}' is no position of a list with {len(place)} entries, from 0")
    return int(part)
