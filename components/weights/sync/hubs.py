"""The model hubs: a repository's own list of files, with sizes and hashes, and where each is fetched from.

Two protocols, ModelScope's and Hugging Face's; mirrors speak the latter. Where their shapes come from stands in
planning/catalog/sync.json. Fetches no file.
"""

from __future__ import annotations

import http.client
import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from .manifest import MANIFEST, File
from .retries import Fatal, Passing
from .tool import Rclone, ToolFailed

_SECONDS = 60
_FILE_LISTS_PAGES = 1000


class _Stay(urllib.request.HTTPRedirectHandler):
    """Leaves a redirect to whoever asked."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Hub:
    """One repository at one revision on one hub. `kind` is modelscope or huggingface; `token` may be empty."""

    called = "the hub"

    def __init__(self, kind: str, url: str, repository: str, revision: str, token: str = "") -> None:
        self.kind, self.url, self.repository, self.revision = kind, url.rstrip("/"), repository, revision
        self._token = token

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, which never changes."""
        return re.fullmatch(r"[0-9a-f]{40}", self.revision) is not None

    @property
    def header(self) -> str:
        """The header, `name: value`, that a private repository wants to see; empty without a token.

        Never to be sent on to where a redirect leads.
        """
        if not self._token:
            return ""
        if self.kind == "modelscope":
            return f"Cookie: m_session_id={self._token}"
        return f"Authorization: Bearer {self._token}"

    def address(self, path: str) -> str:
        """The URL of a file."""
        parts = [self.repository, "resolve", urllib.parse.quote(self.revision, safe=""), urllib.parse.quote(path)]
        return "/".join([self.url, *(["models"] if self.kind == "modelscope" else []), *parts])

    def files(self) -> list[File]:
        """Every file of the repository, git's own left out. Raises Fatal and Passing."""
        listed = self._modelscope_files() if self.kind == "modelscope" else self._huggingface_files()
        files = [file for file in listed if file.path.split("/")[0] != ".git" and file.path != MANIFEST]
        for file in files:
            if file.path.startswith("/") or {"", ".", ".."} & set(file.path.split("/")):
                raise Fatal(f"{self.url} lists a file called {file.path!r}, which is no path: take another source")
        if not files:
            raise Fatal(f"{self.repository} has no files at revision {self.revision}: check both")
        return files

    def fetch(self, rclone: Rclone, path: str, place: Path) -> None:
        """Brings a file. Raises ToolFailed."""
        # Of all ways to hand rclone a header, the one that reaches no argument list, and no host behind a redirect.
        environment = {"RCLONE_HEADER_DOWNLOAD": self.header} if self.header else {}
        rclone.run("copyurl", self.address(path), str(place), environment=environment)

    def explain(self, failure: ToolFailed, path: str) -> Exception:
        """What to make of a fetch that failed. Raises Fatal or Passing when the hub itself says."""
        self.ask(path)
        return Passing(str(failure))

    def ask(self, path: str) -> None:
        """Asks for a file's first byte, to hear why it cannot be had. Raises Fatal or Passing when it cannot."""
        request = self._request(self.address(path))
        request.add_header("Range", "bytes=0-0")
        self._open(request, f"{path} of {self.repository}", urllib.request.build_opener(_Stay))

    def _modelscope_files(self) -> list[File]:
        query = urllib.parse.urlencode({"Revision": self.revision, "Recursive": "true"})
        answer, _ = self._json(f"{self.url}/api/v1/models/{self.repository}/repo/files?{query}")
        if not answer.get("Success"):
            raise Fatal(f"{self.url} on {self.repository}: {answer.get('Message')}: check repository and revision")
        return [
            File(each["Path"], each["Size"], each.get("Sha256") or None)
            for each in answer["Data"]["Files"]
            if each["Type"] != "tree"
        ]

    def _huggingface_files(self) -> list[File]:
        revision = urllib.parse.quote(self.revision, safe="")
        url = f"{self.url}/api/models/{self.repository}/tree/{revision}?recursive=true"
        found: list[File] = []
        for _ in range(_FILE_LISTS_PAGES):
            page, link = self._json(url)
            for each in page:
                if each["type"] == "file":
                    large = each.get("lfs")
                    size = large["size"] if large else each["size"]
                    found.append(File(each["path"], size, *((large["oid"], None) if large else (None, each["oid"]))))
            following = re.search(r'<([^>]+)>\s*;\s*rel="next"', link)
            if following is None:
                return found
            # A mirror may hand out its original's address; the path is what counts.
            parts = urllib.parse.urlsplit(following.group(1))
            url = f"{self.url}/api/{parts.path.partition('/api/')[2]}?{parts.query}"
        raise Fatal(f"{self.url} lists {self.repository} without an end: take another source")

    def _request(self, url: str) -> urllib.request.Request:
        request = urllib.request.Request(url)
        if self.header:
            request.add_unredirected_header(*self.header.split(": ", 1))
        return request

    def _json(self, url: str) -> tuple[Any, str]:
        """A decoded answer, and its Link header."""
        opener = urllib.request.build_opener()
        body, headers = self._open(self._request(url), f"{self.repository} at revision {self.revision}", opener)
        try:
            return json.loads(body), headers.get("Link") or ""
        except ValueError:
            raise Passing(f"{self.url} answers something that is no JSON") from None

    def _open(
        self, request: urllib.request.Request, what: str, opener: urllib.request.OpenerDirector
    ) -> tuple[bytes, Mapping[str, str]]:
        try:
            with opener.open(request, timeout=_SECONDS) as answer:
                # A server may answer a request for one byte with the whole file.
                return (answer.read(1) if request.has_header("Range") else answer.read()), answer.headers
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 400:
                return b"", error.headers
            raise self._refusal(error, what) from None
        except (OSError, http.client.HTTPException) as error:
            why = error.reason if isinstance(error, urllib.error.URLError) else error
            raise Passing(f"{self.url} cannot be reached: {why or type(error).__name__}") from None

    def _refusal(self, error: urllib.error.HTTPError, what: str) -> Exception:
        if error.code == 429 or error.code >= 500:
            return Passing(f"{self.url} answers {error.code}", _retry_after(error.headers.get("Retry-After")))
        if error.code in (401, 403):
            remedy = "the token may not read it" if self._token else "a private or gated one needs the hub's token"
            return Fatal(f"{self.url} refuses {what} ({error.code}): check the repository's name; {remedy}")
        if error.code == 404:
            return Fatal(f"{self.url} does not know {what} (404): check the repository's name and the revision")
        return Fatal(f"{self.url} answers {error.code} to {what}: take another source")


def _retry_after(text: str | None) -> float | None:
    """Seconds out of a Retry-After header, which names seconds or a date; None without one."""
    if not text:
        return None
    if text.strip().isdigit():
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    return max(at.timestamp() - time.time(), 0.0)
