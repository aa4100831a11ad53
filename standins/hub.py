"""A model hub on loopback: speaks ModelScope's and Hugging Face's HTTP, with lists, files, ranges, redirects, faults.

Serves given files or, for any requested repository, a tiny model generated from its name. Owns no process: the server
runs as threads of the process that starts it.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
import socket
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

Files = Mapping[str, bytes]

_SHARDS, _SHARD_BYTES = 4, 100 << 10
_PAGE = 3
_PIECE = 16 << 10


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose path matches `path`.

    One of: `status` with `retry_after` seconds; `cut`: the connection closes cleanly after so many bytes of the body;
    `reset`: it is reset there; `hold`: it stalls there until `released`; `corrupt`: one byte is wrong.
    """

    path: str
    times: int = 1
    status: int = 0
    retry_after: int | None = None
    cut: int | None = None
    reset: int | None = None
    hold: int | None = None
    corrupt: bool = False
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Seen:
    """One answered request: path without query, status, the credentials it showed, and body bytes sent."""

    path: str
    status: int
    credentials: str
    sent: int


def made_up(repository: str) -> dict[str, bytes]:
    """The files of a tiny model, always the same for a given name. Among them are a `.git`, as in a clone, and copies
    that no engine reads, as https://discuss.huggingface.co/t/173329 lists them for gpt-oss."""
    chance = random.Random(repository)
    names = [f"model-{i:05d}-of-{_SHARDS:05d}.safetensors" for i in range(1, _SHARDS + 1)]
    tensors = {f"model.layers.{i}.mlp.up_proj.weight": name for i, name in enumerate(names)}
    index = {"metadata": {"total_size": _SHARDS * _SHARD_BYTES}, "weight_map": tensors}
    return {
        ".git/lfs/objects/aa/bb/aabb": chance.randbytes(_SHARD_BYTES),
        ".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n",
        "README.md": f"# {repository}\n".encode(),
        "config.json": json.dumps({"architectures": ["Rehearsal"], "_name_or_path": repository}).encode(),
        "figures/benchmark.jpg": chance.randbytes(2000),
        "model.safetensors.index.json": json.dumps(index).encode(),
        **{name: _shard(tensor, chance) for tensor, name in tensors.items()},
        "metal/model.bin": chance.randbytes(_SHARD_BYTES),
        "original/config.json": b"{}",
        "original/model.safetensors": chance.randbytes(_SHARD_BYTES),
    }


def safetensors(tensors: Mapping[str, Sequence[int]], fill: bytes = b"", *, dtype: str = "BF16") -> bytes:
    """A file of 16-bit tensors with these names and shapes, as https://github.com/huggingface/safetensors describes it.
    Without `fill`, its data are zeros."""
    header, at = {}, 0
    for name, shape in tensors.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": [*shape], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + (fill or bytes(at))


def _shard(tensor: str, chance: random.Random) -> bytes:
    """A file of about _SHARD_BYTES with one tensor."""
    rows = _SHARD_BYTES // 2048
    return safetensors({tensor: (rows, 1024)}, chance.randbytes(2048 * rows))


class Hub:
    """A running hub. `repositories` maps `owner/name` to files; without it, the hub generates every repository."""

    def __init__(self, repositories: Mapping[str, Files] | None = None, token: str = "") -> None:
        """With `token`, the hub answers only requests that carry it."""
        self._repositories, self.token = repositories, token
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self._lock = threading.Lock()
        hub = self

        class Handler(_Handler):
            owner = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        # A test's hub that still holds a request back must still be able to stop.
        self._server.block_on_close = False
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        """Its port."""
        return self._server.server_address[1]

    def stop(self) -> None:
        """Stops the hub and releases the requests that it holds back."""
        for fault in self.faults:
            fault.released.set()
        self._server.shutdown()
        self._server.server_close()

    def files(self, repository: str) -> Files | None:
        """The files of a repository, or None if no repository has that name."""
        return made_up(repository) if self._repositories is None else self._repositories.get(repository)

    def fault(self, path: str) -> Fault | None:
        """The fault that applies to a request for `path` now."""
        with self._lock:
            for fault in self.faults:
                if fault.times > 0 and (fault.status or path.startswith("/cdn/")) and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None

    def fetched(self) -> list[str]:
        """Names of the files of which bytes were sent, one entry per request."""
        return [unquote(seen.path.partition("/cdn/")[2]) for seen in self.seen if "/cdn/" in seen.path and seen.sent]


