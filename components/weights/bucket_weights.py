"""Weights that an init container of each pod copies out of a bucket, with AIBrix's downloader."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pulumi

from components.cluster.kubernetes import Manifest
from components.weights.disk_weights import check_host_path, look_container, node_volumes
from components.weights.model_download import ID, SECRET
from components.weights.pod_weights import MOUNT, VOLUME, PodWeights, needed_gib, temporary_volume
from planning import origins
from planning.catalog import fact
from planning.engine import release_key
from planning.names import WEIGHTS_CONTAINER
from planning.problems import Problem, Refused


@dataclass(frozen=True, kw_only=True)
class BucketWeightsArgs:
    """AIBrix's downloader, release `version` (without v), copies `bucket`/`prefix` into a folder called `model`.

    `scheme` is tos or s3; `endpoint` is the URL or host that speaks S3's protocol, `region` the bucket's. `key_secret`
    is a Secret that `ModelDownload` creates. Only files whose names end in one of `suffixes` (without a dot) are
    copied. `objects` is the number of objects under the prefix, None if unknown. `registry` replaces Docker Hub,
    `image` the whole image name. The copy goes to a temporary disk of the pod, or to the folder `host_path` of its
    node, which a container of `python_image` checks first. Raises Refused for what this downloader cannot do.
    """

    version: str
    scheme: str
    bucket: pulumi.Input[str]
    prefix: str
    model: str
    endpoint: str
    region: str
    key_secret: pulumi.Input[str]
    file_bytes: int
    suffixes: Sequence[str] = ()
    threads: int = 0
    objects: int | None = None
    registry: str | None = None
    image: str | None = None
    host_path: str | None = None
    python_image: str | None = None
    program: pulumi.Input[str] | None = None

    def __post_init__(self) -> None:
        check_scheme(self.scheme)
        host = self.url.partition("://")[2]
        if self.scheme == "tos" and re.fullmatch(r"tos-(?!s3-).*", host):
            why = "the downloader speaks S3's protocol, which TOS serves elsewhere"
            raise Refused(Problem("endpoint", self.endpoint, why, f"write {host.replace('tos-', 'tos-s3-', 1)}"))
        for suffix in self.suffixes:
            if wrong := origins.suffix_problem(suffix):
                raise Refused(Problem("suffix", suffix, *wrong))
        page = fact("weights", "aibrix", "page")
        if (self.objects or 0) > page and not self.pages:
            why = f"copies only the first {page} objects of a prefix, and there are {self.objects}"
            instead = f"take {fact('weights', 'aibrix', 'pagesSince')} or later, or another source of weights"
            raise Refused(Problem("AIBrix", self.version, why, instead))
        if self.host_path is not None:
            check_host_path(self.host_path)
            if self.python_image is None or self.program is None:
                instead = "give python_image and program too"
                raise Refused(Problem("host_path", self.host_path, "the disk has to be checked first", instead))

    @property
    def pages(self) -> bool:
        """Whether this release copies everything under a prefix, sub-folders too."""
        return release_key(self.version) >= release_key(fact("weights", "aibrix", "pagesSince"))

    @property
    def url(self) -> str:
        """The endpoint as a URL."""
        return self.endpoint if "://" in self.endpoint else f"https://{self.endpoint}"


def check_scheme(scheme: str) -> None:
    """Raises Refused for a scheme that AIBrix's downloader does not know."""
    known = fact("weights", "aibrix", "schemes")
    if scheme in ("gs", "gcs"):
        why = "AIBrix's downloader does not know it, but Cloud Storage speaks S3's protocol"
        instead = f"write s3://, endpoint {fact('weights', 'aibrix', 'googleEndpoint')}, and an HMAC key"
        raise Refused(Problem("scheme", scheme, why, instead))
    if scheme not in known:
        instead = f"write {' or '.join(f'{name}://' for name in known)}"
        raise Refused(Problem("scheme", scheme, "AIBrix's downloader does not know it", instead))


def from_bucket(args: BucketWeightsArgs) -> PodWeights:
    """Weights that an init container of each pod copies out of the bucket."""
    size = needed_gib(args.file_bytes)
    checks: list[Manifest] = []
    volumes = [temporary_volume(size)]
    if args.host_path is not None and args.python_image is not None and args.program is not None:
        checks = [look_container(args.python_image, args.host_path, f"{MOUNT}/{args.model}", brought=True)]
        volumes = node_volumes(args.host_path, args.program)
    return PodWeights(
        argument=f"{MOUNT}/{args.model}",
        init_containers=[*checks, _downloader(args)],
        volumes=volumes,
        mounts=[{"name": VOLUME, "mountPath": MOUNT, "readOnly": True}],
        ephemeral_gib=0 if args.host_path is not None else size,
        copies="pod" if args.host_path is None else "node",
    )


def _downloader(args: BucketWeightsArgs) -> Manifest:
    names = fact("weights", "aibrix", "schemes")[args.scheme]
    image = args.image or fact("weights", "aibrix", "image").format(version=args.version)
    if args.image is None and args.registry:
        image = f"{args.registry.rstrip('/')}/{image}"
    values = {
        names["endpoint"]: args.url,
        names["region"]: args.region,
        **names["fixed"],
        **fact("weights", "aibrix", "checksums"),
        "DOWNLOADER_NUM_THREADS": str(args.threads or fact("weights", "aibrix", "threads")),
        "DOWNLOADER_ALLOW_FILE_SUFFIX": ",".join(args.suffixes or fact("weights", "aibrix", "suffixes")),
    }
    keys = {names["id"]: ID, names["secret"]: SECRET}
    pod = fact("weights", "aibrix", "pod")
    amounts = {"cpu": str(pod["cpu"]), "memory": f"{pod['memoryGib']}Gi"}
    return {
        "name": WEIGHTS_CONTAINER,
        "image": image,
        "command": [
            "aibrix_download",
            "--model-uri",
            # Keep the slash: without it, releases before 0.5.0 find nothing, and later ones request one extra key.
            _joined(f"{args.scheme}://", args.bucket, f"/{args.prefix}/"),
            "--local-dir",
            MOUNT,
            # As an argument: no release reads the variable DOWNLOADER_MODEL_NAME.
            "--model-name",
            args.model,
        ],
        "env": [
            *({"name": name, "value": value} for name, value in values.items()),
            *(
                {"name": name, "valueFrom": {"secretKeyRef": {"name": args.key_secret, "key": key}}}
                for name, key in keys.items()
            ),
        ],
        "resources": {"requests": amounts, "limits": dict(amounts)},
        # It also logs to a file below /tmp, so its root file system has to be writable.
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": VOLUME, "mountPath": MOUNT}],
    }


def _joined(before: str, name: pulumi.Input[str], after: str) -> pulumi.Input[str]:
    return f"{before}{name}{after}" if isinstance(name, str) else pulumi.Output.concat(before, name, after)
