"""Rules between parameters: tagged comparisons, evaluated without ever running text from a file."""

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import Field

from autotune.engine_config import Value
from autotune.records import Record
from autotune.search_space.parameters import Parameter, When, is_special, levels, same

DERIVED = ("max_model_len", "devices")  # names a rule may use although they are no parameters

Operand = Value  # a string that names a parameter or a derived value stands for it; anything else is a constant


class Comparison(Record):
    """`left` compared with `right`. Holds unjudged while either side is not given or not active."""

    kind: Literal["at_least", "at_most", "greater", "less", "equal", "not_equal", "divides"]
    left: str
    right: Operand
    when: When = {}
    reason: str

    @property
    def operands(self) -> tuple[Operand, ...]:
        """Everything compared, for checks."""
        return (self.left, self.right)


class ProductRule(Record):
    """The product of `factors` is at most `right`."""

    kind: Literal["product_at_most"]
    factors: Annotated[tuple[Operand, ...], Field(min_length=2)]
    right: Operand
    when: When = {}
    reason: str

    @property
    def operands(self) -> tuple[Operand, ...]:
        """Everything compared, for checks."""
        return (*self.factors, self.right)


Rule = Annotated[Comparison | ProductRule, Field(discriminator="kind")]

_COMPARE: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "at_least": (operator.ge, "must be at least"),
    "at_most": (operator.le, "must be at most"),
    "greater": (operator.gt, "must be greater than"),
    "less": (operator.lt, "must be less than"),
    "equal": (same, "must equal"),
    "not_equal": (lambda left, right: not same(left, right), "must not equal"),
    "divides": (lambda left, right: left != 0 and right % left == 0, "must divide"),
}
_ANY_VALUE = ("equal", "not_equal")

# The engine itself refuses these everywhere, so no space has to repeat them.
BUILT_IN: tuple[Comparison, ...] = (
    Comparison(
        kind="at_least",
        left="max_num_batched_tokens",
        right="max_num_seqs",
        reason="every running sequence needs a token of a step's budget",
    ),
    Comparison(
        kind="at_least",
        left="max_num_batched_tokens",
        right="max_model_len",
        when={"enable_chunked_prefill": False},
        reason="without chunked prefill a whole prompt must fit into one step",
    ),
)


def holds(when: When, values: Mapping[str, Value | None]) -> bool:
    """Whether every condition is met; a condition on a parameter that is not active is not."""
    return all(name in values and any(same(values[name], one) for one in options(want)) for name, want in when.items())


def options(want: Value | tuple[Value, ...]) -> tuple[Value, ...]:
    """The values a condition accepts."""
    return want if isinstance(want, tuple) else (want,)


def broken(rule: Comparison | ProductRule, values: Mapping[str, Value | None]) -> str:
    """The sentence that says how a rule is broken; empty when it holds or cannot be judged.

    `values` has None for a parameter that is not active.
    """
    sides = [_known(operand, values) for operand in rule.operands]
    unsized = rule.kind not in _ANY_VALUE and any(isinstance(side, str) for side in sides)  # `auto` has no size
    if unsized or None in sides or not holds(rule.when, values):
        return ""
    if isinstance(rule, ProductRule):
        left, words = " x ".join(_shown(factor, values) for factor in rule.factors), "must be at most"
        kept = math.prod(sides[:-1]) <= sides[-1]
    else:
        left, words = _shown(rule.left, values), _COMPARE[rule.kind][1]
        kept = _COMPARE[rule.kind][0](*sides)
    return "" if kept else f"{left} {words} {_shown(rule.right, values)}: {rule.reason}"


def _known(operand: Operand, values: Mapping[str, Value | None]) -> Any:
    """The value of a name, the constant itself, or None for a name without a value just now."""
    if not isinstance(operand, str):
        return operand
    if operand in values:
        return values[operand]
    return None if operand in DERIVED else operand


def _shown(operand: Operand, values: Mapping[str, Value | None]) -> str:
    known = isinstance(operand, str) and operand in values
    return f"{operand} ({values[str(operand)]})" if known else str(operand)


def rule_problems(rule: Comparison | ProductRule, parameters: Mapping[str, Parameter]) -> Iterator[str]:
    """What is wrong with a rule in a space of these parameters, each led by its key."""
    names = (*parameters, *DERIVED)
    yield from (f"when.{problem}" for problem in when_problems(rule.when, parameters))
    if isinstance(rule, Comparison) and rule.left not in names:
        yield f"left: {unknown(rule.left, names)}"
        return
    for operand in rule.operands[1:] if isinstance(rule, Comparison) else rule.operands:
        if isinstance(operand, str) and operand not in names and not _is_level(operand, rule, parameters):
            yield f"{'right' if isinstance(rule, Comparison) else 'factors'}: {unknown(operand, names)}"
        elif rule.kind not in _ANY_VALUE and not _is_number(operand, parameters):
            yield f"kind: {rule.kind} compares numbers, and {operand} is none"
    if isinstance(rule, Comparison) and rule.kind not in _ANY_VALUE and not _is_number(rule.left, parameters):
        yield f"kind: {rule.kind} compares numbers, and {rule.left} is none"


def _is_level(text: str, rule: Comparison | ProductRule, parameters: Mapping[str, Parameter]) -> bool:
    if isinstance(rule, ProductRule) or rule.left not in parameters:
        return False
    return text in levels(parameters[rule.left])


def _is_number(operand: Operand, parameters: Mapping[str, Parameter]) -> bool:
    if not isinstance(operand, str):
        return not isinstance(operand, bool)
    if operand in DERIVED:
        return True
    values = [value for value in levels(parameters[operand]) if not is_special(value)]
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def when_problems(when: When, parameters: Mapping[str, Parameter]) -> Iterator[str]:
    """Conditions on parameters or values that do not exist, each led by its key."""
    for name, want in when.items():
        if name not in parameters:
            yield f"{name}: {unknown(name, tuple(parameters))}"
            continue
        known = levels(parameters[name])
        for value in options(want):
            if not any(same(value, level) for level in known):
                yield f"{name}: {value} is not one of the levels {', '.join(map(str, known))}"


def unknown(name: str, known: tuple[str, ...]) -> str:
    """`unknown parameter 'max_num_seq'; did you mean 'max_num_seqs'?`."""
    close = get_close_matches(name, known, n=1)
    return f"unknown parameter '{name}'; " + (
        f"did you mean '{close[0]}'?" if close else f"known are {', '.join(known)}"
    )
