"""The stack file's sections on pods: what a company's cluster requires of them, in Kubernetes' own spelling.

The types come from Kubernetes' OpenAPI document, through the catalog. Pydantic builds a model of a type when a file
first uses it, so mistakes in it are reported like any other, without importing an SDK. What the program itself puts
into pods (`planning.kubernetes_pods`) is refused here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationInfo,
    create_model,
    field_validator,
)
from pydantic_core import core_schema

from config.abilities import CLOUDS
from config.clouds import context_of
from config.errors import refuse
from config.strict import Judging, Strict, refusals
from config.types import Labels, PodAnnotations, PodLabels, PriorityClass, ServiceAccount
from planning import kubernetes_pods
from planning.kubernetes_pods import Owned
from planning.units import quantity

KUBERNETES = "x-kubernetes"
"""The keyword that stands in the JSON Schema for a Kubernetes type, with the type's name (`json_schemas`)."""
Found = tuple[str, object, str, str]
_PLAIN: dict[str, Any] = {"string": str, "integer": int, "boolean": bool, "any": Any, "Quantity": str | int | float}
# As Kubernetes writes a size: any other spelling would show a diff on every run.
_SIZE = re.compile(r"[1-9]\d*(Mi|Gi|Ti)")


class _Kubernetes:
    """A value of a Kubernetes type, kept as written."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._checked)

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> Any:
        return {KUBERNETES: self.name}

    def _checked(self, value: object) -> object:
        problems = refusals(_model(self.name).model_validate(value, context=Judging()))
        refuse(*((_below(problem.key), problem.value, problem.why, problem.instead) for problem in problems))
        return value


def _below(key: str) -> str:
    return key if not key or key.startswith("[") else f".{key}"


@functools.cache
def _model(name: str) -> type[BaseModel]:
    """A Kubernetes type as a model that only validates: the program renders the file's own map, not the attributes."""
    fields: dict[str, Any] = {}
    for key, spelt in kubernetes_pods.types()[name].items():
        alias = key.removesuffix("!")
        known = kubernetes_pods.values().get(f"{name}.{alias}")
        kind = Literal[tuple(known)] if known else _kind(spelt)  # type: ignore[valid-type]
        what = " or ".join(known) if known else f"what Kubernetes says of {alias} in a {name}"
        fields[f"{alias}_"] = (
            (kind, Field(alias=alias, description=what))
            if key.endswith("!")
            else (kind | None, Field(None, alias=alias, description=what))
        )
    model = create_model(name, __base__=Strict, **fields)
    model.model_rebuild()
    return model


def _kind(spelt: str) -> Any:
    if spelt.startswith("["):
        return list[_kind(spelt[1:-1])]  # type: ignore[misc]
    if spelt.startswith("{"):
        return dict[str, _kind(spelt[1:-1])]  # type: ignore[misc]
    return _PLAIN.get(spelt) or _model(spelt)


def json_schemas() -> dict[str, dict[str, Any]]:
    """The JSON Schema of each Kubernetes type; it names other types under `KUBERNETES`."""
    return {
        name: {
            "type": "object",
            "properties": {
                key.removesuffix("!"): _json(spelt, kubernetes_pods.values().get(f"{name}.{key.removesuffix('!')}"))
                for key, spelt in fields.items()
            },
            **({"required": required} if (required := [key[:-1] for key in fields if key.endswith("!")]) else {}),
            "additionalProperties": False,
        }
        for name, fields in kubernetes_pods.types().items()
    }


def _json(spelt: str, known: list[str] | None) -> dict[str, Any]:
    if known:
        return {"enum": known}
    if spelt.startswith("["):
        return {"type": "array", "items": _json(spelt[1:-1], None)}
    if spelt.startswith("{"):
        return {"type": "object", "additionalProperties": _json(spelt[1:-1], None)}
    if spelt in ("any", "Quantity"):
        return {} if spelt == "any" else {"type": ["string", "number"]}
    return {"type": spelt} if spelt in _PLAIN else {KUBERNETES: spelt}


_Secret = Annotated[dict[str, Any], _Kubernetes("LocalObjectReference")]
_Toleration = Annotated[dict[str, Any], _Kubernetes("Toleration")]
_Affinity = Annotated[dict[str, Any], _Kubernetes("Affinity")]
_Volume = Annotated[dict[str, Any], _Kubernetes("Volume")]
_Mount = Annotated[dict[str, Any], _Kubernetes("VolumeMount")]
_PodSecurity = Annotated[dict[str, Any], _Kubernetes("PodSecurityContext")]
_Security = Annotated[dict[str, Any], _Kubernetes("SecurityContext")]


