"""What stands between the network and vLLM in its own process, and how an engine's pod ends without cutting answers.

Mounted beside the launch script and given to `vllm serve --middleware modelserve_guard.Guard`: a pure ASGI class, for
vLLM asks for its key on some prefixes only, and answers the rest to anybody. It lets through the methods and paths of
MODELSERVE_PATHS, asks for VLLM_API_KEY (where there is one) on all but health, and touches nothing else: what an answer
sends passes as it comes. An error's head waits for its body, and the kernel is told to send both at once: AIBrix's
gateway plugin loses bodies that come later, and uvicorn writes head and body apart.

As a program it is the preStop hook: `drain` on who serves, `await-leader` on the other pods. It runs in the
engine's image: one file, the standard library, Python 3.8.
"""

import contextlib
import hashlib
import hmac
import os
import re
import socket
import sys
import time
import urllib.error
import urllib.request

DRAIN_FILE = os.environ.get("MODELSERVE_DRAIN_FILE", "/dev/shm/modelserve-drain")
LEADER_FILE = os.environ.get("MODELSERVE_LEADER_FILE", "/dev/shm/modelserve-leader")
OPEN_PATH = "/modelserve/open"
# Asked by the kubelet and load balancers, which have no key.
_HEALTH = ("/health", "/ping")
_METRICS = "/metrics"
# A proxy adds at least one of them, and a client cannot take it off again. Scrapers inside a cluster go straight.
_BY_PROXY = re.compile(rb"x-forwarded-.*|x-envoy-.*|x-real-ip|forwarded|via")
_LOOPBACK = ("127.0.0.1", "::1")
_UNAUTHORIZED = b'{"error":"Unauthorized"}'
_NOT_FOUND = b'{"detail":"Not Found"}'
_TOO_LARGE = b'{"error":{"message":"The body is larger than %d bytes.","type":"BadRequestError","code":413}}'
_ENDING = (
    b'{"error":{"message":"This replica is about to end and takes no new requests: ask again.",'
    b'"type":"ServiceUnavailable","code":503}}'
)


class TooLarge(Exception):
    """A body beyond the limit."""


class Guard:
    """The ASGI middleware."""

    def __init__(self, app):
        """Reads its environment once, as vLLM reads its key. An earlier container of the pod may have drained."""
        words = os.environ.get("MODELSERVE_PATHS", "").split()
        self.app = app
        self.open = 0
        self._allowed = {}
        for method, path in zip(words[::2], words[1::2]):  # noqa: B905 - 3.8 has no strict
            known = re.compile(re.sub(r"\\\{[^/]*\\\}", "[^/]+", re.escape(path)))
            self._allowed.setdefault(method, []).append(known)
        key = os.environ.get("VLLM_API_KEY", "")
        self._key = _digest(key.encode()) if key else None
        self._open_metrics = os.environ.get("MODELSERVE_METRICS") != "key"
        self._most = int(os.environ.get("MODELSERVE_BODY_BYTES", "67108864"))
        if os.path.exists(DRAIN_FILE):
            os.unlink(DRAIN_FILE)

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        if self._counts(scope):
            return await _answer(send, 200, str(self.open).encode(), b"text/plain")
        send = _joined(send, _connection(receive))
        works = not _is_health(scope) and scope["path"] != _METRICS
        refusal = self._refusal(scope) or (_ended() if works else None)
        if refusal:
            return await _refuse(send, *refusal)
        if not works:
            return await self.app(scope, receive, send)
        self.open += 1
        try:
            received = await self._whole(scope, receive)
            await self.app(scope, received, send)
        except TooLarge:
            await _refuse(send, 413, _TOO_LARGE % self._most)
        finally:
            self.open -= 1

    def _refusal(self, scope):
        """What a request is refused with: status and body; None for one that may pass."""
        method, path = scope["method"], scope["path"]
        if not self._listed(scope, method, path):
            return 404, _NOT_FOUND
        if _is_health(scope) or self._key is None or _is_preflight(scope):
            return None
        if path == _METRICS and self._open_metrics:
            return None
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(_digest(token), self._key):
            return 401, _UNAUTHORIZED
        return None

    def _listed(self, scope, method, path):
        # Who spells a path otherwise than it is listed means to get past somebody.
        raw = scope.get("raw_path")
        if raw is not None and raw.partition(b"?")[0] != path.encode():
            return False
        if path == _METRICS and _proxied(scope):
            return False
        if method == "OPTIONS" and _is_preflight(scope):
            return any(known.fullmatch(path) for each in self._allowed.values() for known in each)
        return any(known.fullmatch(path) for known in self._allowed.get(method, ()))

    def _counts(self, scope):
        """Whether the pod's own preStop hook asks how many answers are under way."""
        near = scope.get("client") and scope["client"][0] in _LOOPBACK
        return scope["path"] == OPEN_PATH and near and not _proxied(scope)

    async def _whole(self, scope, receive):
        """A `receive` with the request's body, which is read here to its end: inside vLLM a refusal would be lost."""
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > self._most:
                raise TooLarge
        parts, size = [], 0
        while not parts or parts[-1].get("more_body"):
            part = await receive()
            size += len(part.get("body", b""))
            if size > self._most:
                raise TooLarge
            parts.append(part)
        parts.reverse()

        async def replay():
            return parts.pop() if parts else await receive()

        return replay


