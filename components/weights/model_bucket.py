"""The bucket that holds a model's weights, and the two identities that use them: one reads, the other also writes.

Decides which of them exist and their names; `oss_bucket` and `tos_bucket` know what each cloud needs. Not here: the
objects in the bucket (`model_sync`), and the Secrets that carry the keys into a cluster (`credentials`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi

from components.cluster.credentials import KeyPair, Oidc, Role
from components.weights import oss_bucket, refused_creation, tos_bucket
from planning.problems import Problem, Refused

# Each cloud's module has the same functions and NAME_PATTERN.
_STORES = {"acs": oss_bucket, "volcengine": tos_bucket}
# Characters of the bucket's name in a user's name, for people to recognise it. The digest makes the name unique.
_NAME_LENGTH = 30


@dataclass(frozen=True, kw_only=True)
class ModelBucketArgs:
    """One bucket and the part of it that one model owns.

    `cloud` is acs (Alibaba Cloud's OSS) or volcengine (TOS). `prefix` is the key prefix of all models, without a slash
    at either end. `create` false uses an existing bucket and changes nothing in it. `keep` leaves bucket and weights
    when the stack is destroyed. A key passed as `reader` or `writer` is used as it is; otherwise a cloud user with its
    own key is created for each generation in `keys`, and the first one is used. `writes` false creates no writer. With
    `oidc`, each of reader and writer in `takers` becomes a role instead (acs only), for pods of that cluster that run
    as one of these service accounts, each `namespace:name`. Uploads still incomplete after `abort_upload_days` days are
    aborted. Raises Refused for an unknown cloud, an invalid bucket name, and a prefix with slashes at its ends.
    """

    cloud: str
    stack: str
    bucket: str
    region: str
    prefix: str
    abort_upload_days: int
    create: bool = True
    keep: bool = True
    reader: KeyPair | None = None
    writer: KeyPair | None = None
    writes: bool = True
    oidc: Oidc | None = None
    takers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    keys: Sequence[int] = (1,)

    def __post_init__(self) -> None:
        if self.cloud not in _STORES:
            raise Refused(Problem("cloud", self.cloud, "has no buckets here", f"use {' or '.join(_STORES)}"))
        if not re.fullmatch(_STORES[self.cloud].NAME_PATTERN, self.bucket):
            instead = "write 3 to 63 lowercase letters, digits and hyphens, without a hyphen at either end"
            raise Refused(Problem("bucket", self.bucket, "is no bucket name", instead))
        if not self.prefix or self.prefix != self.prefix.strip("/"):
            why = "is empty, or has a slash at an end"
            raise Refused(Problem("prefix", self.prefix, why, "write one such as models/Qwen3-32B"))


def access_policy(args: ModelBucketArgs, *, write: bool) -> str:
    """The cloud's policy, as JSON: read (and write) below the prefix, and see nothing else of the bucket."""
    return _STORES[args.cloud].access_policy(args.bucket, args.prefix, write=write)


def identity_name(args: ModelBucketArgs, role: str) -> str:
    """The name of the first user, or the role, for `role`, and of its policy: one for each stack, bucket and prefix."""
    digest = hashlib.sha256("\n".join((args.stack, args.bucket, args.prefix)).encode()).hexdigest()[:8]
    return f"modelserve-{role}-{args.bucket[:_NAME_LENGTH]}-{digest}"


class ModelBucket(pulumi.ComponentResource):
    """The bucket, with one identity that reads and one that writes. `opts` must carry a provider of its cloud.

    `bucket` is its name, known once it exists and can be written to; `reader` and `writer` are keys or roles that work
    from then on; `endpoint` is the host that serves it over S3 inside its region.
    """

    def __init__(self, name: str, args: ModelBucketArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("modelserve:storage:ModelBucket", name, None, opts)
        self._store = _STORES[args.cloud]
        self._hooks = refused_creation.named(name)
        self.endpoint: str = self._store.endpoint(args.region)
        # Create identities after the bucket, and delete them before it: no failure leaves an identity behind.
        self._after, self.bucket = self._find(name, args)
        self.reader: KeyPair | Role = args.reader or self._identity(name, args, "reader")
        self.writer: KeyPair | Role | None = args.writer
        if args.writer is None and args.writes:
            self.writer = self._identity(name, args, "writer")
        self.register_outputs({"bucket": self.bucket, "endpoint": self.endpoint})

    def _find(self, name: str, args: ModelBucketArgs) -> tuple[pulumi.Resource, pulumi.Output[str]]:
        if not args.create:
            return self._store.look_up(self, name, args.bucket)
        return self._store.create(self, name, args.bucket, args.abort_upload_days, keep=args.keep, hooks=self._hooks)

    def _identity(self, name: str, args: ModelBucketArgs, who: str) -> KeyPair | Role:
        policy, user = access_policy(args, write=who == "writer"), identity_name(args, who)
        if args.oidc is not None and who in args.takers:
            trust = self._store.trust_policy(args.oidc, args.takers[who])
            return self._store.role(self, f"{name}-{who}", user, policy, trust, self._after, self._hooks)
        return self._store.identity(self, f"{name}-{who}", user, policy, self._after, self._hooks, args.keys)
