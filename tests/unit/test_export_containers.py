"""Exports for Docker Compose and Kubernetes: what is started, on which devices, and that no text breaks out."""

import re
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.engine_config import EngineConfig
from autotune.export import ExportSource, export
from autotune.export.images import PINNED
from autotune.results import LoadPoint, Trial
from autotune.spec import Sla

ROOT = Path(__file__).parents[2]
ASCEND = "vllm 0.23.0, vllm-ascend 0.23.0.post1, torch-npu 2.10.0.post4"
LATEST = kubernetes_validate.latest_version()

MakeSource = Callable[..., ExportSource]


@pytest.fixture(scope="module")
def make_source(make_trial: Callable[..., Trial], make_point: Callable[..., LoadPoint]) -> MakeSource:
    """An export of trial 12 on two GPUs, unless told otherwise."""

    def make(
        resource: str = "GPU",
        *,
        count: int = 2,
        most: int | str = "all",
        arguments: dict[str, Any] | None = None,
        environment: dict[str, str] | None = None,
        **changes: Any,
    ) -> ExportSource:
        config = EngineConfig(arguments=arguments or {}, environment=environment or {}, devices=count)
        whole = {
            "job_id": "chat-b6a482da",
            "job_name": "chat",
            "model": "/models/Qwen2.5-7B",
            "workload": "chat",
            "workload_digest": "d1",
            "engine": "vllm",
            "devices": {"resource": resource, "max_per_trial": most},
            "instrument": "autotune",
            "confirm_runs": 3,
            "sla": Sla(p99_ttft_ms=200),
            "engine_version": "vllm 0.32.0",
            "trial": make_trial(12, {}).model_copy(update={"config": config}),
            "point": make_point(),
            "exported_at": datetime(2026, 11, 22, tzinfo=UTC),
        }
        return ExportSource.model_validate(whole | changes)

    return make


def service(source: ExportSource) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(export(source, "compose"))["services"]["vllm"]
    return read


def objects(source: ExportSource) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(export(source, "kubernetes")))


def pod(source: ExportSource) -> dict[str, Any]:
    read: dict[str, Any] = objects(source)[0]["spec"]["template"]["spec"]
    return read


def interpolated(text: str) -> str:
    """What Compose and Kubernetes make of a text without variables."""
    return re.sub(r"\$\$", "$", text)


