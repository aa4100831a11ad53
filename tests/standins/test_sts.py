"""The simulated token service gives credentials only to those whom the role trusts, and the sync's program accepts
them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from components.cluster.credentials import Oidc
from components.weights.oss_bucket import trust_policy
from components.weights.sync.retries import Fatal
from components.weights.sync.role import Lender
from standins.providers.cloud import opened
from standins.sts import STS, claims_of

PROVIDER, ROLE = "acs:ram::1:oidc-provider/ack-rrsa-c1", "acs:ram::1:role/writer"
CLAIMS = {"iss": "https://oidc.example/c1", "aud": ["sts.aliyuncs.com"], "sub": "system:serviceaccount:ml:r1-sync"}


def token(**changes: Any) -> str:
    body = base64.urlsafe_b64encode(json.dumps({**CLAIMS, **changes}).encode()).decode().rstrip("=")
    return f"head.{body}.signature"


@pytest.fixture
def service(tmp_path: Path):
    with opened(tmp_path / "cloud", "") as cloud:
        trust = trust_policy(Oidc(PROVIDER, CLAIMS["iss"]), ["ml:r1-sync", "ml:r2-sync"])
        cloud.roles["writer"] = {"trust": trust, "seconds": 3600}
    made = STS(tmp_path / "cloud", lambda given: claims_of(given) if given.startswith("head.") else None)
    yield made
    made.close()


def lender(service: STS, tmp_path: Path, text: str, role: str = ROLE, provider: str = PROVIDER) -> Lender:
    file = tmp_path / "token"
    file.write_text(text)
    return Lender(service.url, role, provider, file)


def test_a_pod_that_the_role_trusts_is_lent_a_key_once_for_many_runs(service: STS, tmp_path: Path):
    made = lender(service, tmp_path, token(sub="system:serviceaccount:ml:r2-sync"))
    lent = made.lent()
    assert set(lent) == {
        f"RCLONE_CONFIG_STORE_{key}" for key in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN")
    }
    assert made.lent() == lent
    made._renew = 0.0
    assert made.lent() != lent


@pytest.mark.parametrize(
    ("text", "more", "code"),
    [
        (token(sub="system:serviceaccount:ml:another"), {}, "403 NoPermission"),
        (token(sub="system:serviceaccount:other:r1-sync"), {}, "403 NoPermission"),
        (token(iss="https://oidc.example/c2"), {}, "403 NoPermission"),
        (token(aud=["kubernetes"]), {}, "403 NoPermission"),
        (token(), {"provider": "acs:ram::1:oidc-provider/ack-rrsa-c2"}, "403 NoPermission"),
        (token(), {"role": "acs:ram::1:role/reader"}, "404 EntityNotExist.Role"),
        ("forged.e30.x", {}, "400 AuthenticationFail.OIDCToken.Invalid"),
    ],
)
def test_nobody_else_is_and_the_words_hold_no_token(service: STS, tmp_path: Path, text: str, more, code: str):
    with pytest.raises(Fatal) as caught:
        lender(service, tmp_path, text, **more).lent()
    assert code in str(caught.value) and "check cluster.oidc" in str(caught.value)
    assert text.split(".")[1] not in str(caught.value)
