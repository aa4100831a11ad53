"""Names that two objects share before either exists. Pure, so that commands without Pulumi can use them."""

import re
from dataclasses import dataclass

API_KEY = "apiKey"
"""The key inside the API key's Secret."""
WEIGHTS_CONTAINER = "weights"
"""The init container that copies weights to a pod, or to the disk of its node."""
CLUSTER = "cluster"
"""The stack output that says in which cluster the stack is."""


def service_object(name: str) -> str:
    """The Kubernetes Service of a service. LeaderWorkerSet gives the plain name to its own headless Service."""
    return f"{name}-leader"


def route_object(model: str) -> str:
    """The HTTPRoute of a model behind AIBrix's gateway. AIBrix's plugin refuses requests while none has that name
    (v0.7.0, pkg/plugins/gateway/gateway.go, validateHTTPRouteStatus)."""
    return f"{model}-router"


COLOUR = "modelserve.dev/colour"
"""The annotation of a group beside which another one of the same service may stand."""
COLOURS = ("blue", "green")
"""What distinguishes the two groups of a service that is updated blue-green."""


FLEET = "modelserve.dev/fleet"
"""The label of the pods of a fleet that has a colour: the fleet's name."""


def coloured(name: str, colour: str) -> str:
    """The workload of one colour; behind a gateway, also the Service in front of it."""
    return f"{name}-{colour}"


@dataclass(frozen=True)
class Live:
    """The group that a Service or a route sends requests to: its colour (None: a group from before), and the version of
    it. `divided`: another one has some of them too, because a run ended amid its shares."""

    colour: str | None
    version: str
    divided: bool = False

    def next(self, version: str) -> str:
        """The colour of the group of this version: its own, or the other one."""
        if self.colour is None or version == self.version:
            return self.colour or COLOURS[0]
        return next(colour for colour in COLOURS if colour != self.colour)


def group_object(name: str) -> str:
    """The LeaderWorkerSet of a service behind a gateway. The gateway needs the plain name for its Service, but
    LeaderWorkerSet gives the group's name to its own headless Service."""
    return f"{name}-group"


def workload(name: str, kind: str | None, *, gateway: bool) -> tuple[str, str, str]:
    """API version, plural and name of a service's workload, a `fleet` or `lws`, behind AIBrix's gateway or not."""
    if kind == "fleet":
        return "orchestration.aibrix.ai/v1alpha1", "rayclusterfleets", name
    return "leaderworkerset.x-k8s.io/v1", "leaderworkersets", group_object(name) if gateway else name


def api_key_secret(name: str) -> str:
    """The Secret with the API key of a service."""
    return f"{name}-api-key"


def model_object(model: str) -> str:
    """The name of the objects of a model rather than of a service (volume, cache, sync), as DNS-1035 allows."""
    return re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")


def check_object(name: str) -> str:
    """The Job that asks a service for a completion after `up`, and the ConfigMap with its program."""
    return f"{name}-verify"


def sync_object(model_object: str) -> str:
    """The Job that copies a model's weights to a bucket or volume."""
    return f"{model_object}-sync"


def loader_job(load: str) -> str:
    """The Job that Fluid runs for a DataLoad (fluid v1.0.8, charts/fluid-dataloader)."""
    return f"{load}-loader-job"
