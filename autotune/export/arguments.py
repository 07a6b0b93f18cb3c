"""Environment variables and text, safe to stand in a shell."""

import re
import shlex

from autotune.engine_config import EngineConfig
from autotune.errors import InputError

_VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")


def settled_environment(config: EngineConfig) -> dict[str, str]:
    """The environment variables. Raises InputError when a name cannot be one."""
    wrong = [name for name in config.environment if not _VARIABLE.match(name)]
    if wrong:
        raise InputError(
            [f"{name!r} is not a name of an environment variable; correct the search space" for name in wrong]
        )
    return dict(config.environment)


def one_line_quote(text: str) -> str:
    """A shell word on one line, for comments: line breaks are written as the shell's $'…' does."""
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + text.encode("unicode_escape").decode("ascii").replace("'", r"\'") + "'"
