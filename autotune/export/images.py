"""Which official container image holds the engine that a configuration was measured with."""

import re
from dataclasses import dataclass

from autotune.export.source import ExportSource

_REPOSITORIES = {
    "NPU": ("quay.io/ascend/vllm-ascend", "vllm-ascend"),
    "GPU": ("vllm/vllm-openai", "vllm"),
    "CPU": ("vllm/vllm-openai-cpu", "vllm"),
}  # resource -> (image, the distribution whose version its tags bear)
PINNED = {"NPU": "0.23.0.post1", "GPU": "0.32.0", "CPU": "0.32.0"}
"""The versions that `engines/requirements` pins, for what was measured without a real engine."""
_RELEASE = re.compile(r"^\d+\.\d+\.\d+(\.post\d+|rc\d+)?$")


@dataclass(frozen=True, slots=True)
class Image:
    """An image with what a person should know before pulling it."""

    name: str
    notes: tuple[str, ...]


def image_of(source: ExportSource) -> Image:
    """The official image of the engine version, or of the pinned one where none is known."""
    resource = source.devices.resource
    repository, distribution = _REPOSITORIES[resource]
    known = source.engine_versions.get(distribution)
    version = (known or PINNED[resource]).partition("+")[0]  # a local label such as +cpu is in no tag
    notes = []
    if known is None:
        measured_with = source.engine_version or "an engine of unknown version"
        notes.append(f"measured with {measured_with}, which has no image: choose the {distribution} to serve with")
    elif not _RELEASE.match(version):
        notes.append(f"{distribution} {known} is no release and may have no image: build one")
    if resource == "NPU":
        notes.append(
            "the image is for Atlas A2; append -a3, -310p (which wants 10 GiB of /dev/shm) or -950dt to its tag for "
            "other devices"
        )
    return Image(f"{repository}:v{_tag(version)}", tuple(notes))


def _tag(version: str) -> str:
    """Only what a tag may hold: a version comes from an engine's own environment."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", version)[:120]
