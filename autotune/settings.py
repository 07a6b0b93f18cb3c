"""The operator's settings: where things are kept, and the engine profiles jobs may name."""

import os
import shutil
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from autotune.access import TenantLimits, TenantName
from autotune.errors import EnvironmentProblem, InputError, NotFound
from autotune.records import Record

Platform = Literal["ascend", "cuda", "cpu", "simulated"]

DETECTED = "vllm"  # the profile that exists without settings: whatever engine the machine has
DATABASE_NAME = "autotune.db"

_SIMULATED = {
    "simulated": "cpu-small",
    "simulated-ascend-910b": "ascend-910b",
    "simulated-ascend-910c": "ascend-910c",
    "simulated-h100": "h100",
}  # built-in profile -> the device it simulates
_SIMULATED_START_TIMEOUT_S = 60.0


class EngineProfile(Record):
    """An engine executable and what the operator always gives it. Jobs name a profile, never a path."""

    executable: Path = Field(description="The `vllm` script of the engine's own environment.")
    platform: Platform
    engine: Literal["vllm", "simulated"] = "vllm"
    environment: dict[str, str] = {}
    arguments: dict[str, Any] = Field(default={}, description="Engine arguments of every launch: {seed: 0}.")
    jemalloc: bool = Field(default=False, description="Preload jemalloc into engines, on nodes that have it.")
    start_timeout_s: PositiveFloat = 900
    start_stall_timeout_s: PositiveFloat = Field(
        default=300, description="A starting engine that logs nothing and takes no CPU time for so long hangs."
    )
    stall_timeout_s: PositiveFloat = Field(
        default=120, description="An engine that owes answers and gives no token for so long hangs."
    )
    device_rest_s: NonNegativeFloat | None = Field(
        default=None, description="Devices rest so long after an engine that was killed; default 10 on Ascend, else 0."
    )
    peak_tflops: PositiveFloat | None = Field(
        default=None, description="Dense 16-bit peak of one device in TFLOP/s, for the model FLOPs utilization."
    )
    peak_memory_gb_per_s: PositiveFloat | None = Field(
        default=None, description="Memory bandwidth of one device in 10^9 bytes/s, for the model bandwidth utilization."
    )
    price_per_device_hour: PositiveFloat | None = Field(
        default=None, description="For the cost per million tokens, in whatever currency."
    )
    model_roots: tuple[Path, ...] = Field(default=(), description="Folders models may lie in; empty: any.")


class ServiceSettings(Record):
    """How `autotune serve` faces its users."""

    allowed_hosts: tuple[str, ...] = Field(
        default=(), description="Host names requests may come for, besides loopback ones and the address it listens on."
    )
    limits: TenantLimits = Field(default=TenantLimits(), description="Of every tenant that has none of its own.")
    tenants: dict[TenantName, TenantLimits] = Field(default={}, description="Limits by tenant.")
    rate_per_s: PositiveFloat = Field(default=50, description="Requests per second of one client, on average.")
    rate_burst: PositiveInt = Field(default=200, description="Requests of one client at once.")
    max_request_bytes: PositiveInt = Field(default=1_048_576, description="Of a request's body.")
    https: bool = Field(
        default=False, description="Browsers reach it through TLS only: their cookie is never sent without."
    )
    session_hours: PositiveFloat = Field(default=12, description="A browser's login lasts.")

    def limits_of(self, tenant: str) -> TenantLimits:
        """What a tenant may take."""
        return self.tenants.get(tenant, self.limits)


class Settings(BaseSettings):
    """Settings from the file and from `AUTOTUNE_*` variables, which win over the file."""

    model_config = SettingsConfigDict(env_prefix="AUTOTUNE_", frozen=True, extra="forbid")

    home: Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())] = Field(
        default=Path("~/.local/share/autotune"), validate_default=True, description="Artifacts and the SQLite database."
    )
    database_url: SecretStr | None = Field(default=None, description="Default: SQLite in `home`.")
    ray_address: str | None = Field(default=None, description="Default: a local Ray.")
    guidellm: Path | None = Field(default=None, description="The `guidellm` script of its own environment.")
    allowed_knobs: tuple[str, ...] = Field(
        default=(),
        description="What jobs may set besides the knob catalogue: max_num_seqs, additional_config.some_key.",
    )
    profiles: dict[Annotated[str, Field(min_length=1)], EngineProfile] = {}
    model_roots: tuple[Path, ...] = Field(
        default=(), description="Folders that models of submitted jobs may lie in, where the profile names none."
    )
    data_roots: tuple[Path, ...] = Field(
        default=(), description="Folders that data files of submitted workloads may lie in; empty: none but bundled."
    )
    service: ServiceSettings = ServiceSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment first, then what the file said."""
        return env_settings, init_settings

    @property
    def database(self) -> str:
        """The database's URL with its password: for connecting, never for printing."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.home / DATABASE_NAME}"

    @property
    def artifacts(self) -> Path:
        """The folder of what Optuna dashboard shows with each trial."""
        return self.home / "artifacts"


def settings_file() -> Path:
    """`$AUTOTUNE_SETTINGS`, or `~/.config/autotune/settings.yaml`."""
    return Path(os.environ.get("AUTOTUNE_SETTINGS") or "~/.config/autotune/settings.yaml").expanduser()