class _Placed(Strict):
    """Settings of every kind of pod."""

    image_pull_secrets: tuple[_Secret, ...] = Field(
        (), strict=False, description="a list of the Secrets for pulling images, each a map with name"
    )
    tolerations: tuple[_Toleration, ...] = Field((), strict=False, description="a list of Kubernetes tolerations")
    node_selector: Labels = Field({}, description="a map of labels that the pods' nodes have")

    @field_validator("image_pull_secrets")
    @classmethod
    def _have_names(cls, value: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        nameless = [i for i, secret in enumerate(value) if not secret.get("name")]
        refuse(*((f"[{i}].name", "", "is missing", "write a Secret's name") for i in nameless))
        return value

    @field_validator("node_selector")
    @classmethod
    def _chooses_no_nodes_of_ours(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        refuse(*((f".{key}", value[key], *_NODES_ARE_OURS) for key in value if key in _node_labels(info)))
        return value


_NODES_ARE_OURS = ("is a label by which the program chooses nodes", "leave it out, and use the cloud section's keys")


def _node_labels(info: ValidationInfo) -> tuple[str, ...]:
    cloud = context_of(info).cloud
    return CLOUDS[cloud].node_labels if cloud in CLOUDS else ()


class _Marked(_Placed):
    """Pods whose labels and annotations are set in this section."""

    labels: PodLabels = Field({}, description="a map of further labels, text to text")
    annotations: PodAnnotations = Field({}, description="a map of further annotations, text to text")


class CachePod(_Marked):
    """Settings of a cache's master and workers. Fluid creates these pods and supports no other settings."""


class _Whole(_Placed):
    """Pods that the program creates itself."""

    owned: ClassVar[Owned]
    """What the program puts into these pods whatever the file says."""
    affinity: _Affinity | None = Field(None, description="a Kubernetes affinity")
    priority_class_name: PriorityClass | None = Field(None, description="the name of a PriorityClass")
    service_account_name: ServiceAccount | None = Field(None, description="the name of a ServiceAccount")
    scheduler_name: str | None = Field(None, min_length=1, description="the scheduler's name")
    security_context: _PodSecurity | None = Field(None, description="a Kubernetes PodSecurityContext")
    volumes: tuple[_Volume, ...] = Field(
        (), strict=False, description="a list of further Kubernetes volumes, each a map with name and its source"
    )
    volume_mounts: tuple[_Mount, ...] = Field(
        (),
        strict=False,
        validate_default=True,
        description="a list of mounts of these volumes, each a map with name and mountPath",
    )

    @field_validator("affinity")
    @classmethod
    def _leaves_our_nodes(cls, value: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
        expressions = _expressions((value or {}).get("nodeAffinity"), ".nodeAffinity")
        refuse(*((f"{at}.key", key, *_NODES_ARE_OURS) for at, key in expressions if key in _node_labels(info)))
        return value

    @field_validator("security_context")
    @classmethod
    def _leaves_ours(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        ours = {key: setting for key, setting in (value or {}).items() if key in cls.owned.security}
        why = "is set by the program: its files belong to the user that it runs as"
        refuse(*((f".{key}", setting, why, "leave it out") for key, setting in ours.items()))
        return value

    @field_validator("volumes")
    @classmethod
    def _are_no_volumes_of_ours(cls, value: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        wrong = (_of_volume(f"[{i}]", volume, value[:i], cls.owned) for i, volume in enumerate(value))
        refuse(*(found for of_one in wrong for found in of_one))
        return value

    @field_validator("volume_mounts")
    @classmethod
    def _mount_what_is_there(
        cls, value: tuple[dict[str, Any], ...], info: ValidationInfo
    ) -> tuple[dict[str, Any], ...]:
        if "volumes" in info.data:
            refuse(*_of_mounts(value, [volume["name"] for volume in info.data["volumes"]], cls.owned))
        return value


class EnginePod(_Whole):
    """The pods of an engine."""

    owned = kubernetes_pods.ENGINE
    container_security_context: _Security | None = Field(
        None, description="a Kubernetes SecurityContext of the engine's container"
    )


class SyncPod(_Marked, _Whole):
    """The pods of a Job that fills a bucket or a volume."""

    owned = kubernetes_pods.SYNC


def _of_volume(at: str, volume: dict[str, Any], others: Iterable[dict[str, Any]], owned: Owned) -> Iterator[Found]:
    name, sources = volume["name"], [key for key in volume if key != "name"]
    if name in owned.volumes:
        yield f"{at}.name", name, "is the name of one of the program's volumes", "write another name"
    if name in [other["name"] for other in others]:
        yield f"{at}.name", name, "is given twice", "write another name"
    if len(sources) != 1:
        yield at, name, f"has {len(sources)} sources", "write one, such as configMap or persistentVolumeClaim"
    size = (volume.get("emptyDir") or {}).get("sizeLimit")
    if size is not None and _canonical(str(size)) != size:
        yield f"{at}.emptyDir.sizeLimit", size, "Kubernetes spells it differently", f"write {_canonical(str(size))}"


def _canonical(size: str) -> str:
    return quantity(size) if _SIZE.fullmatch(size) else "whole Mi, Gi or Ti, such as 10Gi"


def _of_mounts(mounts: tuple[dict[str, Any], ...], names: list[str], owned: Owned) -> Iterator[Found]:
    for i, mount in enumerate(mounts):
        path, name = str(mount["mountPath"]), mount["name"]
        if name not in names:
            yield (
                f"[{i}].name",
                name,
                "is not one of this section's volumes",
                f"write {' or '.join(names) or 'volumes too'}",
            )
        if not path.startswith("/"):
            yield f"[{i}].mountPath", path, "is not an absolute path", "write one such as /etc/company"
        for folder in owned.folders:
            if path.startswith("/") and kubernetes_pods.hidden(folder, path):
                yield f"[{i}].mountPath", path, f"the program uses {folder}", "write another path"
        if path in [other["mountPath"] for other in mounts[:i]]:
            yield f"[{i}].mountPath", path, "is given twice", "write another path"
    for name in names:
        if name not in [mount["name"] for mount in mounts]:
            yield "", "", f"volume {name} is not mounted", f"add a map with name: {name} and mountPath"


def _expressions(value: Any, at: str) -> Iterator[tuple[str, Any]]:
    """The path and the key of every expression that nodes must match."""
    if isinstance(value, Mapping):
        if "key" in value:
            yield at, value["key"]
        for key, below in value.items():
            yield from _expressions(below, f"{at}.{key}")
    elif isinstance(value, list):
        for i, below in enumerate(value):
            yield from _expressions(below, f"{at}[{i}]")
