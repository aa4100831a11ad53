"""Alibaba Cloud's token service, limited to what a pod needs to assume a role: AssumeRoleWithOIDC over HTTP.

The cluster's token review says who the caller is. The role's trust policy in the played cloud says whether the caller
may assume the role. Error codes are those of the service's documents
(https://www.alibabacloud.com/help/en/ram/developer-reference/api-sts-2015-04-01-assumerolewithoidc). Where they name
no code, the error is that of a request that nothing allows. `object_gate` decides what a temporary key gives access to.
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from standins.providers.cloud import opened

Claims = Mapping[str, Any]
Review = Callable[[str], "Claims | None"]
"""Returns the claims of a token; None if the cluster did not issue it."""

_ACTION = "AssumeRoleWithOIDC"
_LEAST_SECONDS = 900


class STSError(Exception):
    """A refusal, with its error code."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


def taken(role: Mapping[str, Any] | None, form: Mapping[str, str], claims: Claims | None) -> None:
    """Raises STSError unless the holder of the claims may assume the role."""
    if form.get("Action") != _ACTION or form.get("Version") != "2015-04-01":
        raise STSError(404, "InvalidAction.NotFound")
    if not form.get("RoleSessionName"):
        raise STSError(400, "InvalidParameter.RoleSessionName")
    if role is None:
        raise STSError(404, "EntityNotExist.Role")
    if claims is None:
        raise STSError(400, "AuthenticationFail.OIDCToken.Invalid")
    if not _LEAST_SECONDS <= int(form.get("DurationSeconds", "3600")) <= role["seconds"]:
        raise STSError(400, "InvalidParameter.DurationSeconds")
    if not any(_allows(each, form["OIDCProviderArn"], claims) for each in json.loads(role["trust"])["Statement"]):
        raise STSError(403, "NoPermission")


def _allows(statement: Mapping[str, Any], provider: str, claims: Claims) -> bool:
    wanted = statement.get("Condition", {}).get("StringEquals", {})
    return (
        statement["Effect"] == "Allow"
        and "sts:AssumeRole" in _listed(statement["Action"])
        and provider in _listed(statement["Principal"].get("Federated", []))
        and all(
            set(_listed(claims.get(key.removeprefix("oidc:"), ""))) & set(_listed(value))
            for key, value in wanted.items()
        )
    )


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def claims_of(token: str) -> Claims:
    """The claims in a token; does not verify its signature."""
    body = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))


class STS:
    """The token service of the cloud in `folder`, on loopback at `url`; runs as threads of the process that starts it.

    `sessions` maps the id of each temporary key to its role and token.
    """

    def __init__(self, folder: Path, review: Review) -> None:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
                form = {key: values[0] for key, values in parse_qs(body).items()}
                try:
                    status, answer = 200, service.lend(form)
                except STSError as error:
                    status, answer = error.status, {"Code": error.code, "Message": "refused", "RequestId": "0"}
                said = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *_: Any) -> None:
                """Logs nothing: requests carry tokens."""

        self._folder, self._review = folder, review
        self.sessions: dict[str, tuple[str, str]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def lend(self, form: Mapping[str, str]) -> dict[str, Any]:
        """Answers a request for a temporary key. Raises STSError."""
        with opened(self._folder, "") as cloud:
            role = cloud.roles.get(form.get("RoleArn", "").rpartition("/")[2])
        taken(role, form, self._review(form.get("OIDCToken", "")))
        until = datetime.now(timezone.utc) + timedelta(seconds=int(form.get("DurationSeconds", "3600")))
        key = {"AccessKeyId": f"STS.{secrets.token_hex(12)}", "AccessKeySecret": secrets.token_hex(22)}
        key |= {"SecurityToken": secrets.token_hex(60), "Expiration": until.strftime("%Y-%m-%dT%H:%M:%SZ")}
        self.sessions[key["AccessKeyId"]] = form["RoleArn"].rpartition("/")[2], key["SecurityToken"]
        return {"Credentials": key, "RequestId": "0"}

    def close(self) -> None:
        """Stops the service."""
        self._server.shutdown()
        self._server.server_close()
