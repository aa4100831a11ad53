"""The API server: connections, HTTP, discovery of kinds, errors in the server's own words."""

from __future__ import annotations

import base64
import http.client
import json
import queue
import select
import ssl
import tempfile
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from local.providers.reporting import Refusal

Manifest = dict[str, Any]

_TIMEOUT_SECONDS = 32
# A handshake costs more than what most requests do, and nothing is left open while an operation waits.
_CONNECTIONS = 4


class Unreachable(Refusal):
    """Nobody answers at the server's address, or the server does not accept the credentials."""


class ApiError(Refusal):
    """The API server refused. `reason` is its word for it; the text is its message."""

    def __init__(self, code: int, status: dict[str, Any]) -> None:
        super().__init__(status.get("message") or "the server could not find the requested resource")
        self.code, self.reason, self.details = code, status.get("reason", ""), status.get("details") or {}


class NoMatch(ApiError):
    """The server knows no such kind."""

    def __init__(self, api_version: str, kind: str) -> None:
        super().__init__(404, {"message": f'no matches for kind "{kind}" in version "{api_version}"'})


def _pem(entry: dict[str, Any], key: str) -> str:
    """A certificate or key of a kubeconfig, which gives the content or a file; empty where it gives neither."""
    if f"{key}-data" in entry:
        return base64.b64decode(entry[f"{key}-data"]).decode()
    return Path(entry[key]).read_text() if key in entry else ""


def _tls(cluster: dict[str, Any], user: dict[str, Any]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authority := _pem(cluster, "certificate-authority"):
        context.load_verify_locations(cadata=authority)
    else:
        context.load_default_certs()
    if certificate := _pem(user, "client-certificate"):
        # OpenSSL reads a client's certificate and key from files only.
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(f"{certificate}\n{_pem(user, 'client-key')}")
            file.flush()
            context.load_cert_chain(file.name)
    return context


class Api:
    """One API server, by the entries of a kubeconfig. Threads share it."""

    def __init__(self, cluster: dict[str, Any], user: dict[str, Any], namespace: str) -> None:
        self.namespace = namespace
        self._server = cluster["server"].rstrip("/")
        url = urlsplit(self._server)
        self._host, self._prefix = url.netloc, url.path
        self._headers = {"Accept": "application/json"}
        if user.get("token"):
            self._headers["Authorization"] = f"Bearer {user['token']}"
        # Last in, first out: a connection is only opened when all open ones are busy.
        self._idle = queue.LifoQueue[http.client.HTTPSConnection]()
        tls = _tls(cluster, user)
        for _ in range(_CONNECTIONS):
            self._idle.put(http.client.HTTPSConnection(url.netloc, timeout=_TIMEOUT_SECONDS, context=tls))
        self._kinds: dict[str, dict[str, tuple[str, bool]]] = {}
        self._discovering = threading.Lock()
        self._answered = False
        self._lost = ""

    def request(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json", **query: str
    ) -> dict[str, Any]:
        """The decoded answer. Raises ApiError, or Unreachable, which is remembered when nothing was ever answered."""
        if self._lost:
            raise Unreachable(self._lost)
        url = f"{self._prefix}{path}" + (f"?{urlencode(query)}" if query else "")
        data = None if body is None else json.dumps(body).encode()
        try:
            status, text = self._send(method, url, data, {**self._headers, "Content-Type": content_type})
        except (OSError, http.client.HTTPException) as error:
            refused = isinstance(error, ConnectionRefusedError)
            cause = f"dial tcp {self._host}: connect: connection refused" if refused else error
            unreachable = _unreachable(f'Get "{self._server}/openapi/v2?timeout={_TIMEOUT_SECONDS}s": {cause}')
            self._lost = "" if self._answered else str(unreachable)
            raise unreachable from error
        if status == 401:
            raise _unreachable("the server has asked for the client to provide credentials")
        self._answered = True
        try:
            answer = json.loads(text)
        except ValueError:
            answer = {}
        if status >= 400:
            raise ApiError(status, answer)
        return answer

    def _send(self, method: str, url: str, data: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        connection = self._idle.get()
        try:
            if connection.sock and select.select([connection.sock], [], [], 0)[0]:
                connection.close()  # the server has hung up meanwhile
            connection.request(method, url, data, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            raise
        finally:
            self._idle.put(connection)

    def _kind(self, manifest: Manifest) -> tuple[str, bool]:
        """Plural, and whether namespaced. Raises NoMatch, which is asked again: a CRD may arrive at any time."""
        api_version, kind = manifest["apiVersion"], manifest["kind"]
        with self._discovering:
            if kind not in self._kinds.get(api_version, {}):
                self._kinds[api_version] = self._discover(api_version)
            if kind not in self._kinds[api_version]:
                raise NoMatch(api_version, kind)
            return self._kinds[api_version][kind]

    def _discover(self, api_version: str) -> dict[str, tuple[str, bool]]:
        try:
            listing = self.request("GET", _root(api_version))
        except ApiError as error:
            if error.code == 404:
                return {}
            raise
        return {r["kind"]: (r["name"], r["namespaced"]) for r in listing["resources"] if "/" not in r["name"]}

    def is_namespaced(self, manifest: Manifest) -> bool:
        return self._kind(manifest)[1]

    def path(self, manifest: Manifest, *, collection: bool = False) -> str:
        plural, namespaced = self._kind(manifest)
        metadata = manifest["metadata"]
        place = f"/namespaces/{metadata.get('namespace')}" if namespaced else ""
        return f"{_root(manifest['apiVersion'])}{place}/{plural}" + ("" if collection else f"/{metadata['name']}")

    def get(self, manifest: Manifest) -> Manifest:
        """The live object of the manifest's kind and name."""
        return self.request("GET", self.path(manifest))


def _root(api_version: str) -> str:
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


def _unreachable(cause: str) -> Unreachable:
    problem = "unable to load schema information from the API server"
    return Unreachable(f"configured Kubernetes cluster is unreachable: {problem}: {cause}")
