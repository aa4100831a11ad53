"""A loopback object store that speaks S3 as strictly as OSS and TOS do, under their real host names.

It is an HTTPS proxy: a client that has HTTPS_PROXY set to it, and AWS_CA_BUNDLE to its CA certificate, reaches it under
any host name. So URLs contain the real host names, and nothing leaves the machine.

What it refuses, with sources:

- a bucket in the path: 403 SecondLevelDomainForbidden (https://github.com/treeverse/lakeFS/issues/3613; TOS requires
  virtual hosts too: https://www.volcengine.com/docs/6349/147050);
- a chunked body with a trailing checksum: 400 NotImplemented (https://github.com/multica-ai/multica/pull/6261);
- an invalid checksum: 400 InvalidDigest. Cloudflare R2 does this (https://github.com/pulumi/pulumi/issues/24219);
  whether OSS and TOS do is unknown, so they do here.

A request must carry a signature, but the store does not verify it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import ssl
import urllib.parse
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.sax.saxutils import escape

import trustme

from tests.support.http_server import running


@dataclass(frozen=True)
class Refusal:
    """A request that was refused."""

    method: str
    host: str
    path: str
    code: str


@dataclass
class ObjectStore:
    """The store's content and refusals. `keys` and `tokens` are those that signed requests. With `takes_chunks` it
    accepts chunked bodies from an engine that sends them."""

    endpoint: str
    bucket: str
    environment: dict[str, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    refused: list[Refusal] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    tokens: set[str] = field(default_factory=set)
    takes_chunks: bool = False


@contextmanager
def serve(folder: Path, endpoint: str, bucket: str, *, takes_chunks: bool = False) -> Iterator[ObjectStore]:
    """A store that answers as `endpoint`, a host name such as s3.oss-cn-hangzhou.aliyuncs.com, for one bucket."""
    store = ObjectStore(endpoint, bucket, takes_chunks=takes_chunks)
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(endpoint, f"*.{endpoint}").configure_cert(context)
    authority.cert_pem.write_to_path(folder / "authority.pem")

    class Objects(_Objects):
        pass

    class Proxy(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError, ssl.SSLError):
                secured = context.wrap_socket(self.connection, server_side=True)
                self.close_connection = True
                Objects(secured, self.client_address, self.server)
                secured.close()

        def log_message(self, *_: object) -> None:
            pass

    Objects.store = store
    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    server.daemon_threads = True
    store.environment = {
        "HTTPS_PROXY": f"http://127.0.0.1:{server.server_address[1]}",
        "NO_PROXY": "127.0.0.1,localhost",
        "AWS_CA_BUNDLE": str(folder / "authority.pem"),
        "AWS_ACCESS_KEY_ID": "STS.key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_SESSION_TOKEN": "session",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }
    with running(server):
        yield store


class _Objects(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    store: ObjectStore

    def log_message(self, *_: object) -> None:
        pass

    def _do(self) -> None:
        body = self._body()
        host = self.headers["Host"].partition(":")[0]
        url = urllib.parse.urlsplit(self.path)
        key = urllib.parse.unquote(url.path.removeprefix("/"))
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        if found := re.search(r"Credential=([^/]+)/", self.headers.get("Authorization", "")):
            self.store.keys.add(found[1])
        else:
            return self._refuse(403, "AccessDenied", host)
        if token := self.headers.get("X-Amz-Security-Token"):
            self.store.tokens.add(token)
        if host == self.store.endpoint:
            return self._refuse(403, "SecondLevelDomainForbidden", host)
        if host != f"{self.store.bucket}.{self.store.endpoint}":
            return self._refuse(404, "NoSuchBucket", host)
        hashed = self.headers.get("X-Amz-Content-Sha256", "")
        if "aws-chunked" in self.headers.get("Content-Encoding", "") or hashed.startswith("STREAMING-"):
            if not self.store.takes_chunks:
                return self._refuse(400, "NotImplemented", host)
            body = _joined(body)
        said = self.headers.get("X-Amz-Checksum-Sha256")
        if said is not None and said != base64.b64encode(hashlib.sha256(body).digest()).decode():
            return self._refuse(400, "InvalidDigest", host)
        return getattr(self, f"_{self.command.lower()}")(key, query, body)

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = _do

    def _put(self, key: str, query: dict[str, str], body: bytes) -> None:
        if source := self.headers.get("X-Amz-Copy-Source"):
            _, _, name = urllib.parse.unquote(source).removeprefix("/").partition("/")
            if name not in self.store.objects:
                return self._refuse(404, "NoSuchKey", self.store.endpoint)
            self.store.objects[key] = self.store.objects[name]
            text = f"<CopyObjectResult><ETag>{_tag(self.store.objects[key])}</ETag></CopyObjectResult>"
            return self._answer(200, text.encode(), {"Content-Type": "application/xml"})
        self.store.objects[key] = body
        return self._answer(200, b"", {"ETag": _tag(body)})

    def _get(self, key: str, query: dict[str, str], body: bytes) -> None:
        if not key:
            return self._list(query)
        if key not in self.store.objects:
            return self._refuse(404, "NoSuchKey", self.store.endpoint)
        found = self.store.objects[key]
        headers = {"ETag": _tag(found), "Last-Modified": formatdate(usegmt=True), "Content-Type": "application/json"}
        return self._answer(200, found, headers)

    _head = _get

    def _delete(self, key: str, query: dict[str, str], body: bytes) -> None:
        self.store.objects.pop(key, None)
        self._answer(204, b"", {})

    def _list(self, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        contents, folders = "", dict[str, None]()
        for key, value in sorted(self.store.objects.items()):
            if not key.startswith(prefix):
                continue
            below = key[len(prefix) :]
            if delimiter and delimiter in below:
                folders[prefix + below[: below.index(delimiter) + 1]] = None
                continue
            at = "2026-01-01T00:00:00.000Z"
            contents += f"<Contents><Key>{escape(key)}</Key><LastModified>{at}</LastModified>"
            contents += f"<ETag>{_tag(value)}</ETag><Size>{len(value)}</Size></Contents>"
        contents += "".join(f"<CommonPrefixes><Prefix>{escape(each)}</Prefix></CommonPrefixes>" for each in folders)
        text = f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"
        self._answer(200, text.encode(), {"Content-Type": "application/xml"})

    def _refuse(self, status: int, code: str, host: str) -> None:
        if code != "NoSuchKey":
            self.store.refused.append(Refusal(self.command, host, self.path.partition("?")[0], code))
        text = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
        self._answer(status, text.encode(), {"Content-Type": "application/xml"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"x-amz-request-id": uuid.uuid4().hex, **headers}.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            body = b""
            while size := int(self.rfile.readline().strip() or b"0", 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))


def _joined(body: bytes) -> bytes:
    """A chunked body (aws-chunked), without the chunk lengths and their extensions."""
    whole = b""
    while body:
        length, _, body = body.partition(b"\r\n")
        size = int(length.partition(b";")[0], 16)
        if size == 0:
            break
        whole, body = whole + body[:size], body[size + 2 :]
    return whole


def _tag(body: bytes) -> str:
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
