"""The types of values in a stack file, each with its rule and the wording of its refusal."""

from __future__ import annotations

import contextlib
import datetime
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from config.abilities import CLOUDS
from config.errors import refuse, rule
from planning import images, kubernetes_names, origins, schedule
from planning.catalog import fact
from planning.disks import folder_problem


@dataclass(frozen=True, eq=False)
class InSchema:
    """What the JSON Schema adds to pydantic's schema of a type: as much of the type's rule as JSON Schema can express.
    It never refuses what the rule accepts."""

    says: Mapping[str, Any]

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(core), **self.says}


def pattern(regex: str, **more: Any) -> InSchema:
    """The whole text matches `regex`. Python and JavaScript must read it alike, so it uses neither `\\w` nor `\\d`."""
    return InSchema({"pattern": f"^({regex})$", **more})


class _Matching(InSchema):
    """The whole text matches `regex`, in the program and in the JSON Schema; `why` and `instead` are of the refusal."""

    def __init__(self, regex: str, why: str, instead: str) -> None:
        super().__init__(pattern(regex).says)
        self._rule = (regex, why, instead)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, value: str) -> str:
        regex, why, instead = self._rule
        if re.fullmatch(regex, value):
            return value
        raise rule(value, why, instead)


def _without_problem(problem: Callable[[str], tuple[str, str] | None]) -> AfterValidator:
    """The rule that `problem` finds nothing; it says why and what to write instead."""

    def check(value: str) -> str:
        if wrong := problem(value):
            raise rule(value, *wrong)
        return value

    return AfterValidator(check)


def names(regex: str, *, never: str | None = None, **more: Any) -> InSchema:
    """A map whose keys all match `regex` and do not begin with `never`."""
    other = {} if never is None else {"not": {"pattern": f"^({never})"}}
    return InSchema({"propertyNames": {"pattern": f"^({regex})$", **other, **more}})


INT32 = fact("kubernetes", "amounts", "int32")
"""The largest 32-bit number in Kubernetes' API."""
# A part of a path. The rule checks its letters, because JavaScript's `\\w` knows only ASCII.
_PART = r"(?!\.\.?(/|$))[^\s/]+"
# 13 digits are enough for the largest quantity in Mi.
QUANTITY = r"[1-9][0-9]{0,12}(Mi|Gi|Ti)"
_DNS_1123 = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
# Three numbers and any suffix of the makers', without spaces or slashes.
_RELEASE = r"[0-9]+\.[0-9]+\.[0-9]+([.+-][0-9A-Za-z.+-]*)?"
_REGION = r"[a-z][a-z0-9]*(-[a-z0-9]+)*"
MODEL = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
# Prefixes of labels and annotations that the program or a controller sets on pods and Services.
_OWNERS = (
    "leaderworkerset.sigs.k8s.io/",
    "pulumi.com/",
    "modelserve.dev/",
    "app.kubernetes.io/",
    "alibabacloud.com/",
    "k8s.volcengine.com/",
    "vke.volcengine.com/",
    "model.aibrix.ai/",
    "ray.io/",
)
_owned = "|".join(_OWNERS).replace(".", "[.]")
_ACL = r"acl-[a-z0-9]+"
_ID = "[A-Za-z0-9][A-Za-z0-9-]*"
# What git accepts as a branch or tag: https://git-scm.com/docs/git-check-ref-format
_REVISION = r"(?![-/.])(?!.*([/.]|\.lock)$)(?!.*(\.\.|@\{|//))[^\x00-\x20\x7f~^:?*\[\\]+"
_SERVED = r"[^\s-](.*\S)?"
_SUBDOMAIN, LABEL = (fact("kubernetes", "names", kind)["pattern"] for kind in ("subdomain", "label"))
VARIABLE = fact("kubernetes", "names", "variable")
LABEL_KEY = f"({_SUBDOMAIN}/)?{LABEL}"
ANNOTATION_KEY = f"([-A-Za-z0-9.]+/)?{LABEL}"


def gibibytes(quantity: str) -> float:
    """A binary quantity (`512Gi`) in GiB."""
    return int(quantity[:-2]) * {"Mi": 1 / 1024, "Gi": 1.0, "Ti": 1024.0}[quantity[-2:]]


def _binary_quantity(value: str) -> str:
    if re.fullmatch(QUANTITY, value):
        most = fact("kubernetes", "amounts", "quantityBytes") // 1024**3
        if gibibytes(value) <= most:
            return value
        # Kubernetes would silently cap it.
        raise rule(value, f"is more than Kubernetes can count, {most}Gi", "write less")
    better = _nearest_quantity(value)
    why = "is not a whole number of Mi, Gi or Ti (decimal units bill and schedule as another size)"
    raise rule(value, why, f"write {better}", better)


