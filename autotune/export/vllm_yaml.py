"""The YAML that `vllm serve --config` reads as it is."""

from typing import Any

from autotune.export.arguments import one_line_quote, settled_environment
from autotune.export.evidence import comments
from autotune.export.replay import replay_line
from autotune.export.source import ExportSource
from autotune.export.yaml_text import dump


def vllm_yaml(source: ExportSource) -> str:
    """Flat keys with dashes, mappings nested; the environment, which such a file cannot hold, as a comment.

    The form is that of `vllm.utils.argparse_utils.FlexibleArgumentParser.load_config_file`.
    """
    document: dict[str, Any] = {"model": source.model}
    for name, value in source.trial.config.settled_arguments.items():
        # `vllm serve` looks for --no-NAME among the flags of its top-level parser, finds none, and drops
        # `NAME: false` without a word; `no-NAME: true` arrives.
        document |= {f"no-{name}": True} if value is False else {name: value}
    body = dump(document)
    return f"{comments(source)}#\n{_how_to_start(source)}#\n{_how_to_verify(source)}\n{body}"


def _how_to_start(source: ExportSource) -> str:
    environment = settled_environment(source.trial.config, source.engine_versions)
    words = [f"{name}={one_line_quote(value)}" for name, value in environment.items()]
    needs = "# It also needs environment variables, which this file cannot hold. " if words else "# "
    return f"{needs}Start it with:\n#   {' '.join([*words, 'vllm serve --config THIS_FILE.yaml'])}\n"


def _how_to_verify(source: ExportSource) -> str:
    return f"# Measure it again with: autotune verify THIS_FILE.yaml, which reads this line:\n{replay_line(source)}"
