"""Reads an exported file back: what it launches, and how that was measured."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError

from autotune.engine_config import EngineConfig, devices_needed
from autotune.errors import InputError
from autotune.export.replay import MARK, Replay, config_digest

# What whoever starts the engine decides: an operator may have written it into the file.
_OF_THE_PLACE = frozenset({"host", "port", "uds", "api_key", "served_model_name"})


@dataclass(frozen=True, slots=True)
class Exported:
    """A file that `autotune export` wrote, and that somebody may have edited since."""

    model: str
    config: EngineConfig
    replay: Replay
    is_edited: bool  # it launches something else than what was exported
    left_out: tuple[str, ...]  # its arguments about the place where it is served; they are not in `config`


def read_export(text: str, name: str) -> Exported:
    """Read the text of a `vllm` or `json` export; `name` is for messages.

    Raises InputError for any other file.
    """
    model, given, replay = _from_json(text, name) if text.lstrip().startswith("{") else _from_yaml(text, name)
    if not isinstance(model, str):
        raise InputError(f"{name}: names no model")
    left_out = tuple(argument for argument in given if argument in _OF_THE_PLACE)
    arguments = {argument: value for argument, value in given.items() if argument not in _OF_THE_PLACE}
    try:
        devices = devices_needed(arguments)
        config = EngineConfig(arguments=arguments, environment=replay.environment, devices=devices)
    except (ValueError, TypeError) as exc:
        raise InputError(f"{name}: its parallel sizes are no whole numbers: {exc}") from exc
    is_edited = config_digest(model, arguments, replay.environment) != replay.config_digest
    return Exported(model, config, replay, is_edited, left_out)


def _from_json(text: str, name: str) -> tuple[Any, dict[str, Any], Replay]:
    try:
        document = json.loads(text)
    except ValueError as exc:
        raise InputError(f"{name}: is no JSON: {exc}") from exc
    arguments, replay = document.get("arguments"), document.get("replay")
    if not isinstance(arguments, dict) or not isinstance(replay, dict):
        raise InputError(f"{name}: has no `arguments` and `replay`; write it with: autotune export JOB --format json")
    # The environment stands beside the arguments; that is where people edit it.
    environment = document.get("environment", {})
    return document.get("model"), arguments, _replay({**replay, "environment": environment}, name)


def _from_yaml(text: str, name: str) -> tuple[Any, dict[str, Any], Replay]:
    line = next((line for line in text.splitlines() if line.startswith(MARK)), None)
    if line is None:
        raise InputError(
            f"{name}: has no line `{MARK.rstrip()} …` that says how it was measured; write it anew with: "
            "autotune export JOB --format vllm (or json; the other formats cannot be verified)"
        )
    try:
        replay = _replay(json.loads(line.removeprefix(MARK)), name)
        document = yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as exc:
        raise InputError(f"{name}: cannot be read: {' '.join(str(exc).split())}") from exc
    if not isinstance(document, dict):
        raise InputError(f"{name}: is not a mapping of engine arguments")
    given = dict(_argument(str(key), value) for key, value in document.items())
    return given.pop("model", None), given, replay


def _argument(key: str, value: Any) -> tuple[str, Any]:
    """`no-NAME: true` is how such a file says that NAME is false."""
    name = key.replace("-", "_")
    return (name.removeprefix("no_"), False) if name.startswith("no_") and value is True else (name, value)


def _replay(document: Mapping[str, Any], name: str) -> Replay:
    try:
        return Replay.model_validate(document)
    except ValidationError as exc:
        wrong = ", ".join(".".join(map(str, error["loc"])) or error["msg"] for error in exc.errors())
        raise InputError(f"{name}: what it says of its measurement cannot be read ({wrong}); export it again") from exc
