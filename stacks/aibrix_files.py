"""AIBrix's own manifests for a stack: where the stack file or the release has them, fetched once, parsed once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from components.kubernetes import Manifest
from planning import aibrix_install
from planning.errors import PlanError
from stacks.clouds import AibrixChoice
from stacks.config import StackConfig, aibrix_release, uses_aibrix
from stacks.manifests import load
from stacks.refusals import ConfigError, Refusal

# A folder with files that are taken in place of fetched ones, by their names.
_INSTEAD = "MODELSERVE_MANIFESTS"
# Files that the program writes for the plugins that it runs, below the stack's project.
_OWN, _PROJECT = ".modelserve", Path(__file__).parent.parent


def documents(config: StackConfig) -> Mapping[str, Sequence[Manifest]]:
    """The objects of each manifest that the stack installs; nothing where AIBrix is there, or not needed.

    Raises ConfigError for those that cannot be had.
    """
    chosen = config.addons.aibrix or AibrixChoice.model_construct()
    if not chosen.install or not uses_aibrix(config):
        return {}
    own = {key: value for key, value in chosen.manifests.model_dump().items() if value}
    shadow = os.environ.get(_INSTEAD)
    found, refusals = {}, []
    for name, url in aibrix_install.release(aibrix_release(config)).manifests.items():
        path, reference = f"addons.aibrix.manifests.{name}", own.get(name, url)
        try:
            found[name] = load(
                reference,
                _cache(),
                instead=Path(shadow) if shadow and name not in own else None,
                advice=f"put the file on this machine and write its path as {path}",
            )
        except PlanError as error:
            why, _, instead = str(error).removeprefix(f"{reference}: ").partition("; ")
            refusals.append(Refusal(path, reference, why, instead))
    if refusals:
        raise ConfigError(refusals)
    return found


def chart(release: str, files: Mapping[str, str]) -> str:
    """Writes a chart of these files beside the program; gives its path, the same on every machine.

    Relative, because it is an input of a resource: another one would be a change.
    """
    folder = Path(_OWN) / f"aibrix-kinds-{release}"
    for name, text in files.items():
        file = _PROJECT / folder / name
        if not file.is_file() or file.read_text() != text:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    return f"./{folder}"


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "modelserve" / "manifests"
