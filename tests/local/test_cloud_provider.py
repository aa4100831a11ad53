"""What cloud plugins do alike that no run of the engine shows at will: a refused deletion is tried again."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from pulumi.runtime.proto import provider_pb2

from local.paths import ROOT
from local.providers import alicloud, volcengine
from local.providers.alicloud.provider import Provider as Alicloud
from local.providers.cloud import Cloud
from local.providers.cloud_provider import RETRY_VARIABLE, CloudProvider
from local.providers.volcengine.errors import refused
from local.providers.volcengine.provider import Provider as Volcengine

BUCKETS = {Alicloud: "alicloud:oss/bucket:Bucket", Volcengine: "volcengine:tos/bucket:Bucket"}
USER = "volcengine:iam/user:User"


class Stubborn:
    """A deletion that is refused so many times before it succeeds."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self, cloud: Cloud, name: str, state: dict[str, Any]) -> None:
        if self.left:
            self.left -= 1
            raise refused(409, "BucketNotEmpty", "full")


def delete(made: type[CloudProvider], token: str, deletion: Stubborn) -> str:
    """What the plugin tells of the deletion; empty when it succeeds."""
    plugin, context = made("127.0.0.1:1"), mock.Mock()
    plugin.kinds = {token: replace(plugin.kinds[token], delete=deletion)}
    plugin.Delete(provider_pb2.DeleteRequest(id="weights", urn=f"urn:pulumi:test::test::{token}::b"), context)
    return context.abort.call_args.args[1] if context.abort.called else ""


@pytest.fixture(autouse=True)
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSERVE_CLOUD", str(tmp_path / "cloud"))
    monkeypatch.setenv(RETRY_VARIABLE, "60")


def test_a_patient_plugin_deletes_what_stops_being_in_the_way():
    assert delete(Volcengine, BUCKETS[Volcengine], Stubborn(2)) == ""


def test_its_patience_ends(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(RETRY_VARIABLE, "0")
    assert "BucketNotEmpty" in delete(Volcengine, BUCKETS[Volcengine], Stubborn(1))


@pytest.mark.parametrize(("made", "token"), [(Alicloud, BUCKETS[Alicloud]), (Volcengine, USER)])
def test_others_fail_at_once(made: type[CloudProvider], token: str):
    assert "BucketNotEmpty" in delete(made, token, Stubborn(1))


@pytest.mark.parametrize(("made", "package"), [(Alicloud, alicloud), (Volcengine, volcengine)])
def test_every_type_is_named_in_the_rules(made: type[CloudProvider], package: Any):
    rules = Path(package.__file__).with_name("RULES.md").read_text()
    assert [token for token in made.kinds if token.rpartition(":")[2] not in rules] == []


@pytest.mark.parametrize("package", [alicloud, volcengine])
def test_a_plugin_starts_without_the_sdk(package: Any):
    code = "import importlib, sys; from local.providers import serving; serving.skip_sdk(); "
    code += f"importlib.import_module('{package.__name__}.provider'); print('pulumi.output' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout == "False\n"
