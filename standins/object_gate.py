"""Access control for played OSS buckets: a proxy that checks keys, in front of an object store that asks for none.

A request carries the key of a user or a temporary key of a role. The gate looks the key up in the played cloud, and the
holder's policies decide, as in RAM (https://www.alibabacloud.com/help/en/ram/policy-elements): one statement has to
allow the action, the resource and, for a list, the prefix. Signatures are not checked. A key that the cloud does not
know counts as the account owner's, who may do anything. A key whose policies are all the other cloud's may pass.
"""

from __future__ import annotations

import http.client
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from email.message import Message
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from standins.providers.cloud import Cloud, opened
from standins.providers.identities import held_by

_KEY = re.compile(r"Credential=([^/]+)/")
_PIECE = 1 << 20
_BUCKET_ACTIONS = {"location": "oss:GetBucketLocation", "uploads": "oss:ListMultipartUploads"}

Lent = Callable[[str], "tuple[str, str] | None"]
"""Maps a temporary key to its role and its session token; None if the key is unknown."""


def action(method: str, key: str, query: Mapping[str, Any]) -> str:
    """The name of the request's action in RAM."""
    if not key:
        named = next((each for asked, each in _BUCKET_ACTIONS.items() if asked in query), None)
        return named or ("oss:GetBucketInfo" if method == "HEAD" else "oss:ListObjects")
    if "uploadId" in query and method in ("GET", "DELETE"):
        return "oss:ListParts" if method == "GET" else "oss:AbortMultipartUpload"
    return {"GET": "oss:GetObject", "HEAD": "oss:GetObject", "DELETE": "oss:DeleteObject"}.get(method, "oss:PutObject")


def allows(document: str, asked: str, resource: str, prefix: str | None) -> bool:
    """Whether a policy allows an action on `acs:oss:*:*:BUCKET/KEY`; a list has a prefix."""
    for statement in json.loads(document)["Statement"]:
        fits = statement.get("Condition", {}).get("StringLike", {}).get("oss:Prefix")
        if (
            statement["Effect"] == "Allow"
            and any(fnmatchcase(asked, each) for each in statement["Action"])
            and any(fnmatchcase(resource, each) for each in statement["Resource"])
            and (fits is None or any(fnmatchcase(prefix or "", each) for each in fits))
        ):
            return True
    return False


def policies(cloud: Cloud, key: str, token: str, lent: Lent) -> list[str] | None:
    """The policies of a key's holder; None for the account owner's key, empty for a role's key with a wrong token."""
    if key.startswith("STS."):
        role, wanted = lent(key) or ("", None)
        held = held_by(cloud.attachments, role, "role") if token == wanted else []
    elif key in cloud.keys:
        held = held_by(cloud.attachments, cloud.keys[key]["user"])
    else:
        return None
    return [_document(cloud.policies[cloud.attachments[each]["policy"]]) for each in held]


def _document(policy: Mapping[str, Any]) -> str:
    return policy["versions"][policy["default"]] if "versions" in policy else policy["document"]


class Gate:
    """The proxy to the store of the cloud in `folder`, on loopback at `url`; threads of the process that starts it."""

    def __init__(self, folder: Path, store: str, lent: Lent) -> None:
        target, gate = urlsplit(store), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                size = int(self.headers.get("Content-Length", "0"))
                if not gate.permits(self.command, self.path, self.headers):
                    while size > 0:
                        size -= len(self.rfile.read(min(size, _PIECE)))
                    self.answer(403, {}, b"<Error><Code>AccessDenied</Code><Message>not allowed</Message></Error>")
                    return
                asked = http.client.HTTPConnection(str(target.hostname), target.port or 80)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
                asked.request(self.command, self.path, self.body(size) if size else None, headers)
                with asked.getresponse() as said:
                    kept = {name: value for name, value in said.getheaders() if name.lower() not in _HOPS}
                    length = said.getheader("Content-Length")
                    if self.command == "HEAD":
                        self.answer(said.status, {**kept, "Content-Length": length or "0"}, None)
                    else:
                        self.answer(said.status, kept, said.read())
                asked.close()

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_one

            def body(self, size: int) -> Iterator[bytes]:
                while size > 0:
                    piece = self.rfile.read(min(size, _PIECE))
                    size -= len(piece)
                    yield piece

            def answer(self, status: int, headers: Mapping[str, str], body: bytes | None) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if body is not None:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_: Any) -> None:
                """Logs nothing."""

        self._folder, self._lent = folder, lent
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def permits(self, method: str, path: str, headers: Message) -> bool:
        """Whether a request may pass."""
        found = _KEY.search(headers.get("Authorization", ""))
        parts = urlsplit(path)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        query = parse_qs(parts.query, keep_blank_values=True)
        with opened(self._folder, "") as cloud:
            token = headers.get("x-amz-security-token", "")
            documents = policies(cloud, found[1] if found else "", token, self._lent)
        if documents is None:
            return True
        asked = action(method, key, query)
        resource = f"acs:oss:*:*:{bucket}/{key}" if key else f"acs:oss:*:*:{bucket}"
        # Policies that say nothing about OSS are the other cloud's, and no reason to refuse a request here.
        judged = [each for each in documents if "oss:" in each]
        prefix = query.get("prefix", [None])[0]
        return (bool(documents) and not judged) or any(allows(each, asked, resource, prefix) for each in judged)

    def close(self) -> None:
        """Stops the proxy."""
        self._server.shutdown()
        self._server.server_close()


_HOPS = ("connection", "content-length", "transfer-encoding", "date", "server")
