"""The API server: kubeconfig, HTTP, discovery of kinds, errors in the server's own words."""

from __future__ import annotations

import base64
import json
import os
import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3
import yaml

Manifest = dict[str, Any]


class KubeconfigError(Exception):
    """The kubeconfig cannot be parsed, or has no such context."""


class Unreachable(Exception):
    """Nobody answers at the server's address, or the server does not accept the credentials."""


class ApiError(Exception):
    """The API server refused. `code` is the HTTP status, `reason` the server's word for it; the text is its message."""

    def __init__(self, code: int, status: dict[str, Any]) -> None:
        super().__init__(status.get("message") or "the server could not find the requested resource")
        self.code = code
        self.reason: str = status.get("reason", "")
        self.details: dict[str, Any] = status.get("details") or {}


class NoMatch(Exception):
    """The server knows no such kind."""

    def __init__(self, api_version: str, kind: str) -> None:
        super().__init__(f'no matches for kind "{kind}" in version "{api_version}"')


@dataclass(frozen=True)
class Target:
    """What a kubeconfig's context points to: its cluster and user entries, and the namespace."""

    cluster: dict[str, Any]
    user: dict[str, Any]
    namespace: str
    folder: Path


@dataclass(frozen=True)
class Kind:
    """Where the objects of a kind live."""

    prefix: str
    plural: str
    namespaced: bool

    def path(self, namespace: str | None, name: str = "") -> str:
        middle = f"/namespaces/{namespace}" if self.namespaced else ""
        return f"{self.prefix}{middle}/{self.plural}" + (f"/{name}" if name else "")


def _load(kubeconfig: str | None) -> tuple[dict[str, Any], Path]:
    """`kubeconfig` is the content, a path, or None for the ambient one (of which only one file is read)."""
    given = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    folder = Path.cwd()
    if "\n" not in given and not given.startswith("{"):
        file = Path(given).expanduser()
        if not file.is_file():
            raise KubeconfigError(f"failed to parse kubeconfig: {given} is no file")
        given, folder = file.read_text(), file.parent
    try:
        config = yaml.load(given, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise KubeconfigError(f"failed to parse kubeconfig: yaml: line {line}: {error.problem}") from error
    if not isinstance(config, dict):
        raise KubeconfigError("failed to parse kubeconfig: no mapping")
    return config, folder


def resolve(kubeconfig: str | None, context: str | None = None, cluster: str | None = None) -> Target:
    """The cluster, user and namespace that a kubeconfig selects. Raises KubeconfigError."""
    config, folder = _load(kubeconfig)

    def entry(kind: str, name: str) -> dict[str, Any]:
        for item in config.get(f"{kind}s") or []:
            if item.get("name") == name:
                return item.get(kind) or {}
        raise KubeconfigError(f'{kind} "{name}" does not exist')

    chosen = entry("context", context or config.get("current-context") or "")
    return Target(
        cluster=entry("cluster", cluster or chosen.get("cluster", "")),
        user=entry("user", chosen["user"]) if chosen.get("user") else {},
        namespace=chosen.get("namespace") or "default",
        folder=folder,
    )


@contextmanager
def _as_file(target: Target, entry: dict[str, Any], key: str) -> Iterator[str]:
    """A certificate or key of a kubeconfig as a file, which OpenSSL wants; for inline data a short-lived one."""
    if f"{key}-data" not in entry:
        yield str(target.folder / entry[key])
        return
    with tempfile.NamedTemporaryFile() as file:
        file.write(base64.b64decode(entry[f"{key}-data"]))
        file.flush()
        yield file.name


def _tls(target: Target) -> ssl.SSLContext:
    cluster, user = target.cluster, target.user
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif "certificate-authority" in cluster or "certificate-authority-data" in cluster:
        with _as_file(target, cluster, "certificate-authority") as file:
            context.load_verify_locations(file)
    else:
        context.load_default_certs()
    if "client-certificate" in user or "client-certificate-data" in user:
        with _as_file(target, user, "client-certificate") as certificate, _as_file(target, user, "client-key") as key:
            context.load_cert_chain(certificate, key)
    return context


class Api:
    """One API server. Threads share it."""

    def __init__(self, target: Target) -> None:
        self.server = target.cluster["server"].rstrip("/")
        self._headers = {"Accept": "application/json"}
        if target.user.get("token"):
            self._headers["Authorization"] = f"Bearer {target.user['token']}"
        tls = {"ssl_context": _tls(target)} if self.server.startswith("https:") else {}
        self._pool = urllib3.PoolManager(maxsize=32, retries=False, timeout=32, **tls)
        self._kinds: dict[str, dict[str, Kind]] = {}
        self._lock = threading.Lock()
        self._reason: str | None = None

    def unreachable(self) -> str:
        """Why the server cannot be used, or an empty text. Asked once in a process."""
        with self._lock:
            if self._reason is None:
                self._reason = self._try()
            return self._reason

    def _try(self) -> str:
        host = self.server.partition("://")[2]
        try:
            self.request("GET", "/version")
        except Unreachable as error:
            cause = f'Get "{self.server}/openapi/v2?timeout=32s": {error}'.replace("HOST", host)
        except ApiError as error:
            if error.code != 401:
                return ""
            cause = "the server has asked for the client to provide credentials"
        else:
            return ""
        problem = "unable to load schema information from the API server"
        return f"configured Kubernetes cluster is unreachable: {problem}: {cause}"

    def request(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json", **query: str
    ) -> dict[str, Any]:
        """The decoded answer. Raises ApiError, or Unreachable."""
        url = f"{self.server}{path}" + (f"?{urlencode(query)}" if query else "")
        data = None if body is None else json.dumps(body).encode()
        try:
            answer = self._pool.request(method, url, body=data, headers={**self._headers, "Content-Type": content_type})
        except urllib3.exceptions.NewConnectionError as error:
            raise Unreachable("dial tcp HOST: connect: connection refused") from error
        except urllib3.exceptions.SSLError as error:
            raise Unreachable(f"tls: failed to verify certificate: {error}") from error
        except urllib3.exceptions.HTTPError as error:
            raise Unreachable(str(error)) from error
        try:
            decoded = json.loads(answer.data)
        except ValueError:
            decoded = {}
        if answer.status >= 400:
            raise ApiError(answer.status, decoded)
        return decoded

    def kind(self, api_version: str, kind: str) -> Kind:
        """Raises NoMatch. Remembered, except that a kind is missing: its CRD may arrive at any time."""
        found = self._kinds.get(api_version, {}).get(kind)
        if found is None:
            self._kinds[api_version] = self._discover(api_version)
            found = self._kinds[api_version].get(kind)
        if found is None:
            raise NoMatch(api_version, kind)
        return found

    def _discover(self, api_version: str) -> dict[str, Kind]:
        prefix = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        try:
            listing = self.request("GET", prefix)
        except ApiError as error:
            if error.code == 404:
                return {}
            raise
        return {
            item["kind"]: Kind(prefix, item["name"], item["namespaced"])
            for item in listing["resources"]
            if "/" not in item["name"]
        }

    def path(self, manifest: Manifest, *, collection: bool = False) -> str:
        metadata = manifest["metadata"]
        kind = self.kind(manifest["apiVersion"], manifest["kind"])
        return kind.path(metadata.get("namespace"), "" if collection else metadata["name"])

    def get(self, manifest: Manifest) -> Manifest:
        """The live object of the manifest's kind and name."""
        return self.request("GET", self.path(manifest))
