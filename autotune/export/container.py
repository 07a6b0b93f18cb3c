"""What a container needs to serve a configuration, whoever starts it: model, words, environment, devices."""

from dataclasses import dataclass
from pathlib import PurePosixPath

from autotune.export.arguments import settled_environment
from autotune.export.source import ExportSource
from autotune.export.yaml_text import Quoted

PORT = 8000
HEALTH = "/health"
EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 - inside the container; what is published decides who reaches it
MODEL_FOLDER = "/model"
SHARED_MEMORY_GIB = {"NPU": 1, "GPU": 8, "CPU": 4}
"""Limits, not reservations: of vllm-ascend's recipes, of NCCL between several GPUs, of vLLM's page about CPUs."""
START_S = 1800  # until a health check counts: weights are read and graphs are captured before
KEY = "VLLM_API_KEY"

# Of the vllm-ascend guide: the driver's user-space part comes from the host.
ASCEND_DRIVER = (
    "/usr/local/dcmi",
    "/usr/local/bin/npu-smi",
    "/usr/local/Ascend/driver/lib64",
    "/usr/local/Ascend/driver/version.info",
    "/etc/ascend_install.info",
)
ASCEND_TOOLS = "/usr/local/Ascend/driver/tools/hccn_tool"  # between several NPUs
ASCEND_NODES = ("/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc")


@dataclass(frozen=True, slots=True)
class Mount:
    """The model's folder on the host, and what the engine is told inside."""

    host: str
    model: str  # the model's path in the container
    served_name: str


def literal(text: str) -> Quoted:
    """Text that stays what it is where `$` begins a variable: Compose and Kubernetes both read `$$` as `$`."""
    return Quoted(text.replace("$", "$$"))


def mount_of(source: ExportSource) -> Mount:
    """What to mount of the host for the model.

    A snapshot of a hub cache is a folder of links to files two folders above: the whole model of the cache is mounted.
    """
    folder = PurePosixPath(source.model)
    cached = folder.parent.parent
    if folder.parent.name == "snapshots" and cached.name.startswith("models--"):
        served_name = cached.name.removeprefix("models--").replace("--", "/")
        return Mount(str(cached), f"{MODEL_FOLDER}/snapshots/{folder.name}", served_name)
    return Mount(str(folder), MODEL_FOLDER, folder.name or source.model)


def words_of(source: ExportSource) -> list[Quoted]:
    """The arguments of `vllm serve` inside the container."""
    mount = mount_of(source)
    own = [mount.model, "--served-model-name", mount.served_name, "--host", EVERY_ADDRESS, "--port", str(PORT)]
    return [literal(word) for word in (*own, *(word for words in source.trial.config.command_words for word in words))]


def environment_of(source: ExportSource) -> dict[str, Quoted]:
    """The configuration's environment variables, and that the model is at hand; the API key is not among them."""
    given = {"HF_HUB_OFFLINE": "1", **settled_environment(source.trial.config, source.engine_versions)}
    return {name: literal(value) for name, value in given.items() if name != KEY}


def cpu_cores(source: ExportSource) -> int | None:
    """The cores of a CPU trial; None: all of the machine's, or not measured on a CPU."""
    most = source.devices.max_per_trial
    return most if source.devices.resource == "CPU" and isinstance(most, int) else None
