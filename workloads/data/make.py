"""Makes the data files of the bundled workloads: `python workloads/data/make.py`. The same files on every machine.

Texts are sentences put together from the words below; they make sense to a tokenizer, not to a reader. Nothing in them
comes from anywhere else.
"""

import json
import math
import random
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
CONVERSATIONS = 280
REQUESTS = 1200
BLOCK_TOKENS = 512  # prompt tokens that a hash id stands for
WORDS_PER_TURN = 800  # at most

OPENINGS = (
    "How do I",
    "What is the best way to",
    "Can you explain how to",
    "Please write down how we could",
    "Why would anybody want to",
    "In which order should I",
    "I am new here. Is it hard to",
    "Could you show me how to",
)
ACTIONS = (
    "repair", "measure", "describe", "organise", "compare", "paint", "clean", "test", "plan", "translate", "draw",
    "improve", "sort", "store", "teach", "grow", "carry", "count", "replace", "record", "simplify", "schedule",
)  # fmt: skip
ADJECTIVES = (
    "old", "wooden", "small", "noisy", "bright", "shared", "unfinished", "reliable", "narrow", "seasonal", "local",
    "expensive", "weekly", "heavy", "digital", "curious", "quiet", "modern", "portable", "temporary", "green",
)  # fmt: skip
THINGS = (
    "bicycle", "garden", "kitchen", "spreadsheet", "report", "library", "workshop", "harbour", "recipe", "bridge",
    "database", "orchestra", "classroom", "budget", "telescope", "backpack", "calendar", "river", "greenhouse",
    "newsletter", "bakery", "network", "map", "museum", "train", "sensor", "poem", "balcony", "contract", "lamp",
)  # fmt: skip
PLACES = (
    "at home", "in a small town", "next to the station", "during the winter", "before breakfast", "on a boat",
    "without any tools", "with two friends", "after the holidays", "in the mountains", "over a slow connection",
)  # fmt: skip
LINKS = ("First", "Then", "After that", "In most cases", "However", "For example", "Besides", "Finally", "As a rule")
JUDGEMENTS = (
    "takes less time than it seems", "depends on the weather", "is worth a second look", "needs some patience",
    "can wait until tomorrow", "works better with a list", "should be agreed on early", "is easy to forget",
    "costs about as much as a new one", "helps everybody who comes later", "fails when nobody feels responsible",
)  # fmt: skip


def main() -> None:
    """Write both files."""
    (FOLDER / "chat.json").write_text(chat(), encoding="utf-8")
    (FOLDER / "bursts.jsonl").write_text(bursts(), encoding="utf-8")


def chat() -> str:
    """Conversations in ShareGPT's format: one exchange, sometimes two; log-normal lengths."""
    rng = random.Random(20)
    lines = [json.dumps(_conversation(number, rng)) for number in range(CONVERSATIONS)]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def bursts() -> str:
    """A trace in Mooncake's columns: a quiet stream, and every minute or so a burst of about eight seconds."""
    rng = random.Random(21)
    prompts = _Prompts(rng)
    now_s, burst_from_s = 0.0, 30.0
    lines = []
    for _ in range(REQUESTS):
        if now_s > burst_from_s + 8.0:
            burst_from_s = now_s + _exponential(rng, 50.0)
        rate = 5.0 if now_s >= burst_from_s else 0.55
        now_s += _exponential(rng, 1.0 / rate)
        lines.append(json.dumps({"timestamp": round(now_s * 1000), **prompts.draw()}))
    return "\n".join(lines) + "\n"


class _Prompts:
    """Lengths and block ids of a trace's requests; a class because ids are counted up and documents come again."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._next_id = 0
        self._documents = [self._new(2 + _pick(rng, 4)) for _ in range(12)]

    def draw(self) -> dict[str, object]:
        """Half of the requests begin with one of a dozen documents, the others with nothing that was there before."""
        known = self._documents[_pick(self._rng, 12)] if self._rng.random() < 0.5 else []
        length = len(known) * BLOCK_TOKENS + _lognormal(self._rng, 420.0, 0.9, 16, 4000)
        blocks = math.ceil(length / BLOCK_TOKENS)
        return {
            "input_length": length,
            "output_length": _lognormal(self._rng, 110.0, 0.8, 4, 600),
            "hash_ids": known + self._new(blocks - len(known)),
        }

    def _new(self, count: int) -> list[int]:
        first, self._next_id = self._next_id, self._next_id + count
        return list(range(first, self._next_id))


def _conversation(number: int, rng: random.Random) -> dict[str, object]:
    turns = []
    for _ in range(2 if rng.random() < 0.15 else 1):
        turns.append({"from": "human", "value": _question(_lognormal(rng, 32.0, 1.1, 4, WORDS_PER_TURN), rng)})
        turns.append({"from": "gpt", "value": _text(_lognormal(rng, 85.0, 0.8, 4, WORDS_PER_TURN), rng)})
    return {"id": f"made-{number:03d}", "conversations": turns}


def _question(words: int, rng: random.Random) -> str:
    question = f"{_of(OPENINGS, rng)} {_of(ACTIONS, rng)} a {_of(ADJECTIVES, rng)} {_of(THINGS, rng)}"
    place = f" {_of(PLACES, rng)}" if words > 9 else ""
    rest = words - len(question.split())
    return f"{question}{place}?" + (f" {_text(rest, rng)}" if rest > 6 else "")


def _text(words: int, rng: random.Random) -> str:
    """Sentences of that many words or a few more."""
    sentences: list[str] = []
    count = 0
    while count < words:
        sentences.append(_sentence(rng))
        count += len(sentences[-1].split())
    return " ".join(sentences)


def _sentence(rng: random.Random) -> str:
    thing = f"{_of(ADJECTIVES, rng)} {_of(THINGS, rng)}"
    if rng.random() < 0.5:
        return f"{_of(LINKS, rng)}, to {_of(ACTIONS, rng)} the {thing} {_of(JUDGEMENTS, rng)}."
    return f"The {thing} {_of(PLACES, rng)} {_of(JUDGEMENTS, rng)}."


# Only `random()` itself is drawn from: it is the one method whose numbers no version of Python changes.


def _pick(rng: random.Random, count: int) -> int:
    return int(rng.random() * count)


def _of(words: tuple[str, ...], rng: random.Random) -> str:
    return words[_pick(rng, len(words))]


def _exponential(rng: random.Random, mean: float) -> float:
    return -mean * math.log(1.0 - rng.random())


def _lognormal(rng: random.Random, median: float, sigma: float, least: int, most: int) -> int:
    normal = math.sqrt(-2.0 * math.log(1.0 - rng.random())) * math.cos(2.0 * math.pi * rng.random())  # Box-Muller
    return min(most, max(least, round(median * math.exp(sigma * normal))))


if __name__ == "__main__":
    main()
