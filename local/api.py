"""A small client for the rehearsal's API server: JSON and YAML in, JSON out, errors in the server's words."""

from __future__ import annotations

import json
import os
import ssl
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import urllib3
import yaml

_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
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

    def apply(self, path: str, manifest: dict[str, Any]) -> Any:
        """Server-side apply of one object."""
        query = f"?fieldManager={_FIELD_MANAGER}&force=true"
        return self.request("PATCH", path + query, manifest, "application/apply-patch+yaml")

    def create_kinds(self, definitions: Mapping[str, bytes], seconds: float = 180) -> None:
        """Creates CustomResourceDefinitions (name to JSON) in parallel and waits until all are Established. Those that
        exist stay as they are."""

        def create(definition: bytes) -> None:
            try:
                self.request("POST", f"{_CRDS}?fieldManager={_FIELD_MANAGER}", definition)
            except ApiError as error:
                if error.code != 409:
                    raise

        # More at once would only make each take longer than the API server lets a request take.
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            list(threads.map(create, definitions.values()))

        def missing() -> list[str]:
            # Discovery lists the served kinds in a few kilobytes; the definitions themselves are megabytes.
            served = {
                f"{resource['resource']}.{group['metadata']['name']}"
                for group in self.request("GET", "/apis", accept=_DISCOVERY)["items"]
                for version in group["versions"]
                for resource in version["resources"]
            }
            return [name for name in definitions if name not in served]

        wait_until(lambda: not missing(), seconds, lambda: f"CRDs not established: {', '.join(missing())}")
        # New kinds make the server compute the schema anew, which on a slow machine takes longer than clients wait.
        self._send("GET", "/openapi/v2", None, _JSON, _SCHEMA)


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
