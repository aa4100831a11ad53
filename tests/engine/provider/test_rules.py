"""Rules that need neither engine nor cluster: what a waitFor text means, what counts as a change."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pytest

from local.paths import ROOT
from local.providers.kubernetes import diff, provider, waits
from local.providers.kubernetes.waitfor import Look, done, parse, waiting
from local.providers.reporting import Refusal

LIVE = {
    "metadata": {"generation": 3},
    "spec": {"replicas": 3},
    "status": {
        "phase": "Almost there",
        "conditions": [
            {"type": "Ready", "status": "True", "observedGeneration": 3},
            {"type": "Old", "status": "True", "observedGeneration": 1},
            {"type": "Broken", "status": "False"},
        ],
    },
}


@pytest.mark.parametrize(
    "text, words",
    [
        ("Ready", 'expected a "jsonpath=" or "condition=" prefix, got "Ready"'),
        ("[]", "at least one condition must be specified"),
        ("jsonpath=$.status.phase", "$.status.phase should be wrapped in brackets { ... }"),
        ("jsonpath={.status.[}", "parsing \"{.status.[}\": jsonpath: unexpected '[' at position 10"),
        ("jsonpath={.a}=", "{.a}= requires a value"),
        ("jsonpath='{.spec.size}'", "'{.spec.size}' should omit shell quotes"),
        ("jsonpath={.status[?@ != 'a']}", "{.status[?@ ! should be wrapped in brackets { ... }"),
        ("jsonpath={.a}=b=c", 'format should be {.path}=value or {.path}, got "{.a}=b=c"'),
    ],
)
def test_a_wait_for_that_cannot_be_read_says_why(text: str, words: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse(text)
    assert str(caught.value) == words


@pytest.mark.parametrize(
    "text, ready",
    [
        ("condition=Ready", True),
        ("condition=Broken", False),
        ("condition=Broken=False", True),
        ("condition=Old", False),
        ("condition=", False),
        ("condition=Ready=a=b", False),
        ("jsonpath={.status.phase}", True),
        ("jsonpath={.status.phase}=Almost there", True),
        ("jsonpath={.status.nothing}", False),
        ("jsonpath={.spec.replicas}=3", True),
        ('jsonpath={.status.conditions[?(@.type=="Ready")].status}=True', True),
        ("jsonpath={$.status.conditions[?@.type=='Ready' && @.status=='True']}", True),
        ("jsonpath={.status.conditions[*].status}=True", True),
        ("jsonpath={.status.conditions[*].status}=False", False),  # of several only the first counts
        ("jsonpath={.status[?@ == 'Complete' || @ == 'Almost there']}", True),
        ("jsonpath={.status[?@ == 'Complete' || @ == 'Failed']}", False),
        ("jsonpath={.status[?@ == 'Complete' || @ == 'Almost there']}=Complete", False),
        ("jsonpath={.status.conditions[?(@.type=='Broken')].status}=True", False),
    ],
)
def test_each_form_of_wait_for_holds_when_it_should(text: str, ready: bool) -> None:
    (step,) = parse(text)
    assert step(LIVE).ready is ready


def test_a_filter_that_ends_on_success_or_failure_says_what_it_looks_for_and_that_it_was_found() -> None:
    text = "{.status[?@ == 'Complete' || @ == 'Almost there']}"
    (step,) = parse(f"jsonpath={text}")
    assert step({"metadata": {}, "status": {"phase": "Executing"}}) == waiting(f"{text} selected nothing")
    assert step(LIVE) == done(f"Found {text}")


def test_a_lagging_status_does_not_count() -> None:
    live = {**LIVE, "status": {"observedGeneration": 1, "phase": "x", "conditions": [{"type": "A", "status": "True"}]}}
    assert parse("condition=A")[0](live) == waiting("Generation 1 is less than expected 3")
    assert parse("jsonpath={.status.phase}")[0](live) == Look(False)


def changes(kind: str, old: dict[str, Any], new: dict[str, Any], **live: Any) -> dict[str, str]:
    head = {"apiVersion": "apps/v1" if kind in ("Deployment", "StatefulSet") else "v1", "kind": kind}
    if kind == "Job":
        head["apiVersion"] = "batch/v1"
    found = diff.compare({**head, **old, **live}, {**head, **old}, {**head, **new})[0]
    return {change.path: change.kind + ("-replace" if change.replaces else "") for change in found}


def test_only_what_the_old_inputs_had_is_compared() -> None:
    old = {"spec": {"replicas": 2}}
    assert changes("Deployment", old, old, status={"replicas": 1}, metadata={"uid": "x"}) == {}
    assert changes("Deployment", old, {"spec": {}}) == {"spec.replicas": "delete"}
    assert changes("Widget", old, {"spec": {"replicas": 2, "on": True}}) == {"spec.on": "add"}
    assert changes("Widget", {"spec": {"on": 1}}, {"spec": {"on": True}}) == {"spec.on": "update"}


def test_a_null_map_is_a_removal_at_every_run() -> None:
    inputs = {"metadata": {"name": "w", "annotations": None}}
    found, _ = diff.compare({"metadata": {"name": "w"}}, inputs, inputs)
    assert found == [diff.Change("metadata.annotations", "delete")]


def test_the_fields_that_cost_the_object_are_those_of_the_official_plugin() -> None:
    labels = {"spec": {"selector": {"matchLabels": {"app": "a"}}}}
    others = {"spec": {"selector": {"matchLabels": {"app": "b"}}}}
    assert changes("Deployment", labels, others) == {"spec.selector.matchLabels.app": "update-replace"}
    template = {"spec": {"template": {"spec": {"containers": [{"image": "a"}]}}}}
    other = {"spec": {"template": {"spec": {"containers": [{"image": "b"}]}}}}
    path = "spec.template.spec.containers[0].image"
    assert changes("Job", template, other) == {path: "update-replace"}
    assert changes("Deployment", template, other) == {path: "update"}
    assert changes("ConfigMap", {}, {"data": {"a": "1"}}) == {"data": "add-replace"}
    assert changes("ConfigMap", {}, {"immutable": True}) == {"immutable": "add"}
    assert changes("StatefulSet", {"spec": {"serviceName": "a"}}, {"spec": {"serviceName": "b"}}) == {
        "spec.serviceName": "update-replace"
    }
    assert changes("Widget", {"metadata": {"namespace": "a"}}, {"metadata": {"namespace": "b"}}) == {
        "metadata.namespace": "update-replace"
    }
    annotated = {"metadata": {"annotations": {"pulumi.com/patchForce": "true"}}}
    assert changes("Widget", {"metadata": {"annotations": {}}}, annotated) == {
        'metadata.annotations["pulumi.com/patchForce"]': "add"
    }


def test_the_plugin_starts_without_the_sdk() -> None:
    # The SDK's own import would double what a preview costs.
    code = (
        "import sys; from local.providers import serving; serving.skip_sdk();"
        "import local.providers.kubernetes.provider; print('pulumi.output' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout == "False\n"


def test_a_service_waits_until_its_endpoints_have_settled_for_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now, version = [0.0], ["1"]

    class Api:
        def get(self, manifest: dict[str, Any]) -> dict[str, Any]:
            assert (manifest["kind"], manifest["metadata"]["name"]) == ("Endpoints", "svc")
            return {"metadata": {"resourceVersion": version[0]}}

    monkeypatch.setattr(waits.time, "monotonic", lambda: now[0])
    wait = waits.Wait(Api(), threading.Event(), lambda severity, text: None)
    live = {"metadata": {"name": "svc"}, "spec": {"selector": {"app": "a"}}}
    seen = []
    for now[0], version[0] in ((0.0, "1"), (9.9, "1"), (9.95, "2"), (19.9, "2"), (20.0, "2")):
        seen.append(waits._service(wait, live))
    assert [look.ready for look in seen] == [False, False, False, False, True]
    assert seen[0].fine_when_late and seen[0].lines == (("info", "[1/3] Finding Pods to direct traffic to"),)
    assert seen[-1].lines == (("info", "Service initialization complete"),)


def test_a_missing_kind_is_retried_for_a_minute() -> None:
    # Retries start after 0, 1, 3, 7, 15 and 31 seconds; the error comes after 63, whatever the custom timeout.
    assert provider._RETRY_SECONDS == (1, 2, 4, 8, 16, 32)