def validate(document: dict[str, Any]) -> None:
    """Against the schema of the newest Kubernetes, unknown fields included."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the validator's own dependencies
        kubernetes_validate.validate(document, LATEST, strict=True)


def test_compose_starts_the_measured_arguments_on_the_official_image(make_source: MakeSource) -> None:
    read = service(make_source(arguments={"max_num_seqs": 64, "enable_prefix_caching": False}, environment={"A": "1"}))
    assert read["image"] == "vllm/vllm-openai:v0.32.0"
    assert read["entrypoint"] == ["vllm", "serve"]
    assert read["command"] == [
        *("/model", "--served-model-name", "Qwen2.5-7B", "--host", "0.0.0.0", "--port", "8000"),
        *("--max-num-seqs", "64", "--no-enable-prefix-caching"),
    ]
    assert read["environment"]["A"] == "1"


@pytest.mark.parametrize(
    ("resource", "version", "image"),
    [
        ("NPU", ASCEND, "quay.io/ascend/vllm-ascend:v0.23.0.post1"),
        ("GPU", "vllm 0.32.0+cu129", "vllm/vllm-openai:v0.32.0"),
        ("CPU", "vllm 0.32.0+cpu", "vllm/vllm-openai-cpu:v0.32.0"),
    ],
)
def test_the_image_is_the_official_one_of_the_engines_version(
    resource: str, version: str, image: str, make_source: MakeSource
) -> None:
    source = make_source(resource, engine_version=version)
    assert service(source)["image"] == image
    assert pod(source)["containers"][0]["image"] == image


@pytest.mark.parametrize("resource", ["NPU", "GPU"])
def test_the_versions_for_configurations_without_a_real_engine_are_those_that_are_pinned(resource: str) -> None:
    folder, name = {"NPU": ("ascend", "vllm-ascend"), "GPU": ("cuda", "vllm")}[resource]
    pins = (ROOT / "autotune" / "engines" / "requirements" / f"{folder}.txt").read_text()
    assert f"\n{name}=={PINNED[resource]}\n" in pins


def test_an_image_of_an_engine_that_has_none_is_told(make_source: MakeSource) -> None:
    simulated = export(make_source(engine_version="vllm-simulated 0.1"), "compose")
    assert "# measured with vllm-simulated 0.1, which has no image: choose the vllm to serve with\n" in simulated
    built = export(make_source(engine_version="vllm 0.33.0.dev7+g12ab"), "kubernetes")
    assert "# vllm 0.33.0.dev7+g12ab is no release and may have no image: build one\n" in built


def test_npus_are_device_nodes_with_the_hosts_driver_in_compose(make_source: MakeSource) -> None:
    read = service(make_source("NPU", count=2, engine_version=ASCEND))
    assert read["devices"] == [
        *("/dev/davinci0", "/dev/davinci1", "/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc"),
    ]
    assert [volume["source"] for volume in read["volumes"]] == [
        "/models/Qwen2.5-7B",
        "/usr/local/dcmi",
        "/usr/local/bin/npu-smi",
        "/usr/local/Ascend/driver/lib64",
        "/usr/local/Ascend/driver/version.info",
        "/etc/ascend_install.info",
        "/usr/local/Ascend/driver/tools/hccn_tool",
    ]
    assert all(volume["read_only"] for volume in read["volumes"])
    assert read["shm_size"] == "1g"


def test_several_npus_use_the_hosts_network_and_one_does_not(make_source: MakeSource) -> None:
    several, single = (service(make_source("NPU", count=count, engine_version=ASCEND)) for count in (2, 1))
    assert (several.get("network_mode"), several.get("ports")) == ("host", None)
    assert (single.get("network_mode"), single.get("ports")) == (None, ["8000:8000"])


def test_gpus_are_reserved_in_compose(make_source: MakeSource) -> None:
    reserved = service(make_source(count=2))["deploy"]["resources"]["reservations"]["devices"]
    assert reserved == [{"driver": "nvidia", "count": 2, "capabilities": ["gpu"]}]


def test_a_cpu_trials_cores_are_the_containers(make_source: MakeSource) -> None:
    source = make_source("CPU", count=1, most=6)
    assert service(source)["cpus"] == 6
    assert pod(source)["containers"][0]["resources"]["limits"] == {"cpu": 6}
    assert "cpus" not in service(make_source("CPU", count=1))


@pytest.mark.parametrize(("resource", "limits"), [("NPU", {"huawei.com/Ascend910": 2}), ("GPU", {"nvidia.com/gpu": 2})])
def test_kubernetes_asks_for_the_measured_devices(
    resource: str, limits: dict[str, int], make_source: MakeSource
) -> None:
    assert pod(make_source(resource))["containers"][0]["resources"] == {"limits": limits, "requests": limits}


@pytest.mark.parametrize("resource", ["NPU", "GPU", "CPU"])
@pytest.mark.parametrize("count", [1, 2])
def test_the_manifests_are_valid_kubernetes(resource: str, count: int, make_source: MakeSource) -> None:
    documents = objects(make_source(resource, count=count, arguments={"a": {"b": [1]}}, environment={"A": "1e5"}))
    assert [document["kind"] for document in documents] == ["Deployment", "Service"]
    for document in documents:
        validate(document)


def test_the_validator_refuses_what_is_no_manifest(make_source: MakeSource) -> None:
    document = objects(make_source())[0]
    document["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"] = 1
    with pytest.raises(kubernetes_validate.utils.ValidationError):
        validate(document)


def test_the_service_finds_the_pods_of_the_deployment(make_source: MakeSource) -> None:
    deployment, exposed = objects(make_source())
    assert exposed["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == exposed["spec"]["selector"]
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert container["ports"] == [{"name": exposed["spec"]["ports"][0]["targetPort"], "containerPort": 8000}]


def test_the_api_key_comes_from_outside(make_source: MakeSource) -> None:
    source = make_source(environment={"VLLM_API_KEY": "s3cret"})
    assert service(source)["environment"]["VLLM_API_KEY"].startswith("${VLLM_API_KEY:?")
    key = next(entry for entry in pod(source)["containers"][0]["env"] if entry["name"] == "VLLM_API_KEY")
    assert key["valueFrom"] == {"secretKeyRef": {"name": "vllm-chat-b6a482da-key", "key": "api-key"}}
    assert "s3cret" not in export(source, "compose") + export(source, "kubernetes")


def test_health_is_asked_for_and_a_start_has_half_an_hour(make_source: MakeSource) -> None:
    source = make_source()
    assert "http://127.0.0.1:8000/health" in service(source)["healthcheck"]["test"][-1]
    assert service(source)["healthcheck"]["start_period"] == "1800s"
    startup = pod(source)["containers"][0]["startupProbe"]
    assert startup["httpGet"] == {"path": "/health", "port": "http"}
    assert startup["periodSeconds"] * startup["failureThreshold"] == 1800


def test_shared_memory_and_the_read_only_model_are_mounted_in_the_pod(make_source: MakeSource) -> None:
    read = pod(make_source("NPU", count=1))
    mounts = {mount["name"]: mount for mount in read["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in read["volumes"]}
    assert mounts["model"] == {"name": "model", "mountPath": "/model", "readOnly": True}
    assert volumes["model"]["hostPath"] == {"path": "/models/Qwen2.5-7B", "type": "Directory"}
    assert mounts["shm"]["mountPath"] == "/dev/shm"
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}
    assert mounts.keys() == volumes.keys()


def test_a_snapshot_of_a_hub_cache_is_mounted_with_the_files_its_links_lead_to(make_source: MakeSource) -> None:
    source = make_source(model="/root/.cache/huggingface/hub/models--Qwen--Qwen2.5-7B/snapshots/a0b1")
    read = service(source)
    assert read["volumes"][0]["source"] == "/root/.cache/huggingface/hub/models--Qwen--Qwen2.5-7B"
    assert read["command"][:3] == ["/model/snapshots/a0b1", "--served-model-name", "Qwen/Qwen2.5-7B"]


@pytest.mark.parametrize("job", ["9.Chat_1-b6a482da", "x" * 63 + "-b6a482da"])
def test_object_names_are_dns_labels_whatever_the_job_is_called(job: str, make_source: MakeSource) -> None:
    documents = objects(make_source(job_id=job))
    for document in documents:
        assert re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])", document["metadata"]["name"])
        assert document["metadata"]["name"].endswith("b6a482da")


PLAIN = {
    *("image", "entrypoint", "command", "environment", "volumes", "shm_size", "ports", "deploy", "healthcheck"),
    "restart",
}
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)


@settings(deadline=None)  # rendering and reading four documents
@given(TEXT)
def test_no_text_of_a_job_breaks_out_of_a_container_export(make_source: MakeSource, text: str) -> None:
    source = make_source(
        arguments={"tokenizer": f"x{text}"}, environment={"NOTE": text}, workload=text, model=f"/m{text}", job_name=text
    )
    read, container = service(source), pod(source)["containers"][0]
    assert interpolated(read["environment"]["NOTE"]) == text
    assert interpolated(read["command"][-1]) == f"x{text}"
    note = next(entry for entry in container["env"] if entry["name"] == "NOTE")
    assert interpolated(note["value"]) == text
    assert interpolated(container["args"][-1]) == f"x{text}"
    assert set(read) == PLAIN


@pytest.mark.parametrize("value", ["1e5", "0o17", "yes", "~", "2026-01-01", "${HOME}", "$(A)", "$$", "null"])
def test_values_stay_text_for_every_yaml_reader(value: str, make_source: MakeSource) -> None:
    text = export(make_source(environment={"NOTE": value}), "kubernetes")
    written = value.replace("$", "$$")
    assert f'value: "{written}"\n' in text


@pytest.mark.parametrize("format", ["compose", "kubernetes"])
def test_the_evidence_stands_at_the_head(format: str, make_source: MakeSource) -> None:
    text = export(make_source(), format)
    assert text.startswith("# vllm-autotune: job chat (chat-b6a482da), trial 12, level 0\n")
    assert "# keep the load of one instance (1 device) at or below 4 concurrent requests\n" in text
