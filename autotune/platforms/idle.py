"""`python -m autotune.platforms.idle ascend 0 1`: exits 0 when the devices are idle, 1 when not, 2 when unknown."""

import sys
from collections.abc import Sequence

from autotune.errors import EnvironmentProblem
from autotune.platforms import PLATFORMS


def main(arguments: Sequence[str]) -> int:
    """Judge the devices named after the platform; a device that is not shown is not idle."""
    platform, *wanted = arguments
    try:
        devices = {device.id: device for device in PLATFORMS[platform].discover()}
    except EnvironmentProblem as problem:
        sys.stderr.write(f"{problem}\n")
        return 2
    return 0 if all(name in devices and devices[name].idle for name in wanted) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
