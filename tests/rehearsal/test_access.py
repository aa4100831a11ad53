"""How pods access the bucket on ACS, run on a rehearsal: through roles of the cloud, and with rotated keys."""

from __future__ import annotations

import base64
from typing import Any

import pytest
import yaml

from standins.providers.alicloud.ram import ACCOUNT
from standins.sts import claims_of
from tests.rehearsal.clouds import Cloud
from tests.rehearsal.fleets import Fleets
from tests.rehearsal.pulumi_stack import Cluster, Stack, one_node

BUCKET = "modelserve-llm-weights"


def issuer(cluster: Cluster) -> str:
    """Who signs the tokens of the cluster's pods."""
    body: Any = {"spec": {"audiences": ["sts.aliyuncs.com"]}}
    made = cluster.core.create_namespaced_service_account_token("default", "default", body)
    return claims_of(made.status.token)["iss"]


def smaller(stack: Stack) -> None:
    """Reduces the stack to one node and the add-ons that the test needs."""
    stack.services["ds"] = one_node(stack.services["ds"])


def with_roles(stack: Stack, trusted: str) -> None:
    """Lets the pods take roles of the cloud, which trusts tokens of the issuer `trusted`."""
    smaller(stack)
    stack.config["modelserve:addons"] = {"lws": {"install": False}}
    stack.config["modelserve:cache"] = {"engine": "none"}
    provider = f"acs:ram::{ACCOUNT}:oidc-provider/ack-rrsa-rehearsal"
    stack.config["modelserve:cluster"]["oidc"] = {"provider": provider, "issuer": trusted}


def test_a_stack_whose_pods_take_roles_has_no_key_anywhere(acs: Stack, cluster: Cluster, cloud: Cloud):
    with_roles(acs, issuer(cluster))
    said = acs.up()
    assert "bucket: read by a role and filled by a role" in said
    assert cluster.ready() and cloud.written(BUCKET)
    tables = cloud.tables()
    assert len(tables["roles"]) == 2 and not tables["users"] and not tables["keys"]
    assert not [name for name in cluster.ours() if name.startswith("Secret/") and "api-key" not in name]
    (volume,) = [each for each in cluster.core.list_persistent_volume().items if each.spec.csi and each.spec.claim_ref]
    assert volume.spec.csi.volume_attributes["authType"] == "rrsa"
    assert volume.spec.csi.volume_attributes["roleName"] in tables["roles"]
    acs.up("--refresh", "--expect-no-changes")
    acs.destroy("--exclude-protected")
    assert cloud.left() == {"buckets": [BUCKET]}


@pytest.mark.soak
def test_another_cluster_cannot_take_the_roles_of_a_stack_and_the_right_issuer_heals_it(
    acs: Stack, cluster: Cluster, cloud: Cloud
):
    with_roles(acs, "https://another.example")
    said = acs.up(ok=False)
    assert "STS answers 403 NoPermission: check cluster.oidc" in said
    assert not cloud.written(BUCKET)
    acs.config["modelserve:cluster"]["oidc"]["issuer"] = issuer(cluster)
    acs.up()
    assert cluster.ready() and cloud.written(BUCKET)


def rotated(stack: Stack, cloud: Cloud) -> dict[str, Any]:
    """The keys after a rotation, all new; no key was printed."""
    before = cloud.tables()["keys"]
    told = stack.ops("rotate", stack.name, "--pause", "0", seconds=600)
    after = cloud.tables()["keys"]
    assert len(before) == len(after) == 2 and not before.keys() & after.keys()
    assert all(key["user"].endswith("-2") for key in after.values()) and len(cloud.tables()["users"]) == 2
    assert not any(text in told for key, entry in (before | after).items() for text in (key, entry["secret"]))
    written = yaml.safe_load(stack.file.read_text())["config"]["modelserve:weights"]
    assert written["bucket"]["keys"] == [2]
    stack.config["modelserve:weights"] = written
    return after


def key_in(cluster: Cluster, secret: str, name: str) -> str:
    return base64.b64decode(cluster.core.read_namespaced_secret(secret, "default").data[name]).decode()


@pytest.mark.soak
def test_keys_are_rotated_behind_a_cache_without_a_restart(acs: Stack, cluster: Cluster, cloud: Cloud):
    smaller(acs)
    acs.up()
    pods = cluster.pods()
    keys = rotated(acs, cloud)
    assert key_in(cluster, "deepseek-r1-cache-key", "fs.oss.accessKeyId") in keys
    assert cluster.pods() == pods
    acs.up("--refresh", "--expect-no-changes")


@pytest.mark.soak
def test_keys_of_a_fleets_downloads_are_rotated_without_a_restart(
    volcengine: Stack, cluster: Cluster, cloud: Cloud, fleets: Fleets
):
    volcengine.up()
    pods = fleets.uids()
    keys = rotated(volcengine, cloud)
    assert key_in(cluster, "deepseek-r1-download-keys", "id") in keys
    assert fleets.uids() == pods and fleets.ask().status_code == 200
    volcengine.up("--refresh", "--expect-no-changes")


@pytest.mark.soak
@pytest.mark.parametrize("start", ["acs", "volcengine"])
def test_a_rotation_killed_at_every_step_ends_with_one_generation_of_keys_and_restarts_nothing(
    request: pytest.FixtureRequest, cluster: Cluster, cloud: Cloud, start: str
):
    stack: Stack = request.getfixturevalue(start)
    stack.up()
    before, pods, seen, killed = cloud.tables()["keys"], engines(cluster), set[str](), 0
    while stack.kill_rotation_at_news(seen):
        killed += 1
        assert len(cloud.tables()["keys"]) >= 2, "nobody can read the bucket"
    print(f"{start}: rotation killed {killed} times, at {len(seen)} moments")
    keys = cloud.tables()["keys"]
    assert killed and len(keys) == len(cloud.tables()["users"]) == 2 and not before.keys() & keys.keys()
    assert engines(cluster) == pods
    stack.config["modelserve:weights"] = yaml.safe_load(stack.file.read_text())["config"]["modelserve:weights"]
    assert len(stack.config["modelserve:weights"]["bucket"]["keys"]) == 1
    stack.up("--refresh", "--expect-no-changes")


def engines(cluster: Cluster) -> set[str]:
    """The uids of the pods with GPUs."""
    pods = cluster.core.list_namespaced_pod("default").items
    return {pod.metadata.uid for pod in pods if "nvidia.com/gpu" in (pod.spec.containers[0].resources.requests or {})}
