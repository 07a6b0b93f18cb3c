"""What is sent: the prompts and how long the answers are."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from autotune.records import Record
from autotune.workload.tokens import ConstantTime, Seconds, Tokens, Turns

SharedPrefixTokens = Annotated[
    int, Field(ge=0, description="Tokens in front of every prompt, the same for all (a system prompt).")
]
Limit = Annotated[PositiveInt, Field(description="In tokens.")]


class Synthetic(Record):
    """Random token ids of given lengths."""

    kind: Literal["synthetic"]
    input_tokens: Tokens
    output_tokens: Tokens
    shared_prefix_tokens: SharedPrefixTokens = 0
    shared_prefixes: PositiveInt = Field(
        default=1, description="How many prefixes there are (documents); each request has one of them."
    )

    @model_validator(mode="after")
    def _prefixes_have_a_length(self) -> "Synthetic":
        if self.shared_prefixes > 1 and not self.shared_prefix_tokens:
            raise ValueError(f"shared_prefixes {self.shared_prefixes} needs shared_prefix_tokens, their length")
        return self


class _File(Record):
    path: Path = Field(description="Relative to the workload file.")
    sha256: str = Field(
        default="", pattern="^([0-9a-f]{64})?$", description="Of the file; filled in when the job is loaded."
    )
    max_input_tokens: Limit
    max_output_tokens: Limit


class ShareGpt(_File):
    """First questions of recorded conversations, and how long their first answers are."""

    kind: Literal["sharegpt"]
    shared_prefix_tokens: SharedPrefixTokens = 0


class Trace(_File):
    """Lengths, and for arrival `replay` timestamps, of recorded requests; their tokens are random."""

    kind: Literal["trace"]
    block_tokens: PositiveInt = Field(
        default=512, description="Prompt tokens that one of the trace's hash_ids stands for."
    )


class MultiTurn(Record):
    """Conversations of random token ids: each prompt repeats what was said before."""

    kind: Literal["multi_turn"]
    turns: Turns
    input_tokens: Tokens = Field(description="What the user adds in each turn.")
    output_tokens: Tokens
    think_time_s: Seconds = Field(
        default=ConstantTime(kind="constant", value=0), description="From an answer's end to the user's next turn."
    )
    shared_prefix_tokens: SharedPrefixTokens = 0


Dataset = Annotated[Synthetic | ShareGpt | Trace | MultiTurn, Field(discriminator="kind")]
