"""What the datasets draw with, and what they yield: random streams, prompts of random tokens, unscheduled requests."""

from dataclasses import dataclass, replace

import numpy as np

TokenIds = tuple[int, ...]

PREFIX, LEVEL, WARMUP, WINDOW, POOL = range(5)  # stages: independent streams of one seed


@dataclass(frozen=True, slots=True)
class Need:
    """What a level consists of at least: this many requests, in this many conversations."""

    requests: int
    conversations: int = 0

    @property
    def count(self) -> int:
        """Requests, where each is a conversation of its own."""
        return max(self.requests, self.conversations)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A request before it is scheduled."""

    prompt: TokenIds
    max_tokens: int
    follows: int | None = None  # position of the conversation's turn before
    pause_s: float = 0.0

    @property
    def without_pause(self) -> "Drawn":
        """The same request, sent as soon as the turn before has been answered."""
        return replace(self, pause_s=0.0)


@dataclass(frozen=True, slots=True)
class Streams:
    """Independent generators: one for each thing, so that a level with more requests begins with the same ones."""

    arrivals: np.random.Generator
    inputs: np.random.Generator
    outputs: np.random.Generator
    tokens: np.random.Generator
    choices: np.random.Generator  # of prefixes, conversations, numbers of turns
    pauses: np.random.Generator


def streams(seed: int, stage: int, trace: int = 0) -> Streams:
    """The streams of a seed at a stage. PCG64 by name: NumPy may change what `default_rng` is."""
    root = np.random.SeedSequence(seed, spawn_key=(stage, trace))
    return Streams(*(np.random.Generator(np.random.PCG64(child)) for child in root.spawn(6)))


def draw_prompt(token_ids: TokenIds, length: int, rng: np.random.Generator) -> TokenIds:
    """A prompt of random tokens."""
    return tuple(map(token_ids.__getitem__, rng.integers(len(token_ids), size=length).tolist()))


def draw_prefixes(token_ids: TokenIds, length: int, count: int = 1) -> tuple[TokenIds, ...]:
    """Shared prefixes: the same for every seed and level, as one service has one system prompt. So they stay warm."""
    rng = streams(0, PREFIX).arrivals
    return tuple(draw_prompt(token_ids, length, rng) for _ in range(count))
