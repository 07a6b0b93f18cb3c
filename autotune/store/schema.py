"""The tables. All carry the prefix `autotune_`, because Optuna keeps its own in the same database.

Whole records are kept as JSON documents; what people query or sort by is a column beside them. The documents are
of type JSON, not JSONB: JSONB would reorder keys (the order of an SLA's constraints matters) and refuses the NUL
bytes that an engine's log may hold.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, Double, ForeignKey, ForeignKeyConstraint, MetaData, TypeDecorator
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
    """A job. `result` lacks the front, which is in a table of its own; the lease is NULL while nobody runs it."""

    __tablename__ = PREFIX + "jobs"

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
    lease_token: Mapped[str | None]
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


class TrialRow(Tables):
    """A trial. `outcome` is NULL while it runs; `result` lacks the load points, which are in a table of their own."""

    __tablename__ = PREFIX + "trials"

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
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    points: Mapped[list[LoadPointRow]] = relationship(
        order_by=LoadPointRow.position, cascade="all, delete-orphan", lazy="selectin"
    )
