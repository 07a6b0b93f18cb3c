"""The catalogue as a page for people: docs/knobs.md."""

import textwrap
from collections.abc import Iterable, Iterator

from autotune.engine_config import Value
from autotune.search_space.catalogue.knobs import Bounds, Conditions, Conflict, Knob, Override, Span, Where, knobs

_WIDTH = 120
_TITLES = {
    "argument": "Arguments of `vllm serve`",
    "compilation_config": "Keys of `--compilation-config`",
    "speculative_config": "Keys of `--speculative-config`",
    "additional_config": "Keys of `--additional-config` (vllm-ascend)",
    "environment": "Environment variables",
}
_HEAD = """# Knobs

The knob catalogue: what can be tuned, on which engine version, and what an engine does with it in silence. A search
space is checked against it before a job, see [search-spaces.md](search-spaces.md#checked-against-the-engine).
Generated from `autotune/search_space/catalogue/knobs.yaml`, which says how; do not edit this page.

"Since" and "gone in" name the first of the releases looked at that has a knob, or has it no more. For arguments of
`vllm serve` the installed engine itself says which it knows. Nothing here was measured on an NPU.
"""


def page() -> str:
    """The whole page, in Markdown."""
    parts = [_HEAD]
    for kind, title in _TITLES.items():
        here = [knob for knob in knobs().values() if knob.target == kind]
        parts.append(f"## {title}\n")
        parts += [_section(knob) for knob in here if not knob.gone]
        gone = [knob for knob in here if knob.gone]
        if gone:
            parts.append("### Gone\n")
            parts.append("\n".join(_gone(knob) for knob in gone) + "\n")
    return "\n".join(parts)


def _section(knob: Knob) -> str:
    lines = [f"### `{knob.name}`\n", _wrapped(knob.effect), ""]
    lines += [_wrapped(item, bullet=True) for item in _items(knob)]
    return "\n".join(lines) + "\n"


def _items(knob: Knob) -> Iterator[str]:
    yield ". ".join(filter(None, (_type(knob), _defaults(knob), _place(knob.platforms, knob.since)))) + "."
    if knob.search:
        yield f"Worth searching: {knob.search}."
    if knob.risk:
        yield f"Risk: {knob.risk}"
    for override in knob.overrides:
        runs = "Does nothing" if override.runs_as is None else f"Runs as {_shown(override.runs_as)}"
        yield f"**{runs}**{_case(override)}: {override.why}."
    for conflict in knob.conflicts:
        values = ", ".join(map(_shown, conflict.values)) or "Any value"
        yield f"**{values} is never launched**{_case(conflict)}: {conflict.why}."


def _type(knob: Knob) -> str:
    bounds = [
        f"above {knob.above:g}" if knob.above is not None else "",
        f"at least {knob.least:g}" if knob.least is not None else "",
        f"at most {knob.most:g}" if knob.most is not None else "",
        f"one of {', '.join(map(_shown, knob.choices))}" if knob.choices else "",
    ]
    return ", ".join([f"Type {knob.type}", *filter(None, bounds)])


def _defaults(knob: Knob) -> str:
    known = [f"{_shown(one.value)}{_where(one)}" for one in knob.defaults]
    if knob.default is not None:
        known.append(_shown(knob.default))
    return f"Default {', else '.join(known)}" if known else ""


def _case(case: Override | Conflict) -> str:
    words = _where(case)
    if case.when:
        words += f" with {_conditions(case.when)}"
    if case.unless:
        words += f" unless {', or '.join(map(_conditions, case.unless))}"
    return words


def _where(where: Where) -> str:
    words = _place(where.platforms, where.since, before=where.before)
    models = f"{', '.join(where.models)} models" if where.models else ""
    others = f"not {', '.join(where.not_models)} models" if where.not_models else ""
    builds = f"not on {', '.join(where.not_builds)}" if where.not_builds else ""
    shown = "; ".join(filter(None, (words, models, others, builds)))
    return f" ({shown})" if shown else ""


def _place(platforms: Iterable[str], since: Bounds, before: Bounds | None = None) -> str:
    words = [f"on {', '.join(platforms)}"] if platforms else []
    words += [f"since {package} {bound}" for package, bound in since.items()]
    words += [f"before {package} {bound}" for package, bound in (before or {}).items()]
    return ", ".join(words)


def _conditions(conditions: Conditions) -> str:
    return " and ".join(f"`{name}` {_wanted(wanted)}" for name, wanted in conditions.items())


def _wanted(wanted: Span | tuple[Value, ...]) -> str:
    if isinstance(wanted, tuple):
        return " or ".join(map(_shown, wanted))
    bounds = (("at least", wanted.least), ("at most", wanted.most))
    return " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)


def _gone(knob: Knob) -> str:
    bounds = ", ".join(f"{package} {bound}" for package, bound in knob.gone.items())
    return _wrapped(f"`{knob.name}`, gone in {bounds}: {knob.successor}.", bullet=True)


def _shown(value: Value) -> str:
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _wrapped(text: str, *, bullet: bool = False) -> str:
    indent, first = ("  ", "- ") if bullet else ("", "")
    return textwrap.fill(
        text, _WIDTH, initial_indent=first, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
