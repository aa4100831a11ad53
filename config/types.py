"""Kinds of values that a stack file holds, each with its own rule and the words of its refusal."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from config.errors import rule
from planning import images, kubernetes_names, origins
from planning.catalog import fact
from planning.disks import folder_problem

# No plugin checks stack files, and looking for one reads the metadata of every installed package.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


class Strict(BaseModel):
    """Base of every part of the stack file: no unknown key, no silent conversion, no change afterwards.

    Rules that join fields are validators of the last field, reading `info.data`: they still run, and are said, when
    another field is wrong. Rules that reach across sections read what surrounds them by `config.clouds.surroundings`.
    """

    # Built at the first file that has it: few files have all.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, alias_generator=to_camel, defer_build=True)


_DNS_1123 = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
INT32 = fact("kubernetes", "amounts", "int32")
"""The largest of Kubernetes' numbers."""
# A tag of three numbers and what the makers add to it, without blanks or slashes.
_RELEASE = r"\d+\.\d+\.\d+([.+-][0-9A-Za-z.+-]*)?"


def gibibytes(quantity: str) -> float:
    """A binary quantity (`512Gi`) in GiB."""
    return int(quantity[:-2]) * {"Mi": 1 / 1024, "Gi": 1.0, "Ti": 1024.0}[quantity[-2:]]


def _binary_quantity(value: str) -> str:
    # As long as a number of Mi may be; Kubernetes cuts larger ones down without a word.
    if re.fullmatch(r"[1-9][0-9]{0,12}(Mi|Gi|Ti)", value):
        most = fact("kubernetes", "amounts", "quantityBytes") // 1024**3
        if gibibytes(value) <= most:
            return value
        raise rule(value, f"is more than Kubernetes counts, {most}Gi", "write less")
    number = re.match(r"[1-9][0-9]{0,5}(?![0-9])", value)
    example = f"{number[0]}Gi" if number else "512Gi"
    raise rule(
        value,
        "is not a whole number of Mi, Gi or Ti (decimal units bill and schedule as another size)",
        f"write {example}",
    )


def _whole_gib(value: str) -> str:
    if gibibytes(value).is_integer():
        return value
    raise rule(value, "is not a whole number of Gi", f"write {int(gibibytes(value)) + 1}Gi")


def _named(what: str, instead: str) -> AfterValidator:
    def check(value: str) -> str:
        if len(value) <= 63 and _DNS_1123.fullmatch(value):
            return value
        raise rule(value, f"is not {what} (DNS-1123: lower-case letters, digits, '-', at most 63)", instead)

    return AfterValidator(check)


def _image(value: str) -> str:
    if wrong := images.problem(value):
        raise rule("" if "@" in value and "://" in value else value, *wrong)
    return value


def _pinned_image(value: str) -> str:
    if images.fixed(_image(value)):
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
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)*", value) and not {".", ".."} & set(value.split("/")):
        return value
    raise rule(value, "is not a relative path of plain names", "write a path such as models, without a leading /")


