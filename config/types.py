"""Kinds of values that a stack file holds, each with its own rule and the words of its refusal."""

from __future__ import annotations

import contextlib
import datetime
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from config.errors import rule
from planning import origins
from planning.catalog import fact
from planning.disks import folder_problem

_LONGEST_QUANTITY = 12  # characters; more is more than all memory there is


@dataclass(frozen=True, eq=False)
class InSchema:
    """What the JSON Schema says of a kind of value, beside what pydantic makes of its type: of its rule, what JSON
    Schema can say. It never refuses what the rule accepts."""

    says: Mapping[str, Any]

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(core), **self.says}


def pattern(regex: str, **more: Any) -> InSchema:
    """The whole text is `regex`, which Python and JavaScript have to read alike: so neither `\\w` nor `\\d`."""
    return InSchema({"pattern": f"^({regex})$", **more})


def no_such_names(regex: str) -> InSchema:
    """A map none of whose keys begins with `regex`."""
    return InSchema({"propertyNames": {"not": {"pattern": f"^({regex})"}}})


# A part of a path; which letters it has is left to the rule, as JavaScript knows ASCII's alone.
_PART = r"(?!\.\.(/|$))[^\s/]+"
_QUANTITY = r"[1-9][0-9]*(Mi|Gi|Ti)"
_DNS_1123 = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_RELEASE = r"[0-9]+\.[0-9]+\.[0-9]+([.+-].*)?"
_REGION = r"[a-z]{2}-[a-z]+(-[a-z]+)*(-[0-9]+)?"
_ACL = r"acl-[a-z0-9]+"
_FOLDER = r"[a-z0-9]+([._-]+[a-z0-9]+)*"


def gibibytes(quantity: str) -> float:
    """A binary quantity (`512Gi`) in GiB."""
    return int(quantity[:-2]) * {"Mi": 1 / 1024, "Gi": 1.0, "Ti": 1024.0}[quantity[-2:]]


def _binary_quantity(value: str) -> str:
    if re.fullmatch(_QUANTITY, value) and len(value) <= _LONGEST_QUANTITY:
        return value
    better = _nearest_quantity(value)
    why = "is not a whole number of Mi, Gi or Ti (decimal units bill and schedule as another size)"
    raise rule(value, why, f"write {better}", better)


def _nearest_quantity(text: str) -> str:
    """A binary quantity for one that is none: the same number of binary units, rounded up to a whole one."""
    meant = re.fullmatch(r" *([0-9]{1,9}(?:\.[0-9]{1,9})?) *([kKMGTPmgtp]?)i?[bB]? *", text)
    number = Decimal(meant[1]) if meant else Decimal(0)
    if meant is None or not number:
        return "512Gi"
    unit = meant[2].upper()
    if not unit and number >= 2**20:
        number, unit = number / 2**30, "G"  # bytes
    mebi = number * Decimal({"K": 1 / 1024, "M": 1, "": 1024, "G": 1024, "T": 1024**2, "P": 1024**3}[unit])
    size = math.ceil(mebi)
    for name, mebis in (("Ti", 1024**2), ("Gi", 1024)):
        # As it was written, where that is whole.
        if size % mebis == 0 and (unit or "G") + "i" in (name, "Pi"):
            return f"{size // mebis}{name}"
    return f"{size // 1024}Gi" if size % 1024 == 0 else f"{size}Mi"


def _whole_gib(value: str) -> str:
    if gibibytes(value).is_integer():
        return value
    better = f"{int(gibibytes(value)) + 1}Gi"
    raise rule(value, "is not a whole number of Gi", f"write {better}", better)


def _named(what: str, instead: str) -> AfterValidator:
    def check(value: str) -> str:
        if len(value) <= 63 and re.fullmatch(_DNS_1123, value):
            return value
        raise rule(value, f"is not {what} (DNS-1123: lower-case letters, digits, '-', at most 63)", instead)

    return AfterValidator(check)


def _object_name(value: str) -> str:
    if len(value) <= 253 and all(re.fullmatch(_DNS_1123, part) for part in value.split(".")):
        return value
    raise rule(value, "is no name of a Kubernetes object", "write lower-case letters, digits, '-' and '.'")


def _registry(value: str) -> str:
    host, *folders = value.split("/")
    named = re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:\d{1,5})?", host)
    if (
        named
        and (set(host) & {".", ":"} or host == "localhost")
        and all(re.fullmatch(_FOLDER, each) for each in folders)
    ):
        return value
    raise rule(value, "is no registry", "write its host and folder, without https://, such as registry.example.com/llm")


def _pinned_image(value: str) -> str:
    name, _, tag = value.rpartition(":")
    if "@sha256:" in value or (name and "/" not in tag and tag and tag != "latest"):
        return value
    raise rule(
        value,
        "has no fixed tag, so two pods of one group may run two engines",
        "write name:tag, better name@sha256:digest",
    )


def _version(value: str) -> str:
    if re.fullmatch(_RELEASE, value):
        return value
    raise rule(value, "is not a release", "write the vLLM release inside the image, such as 0.7.2")


def is_release(value: object) -> bool:
    """Whether it is an add-on's release, such as 0.9.0 or v0.9.0."""
    return isinstance(value, str) and re.fullmatch(f"v?{_RELEASE}", value) is not None


