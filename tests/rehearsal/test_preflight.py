"""A preview and an `up` on the plain pulumi CLI refuse names that are already taken in the cluster."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from local.api import Api, ApiError
from local.control_plane import ControlPlane
from tests.rehearsal.pulumi_stack import Stack, one_node

PATHS = {
    "Secret": ("v1", "/api/v1/namespaces/default/secrets"),
    "Dataset": ("data.fluid.io/v1alpha1", "/apis/data.fluid.io/v1alpha1/namespaces/default/datasets"),
}


@pytest.fixture
def planted(control_plane: ControlPlane) -> Iterator[Planted]:
    plants = Planted(control_plane.api)
    yield plants
    for path in plants.paths:
        plants.remove(path)


class Planted:
    """Objects in the cluster that belong to others."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.paths: list[str] = []

    def put(self, kind: str, name: str, path: str = "", **more: Any) -> None:
        """An object, at `path` where its kind has no usual one."""
        version, usual = PATHS.get(kind, ("v1", path))
        body = {"apiVersion": version, "kind": kind, **more}
        body["metadata"] = {"name": name, **more.get("metadata", {})}
        self._api.request("POST", f"{path or usual}?fieldManager=argocd", body)
        self.paths.append(f"{path or usual}/{name}")

    def release(self, namespace: str, name: str, description: str, app_version: str) -> None:
        """Helm's record of a release."""
        record = {
            "name": name,
            "info": {"status": "deployed", "description": description},
            "chart": {"metadata": {"name": name, "version": app_version, "appVersion": f"v{app_version}"}},
        }
        packed = base64.b64encode(base64.b64encode(gzip.compress(json.dumps(record).encode()))).decode()
        labels = {"owner": "helm", "name": name, "status": "deployed", "version": "1"}
        try:
            self.put("Namespace", namespace, "/api/v1/namespaces")
        except ApiError as error:
            assert error.code == 409
        called, path = f"sh.helm.release.v1.{name}.v1", f"/api/v1/namespaces/{namespace}/secrets"
        data = {"release": packed}
        self.put("Secret", called, path, type="helm.sh/release.v1", data=data, metadata={"labels": labels})

    def remove(self, path: str) -> None:
        try:
            self._api.delete(path)
        except ApiError as error:
            assert error.code in (404, 409)


def refusals(said: str) -> list[str]:
    """The refusals in a run's output, line by line."""
    lines = sorted(line.strip() for line in said.splitlines() if line.strip().startswith("modelserve:"))
    return [re.sub("(?<=ds-launch-)[0-9a-f]+", "*", line) for line in lines]


def test_names_that_somebody_else_has_are_a_line_for_each_owner_and_nothing_is_registered(
    acs: Stack, control_plane: ControlPlane, planted: Planted, tmp_path: Path
):
    folder = tmp_path / "other"
    folder.mkdir()
    other = Stack(control_plane, folder)
    other.services["ds"] = one_node(other.services["ds"])
    other.up()
    helm = {"meta.helm.sh/release-name": "cache", "meta.helm.sh/release-namespace": "data"}
    mounts = {"mounts": [{"mountPoint": "https://example.com"}]}
    planted.put("Dataset", "deepseek-r1", metadata={"annotations": helm}, spec=mounts)
    planted.put("Secret", "deepseek-r1-sync-keys")
    planted.release("fluid-system", "ack-fluid", "Install complete", "1.0.8")
    planted.release("lws-system", "lws", f"modelserve stack {other.name}", "0.1.0")
    for run in (acs.preview, acs.up):
        assert refusals(run(ok=False)) == [
            "modelserve:addons.fluid: Release fluid-system/ack-fluid: exists already, held by somebody else; write "
            "install: adopt or false to use it, or remove it there",
            f"modelserve:addons.lws: Release lws-system/lws: exists already, held by stack {other.name}; write "
            "install: adopt or false to use it, or remove it there",
            "modelserve:services.ds.model: Dataset default/deepseek-r1: exists already, held by Helm release "
            "data/cache; write another cluster.namespace, remove it, or take it over with `pulumi import`",
            "modelserve:services.ds.model: Secret default/deepseek-r1-sync-keys: exists already, held by field manager "
            "argocd; write another cluster.namespace, remove it, or take it over with `pulumi import`",
            "modelserve:services.ds: ConfigMap default/ds-launch-*, LeaderWorkerSet default/ds, NetworkPolicy "
            f"default/ds and 2 more: exist already, held by stack {other.name}; give the service another name, or take "
            "it out there",
        ]
    registered = {resource["type"] for resource in acs.state()["deployment"]["resources"]}
    # The default provider of Pulumi's own functions, by which the program reads the stack's last outputs.
    assert registered == {"pulumi:pulumi:Stack", "pulumi:providers:pulumi"}
    acs.config["modelserve:addons"] |= {"lws": {"install": "adopt"}, "fluid": {"install": False}}
    assert [line for line in refusals(acs.preview(ok=False)) if "addons" in line] == [
        "modelserve:addons.lws.version: 0.10.0: the adopted release lws-system/lws holds v0.1.0, the stack says "
        "0.10.0; write the version that is installed"
    ]
    an_object_of_the_stack_that_lost_its_labels_is_in_nobodys_way(other)
    other.destroy()


def an_object_of_the_stack_that_lost_its_labels_is_in_nobodys_way(stack: Stack) -> None:
    stack.plane.api.merge("/api/v1/namespaces/default/services/ds-leader", {"metadata": {"labels": None}})
    assert "9 unchanged" in stack.preview()
