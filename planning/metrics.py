"""Which metrics a vLLM release exports. Names and releases only: the dashboard says what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planning.catalog import entries
from planning.engine import find, release_key


def exported(version: str | None) -> dict[str, str]:
    """Name → type (counter, gauge, histogram) of every metric that `version` exports by default. None is the newest
    known release. A histogram's series end in `_bucket`, `_sum` and `_count`. A release newer than the catalog counts
    as its newest. Raises PlanError if `version` is older than the catalog.
    """
    release = release_key(find(version).version)
    return {
        name: entry["type"] for name, entry in entries("vllm_metrics")["metrics"].items() if is_exported(entry, release)
    }


def is_exported(entry: Mapping[str, Any], release: tuple[int, ...]) -> bool:
    """Whether the release, a `release_key`, exports the metric of this entry of the catalog."""
    return release_key(entry["first"]) <= release and ("last" not in entry or release <= release_key(entry["last"]))
