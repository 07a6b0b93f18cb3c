"""Conversations of random tokens: each turn's prompt is all that was said before, and what the user adds."""

from collections.abc import Sequence
from dataclasses import dataclass

from autotune.workload.dataset import MultiTurn
from autotune.workload.draw import Drawn, Need, Streams, TokenIds, draw_prefixes, draw_prompt
from autotune.workload.tokens import draw_numbers, draw_seconds


@dataclass(frozen=True, slots=True)
class MultiTurnSource:
    """Conversations that are ready to be drawn."""

    dataset: MultiTurn
    token_ids: TokenIds
    prefix: TokenIds

    @property
    def longest_request_tokens(self) -> int:
        """Input and output of the last turn together, at most."""
        dataset = self.dataset
        turn = dataset.input_tokens.max + dataset.output_tokens.max
        return dataset.shared_prefix_tokens + dataset.turns.max * turn


def open_multi_turn(dataset: MultiTurn, token_ids: TokenIds) -> MultiTurnSource:
    """The source with its prefix."""
    return MultiTurnSource(dataset, token_ids, draw_prefixes(token_ids, dataset.shared_prefix_tokens)[0])


def draw_multi_turn(source: MultiTurnSource, need: Need, rngs: Streams) -> list[Drawn]:
    """One conversation after the other, until there are enough requests; the last conversation may be cut short.

    The engine's real answers are not known before they are given: random tokens of the same number take their place
    in the next turn's prompt, so the prefix cache can hit all of it but the answers.
    """
    dataset = source.dataset
    turns = draw_numbers(dataset.turns, need.count, rngs.choices)
    count = max(need.requests, sum(turns[: need.conversations]))
    inputs = draw_numbers(dataset.input_tokens, count, rngs.inputs)
    outputs = draw_numbers(dataset.output_tokens, count, rngs.outputs)
    pauses_s = draw_seconds(dataset.think_time_s, count, rngs.pauses)
    drawn: list[Drawn] = []
    for conversation in _conversations(turns, count):
        history = source.prefix
        for position in conversation:
            prompt = history + draw_prompt(source.token_ids, inputs[position], rngs.tokens)
            history = prompt + draw_prompt(source.token_ids, outputs[position], rngs.tokens)
            later = position > conversation.start
            follows, pause_s = (position - 1, pauses_s[position]) if later else (None, 0.0)
            drawn.append(Drawn(prompt, outputs[position], follows, pause_s))
    return drawn


def _conversations(turns: Sequence[int], count: int) -> list[range]:
    """The positions of each conversation's requests, of `count` requests in all."""
    found, start = [], 0
    for number in turns:
        if start == count:
            break
        found.append(range(start, min(start + number, count)))
        start = found[-1].stop
    return found