def _nearest_quantity(text: str) -> str:
    """The binary quantity nearest to a text that is not one: the same number, in binary units, rounded up."""
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
        # Keep the unit as written if the number is whole.
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


def is_release(value: object) -> bool:
    """Whether `value` is an add-on's release, such as 0.9.0 or v0.9.0."""
    return isinstance(value, str) and re.fullmatch(f"v?{_RELEASE}", value) is not None


def _relative_path(value: str) -> str:
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)*", value) and not {".", ".."} & set(value.split("/")):
        return value
    raise rule(value, "is not a relative path of plain names", "write a path such as models, without a leading /")


def bucket_name(value: str, store: str | None) -> str:
    """A bucket's name by the rules of its store; by the strictest rules if the store is unknown."""
    scheme, separator, name = value.partition("://")
    if separator:
        named = {"gs": "gcs", "s3": "s3", "tos": "tos", "oss": "oss"}.get(scheme)
        how = f" and store: {named}" if named else ""
        why = "is a URL, not a name" + ("; Google's buckets are read through their S3 endpoint" * (scheme == "gs"))
        bare = name.partition("/")[0] or "my-bucket"
        raise rule(value, why, f"write name: {bare}{how}", bare)
    foreign = fact("weights", "foreign", "names")
    own = {can.stores[0] for can in CLOUDS.values() if can.stores}
    asked = [fact(each, "bucket", "namePattern") for each in own if store in (None, each)]
    known = [foreign[store]] if store in foreign else asked
    if all(re.fullmatch(each, value) for each in known):
        return value
    signs = "lower-case letters, digits and '-'"
    raise rule(
        value,
        f"is not a name of {store}"
        if store in foreign
        else f"is not a bucket's name (3 to 63 {signs}, no '-' at an end)",
        "write a name that nobody else in the cloud has, such as my-team-llm-weights",
    )


def _url(value: str) -> str:
    if wrong := origins.url_problem(value):
        raise rule("" if "@" in value else value, *wrong)
    return value.rstrip("/")


def _repository(value: str) -> str:
    if wrong := origins.url_problem(value):
        raise rule("" if "@" in value else value, wrong[0], "write the repository's URL, such as https://host/charts")
    return value


def _hub_repository(value: str) -> str:
    if wrong := origins.repository_problem(value):
        raise rule(value, *wrong)
    return value


def _config_path(value: str) -> str:
    if value.endswith(".json"):
        return value
    raise rule(value, "is not the path of a config.json", "write one such as models/acme/config.json")


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


def _marks(
    judge: Callable[[Mapping[str, str]], Iterable[tuple[str, str, str, str]]], owners: tuple[str, ...] = ()
) -> AfterValidator:
    """Labels or annotations that Kubernetes accepts and that do not begin with a prefix in `owners`."""

    def check(value: dict[str, str]) -> dict[str, str]:
        owned = [key for key in value if key.startswith(owners)] if owners else []
        refuse(
            *((f".{key}", value[key], "is set by the program or its controllers", "leave it out") for key in owned),
            *((f".{key}", text, why, instead) for key, text, why, instead in judge(value) if key not in owned),
        )
        return value

    return AfterValidator(check)


def _day(value: str) -> str:
    """A day. An unquoted 2026-11-01 is a time in YAML, and the engine hands it over as Go prints times."""
    day = re.fullmatch(r"(\d{4}-\d{2}-\d{2})( [\d:.]+ [+-]\d{4} \S+)?", value)
    with contextlib.suppress(ValueError):
        return datetime.date.fromisoformat(day[1] if day else "").isoformat()
    raise rule(value, "is not a day", "write it as 2026-11-01")


def auto_schema(schema: dict[str, Any]) -> None:
    """Write `auto` in the schema for what is None in Python."""
    auto = {"enum": ["auto", None]}
    schema["anyOf"] = [auto if option == {"type": "null"} else option for option in schema["anyOf"]]
    schema["default"] = "auto"


