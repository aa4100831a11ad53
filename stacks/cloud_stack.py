"""What the stacks of all clouds with buckets share: the cluster, the models, the bucket and what fills it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import pulumi

from components.cluster.cluster_addons import Addon
from components.cluster.credentials import KeyPair, Oidc, Role
from components.cluster.kubernetes import kubernetes_object, kubernetes_provider
from components.weights.model_bucket import ModelBucket, ModelBucketArgs
from components.weights.model_sync import BucketTarget, ClaimTarget, ModelSync, ModelSyncArgs, PodRole
from config.abilities import CLOUDS
from config.errors import NAMESPACE
from config.plan_request import needed_files
from config.plans import Planned
from config.stack import StackConfig, own_bucket, repository, role_takers
from config.weights import BucketWeights, HuggingfaceWeights, NvmeWeights, Sync
from planning import timeouts
from planning.catalog import fact
from planning.images import pulled
from planning.names import API_KEY, model_object, sync_object
from planning.startup import FILL
from stacks import engine_arguments
from stacks.pod_section import extras
from stacks.serving import Serving
from watch.progress import Progress

# Longer than any sync takes, so that only abandoned uploads go.
_ABORT_UPLOAD_DAYS = 7
_NO_LABELS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Weights:
    """Where pods read a model's weights, what must outlive the pods, and what they mount."""

    source: engine_arguments.Source
    after: tuple[pulumi.Resource, ...] = ()
    mounts: tuple[pulumi.Resource, ...] = ()


@dataclass(frozen=True)
class Store:
    """A bucket as pods reach it. `endpoint` is a host or URL that speaks S3 (`scheme` names whose); `key` reads it."""

    scheme: str
    bucket: pulumi.Input[str]
    endpoint: str
    region: str
    key: KeyPair


