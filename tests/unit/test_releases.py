"""Which vllm-ascend releases are known, and in which order."""

import pytest

from autotune.releases import ASCEND_RELEASES, ascend_release, parsed, switches, vendor_version, versions_of


def test_the_rows_rise():
    versions = [parsed(row.vllm_ascend) for row in ASCEND_RELEASES]
    assert None not in versions
    assert versions == sorted(set(versions))


def test_a_release_is_found_however_its_version_is_spelled():
    row = ascend_release("0.30.0.rc2")
    assert row is not None
    assert (row.vllm, row.cann, row.torch_npu, row.stable) == ("0.30.0", "9.2.0", "2.10.0.post4", False)


@pytest.mark.parametrize("version", ["0.27.1rc1", "0.30.0", "from source", ""])
def test_a_version_without_a_row_is_none(version: str):
    assert ascend_release(version) is None


def test_the_part_that_names_a_build_does_not_count():
    assert parsed("0.32.0+cpu") == parsed("0.32.0")
    assert parsed("dev") is None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("vllm 0.9.1, vllm-ascend 0.9.1, torch-npu 2.5.1.post1", {"VLLM_USE_V1": "1"}),
        ("vllm 0.10.1, vllm-ascend 0.10.1rc1", {"VLLM_USE_V1": "1"}),
        ("vllm 0.11.0, vllm-ascend 0.11.0rc1", {}),
        ("vllm 0.30.0, vllm-ascend 0.30.0rc2", {}),
        ("vllm 0.9.1", {}),  # elsewhere V1 was the default by then
        ("vllm-simulated 0.1.0", {}),
        ("", {}),
    ],
)
def test_an_old_plugin_is_asked_for_the_engine_that_the_knobs_are_of(line: str, expected: dict[str, str]):
    assert switches(versions_of(line)) == expected


def test_versions_of_drivers_and_cann_are_compared_as_far_as_they_go():
    texts = ["8.2.RC1.alpha003", "8.2.RC2", "8.5.0", "24.1.rc3.7", "25.0.rc1.1", "25.0", "25.5.1"]
    versions = [vendor_version(text) for text in texts]
    assert None not in versions
    assert versions == sorted(versions, key=lambda version: version or parsed("0"))
    assert vendor_version("8.2.RC1") == vendor_version("8.2.RC1.alpha003")
    assert vendor_version("odd") is None