def _addon_release(value: str) -> str:
    if is_release(value):
        return value
    raise rule(value, "is not a release", "write three numbers, such as 0.9.0")


def _relative_path(value: str) -> str:
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)*", value) and ".." not in value.split("/"):
        return value
    raise rule(value, "is not a relative path of plain names", "write a path such as models, without a leading /")


def _model_name(value: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*", value):
        return value
    raise rule(
        value,
        "is not a repository's name",
        "write the model's public repository name without its owner, such as DeepSeek-R1",
    )


def _bucket_name(value: str) -> str:
    scheme, separator, name = value.partition("://")
    if separator:
        named = {"gs": "gcs", "s3": "s3", "tos": "tos", "oss": "oss"}.get(scheme)
        how = f" and store: {named}" if named else ""
        why = "is an address, not a name" + ("; buckets of Google are read by their S3 endpoint" * (scheme == "gs"))
        own = name.partition("/")[0] or "my-bucket"
        raise rule(value, why, f"write name: {own}{how}", own)
    if re.fullmatch(fact("oss", "bucket", "namePattern"), value):
        return value
    raise rule(
        value,
        "is not a bucket's name (3 to 63 lower-case letters, digits and '-', no '-' at an end)",
        "write a name that nobody else in the cloud has, such as my-team-llm-weights",
    )


def _node_path(value: str) -> str:
    if wrong := folder_problem(value):
        raise rule(value, *wrong)
    return value


def _url(value: str) -> str:
    if wrong := origins.url_problem(value):
        raise rule("" if "@" in value else value, *wrong)
    return value.rstrip("/")


def _region(value: str) -> str:
    if re.fullmatch(_REGION, value):
        return value
    raise rule(value, "is not a region's id", "write one such as cn-hangzhou or ap-southeast-1")


def _acl(value: str) -> str:
    if re.fullmatch(_ACL, value):
        return value
    raise rule(
        value, "is not the id of an access control list", "write one of the load balancer's, such as acl-bp1abcdefgh"
    )


def _day(value: str) -> str:
    """An unquoted 2026-11-01 is a time in YAML, which the engine hands over as Go prints it."""
    day = re.fullmatch(r"(\d{4}-\d{2}-\d{2})( [\d:.]+ [+-]\d{4} \S+)?", value)
    with contextlib.suppress(ValueError):
        return datetime.date.fromisoformat(day[1] if day else "").isoformat()
    raise rule(value, "is not a day", "write it as 2026-11-01")


def auto_schema(schema: dict[str, Any]) -> None:
    """In the stack file what Python knows as None is written `auto`."""
    auto = {"enum": ["auto", None]}
    schema["anyOf"] = [auto if option == {"type": "null"} else option for option in schema["anyOf"]]
    schema["default"] = "auto"


AUTO = BeforeValidator(lambda value: None if value == "auto" else value)
"""`auto` in the stack file is None in Python."""
BinaryQuantity = Annotated[str, AfterValidator(_binary_quantity), pattern(_QUANTITY)]
WholeGib = Annotated[BinaryQuantity, AfterValidator(_whole_gib)]
Positive = Annotated[int, Field(gt=0)]
_name = pattern(_DNS_1123, maxLength=63)
Namespace = Annotated[
    str, _named("a namespace's name", "write the name of an existing namespace, such as default"), _name
]
ClaimName = Annotated[str, _named("a claim's name", "write the name of an existing PersistentVolumeClaim"), _name]
ObjectName = Annotated[str, AfterValidator(_object_name), pattern(rf"{_DNS_1123}([.]{_DNS_1123})*", maxLength=253)]
Registry = Annotated[str, AfterValidator(_registry), pattern(r"[^\s/]+(/[^\s/]+)*")]
PinnedImage = Annotated[
    str, AfterValidator(_pinned_image), pattern(r"[\s\S]*@sha256:[\s\S]*|[\s\S]+:(?!latest$)[^:/]+")
]
AddonRelease = Annotated[str, AfterValidator(_addon_release), pattern(f"v?{_RELEASE}")]
Release = Annotated[str, AfterValidator(_version), pattern(_RELEASE)]
RelativePath = Annotated[str, AfterValidator(_relative_path), pattern(f"{_PART}(/{_PART})*")]
BucketName = Annotated[str, AfterValidator(_bucket_name), pattern(fact("oss", "bucket", "namePattern"))]
_system = "|".join(re.escape(folder) for folder in fact("weights", "node", "systemFolders"))
NodePath = Annotated[str, AfterValidator(_node_path), pattern(rf"(?!({_system})(/|$))(/(?!\.(/|$)){_PART})+")]
Url = Annotated[str, AfterValidator(_url), pattern(origins.URL)]
Region = Annotated[str, AfterValidator(_region), pattern(_REGION)]
AclId = Annotated[str, AfterValidator(_acl), pattern(_ACL)]
ModelName = Annotated[str, AfterValidator(_model_name), pattern(r"[A-Za-z0-9][^\s/]*")]
# Unquoted it may be a time, and one digit may do.
Day = Annotated[str, AfterValidator(_day), pattern(r"[0-9]{4}-(0?[1-9]|1[0-2])-(0?[1-9]|[12][0-9]|3[01])([Tt ].*)?")]
