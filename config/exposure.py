"""Access to a service and its scale: who reaches it, how requests are routed, how many replicas run when.

`config.services` checks what a cloud, a gateway and a workload allow together.
"""

import ipaddress
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic.alias_generators import to_camel

from config.abilities import CLOUDS
from config.clouds import context_of, require_key
from config.errors import refuse, rule
from config.strict import Strict
from config.types import (
    INT32,
    AclId,
    Clock,
    Count,
    Image,
    InSchema,
    Labels,
    Namespace,
    Seconds,
    SecretName,
    Timezone,
    Url,
    Weekday,
)
from planning import aibrix_features, scaling, schedule
from planning.catalog import fact

_NAMESPACE_LABEL = "kubernetes.io/metadata.name"
_LONGEST_REQUEST = fact("aibrix", "gateway", "requestSecondsMax")
_STEP_SECONDS = 60
Percent = Annotated[int, Field(ge=1, le=99)]
"""A share of the requests that leaves some for others."""


def balancer_annotations(cloud: str | None) -> set[str]:
    """The annotations with which the program configures a load balancer of that cloud."""
    if cloud not in CLOUDS or len(CLOUDS[cloud].exposes) == 1:
        return set()
    known = fact("clouds", cloud, "loadBalancer")
    return {known["allowListId"], *(key for name in ("private", "public", "allowList") for key in known[name])}


