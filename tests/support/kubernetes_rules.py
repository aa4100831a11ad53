"""What Kubernetes' API refuses of an object's names and amounts, wherever in the object they stand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from config.types import INT32
from planning import images, kubernetes_names

# Of 64 bits in Kubernetes' API.
_LONG = ("activeDeadlineSeconds", "terminationGracePeriodSeconds", "tolerationSeconds", "runAsUser", "fsGroup")
_LABELS = ("labels", "matchLabels", "nodeSelector", "selector")


def broken(node: Any, key: str = "", path: str = "") -> Iterator[str]:
    """Every place of a manifest that the API server would refuse by its grammar alone."""
    if isinstance(node, list):
        for i, each in enumerate(node):
            yield from broken(each, key, f"{path}[{i}]")
    elif isinstance(node, Mapping):
        plain = node and all(isinstance(value, str) for value in node.values())
        if plain and key in _LABELS:
            yield from (f"{path}.{each[0]}: {each[2]}" for each in kubernetes_names.label_problems(node))
        if plain and key == "annotations":
            yield from (f"{path}.{each[0]}: {each[2]}" for each in kubernetes_names.annotation_problems(node))
        if key == "env" and (wrong := kubernetes_names.variable_problem(str(node.get("name")))):
            yield f"{path}.name: {wrong[0]}"
        if (
            key == "metadata"
            and "name" in node
            and (wrong := kubernetes_names.subdomain_problem(node["name"], "thing"))
        ):
            yield f"{path}.name: {wrong[0]}"
        for name, value in node.items():
            yield from broken(value, name, f"{path}.{name}")
    elif isinstance(node, str) and key == "image" and (wrong := images.problem(node)):
        yield f"{path}: {node}: {wrong[0]}"
    elif isinstance(node, int) and not isinstance(node, bool) and abs(node) > INT32 and key not in _LONG:
        yield f"{path}: {node}"
