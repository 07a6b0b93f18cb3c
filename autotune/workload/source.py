"""Where prompts come from: a model's vocabulary and, for some datasets, a file."""

from dataclasses import dataclass
from pathlib import Path

from autotune.workload.dataset import MultiTurn, ShareGpt, Synthetic, Trace
from autotune.workload.multi_turn import MultiTurnSource, open_multi_turn
from autotune.workload.sharegpt import ShareGptSource, open_sharegpt, read_exchanges
from autotune.workload.synthetic import SyntheticSource, open_synthetic
from autotune.workload.trace import TraceSource, open_trace, over_limit, read_rows

Source = SyntheticSource | ShareGptSource | TraceSource | MultiTurnSource
"""A dataset that is ready to be drawn from; each knows its `longest_request_tokens`."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The token ids a model knows: 0 to size-1, of which `special_ids` are never sent."""

    size: int
    special_ids: frozenset[int] = frozenset()


def open_source(
    dataset: Synthetic | ShareGpt | Trace | MultiTurn, vocabulary: Vocabulary, *, model: Path | None = None
) -> Source:
    """Read and tokenize what a dataset needs, once per trial and before any clock starts.

    `model` is the folder of the tokenizer, needed by datasets of text. Raises ValueError when the vocabulary has no
    plain token; InputError when the dataset's file or the model's tokenizer cannot be used; EnvironmentProblem when
    the file is not there or has changed since the job was loaded.
    """
    token_ids = tuple(token for token in range(vocabulary.size) if token not in vocabulary.special_ids)
    if not token_ids:
        raise ValueError(f"a vocabulary of {vocabulary.size} tokens has no token that is not special")
    match dataset:
        case Synthetic():
            return open_synthetic(dataset, token_ids)
        case ShareGpt():
            return open_sharegpt(dataset, token_ids, model)
        case Trace():
            return open_trace(dataset, token_ids)
        case MultiTurn():
            return open_multi_turn(dataset, token_ids)


def file_summary(dataset: Synthetic | ShareGpt | Trace | MultiTurn) -> str:
    """What a dataset's file holds, in words; empty where there is none. Raises as `open_source`, needs no model."""
    match dataset:
        case ShareGpt():
            return f"{dataset.path}: {len(read_exchanges(dataset))} conversations"
        case Trace():
            rows = read_rows(dataset)
            times_s = [row.at_s for row in rows]
            cut = sum(over_limit(row, dataset) for row in rows)
            span_s = max(times_s) - min(times_s)
            return f"{dataset.path}: {len(rows)} requests in {span_s:.0f} s, {cut} of them cut to the limits"
        case _:
            return ""
