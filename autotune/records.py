"""The base of every record that crosses an edge (file, database, process): frozen and strict about unknown keys."""

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """An immutable value. Unknown keys are refused, so a typo never passes silently."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
