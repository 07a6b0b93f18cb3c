"""Environment variables and text, safe to stand in a shell."""

import re
import shlex
from collections.abc import Mapping

from autotune.engine_config import EngineConfig
from autotune.errors import InputError
from autotune.releases import switches

_VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")


def settled_environment(config: EngineConfig, versions: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment variables, with the switches that an engine of these versions needs.

    Raises InputError when a name cannot be one.
    """
    wrong = [name for name in config.environment if not _VARIABLE.match(name)]
    if wrong:
        raise InputError(
            [f"{name!r} is not a name of an environment variable; correct the search space" for name in wrong]
        )
    return {**switches(versions or {}), **config.environment}


def one_line_quote(text: str) -> str:
    """A shell word on one line, for comments: line breaks are written as the shell's $'…' does."""
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + text.encode("unicode_escape").decode("ascii").replace("'", r"\'") + "'"
