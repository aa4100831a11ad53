"""Weights that each pod downloads from a model hub: Hugging Face, or a mirror that speaks its protocol."""

from __future__ import annotations

from dataclasses import dataclass

from components.cluster.credentials import SecretKey
from components.weights.pod_weights import MOUNT, VOLUME, PodWeights, needed_gib, temporary_volume
from planning import origins
from planning.catalog import fact
from planning.problems import Problem, Refused


@dataclass(frozen=True, kw_only=True)
class HubWeightsArgs:
    """The engine itself downloads `repository` (owner/name) at `revision` (empty: the hub's default) from `endpoint`.

    `endpoint` is empty for Hugging Face, or the URL of a mirror. `token` says where the hub's token is, for private and
    gated repositories. Raises Refused for a repository without an owner and for an endpoint that is not a URL.
    """

    repository: str
    file_bytes: int
    revision: str = ""
    endpoint: str = ""
    token: SecretKey | None = None

    def __post_init__(self) -> None:
        if wrong := origins.repository_problem(self.repository):
            raise Refused(Problem("repository", self.repository, *wrong))
        if self.endpoint and (wrong := origins.url_problem(self.endpoint)):
            raise Refused(Problem("endpoint", "", *wrong))


def from_hub(args: HubWeightsArgs) -> PodWeights:
    """Weights that each pod downloads onto a temporary disk of its own."""
    names = fact("weights", "huggingface", "variables")
    endpoint = args.endpoint.rstrip("/") or fact("weights", "huggingface", "endpoint")
    mirrored = endpoint != fact("weights", "huggingface", "endpoint")
    size = needed_gib(args.file_bytes)
    return PodWeights(
        argument=args.repository,
        args=("--revision", args.revision) if args.revision else (),
        volumes=[temporary_volume(size)],
        mounts=[{"name": VOLUME, "mountPath": MOUNT}],
        env={
            names["home"]: f"{MOUNT}/huggingface",
            names["endpoint"]: endpoint,
            **names["fixed"],
            **(names["mirror"] if mirrored else {}),
        },
        secret_env={} if args.token is None else {names["token"]: args.token},
        ephemeral_gib=size,
    )
