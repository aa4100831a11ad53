"""The schedule's CronJobs: what their pods may do, when they run, and that the program asks for just that."""

from __future__ import annotations

import http.server
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.serving import modelserve_scale
from components.serving.replica_schedule import ReplicaSchedule, ReplicaScheduleArgs, Workload, access, cron_job
from planning.schedule import Schedule, Window
from tests.support.http_server import running
from tests.support.recorder import Recorder

ARGS = ReplicaScheduleArgs(
    stack="test",
    namespace="models",
    workload=Workload("leaderworkerset.x-k8s.io/v1", "leaderworkersets", "ds"),
    schedule=Schedule("Asia/Shanghai", (Window(("mon",), "08:00", "20:00"),)),
    replicas=2,
    image="python:3.12-slim",
    pod_labels={"class": "cpu"},
)


def pod(on: bool = True) -> dict[str, Any]:
    edge = next(each for each in ARGS.schedule.edges() if each.on is on)
    return cron_job("ds", ARGS, edge)["spec"]["jobTemplate"]["spec"]["template"]


def test_the_pods_may_change_the_scale_of_that_workload_and_nothing_else():
    account, role, binding = access("ds", ARGS)
    assert role["rules"] == [
        {
            "apiGroups": ["leaderworkerset.x-k8s.io"],
            "resources": ["leaderworkersets/scale"],
            "resourceNames": ["ds"],
            "verbs": ["patch"],
        }
    ]
    (subject,) = binding["subjects"]
    assert subject["name"] == account["metadata"]["name"] == pod()["spec"]["serviceAccountName"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]


def test_the_pod_has_no_rights_on_its_node_and_a_token_of_minutes():
    spec = pod()["spec"]
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] and container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    (token, _) = next(each["projected"]["sources"] for each in spec["volumes"] if "projected" in each)
    assert token["serviceAccountToken"]["expirationSeconds"] == 600
    assert spec["automountServiceAccountToken"] is False


def test_each_edge_is_a_cron_job_in_the_schedules_time_zone():
    made = {
        manifest["metadata"]["name"]: manifest["spec"]
        for edge in ARGS.schedule.edges()
        for manifest in [cron_job("ds", ARGS, edge)]
    }
    assert {name: spec["schedule"] for name, spec in made.items()} == {
        "ds-on-0800": "0 8 * * 1",
        "ds-off-0800": "0 8 * * 0,2,3,4,5,6",
        "ds-off-2000": "0 20 * * 0,1,2,3,4,5,6",
    }
    assert {spec["timeZone"] for spec in made.values()} == {"Asia/Shanghai"}


@pytest.mark.parametrize(("on", "replicas"), [(True, "2"), (False, "0")])
def test_the_pod_is_told_how_many_replicas_there_are_to_be(on, replicas):
    (container,) = pod(on)["spec"]["containers"]
    assert {each["name"]: each["value"] for each in container["env"]}["MODELSERVE_REPLICAS"] == replicas


def test_no_cron_job_is_there_before_its_pods_may_scale(engine: Recorder):
    engine.run(lambda: ReplicaSchedule("ds", ARGS) and None)
    needed = {"ds-schedule-role", "ds-schedule-rolebinding", "ds-schedule-serviceaccount", "ds-schedule-configmap"}
    for name in ("ds-on-0800", "ds-off-0800", "ds-off-2000"):
        after = {urn.rpartition("::")[2] for urn in engine.one("CronJob", name).dependencies}
        assert needed <= after


# --- the program, against a server that answers as told


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[list[int], list[tuple[str, Any, Any]]]]:
    """An API server that gives these statuses in turn, and what it was asked."""
    statuses: list[int] = []
    asked: list[tuple[str, Any, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_PATCH(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, body, dict(self.headers)))
            self.send_response(statuses.pop(0))
            self.end_headers()
            self.wfile.write(b'{"message": "told why"}')

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    (tmp_path / "token").write_text("the-token\n")
    (container,) = pod()["spec"]["containers"]
    for each in container["env"]:
        monkeypatch.setenv(each["name"], each["value"])
    monkeypatch.setenv("MODELSERVE_API", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("MODELSERVE_IDENTITY", str(tmp_path))
    monkeypatch.setattr(modelserve_scale, "_PAUSE_SECONDS", 0)
    with running(server):
        yield statuses, asked


def test_the_program_sets_the_number_with_its_own_token_and_without_showing_it(api, capsys):
    statuses, asked = api
    statuses[:] = [200]
    assert modelserve_scale.main() == 0
    ((path, body, headers),) = asked
    assert path.partition("?")[0] == ("/apis/leaderworkerset.x-k8s.io/v1/namespaces/models/leaderworkersets/ds/scale")
    assert body == {"spec": {"replicas": 2}}
    assert headers["Authorization"] == "Bearer the-token"
    assert "the-token" not in "".join(capsys.readouterr())


def test_the_program_tries_again_and_says_in_the_end_why_it_gave_up(api, capsys):
    statuses, asked = api
    statuses[:] = [503, 200]
    assert modelserve_scale.main() == 0
    statuses[:] = [403] * 9
    assert modelserve_scale.main() == 1
    assert len(asked) == 2 + modelserve_scale._ATTEMPTS
    assert "told why" in capsys.readouterr().out
