"""The features of each add-on release, and where its chart is."""

from __future__ import annotations

import pytest

from planning import addons
from planning.problems import PlanError

FEATURES = {
    "LWS_WORKER_INDEX",
    "partition",
    "resize",
    "subdomainPolicy",
    "volumeClaimTemplates",
    "crdsOutliveRelease",
    "RecreateGroupAfterStart",
    "observedGeneration",
}


@pytest.mark.parametrize(
    ("version", "missing"),
    [
        ("0.5.0", FEATURES - {"subdomainPolicy"}),
        ("0.7.0", {"volumeClaimTemplates", "crdsOutliveRelease", "RecreateGroupAfterStart", "observedGeneration"}),
        ("v0.8.0", {"RecreateGroupAfterStart", "observedGeneration"}),
        ("0.9.0-rc.1", set()),
        ("0.10.0", set()),
        ("1.2.0", set()),
    ],
)
def test_a_feature_is_there_from_its_release_on(version, missing):
    assert {feature for feature in FEATURES if not addons.has("lws", version, feature)} == missing


@pytest.mark.parametrize("version", ["", "latest", "0.9"])
def test_a_version_that_is_none_is_refused_in_one_line(version):
    with pytest.raises(PlanError, match="is not a release; write three numbers") as refusal:
        addons.has("lws", version, "partition")
    assert len(refusal.value.lines) == 1


def test_an_unknown_feature_is_an_error_of_the_program():
    with pytest.raises(KeyError):
        addons.has("lws", "0.9.0", "teleport")


def test_the_clouds_chart_has_its_region_and_its_older_operator():
    chart = addons.source("lws", "acs", "cn-beijing")
    assert chart.values["image"]["manager"]["repository"] == "registry-cn-beijing-vpc.ack.aliyuncs.com/acs/lws"
    assert (chart.version, chart.app_version) == ("0.1.0", "0.5.0")
    assert addons.source("fluid", "acs", "cn-beijing").values["region"] == "cn-beijing"


def test_a_fluid_that_is_too_old_for_the_cloud_is_refused():
    addons.require_minimum("fluid", "acs", "1.0.11")
    addons.require_minimum("fluid", "upstream", "1.0.8")
    with pytest.raises(PlanError, match=r"fluid 1\.0\.9: too old for acs, which needs 1\.0\.11"):
        addons.require_minimum("fluid", "acs", "1.0.9")
