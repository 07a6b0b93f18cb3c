"""Who may do what in a shared service: roles, and tokens of which only a hash is kept."""

import enum
import hashlib
import hmac
import re
import secrets
from datetime import datetime
from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt, StringConstraints

from autotune.records import Record

TenantName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]

LOCAL_TENANT = "local"
"""Whose jobs those are that nobody submitted to a service: `autotune run`, and a service without tokens."""

_SECRET_BYTES = 32
_TOKEN = re.compile(r"^vat_(?P<id>[0-9a-f]{12})_(?P<secret>[A-Za-z0-9_-]{43})$")


class Role(enum.StrEnum):
    """viewer < submitter < admin. A viewer reads, a submitter also submits and cancels, an admin sees every tenant."""

    VIEWER = "viewer"
    SUBMITTER = "submitter"
    ADMIN = "admin"

    def includes(self, other: "Role") -> bool:
        """Whether this role may do what the other may."""
        order = list(Role)
        return order.index(self) >= order.index(other)


class Principal(Record):
    """Whoever makes a request: a tenant's token, or the local user of a service without tokens."""

    tenant: TenantName
    role: Role
    name: str  # of the token, for logs and the job's row
    token_id: str = ""  # empty: no token

    @property
    def scope(self) -> str | None:
        """The only tenant whose things are to be seen; None: every tenant's."""
        return None if self.role is Role.ADMIN else self.tenant


class TenantLimits(Record):
    """What one tenant may take."""

    running_jobs: PositiveInt = Field(default=4, description="Jobs that run at a time.")
    queued_jobs: PositiveInt = Field(default=1000, description="Jobs that wait.")
    device_hours: PositiveFloat | None = Field(
        default=None, description="Device-hours of its trials within the last 30 days; beyond it no job is started."
    )


class Token(Record):
    """A token as it is kept: whoever reads the database cannot use it."""

    id: str
    tenant: TenantName
    role: Role
    name: str
    secret_hash: str  # SHA-256 of the secret: it is 256 random bits, so a slow hash would protect nothing more
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None  # to the minute

    def is_valid(self, now: datetime) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def matches(self, secret: str) -> bool:
        """Whether it belongs to this secret; takes equally long either way."""
        return hmac.compare_digest(self.secret_hash, secret_hash(secret))

    @property
    def principal(self) -> Principal:
        """Whom it stands for."""
        return Principal(tenant=self.tenant, role=self.role, name=self.name, token_id=self.id)


class WebSession(Record):
    """A browser that has logged in; the cookie's value is kept as a hash only."""

    key_hash: str
    token_id: str  # empty: the local user of a service without tokens
    created_at: datetime
    expires_at: datetime


def new_token(tenant: str, role: Role, name: str, *, now: datetime, expires_at: datetime | None) -> tuple[Token, str]:
    """A fresh token and its text `vat_ID_SECRET`, which is nowhere else."""
    identity, secret = secrets.token_hex(6), secrets.token_urlsafe(_SECRET_BYTES)
    token = Token(
        id=identity,
        tenant=tenant,
        role=role,
        name=name,
        secret_hash=secret_hash(secret),
        created_at=now,
        expires_at=expires_at,
    )
    return token, f"vat_{identity}_{secret}"


def split_token(text: str) -> tuple[str, str] | None:
    """The id and the secret of a token's text; None when it is none."""
    match = _TOKEN.match(text)
    return None if match is None else (match["id"], match["secret"])


def secret_hash(secret: str) -> str:
    """How a secret of full entropy is kept."""
    return hashlib.sha256(secret.encode()).hexdigest()
