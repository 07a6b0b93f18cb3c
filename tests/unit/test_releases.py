"""Which vllm-ascend releases are known, and in which order."""

import pytest

from autotune.releases import ASCEND_RELEASES, ascend_release, parsed


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
