"""Requests of random tokens: each has its own lengths, and one of the shared prefixes in front."""

from collections.abc import Sequence
from dataclasses import dataclass

from autotune.workload.dataset import Synthetic
from autotune.workload.draw import Drawn, Need, Streams, TokenIds, draw_prefixes, draw_prompt
from autotune.workload.tokens import draw_numbers


@dataclass(frozen=True, slots=True)
class SyntheticSource:
    """Random tokens that are ready to be drawn."""

    dataset: Synthetic
    token_ids: TokenIds  # shared int objects: a prompt costs eight bytes per token
    prefixes: tuple[TokenIds, ...]

    @property
    def longest_request_tokens(self) -> int:
        """Input and output together, at most."""
        dataset = self.dataset
        return dataset.shared_prefix_tokens + dataset.input_tokens.max + dataset.output_tokens.max


def open_synthetic(dataset: Synthetic, token_ids: TokenIds) -> SyntheticSource:
    """The source with its prefixes."""
    prefixes = draw_prefixes(token_ids, dataset.shared_prefix_tokens, dataset.shared_prefixes)
    return SyntheticSource(dataset, token_ids, prefixes)


def draw_synthetic(source: SyntheticSource, need: Need, rngs: Streams) -> list[Drawn]:
    """Requests with a prefix drawn for each."""
    count = len(source.prefixes)
    chosen: list[int] = rngs.choices.integers(count, size=need.count).tolist() if count > 1 else [0] * need.count
    return _drawn(source, chosen, rngs)


def draw_warmup(source: SyntheticSource, need: Need, rngs: Streams) -> list[Drawn]:
    """Requests that take the prefixes in turn, so that as many requests as prefixes warm them all."""
    return _drawn(source, [number % len(source.prefixes) for number in range(need.count)], rngs)


def _drawn(source: SyntheticSource, chosen: Sequence[int], rngs: Streams) -> list[Drawn]:
    inputs = draw_numbers(source.dataset.input_tokens, len(chosen), rngs.inputs)
    outputs = draw_numbers(source.dataset.output_tokens, len(chosen), rngs.outputs)
    return [
        Drawn(source.prefixes[prefix] + draw_prompt(source.token_ids, length, rngs.tokens), max_tokens)
        for prefix, length, max_tokens in zip(chosen, inputs, outputs, strict=True)
    ]
