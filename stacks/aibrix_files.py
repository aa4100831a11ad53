"""AIBrix's own manifests for a stack, from the stack file or the release; fetched once, parsed once."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from components.cluster.kubernetes import Manifest
from config.errors import ConfigError
from config.stack import StackConfig, aibrix_choice, aibrix_release, installs_aibrix, used_addons
from planning import aibrix_install
from planning.problems import Problem
from stacks.downloads import OWN, PROJECT, DownloadError, Pins, cache
from stacks.manifests import load

# The variable with a folder whose files are used, by name, instead of fetched ones. A rehearsal sets it as soon as it
# has AIBrix.
_INSTEAD = "MODELSERVE_MANIFESTS"
_EQUIP = "add it by `python -m local up --cloud volcengine`"


def documents(config: StackConfig) -> Mapping[str, Sequence[Manifest]]:
    """The objects of each manifest that the stack installs; empty if AIBrix is already there, or not needed.

    Raises ConfigError if manifests cannot be had, or if a rehearsal has no AIBrix yet.
    """
    release, shadow = aibrix_release(config), os.environ.get(_INSTEAD)
    if shadow and "aibrix" in used_addons(config) and not Path(shadow).is_dir():
        why = f"this rehearsal has none yet ({_INSTEAD} names {shadow}, which is not there)"
        raise ConfigError([Problem("addons.aibrix", release, why, _EQUIP)])
    if not installs_aibrix(config):
        return {}
    references = {key: value for key, value in aibrix_choice(config).manifests.model_dump().items() if value}
    known = aibrix_install.release(release).manifests
    contents: dict[str, Sequence[Manifest]] = {}
    refusals = [
        Problem(f"addons.aibrix.manifests.{name}", path, f"AIBrix {release} has no such manifest", "leave it out")
        for name, path in references.items()
        if name not in known
    ]
    for name, url in known.items():
        path, reference = f"addons.aibrix.manifests.{name}", references.get(name, url)
        try:
            contents[name] = load(
                reference,
                cache("manifests"),
                Pins(),
                instead=Path(shadow) if shadow and name not in references else None,
                advice=f"put the file on this machine and write its path as {path}",
            )
        except DownloadError as error:
            refusals += [replace(problem, key=path, value=reference) for problem in error.problems]
    if refusals:
        raise ConfigError(refusals)
    return contents


def chart(release: str, files: Mapping[str, str]) -> str:
    """Writes a chart of these files beside the program and returns its path, the same on every machine.

    The path is relative because it is a resource input: a different path would show as a change. It is named by its
    content, so that no file of an earlier choice is left in it.
    """
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:8]
    name = f"aibrix-kinds-{release}-{digest}"
    target = PROJECT / OWN / name
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as fresh:
            folder = Path(fresh) / name
            for path, text in files.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_text(text)
            try:
                folder.rename(target)
            except OSError:
                # Another run was faster; its result is the same.
                if not target.is_dir():
                    raise
    return f"./{OWN}/{name}"
