"""Validates Kubernetes objects as an API server with strict field validation does.

The schemas are the real ones: the operators' CRDs and Kubernetes' own OpenAPI documents, read from Go's module cache
at the versions that the rehearsal pins. Not here: rules that no schema states (names, webhooks, CEL).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from local.toolchain import module

_KEDA = Path(__file__).parents[1] / "data" / "keda"
_GATEWAY = "config/crd/standard/gateway.networking.k8s.io_{}s.yaml"
# API version of custom kinds → Go module, or a folder, and its CRD file, with a placeholder for the kind's plural.
_CUSTOM: dict[str, tuple[str | Path, str]] = {
    "leaderworkerset.x-k8s.io/v1": ("sigs.k8s.io/lws", "config/crd/bases/leaderworkerset.x-k8s.io_{}s.yaml"),
    "orchestration.aibrix.ai/v1alpha1": (
        "github.com/vllm-project/aibrix",
        "config/crd/orchestration/orchestration.aibrix.ai_{}s.yaml",
    ),
    "data.fluid.io/v1alpha1": ("github.com/fluid-cloudnative/fluid", "config/crd/bases/data.fluid.io_{}s.yaml"),
    "monitoring.coreos.com/v1": (
        "github.com/prometheus-operator/prometheus-operator",
        "example/prometheus-operator-crd/monitoring.coreos.com_{}s.yaml",
    ),
    "keda.sh/v1alpha1": (_KEDA, "keda.sh_{}s.yaml"),
    "gateway.networking.k8s.io/v1": ("sigs.k8s.io/gateway-api", _GATEWAY),
    "gateway.networking.k8s.io/v1beta1": ("sigs.k8s.io/gateway-api", _GATEWAY),
    "autoscaling.aibrix.ai/v1alpha1": (
        "github.com/vllm-project/aibrix",
        "config/crd/autoscaling/autoscaling.aibrix.ai_{}s.yaml",
    ),
}
_CORE = {"v1": "api__v1", "autoscaling/v2": "apis__autoscaling__v2"} | {
    f"{group}/v1": f"apis__{group}__v1" for group in ("batch", "networking.k8s.io", "rbac.authorization.k8s.io")
}
_OBJECT_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"


def problems(manifest: Mapping[str, Any]) -> list[str]:
    """What is wrong with an object, each `path: why`. Raises KeyError for an API group that no test has needed yet."""
    errors = _validator(manifest["apiVersion"], manifest["kind"]).iter_errors(manifest)
    return sorted(f"{error.json_path}: {error.message}" for error in errors)


@functools.cache
def _validator(group_version: str, kind: str) -> Draft202012Validator:
    if group_version in _CUSTOM:
        schema = _custom(group_version, kind)
    else:
        group, _, version = group_version.rpartition("/")
        definition = f"io.k8s.api.{group.split('.')[0] or 'core'}.{version}.{kind}"
        schemas = _open_api(group_version)
        schema = {"$ref": f"#/components/schemas/{definition}", "components": {"schemas": schemas}}
    return Draft202012Validator(schema)


def _custom(group_version: str, kind: str) -> dict[str, Any]:
    path, file = _CUSTOM[group_version]
    text = ((module(path) if isinstance(path, str) else path) / file.format(kind.lower())).read_text()
    crd = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    version = group_version.partition("/")[2]
    (schema,) = (each["schema"]["openAPIV3Schema"] for each in crd["spec"]["versions"] if each["name"] == version)
    schema = _strict(schema)
    # A CRD's schema does not cover metadata; the API server validates that.
    schema["properties"]["metadata"] = {"$ref": f"#/components/schemas/{_OBJECT_META}"}
    return schema | {"components": {"schemas": _open_api("v1")}}


@functools.cache
def _open_api(group_version: str) -> dict[str, Any]:
    folder = module("k8s.io/kubernetes") / "api" / "openapi-spec" / "v3"
    document = json.loads((folder / f"{_CORE[group_version]}_openapi.json").read_text())
    return {name: _strict(schema) for name, schema in document["components"]["schemas"].items()}


def _strict(schema: Any) -> Any:
    """The schema, with unknown fields refused in every object whose fields it names; maps and free-form objects stay
    open."""
    if isinstance(schema, list):
        return [_strict(below) for below in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _strict(below) for key, below in schema.items()}
    names_fields = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if names_fields and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    return closed


def types(*roots: str) -> dict[str, dict[str, str]]:
    """Kubernetes' own types below the roots, as `planning.kubernetes_pods.types` spells them."""
    found: dict[str, dict[str, str]] = {}
    left = list(roots)
    while left:
        name = left.pop()
        if name in found:
            continue
        (schema,) = (
            each for key, each in _open_api("v1").items() if key.rpartition(".")[2] == name and ".v2" not in key
        )
        required = schema.get("required", ())
        found[name] = {}
        for key, field in sorted(schema.get("properties", {}).items()):
            spelt, below = _spelt(field)
            found[name][f"{key}!" if key in required else key] = spelt
            left += below
    return dict(sorted(found.items()))


def _spelt(field: Mapping[str, Any]) -> tuple[str, list[str]]:
    reference = field.get("$ref") or next((each["$ref"] for each in field.get("allOf", ())), None)
    if reference:
        name = reference.rpartition(".")[2]
        return {"Time": "string", "FieldsV1": "any", "IntOrString": "any"}.get(name, name), (
            [] if name in ("Time", "Quantity", "FieldsV1", "IntOrString") else [name]
        )
    if field.get("type") == "array":
        spelt, below = _spelt(field["items"])
        return f"[{spelt}]", below
    if isinstance(field.get("additionalProperties"), dict):
        spelt, below = _spelt(field["additionalProperties"])
        return f"{{{spelt}}}", below
    return field.get("type", "any"), []
