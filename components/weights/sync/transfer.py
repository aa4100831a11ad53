"""The sync itself: what is missing, fetched side by side through a scratch folder, checked, put into the target.

Source is a hub or a bucket, target a bucket or a folder. The order makes it safe to be killed at any byte: a file
counts as arrived by what was noted with it, the manifest goes away before the first change and comes back after the
last check.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from .bucket import Digest, digest_file
from .manifest import MANIFEST, File, LeftOut, agrees, amount, entries, same
from .retries import Corrupt, Fatal, GaveUp, Passing, Patience, Stopped
from .tool import Rclone, ToolFailed

_GIB = 1 << 30
_MIB = 1 << 20
# The rest is for the log, and for what the kubelet sees before we do.
_SHARE_OF_SCRATCH = 0.9

Say = Callable[[str], None]


@dataclass(frozen=True)
class Limits:
    """`parallel` files at once, as far as `scratch_bytes` hold them; a progress line every `progress_seconds`.

    `scratch_bytes` is None where scratch is a folder of the target's disk.
    """

    scratch_bytes: int | None
    parallel: int = 8
    progress_seconds: float = 10.0


class Source(Protocol):
    """Where a model comes from, such as `hubs.Hub`. `called` is what the log calls it."""

    called: str
    url: str
    repository: str
    revision: str

    @property
    def pinned(self) -> bool: ...
    def files(self) -> list[File]: ...
    def fetch(self, rclone: Rclone, path: str, place: Path) -> None: ...
    def explain(self, failure: ToolFailed, path: str) -> Exception: ...


class Target(Protocol):
    """Where it goes, such as `bucket.Bucket`."""

    called: str

    def sizes(self) -> dict[str, int]: ...
    def hashes(self) -> dict[str, Mapping[str, str]]: ...
    def put(self, source: Path, path: str, metadata: Mapping[str, str]) -> None: ...
    def digest(self, path: str, size: int) -> Digest: ...
    def manifest(self) -> dict[str, Any]: ...
    def remove(self, path: str) -> None: ...
    def make_room(self, missing: Sequence[File]) -> None: ...


@dataclass
class Sync:
    """One run for one model."""

    source: Source
    target: Target
    rclone: Rclone
    patience: Patience
    scratch: Path
    limits: Limits
    say: Say
    left_out: LeftOut = LeftOut()

    def run(self) -> None:
        """Returns when the target holds the model whole. Raises Fatal, GaveUp."""
        for left in self.scratch.glob("*.part"):
            left.unlink()  # of a run that was killed
        present = self.patience.persist(self._listing, self.target.sizes)
        manifest = self.patience.persist("reading the manifest", self.target.manifest) if MANIFEST in present else {}
        before = entries(manifest)
        whole = agrees(before, present)
        leaves = manifest.get("leaves", [])  # older syncs copied everything
        ours = whole and all(manifest.get(key) == value for key, value in self._about.items())
        if ours and self.source.pinned and leaves == list(self.left_out.leaves):
            return self._nothing_to_do(manifest)
        try:
            files = self.patience.persist(f"{self.source.called}'s file list", self.source.files)
        except GaveUp as error:
            if not ours or not set(leaves) <= set(self.left_out.leaves):
                raise
            # Branches move seldom, and a hub that is away must not keep a model from being served that is all there.
            self.say(f"{error}; {self.target.called} holds the revision of the last sync")
            return self._nothing_to_do(manifest)
        files, unread = self._split(files)
        if whole and same(files, before):
            return self._nothing_to_do(manifest)
        self._fill(files, unread, present, before)
        return None

    def stop(self) -> None:
        """Ends what is under way; what has arrived stays."""
        self.rclone.stop()

    @property
    def _listing(self) -> str:
        return f"listing {self.target.called}"

    def _nothing_to_do(self, manifest: Mapping[str, Any]) -> None:
        count, size = manifest["count"], amount(manifest["bytes"])
        self.say(f"nothing to do: all {count} files, {size}, are in {self.target.called}")

    @property
    def _about(self) -> dict[str, str]:
        """What a manifest says of its source."""
        source = self.source
        return {"source": source.url, "repository": source.repository, "revision": source.revision}

    def _split(self, files: Sequence[File]) -> tuple[list[File], list[File]]:
        """The files to copy, and those that are left out."""
        patterns = self.left_out.of(files)
        kept, unread = ([file for file in files if (file.path in patterns) is out] for out in (False, True))
        if unread:
            count, size, named = len(unread), sum(file.size for file in unread), sorted(set(patterns.values()))
            self.say(f"left out, for the engine reads another copy: {count} files, {amount(size)}: {', '.join(named)}")
        return kept, unread

    def _fill(
        self, files: Sequence[File], unread: Sequence[File], present: Mapping[str, int], before: Mapping[str, File]
    ) -> None:
        self._check_room(files)
        wanted = {file.path for file in files}
        hashes = self.patience.persist(self._listing, self.target.hashes) if present else {}
        arrived = {
            file.path: entry
            for file in (*files, *unread)
            if (entry := _arrived(file, present.get(file.path), hashes.get(file.path, {})))
        }
        # What an earlier sync brought, whether it came to an end or not.
        outdated = [path for path in {**before, **arrived} if path in present and path not in wanted]
        arrived = {path: file for path, file in arrived.items() if path in wanted}
        strangers = present.keys() - wanted - {*outdated, MANIFEST}
        if strangers:
            size, example = sum(present[path] for path in strangers), min(strangers)
            raise Fatal(
                f"{len(strangers)} objects of {amount(size)} lie under the prefix and are none of the files to copy of "
                f"{self.source.repository}, such as {example}: delete them or choose another prefix"
            )
        self.target.make_room([file for file in files if present.get(file.path) != file.size])
        if MANIFEST in present:
            self.patience.persist("the old manifest", lambda: self.target.remove(MANIFEST))
        arrived |= self._transfer(files, arrived, present)
        for path in outdated:
            self.patience.persist(path, lambda path=path: self.target.remove(path))
        self._finish(files, arrived)

    def _check_room(self, files: Sequence[File]) -> None:
        if self.limits.scratch_bytes is None:
            return  # the target looks at its own disk
        largest = max(files, key=lambda file: file.size)
        room, free = self.limits.scratch_bytes, shutil.disk_usage(self.scratch).free
        if largest.size > min(room, free):
            what = f"scratch is set to {amount(room)}" if room <= free else f"its disk has {amount(free)} free"
            raise Fatal(
                f"no space: {largest.path} has {amount(largest.size)}, {what} of which "
                f"{_SHARE_OF_SCRATCH:.0%} may be used: give the sync more scratch"
            )

    def _transfer(
        self, files: Sequence[File], arrived: Mapping[str, File], present: Mapping[str, int]
    ) -> dict[str, File]:
        """Brings what has not arrived; gives path to the file with all its hashes."""
        room, free = self.limits.scratch_bytes, shutil.disk_usage(self.scratch).free
        room = free if room is None else int(min(room, free) * _SHARE_OF_SCRATCH)
        progress = Progress(files, arrived.keys(), self.scratch, self.say)
        ledger, brought = Ledger(room), {}
        # The largest first: what is small fills the gaps at the end.
        todo = sorted((file for file in files if file.path not in arrived), key=lambda file: -file.size)

        def bring(place: Path, file: File) -> None:
            with ledger.holding(file.size):
                adopt = present.get(file.path) == file.size and (file.sha256 or file.git_sha1)
                found = self._adopted(file) if adopt else None
                found = found or self._brought(file, place)
                brought[file.path] = File(file.path, file.size, found.sha256, found.git_sha1)
                progress.done(file)

        with progress.told_every(self.limits.progress_seconds), ThreadPoolExecutor(self.limits.parallel) as pool:
            runs = [pool.submit(bring, self.scratch / f"{number}.part", file) for number, file in enumerate(todo)]
            ended, _ = wait(runs, return_when=FIRST_EXCEPTION)
            if failed := [error for run in ended if (error := run.exception())]:
                self.patience.stop()
                ledger.close()
                self.rclone.stop()
                pool.shutdown(wait=True, cancel_futures=True)
                raise next((error for error in failed if not isinstance(error, Stopped)), failed[0])
        return brought

    def _adopted(self, file: File) -> Digest | None:
        """The digest of an object that somebody else put there, if it is the file."""
        found = self.patience.persist(file.path, lambda: self.target.digest(file.path, file.size))
        return found if found.is_of(file) else None

    def _brought(self, file: File, place: Path) -> Digest:
        try:
            found = self.patience.persist(file.path, lambda: self._fetch(file, place))
            # Both hashes, whichever the hub lists: another hub may list the other one.
            metadata = {"sha256": found.sha256, "git-sha1": found.git_sha1}
            self.patience.persist(file.path, lambda: self.target.put(place, file.path, metadata))
        finally:
            place.unlink(missing_ok=True)
        return found

    def _fetch(self, file: File, place: Path) -> Digest:
        try:
            self.source.fetch(self.rclone, file.path, place)
        except ToolFailed as failure:
            if "no space left" in str(failure) or "quota exceeded" in str(failure):
                what = f"no space for {file.path} in the scratch folder: give the sync more scratch"
                raise Fatal(what if self.limits.scratch_bytes is not None else self._full(file)) from None
            self.patience.check()
            raise self.source.explain(failure, file.path) from None
        if place.stat().st_size != file.size:
            raise Passing(f"{place.stat().st_size} of {file.size} bytes came")
        found = digest_file(place, file.size)
        if not found.is_of(file):
            raise Corrupt(f"its hash is not the listed {file.sha256 or file.git_sha1}")
        return found

    def _full(self, file: File) -> str:
        return f"no space for {file.path} on {self.target.called}: delete something there, or take a larger one"

    def _finish(self, files: Sequence[File], arrived: Mapping[str, File]) -> None:
        """Looks at what is there once more, then writes the manifest."""
        if not agrees(arrived, self.patience.persist(self._listing, self.target.sizes)):
            raise GaveUp(f"{self.target.called} changed meanwhile: let nobody else write there")
        total = sum(file.size for file in files)
        manifest = {
            **self._about,
            "leaves": self.left_out.leaves,
            "count": len(files),
            "bytes": total,
            "files": [asdict(arrived[path]) for path in sorted(arrived)],
        }
        place = self.scratch / MANIFEST
        place.write_text(json.dumps(manifest, indent=1))
        self.patience.persist("the manifest", lambda: self.target.put(place, MANIFEST, {}))
        place.unlink(missing_ok=True)
        self.say(f"done: {len(files)} files, {amount(total)}, each checked against the hub's list")


class Ledger:
    """Bytes of the scratch folder that are spoken for."""

    def __init__(self, room: int) -> None:
        self._left = self._room = room
        self._change = threading.Condition()
        self._closed = False

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Waits until there is room. What is larger than all of it gets all of it. Raises Stopped when closed."""
        size = min(size, self._room)
        with self._change:
            self._change.wait_for(lambda: self._closed or self._left >= size)
            if self._closed:
                raise Stopped
            self._left -= size
        try:
            yield
        finally:
            with self._change:
                self._left += size
                self._change.notify_all()

    def close(self) -> None:
        """Lets nobody wait any more."""
        with self._change:
            self._closed = True
            self._change.notify_all()