class _Handler(BaseHTTPRequestHandler):
    owner: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), {key: values[0] for key, values in parse_qs(parts.query).items()}
        fault = self.owner.fault(path)
        if fault and fault.status:
            retry = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            return self._answer(fault.status, b"", retry)
        if path.startswith("/cdn/"):
            return self._file(path, fault)
        if self.owner.token and self._credentials() not in _shown(self.owner.token):
            return self._answer(401, b"")
        for pattern, answer in _ROUTES:
            if match := re.fullmatch(pattern, path):
                files = self.owner.files(match.group("repository"))
                if files is None:
                    return self._json({"Code": 10010205001, "Message": "not found", "Success": False}, 404)
                return answer(self, files, match.groupdict(), query)
        return self._answer(404, b"")

    def _modelscope_list(self, files: Files, _: Mapping[str, str], __: Mapping[str, str]) -> None:
        blobs = [
            {"Name": path.split("/")[-1], "Path": path, "Size": len(data), "Sha256": _sha256(data), "Type": "blob"}
            for path, data in files.items()
        ]
        trees = [{"Name": path, "Path": path, "Size": 0, "Sha256": "", "Type": "tree"} for path in _folders(files)]
        self._json({"Code": 200, "Success": True, "Message": "", "Data": {"Files": [*trees, *blobs]}})

    def _huggingface_list(self, files: Files, found: Mapping[str, str], query: Mapping[str, str]) -> None:
        entries: list[dict[str, Any]] = [{"type": "directory", "path": path, "size": 0} for path in _folders(files)]
        for path, data in files.items():
            entry = {"type": "file", "path": path, "size": len(data), "oid": _blob(data)}
            if path.endswith(".safetensors"):
                entry["lfs"] = {"oid": _sha256(data), "size": len(data), "pointerSize": 135}
            entries.append(entry)
        start = int(query.get("cursor", "0"))
        here = f"{self.owner.url}/api/models/{found['repository']}/tree/{quote(found['revision'], safe='')}"
        following = f'<{here}?recursive=true&cursor={start + _PAGE}>; rel="next"'
        self._json(entries[start : start + _PAGE], headers={"Link": following} if entries[start + _PAGE :] else {})

    def _resolve(self, files: Files, found: Mapping[str, str], _: Mapping[str, str]) -> None:
        if found["path"] not in files:
            return self._answer(404, b"")
        # Redirect to another host name, so that a test can see whether the client sends credentials there.
        address = f"http://localhost:{self.owner.port}/cdn/{found['repository']}//{quote(found['path'])}"
        return self._answer(302, b"", {"Location": address})

    def _file(self, path: str, fault: Fault | None) -> None:
        repository, _, name = path.removeprefix("/cdn/").partition("//")
        if self._credentials():
            # As S3 does for a signed URL.
            return self._answer(400, b"only one auth mechanism allowed")
        data = (self.owner.files(repository) or {})[name]
        if fault and fault.corrupt:
            data = bytes([data[0] ^ 1]) + data[1:]
        status, headers = 200, {"Accept-Ranges": "bytes"}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(match[1]), min(int(match[2] or len(data)), len(data) - 1)
            status, headers["Content-Range"] = 206, f"bytes {first}-{last}/{len(data)}"
            data = data[first : last + 1]
        return self._answer(status, data, headers, fault)

    def _credentials(self) -> str:
        return self.headers.get("Authorization") or self.headers.get("Cookie") or ""

    def _json(self, body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self._answer(status, json.dumps(body).encode(), {"Content-Type": "application/json"} | dict(headers or {}))

    def _answer(
        self, status: int, body: bytes, headers: Mapping[str, str] | None = None, fault: Fault | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        path, sent = urlsplit(self.path).path, 0
        try:
            sent = self._send(body, fault)
        finally:
            self.owner.seen.append(Seen(path, status, self._credentials(), sent))

    def _send(self, body: bytes, fault: Fault | None) -> int:
        stops = [at for at in (fault.cut, fault.reset, fault.hold) if at is not None] if fault else []
        end = min([len(body), *stops])
        for start in range(0, end, _PIECE):
            self.wfile.write(body[start : min(start + _PIECE, end)])
        if fault and stops:
            self.wfile.flush()
            fault.reached.set()
            self.close_connection = True
            if fault.hold is not None:
                fault.released.wait()
            if fault.reset is not None:
                # Closing with a linger time of zero sends a reset instead of a clean close.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
        return end

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, ValueError, OSError):
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        return


_Answer = Callable[[_Handler, Files, Mapping[str, str], Mapping[str, str]], None]
_REPOSITORY = r"(?P<repository>[^/]+/[^/]+)"
_ROUTES: tuple[tuple[str, _Answer], ...] = (
    (rf"/api/v1/models/{_REPOSITORY}/repo/files", _Handler._modelscope_list),
    (rf"/api/models/{_REPOSITORY}/tree/(?P<revision>.+)", _Handler._huggingface_list),
    (rf"(?:/models)?/{_REPOSITORY}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler._resolve),
)


def _shown(token: str) -> tuple[str, str]:
    """The two forms in which Hugging Face and ModelScope expect a token."""
    return f"Bearer {token}", f"m_session_id={token}"


def _folders(files: Files) -> list[str]:
    return sorted({path.rpartition("/")[0] for path in files if "/" in path})


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
