"""The token without which nobody gets into a Ray that we start."""

import os
import secrets

import ray

_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_BYTES = 32


class LocalToken:
    """A random token for one local Ray, in this process's environment until `close`.

    Ray's own processes listen on all interfaces and run whatever a client sends them. They inherit the token; it is in
    no argument list, in no file and in no log, and engines get no variable of Ray's. An old Ray knows no tokens.
    """

    def __init__(self) -> None:
        self._before = {name: os.environ.get(name) for name in _VARIABLES}
        os.environ.pop("RAY_AUTH_TOKEN_PATH", None)
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_urlsafe(_BYTES)
        _read_again()

    def close(self) -> None:
        """What the environment said before is true again: an operator's cluster has a token of its own."""
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _read_again()


def _read_again() -> None:
    """Ray read the variables when it was imported, and has no public way to be told of others.

    The mode first: a thread that still ends would miss the token (ray/_private/authentication_test_utils.py).
    """
    loader = getattr(ray._raylet, "AuthenticationTokenLoader", None)
    if loader is not None:
        ray._raylet.Config.initialize("")
        loader.instance().reset_cache()
