"""Where a server is, as users write it."""

import ipaddress
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote, urlsplit

from autotune.errors import InputError

_EXAMPLE = "write it as `autotune serve` prints it, such as https://tuner.example.com or http://127.0.0.1:8000"


@dataclass(frozen=True, slots=True)
class Address:
    """A server's address without its trailing slash; behind a proxy it may have a path."""

    url: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InputError for what is none, and for one that holds a user or a password: others see arguments."""
        try:
            parts = urlsplit(text)
            host, _port = parts.hostname, parts.port
        except ValueError as exc:
            raise InputError(f"server {text!r} is no address ({exc}); {_EXAMPLE}") from exc
        if "@" in parts.netloc:
            raise InputError(
                "the server's address holds a user or a password; leave them out and set AUTOTUNE_TOKEN instead"
            )
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
            raise InputError(f"server {text!r} is no address; {_EXAMPLE}")
        return cls(text.rstrip("/"))

    @property
    def is_exposed(self) -> bool:
        """Whether others on the way can read what is sent: plain http to another machine."""
        parts = urlsplit(self.url)
        return parts.scheme == "http" and not _is_loopback(parts.hostname or "")

    @property
    def dashboard(self) -> str:
        """Optuna dashboard there."""
        return f"{self.url}/dashboard/"

    def page_of(self, job_id: str) -> str:
        """The page of a job."""
        return f"{self.url}/jobs/{quote(job_id, safe='')}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