AUTO = BeforeValidator(lambda value: None if value == "auto" else value)
"""`auto` in the stack file is None in Python."""
BinaryQuantity = Annotated[str, AfterValidator(_binary_quantity), pattern(QUANTITY)]
WholeGib = Annotated[BinaryQuantity, AfterValidator(_whole_gib)]
Positive = Annotated[int, Field(gt=0, le=INT32)]
Count = Annotated[int, Field(ge=0, le=INT32)]
LONGEST = INT32 // 4
"""Seconds. A quarter of INT32, because derived limits are up to twice the sum of two such times."""
Seconds = Annotated[int, Field(gt=0, le=LONGEST)]
Gbit = Annotated[float, Field(ge=0.001, le=10**6)]
"""A rate. At a lower one, times would exceed Kubernetes' numbers."""
_namespace = _named("a namespace's name", "write the name of an existing namespace, such as default")
_systems = "|".join(fact("kubernetes", "names", "systemNamespaces"))
Namespace = Annotated[str, _namespace, pattern(_DNS_1123, maxLength=63)]
StackNamespace = Annotated[
    str, _namespace, AfterValidator(_stack_namespace), pattern(f"(?!({_systems})$){_DNS_1123}", maxLength=63)
]
_object = pattern(_SUBDOMAIN, maxLength=253)
ClaimName = Annotated[str, _subdomain("claim"), _object]
StorageClass = Annotated[str, _subdomain("storage class"), _object]
PriorityClass = Annotated[str, _subdomain("PriorityClass"), _object]
ServiceAccount = Annotated[str, _subdomain("ServiceAccount"), _object]
SecretName = Annotated[str, _subdomain("Secret"), _object]
_label = Annotated[str, pattern(f"({LABEL})?", maxLength=63)]
Labels = Annotated[dict[str, _label], _marks(kubernetes_names.label_problems), names(LABEL_KEY)]
PodLabels = Annotated[
    dict[str, _label], _marks(kubernetes_names.label_problems, _OWNERS), names(LABEL_KEY, never=_owned)
]
PodAnnotations = Annotated[
    dict[str, str], _marks(kubernetes_names.annotation_problems, _OWNERS), names(ANNOTATION_KEY, never=_owned)
]
"""Annotations of pods and Services, except those that the program or its controllers set."""
Image = Annotated[str, AfterValidator(_image), pattern(images.GRAMMAR)]
PinnedImage = Annotated[str, AfterValidator(_pinned_image), pattern(images.FIXED)]
AddonRelease = Annotated[str, _Matching(f"v?{_RELEASE}", "is not a release", "write three numbers, such as 0.9.0")]
Release = Annotated[
    str, _Matching(_RELEASE, "is not a release", "write the vLLM release inside the image, such as 0.7.2")
]
RelativePath = Annotated[str, AfterValidator(_relative_path), pattern(f"{_PART}(/{_PART})*")]
_system = "|".join(re.escape(folder) for folder in fact("weights", "node", "systemFolders"))
NodePath = Annotated[str, _without_problem(folder_problem), pattern(rf"(?!({_system})(/|$))(/{_PART})+")]
Url = Annotated[str, AfterValidator(_url), pattern(origins.URL)]
ChartRepository = Annotated[str, AfterValidator(_repository), pattern(origins.URL)]
Registry = Annotated[str, AfterValidator(_registry), pattern(images.REGISTRY)]
Region = Annotated[str, _Matching(_REGION, "is not a region's id", "write one such as cn-hangzhou or ap-southeast-1")]
Revision = Annotated[
    str, _Matching(_REVISION, "is not a branch, tag or commit in git", "write one such as main, or a commit's hash")
]
ServedName = Annotated[
    str,
    _Matching(
        _SERVED, "begins with '-', and so looks like a flag to the engine, or has spaces at an end", "leave it out"
    ),
]
Clock = Annotated[str, _Matching(schedule.CLOCK, "is not a time of day", "write it as 08:00, up to 24:00")]
_days = "|".join(schedule.DAYS)
Weekday = Annotated[str, _Matching(_days, "is not a day of the week", f"write one of {', '.join(schedule.DAYS)}")]
Timezone = Annotated[str, _without_problem(schedule.zone_problem)]
Id = Annotated[str, _Matching(_ID, "is not an id", "copy it from the cloud's console")]
AclId = Annotated[
    str,
    _Matching(
        _ACL, "is not the id of an access control list", "write one of the load balancer's, such as acl-bp1abcdefgh"
    ),
]
Repository = Annotated[str, AfterValidator(_hub_repository), pattern(origins.REPOSITORY)]
ConfigPath = Annotated[str, AfterValidator(_config_path), pattern(r"([^\n]*/)?[^/\n]+\.json")]
ModelName = Annotated[
    str,
    _Matching(
        MODEL,
        "is not a repository's name",
        "write the model's public repository name without its owner, such as DeepSeek-R1",
    ),
]
# An unquoted day may be a time, and month and day may have one digit.
Day = Annotated[str, AfterValidator(_day), pattern(r"[0-9]{4}-(0?[1-9]|1[0-2])-(0?[1-9]|[12][0-9]|3[01])([Tt ].*)?")]
