"""What loads an engine's weights into its GPUs: which releases and images have a loader, and how fast it reads. And
where an engine keeps its compiled kernels.

The default loader reads only what a node's stages need. The others read whole files; each rank of the streamer reads
them for itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planning import flags, images
from planning.catalog import fact
from planning.engine import release_key

FLAG = "--load-format"
DEFAULT, STREAMER = "default", "runai_streamer"


def known() -> tuple[str, ...]:
    """The loaders besides the default one."""
    return tuple(fact("loaders", "loaders", "packages"))


def problem(loader: str, version: str, image: str, nodes: int) -> tuple[str, str] | None:
    """Why an engine in `image` cannot load with it on so many nodes, and what to write instead."""
    if loader == DEFAULT:
        return None
    needed = fact("loaders", "loaders", "packages")[loader]
    if loader not in (flags.choices(FLAG, version) or (loader,)):
        wrong = flags.value_problem(FLAG, loader, version)
        return wrong[0] if wrong else f"vLLM {version} has no {loader}", "write default, or take a newer engine"
    if _vllms_own(image) and _older(version, needed["since"]):
        why = f"vLLM's own image has {needed['package']} from {needed['since']} on, and this is {version}"
        return why, "write default, or take an image with it"
    since = fact("loaders", "loaders", "severalNodes").get(loader)
    if nodes > 1 and since and _older(version, since):
        why = f"on a second node {loader} looks for GPUs that only the first has, up to the release before {since}"
        return why, "write default, or take a newer engine"
    return None


def doubts(loader: str, image: str, *, own_disk: bool) -> list[str]:
    """What is not known of a loader that keeps every rule. `own_disk`: it reads a disk of the node."""
    if loader == DEFAULT:
        return []
    package, said = fact("loaders", "loaders", "packages")[loader]["package"], []
    if not _vllms_own(image):
        said.append(f"weights.loader {loader} needs the package {package}: whether {image} has it is not known")
    if loader in fact("loaders", "loaders", "direct") and not own_disk:
        said.append(f"weights.loader {loader} opens files with O_DIRECT: a volume that refuses that ends the start")
    return said


def gb_per_second(loader: str, gpus: int) -> float:
    """What a node with so many GPUs loads a second from storage that is faster, in GB."""
    measured = fact("loaders", "loaders", "gbPerSecond")
    return measured[max((size for size in measured if int(size) <= gpus), key=int)][loader]


def read_by_each_rank(loader: str, arguments: Mapping[str, Any], version: str) -> bool:
    """Whether each rank reads every file; `arguments` are as `flags.read` gives them."""
    rule = fact("loaders", "loaders", "rank")
    extra = arguments.get(rule["flag"])
    shared = isinstance(extra, Mapping) and extra.get(rule["key"]) is True and not _older(version, rule["since"])
    return loader == rule["loader"] and not shared


def kernel_folders(version: str) -> dict[str, str]:
    """Variables of an engine that say where it keeps compiled kernels, each with the folder for it."""
    known = fact("loaders", "kernels", "variables")
    return {each["name"]: each["folder"] for each in known if not _older(version, each["since"])}


def _vllms_own(image: str) -> bool:
    return images.image_name(image).rpartition("/")[2] == fact("loaders", "loaders", "image")


def _older(version: str, since: str) -> bool:
    return release_key(version) < release_key(since)
