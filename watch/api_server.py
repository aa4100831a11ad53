"""Sends parallel GET requests to an API server without the Kubernetes library: loading that takes longer than the
answers, and every preview asks.

Handles the simple credentials, a certificate or a token. The library handles a kubeconfig that needs more, such as a
helper program or a proxy.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from config.errors import ConfigError
from config.kubeconfig import kubeconfig_files, parsed
from watch.client import TIMEOUT_SECONDS

METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
"""Media type for a list of objects with only their metadata."""

_SIDE_BY_SIDE = 4
# Busy servers answer 429, to ask again in a second; so do new kinds at first: «storage is (re)initializing».
_BUSY, _TRIES, _PAUSE_SECONDS = 429, 5, 1.0
# The keys of a kubeconfig that this file handles; `extensions` and `disable-compression` change nothing here.
_CLUSTER = {"server", "certificate-authority", "certificate-authority-data", "insecure-skip-tls-verify"}
_USER = {"client-certificate", "client-certificate-data", "client-key", "client-key-data", "token", "tokenFile"}
_IDLE = {"extensions", "disable-compression"}
_PROXIES = ("https_proxy", "http_proxy", "all_proxy")

Question = tuple[str, str]
"""A path with its query, and the media type of the answer."""
IDENTITY: Question = ("/api/v1/namespaces/kube-system", "application/json")
"""Its answer tells the cluster from every other by its uid: the namespace lives as long as the cluster does."""
_Ask = Callable[[str, str], tuple[int, bytes]]


class UnansweredError(Exception):
    """A question has no answer; the text says why in a few words. `status` is HTTP's, None if the server is silent."""

    def __init__(self, why: str, status: int | None = None) -> None:
        super().__init__(why)
        self.status = status


class ApiServer:
    """The API server of `context` in `kubeconfig` (its content) or in this machine's kubeconfig files.

    Raises UnansweredError for a kubeconfig that cannot be used. `answers` returns such errors instead.
    """

    def __init__(self, context: str, kubeconfig: str | None = None) -> None:
        try:
            self._ask = _plainly(context, kubeconfig) or _by_library(context, kubeconfig)
        except (ConfigError, OSError, ValueError, LookupError, TypeError) as error:
            raise UnansweredError(f"its kubeconfig is of no use: {type(error).__name__}") from None

    def answers(self, questions: Sequence[Question]) -> list[Mapping[str, Any] | UnansweredError]:
        """The answer to each question, or why there is none, in the order of the questions."""
        silence: list[UnansweredError] = []

        def answer(question: Question) -> Mapping[str, Any] | UnansweredError:
            if silence:  # a server that was silent once is not waited for again
                return silence[0]
            content = self._answer(question)
            if isinstance(content, UnansweredError) and content.status is None:
                silence.append(content)
            return content

        with ThreadPoolExecutor(max(min(_SIDE_BY_SIDE, len(questions)), 1)) as threads:
            return list(threads.map(answer, questions))

    def _answer(self, question: Question) -> Mapping[str, Any] | UnansweredError:
        try:
            for left in reversed(range(_TRIES)):
                status, content = self._ask(*question)
                if status != _BUSY:
                    break
                time.sleep(_PAUSE_SECONDS * (left > 0))
            return json.loads(content) if status == 200 else UnansweredError(f"HTTP {status}", status)
        except UnansweredError as error:
            return error
        except ssl.SSLError as error:
            return UnansweredError(error.reason or type(error).__name__)
        except (OSError, HTTPException, ValueError) as error:
            return UnansweredError(getattr(error, "strerror", None) or type(error).__name__)


def cluster_id(context: str, kubeconfig: str | None) -> str:
    """What tells the cluster from every other. Raises UnansweredError."""
    (answer,) = ApiServer(context, kubeconfig).answers([IDENTITY])
    if isinstance(answer, UnansweredError):
        raise answer
    return answer["metadata"]["uid"]


