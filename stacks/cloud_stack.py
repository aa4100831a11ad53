"""What the stacks of every cloud with buckets have: the cluster, the models once each, the bucket and what fills it."""

from __future__ import annotations

from collections.abc import Mapping

import pulumi

from components.credentials import KeyPair
from components.kubernetes import kubernetes_provider
from components.model_bucket import ModelBucket, ModelBucketArgs
from components.model_sync import ModelSync, ModelSyncArgs
from components.names import API_KEY
from planning import timeouts
from planning.catalog import fact
from planning.startup import FILL
from stacks import engine
from stacks.clouds import AcsCloud, VolcengineCloud
from stacks.config import StackConfig, own_bucket, repository
from stacks.plans import Planned
from stacks.progress import Progress
from stacks.refusals import NAMESPACE
from stacks.weights import BucketWeights, NvmeWeights

# Longer than any sync takes, so that only what nobody will complete goes.
_ABORT_UPLOAD_DAYS = 7


class CloudStack:
    """The parts that every model of a stack shares."""

    def __init__(
        self, config: StackConfig, plans: Mapping[str, Planned], provider: pulumi.ProviderResource | None
    ) -> None:
        """`provider` is the cloud's, for a stack that has anything of the cloud's own."""
        self.config, self.plans, self.provider = config, plans, provider
        self.name, self.namespace = pulumi.get_stack(), config.cluster.namespace
        secrets = pulumi.Config(NAMESPACE)
        self.secrets, self.kubeconfig = secrets, secrets.get("kubeconfig")
        self.cluster = kubernetes_provider("cluster", config.cluster.context, secrets.get_secret("kubeconfig"))
        self.on_cluster = pulumi.ResourceOptions(provider=self.cluster)
        self.progress = Progress(config.cluster.context, self.namespace, self.kubeconfig)
        self.api_key = secrets.get_secret(API_KEY)
        self.bucket = self._bucket()

    def models(self) -> dict[str, Planned]:
        """Every model once, with the plan of the first service that serves it: services share volume and cache."""
        found: dict[str, Planned] = {}
        for planned in self.plans.values():
            found.setdefault(planned.service.model, planned)
        return found

    def after(self, *resources: pulumi.Resource) -> pulumi.ResourceOptions:
        """Options of what is in the cluster, and comes after `resources`."""
        return pulumi.ResourceOptions.merge(self.on_cluster, pulumi.ResourceOptions(depends_on=list(resources)))

    def outputs(self, endpoints: Mapping[str, pulumi.Input[str]]) -> dict[str, pulumi.Input[object]]:
        """What the stack exports."""
        found: dict[str, pulumi.Input[object]] = {
            "endpoints": dict(endpoints),
            "models": {name: planned.service.served_model_name or name for name, planned in self.plans.items()},
            "verify": f"python -m ops verify {self.name}",
        }
        return found | ({"bucket": self.bucket.bucket} if self.bucket else {})

    def given(self, key: str, secret: str) -> KeyPair | None:
        """The access key that the stack file has under these two keys."""
        found = self.secrets.get_secret(key), self.secrets.get_secret(secret)
        return KeyPair(*found) if found[0] is not None and found[1] is not None else None

    def _bucket(self) -> ModelBucket | None:
        weights, bucket, cloud = self.config.weights, own_bucket(self.config), self.config.cloud
        if bucket is None or not isinstance(cloud, (AcsCloud, VolcengineCloud)):
            return None
        assert isinstance(weights, (BucketWeights, NvmeWeights))
        return ModelBucket(
            "weights",
            ModelBucketArgs(
                stack=self.name,
                bucket=bucket.name,
                region=cloud.region,
                prefix=weights.prefix,
                create=bucket.create,
                keep=bucket.keep,
                reader=self.given("accessKey", "secretKey"),
                writer=self.given("syncAccessKey", "syncSecretKey"),
                writes=weights.sync is not None,
                abort_upload_days=_ABORT_UPLOAD_DAYS,
            ),
            pulumi.ResourceOptions(provider=self.provider),
        )

    def sync(
        self, name: str, model: str, planned: Planned, *, scratch_gib: int, pod_labels: Mapping[str, str]
    ) -> ModelSync | None:
        """What fills the bucket with a model; None where it is full."""
        weights, bucket = self.config.weights, self.bucket
        sync = weights.sync if isinstance(weights, (BucketWeights, NvmeWeights)) else None
        if sync is None or bucket is None or bucket.writer is None:
            return None
        return ModelSync(
            f"{name}-sync",
            ModelSyncArgs(
                stack=self.name,
                namespace=self.namespace,
                model=model,
                repository=repository(sync.repositories, model) or model,
                source=sync.from_,
                revision=sync.revision or "",
                bucket=bucket.bucket,
                endpoint=bucket.endpoint,
                prefix=engine.model_prefix(weights, model),
                key=bucket.writer,
                tool_image=sync.tool_image or fact("sync", "images", "rclone"),
                python_image=sync.python_image or fact("sync", "images", "python"),
                seconds=timeouts.of_step(planned.plan.startup.seconds(FILL)),
                scratch_gib=scratch_gib,
                pod_labels=pod_labels,
                token=self.secrets.get_secret("hubToken"),
            ),
            self.on_cluster,
            self.progress.sync_hooks(),
        )
