"""Which stacks a commit changes: its own file one, the program all, the documents none."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest

from ci import stacks
from planning.problems import Refused

TODAY = datetime.date(2026, 11, 29)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["Pulumi.acs.yaml"], ["acs"]),
        (["Pulumi.vke.yaml", "Pulumi.acs.yaml", "docs/plan.md"], ["acs", "vke"]),
        (["Pulumi.other.yaml"], []),
        (["README.md", "docs/plan.png", "tests/conftest.py", ".github/workflows/check.yml", "LICENSE"], []),
        (["planning/memory.py"], ["acs", "vke"]),
        (["components/weights/sync/hubs.py", "docs/plan.md"], ["acs", "vke"]),
        (["Pulumi.yaml"], ["acs", "vke"]),
        (["requirements.txt"], ["acs", "vke"]),
        (["requirements-dev.txt"], []),
        ([], []),
        (None, ["acs", "vke"]),
    ],
)
def test_a_commit_changes_the_stacks_that_its_files_may_change(files: list[str] | None, found: list[str]):
    assert stacks.changed(["acs", "vke"], files) == found


@pytest.mark.parametrize("text", ["", "{}", "[1]", '["gone"]'])
def test_a_list_that_is_none_or_names_a_stack_without_a_file_is_refused(text: str, tmp_path: Path):
    (tmp_path / ".github").mkdir()
    (tmp_path / stacks.LIST).write_text(text)
    with pytest.raises(Refused):
        stacks.looked_after(tmp_path)


@pytest.mark.parametrize(
    ("expires", "over"),
    [
        ("2026-11-28", True),
        ("2026-11-29", False),
        (TODAY - datetime.timedelta(1), True),
        ("soon", False),
        (None, False),
    ],
)
def test_a_stack_is_expired_from_the_day_after_its_last(expires: object, over: bool):
    assert stacks.expired({} if expires is None else {"expires": expires}, TODAY) is over


def test_of_a_destroyed_stack_what_was_not_to_be_kept_is_told_apart():
    def resource(kind: str, **more: object) -> dict[str, object]:
        return {"type": kind, "urn": f"urn:pulumi:s::p::{kind}::x", "custom": True, **more}

    listed = [
        resource("pulumi:pulumi:Stack", custom=False),
        resource("pulumi:providers:alicloud"),
        resource("alicloud:oss/bucket:Bucket", protect=True),
        resource("kubernetes:core/v1:PersistentVolumeClaim", retainOnDelete=True),
        resource("kubernetes:leaderworkerset.x-k8s.io/v1:LeaderWorkerSet"),
    ]
    kept, alive = stacks.left(json.loads(json.dumps({"deployment": {"resources": listed}})))
    assert (kept, alive) == (["Bucket x", "PersistentVolumeClaim x"], ["LeaderWorkerSet x"])
    assert stacks.left({"deployment": {"resources": None}}) == ([], [])
