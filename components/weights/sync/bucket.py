"""One prefix of a bucket, through rclone: what is there, and putting, reading and removing single objects.

A file that was put here carries its hashes as the object's metadata: an object with the right size and the right hash
in its metadata is a file that arrived whole, whoever died meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import re
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .manifest import MANIFEST, File
from .retries import Fatal, Passing
from .tool import Rclone, ToolFailed

_DIRECTORY_NOT_FOUND = 3
_CHUNK = 1 << 20
# Memory of one upload is chunk x concurrency; 10,000 chunks, the most that S3 takes, hold 312 GiB.
_UPLOAD = ("--s3-chunk-size=32M", "--s3-upload-cutoff=32M", "--s3-upload-concurrency=4", "--ignore-times")
_REFUSED = ("AccessDenied", "SignatureDoesNotMatch", "InvalidAccessKeyId", "InvalidSecurity", "StatusCode: 403")


@dataclass(frozen=True)
class Digest:
    """What some bytes are: size and hashes, in hexadecimal."""

    size: int
    sha256: str
    git_sha1: str

    def is_of(self, file: File) -> bool:
        """Whether these are the file's bytes, as far as the hub's list tells."""
        return self.size == file.size and file.sha256 in (None, self.sha256) and file.git_sha1 in (None, self.git_sha1)


def digest(pieces: Iterable[bytes], size: int) -> Digest:
    """The digest of bytes that should be `size` long, which git's hash has to know beforehand."""
    sha256, git_sha1, read = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size), 0
    for piece in pieces:
        read += len(piece)
        sha256.update(piece)
        git_sha1.update(piece)
    return Digest(read, sha256.hexdigest(), git_sha1.hexdigest())


def digest_file(file: Path, size: int) -> Digest:
    """The digest of a file on disk."""
    with file.open("rb") as opened:
        return digest(iter(lambda: opened.read(_CHUNK), b""), size)


def remote_environment(endpoint: str) -> dict[str, str]:
    """What tells rclone about the bucket's service, for the remote `store:`."""
    url = endpoint if "://" in endpoint else f"https://{endpoint}"
    settings = {
        "TYPE": "s3",
        "ENDPOINT": url,
        # The key may know nothing of the bucket but this prefix.
        "NO_CHECK_BUCKET": "true",
        **_dialect(urllib.parse.urlsplit(url).hostname or ""),
    }
    return _of_remote(settings)


def key_environment(key_id: str, secret: str, token: str = "") -> dict[str, str]:
    """What tells rclone the key of that remote, and its token where the key is lent."""
    return _of_remote(
        {"ACCESS_KEY_ID": key_id, "SECRET_ACCESS_KEY": secret, **({"SESSION_TOKEN": token} if token else {})}
    )


def _of_remote(settings: Mapping[str, str]) -> dict[str, str]:
    return {f"RCLONE_CONFIG_STORE_{name}": value for name, value in settings.items()}


def _dialect(host: str) -> dict[str, str]:
    """How the service at `host` differs from plain S3, in rclone's words."""
    if host.endswith(".aliyuncs.com"):
        return {"PROVIDER": "Alibaba"}
    if volcengine := re.fullmatch(r"tos-s3-([a-z0-9-]+)\.i?volces\.com", host):
        # Its buckets are hosts only, and it signs with its own region; rclone has no name for it.
        return {"PROVIDER": "Other", "FORCE_PATH_STYLE": "false", "REGION": volcengine[1]}
    if amazon := re.fullmatch(r"s3[.-]([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?", host):
        return {"PROVIDER": "AWS", "REGION": amazon[1]}
    return {"PROVIDER": "GCS" if host == "storage.googleapis.com" else "Other"}


class Bucket:
    """The objects of `bucket` under `prefix`. Every method raises Fatal and Passing.

    `needs` is what the key has to be allowed, for whoever reads that it is not.
    """

    called = "the bucket"

    def __init__(self, rclone: Rclone, bucket: str, prefix: str, needs: str = "list, read and write") -> None:
        self._rclone, self._bucket, self._prefix, self._needs = rclone, bucket, prefix, needs
        self._root = f"store:{bucket}/{prefix}/"

    def sizes(self) -> dict[str, int]:
        """Path below the prefix to bytes, of every object."""
        return {each["Path"]: each["Size"] for each in self._list()}

    def hashes(self) -> dict[str, Mapping[str, str]]:
        """Path to metadata, of every object: a request for each."""
        return {each["Path"]: each.get("Metadata") or {} for each in self._list("--metadata")}

    def put(self, source: Path, path: str, metadata: Mapping[str, str]) -> None:
        """Uploads a file; rclone compares size and MD5."""
        sets = [f"--metadata-set={name}={value}" for name, value in metadata.items()]
        self._call("copyto", str(source), f"{self._root}{path}", "--metadata", *sets, *_UPLOAD)

    def digest(self, path: str, size: int) -> Digest:
        """Reads an object back."""
        try:
            return digest(self._rclone.stream("cat", f"{self._root}{path}"), size)
        except ToolFailed as failure:
            raise self.explain(failure) from None

    def manifest(self) -> dict[str, Any]:
        """The manifest object's content; empty when it is not one of ours."""
        try:
            found = json.loads(self._call("cat", f"{self._root}{MANIFEST}"))
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def make_room(self, missing: Sequence[File]) -> None:
        """A bucket takes whatever comes."""

    def address(self, path: str) -> str:
        """An object as rclone names it."""
        return f"{self._root}{path}"

    def remove(self, path: str) -> None:
        """Deletes one object."""
        self._call("deletefile", f"{self._root}{path}")

    def _list(self, *flags: str) -> list[dict[str, Any]]:
        try:
            flags = ("--recursive", "--files-only", "--no-modtime", "--no-mimetype", *flags)
            return json.loads(self._rclone.run("lsjson", self._root, *flags))
        except ToolFailed as failure:
            if failure.code == _DIRECTORY_NOT_FOUND:
                return []
            raise self.explain(failure) from None

    def _call(self, *arguments: str) -> bytes:
        try:
            return self._rclone.run(*arguments)
        except ToolFailed as failure:
            raise self.explain(failure) from None

    def explain(self, failure: ToolFailed) -> Exception:
        """What to make of a run that failed."""
        text = str(failure)
        if "TokenExpired" in text:
            return Passing(f"bucket {self._bucket}: {text}")  # a run that outlived what it was lent; the next gets more
        if any(sign in text for sign in _REFUSED):
            return Fatal(
                f"bucket {self._bucket} refuses the access key ({text}): give a key that may {self._needs} "
                f"{self._prefix}/*"
            )
        if "NoSuchBucket" in text:
            return Fatal(f"there is no bucket {self._bucket} at this endpoint: check name and region")
        return Passing(f"bucket {self._bucket}: {text}")
