"""The user's token: from the environment, or from a file that nobody else can read. Never from an argument."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr

from autotune.access import split_token
from autotune.errors import InputError, NotFound

VARIABLE, FILE_VARIABLE = "AUTOTUNE_TOKEN", "AUTOTUNE_TOKEN_FILE"
DEFAULT_FILE = Path("~/.config/autotune/token")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_MOST_BYTES = 4096


def find_token(environment: Mapping[str, str]) -> SecretStr | None:
    """The token of `AUTOTUNE_TOKEN`, else of the token file; None when there is neither.

    Raises InputError for a file that others can read, and for what is no token; the text itself is never told.
    """
    given = environment.get(VARIABLE)
    if given:
        return _token(given, VARIABLE)
    named = environment.get(FILE_VARIABLE)
    path = Path(named or DEFAULT_FILE).expanduser()
    text = _private_text(path)
    if text is None:
        if named:
            raise NotFound(f"{FILE_VARIABLE} names {path}, which does not exist")
        return None
    return _token(text, str(path))


def _private_text(path: Path) -> str | None:
    """What the file holds; None when there is none. It is judged and read through one descriptor."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise InputError(f"the token file {path} cannot be read: {exc.strerror}") from exc
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise InputError(f"the token file {path} is no file")
        if facts.st_uid != os.geteuid():
            raise InputError(f"the token file {path} belongs to another user; make one of your own")
        if facts.st_mode & _OTHERS:
            raise InputError(
                f"the token file {path} can be read by others (mode {stat.S_IMODE(facts.st_mode):04o}); "
                f"run: chmod 600 {path}"
            )
        return file.read(_MOST_BYTES).decode("utf-8", "replace")


def _token(text: str, source: str) -> SecretStr:
    stripped = text.strip()
    if split_token(stripped) is None:
        raise InputError(f"{source} holds no token; one looks like vat_… and is printed once by: autotune token create")
    return SecretStr(stripped)
