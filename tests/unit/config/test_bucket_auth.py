"""How pods authenticate to the bucket: which ones assume a role, what is refused, and what a preview says about it."""

from __future__ import annotations

from typing import Any

import pytest

from config.judge import parse
from config.stack import role_takers
from stacks.plan_summary import of_access
from tests.support import volcengine
from tests.support.stack_files import StackFile

OIDC = {"provider": "acs:ram::1234:oidc-provider/ack-rrsa-c1", "issuer": "https://oidc.example/c1"}
PLAIN = {"cache": {"engine": "none"}}
ACS, LOCAL = StackFile("acs"), StackFile("local")
STREAM = {
    **PLAIN,
    "weights/read": "stream",
    "services/ds/engine": {"image": "vllm/vllm-openai:v0.19.0", "version": "0.19.0", "launcher": "native"},
}


@pytest.mark.parametrize(
    ("values", "takers", "line"),
    [
        (
            {},
            set(),
            "bucket: read by an access key and filled by an access key: a key lives until it is rotated; "
            "with cluster.oidc pods take roles",
        ),
        ({**PLAIN, "cluster/oidc": OIDC}, {"reader", "writer"}, "bucket: read by a role and filled by a role"),
        (
            {"cluster/oidc": OIDC},
            {"writer"},
            "bucket: read by an access key and filled by a role: a key lives until it is rotated; "
            "its reader takes no role",
        ),
        ({**STREAM, "cluster/oidc": OIDC, "weights/sync": ...}, None, "cluster.oidc: no pod of this stack"),
        ({**PLAIN, "cluster/oidc": OIDC, "weights/sync": ...}, {"reader"}, "bucket: read by a role"),
        ({**PLAIN, "cluster/oidc": OIDC, "weights/bucket/auth": "key"}, None, "cluster.oidc: no pod of this stack"),
        ({**PLAIN, "weights/bucket/auth": "rrsa"}, None, "weights.bucket.auth: rrsa: the role trusts the cluster's"),
        (
            {"cluster/oidc": OIDC, "weights/bucket/auth": "rrsa"},
            None,
            "weights.bucket.auth: rrsa: Fluid's JindoRuntime takes access keys only; write cache.engine: none, or "
            "leave it out: then the sync alone takes a role",
        ),
        ({**STREAM, "cluster/oidc": OIDC, "weights/bucket/auth": "rrsa"}, None, "weights.bucket.auth: rrsa: an engine"),
        ({**PLAIN, "cluster/oidc": {**OIDC, "provider": "ack-rrsa-c1"}}, None, "cluster.oidc.provider: ack-rrsa-c1:"),
        ({**PLAIN, "weights/bucket/keys": [2, 2]}, None, "weights.bucket.keys: [2, 2]: names one generation twice"),
        ({**PLAIN, "weights/bucket/keys": [3, 2, 1]}, None, "weights.bucket.keys: "),
        (
            {**PLAIN, "cluster/oidc": OIDC, "weights/bucket/keys": [2]},
            None,
            "weights.bucket.keys: [2]: the stack makes no access keys that have generations; leave it out",
        ),
    ],
)  # fmt: skip
def test_roles_are_taken_where_they_can_be_and_refused_where_not(values: dict[str, Any], takers, line: str):
    raw = ACS.changed(**values)
    if takers is None:
        (said,) = ACS.lines(raw)
        assert said.startswith(f"modelserve:{line}")
    else:
        config = parse(raw)
        assert role_takers(config) == takers and of_access(config) == [line]


@pytest.mark.parametrize(
    ("raw", "given", "line"),
    [
        (LOCAL.changed(**{"cluster/oidc": OIDC}), (), "cluster.oidc: pods take no roles on local; leave it out"),
        (
            volcengine.stack_file(**{"weights/bucket/auth": "rrsa"}),
            (),
            "weights.bucket.auth: rrsa: pods take no role",
        ),
        (
            ACS.changed(**PLAIN, **{"cluster/oidc": OIDC}),
            ("accessKey", "secretKey"),
            "accessKey: nothing reads this secret: the bucket is read by a role; run: pulumi config rm",
        ),
    ],
)
def test_what_a_role_makes_idle_or_a_cloud_has_not_is_refused(raw: dict[str, Any], given, line: str):
    said, *_ = ACS.lines(raw, secrets=("apiKey", *given))
    assert said.startswith(f"modelserve:{line}")
