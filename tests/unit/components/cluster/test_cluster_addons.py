"""The add-ons: what their releases promise, and which of them the program changes at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pulumi
import pytest

from components.cluster.cluster_addons import Addon, ClusterAddons, ClusterAddonsArgs, mismatch, release_inputs
from planning.problems import Refused
from tests.support.recorder import Recorder, inputs, is_secret

LWS = Addon(name="lws", chart="oci://registry.k8s.io/lws/charts/lws", version="0.10.0", namespace="lws-system")
FLUID = Addon(
    name="fluid", release="ack-fluid", chart="fluid", repo="https://charts.example", version="1.0.13", namespace="f"
)


def run(*addons: Addon, recorder: Recorder | None = None) -> tuple[Recorder, list[ClusterAddons]]:
    recorder, made = recorder or Recorder(preview=True), []
    recorder.run(lambda: made.append(ClusterAddons("addons", ClusterAddonsArgs(stack="test", addons=addons))))
    return recorder, made


def test_an_addon_is_installed_at_its_exact_version_with_its_crds_and_waited_for():
    recorder, (component,) = run(LWS, FLUID)
    lws = inputs(recorder.one("Release", "addons-lws"))
    assert lws | {"timeout": 0} == {
        "name": "lws",
        "namespace": "lws-system",
        "createNamespace": True,
        "chart": "oci://registry.k8s.io/lws/charts/lws",
        "version": "0.10.0",
        "values": {},
        "resetValues": True,
        "description": "modelserve stack test",
        "skipCrds": False,
        "skipAwait": False,
        "timeout": 0,
    }
    fluid = recorder.one("Release", "addons-fluid")
    assert inputs(fluid)["repositoryOpts"] == {"repo": "https://charts.example"}
    assert inputs(fluid)["name"] == "ack-fluid"
    assert fluid.deleteBeforeReplace
    assert len(component.releases) == 2


def test_nothing_is_registered_for_what_is_not_to_be_installed():
    recorder, (component,) = run(replace(LWS, install=False))
    assert not [key for key in recorder.seen if key[0].endswith(":Release")]
    assert component.releases == []


def test_a_secret_among_the_values_travels_as_one():
    recorder = Recorder(preview=True)

    def program() -> None:
        addon = replace(LWS, values={"token": pulumi.Output.secret("s")})
        ClusterAddons("addons", ClusterAddonsArgs(stack="test", addons=[addon]))

    recorder.run(program)
    assert is_secret(inputs(recorder.one("Release"))["values"]["token"])


def test_a_chart_that_would_take_its_crds_along_is_refused_unless_somebody_else_has_installed_it():
    with pytest.raises(Refused, match=r"lws 0\.5\.0: Helm would delete its CRDs with the release; write 0\.8\.0"):
        replace(LWS, version="0.1.0", app_version="0.5.0")
    replace(LWS, version="0.1.0", app_version="0.5.0", adopt=True)
    replace(LWS, version="0.1.0", app_version="0.5.0", install=False)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"chart": "lws"}, "lws lws: is neither a URL nor a path; write its repository's URL as repo"),
        ({"chart": "charts/lws"}, "lws charts/lws: is neither a URL nor a path; write its repository's URL as repo"),
        ({"repo": "https://a.example"}, "is a full URL; leave repo out"),
    ],
)
def test_a_chart_that_cannot_be_found_is_refused(changes: dict[str, Any], says: str):
    with pytest.raises(Refused, match=says):
        replace(LWS, **changes)


def test_a_chart_that_the_program_has_made_is_named_by_its_path_from_the_project():
    recorder, _ = run(replace(LWS, chart="./made/lws"))
    given = inputs(recorder.one("Release"))
    assert given["chart"] == "./made/lws" and "repositoryOpts" not in given


class Reader(Recorder):
    """Answers a read with a release of this operator."""

    def __init__(self, found: str) -> None:
        super().__init__(preview=True)
        self.found, self.reads = found, []

    def ReadResource(self, request: Any) -> Any:
        self.reads.append(request)
        answer = pulumi.runtime.proto.resource_pb2.ReadResourceResponse(urn=f"urn:{request.name}")
        answer.properties.update({"status": {"appVersion": self.found, "version": "0.1.0"}})
        return answer


def test_an_adopted_release_is_only_read_and_its_values_are_kept_secret():
    reader = Reader("v0.10.0")
    _, (component,) = run(replace(LWS, adopt=True), recorder=reader)
    (read,) = reader.reads
    assert (read.type, read.id) == ("kubernetes:helm.sh/v3:Release", "lws-system/lws")
    assert not read.properties.fields
    assert list(read.additionalSecretOutputs) == ["values"]
    assert not [key for key in reader.seen if key[0].endswith(":Release")]
    assert len(component.releases) == 1


def test_an_adopted_release_of_another_version_fails_the_run():
    with pytest.raises(pulumi.RunError, match=r"lws-system/lws holds v0\.5\.0, the stack says 0\.10\.0"):
        run(replace(LWS, adopt=True), recorder=Reader("v0.5.0"))


def test_what_an_adopted_release_does_not_tell_is_no_mismatch():
    assert mismatch(LWS, None) is None
    assert mismatch(LWS, {"version": "0.10.0", "appVersion": "odd"}) is None
    assert mismatch(LWS, {"version": "0.1.0", "appVersion": "main"}) is None
    assert release_inputs("test", LWS)["timeout"] >= 300
