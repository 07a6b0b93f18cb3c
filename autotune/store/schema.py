"""The tables. All carry the prefix `autotune_`, because Optuna keeps its own in the same database.

Whole records are kept as JSON documents; what people query or sort by is a column beside them. The documents are
of type JSON, not JSONB: JSONB would reorder keys (the order of an SLA's constraints matters) and refuses the NUL
bytes that an engine's log may hold.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    TypeDecorator,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

PREFIX = "autotune_"


class UtcDateTime(TypeDecorator[datetime]):
    """An instant. Stored as UTC, returned aware, on SQLite too, which knows no time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a time without a zone: nobody knows what it means."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"the time {value.isoformat()} has no time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Name the zone that was stored."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Tables(DeclarativeBase):
    """What every table shares: names of constraints that migrations can rely on, and the types of columns."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {
        datetime: UtcDateTime(),
        float: Double(),
        dict[str, Any]: JSON(none_as_null=True),
    }


class EventRow(Tables):
    """Something that happened to a job. Written while the job's row is locked, so ids within a job grow by commit."""

    __tablename__ = PREFIX + "events"
    __table_args__ = (Index(f"ix_{PREFIX}events_job_id_id", "job_id", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey(f"{PREFIX}jobs.id", ondelete="CASCADE"))
    at: Mapped[datetime]
    kind: Mapped[str]
    trial: Mapped[int | None]
    data: Mapped[dict[str, Any]]


class FrontPointRow(Tables):
    """A point of a finished job's Pareto front; `position` counts by rising throughput."""

    __tablename__ = PREFIX + "front_points"
    __table_args__ = (
        ForeignKeyConstraint(["job_id", "trial"], [f"{PREFIX}trials.job_id", f"{PREFIX}trials.number"]),
        ForeignKeyConstraint(["job_id"], [f"{PREFIX}jobs.id"], ondelete="CASCADE"),
    )

    job_id: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    trial: Mapped[int]
    level: Mapped[int]
    load_kind: Mapped[str]
    load_value: Mapped[float]
    output_throughput_per_device: Mapped[float]
    p99_ttft_ms: Mapped[float]
    request_throughput: Mapped[float]


class JobRow(Tables):
    """A job. `result` lacks the front, which is in a table of its own; the lease is NULL while nobody runs it.

    `queued_at` is NULL for a job that its own command runs: no worker takes it. `progress` is what
    its runner last said.
    """

    __tablename__ = PREFIX + "jobs"
    __table_args__ = (
        Index(f"ix_{PREFIX}jobs_tenant_created_at_id", "tenant", "created_at", "id"),
        Index(f"ix_{PREFIX}jobs_created_at_id", "created_at", "id"),
        Index(f"ix_{PREFIX}jobs_status_queued_at", "status", "queued_at"),
        Index(f"ix_{PREFIX}jobs_tenant_started_at", "tenant", "started_at"),
        Index(f"ix_{PREFIX}jobs_tenant_idempotency_key", "tenant", "idempotency_key", unique=True),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(index=True)
    status: Mapped[str] = mapped_column(index=True)
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    message: Mapped[str]
    model_path: Mapped[str]
    folder: Mapped[str]
    spec: Mapped[dict[str, Any]]
    space: Mapped[dict[str, Any]]
    workload: Mapped[dict[str, Any]]
    worked_s: Mapped[float] = mapped_column(server_default="0")
    tenant: Mapped[str] = mapped_column(server_default="local")
    submitted_by: Mapped[str] = mapped_column(server_default="")
    priority: Mapped[int] = mapped_column(server_default="0")
    queued_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]  # when a worker last took it from the queue
    idempotency_key: Mapped[str | None]
    request_hash: Mapped[str] = mapped_column(server_default="")
    progress: Mapped[dict[str, Any] | None]
    lease_token: Mapped[str | None] = mapped_column(index=True)
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    result: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(index=True)
    finished_at: Mapped[datetime | None]
    front: Mapped[list[FrontPointRow]] = relationship(
        order_by=FrontPointRow.position, cascade="all, delete-orphan", lazy="selectin"
    )


class LoadPointRow(Tables):
    """A load level that a trial measured.

    `position` counts within the trial; `level` may repeat: a confirmation measures one level with several seeds.
    """

    __tablename__ = PREFIX + "load_points"
    __table_args__ = (
        ForeignKeyConstraint(
            ["job_id", "trial"], [f"{PREFIX}trials.job_id", f"{PREFIX}trials.number"], ondelete="CASCADE"
        ),
        Index(f"ix_{PREFIX}load_points_best", "job_id", "feasible", "output_throughput_per_device"),
    )

    job_id: Mapped[str] = mapped_column(primary_key=True)
    trial: Mapped[int] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    level: Mapped[int]
    load_kind: Mapped[str]
    load_value: Mapped[float]
    devices: Mapped[int]
    feasible: Mapped[bool]
    output_throughput_per_device: Mapped[float]
    request_throughput: Mapped[float]
    request_goodput: Mapped[float]
    p99_ttft_ms: Mapped[float | None]
    p99_tpot_ms: Mapped[float | None]
    p99_itl_ms: Mapped[float | None]
    p99_e2el_ms: Mapped[float | None]
    completed: Mapped[int]
    failed: Mapped[int]
    document: Mapped[dict[str, Any]]


class SessionRow(Tables):
    """A browser that has logged in."""

    __tablename__ = PREFIX + "sessions"

    key_hash: Mapped[str] = mapped_column(primary_key=True)
    token_id: Mapped[str]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class TokenRow(Tables):
    """A token of the service; only the hash of its secret."""

    __tablename__ = PREFIX + "tokens"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    role: Mapped[str]
    name: Mapped[str]
    secret_hash: Mapped[str]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class TrialRow(Tables):
    """A trial. `outcome` is NULL while it runs; `result` lacks the load points, which are in a table of their own."""

    __tablename__ = PREFIX + "trials"
    __table_args__ = (Index(f"ix_{PREFIX}trials_job_id_outcome_purpose", "job_id", "outcome", "purpose"),)

    job_id: Mapped[str] = mapped_column(ForeignKey(f"{PREFIX}jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    purpose: Mapped[str]
    origin: Mapped[str]
    knobs: Mapped[dict[str, Any]]
    config: Mapped[dict[str, Any]]
    config_hash: Mapped[str]
    outcome: Mapped[str | None]
    failure: Mapped[str | None]
    result: Mapped[dict[str, Any] | None]
    confirms: Mapped[int | None]
    attempts: Mapped[int] = mapped_column(server_default="1")
    failures: Mapped[int] = mapped_column(server_default="0")
    earlier_device_s: Mapped[float] = mapped_column(server_default="0")
    device_s: Mapped[float] = mapped_column(server_default="0")  # of all its launches, once it is finished
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None] = mapped_column(index=True)
    # Not `selectin`: SQLite scans the whole table for a list of pairs (job, trial).
    points: Mapped[list[LoadPointRow]] = relationship(order_by=LoadPointRow.position, cascade="all, delete-orphan")


class WorkerRow(Tables):
    """A worker process, by the name that its leases carry."""

    __tablename__ = PREFIX + "workers"

    owner: Mapped[str] = mapped_column(primary_key=True)
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    version: Mapped[str]
    job: Mapped[str | None]
