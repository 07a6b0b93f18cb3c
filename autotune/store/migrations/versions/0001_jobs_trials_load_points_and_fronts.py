"""Jobs, trials, load points and fronts."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "autotune_jobs",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("message", sa.String(), nullable=False),
        sa.Column("model_path", sa.String(), nullable=False),
        sa.Column("folder", sa.String(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("space", sa.JSON(), nullable=False),
        sa.Column("workload", sa.JSON(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_autotune_jobs"),
    )
    op.create_index("ix_autotune_jobs_created_at", "autotune_jobs", ["created_at"])
    op.create_index("ix_autotune_jobs_name", "autotune_jobs", ["name"])
    op.create_index("ix_autotune_jobs_status", "autotune_jobs", ["status"])
    op.create_table(
        "autotune_trials",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("origin", sa.String(), nullable=False),
        sa.Column("knobs", sa.JSON(), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("config_hash", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=True),
        sa.Column("failure", sa.String(), nullable=True),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("confirms", sa.Integer(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["autotune_jobs.id"], name="fk_autotune_trials_job_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "number", name="pk_autotune_trials"),
    )
    op.create_table(
        "autotune_front_points",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("trial", sa.Integer(), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("load_kind", sa.String(), nullable=False),
        sa.Column("load_value", sa.Double(), nullable=False),
        sa.Column("output_throughput_per_device", sa.Double(), nullable=False),
        sa.Column("p99_ttft_ms", sa.Double(), nullable=False),
        sa.Column("request_throughput", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id", "trial"],
            ["autotune_trials.job_id", "autotune_trials.number"],
            name="fk_autotune_front_points_job_id_trial",
        ),
        sa.ForeignKeyConstraint(
            ["job_id"], ["autotune_jobs.id"], name="fk_autotune_front_points_job_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "position", name="pk_autotune_front_points"),
    )
    op.create_table(
        "autotune_load_points",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("trial", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("load_kind", sa.String(), nullable=False),
        sa.Column("load_value", sa.Double(), nullable=False),
        sa.Column("devices", sa.Integer(), nullable=False),
        sa.Column("feasible", sa.Boolean(), nullable=False),
        sa.Column("output_throughput_per_device", sa.Double(), nullable=False),
        sa.Column("request_throughput", sa.Double(), nullable=False),
        sa.Column("request_goodput", sa.Double(), nullable=False),
        sa.Column("p99_ttft_ms", sa.Double(), nullable=True),
        sa.Column("p99_tpot_ms", sa.Double(), nullable=True),
        sa.Column("p99_itl_ms", sa.Double(), nullable=True),
        sa.Column("p99_e2el_ms", sa.Double(), nullable=True),
        sa.Column("completed", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id", "trial"],
            ["autotune_trials.job_id", "autotune_trials.number"],
            name="fk_autotune_load_points_job_id_trial",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("job_id", "trial", "position", name="pk_autotune_load_points"),
    )


def downgrade() -> None:
    op.drop_table("autotune_load_points")
    op.drop_table("autotune_front_points")
    op.drop_table("autotune_trials")
    op.drop_index("ix_autotune_jobs_status", table_name="autotune_jobs")
    op.drop_index("ix_autotune_jobs_name", table_name="autotune_jobs")
    op.drop_index("ix_autotune_jobs_created_at", table_name="autotune_jobs")
    op.drop_table("autotune_jobs")
