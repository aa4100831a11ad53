"""What each cloud can do: one row decides, and a cloud that lacks a part of the program is an error that names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest

from ci import sessions
from components.weights.model_bucket import ModelBucketArgs
from config import abilities, clouds, json_schema
from config.judge import judge
from local.paths import ROOT
from planning.problems import Refused
from report import service_changes
from watch import cloud_lists


def test_every_cloud_has_a_type_a_row_and_a_builder():
    kinds = {
        kind for each in get_args(get_args(clouds.Cloud)[0]) for kind in get_args(each.model_fields["kind"].annotation)
    }
    assert kinds == set(abilities.CLOUDS)
    assert all((ROOT / "stacks" / f"{kind}.py").is_file() for kind in kinds)


BUCKET = {"stack": "x", "bucket": "weights-1", "region": "r", "prefix": "models", "abort_upload_days": 1}


@pytest.mark.parametrize(
    "asked",
    [
        lambda: judge({"cloud": {"kind": "demo"}}),
        lambda: json_schema.schema(),
        lambda: ModelBucketArgs(cloud="demo", **BUCKET),
        lambda: sessions.environment("demo", "x"),
        lambda: cloud_lists.account("demo", "r"),
        lambda: cloud_lists.PACKAGES["demo"],
        lambda: service_changes._rdma({"spec": {}}, "demo"),
        lambda: service_changes._reach({"spec": {"type": "LoadBalancer"}}, "demo"),
    ],
    ids=["rules between sections", "JSON Schema", "bucket", "keys of a job", "account", "leftovers", "RDMA", "address"],
)
def test_a_cloud_that_has_only_its_row_is_refused_by_name_where_its_part_is_missing(
    asked: Callable[[], object], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(abilities.CLOUDS, "demo", abilities.CLOUDS["acs"])
    monkeypatch.setenv(sessions.ROLE, "role")
    with pytest.raises((KeyError, Refused), match="demo"):
        asked()
