"""How a start that fails is told: the engine's last words and its exit code."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

_COMPARISONS = {
    "greater_than": "greater than",
    "greater_than_equal": "greater than or equal to",
    "less_than_equal": "less than or equal to",
}
_MORE = "    For further information visit https://errors.pydantic.dev/2.14/v/"


@dataclass(frozen=True, slots=True)
class OutOfRange:
    """A field of one of vLLM's configurations whose value breaks the bound that it is declared with."""

    field: str
    value: float
    must_be: Literal["greater_than", "greater_than_equal", "less_than_equal"]
    bound: int


class Refused(Exception):
    """The engine does not start. `lines` is what it logs, in order, each without the prefix of its process."""

    def __init__(self, lines: Sequence[str], *, exit_code: int = 1, process: str = "") -> None:
        super().__init__(lines[-1])
        self.lines = tuple(lines)
        self.exit_code = exit_code
        self.process = process  # "", "EngineCore" or "Worker": whose log the words are in


def by_parser(problem: str) -> Refused:
    """What argparse says of a command line; exit code 2."""
    return Refused(["usage: vllm [-h] [-v]", f"vllm: error: {problem}"], exit_code=2)


def by_config(config: str, problem: str) -> Refused:
    """What pydantic says of a configuration that vLLM validates before it starts the engine."""
    return Refused(
        [
            "Traceback (most recent call last):",
            f"pydantic_core._pydantic_core.ValidationError: 1 validation error for {config}",
            f"  Value error, {problem} [type=value_error, input_value=ArgsKwargs((), {{}}), input_type=ArgsKwargs]",
            f"{_MORE}value_error",
        ]
    )


def by_fields(config: str, wrong: Sequence[OutOfRange]) -> Refused:
    """What pydantic says of fields that are out of their range."""
    lines = [
        "Traceback (most recent call last):",
        f"pydantic_core._pydantic_core.ValidationError: {_counted(len(wrong))} for {config}",
    ]
    for one in wrong:
        given = f"input_value={one.value!r}, input_type={type(one.value).__name__}"
        must_be = f"Input should be {_COMPARISONS[one.must_be]} {one.bound}"
        lines += [one.field, f"  {must_be} [type={one.must_be}, {given}]", f"{_MORE}{one.must_be}"]
    return Refused(lines)


def by_interpreter(error: str) -> Refused:
    """What Python says of an exception that vLLM raises before it starts the engine, and does not catch."""
    return Refused(["Traceback (most recent call last):", error])


def _counted(errors: int) -> str:
    return f"{errors} validation error{'s' if errors > 1 else ''}"


def by_core(error: str) -> Refused:
    """What the engine core says when it ends; `error` is `ValueError: …`, the wrappers come around it."""
    return Refused(error.split("\n"), process="EngineCore")


def by_worker(error: str) -> Refused:
    """What a worker process says when it ends, such as an out-of-memory error of its device."""
    return Refused(error.split("\n"), process="Worker")
