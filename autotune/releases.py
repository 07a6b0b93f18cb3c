"""Which releases of vLLM on Ascend belong together, and how versions are compared (PEP 440)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from packaging.version import InvalidVersion, Version

_VENDOR = re.compile(r"(?P<release>\d+(?:\.\d+)*)(?:\.?rc\.?(?P<candidate>\d+))?", re.IGNORECASE)
_ONLY_V1 = Version("0.11.0rc0")


@dataclass(frozen=True, slots=True)
class AscendRelease:
    """One vllm-ascend release and what it was built and tested with; texts as each package spells its version."""

    vllm_ascend: str
    vllm: str
    python: str  # a specifier, such as ">=3.10,<3.13"
    cann: str
    torch: str
    torch_npu: str
    triton_ascend: str  # empty: none
    stable: bool


ASCEND_RELEASES: tuple[AscendRelease, ...] = (
    AscendRelease("0.9.1", "0.9.1", ">=3.9,<3.12", "8.2.RC1", "2.5.1", "2.5.1.post1", "", stable=True),
    AscendRelease("0.11.0", "0.11.0", ">=3.9,<3.12", "8.3.RC2", "2.7.1", "2.7.1.post1", "", stable=True),
    AscendRelease("0.13.0", "0.13.0", ">=3.10,<3.12", "8.5.0", "2.8.0", "2.8.0.post2", "3.2.0", stable=True),
    AscendRelease("0.18.0", "0.18.0", ">=3.10,<3.12", "8.5.1", "2.9.0", "2.9.0.post1", "3.2.0.dev", stable=True),
    AscendRelease("0.19.1rc1", "0.19.1", ">=3.10,<3.12", "8.5.1", "2.9.0", "2.9.0", "3.2.0", stable=False),
    AscendRelease("0.20.2rc1", "0.20.2", ">=3.10,<3.12", "9.0.0", "2.10.0", "2.10.0", "3.2.1", stable=False),
    AscendRelease("0.21.0rc1", "0.21.0", ">=3.10,<3.13", "9.0.0", "2.10.0", "2.10.0", "3.2.1", stable=False),
    AscendRelease("0.22.1rc1", "0.22.1", ">=3.10,<3.13", "9.0.0", "2.10.0", "2.10.0", "3.2.1", stable=False),
    AscendRelease("0.23.0rc1", "0.23.0", ">=3.10,<3.13", "9.0.1", "2.10.0", "2.10.0.post2", "3.2.1", stable=False),
    AscendRelease("0.23.0", "0.23.0", ">=3.10,<3.13", "9.1.0", "2.10.0", "2.10.0.post4", "3.2.2", stable=True),
    AscendRelease("0.23.0.post1", "0.23.0", ">=3.10,<3.13", "9.1.0", "2.10.0", "2.10.0.post4", "3.2.2", stable=True),
    AscendRelease("0.26.0rc1", "0.26.0", ">=3.10,<3.13", "9.1.0", "2.10.0", "2.10.0.post4", "3.2.2", stable=False),
    AscendRelease("0.30.0rc1", "0.30.0", ">=3.10,<3.13", "9.2.0", "2.10.0", "2.10.0.post4", "3.2.2", stable=False),
    AscendRelease("0.30.0rc2", "0.30.0", ">=3.10,<3.13", "9.2.0", "2.10.0", "2.10.0.post4", "3.2.2", stable=False),
)
"""The rows of vllm-ascend's versioning policy (docs/source/community/versioning_policy.md), oldest first."""


def ascend_release(version: str) -> AscendRelease | None:
    """The row of a vllm-ascend version; None when the policy has none for it (not every candidate has a row)."""
    wanted = parsed(version)
    return next((row for row in ASCEND_RELEASES if wanted is not None and Version(row.vllm_ascend) == wanted), None)


def versions_of(line: str) -> dict[str, str]:
    """`vllm 0.30.0, vllm-ascend 0.30.0rc2` by distribution name; empty for a line that names no versions."""
    pairs = [part.split() for part in line.split(",")]
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def switches(versions: Mapping[str, str]) -> dict[str, str]:
    """What an engine of these versions needs in its environment to be the one that is tuned here.

    Before vLLM 0.11 had no other engine, vllm-ascend had to be asked for V1 (release notes of vllm-ascend 0.9.0rc2):
    knobs, log lines and metrics here are V1's.
    """
    found = parsed(versions.get("vllm-ascend", ""))
    return {"VLLM_USE_V1": "1"} if found is not None and found < _ONLY_V1 else {}


def vendor_version(text: str) -> Version | None:
    """A version of Huawei's driver or CANN, such as 25.0.rc1.1 or 8.2.RC1.alpha003, that can be compared.

    The release, and which candidate of it; what follows is a build. None for what begins with no number.
    """
    match = _VENDOR.match(text.strip())
    if match is None:
        return None
    return Version(match["release"] + (f"rc{match['candidate']}" if match["candidate"] else ""))


def parsed(version: str) -> Version | None:
    """A version that can be compared, without the part after `+`; None for what is no version of a release."""
    try:
        found = Version(version)
    except InvalidVersion:
        return None
    return Version(found.public)
