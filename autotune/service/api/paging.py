"""Cursors of lists: where the next page begins, as text that clients pass on and do not read."""

import base64
import binascii

from pydantic import ValidationError

from autotune.errors import InputError
from autotune.submission import Cursor


def cursor_text(cursor: Cursor) -> str:
    """The cursor for an address."""
    return base64.urlsafe_b64encode(cursor.model_dump_json().encode()).decode().rstrip("=")


def cursor_of(text: str) -> Cursor:
    """The cursor of an address. Raises InputError for a text that is none."""
    try:
        decoded = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return Cursor.model_validate_json(decoded)
    except (binascii.Error, ValidationError, ValueError) as exc:
        raise InputError("cursor: is not one of this server's; leave it out for the first page") from exc
