"""What is sent: the prompts and how long the answers are."""

from typing import Annotated, Literal

from pydantic import Field

from autotune.records import Record
from autotune.workload.tokens import Tokens


class Synthetic(Record):
    """Random token ids of given lengths."""

    kind: Literal["synthetic"]
    input_tokens: Tokens
    output_tokens: Tokens
    shared_prefix_tokens: Annotated[
        int, Field(ge=0, description="Tokens in front of every prompt, the same for all (a system prompt).")
    ] = 0
