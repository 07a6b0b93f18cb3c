"""The executable `vllm-simulated`: `vllm-simulated serve MODEL …`, as `vllm serve MODEL …`."""

import os
import sys
from pathlib import Path

from autotune import __version__
from autotune.engines.simulated import model, options, server, transcript
from autotune.engines.simulated.refusal import Refused
from autotune.errors import InputError


def main() -> int:
    """Serve until SIGTERM; the exit code is vLLM's."""
    if sys.argv[1:] in (["--version"], ["-v"]):
        _say([f"vllm-simulated {__version__}"])
        return 0
    asked = options.parse(sys.argv[1:])
    try:
        served = model.read(Path(asked.model))
        app = server.application(asked, asked.api_key or os.environ.get("VLLM_API_KEY"), served)
    except InputError as problem:
        _say([f"ValueError: Invalid repository ID or local directory specified: {asked.model!r}. {problem}"])
        return 1
    except Refused as refused:
        _say(transcript.refusal(refused, transcript.now()))
        return refused.exit_code
    _say(transcript.start(app[server.ENGINE].core.launch, transcript.now()))
    server.serve(app, asked)
    return 0


def _say(lines: list[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
