"""YAML that every reader takes as it was meant."""

from typing import Any

import yaml


class Quoted(str):
    """Text from a job: always in double quotes, so that no YAML reader takes it for a number, a date or a mapping."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    pass


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Double quotes hold what single ones would fold: line breaks of every kind."""
    style = '"' if isinstance(text, Quoted) or not text.isprintable() else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(Quoted, _text)


def dump(document: Any) -> str:
    """A document in block style, keys in their order."""
    text: str = yaml.dump(
        document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=10_000
    )
    return text
