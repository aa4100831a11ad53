"""Drift is told apart from what others own, and from a failed refresh.

The records are of a rehearsal: `python -m tests.record_previews NAME` plants a drift on a stack that is up, keeps what
`pulumi refresh --preview-only --json` prints, and takes the drift back. Names with `-digest` have its shorter JSON.
"""

from __future__ import annotations

import json

import pytest

from ops.__main__ import main
from report import drift_report, run_file
from tests.support.reports import DRIFT, preview, recorded, step, text_of

# What each refresh finds.
FOUND = {
    "none": [],
    "image-digest": ["LeaderWorkerSet qwen"],
    "service-gone-digest": ["Service qwen-service"],
    "network-open": ["NetworkPolicy ds-network"],
    "bucket-public-digest": ["BucketAcl weights"],
    "interrupted": ["LeaderWorkerSet qwen"],
    # Recorded after an update of qwen that had failed.
    "fluid-requests-digest": ["LeaderWorkerSet qwen"],
    "helm-status": [],
}
RECORDED = sorted(file.name.removesuffix(".json.xz") for file in DRIFT.glob("*.json.xz"))


def test_every_record_has_an_expectation_and_every_expectation_a_record():
    assert {*RECORDED} == FOUND.keys()


@pytest.mark.parametrize("name", RECORDED)
def test_what_was_planted_is_found_and_nothing_else(name):
    seen = drift_report.look(recorded(name, DRIFT))
    told = [each.change for each in seen.drifted] + seen.cut_off
    assert sorted({f"{each.kind} {each.name}" for each in told}) == FOUND[name]
    assert (seen.verdict, seen.exit_code) == (("drift", 1) if FOUND[name] else ("none", 0))


@pytest.mark.parametrize("name", RECORDED)
def test_a_drift_report_reads_as_it_was_approved(name):
    assert drift_report.markdown(drift_report.look(recorded(name, DRIFT))) == (DRIFT / f"{name}.md").read_text()


def _webhook(bundle):
    return {"webhooks": [{"name": "a", "clientConfig": {"caBundle": bundle, "service": {"name": "s"}}}]}


_FLEET = "kubernetes:orchestration.aibrix.ai/v1alpha1:RayClusterFleet"
_HOOK = "kubernetes:admissionregistration.k8s.io/v1:MutatingWebhookConfiguration"
OTHERS = {
    "an autoscaler's replicas": (_FLEET, {"spec": {"replicas": 1}}, {"spec": {"replicas": 4}}, ["spec.replicas"]),
    "a CA bundle": (_HOOK, _webhook("a"), _webhook("b"), []),
    "a CA bundle that the program leaves out": (
        _HOOK,
        _webhook("a"),
        _webhook("b"),
        ["webhooks[*].clientConfig.caBundle"],
    ),
    "Helm's status": (
        "kubernetes:helm.sh/v3:Release",
        {"name": "lws", "status": {"status": "deployed"}},
        {"name": "lws", "status": {"status": "failed"}},
        [],
    ),
    "an annotation, by its quoted path": (
        "kubernetes:core/v1:Service",
        {"metadata": {"annotations": {"a.b/c": "1"}}},
        {"metadata": {"annotations": {"a.b/c": "2"}}},
        ['metadata.annotations["a.b/c"]'],
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_others_own_is_no_drift_and_the_same_field_of_ours_is(case):
    kind, old, new, ignored = OTHERS[case]
    seen = drift_report.look(run_file.read(preview(step(kind, "x", "update", old, new, ignoreChanges=ignored)), "f"))
    assert seen.verdict == "none"
    other = "kubernetes:core/v1:ConfigMap"
    assert drift_report.look(run_file.read(preview(step(other, "x", "update", old, new)), "f")).verdict == "drift"


@pytest.mark.parametrize("kind", ["autoscaling.aibrix.ai/v1alpha1:PodAutoscaler", "keda.sh/v1alpha1:ScaledObject"])
def test_replicas_of_what_an_autoscaler_scales_are_its_own_also_where_the_state_does_not_say_so(kind: str):
    target = {"spec": {"scaleTargetRef": {"kind": "RayClusterFleet", "name": "ds"}}}
    scaler = step(f"kubernetes:{kind}", "ds", "same", target, target)
    sides = [{"metadata": {"name": "ds"}, "spec": {"replicas": number}} for number in (1, 4)]
    fleet = step(_FLEET, "ds", "update", *sides)
    assert drift_report.look(run_file.read(preview(fleet, scaler), "f")).verdict == "none"
    assert drift_report.look(run_file.read(preview(fleet), "f")).verdict == "drift"


def test_what_nobody_states_is_no_drift():
    side = {"spec": {"a": 1}}
    live = [{"spec": {"a": 1, "given": n}, "status": {"ready": n}} for n in (1, 2)]
    one = step("kubernetes:core/v1:Service", "x", "update", side, side)
    for key, outputs in zip(("oldState", "newState"), live, strict=True):
        one[key]["outputs"] = outputs
    assert drift_report.look(run_file.read(preview(one), "f")).verdict == "none"


def test_what_somebody_adds_to_a_list_is_drift_where_the_live_object_is_told():
    """The provider's refresh calls it the same: the inputs that it reads back are as long as those that it has."""
    side = {"spec": {"ingress": [{"ports": [{"port": 8000}]}]}}
    one = step("kubernetes:networking.k8s.io/v1:NetworkPolicy", "x", "same", side, side)
    given = {"ports": [{"port": 8000, "protocol": "TCP"}]}
    one["oldState"]["outputs"] = {"spec": {"ingress": [given]}}
    one["newState"]["outputs"] = {"spec": {"ingress": [given, {}]}}
    seen = drift_report.look(run_file.read(preview(one), "f"))
    assert [each.change.name for each in seen.drifted] == ["x"] and seen.drifted[0].paths == ("spec.ingress",)


def test_a_refresh_that_failed_is_an_error_even_where_it_found_drift():
    found = step("kubernetes:core/v1:Service", "x", "delete", {"a": 1})
    text = preview(found, diagnostics=[{"severity": "error", "message": "error: cluster unreachable"}])
    seen = drift_report.look(run_file.read(text, "f"))
    assert (seen.verdict, seen.exit_code) == ("error", 2) and "cluster unreachable" in drift_report.markdown(seen)


def test_events_without_their_end_are_an_error():
    lines = [line for line in text_of(DRIFT / "none.json.xz").splitlines() if "summaryEvent" not in line]
    assert drift_report.look(run_file.read("\n".join(lines), "f")).verdict == "error"


def test_a_changed_secret_is_drift_without_its_value():
    sides = [{"kind": "Secret", "data": {"apiKey": value}} for value in ("b2xk", "bmV3")]
    one = step("kubernetes:core/v1:Secret", "x", "update", *sides) | {
        "detailedDiff": {"data.apiKey": {"kind": "update"}}
    }
    said = drift_report.markdown(drift_report.look(run_file.read(preview(one), "f")))
    assert "Secret x differs at `data.apiKey`" in said and "b2xk" not in said and "bmV3" not in said


def test_the_command_says_it_in_every_form_and_by_its_exit_code(tmp_path, capsys):
    file = tmp_path / "refresh.json"
    file.write_text(text_of(DRIFT / "service-gone-digest.json.xz"))
    for form in ("markdown", "text", "json"):
        assert main(["drift", str(file), "--format", form]) == 1
        assert "qwen-service" in (said := capsys.readouterr().out)
    assert json.loads(said)["drifted"][0]["gone"] is True
