"""What is gathered before anything is judged."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from autotune.engines.examine import EngineInfo
from autotune.model_card import ModelCard, Shape
from autotune.platforms import Device
from autotune.settings import EngineProfile
from autotune.spec import JobSpec
from autotune.store import DatabaseState


@dataclass(frozen=True, slots=True)
class HostFacts:
    """The operating system, seen from a root folder. None: the file that would say so is not there."""

    architecture: str = ""
    cores: int = 0
    memory_bytes: int | None = None
    shm_bytes: int | None = None
    governors: Mapping[str, int] = field(default_factory=dict)  # name -> cores that have it
    numa_nodes: int = 0
    numa_balancing: bool | None = None
    swappiness: int | None = None
    jemalloc: tuple[str, ...] = ()  # paths as the engine sees them
    listening: frozenset[int] = frozenset()  # TCP ports
    ephemeral: tuple[int, int] | None = None  # the ports that Linux hands out to anyone
    nodes: frozenset[str] = frozenset()  # device nodes of accelerators: davinci0, nvidiactl …
    closed_nodes: frozenset[str] = frozenset()  # of these, those this user may not open for reading and writing
    mounted: frozenset[str] = frozenset()  # of the paths that an Ascend container needs, those that are there
    driver: str | None = None
    cann: str | None = None
    in_container: bool = False


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """The engine profile, and what its environment holds."""

    name: str
    profile: EngineProfile | None = None
    info: EngineInfo | None = None
    problem: str = ""  # why there is no profile, or no info
    libraries: Mapping[str, bool] = field(default_factory=dict)  # of LD_PRELOAD: path -> whether it exists


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """The accelerators as their tool shows them, or why it does not."""

    devices: tuple[Device, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class RayFacts:
    """The Ray of the tuner's own environment, and the cluster it would join."""

    version: str
    python: str
    address: str | None = None


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """Room for logs and request records."""

    home: Path
    free_bytes: int
    writable: bool


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """The database of the settings, or why it cannot be used."""

    state: DatabaseState | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class JobFacts:
    """A job file with its model, and the widths that the search may launch."""

    problems: tuple[str, ...] = ()
    spec: JobSpec | None = None
    card: ModelCard | None = None
    shapes: tuple[Shape, ...] = ()  # by number of devices


@dataclass(frozen=True, slots=True)
class Facts:
    """All of them. Absent ones could not be gathered, or were not asked for."""

    platform: str
    host: HostFacts
    engine: EngineFacts
    devices: DeviceFacts
    ray: RayFacts
    disk: DiskFacts | None = None
    database: DatabaseFacts | None = None
    job: JobFacts | None = None
    settings_problems: tuple[str, ...] = ()
