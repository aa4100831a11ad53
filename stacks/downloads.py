"""Files that others publish: fetched once, kept on this machine, and pinned.

A release's files do not change; one that does was replaced, or changed on its way. So the first fetch pins a file's
digest in `modelserve.lock.json`, which belongs in version control beside the stack files, and any other content is
refused from then on.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import yaml

from planning.problems import Problem, Refused

_TIMEOUT_SECONDS = (10, 60)  # to connect, and between two pieces of the answer
# https://github.com/helm/helm/blob/v3.18.6/pkg/registry/constants.go
_CHART_LAYER = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
PROJECT = Path(__file__).parent.parent
OWN = ".modelserve"
"""The folder below the project for what the program writes for the plugins that it runs."""
LOCK = PROJECT / "modelserve.lock.json"


def cache(kind: str) -> Path:
    """The folder with fetched files of a kind, for all projects of this user."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "modelserve" / kind


class DownloadError(Refused):
    """A file cannot be fetched, or has changed; the problem's key is the address."""

    def __init__(self, address: str, why: str, instead: str) -> None:
        super().__init__(Problem(address, "", why, instead))


@dataclass(frozen=True)
class Pins:
    """The digests in a lock file; a missing file has none yet."""

    file: Path = LOCK

    def check(self, address: str, content: bytes, advice: str) -> None:
        """Pins the digest at the first fetch; raises DownloadError if the content is another one later."""
        digest = _digest(content)
        known = self._read(address).get(address)
        if known is None:
            self._add(address, digest, advice)
        elif known != digest:
            why = f"is {digest}, but {self.file.name} says {known}: it has changed"
            raise DownloadError(address, why, f"if its publisher did that, delete its line there; {advice}")

    def _add(self, address: str, digest: str, advice: str) -> None:
        try:
            # Previews of several stacks may write at the same time.
            guard = self.file.parent / OWN / f"{self.file.name}.guard"
            guard.parent.mkdir(exist_ok=True)
            with guard.open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                pins = self._read(address) | {address: digest}
                write(self.file, (json.dumps(pins, indent=2, sort_keys=True) + "\n").encode())
        except OSError as error:
            why = f"its digest cannot be written to {self.file} ({error.strerror})"
            raise DownloadError(address, why, advice) from None

    def _read(self, address: str) -> dict[str, str]:
        try:
            return json.loads(self.file.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError:
            raise DownloadError(address, f"{self.file} is not JSON", "restore it from version control") from None


def file(url: str, cache: Path, pins: Pins, advice: str, check: Callable[[bytes], object]) -> bytes:
    """The content of a file at an https URL. A fetched file for which `check` raises is not kept."""
    parts = urlsplit(url)
    path = parts.path.strip("/")
    if parts.scheme != "https" or not parts.hostname or not path or ".." in path.split("/"):
        raise DownloadError(url, "is not the https URL of a file", advice)
    return _kept(url, cache / parts.netloc / path, pins, advice, lambda: _fetched(url, advice), check)


def chart(chart: str, repo: str | None, version: str, cache: Path, pins: Pins, advice: str) -> bytes:
    """The archive of a chart: by its name in an https repository, by its oci:// address in a registry, or at its own
    https URL."""
    fetch: Callable[[str, str], bytes]
    if repo:
        address, fetch = f"{repo.rstrip('/')}/{chart}:{version}", _from_repository
    elif chart.startswith("oci://"):
        address, fetch = f"{chart}:{version}", _pulled
    else:
        address, fetch = chart, _fetched

    def is_archive(content: bytes) -> None:
        # Do not keep the error page of a proxy for the next run.
        try:
            tarfile.open(fileobj=io.BytesIO(content)).close()
        except tarfile.TarError:
            raise DownloadError(address, "what was fetched is not an archive", advice) from None

    name = address.partition("://")[2].removesuffix(".tgz").replace(":", "-")
    return _kept(address, cache / f"{name}.tgz", pins, advice, lambda: fetch(address, advice), is_archive)


def write(path: Path, content: bytes) -> None:
    """Writes all of it or nothing: two runs may write at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as fresh:
        fresh.write(content)
    os.chmod(fresh.name, 0o644)
    os.replace(fresh.name, path)


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _kept(
    address: str,
    place: Path,
    pins: Pins,
    advice: str,
    fetch: Callable[[], bytes],
    check: Callable[[bytes], object],
) -> bytes:
    if place.is_file():
        content = place.read_bytes()
        pins.check(address, content, f"{advice}; or delete {place}, to fetch it again")
        return content
    content = fetch()
    check(content)
    pins.check(address, content, advice)
    write(place, content)
    return content


def _fetched(url: str, advice: str) -> bytes:
    import requests  # the import costs as much as a whole preview, and only the first fetch needs it

    try:
        answer = requests.get(url, timeout=_TIMEOUT_SECONDS)
        answer.raise_for_status()
    except requests.HTTPError as error:
        raise DownloadError(url, f"the server answers {error.response.status_code}", advice) from None
    except requests.RequestException as error:
        raise DownloadError(url, f"cannot be fetched ({type(error).__name__})", advice) from None
    return answer.content


def _from_repository(address: str, advice: str) -> bytes:
    """As Helm does it: the index of a repository says where each version of each chart is."""
    chart_address, _, version = address.rpartition(":")
    repo, _, name = chart_address.rpartition("/")
    index = f"{repo}/index.yaml"
    try:
        entries = yaml.load(_fetched(index, advice), getattr(yaml, "CSafeLoader", yaml.SafeLoader))["entries"]
        listed = {entry["version"].removeprefix("v"): entry["urls"][0] for entry in entries.get(name, [])}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, IndexError):
        raise DownloadError(index, "is not the index of a chart repository", advice) from None
    if version.removeprefix("v") not in listed:
        raise DownloadError(address, "the repository has no such chart", advice)
    return _fetched(urljoin(index, listed[version.removeprefix("v")]), advice)


def _pulled(address: str, advice: str) -> bytes:
    from oras.provider import Registry

    class Impatient(Registry):
        """Without the library's two minutes of silent retries."""

        do_request = Registry.do_request.__wrapped__

    target = address.removeprefix("oci://").replace("+", "_")  # a tag cannot have a plus, and Helm replaces it so
    try:
        registry = Impatient(hostname=target.partition("/")[0])
        registry.session.request = functools.partial(registry.session.request, timeout=_TIMEOUT_SECONDS)
        container = registry.get_container(target)
        layers = [each for each in registry.get_manifest(container)["layers"] if each["mediaType"] == _CHART_LAYER]
        with tempfile.TemporaryDirectory() as folder:
            registry.download_blob(container, layers[0]["digest"], f"{folder}/chart")
            content = Path(folder, "chart").read_bytes()
    except Exception as error:  # the library raises its own errors, those of requests, and ValueError
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DownloadError(address, f"cannot be pulled ({lines[0][:120]})", advice) from None
    if _digest(content) != layers[0]["digest"]:
        raise DownloadError(address, "arrived damaged: its digest is not the one that the registry gives", advice)
    return content
