"""The fleet: trials as Ray actors pinned to devices. The only importer of ray."""

from autotune.fleet.fleet import Fleet

__all__ = ["Fleet"]
