"""ShareGPT files: recorded conversations, of which the first question and the length of the first answer are used.

As `vllm bench serve --dataset-name sharegpt` (vLLM's `ShareGPTDataset`) takes them.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from autotune.errors import InputError
from autotune.workload.dataset import ShareGpt
from autotune.workload.draw import POOL, Drawn, Need, Streams, TokenIds, draw_prefixes, draw_prompt, streams
from autotune.workload.files import read_data
from autotune.workload.tokenizer import Encode, encoder

MIN_TOKENS = 4  # of a prompt and of an answer; vLLM's `is_valid_sequence`
FRESH_TOKENS = 4  # at a prompt's beginning, so that one level's prompts are not in the cache from another
MAX_CONVERSATIONS = 4096  # tokenized at each trial's start: some seconds
SHOWN_PROBLEMS = 3

_HUMAN = ("human", "user")


class Exchange(NamedTuple):
    """A question and its answer, as text."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """A question in tokens, and how many its answer has."""

    prompt: TokenIds
    output_tokens: int


@dataclass(frozen=True, slots=True)
class ShareGptSource:
    """Conversations that are ready to be drawn."""

    dataset: ShareGpt
    token_ids: TokenIds
    prefix: TokenIds
    conversations: tuple[Conversation, ...]

    @property
    def longest_request_tokens(self) -> int:
        """Input and output of the longest conversation together."""
        longest = max(len(found.prompt) + found.output_tokens for found in self.conversations)
        return len(self.prefix) + longest


def open_sharegpt(dataset: ShareGpt, token_ids: TokenIds, model: Path | None) -> ShareGptSource:
    """Read and tokenize the file. Raises what `read_exchanges` raises, and InputError when no conversation fits."""
    encode = encoder(model)
    known = frozenset(token_ids)
    conversations = tuple(_fitting(dataset, _pool(read_exchanges(dataset)), encode, known))
    if not conversations:
        raise InputError(
            f"{dataset.path}: no conversation has {MIN_TOKENS} to {dataset.max_input_tokens} tokens in its first "
            f"question and {MIN_TOKENS} to {dataset.max_output_tokens} in the answer; raise the dataset's limits"
        )
    prefix = draw_prefixes(token_ids, dataset.shared_prefix_tokens)[0]
    return ShareGptSource(dataset, token_ids, prefix, conversations)


def draw_sharegpt(source: ShareGptSource, need: Need, rngs: Streams) -> list[Drawn]:
    """Each conversation once, in random order, before any comes again.

    The first tokens of all prompts of such a round are replaced by random ones, the same for the round: what prompts
    have in common by themselves stays so, and nothing is left in the prefix cache by a round or a level before.
    """
    return list(itertools.islice(_rounds(source, rngs), need.count))


def _rounds(source: ShareGptSource, rngs: Streams) -> Iterator[Drawn]:
    while True:
        beginning = source.prefix + draw_prompt(source.token_ids, FRESH_TOKENS, rngs.tokens)
        for position in rngs.choices.permutation(len(source.conversations)).tolist():
            found = source.conversations[position]
            yield Drawn(beginning + found.prompt[FRESH_TOKENS:], found.output_tokens)


def read_exchanges(dataset: ShareGpt) -> list[Exchange]:
    """The first question and answer of each conversation that has both.

    Raises InputError when the file is neither a JSON list nor JSON lines of conversations; EnvironmentProblem when it
    is not there or has changed.
    """
    problems: list[str] = []
    found = []
    for place, entry in _entries(dataset.path, read_data(dataset)):
        try:
            exchange = _first_exchange(entry)
        except InputError as exc:
            problems.append(f"{place}: {exc}")
        else:
            found += [exchange] if exchange else []
    if problems:
        shown = "; ".join(problems[:SHOWN_PROBLEMS])
        raise InputError(f"{dataset.path}: {len(problems)} conversations cannot be used: {shown}")
    if not found:
        raise InputError(f"{dataset.path}: no conversation has a question and an answer")
    return found


def _entries(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """Each conversation and where it stands; a JSON list begins with a bracket, JSON lines do not."""
    try:
        if text.lstrip().startswith("["):
            yield from ((f"entry {number}", entry) for number, entry in enumerate(json.loads(text), 1))
            return
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield f"line {number}", json.loads(line)
    except json.JSONDecodeError as exc:
        raise InputError(f"{path}: is neither a JSON list nor one JSON object a line: {exc}") from exc


def _first_exchange(entry: Any) -> Exchange | None:
    """The first human turn and the turn that answers it. Raises InputError when this is no conversation."""
    if not isinstance(entry, dict):
        raise InputError("is not an object with `conversations`")
    turns = entry.get("conversations") or []
    if not isinstance(turns, list):
        raise InputError("`conversations` is not a list")
    question = None
    for turn in turns:
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            raise InputError("a turn has no text `value`")
        is_human = turn.get("from") in _HUMAN
        if question is not None and not is_human:
            return Exchange(question, turn["value"])
        question = turn["value"] if is_human and question is None else question
    return None


def _pool(exchanges: Sequence[Exchange]) -> Sequence[Exchange]:
    """All of a small file, a sample of a large one: the same one always."""
    if len(exchanges) <= MAX_CONVERSATIONS:
        return exchanges
    chosen = streams(0, POOL).choices.permutation(len(exchanges))[:MAX_CONVERSATIONS]
    return [exchanges[position] for position in sorted(chosen.tolist())]


def _fitting(
    dataset: ShareGpt, exchanges: Sequence[Exchange], encode: Encode, known: frozenset[int]
) -> Iterator[Conversation]:
    for exchange in exchanges:
        prompt = tuple(token for token in encode(exchange.question) if token in known)
        if not MIN_TOKENS <= len(prompt) <= dataset.max_input_tokens:
            continue
        output_tokens = len(encode(exchange.answer))
        if MIN_TOKENS <= output_tokens <= dataset.max_output_tokens:
            yield Conversation(prompt, output_tokens)