def _joined(send, connection):
    """A `send` that gives an error's head away together with its body, in one piece."""
    held = []

    async def joining(message):
        if message["type"] == "http.response.start" and message["status"] >= 400:
            held.append(message)
        elif held:
            with _Corked(connection):
                await send(held.pop())
                await send(message)
        else:
            await send(message)

    return joining


def _connection(receive):
    """The transport below a request: uvicorn's own `receive` is a method of what writes to it. None below others."""
    return getattr(getattr(receive, "__self__", None), "transport", None)


class _Corked:
    """What is written to a connection meanwhile leaves when it is over. Linux alone can do that, and engines run there.

    By another descriptor of the socket: the transport may have let go of its own by then.
    """

    def __init__(self, transport):
        self._socket = None
        known = transport and transport.get_extra_info("socket")
        if known and hasattr(socket, "TCP_CORK") and known.family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError):  # the client may have gone
                self._socket = socket.socket(fileno=os.dup(known.fileno()))

    def __enter__(self):
        if self._socket:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)

    def __exit__(self, *_):
        if self._socket:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
            self._socket.close()


def _ended():
    """The refusal of new work in a pod that drains; its preStop hook may do no more than leave a file."""
    return (503, _ENDING) if os.path.exists(DRAIN_FILE) else None


async def _refuse(send, status, body):
    more = [(b"connection", b"close")] if status in (413, 503) else []
    more += [(b"retry-after", b"5")] if status == 503 else []
    more += [(b"www-authenticate", b"Bearer")] if status == 401 else []
    await _answer(send, status, body, b"application/json", more)


async def _answer(send, status, body, kind, more=()):
    head = [(b"content-type", kind), (b"content-length", str(len(body)).encode()), *more]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


def _is_health(scope):
    return scope["path"] in _HEALTH


def _is_preflight(scope):
    """Whether a browser asks if it may ask: it cannot send the key with that, and vLLM's CORS layer answers it."""
    names = {name for name, _ in scope["headers"]}
    return scope["method"] == "OPTIONS" and {b"origin", b"access-control-request-method"} <= names


def _proxied(scope):
    return any(_BY_PROXY.fullmatch(name.lower()) for name, _ in scope["headers"])


def _digest(key):
    return hashlib.sha256(key).digest()


def drain():
    """Returns when nothing runs in this pod's engine any more, or the limit is reached; never fails."""
    begun, limit = time.monotonic(), _seconds("MODELSERVE_DRAIN_SECONDS")
    settle = _seconds("MODELSERVE_SETTLE_SECONDS")
    if not _serves():
        return  # it is still starting, or dead: nobody waits for an answer
    # Until every node and proxy knows that the pod is no endpoint any more, requests come and are answered.
    time.sleep(settle)
    with open(DRAIN_FILE, "w"):
        pass
    idle = 0
    while time.monotonic() - begun < settle + limit:
        busy = _busy()
        if busy is None:
            return
        # Twice: a request that has just come in is in no gauge yet.
        idle = 0 if busy else idle + 1
        if idle == 2:
            return
        time.sleep(min(1.0, settle or 1.0))


def await_leader():
    """Returns when the leader that this pod has joined is gone, or the limit is reached.

    Half of the GPUs gone would cut every answer. A pod that has joined nobody has nothing to wait for.
    """
    end = time.monotonic() + _seconds("MODELSERVE_DRAIN_SECONDS") + _seconds("MODELSERVE_SETTLE_SECONDS")
    try:
        with open(LEADER_FILE) as file:
            leader = file.read().strip()
    except OSError:
        return
    missed = 0
    while leader and missed < 2 and time.monotonic() < end:
        try:
            socket.create_connection((leader, int(os.environ["MODELSERVE_JOIN_PORT"])), 5).close()
            missed = 0
        except OSError:
            missed += 1
        time.sleep(1.0)


def _serves():
    for _ in range(3):
        try:
            return _get("/health") is not None
        except urllib.error.HTTPError:
            return False
        except OSError as error:
            if isinstance(getattr(error, "reason", error), ConnectionRefusedError):
                return False
            time.sleep(1.0)
    return False


def _busy():
    """Requests that the engine runs or that wait, by its own gauges and the guard's count; None once it is gone."""
    count = 0.0
    try:
        count += float(_get(OPEN_PATH))
        for line in _get(_METRICS).splitlines():
            if line.startswith(("vllm:num_requests_running", "vllm:num_requests_waiting")):
                count += float(line.rpartition(" ")[2])
        return count
    except urllib.error.HTTPError:
        return count  # an engine may be told to have no gauges
    except OSError as error:
        return None if isinstance(getattr(error, "reason", error), ConnectionRefusedError) else 1.0


def _get(path):
    key = os.environ.get("VLLM_API_KEY", "")
    headers = {"Authorization": "Bearer " + key} if key else {}
    request = urllib.request.Request(
        "http://127.0.0.1:{}{}".format(os.environ["MODELSERVE_PORT"], path), headers=headers
    )
    # Whatever proxy the pod's environment names: this stays in the pod.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=10) as answer:
        return answer.read().decode()


def _seconds(name):
    return float(os.environ.get(name, "0"))


if __name__ == "__main__":
    {"drain": drain, "await-leader": await_leader}[sys.argv[1]]()
