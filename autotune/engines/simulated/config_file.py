"""The options of `--config FILE`, as vLLM reads them (`FlexibleArgumentParser.load_config_file`)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from autotune.engines.simulated.refusal import by_interpreter, by_parser

_OPTION = "--config"


def expanded(argv: Sequence[str]) -> list[str]:
    """The words of a command line with the file's options before its own, which win over them.

    Raises Refused when the file cannot be read, and for `--config=FILE`, which vLLM 0.32 accepts and never reads.
    """
    words = list(argv)
    joined = [word for word in words if word.startswith(f"{_OPTION}=")]
    if joined:
        raise by_parser(f"argument {_OPTION}: {joined[0]} is not read by vLLM; write {_OPTION} FILE, in two words")
    if _OPTION not in words:
        return words
    place = words.index(_OPTION)
    if place == len(words) - 1:
        raise by_interpreter("ValueError: No config file specified! Please check your command-line arguments.")
    options = _options(_read(words[place + 1]))
    head = 2 if len(words) > 1 and not words[1].startswith("-") else 1  # `serve`, and the model if it stands there
    return [*words[:head], *options, *words[head:place], *words[place + 2 :]]


def _read(name: str) -> Mapping[str, Any]:
    extension = name.rsplit(".", maxsplit=1)[-1]
    if extension not in ("yaml", "yml"):
        raise by_interpreter(f"ValueError: Config file must be of a yaml/yml type. {extension} supplied")
    try:
        content = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as exc:
        raise by_interpreter(f"{type(exc).__name__}: {exc}") from exc
    if not isinstance(content, dict):
        raise by_interpreter(f"AttributeError: {type(content).__name__!r} object has no attribute 'items'")
    return content


def _options(content: Mapping[str, Any]) -> list[str]:
    """`NAME: false` is dropped, as vLLM drops it: `no-NAME: true` says it."""
    words: list[str] = []
    for name, value in content.items():
        if value is False or value == []:
            continue
        words.append(f"--{name}")
        if isinstance(value, list):
            words += map(str, value)
        elif value is not True:
            words.append(json.dumps(value) if isinstance(value, dict) else str(value))
    return words
