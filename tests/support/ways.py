"""One stack file for each path through the builders, with the secrets that it needs."""

from __future__ import annotations

from typing import Any

from tests.support import volcengine
from tests.support.stack_files import StackFile
from tests.support.volcengine import SERVICE

SYNC = {"from": "modelscope"}
CLAIM = {"source": "pvc", "claim": "weights-claim"}
KEYS = ("accessKey", "secretKey")
_BUCKET = {"name": "team-weights"}
_LOCAL, _ACS = StackFile("local"), StackFile("acs")
_MLA = {"queryRank": 1536, "kvRank": 512, "nope": 128, "rope": 64, "value": 128}
_MOE = {"experts": 256, "perToken": 8, "intermediate": 2048, "shared": 1, "denseLayers": 3}
_NATIVE = {"image": "vllm/vllm-openai:v0.19.0", "version": "0.19.0", "launcher": "native"}
_OIDC = {"provider": "acs:ram::1:oidc-provider/ack-rrsa-rehearsal", "issuer": "https://oidc.example"}
_NO_CACHE = {"cache": {"engine": "none"}}
_NO_GATEWAY = {f"{SERVICE}/gateway": "none", f"{SERVICE}/routing": ..., "monitoring/prometheusNamespace": ...}

WAYS: dict[str, dict[str, Any]] = {
    "local": _LOCAL.whole,
    "local, a GPU of its own": _LOCAL.changed(
        cloud__gpu="Own", catalog={"gpus": {"Own": {"usableGib": 95.0, "link": "nvlink"}}}
    ),
    "local, a model of its own": _LOCAL.changed(
        catalog__models={"DeepSeek-R1": {"mla": _MLA, "moe": _MOE, "slidingWindow": {"tokens": 1, "layers": 2}}}
    ),
    "acs": _ACS.whole,
    "acs, a series of its own": _ACS.changed(
        cloud__gpuSeries="Own", cloud__gpu="H20-96", catalog__gpuPods={"Own": {"gpus": [8]}}
    ),
    "acs, volume": _ACS.changed(**_NO_CACHE),
    "acs, roles": _ACS.changed(**_NO_CACHE, cluster__oidc=_OIDC),
    "acs, stream": _ACS.changed(**_NO_CACHE, weights__read="stream", services__ds__engine=_NATIVE),
    "acs, scaled": _ACS.changed(
        **_NO_CACHE,
        weights=CLAIM,
        monitoring={"enabled": True},
        services__ds__autoscaling={"engine": "keda", "prometheus": "http://prometheus.monitoring:9090", "maximum": 3},
    ),
    "acs, claim": _ACS.changed(**_NO_CACHE, weights=CLAIM),
    **{
        f"volcengine{way}": volcengine.stack_file(**values)
        for way, values in {
            "": {},
            ", there already": {"addons/aibrix": {"install": False}},
            ", lws": {f"{SERVICE}/workload": "lws"},
            ", lws alone": {f"{SERVICE}/workload": "lws", "addons": ..., **_NO_GATEWAY},
            ", fleet alone": {"addons/aibrix": {"install": False}, **_NO_GATEWAY},
            ", scaled": {f"{SERVICE}/autoscaling": {"maximum": 3, "target": 0.5}},
            ", claim": {"weights": CLAIM | {"create": {"storageClass": "nas", "size": "2Ti"}, "sync": SYNC}},
            ", hub": {"weights": {"source": "huggingface"}},
            ", disk": {"weights": {"source": "nvme", "path": "/mnt/nvme0/models", "bucket": _BUCKET, "sync": SYNC}},
            ", full disk": {"weights": {"source": "nvme", "path": "/mnt/nvme0/models"}},
            ", s3": {"weights": {"source": "bucket", "bucket": _BUCKET | {"store": "s3", "create": False}}},
        }.items()
    },
}


def secrets(way: str) -> tuple[str, ...]:
    """The secrets that a way needs, with an API key."""
    return ("apiKey", *(KEYS if way.endswith("s3") else ()))
