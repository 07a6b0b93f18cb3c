"""The configuration for a shell: the whole command, or the environment alone."""

import shlex

from autotune.export.arguments import settled_environment
from autotune.export.evidence import comments
from autotune.export.source import ExportSource


def command(source: ExportSource) -> str:
    """A command with its environment before it, quoted for POSIX shells, one argument per line."""
    environment = [
        f"{name}={shlex.quote(value)}"
        for name, value in settled_environment(source.trial.config, source.engine_versions).items()
    ]
    serve = f"vllm serve {shlex.quote(source.model)}"
    arguments = ["  " + shlex.join(words) for words in source.trial.config.command_words]
    return f"{comments(source)}\n" + " \\\n".join([*environment, serve, *arguments]) + "\n"


def environment_file(source: ExportSource) -> str:
    """KEY=value lines, quoted as a shell, systemd's EnvironmentFile= and a compose env_file read them."""
    lines = [
        f"{name}={shlex.quote(value)}\n"
        for name, value in settled_environment(source.trial.config, source.engine_versions).items()
    ]
    return comments(source) + "".join(lines or ["# this configuration needs no environment variables\n"])
