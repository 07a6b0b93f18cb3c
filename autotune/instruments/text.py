"""Prompts as text, for a tool that cannot send token ids."""

from tokenizers import Tokenizer

_TRIES = 8  # text of random tokens settles in a few, or never


def prompt_text(tokenizer: Tokenizer, prompt: tuple[int, ...]) -> str:
    """A text that the engine splits into about as many tokens as the prompt has, and not into more.

    Other tokens than the prompt's may come out: neighbours melt into longer tokens. What is missing is filled up with
    the prompt's own tokens, what is too much is cut, as `gen_prompt_decode_to_target_len` of
    vllm.benchmarks.datasets does it.
    """
    wanted, ids = len(prompt), list(prompt)
    found: list[tuple[int, str]] = []  # lengths as the engine counts them, and the texts
    for _ in range(_TRIES):
        text: str = tokenizer.decode(ids, skip_special_tokens=False)
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        found.append((len(ids), text))
        if len(ids) == wanted:
            break
        missing = wanted - len(ids)
        # What was too long once may be so again, when the cut falls into a character: then a little more is cut.
        kept = wanted - sum(length > wanted for length, _ in found[:-1])
        ids = ids[: max(1, kept)] + [prompt[position % wanted] for position in range(missing)]
    return max(found, key=lambda pair: (pair[0] <= wanted, -abs(pair[0] - wanted)))[1]
