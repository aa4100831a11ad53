"""A small pod without GPUs that runs one file of Python out of a ConfigMap, with Python alone, and ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.cluster.kubernetes import Manifest
from components.cluster.pod_extras import CONFINED

_FOLDER = "/etc/modelserve"
_NOBODY = 65534
_AMOUNTS = {"cpu": "1", "memory": "2Gi"}


@dataclass(frozen=True, kw_only=True)
class ProgramPod:
    """`file` is in the ConfigMap `config`; `component` names the container, and the pods in their labels. `env` has the
    container's variables in Kubernetes' own spelling, `spec` further fields of the pod's."""

    component: str
    file: Path
    config: str
    image: str
    labels: Mapping[str, str]
    env: Sequence[Manifest]
    mounts: Sequence[Manifest] = ()
    volumes: Sequence[Manifest] = ()
    annotations: Mapping[str, Any] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)

    def config_map(self, metadata: Manifest) -> Manifest:
        """The ConfigMap with the program."""
        data = {self.file.name: self.file.read_text()}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata | {"name": self.config}, "data": data}

    def template(self) -> Manifest:
        """The pod's template."""
        annotations = {"annotations": dict(self.annotations)} if self.annotations else {}
        return {
            "metadata": {"labels": {**self.labels, "app.kubernetes.io/component": self.component}, **annotations},
            "spec": {
                **self.spec,
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "restartPolicy": "Never",
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": _NOBODY,
                    "runAsGroup": _NOBODY,
                    **CONFINED,
                    "fsGroup": _NOBODY,
                },
                "containers": [
                    {
                        "name": self.component,
                        "image": self.image,
                        "command": ["python3", self.file.name],
                        "workingDir": _FOLDER,
                        "env": list(self.env),
                        "resources": {"requests": _AMOUNTS, "limits": dict(_AMOUNTS)},
                        "securityContext": {
                            "allowPrivilegeEscalation": False,
                            "readOnlyRootFilesystem": True,
                            "capabilities": {"drop": ["ALL"]},
                        },
                        # The Kubernetes plugin quotes it when a Job fails.
                        "terminationMessagePolicy": "FallbackToLogsOnError",
                        "volumeMounts": [{"name": "program", "mountPath": _FOLDER, "readOnly": True}, *self.mounts],
                    }
                ],
                "volumes": [{"name": "program", "configMap": {"name": self.config}}, *self.volumes],
            },
        }
