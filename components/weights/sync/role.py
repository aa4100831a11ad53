"""A key for the bucket, lent for an hour by Alibaba Cloud's STS for the pod's own token.

Owns when a new one is asked for. The request carries no signature: the token, which the cluster signs and the kubelet
renews, says who asks (https://www.alibabacloud.com/help/en/ram/developer-reference/api-sts-2015-04-01-assumerolewithoidc).
"""

from __future__ import annotations

import http.client
import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

from .bucket import key_environment
from .retries import Fatal, Passing

_SECONDS = 3600
_TIMEOUT_SECONDS = 30
# A run that begins now has to end with what it was lent.
_RENEW_AT = 0.5


class Lender:
    """Lends what `role` may do. `sts` is the service's host or URL; `provider` vouches for the token in the file."""

    def __init__(self, sts: str, role: str, provider: str, token: Path) -> None:
        self._url = sts if "://" in sts else f"https://{sts}"
        self._role, self._provider, self._token = role, provider, token
        self._lock = threading.Lock()
        self._lent: Mapping[str, str] = {}
        self._renew = 0.0

    def lent(self) -> Mapping[str, str]:
        """The key as rclone takes it, good for half an hour at least. Raises Fatal and Passing."""
        with self._lock:
            if not self._lent or time.monotonic() > self._renew:
                asked = time.monotonic()
                self._lent, self._renew = self._ask(), asked + _SECONDS * _RENEW_AT
            return self._lent

    def _ask(self) -> Mapping[str, str]:
        form = {
            "Action": "AssumeRoleWithOIDC",
            "Version": "2015-04-01",
            "Format": "JSON",
            "Timestamp": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "SignatureNonce": uuid4().hex,
            "RoleArn": self._role,
            "OIDCProviderArn": self._provider,
            "OIDCToken": self._token.read_text().strip(),
            "RoleSessionName": "modelserve-sync",
            "DurationSeconds": str(_SECONDS),
        }
        request = urllib.request.Request(self._url, urllib.parse.urlencode(form).encode())
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
                found = json.loads(answer.read())["Credentials"]
            return key_environment(found["AccessKeyId"], found["AccessKeySecret"], found["SecurityToken"])
        except urllib.error.HTTPError as error:
            raise self._refused(error) from None
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            raise Passing(f"role {self._role}: {self._url} gives no key ({type(error).__name__})") from None

    def _refused(self, error: urllib.error.HTTPError) -> Exception:
        told = f"role {self._role}: STS answers {error.code} {_code(error.read())}".rstrip()
        if error.code in (429, 500, 502, 503, 504):
            return Passing(told)
        return Fatal(f"{told}: check cluster.oidc, and that the role trusts this cluster")


def _code(body: bytes) -> str:
    """The service's own word for what is wrong; its message may quote the token."""
    try:
        found: Any = json.loads(body)
        return str(found["Code"])
    except (ValueError, KeyError, TypeError):
        return ""
