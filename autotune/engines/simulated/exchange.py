"""One question to the OpenAI endpoints, read and checked as vLLM does, and the shapes of its answer."""

import time
from typing import Any

from autotune.engines.simulated.launch import Launch

_DEFAULT_MAX_TOKENS = 16  # of /v1/completions
_CHARACTERS_PER_TOKEN = 4
_WORD = " x"


class BadRequest(Exception):
    """A question that is refused with HTTP 400, 404 for an unknown model; in vLLM's words."""

    def __init__(self, message: str, *, param: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.status = status
        kind = "NotFoundError" if status == 404 else "BadRequestError"
        self.document = {"error": {"message": message, "type": kind, "param": param, "code": status}}


class Exchange:
    """A question that will be answered with exactly `max_tokens` tokens: a simulated model never stops by itself."""

    def __init__(self, document: Any, launch: Launch, *, chat: bool) -> None:
        if not isinstance(document, dict):
            raise BadRequest("The request is not a JSON object.")
        self._chat = chat
        self._model = launch.options.name
        asked = document.get("model")
        if asked not in (None, self._model):
            raise BadRequest(f"The model `{asked}` does not exist.", param="model", status=404)
        self.prompt = _prompt(document, launch.model.vocabulary, chat=chat)
        self.max_tokens = _max_tokens(document, launch.max_model_len, len(self.prompt), chat=chat)
        self.streamed = bool(document.get("stream"))
        self.with_usage = bool((document.get("stream_options") or {}).get("include_usage"))
        kind = "chat.completion" if chat else "text_completion"
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{time.monotonic_ns():x}",
            "object": f"{kind}.chunk" if chat and self.streamed else kind,
            "created": int(time.time()),
            "model": self._model,
        }

    @property
    def _usage(self) -> dict[str, int]:
        asked, given = len(self.prompt), self.max_tokens
        return {"prompt_tokens": asked, "total_tokens": asked + given, "completion_tokens": given}

    def chunk(self, *, last: bool) -> dict[str, Any]:
        """The event of one token."""
        choice: dict[str, Any] = (
            {"index": 0, "delta": {"content": _WORD}} if self._chat else {"index": 0, "text": _WORD}
        )
        choice |= {"logprobs": None, "finish_reason": "length" if last else None, "stop_reason": None}
        return {**self._head, "choices": [choice]}

    def usage_chunk(self) -> dict[str, Any]:
        """The event after the last token, for those who asked for usage."""
        return {**self._head, "choices": [], "usage": self._usage}

    def whole(self) -> dict[str, Any]:
        """The answer in one piece."""
        text = _WORD * self.max_tokens
        content = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": "length", "stop_reason": None}
        return {**self._head, "choices": [choice], "usage": self._usage}


def _max_tokens(document: dict[str, Any], longest: int, given: int, *, chat: bool) -> int:
    """How many tokens are generated. Raises BadRequest when prompt and answer do not fit into the model's length."""
    asked = document.get("max_completion_tokens") if chat else None
    asked = document.get("max_tokens") if asked is None else asked
    if asked is not None and (not isinstance(asked, int) or asked < 1):
        raise BadRequest(f"max_tokens must be at least 1, got {asked}.", param="max_tokens")
    if asked is None:
        asked = max(1, longest - given if chat else min(_DEFAULT_MAX_TOKENS, longest - given))
    if given + asked > longest:
        raise BadRequest(
            f"This model's maximum context length is {longest} tokens. However, you requested {asked} output tokens "
            f"and your prompt contains at least {given} input tokens, for a total of at least {given + asked} tokens. "
            "Please reduce the length of the input prompt or the number of requested output tokens.",
            param="input_tokens",
        )
    return asked


def _prompt(document: dict[str, Any], vocabulary: int, *, chat: bool) -> tuple[int, ...]:
    """The prompt as token ids. There is no tokenizer: text counts a token per four characters."""
    given: Any = document.get("prompt", "")
    if chat:
        messages = document.get("messages")
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise BadRequest("messages must be a list of objects.", param="messages")
        given = "".join(f"{message.get('role')}: {message.get('content')}\n" for message in messages)
    if isinstance(given, list) and given and isinstance(given[0], list | str):
        if len(given) > 1:
            raise BadRequest("The simulated engine answers one prompt per request.", param="prompt")
        given = given[0]
    if isinstance(given, str):
        return _tokens(given, vocabulary)
    if not given or not isinstance(given, list) or not all(isinstance(token, int) for token in given):
        raise BadRequest("The prompt must be text or a list of token ids, and not empty.", param="prompt")
    return tuple(given)


def _tokens(text: str, vocabulary: int) -> tuple[int, ...]:
    pieces = (text[start : start + _CHARACTERS_PER_TOKEN] for start in range(0, len(text), _CHARACTERS_PER_TOKEN))
    tokens = tuple(int.from_bytes(piece.encode(errors="replace"), "big") % max(1, vocabulary) for piece in pieces)
    if not tokens:
        raise BadRequest("The prompt must be text or a list of token ids, and not empty.", param="prompt")
    return tokens