class Progress:
    """How far the sync is, told in lines."""

    def __init__(self, files: Sequence[File], arrived: Any, scratch: Path, say: Say) -> None:
        self._count, self._total = len(files), sum(file.size for file in files)
        self._scratch, self._say = scratch, say
        self._files = len(arrived)
        self._bytes = sum(file.size for file in files if file.path in arrived)
        self._lock = threading.Lock()
        self._last = (time.monotonic(), self._bytes)

    def done(self, file: File) -> None:
        """Counts a file."""
        with self._lock:
            self._files += 1
            self._bytes += file.size

    @contextmanager
    def told_every(self, seconds: float) -> Iterator[None]:
        """Tells at the start, then every so often, and at the end when all went well."""
        over = threading.Event()

        def tell() -> None:
            self._tell()
            while not over.wait(seconds):
                self._tell()

        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        try:
            yield
        finally:
            over.set()
            teller.join()
        self._tell()

    def _tell(self) -> None:
        underway = 0
        for place in self._scratch.glob("*.part"):
            try:
                underway += place.stat().st_size
            except FileNotFoundError:
                continue
        with self._lock:
            files, total = self._files, min(self._bytes + underway, self._total)
        at, before = self._last
        now = time.monotonic()
        rate = max(total - before, 0) * 8 / max(now - at, 1e-3) / 1e9
        self._last = (now, total)
        unit, name = (_GIB, "GiB") if self._total >= _GIB else (_MIB, "MiB")
        self._say(
            f"{files} of {self._count} files, {total / unit:.1f} of {self._total / unit:.1f} {name}, {rate:.1f} Gbit/s"
        )


def _arrived(file: File, size: int | None, metadata: Mapping[str, str]) -> File | None:
    """The file with all its hashes when it was put there earlier and whole."""
    sha256, git_sha1 = metadata.get("sha256"), metadata.get("git-sha1")
    if size != file.size or not sha256 or not git_sha1 or not Digest(size, sha256, git_sha1).is_of(file):
        return None
    return File(file.path, file.size, sha256, git_sha1)