def _plainly(context: str, kubeconfig: str | None) -> _Ask | None:
    """Asks with Python's standard library; None if the kubeconfig needs more."""
    files = _contents(kubeconfig)
    chosen, _ = _entry(files, "context", context)
    cluster, place = _entry(files, "cluster", chosen["cluster"])
    user, users_place = _entry(files, "user", chosen["user"])
    if cluster.keys() - _CLUSTER - _IDLE or user.keys() - _USER or any(map(os.environ.get, _proxy_names())):
        return None
    server, mine = urlsplit(cluster["server"]), threading.local()
    trust = _trust(cluster, place, user, users_place) if server.scheme == "https" else None
    headers = {"Authorization": f"Bearer {token}"} if (token := _token(user, users_place)) else {}
    prefix = server.path.rstrip("/")

    def ask(path: str, accept: str) -> tuple[int, bytes]:
        if not hasattr(mine, "connection"):
            mine.connection = _connected(server.hostname or "", server.port, trust)
        mine.connection.request("GET", prefix + path, headers=headers | {"Accept": accept})
        answer = mine.connection.getresponse()
        return answer.status, answer.read()

    return ask


def _connected(host: str, port: int | None, trust: ssl.SSLContext | None) -> HTTPConnection:
    connect, read = TIMEOUT_SECONDS
    if trust:
        connection: HTTPConnection = HTTPSConnection(host, port, timeout=connect, context=trust)
    else:
        connection = HTTPConnection(host, port, connect)
    connection.connect()
    connection.sock.settimeout(read)
    return connection


def _contents(kubeconfig: str | None) -> list[tuple[Mapping[str, Any], Path]]:
    """Each kubeconfig, and the folder that its paths are relative to."""
    if kubeconfig:
        return [(parsed(kubeconfig, "modelserve:kubeconfig"), Path())]
    return [(parsed(file.read_text(), str(file)), file.parent) for file in kubeconfig_files() if file.is_file()]


def _entry(files: Sequence[tuple[Mapping[str, Any], Path]], kind: str, name: str) -> tuple[Mapping[str, Any], Path]:
    """The first entry of this name, and its file's folder. Raises LookupError."""
    for content, folder in files:
        for entry in content.get(f"{kind}s") or []:
            if entry["name"] == name:
                return entry[kind] or {}, folder
    raise LookupError(name)


def _trust(cluster: Mapping[str, Any], place: Path, user: Mapping[str, Any], users_place: Path) -> ssl.SSLContext:
    authority = _content(cluster, "certificate-authority", place)
    trust = ssl.create_default_context(cadata=authority.decode() if authority else None)
    # Python 3.13 checks an authority more strictly than kubectl, and older clusters' authorities fail that check.
    trust.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if cluster.get("insecure-skip-tls-verify"):
        trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    certificate, key = (_content(user, name, users_place) for name in ("client-certificate", "client-key"))
    if certificate and key:
        # Python loads them only from files; nobody else can read this one, and it is deleted at once.
        with tempfile.NamedTemporaryFile() as file:
            file.write(certificate + b"\n" + key)
            file.flush()
            trust.load_cert_chain(file.name)
    return trust


def _content(entry: Mapping[str, Any], key: str, folder: Path) -> bytes | None:
    if data := entry.get(f"{key}-data"):
        return base64.b64decode(data)
    return (folder / entry[key]).read_bytes() if entry.get(key) else None


def _token(user: Mapping[str, Any], folder: Path) -> str | None:
    return (folder / user["tokenFile"]).read_text().strip() if user.get("tokenFile") else user.get("token")


def _proxy_names() -> list[str]:
    return [spelt for name in _PROXIES for spelt in (name, name.upper())]


def _by_library(context: str, kubeconfig: str | None) -> _Ask:
    from watch import client

    failures = client.errors()
    try:
        api = client.api_client(context, kubeconfig)
    except failures as error:
        raise UnansweredError(f"its kubeconfig is of no use: {type(error).__name__}") from None

    def ask(path: str, accept: str) -> tuple[int, bytes]:
        headers = {"Accept": accept}
        api.update_params_for_auth(headers, [], ["BearerToken"], path, "GET", None)
        try:
            answer = api.rest_client.request("GET", api.configuration.host + path, headers=headers)
            return answer.status, answer.read() or b""
        except failures as error:
            status = getattr(error, "status", None)
            raise UnansweredError(getattr(error, "reason", None) or type(error).__name__, status) from None

    return ask