class Exposure(Strict):
    """Who reaches a service from outside the cluster, through a load balancer."""

    to: Literal["cluster", "private", "public"] = Field(
        description="cluster for pods only, private for the cloud's network, public for the internet"
    )
    allow_list: AclId | None = Field(
        None, validate_default=True, description="the id of the access control list; only its addresses get through"
    )

    @field_validator("to")
    @classmethod
    def _asks_for_a_key(cls, value: str, info: ValidationInfo) -> str:
        can = CLOUDS.get(context_of(info).cloud or "")
        if can and value not in can.exposes:
            raise rule(value, "the rehearsal has no load balancer of a cloud", "write cluster")
        if value != "cluster":
            require_key(value, info)
        return value

    @field_validator("allow_list")
    @classmethod
    def _public_is_for_some(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("to") == "cluster":
            why = "only pods of the cluster reach the service, and there is no load balancer"
            raise rule(value, why, "leave it out, or write to: private or public")
        if value is None and info.data.get("to") == "public":
            raise rule(
                "",
                "is missing, and without it everybody reaches a public address",
                "write the id of an access control list",
            )
        return value


class Client(Strict):
    """Pods, or addresses outside the cluster, that reach a service's port."""

    namespace: Namespace | None = Field(None, description="the pods' namespace; the service's own if absent")
    namespace_labels: Labels = Field({}, description="a map of labels of the pods' namespaces, text to text")
    pod_labels: Labels = Field({}, description="a map of labels of the pods, text to text; all pods if absent")
    cidr: str | None = Field(None, validate_default=True, description="addresses outside the cluster, as 10.0.0.0/8")

    @field_validator("cidr")
    @classmethod
    def _either_pods_or_addresses(cls, value: str | None, info: ValidationInfo) -> str | None:
        pods = any(info.data.get(key, ...) for key in ("namespace", "namespace_labels", "pod_labels"))
        if value is None and not pods:
            raise rule("", "is missing, and nothing else says who the client is", "write namespace, podLabels or cidr")
        if value is not None and pods:
            raise rule(value, "pods and addresses are two separate clients", "write one entry for each")
        try:
            ipaddress.ip_network(value or "10.0.0.0/8")
        except ValueError:
            raise rule(value, "is not a range of addresses", "write one such as 10.0.0.0/8") from None
        return value

    def peer(self) -> dict[str, Any]:
        """The client as a peer of a NetworkPolicy."""
        if self.cidr:
            return {"ipBlock": {"cidr": self.cidr}}
        labels = {**self.namespace_labels, **({_NAMESPACE_LABEL: self.namespace} if self.namespace else {})}
        namespaces = {"namespaceSelector": {"matchLabels": labels}} if labels else {}
        # Without a namespaceSelector, an empty podSelector selects every pod of the service's own namespace.
        return {**namespaces, "podSelector": {"matchLabels": dict(self.pod_labels)}}


class Routing(Strict):
    """How the gateway treats a model's requests."""

    request_seconds: Annotated[int, Field(ge=1, le=_LONGEST_REQUEST)] = Field(
        3600, description="seconds that a whole request may take; reasoning answers take minutes"
    )
    strategy: str | None = Field(
        None, min_length=1, description="how the gateway picks a replica; if absent, Kubernetes picks any"
    )

    @field_validator("strategy")
    @classmethod
    def _the_release_has_it(cls, value: str | None, info: ValidationInfo) -> str | None:
        version = context_of(info).aibrix
        if value is None or version is None or context_of(info).above.get("gateway") == "none":
            return value
        if problem := aibrix_features.strategy_problem(version, value):
            raise rule(value, *problem)
        if not aibrix_features.strategy_annotations(version, value):
            header = aibrix_features.ROUTING_HEADER
            why = f"AIBrix {version} takes a strategy only from each request, in its header {header}"
            raise rule(value, why, "leave it out, and let clients send it")
        return value


class PrometheusAuth(Strict):
    """How KEDA shows Prometheus who it is."""

    mode: Literal["bearer", "basic"] = Field(description="bearer: a token; basic: a user and a password")
    secret: SecretName = Field(
        description="an existing Secret in the stack's namespace, with token, or with username and password"
    )


class Autoscaling(Strict):
    """The autoscaler, which sets the number of replicas by the load, between two bounds."""

    engine: Literal["aibrix", "keda", "hpa"] = Field(
        "aibrix",
        validate_default=True,
        description="who scales: aibrix a fleet; keda, or hpa with a Prometheus adapter, a LeaderWorkerSet",
    )
    prometheus: Url | None = Field(
        None,
        validate_default=True,
        description="the URL of the Prometheus that keda asks, such as http://prometheus-operated.monitoring:9090",
    )
    prometheus_auth: PrometheusAuth | None = Field(None, description="where Prometheus asks for a token or a password")
    minimum: Annotated[int, Field(le=INT32)] = Field(
        1, description="the fewest replicas", json_schema_extra={"minimum": 1}
    )
    maximum: Annotated[int, Field(le=INT32)] = Field(
        description="the most replicas; each bills its GPUs from the moment it is asked for",
        json_schema_extra={"minimum": 1},
    )
    strategy: Literal["APA", "KPA", "HPA"] | None = Field(
        None, description="AIBrix's algorithm; the one that acts on a share if absent"
    )
    target: float = Field(
        0.5,
        description="the share of the KV cache in use, between 0 and 1, at which the autoscaler aims",
        json_schema_extra={"exclusiveMinimum": 0, "exclusiveMaximum": 1},
    )
    cooldown_seconds: Seconds | None = Field(
        None, description="seconds without need before a replica is removed; the cold start if absent"
    )
    schedules: tuple[dict[str, Any], ...] = Field(
        (), strict=False, description="a list of bounds by time of day, if the release has them"
    )

    @field_validator("engine")
    @classmethod
    def _the_cloud_has_it(cls, value: str, info: ValidationInfo) -> str:
        cloud = context_of(info).cloud
        can = CLOUDS.get(cloud or "")
        if can and value not in can.scalers:
            raise rule(value, f"AIBrix is not installed on {cloud}", f"write {' or '.join(can.scalers)}")
        return value

    @field_validator("prometheus")
    @classmethod
    def _keda_asks_it(cls, value: str | None, info: ValidationInfo) -> str | None:
        engine = info.data.get("engine")
        if engine == "keda" and value is None:
            raise rule("", "is missing, and KEDA asks it for the load", "write its URL in the cluster")
        if engine in ("aibrix", "hpa") and value is not None:
            raise rule(value, "only keda asks it", "leave it out")
        if value and {*"?#"} & {*value}:
            raise rule(value, "KEDA adds a path to it", "leave out what begins with ? or #")
        return value

    @field_validator("prometheus_auth")
    @classmethod
    def _keda_shows_it(cls, value: PrometheusAuth | None, info: ValidationInfo) -> PrometheusAuth | None:
        if value is not None and info.data.get("engine") in ("aibrix", "hpa"):
            raise rule("", "only keda asks Prometheus", "leave it out")
        return value

    def problems(
        self, version: str | None, engine_version: str, seconds: int | None
    ) -> list[tuple[str, object, str, str]]:
        """What is wrong for these releases, of AIBrix if it is known, and a cold start of `seconds`: field, value, why,
        what to write instead."""
        told = scaling.Scaling(
            minimum=self.minimum,
            maximum=self.maximum,
            target=self.target,
            cold_start_seconds=seconds,
            cooldown_seconds=self.cooldown_seconds,
            strategy=self.strategy,
            schedules=self.schedules,
        )
        problems = []
        if self.engine != "aibrix":
            problems = scaling.problems(told)
        elif version:
            problems = aibrix_features.scaler_problems(version, engine_version, told)
        return [(to_camel(field), getattr(self, field, ""), why, instead) for field, why, instead in problems]


class OnTime(Strict):
    """Hours of some days of the week."""

    days: Annotated[tuple[Weekday, ...], InSchema({"minItems": 1})] = Field(
        strict=False, description="a list of days: mon, tue, wed, thu, fri, sat, sun"
    )
    from_: Clock = Field(alias="from", description="when it begins, such as 08:00")
    to: Clock = Field(description="when it ends, such as 20:00; 24:00 is midnight, and an earlier time the next day's")

    @field_validator("days")
    @classmethod
    def _there_are_some(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise rule("[]", "names no day, so it never opens", "write one, such as mon")
        return value

    @field_validator("to")
    @classmethod
    def _it_lasts(cls, value: str, info: ValidationInfo) -> str:
        if value == info.data.get("from_"):
            raise rule(value, "is when it begins, so it never opens", "write another time, or 24:00 for midnight")
        return value

    @property
    def window(self) -> schedule.Window:
        """The hours, for the planner."""
        return schedule.Window(self.days, self.from_, self.to)


class Schedule(Strict):
    """When a service has its replicas; at all other times it is paused."""

    timezone: Timezone = Field(description="an IANA time zone, such as Asia/Shanghai")
    on: Annotated[tuple[OnTime, ...], InSchema({"minItems": 1})] = Field(
        strict=False, description="a list of hours: days, from and to"
    )
    image: Image | None = Field(None, description="an image with Python, such as your mirror of it")

    @field_validator("on")
    @classmethod
    def _it_opens_and_closes(cls, value: tuple[OnTime, ...]) -> tuple[OnTime, ...]:
        if not value:
            raise rule("[]", "never opens", "write one with days, from and to, or replicas: 0 without a schedule")
        windows = [each.window for each in value]
        refuse(
            *(
                (f"[{index}]", "", "overlaps itself" if other == index else f"overlaps on[{other}]", "write it once")
                for index, other in schedule.overlaps(windows)
            )
        )
        if schedule.Schedule("", tuple(windows)).share == 1:
            raise rule("", "never closes", "leave the schedule out")
        return value

    @property
    def planned(self) -> schedule.Schedule:
        """The schedule, for the planner."""
        return schedule.Schedule(self.timezone, tuple(each.window for each in self.on))


class Rollout(Strict):
    """How a new version replaces a service's replicas."""

    strategy: Literal["Recreate", "RollingUpdate", "blueGreen"] = Field(
        "Recreate",
        validate_default=True,
        description="Recreate stops all replicas of a fleet first, RollingUpdate replaces them one by one; blueGreen "
        "starts a second group beside the first, asks it for a completion, and switches",
    )
    max_surge: Count = Field(0, description="additional replicas during an update; each needs its own GPUs")
    canary: Annotated[tuple[Percent, ...], InSchema({"minItems": 1, "uniqueItems": True})] | None = Field(
        None,
        strict=False,
        description="a list of shares of the requests in percent, rising, that blueGreen gives the new group behind "
        "AIBrix's gateway, one after the other, before it has all of them",
    )
    step_seconds: Annotated[int, Field(ge=1, le=86400)] | None = Field(
        None, description=f"seconds that each share of canary lasts; {_STEP_SECONDS} if absent"
    )

    @property
    def seconds_of_a_step(self) -> int:
        """How long each share lasts."""
        return _STEP_SECONDS if self.step_seconds is None else self.step_seconds

    @field_validator("canary")
    @classmethod
    def _the_shares_rise(cls, value: tuple[int, ...] | None, info: ValidationInfo) -> tuple[int, ...] | None:
        if value is None:
            return value
        strategy = info.data.get("strategy")
        if strategy and strategy != "blueGreen":
            why = f"{strategy} replaces the old replicas, and leaves none for the other requests"
            raise rule(list(value), why, "leave it out, or write strategy: blueGreen")
        rising = sorted({*value})
        if not value:
            raise rule("[]", "names no share", "leave it out, or write shares in percent, such as [10, 50]")
        if list(value) != rising:
            raise rule(list(value), "the new group's share has to rise with every step", f"write {rising}")
        return value

    @field_validator("step_seconds")
    @classmethod
    def _only_shares_last(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and "canary" in info.data and not info.data["canary"]:
            raise rule(value, "only the shares of canary last", "leave it out, or write canary")
        return value

    @field_validator("max_surge")
    @classmethod
    def _only_rolling_surges(cls, value: int, info: ValidationInfo) -> int:
        strategy = info.data.get("strategy")
        if value and strategy == "Recreate":
            raise rule(value, "Recreate starts nothing before the old ones end", "write 0, or strategy: RollingUpdate")
        if value and strategy == "blueGreen":
            raise rule(value, "blueGreen starts all new replicas beside the old ones", "write 0")
        return value

    @field_validator("strategy")
    @classmethod
    def _the_workload_knows_it(cls, value: str, info: ValidationInfo) -> str:
        if value != "blueGreen" and context_of(info).above.get("workload") == "lws":
            why = "a LeaderWorkerSet replaces its replicas one by one, or all at once beside the old ones"
            raise rule(value, why, "leave rollout out, or write blueGreen")
        return value
