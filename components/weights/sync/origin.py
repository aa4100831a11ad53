"""A bucket's prefix as where a model comes from: the same questions as `hubs` answers, for a copy onto a disk."""

from __future__ import annotations

from pathlib import Path

from .bucket import Bucket
from .manifest import MANIFEST, File, agrees, entries
from .retries import Fatal, Passing
from .tool import Rclone, ToolFailed


class Origin:
    """The model under a prefix: with `manifest` only what our own sync has called whole, else whatever lies there."""

    called = "the bucket"
    pinned = False

    def __init__(self, bucket: Bucket, url: str, name: str, prefix: str, manifest: bool) -> None:
        self._bucket, self._manifest = bucket, manifest
        self.url, self.repository, self.revision = url, f"{name}/{prefix}", ""

    def files(self) -> list[File]:
        """Every file of the model. Raises Fatal and Passing."""
        present = self._bucket.sizes()
        if MANIFEST in present:
            listed = entries(self._bucket.manifest())
            if not agrees(listed, present):
                raise Fatal(f"{self.repository} holds other files than its manifest says: sync it again")
            return list(listed.values())
        if self._manifest:
            raise Passing(f"{self.repository} has no manifest: its sync has not ended")
        files = [File(path, size) for path, size in present.items() if path.split("/")[0] != ".git"]
        if not files:
            raise Fatal(f"nothing lies under {self.repository}: check bucket and prefix")
        return files

    def fetch(self, rclone: Rclone, path: str, place: Path) -> None:
        """Copies an object. Raises ToolFailed."""
        # In place: a file under way is looked at, and cleaned away, by its own name.
        rclone.run("copyto", self._bucket.address(path), str(place), "--inplace", "--multi-thread-streams=0")

    def explain(self, failure: ToolFailed, path: str) -> Exception:
        """What to make of a fetch that failed."""
        return self._bucket.explain(failure)
