"""Which metrics each release exports: renames, their overlaps, and releases that no catalog lists."""

from __future__ import annotations

import pytest

from planning.metrics import exported
from planning.problems import PlanError

KV = {"vllm:gpu_cache_usage_perc", "vllm:kv_cache_usage_perc"}


@pytest.mark.parametrize(
    ("version", "names"),
    [
        ("0.7.3", {"vllm:gpu_cache_usage_perc"}),
        ("0.7.3.self.post1", {"vllm:gpu_cache_usage_perc"}),
        ("0.9.2", KV),
        ("0.10.2", KV),
        ("0.11.0", {"vllm:kv_cache_usage_perc"}),
        ("v0.33.0", {"vllm:kv_cache_usage_perc"}),
    ],
)
def test_a_rename_takes_place_at_its_release_and_both_names_live_side_by_side_for_a_while(version, names):
    assert exported(version).keys() & KV == names


def test_a_release_after_the_catalogs_end_and_none_at_all_count_as_the_newest():
    assert exported("0.99.0") == exported(None) == exported("0.33.0") != exported("0.7.3")


@pytest.mark.parametrize("version", ["0.5.0", "latest"])
def test_a_release_before_the_catalog_and_a_tag_that_is_none_are_refused(version):
    with pytest.raises(PlanError, match=f"engine version {version}"):
        exported(version)
