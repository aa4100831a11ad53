"""Which metrics a vLLM release exports. Names and releases only: what they mean to a reader is a dashboard's matter."""

from __future__ import annotations

from planning.catalog import entries
from planning.engine import find, release_key


def exported(version: str | None) -> dict[str, str]:
    """Name → type (counter, gauge, histogram) of every metric that `version` exports by default; None is the newest
    known. A histogram's series end in `_bucket`, `_sum` and `_count`. A release newer than the catalog counts as its
    newest. Raises PlanError for one older than the catalog.
    """
    at = release_key(find(version).version)
    return {
        name: entry["type"]
        for name, entry in entries("vllm_metrics")["metrics"].items()
        if release_key(entry["first"]) <= at and ("last" not in entry or at <= release_key(entry["last"]))
    }
