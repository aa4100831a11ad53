"""Models whose shape is not known: all that is planned of them is what follows from the bytes of their files.

They are deployed where the user says so. Nothing of them is said to fit: cache, activations and speed are unknown.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from planning import models
from planning.catalog import fact
from planning.config_json import TOLERANCE, decoded, from_file, layers_of
from planning.models import Model
from planning.problems import NotUnderstoodError, PlanError, Problem
from planning.stage_weights import file_weights

_BY_NAME = "write its name alone, or correct the facts in catalog.models"


@dataclass(frozen=True)
class Described:
    """What a user says of a model that no catalog has: its repository, the bytes of its files, its longest context in
    tokens, and where its config.json is, if it is at hand."""

    repository: str
    file_bytes: int
    context: int
    config: str | None = None

    @property
    def name(self) -> str:
        """The model's name: the repository without its owner."""
        return self.repository.rpartition("/")[2]


def find(told: Described, more: models.Facts | None = None) -> Model:
    """The model, planned in full if its config.json is understood and agrees with the bytes.

    Raises PlanError if the catalog has it already, or if its config.json is wrong.
    """
    if models.knows(told.name, more):
        raise PlanError(Problem("model", told.repository, "the catalog has this model's facts", _BY_NAME))
    if told.config is None:
        return _opaque(told, "no config.json is given", None)
    path = Path(told.config)
    try:
        model = from_file(path)
    except NotUnderstoodError as error:
        return _opaque(told, "; ".join(problem.why for problem in error.problems), path)
    if told.context > model.max_context:
        why = f"its config.json has a longest context of {model.max_context} tokens"
        raise PlanError(Problem("model.context", str(told.context), why, f"write at most {model.max_context}"))
    computed = [file_weights(model, draft=draft) for draft in (True, False)]
    if all(abs(size - told.file_bytes) > TOLERANCE * told.file_bytes for size in computed):
        said = (
            f"its config.json makes {computed[0] / 1e9:.2f} GB of weights, its files have {told.file_bytes / 1e9:.2f}"
        )
        return _opaque(told, said, path)
    return replace(model, name=told.name, file_bytes=told.file_bytes, max_context=told.context)


def _opaque(told: Described, why: str, path: Path | None) -> Model:
    layers = layers_of(decoded(path.read_bytes(), str(path))) if path else None
    return Model(
        name=told.name,
        layers=layers or fact("startup", "cold", "unknownLayers"),
        hidden=1,
        heads=1,
        vocab=1,
        max_context=told.context,
        source="the stack file: repository, bytes and context",
        file_bytes=told.file_bytes,
        unknown=why,
    )
