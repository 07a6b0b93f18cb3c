# ruff: noqa: T201 - it prints because the tool does
"""A scripted `vllm`: `bench serve` behaves as TOOL says, everything else is given to the executable in ENGINE.

well            writes results for every request, the key that it was given, and no tokens but times
nothing-served  ends well, with results in which every request has failed
no-results      ends well and writes nothing
broken-results  ends well and writes half a document
exit:CODE       says why on stderr and ends with that code
hang            shows its bar and a child that ignores SIGTERM, whose pid it writes to CHILD, and waits
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
)


def main() -> int:
    """Do what TOOL says."""
    if sys.argv[1:3] != ["bench", "serve"]:
        os.execv(os.environ["ENGINE"], [os.environ["ENGINE"], *sys.argv[1:]])
    options = dict(zip(sys.argv, sys.argv[1:], strict=False))
    count, result = int(options["--num-prompts"]), Path(options["--result-dir"]) / options["--result-filename"]
    print(f"  0%|          | 0/{count} [00:00<?, ?it/s]", flush=True)
    kind, _, value = os.environ["TOOL"].partition(":")
    match kind:
        case "well":
            result.write_text(json.dumps(results(Path(options["--dataset-path"]), served=True)))
        case "nothing-served":
            result.write_text(json.dumps(results(Path(options["--dataset-path"]), served=False)))
        case "broken-results":
            result.write_text('{"input_lens": [')
        case "exit":
            print("vllm: error: argument --timed-trace-sec: no such thing", file=sys.stderr)
            return int(value)
        case "hang":
            child = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE)
            assert child.stdout is not None
            child.stdout.readline()
            Path(os.environ["CHILD"]).write_text(str(child.pid))
            time.sleep(600)
    return 0


def results(trace: Path, *, served: bool) -> dict[str, object]:
    """Every request is sent in time, waits 50 ms and gets a token every 10 ms; or gets HTTP 500."""
    rows = [json.loads(line) for line in trace.read_text().splitlines()]
    start_s = time.perf_counter()
    return {
        "key": os.environ.get("OPENAI_API_KEY"),
        "input_lens": [row["input_length"] for row in rows],
        "output_lens": [row["output_length"] if served else 0 for row in rows],
        "start_times": [start_s + row["timestamp"] for row in rows],
        "duration": 1.0,
        "ttfts": [0.05 if served else 0.0 for _ in rows],
        "itls": [[0.01] * (row["output_length"] - 1) if served else [] for row in rows],
        "errors": ["" if served else "Internal Server Error" for _ in rows],
    }


if __name__ == "__main__":
    sys.exit(main())
