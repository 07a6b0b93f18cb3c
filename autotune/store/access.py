"""Transactions on tokens, browser sessions and workers. Each may be repeated."""

from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from autotune.access import Token, WebSession
from autotune.errors import NotFound
from autotune.store.schema import SessionRow, TokenRow, WorkerRow
from autotune.submission import WorkerSign

_STEP = timedelta(minutes=1)  # a token's last use is known to the minute, so that reading does not write each time
_TOKEN = tuple(Token.model_fields)
_SESSION = tuple(WebSession.model_fields)
WORKER_KEPT = timedelta(days=1)  # after its last sign of life


def add_token(session: Session, token: Token) -> None:
    """Keep a token."""
    if session.get(TokenRow, token.id) is None:
        session.add(TokenRow(**token.model_dump()))


def token(session: Session, token_id: str) -> Token | None:
    """A token by its id, valid or not."""
    row = session.get(TokenRow, token_id)
    return None if row is None else _token(row)


def tokens(session: Session) -> tuple[Token, ...]:
    """Every token, oldest first."""
    return tuple(_token(row) for row in session.scalars(select(TokenRow).order_by(TokenRow.created_at, TokenRow.id)))


def has_tokens(session: Session) -> bool:
    """Whether there is a token, valid or not."""
    return session.scalar(select(TokenRow.id).limit(1)) is not None


def revoke_token(session: Session, token_id: str, now: datetime) -> None:
    """Make a token worthless, and end the browser sessions it has opened. Raises NotFound."""
    row = session.get(TokenRow, token_id)
    if row is None:
        raise NotFound(f"no token has the id {token_id!r}; see: autotune token list")
    row.revoked_at = row.revoked_at or now
    session.execute(delete(SessionRow).where(SessionRow.token_id == token_id))


def used_token(session: Session, token_id: str, now: datetime) -> None:
    """Note when a token was used last."""
    row = session.get(TokenRow, token_id)
    if row is not None and (row.last_used_at is None or now - row.last_used_at >= _STEP):
        row.last_used_at = now


def add_session(session: Session, opened: WebSession) -> None:
    """Keep a browser session, and forget those that have expired."""
    session.execute(delete(SessionRow).where(SessionRow.expires_at <= opened.created_at))
    if session.get(SessionRow, opened.key_hash) is None:
        session.add(SessionRow(**opened.model_dump()))


def web_session(session: Session, key_hash: str) -> WebSession | None:
    """A browser session, expired or not."""
    row = session.get(SessionRow, key_hash)
    return None if row is None else WebSession.model_validate({name: getattr(row, name) for name in _SESSION})


def end_session(session: Session, key_hash: str) -> None:
    """Forget a browser session."""
    session.execute(delete(SessionRow).where(SessionRow.key_hash == key_hash))


def sign(session: Session, worker: WorkerSign) -> None:
    """Write a worker's sign of life, and forget workers that were not seen for a day."""
    session.execute(delete(WorkerRow).where(WorkerRow.seen_at < worker.seen_at - WORKER_KEPT))
    session.merge(WorkerRow(**worker.model_dump()))


def leave(session: Session, owner: str) -> None:
    """Forget a worker that ends."""
    session.execute(delete(WorkerRow).where(WorkerRow.owner == owner))


def workers(session: Session) -> tuple[WorkerSign, ...]:
    """Every worker that was seen within a day, by the time of its start."""
    found = session.scalars(select(WorkerRow).order_by(WorkerRow.started_at, WorkerRow.owner))
    names = tuple(WorkerSign.model_fields)
    return tuple(WorkerSign.model_validate({name: getattr(row, name) for name in names}) for row in found)


def _token(row: TokenRow) -> Token:
    return Token.model_validate({name: getattr(row, name) for name in _TOKEN})
