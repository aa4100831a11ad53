"""Secret values stay out of the state and of everything that is printed."""

from __future__ import annotations

import base64
from pathlib import Path

import pulumi
import pulumi_kubernetes as k8s

from tests.engine.provider.conftest import Cluster, Engine, Outcome, widget

WORDS = ("correct-horse", "battery-staple", "hunter-two", "tr0ub4dor")


# The key that marks a secret in an exported state.
SECRET = "4dabf18193072939515e22adb298388d"


def assert_hidden(folder: Path, *outcomes: Outcome) -> None:
    printed = "".join(outcome.output + "".join(outcome.status + outcome.notes) for outcome in outcomes)
    kept = "".join(file.read_text() for file in folder.rglob("*.json*") if file.is_file())
    assert '"deployment"' in kept or '"checkpoint"' in kept
    for word in WORDS:
        for form in (word, base64.b64encode(word.encode()).decode()):
            assert form not in kept and form not in printed


def test_no_secret_is_ever_plain_in_state_or_output(engine: Engine, cluster: Cluster, namespace: str) -> None:
    labels = {"app": "a"}

    def program(text: str = WORDS[0], token: str = WORDS[2]) -> None:
        metadata = {"namespace": namespace}
        k8s.core.v1.Secret("s", metadata=metadata | {"name": "s"}, string_data={"text": text, "more": WORDS[1]})
        env = [{"name": "TOKEN", "value": pulumi.Output.secret(token)}]
        spec = {"containers": [{"name": "c", "image": "busybox", "env": env}]}
        k8s.apps.v1.Deployment(
            "dep",
            metadata=metadata | {"name": "dep"},
            spec={
                "replicas": 0,
                "selector": {"match_labels": labels},
                "template": {"metadata": {"labels": labels}, "spec": spec},
            },
        )
        widget(namespace, {"note": pulumi.Output.secret(WORDS[3])}, size=1)

    preview, up = engine.preview(program), engine.up(program)
    assert preview.ok and up.ok
    assert cluster.get(f"/api/v1/namespaces/{namespace}/secrets/s")["data"] == {
        "text": base64.b64encode(WORDS[0].encode()).decode(),
        "more": base64.b64encode(WORDS[1].encode()).decode(),
    }
    again, refreshed = engine.up(), engine.refresh()
    assert [op for op, _ in again.steps] == ["same"] * 3
    changed = engine.up(lambda: program("hunter-two", "tr0ub4dor"))
    assert changed.ok and changed.replaced_by["s"] == ["data.text"]
    assert changed.detail["dep"] == {"spec.template.spec.containers[0].env[0].value": "update"}
    assert_hidden(engine.backend, preview, up, again, refreshed, changed)

    entry = engine.resource("s")
    assert "stringData" not in entry["inputs"]
    for properties in (entry["inputs"], entry["outputs"], entry["outputs"]["__inputs"]):
        assert SECRET in properties["data"]
    containers = engine.resource("dep")["outputs"]["spec"]["template"]["spec"]["containers"]
    assert SECRET in containers


def test_the_same_secret_as_data_instead_of_text_changes_nothing(engine: Engine, namespace: str) -> None:
    metadata = {"namespace": namespace, "name": "s"}
    assert engine.up(lambda: k8s.core.v1.Secret("s", metadata=metadata, string_data={"a": "b"})).ok
    encoded = base64.b64encode(b"b").decode()
    assert engine.up(lambda: k8s.core.v1.Secret("s", metadata=metadata, data={"a": encoded})).steps == [("same", "s")]