def load_settings() -> Settings:
    """The settings of this machine and user. A missing default file is fine. Raises InputError with every problem."""
    path = settings_file()
    try:
        return Settings(**_file_values(path))
    except ValidationError as exc:
        raise InputError([_explained(error, path) for error in exc.errors(include_url=False)]) from exc
    except SettingsError as exc:  # only two variables hold more than plain text
        name = "allowed_knobs" if "allowed_knobs" in str(exc) else "profiles"
        raise InputError(f"AUTOTUNE_{name.upper()} is not JSON; {name} are easier to write in {path}") from exc


def _file_values(path: Path) -> dict[str, Any]:
    if not path.is_file():
        if os.environ.get("AUTOTUNE_SETTINGS"):
            raise NotFound(f"AUTOTUNE_SETTINGS names {path}, which is no file")
        return {}
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise InputError(f"{path}: cannot be read as YAML: {' '.join(str(exc).split())}") from exc
    if values is None:
        return {}
    unknown = [str(key) for key in values if key not in Settings.model_fields] if isinstance(values, dict) else []
    if not isinstance(values, dict) or unknown:
        what = f"unknown key {', '.join(map(repr, unknown))}" if unknown else "not a mapping of keys"
        raise InputError(f"{path}: {what}; known are {', '.join(Settings.model_fields)}")
    return values


def _explained(error: Any, path: Path) -> str:
    place = ".".join(map(str, error["loc"]))
    variable = f"AUTOTUNE_{str(error['loc'][0]).upper()}" if error["loc"] else ""
    source = variable if variable in os.environ else str(path)
    match error["type"]:
        case "missing":
            message = "missing key"
        case "extra_forbidden":
            message = f"unknown key; known are {', '.join(EngineProfile.model_fields)}"
        case _:
            message = error["msg"].replace("Input should be", "must be")
            if not {"environment", "database_url"} & set(error["loc"]):  # there the value may be a secret
                message += f", not {error['input']!r}"
    return f"{source}: {place}: {message}"


def profile(settings: Settings, name: str) -> EngineProfile:
    """The engine profile with this name; `vllm` is detected when it is not configured, `simulated` ones are built in.

    Raises NotFound for another name, EnvironmentProblem when the executable does not exist.
    """
    found = known_profile(settings, name)
    executable = _existing(found.executable)
    if executable is None and name not in settings.profiles:
        raise EnvironmentProblem(
            f"engine profile '{name}' needs {found.executable}, which is missing; install vllm-autotune again"
        )
    if executable is None:
        raise EnvironmentProblem(
            f"engine profile '{name}' names {found.executable}, which is no executable; correct it in {settings_file()}"
        )
    return found.model_copy(update={"executable": executable})


def known_profile(settings: Settings, name: str) -> EngineProfile:
    """The profile as it is written, whether or not its executable is on this machine. Raises NotFound."""
    found = settings.profiles.get(name) or built_in_profiles().get(name)
    if found is None and name == DETECTED:
        return EngineProfile(executable=_detected_executable(), platform=detected_platform())
    if found is None:
        known = sorted({*settings.profiles, *built_in_profiles(), DETECTED})
        close = get_close_matches(name, known, n=1)
        guess = f"did you mean '{close[0]}'? " if close else ""
        raise NotFound(
            f"no engine profile '{name}'; {guess}Known: {', '.join(known)}; others are set in {settings_file()}"
        )
    return found


def guidellm(settings: Settings) -> Path:
    """Where GuideLLM is. Raises EnvironmentProblem when the settings do not say, or say what is no executable."""
    if settings.guidellm is None:
        raise EnvironmentProblem(
            "instrument guidellm: no GuideLLM is known; install it in an environment of its own and set "
            f"AUTOTUNE_GUIDELLM, or `guidellm` in {settings_file()}, to its guidellm script"
        )
    found = _existing(settings.guidellm)
    if found is None:
        raise EnvironmentProblem(
            f"instrument guidellm: {settings.guidellm} is no executable; correct AUTOTUNE_GUIDELLM, or `guidellm` in "
            f"{settings_file()}"
        )
    return found


def built_in_profiles() -> dict[str, EngineProfile]:
    """The profiles of the simulated engine, which is installed with the tuner; the settings may redefine each."""
    executable = Path(sys.executable).with_name("vllm-simulated")
    return {
        name: EngineProfile(
            executable=executable,
            platform="simulated",
            engine="simulated",
            environment={"SIMULATED_DEVICE": device},
            start_timeout_s=_SIMULATED_START_TIMEOUT_S,
        )
        for name, device in _SIMULATED.items()
    }


def _existing(path: Path) -> Path | None:
    """The absolute path of an executable; a bare name is looked up on PATH."""
    found = shutil.which(path.expanduser())
    return Path(found).absolute() if found else None


def _detected_executable() -> Path:
    named = os.environ.get("AUTOTUNE_VLLM")
    for candidate in (named,) if named else (".venv-engine/bin/vllm", "vllm"):
        found = _existing(Path(candidate))
        if found is not None:
            return found
    if named:
        raise EnvironmentProblem(f"AUTOTUNE_VLLM names {named}, which is no executable")
    raise EnvironmentProblem(
        "no vLLM was found: neither .venv-engine/bin/vllm in this folder nor vllm on PATH; install the engine "
        f"in its own environment and set AUTOTUNE_VLLM to its vllm script, or configure a profile in {settings_file()}"
    )


def detected_platform(devices: Path = Path("/dev")) -> Platform:
    """What the machine's device nodes say: Ascend before CUDA, else the CPU."""
    if any(devices.glob("davinci[0-9]*")):
        return "ascend"
    return "cuda" if any(devices.glob("nvidia[0-9]*")) else "cpu"