def _model_name(value: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", value):
        return value
    raise rule(
        value,
        "is not a repository's name",
        "write the model's public repository name without its owner, such as DeepSeek-R1",
    )


def bucket_name(value: str, store: str | None) -> str:
    """A bucket's name by the rules of its store, of the strictest where that is not known."""
    scheme, separator, name = value.partition("://")
    if separator:
        named = {"gs": "gcs", "s3": "s3", "tos": "tos", "oss": "oss"}.get(scheme)
        how = f" and store: {named}" if named else ""
        why = "is an address, not a name" + ("; buckets of Google are read by their S3 endpoint" * (scheme == "gs"))
        raise rule(value, why, f"write name: {name.partition('/')[0] or 'my-bucket'}{how}")
    foreign = fact("weights", "foreign", "names")
    own = fact("tos" if store == "tos" else "oss", "bucket", "namePattern")
    if re.fullmatch(foreign.get(store, own), value):
        return value
    signs = "lower-case letters, digits and '-'"
    raise rule(
        value,
        f"is not a name of {store}"
        if store in foreign
        else f"is not a bucket's name (3 to 63 {signs}, no '-' at an end)",
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
    if re.fullmatch(r"[a-z]+(-?[a-z0-9]+)*", value):
        return value
    raise rule(value, "is not a region's id", "write one such as cn-hangzhou or ap-southeast-1")


def _revision(value: str) -> str:
    wrong = re.search(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|^[-/.]|[/.]$|\.lock$", value)
    if wrong is None:
        return value
    raise rule(value, "is no branch, tag or commit that git could have", "write one such as main, or a commit's hash")


def _served_name(value: str) -> str:
    if re.fullmatch(r"[^\s-](.*\S)?", value):
        return value
    raise rule(value, "begins with a '-', which the engine takes for a flag, or has blanks at an end", "leave it out")


def _repository(value: str) -> str:
    if wrong := origins.url_problem(value):
        raise rule("" if "@" in value else value, wrong[0], "write the chart repository's, such as https://host/charts")
    return value


def _registry(value: str) -> str:
    if wrong := images.registry_problem(value):
        raise rule("" if "@" in value else value, *wrong)
    return value


def _stack_namespace(value: str) -> str:
    if value in fact("kubernetes", "names", "systemNamespaces"):
        raise rule(value, "is Kubernetes' own", "write the name of an existing namespace of yours, such as default")
    return value


def _subdomain(what: str) -> AfterValidator:
    def check(value: str) -> str:
        if wrong := kubernetes_names.subdomain_problem(value, what):
            raise rule(value, *wrong)
        return value

    return AfterValidator(check)


def _acl(value: str) -> str:
    if re.fullmatch(r"acl-[a-z0-9]+", value):
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
    schema["anyOf"] = [{"const": "auto"} if option == {"type": "null"} else option for option in schema["anyOf"]]
    schema["default"] = "auto"


AUTO = BeforeValidator(lambda value: None if value == "auto" else value)
"""`auto` in the stack file is None in Python."""
BinaryQuantity = Annotated[str, AfterValidator(_binary_quantity)]
WholeGib = Annotated[BinaryQuantity, AfterValidator(_whole_gib)]
Positive = Annotated[int, Field(gt=0, le=INT32)]
Count = Annotated[int, Field(ge=0, le=INT32)]
LONGEST = INT32 // 4
"""Seconds. Limits are derived from a start's time that are twice as long, beside another such time."""
Seconds = Annotated[int, Field(gt=0, le=LONGEST)]
Gbit = Annotated[float, Field(ge=0.001, le=10**6)]
"""A speed. Times by a lower one are no numbers of Kubernetes any more."""
Namespace = Annotated[str, _named("a namespace's name", "write the name of an existing namespace, such as default")]
StackNamespace = Annotated[Namespace, AfterValidator(_stack_namespace)]
ClaimName = Annotated[str, _subdomain("claim")]
StorageClass = Annotated[str, _subdomain("storage class")]
Image = Annotated[str, AfterValidator(_image)]
PinnedImage = Annotated[str, AfterValidator(_pinned_image)]
AddonRelease = Annotated[str, AfterValidator(_addon_release)]
Release = Annotated[str, AfterValidator(_version)]
RelativePath = Annotated[str, AfterValidator(_relative_path)]
NodePath = Annotated[str, AfterValidator(_node_path)]
Url = Annotated[str, AfterValidator(_url)]
ChartRepository = Annotated[str, AfterValidator(_repository)]
Registry = Annotated[str, AfterValidator(_registry)]
Region = Annotated[str, AfterValidator(_region)]
Revision = Annotated[str, AfterValidator(_revision)]
ServedName = Annotated[str, AfterValidator(_served_name)]
AclId = Annotated[str, AfterValidator(_acl)]
ModelName = Annotated[str, AfterValidator(_model_name)]
Day = Annotated[str, AfterValidator(_day)]
