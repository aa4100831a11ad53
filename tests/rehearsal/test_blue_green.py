"""An update beside what serves: a second group that is asked for a completion before it gets any request."""

from __future__ import annotations

from tests.rehearsal.pulumi_stack import Cluster, Stack, one_node
from tests.rehearsal.test_answers import asked, slow

GOOD = "vllm/vllm-openai:v0.7.2"


def beside(stack: Stack) -> None:
    stack.services["ds"] = one_node(slow(stack)) | {"rollout": {"strategy": "blueGreen"}}


def groups(cluster: Cluster) -> list[str]:
    return sorted(each.removeprefix("LeaderWorkerSet/") for each in cluster.ours() if each.startswith("LeaderWorkerS"))


def serves(cluster: Cluster) -> str:
    service = cluster.core.read_namespaced_service("ds-leader", "default")
    return service.spec.selector["leaderworkerset.sigs.k8s.io/name"]


def test_no_request_fails_while_a_good_version_takes_over_and_none_while_a_bad_one_is_kept_off(
    stack: Stack, cluster: Cluster
):
    beside(stack)
    stack.up()
    assert (groups(cluster), serves(cluster)) == (["ds-blue"], "ds-blue")
    service = stack.services["ds"]
    with asked(cluster, "a good version") as outcomes:
        service["engine"]["image"] = GOOD
        assert "an update takes 16 GPUs instead of 8" in stack.preview()
        stack.up()
    assert outcomes.keys() == {"whole"}, outcomes
    assert (groups(cluster), serves(cluster)) == (["ds-green"], "ds-green")
    assert stack.in_order("LeaderWorkerSet/ds-green", "Service/ds-service", "LeaderWorkerSet/ds-blue")
    # Its context is shorter than the answer that is asked for.
    with asked(cluster, "a bad version") as outcomes:
        service["maxModelLen"] = 32
        said = stack.up(ok=False)
    assert outcomes.keys() == {"whole"}, outcomes
    assert "ds: the new group did not answer: 400 Bad Request: This model's maximum context length is 32" in said
    assert (groups(cluster), serves(cluster)) == (["ds-blue", "ds-green"], "ds-green")
    with asked(cluster, "the version from before") as outcomes:
        service["maxModelLen"] = "auto"
        stack.up()
    assert outcomes.keys() == {"whole"}, outcomes
    assert (groups(cluster), serves(cluster)) == (["ds-green"], "ds-green")
    assert list(stack.steps()) == ["LeaderWorkerSet/ds-blue", "ConfigMap/ds-blue-launch"]