class CloudStack:
    """The parts that all models of a stack share."""

    def __init__(
        self, config: StackConfig, plans: Mapping[str, Planned], provider: pulumi.ProviderResource | None
    ) -> None:
        """`provider` is the cloud's, None if the stack has no resource of the cloud itself."""
        self.config, self.plans, self.provider = config, plans, provider
        self.name, self.namespace = pulumi.get_stack(), config.cluster.namespace
        secrets = pulumi.Config(NAMESPACE)
        self.secrets, self.kubeconfig = secrets, secrets.get("kubeconfig")
        self.cluster = kubernetes_provider("cluster", config.cluster.context, secrets.get_secret("kubeconfig"))
        self.on_cluster = pulumi.ResourceOptions(provider=self.cluster)
        self.progress = Progress(config.cluster.context, self.namespace, self.kubeconfig)
        self.serving = Serving(secrets.get_secret(API_KEY), self.progress, self.on_cluster, config.registry)
        self.bucket = self._bucket()

    def kinds(self, addon: Addon) -> pulumi.ResourceHookBinding:
        """The hooks that bring the kinds of an add-on up to its release."""
        from watch import crds

        return crds.hooks(self.config.cluster.context, self.kubeconfig, addon)

    def models(self) -> dict[str, Planned]:
        """Each model, with the plan of the first service that serves it: services share volume and cache."""
        models: dict[str, Planned] = {}
        for planned in self.plans.values():
            models.setdefault(planned.service.model, planned)
        return models

    def pulled(self, image: str) -> str:
        """The image's name in the stack's registry."""
        return pulled(image, self.config.registry)

    def after(self, *resources: pulumi.Resource) -> pulumi.ResourceOptions:
        """Options of an object in the cluster that depends on `resources`."""
        return pulumi.ResourceOptions.merge(self.on_cluster, pulumi.ResourceOptions(depends_on=list(resources)))

    def outputs(self, endpoints: Mapping[str, pulumi.Input[str]]) -> dict[str, pulumi.Input[object]]:
        """What the stack exports."""
        outputs: dict[str, pulumi.Input[object]] = {
            "endpoints": dict(endpoints),
            "models": {name: planned.service.served_model_name or name for name, planned in self.plans.items()},
            "verify": f"python -m ops verify {self.name}",
        }
        return outputs | ({"bucket": self.bucket.bucket} if self.bucket else {})

    def given(self, key: str, secret: str) -> KeyPair | None:
        """The access key that the stack file has under these two keys, None without it."""
        identity, password = self.secrets.get_secret(key), self.secrets.get_secret(secret)
        return KeyPair(identity, password) if identity is not None and password is not None else None

    def load_balancer(self, planned: Planned) -> dict[str, str] | None:
        """Annotations of the service's load balancer; None if it has none."""
        expose, known = planned.service.expose, fact("clouds", self.config.cloud.kind, "loadBalancer")
        if expose.to == "cluster":
            return None
        listed = {**known["allowList"], known["allowListId"]: expose.allow_list} if expose.allow_list else {}
        return {**known[expose.to], **listed}

    def stream(
        self, name: str, model: str, store: Store, after: Sequence[pulumi.Resource]
    ) -> tuple[engine_arguments.Source, pulumi.Resource]:
        """A bucket that engines stream from themselves, and the Secret with their key."""
        weights = self.config.weights
        assert isinstance(weights, BucketWeights)
        secret = engine_arguments.stream_key(name, self.name, self.namespace, store.key)
        secret_name = secret["metadata"]["name"]
        registered = kubernetes_object(secret_name, secret, self.after(*after))
        return engine_arguments.from_bucket(weights, model, store.bucket, store.endpoint, secret_name), registered

    def _bucket(self) -> ModelBucket | None:
        weights, bucket, cloud = self.config.weights, own_bucket(self.config), self.config.cloud
        if bucket is None:
            return None
        assert isinstance(weights, (BucketWeights, NvmeWeights)) and cloud.region is not None
        accounts = {
            "reader": [fact("fluid", "csi", "account")],
            "writer": [f"{self.namespace}:{sync_object(model_object(model))}" for model in self.models()],
        }
        return ModelBucket(
            "weights",
            ModelBucketArgs(
                cloud=cloud.kind,
                stack=self.name,
                bucket=bucket.name,
                region=cloud.region,
                prefix=weights.prefix,
                create=bucket.create,
                keep=bucket.keep,
                reader=self.given("accessKey", "secretKey"),
                writer=self.given("syncAccessKey", "syncSecretKey"),
                writes=weights.sync is not None,
                oidc=Oidc(oidc.provider, oidc.issuer) if (oidc := self.config.cluster.oidc) else None,
                takers={who: accounts[who] for who in sorted(role_takers(self.config))},
                keys=bucket.keys,
                abort_upload_days=_ABORT_UPLOAD_DAYS,
            ),
            pulumi.ResourceOptions(provider=self.provider),
        )

    def sync(
        self, name: str, model: str, planned: Planned, *, scratch_gib: int, pod_labels: Mapping[str, str] = _NO_LABELS
    ) -> list[ModelSync]:
        """The Job that fills the bucket with a model; none if the stack file has no sync."""
        weights, bucket = self.config.weights, self.bucket
        sync = weights.sync if isinstance(weights, (BucketWeights, NvmeWeights)) else None
        if sync is None or bucket is None or bucket.writer is None:
            return []
        key = self._role(bucket.writer) if isinstance(bucket.writer, Role) else bucket.writer
        target = BucketTarget(bucket.bucket, bucket.endpoint, key, scratch_gib)
        return [self.job(name, model, planned, sync, target, pod_labels)]

    def _role(self, role: Role) -> PodRole:
        """A role as a pod takes it: both ARNs are of one account."""
        oidc, cloud = self.config.cluster.oidc, self.config.cloud
        assert oidc is not None
        account = oidc.provider.rpartition(":")[0]
        return PodRole(
            arn=role.name.apply(lambda name: f"{account}:role/{name}"),
            provider=oidc.provider,
            sts=fact(CLOUDS[cloud.kind].stores[0], "rrsa", "sts").format(region=cloud.region),
        )

    def job(
        self,
        name: str,
        model: str,
        planned: Planned,
        sync: Sync,
        target: BucketTarget | ClaimTarget,
        pod_labels: Mapping[str, str] = _NO_LABELS,
    ) -> ModelSync:
        """The Job that fills `target` with a model's files."""
        weights = self.config.weights
        assert not isinstance(weights, HuggingfaceWeights)  # the pods fetch those by themselves
        files = needed_files(self.config, model)
        return ModelSync(
            sync_object(name),
            ModelSyncArgs(
                stack=self.name,
                namespace=self.namespace,
                model=model,
                repository=repository(self.config, sync.repositories, model) or model,
                source=sync.from_,
                revision=sync.revision or "",
                target=target,
                prefix=engine_arguments.model_prefix(weights, model),
                tool_image=self.pulled(sync.tool_image or fact("sync", "images", "rclone")),
                python_image=self.pulled(sync.python_image or fact("sync", "images", "python")),
                seconds=timeouts.of_step(planned.plan.startup.seconds(FILL)),
                pod_labels=pod_labels,
                token=self.secrets.get_secret("hubToken"),
                weights=files.weights,
                leaves=files.leaves,
                extras=extras(sync.pod),
            ),
            self.on_cluster,
            self.progress.sync_hooks(),
        )
