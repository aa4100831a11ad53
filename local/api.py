"""A small client for the rehearsal's API server: JSON and YAML in, JSON out, errors in the server's words."""

from __future__ import annotations

import json
import os
import re
import ssl
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import urllib3
import yaml

_FIELD_MANAGER = "rehearsal"
_JSON = "application/json"
# While the server fills its cache for a new kind it answers «retry later»; other clients retry by themselves.
_PATIENCE = urllib3.Retry(
    connect=0, read=0, redirect=0, other=0, status=10, allowed_methods=None, raise_on_status=False
)
# As the Kubernetes library for Go asks for the schema of all kinds, in 32 s at most.
_SCHEMA = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
_DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


class ApiError(Exception):
    """The API server refused; `code` is the HTTP status, the text is the server's message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Api:
    """One API server, used as its administrator."""

    def __init__(self, server: str, pki: Path) -> None:
        """`pki` holds ca.crt, admin.crt and admin.key."""
        context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        context.load_cert_chain(str(pki / "admin.crt"), str(pki / "admin.key"))
        self.server = server
        self._pool = urllib3.PoolManager(ssl_context=context, maxsize=16, retries=_PATIENCE, timeout=120)

    def request(self, method: str, path: str, body: Any = None, content_type: str = _JSON, accept: str = _JSON) -> Any:
        """The decoded answer. Raises ApiError, or urllib3's own error if nobody answers."""
        answer = self._send(method, path, body, content_type, accept)
        return answer.json() if "json" in answer.headers.get("Content-Type", "") else answer.data.decode()

    def _send(self, method: str, path: str, body: Any, content_type: str, accept: str) -> urllib3.BaseHTTPResponse:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        headers = {"Content-Type": content_type, "Accept": accept}
        answer = self._pool.request(method, self.server + path, body=data, headers=headers)
        if answer.status >= 400:
            try:
                message = answer.json()["message"]
            except (ValueError, KeyError, TypeError):
                message = answer.data.decode(errors="replace")
            raise ApiError(answer.status, message)
        return answer

    def text(self, path: str) -> str:
        """The answer as it came."""
        return self._send("GET", path, None, _JSON, _JSON).data.decode()

    def get(self, path: str) -> Any:
        return self.request("GET", path)

    def delete(self, path: str, propagation: str = "Background") -> None:
        self.request("DELETE", path, {"propagationPolicy": propagation})

    def merge(self, path: str, patch: Any) -> Any:
        return self.request("PATCH", path, patch, "application/merge-patch+json")

    def apply(self, path: str, manifest: bytes | dict[str, Any]) -> Any:
        """Server-side apply of one object. Bytes are sent as they are, which saves parsing big YAML files."""
        body = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
        query = f"?fieldManager={_FIELD_MANAGER}&force=true"
        return self.request("PATCH", path + query, body, "application/apply-patch+yaml")

    def apply_crds(self, files: Iterable[Path], seconds: float = 180) -> list[str]:
        """Applies CustomResourceDefinitions in parallel, waits until all are Established, and returns their names."""
        base = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        documents = [text.encode() for file in files for text in _documents(file.read_text())]
        names = [_crd_name(document) for document in documents]
        # More at once would only make each take longer than the API server lets a request take.
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            list(threads.map(lambda pair: self.apply(f"{base}/{pair[0]}", pair[1]), zip(names, documents, strict=True)))

        def missing() -> list[str]:
            # Discovery lists the served kinds in a few kilobytes; the definitions themselves are megabytes.
            served = {
                f"{resource['resource']}.{group['metadata']['name']}"
                for group in self.request("GET", "/apis", accept=_DISCOVERY)["items"]
                for version in group["versions"]
                for resource in version["resources"]
            }
            return [name for name in names if name not in served]

        wait_until(lambda: not missing(), seconds, lambda: f"CRDs not established: {', '.join(missing())}")
        # New kinds make the server compute the schema anew, which on a slow machine takes longer than clients wait.
        self._send("GET", "/openapi/v2", None, _JSON, _SCHEMA)
        return names


def wait_until(done: Callable[[], bool], seconds: float, what: Callable[[], str], step: float = 0.1) -> None:
    """Polls until `done` is true; a refused connection counts as not done. Raises TimeoutError(what())."""
    end = time.monotonic() + seconds
    while True:
        try:
            if done():
                return
        except (urllib3.exceptions.HTTPError, ApiError):
            if time.monotonic() > end:
                raise
        if time.monotonic() > end:
            raise TimeoutError(what())
        time.sleep(step)


def load_documents(file: Path) -> list[dict[str, Any]]:
    """The objects of a YAML file, without empty documents."""
    return [document for document in yaml.safe_load_all(file.read_text()) if document]


def _documents(text: str) -> list[str]:
    return [
        part for part in re.split(r"^---\s*$", text, flags=re.MULTILINE) if re.search(r"^kind:", part, re.MULTILINE)
    ]


def _crd_name(document: bytes) -> str:
    match = re.search(rb"^metadata:\n(?:^ .*\n)*?^  name: (\S+)", document, re.MULTILINE)
    if match is None:
        raise ValueError("a CustomResourceDefinition without metadata.name")
    return match.group(1).decode()
