"""Where prompts come from: a model's vocabulary and, for some datasets, a file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autotune.workload.dataset import Synthetic


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The token ids a model knows: 0 to size-1, of which `special_ids` are never sent."""

    size: int
    special_ids: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Source:
    """A dataset that is ready to be drawn from."""

    dataset: Synthetic
    token_ids: tuple[int, ...]  # shared int objects: a prompt costs eight bytes per token
    prefix: tuple[int, ...]
    longest_request_tokens: int  # input and output together


def open_source(dataset: Synthetic, vocabulary: Vocabulary, *, model: Path | None = None) -> Source:
    """Read and tokenize what a dataset needs, once per trial and before any clock starts.

    `model` is the folder of the tokenizer, needed by datasets of text. Raises ValueError when the vocabulary has no
    plain token, InputError when the dataset's file cannot be used.
    """
    token_ids = tuple(token for token in range(vocabulary.size) if token not in vocabulary.special_ids)
    if not token_ids:
        raise ValueError(f"a vocabulary of {vocabulary.size} tokens has no token that is not special")
    rng = streams(0, _PREFIX, 0)[0]  # one prefix for every seed, as one service has one system prompt: always warm
    return Source(
        dataset=dataset,
        token_ids=token_ids,
        prefix=draw_prompt(token_ids, dataset.shared_prefix_tokens, rng),
        longest_request_tokens=dataset.shared_prefix_tokens + dataset.input_tokens.max + dataset.output_tokens.max,
    )


def draw_prompt(token_ids: tuple[int, ...], length: int, rng: np.random.Generator) -> tuple[int, ...]:
    """A prompt of random tokens."""
    return tuple(map(token_ids.__getitem__, rng.integers(len(token_ids), size=length).tolist()))


_PREFIX = 0  # `streams` stage of the shared prefix; levels and warm-up have 1 and 2


def streams(seed: int, stage: int, trace: int) -> list[np.random.Generator]:
    """Independent generators for arrivals, input lengths, output lengths and tokens.

    One stream each, so that a level with more requests begins with the same ones. PCG64 by name: NumPy may change
    what `default_rng` is.
    """
    root = np.random.SeedSequence(seed, spawn_key=(stage, trace))
    return [np.random.Generator(np.random.PCG64(child)) for child in root.spawn(4)]
