"""`python -m tests.findings CHECKOV`: what checkov finds in the renderings of the three committed stack files, held
against the table in docs/security.md, where every finding that stays has its reason.

Fails for a finding that the table has not, and for a row that nothing is found of any more. checkov brings a hundred
packages along, so it lives in an environment of its own (`make security`). It knows no LeaderWorkerSet and no fleet:
their pods are handed to it as pods.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from components.cluster.aibrix import INSTANCE
from config.stack_file import read
from local.paths import ROOT
from ops.render import render
from tests.support import volcengine

Manifest = dict[str, Any]
Finding = tuple[str, str]
"""A check's id, and the kind of object that does not pass it."""

# What their controllers put on the pods, by which network policies find these.
_BY_CONTROLLER = {
    "LeaderWorkerSet": {"leaderworkerset.sigs.k8s.io/name": "{name}"},
    "RayClusterFleet": {"ray.io/is-ray-node": "yes"},
}
PAGE = ROOT / "docs" / "security.md"
_ROW = re.compile(r"\| `(CKV2?_K8S_\d+)` \| ([^|]+) \| ([^|]+) \|")


def accepted(page: str) -> dict[Finding, str]:
    """The findings of the page's table, each with its reason."""
    return {
        (check, kind.strip()): reason.strip()
        for check, kinds, reason in _ROW.findall(page)
        for kind in kinds.split(",")
    }


def objects() -> Iterator[Manifest]:
    """Every object of the three stacks, but what AIBrix releases itself."""
    local, acs = (render(read(ROOT / f"Pulumi.{stack}.yaml"), stack) for stack in ("local", "acs"))
    for made in (*local, *acs, *volcengine.rendered()):
        if (made["metadata"].get("labels") or {}).get("app.kubernetes.io/instance") != INSTANCE:
            yield made


def pods(value: Any) -> Iterator[Manifest]:
    """The pod templates below a value."""
    if isinstance(value, dict) and "containers" in (value.get("spec") or {}):
        yield value
    elif isinstance(value, dict | list):
        for below in value.values() if isinstance(value, dict) else value:
            yield from pods(below)


def documents(made: Manifest) -> Iterator[Manifest]:
    """An object as checkov knows it."""
    if made["kind"] not in _BY_CONTROLLER:
        yield made
        return
    for number, template in enumerate(pods(made["spec"])):
        metadata = {**template["metadata"], "name": f"{made['metadata']['name']}-{number}"}
        metadata["namespace"] = made["metadata"]["namespace"]
        given = {key: text.format(**made["metadata"]) for key, text in _BY_CONTROLLER[made["kind"]].items()}
        metadata["labels"] = {**metadata["labels"], **given}
        yield {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def found(checkov: str) -> set[Finding]:
    """What checkov finds."""
    with tempfile.TemporaryDirectory() as folder:
        for number, made in enumerate(objects()):
            text = yaml.safe_dump_all(json.loads(json.dumps(list(documents(made)))))
            Path(folder, f"{made['kind']}.{number}.yaml").write_text(text)
        command = [
            checkov,
            "--directory",
            folder,
            "--framework",
            "kubernetes",
            "--output",
            "json",
            "--compact",
            "--quiet",
        ]
        said = subprocess.run([*command, "--skip-download"], capture_output=True, text=True)
    try:
        failed = json.loads(said.stdout)["results"]["failed_checks"]
    except (ValueError, KeyError, TypeError):
        sys.exit(f"checkov gave no findings: {said.stderr.strip()[-2000:]}")
    return {(each["check_id"], Path(each["file_path"]).name.partition(".")[0]) for each in failed}


def main(checkov: str) -> int:
    """0 where the table has what there is."""
    there, known = found(checkov), accepted(PAGE.read_text())
    for check, kind in sorted(there - known.keys()):
        print(f"{check} of a {kind}: mend it, or give its reason in {PAGE.relative_to(ROOT)}")
    for check, kind in sorted(known.keys() - there):
        print(f"{check} of a {kind}: is not found any more; take it out of {PAGE.relative_to(ROOT)}")
    if there == known.keys():
        print(f"{len(there)} findings, each with its reason in {PAGE.relative_to(ROOT)}")
    return int(there != known.keys())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
