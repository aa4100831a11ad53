"""`model owner/NAME | DIR | config.json`: what a model's own files say, from their headers and without its weights.

Reads the hub's list and the first bytes of each file, or a folder. Writes the facts into a stack file if told to.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.facts import ModelFacts
from config.stack_file import path_of
from ops.arguments import count
from ops.catalog_entry import add_model
from planning import config_json, engine, files, gpus, origins
from planning.catalog import entries, fact, overruled
from planning.layout import Layout, broken_rules, split
from planning.memory import Request, kv_bytes
from planning.models import Model, from_facts
from planning.problems import PlanError, Problem
from planning.stage_weights import file_weights
from planning.tensors import DRAFT, EMBEDDINGS, OTHER, Tensor, Tensors, counted, header_bytes, listed, read_header

if TYPE_CHECKING:
    from requests import Session

_CONFIG, _INDEX, _SUFFIX = "config.json", "model.safetensors.index.json", ".safetensors"
_AT_ONCE, _SECONDS, _ATTEMPTS = 8, 60, 4
_MOST_JSON = 100_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="owner/NAME on a hub, a folder, or the path of a config.json")
    parser.add_argument(
        "--from",
        dest="hub",
        metavar="HUB",
        help="modelscope, huggingface, or the URL of a mirror; HF_ENDPOINT, or huggingface, if left out. A token is "
        "read from HF_TOKEN or MODELSCOPE_API_TOKEN",
    )
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit; the hub's main branch if left out")
    parser.add_argument(
        "--tensor", type=count, default=1, metavar="N", help="tensor parallel size of the weights shown"
    )
    parser.add_argument("--pipeline", type=count, default=1, metavar="N", help="pipeline parallel size")
    parser.add_argument("--write", metavar="STACK", help="write the facts into catalog.models of Pulumi.<STACK>.yaml")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


@dataclass(frozen=True)
class _Place:
    """Where a model's files are: their sizes by path, and how to read the first bytes of one."""

    name: str
    source: str
    sizes: Mapping[str, int]
    first: Callable[[str, int], bytes]
    config_only: bool = False
    """Its config.json was named, which may be all that there is."""


@dataclass(frozen=True)
class _Found:
    """What is known of a model. `facts` is None if its config.json is not understood, `tensors` if there are none."""

    place: _Place
    facts: dict[str, Any] | None
    tensors: Tensors | None
    layers: int
    refusals: list[str]

    @property
    def model(self) -> Model | None:
        """The model, as the planner knows it."""
        return None if self.facts is None else from_facts(self.place.name, self.facts, self.place.source)


def run(args: argparse.Namespace) -> int:
    """Returns 0 if the planner understands the model, and its arithmetic agrees with the files; 1 if not."""
    found = _found(_place(args))
    shown = _json(found, Layout(1, args.tensor * args.pipeline, args.tensor, args.pipeline))
    print(json.dumps(shown) if args.json else "\n".join(_table(shown, args)))
    if found.refusals:
        print("\n".join(found.refusals), file=sys.stderr)
    elif args.write:
        path = path_of(args.write)
        add_model(path, found.place.name, _entry(found), f"{found.place.source}, read {date.today()}")
        print(f"{path}: catalog.models.{found.place.name} written; next: python -m ops check {args.write}")
    return 1 if found.refusals else 0


def _place(args: argparse.Namespace) -> _Place:
    path = Path(args.model)
    if path.name == _CONFIG and not path.is_dir():
        return _folder(path.parent, args.model, config_only=True)
    if path.is_dir():
        return _folder(path, args.model)
    if wrong := origins.repository_problem(args.model):
        why = "is neither a folder nor a repository" if "/" in args.model else wrong[0]
        raise PlanError(Problem("model", args.model, why, f"{wrong[1]}, a folder, or the path of a {_CONFIG}"))
    return _hub(args.model, args.hub, args.revision)


def _folder(folder: Path, told: str, *, config_only: bool = False) -> _Place:
    """A folder on this machine; of its files those at its top."""
    try:
        sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
    except OSError as error:
        raise PlanError(Problem("model", told, f"cannot be read ({error.strerror})", "name another folder")) from None

    def first(path: str, size: int) -> bytes:
        try:
            with (folder / path).open("rb") as file:
                return file.read(size)
        except OSError as error:
            raise PlanError(Problem("model", path, f"cannot be read ({error.strerror})", "mend that")) from None

    return _Place(folder.resolve().name, f"the files of the folder {folder.resolve().name}", sizes, first, config_only)


def _hub(repository: str, told: str | None, revision: str | None) -> _Place:
    from components.weights.sync.hubs import Hub
    from components.weights.sync.retries import Fatal, GaveUp, Passing, Patience

    source = told or os.environ.get(fact("weights", "huggingface", "variables")["endpoint"]) or "huggingface"
    if wrong := origins.hub_problem(source):
        raise PlanError(Problem("--from", "" if "@" in source else source, *wrong))
    facts = fact("sync", "hubs", source if source in origins.HUBS else "huggingface")
    kind, url = facts["kind"], facts["url"] if source in origins.HUBS else source
    variable = fact("sync", "tokens", "variables")[kind]
    hub = Hub(kind, url, repository, revision or facts["revision"], os.environ.get(variable, ""))
    try:
        patience = Patience(_ATTEMPTS, 1.0, lambda line: print(line, file=sys.stderr))
        sizes = {file.path: file.size for file in patience.persist(repository, hub.files)}
    except (Fatal, GaveUp, Passing) as error:
        raise PlanError(Problem("model", repository, str(error), f"a token is read from {variable}")) from None
    except (KeyError, TypeError, AttributeError):
        raise PlanError(
            Problem("model", repository, f"{url} answers no list of files", "write another --from")
        ) from None
    session = _session(hub.header)

    def first(path: str, size: int) -> bytes:
        return _first(session, hub.address(path), path, size)

    return _Place(repository.partition("/")[2], f"{hub.url}/{repository} at {hub.revision}", sizes, first)


def _session(header: str) -> Session:
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3 import Retry

    session = requests.Session()
    if header:  # requests sends neither Authorization nor Cookie on to another host
        name, _, value = header.partition(": ")
        session.headers[name] = value
    passing = Retry(_ATTEMPTS, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504), raise_on_status=False)
    adapter = HTTPAdapter(pool_maxsize=_AT_ONCE, max_retries=passing)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def _first(session: Session, url: str, path: str, size: int) -> bytes:
    """The first bytes of a file. A server may answer a request for a part with the whole: the rest is not read."""
    import requests
    import urllib3

    why = "breaks off"
    for _ in range(_ATTEMPTS):
        try:
            with session.get(
                url,
                headers={"Range": f"bytes=0-{size - 1}", "Accept-Encoding": "identity"},
                stream=True,
                timeout=_SECONDS,
            ) as answer:
                if answer.status_code not in (200, 206):
                    why = f"is answered with {answer.status_code}"
                    break
                read = answer.raw.read(size, decode_content=True)
            if len(read) == size:
                return read
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            why = f"cannot be read ({type(error).__name__})"
    raise PlanError(Problem("model", path, why, "try again, or write another --from"))


def _found(place: _Place) -> _Found:
    """Everything that the files say. Raises PlanError if they cannot be read, or contradict themselves."""
    config, quantised = (_decoded(place, name) for name in (_CONFIG, config_json.QUANT_FILE))
    if config is None:
        raise PlanError(Problem("model", place.name, f"has no {_CONFIG}", "name another repository or revision"))
    layers = config_json.layers_of(config)
    tensors = _tensors(place, layers)
    refusals: list[str] = []
    facts = None
    try:
        other = tensors.outside.get(OTHER, 0) if tensors else None
        facts = config_json.facts(config, quantised, place.name, other)
    except PlanError as error:
        refusals = error.lines
    found = _Found(place, facts, tensors, layers or (1 + max(tensors.layers, default=0) if tensors else 0), refusals)
    if (model := found.model) and tensors and (off := _off(model, tensors)) > config_json.TOLERANCE:
        why = f"the planner computes {_computed(model, tensors) / 1e9:.2f} GB of weights, the files have "
        why += f"{tensors.bytes / 1e9:.2f}, {off:.1%} off"
        refusals.append(str(Problem("model", place.name, why, "take its facts for wrong, and do not plan with them")))
    return found


def _decoded(place: _Place, name: str) -> Mapping[str, Any] | None:
    """A JSON file of the place; None if there is none."""
    if name not in place.sizes:
        return None
    if place.sizes[name] > _MOST_JSON:
        raise PlanError(Problem("model", name, f"has {place.sizes[name]} bytes", "name another repository"))
    return config_json.decoded(place.first(name, place.sizes[name]), name)


def _tensors(place: _Place, layers: int | None) -> Tensors | None:
    """What the headers of the files that an engine reads sum up to; None where a config.json is all there is."""
    from components.weights.sync.manifest import File, LeftOut

    present = [File(path, size) for path, size in place.sizes.items()]
    needed = files.needed([{}])
    left_out = LeftOut(needed.weights, needed.leaves).of(present)
    named = [file.path for file in present if file.path.endswith(_SUFFIX) and file.path not in left_out]
    if not named:
        if not place.config_only:
            why = f"has no {_SUFFIX} files, the only ones whose headers are read"
            raise PlanError(Problem("model", place.name, why, f"name a repository that has, or its {_CONFIG} alone"))
        return None
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        read = dict(zip(named, pool.map(lambda path: _header(place, path), named), strict=True))
    if (index := _decoded(place, _INDEX)) is not None:
        if wrong := listed(index, read):
            raise PlanError(*(Problem("model", _INDEX, why, "fetch the files again") for why in wrong))
        read = {path: read[path] for path in sorted({*index["weight_map"].values()})}
    return counted(itertools.chain(*read.values()), layers)


def _header(place: _Place, path: str) -> list[Tensor]:
    size = place.sizes[path]
    first = place.first(path, min(size, fact("config_json", "tensors", "firstBytes")))
    needed = header_bytes(path, first, size)
    return read_header(path, first if needed <= len(first) else place.first(path, needed), size)


def _computed(model: Model, tensors: Tensors) -> float:
    return file_weights(model, draft=DRAFT in tensors.outside)


def _off(model: Model, tensors: Tensors) -> float:
    return abs(_computed(model, tensors) - tensors.bytes) / tensors.bytes if tensors.bytes else 1.0


def _entry(found: _Found) -> dict[str, Any]:
    """The facts for a stack file, without those that say nothing and are not to correct the program's own catalog."""
    facts = {**(found.facts or {}), "fileBytes": found.tensors.bytes if found.tensors else None}
    known = overruled("models", found.place.name, {found.place.name: {}})
    listed_facts = known[1] if known else {}
    # Zero and false say something where the key's absence would say otherwise.
    usual = {field.alias: field.default for field in ModelFacts.model_fields.values()}
    return {
        key: value
        for key, value in facts.items()
        if value or (value is not None and (listed_facts.get(key) or usual.get(key)))
    }


def _json(found: _Found, layout: Layout) -> dict[str, Any]:
    """What is shown, as plain data. Bytes are those of the files; an engine holds a little more."""
    tensors, model = found.tensors, found.model
    return {
        "name": found.place.name,
        "source": found.place.source,
        "date": str(date.today()),
        "bytes": tensors.bytes if tensors else None,
        "kinds": tensors.kinds() if tensors else {},
        "layers": list(_runs(tensors)) if tensors else [],
        "stages": _stages(tensors, found.layers, layout, model) if tensors else [],
        "computed_bytes": round(_computed(model, tensors) if tensors else file_weights(model)) if model else None,
        "kv_bytes_per_token_and_layer": _kv(model) if model else None,
        "layout_refusals": [str(each) for each in broken_rules(model, layout)] if model else [],
        "facts": _entry(found) if found.facts else None,
        "refusals": found.refusals,
    }


def _kv(model: Model) -> float:
    """Bytes of 16-bit KV cache of one token in one layer, over all heads."""
    newest, any_gpu = engine.find(None), gpus.find(next(iter(entries("gpus")["gpus"])))
    return kv_bytes(Request(model, any_gpu, Layout(1, 1, 1, 1), newest))


def _runs(tensors: Tensors) -> Iterator[dict[str, Any]]:
    """Layers that follow each other and are equally large."""
    for kinds, run in itertools.groupby(sorted(tensors.layers), key=lambda layer: tensors.layers[layer]):
        layers = list(run)
        yield {"first": layers[0], "last": layers[-1], "bytes": sum(kinds.values()), "kinds": kinds}


def _stages(tensors: Tensors, layers: int, layout: Layout, model: Model | None) -> list[dict[str, int]]:
    """Bytes of the files on one GPU of each pipeline stage, the draft's left out. Without a model that is understood,
    every rank's share of keys and values is taken for equal."""
    if layout.pipeline > layers:
        raise PlanError(Problem("--pipeline", str(layout.pipeline), f"the model has {layers} layers", "write less"))
    counts, first, stages = split(layers, layout.pipeline, engine.find(None)), 0, []
    copies = max(1.0, layout.tensor / model.kv_heads) if model and model.kv_heads and not model.mla else 1.0
    for number, held in enumerate(counts):
        size = 0.0
        for layer in range(first, first + held):
            whole, kv = tensors.whole.get(layer, 0), tensors.kv.get(layer, 0)
            size += whole + (sum(tensors.layers.get(layer, {}).values()) - whole + kv * (copies - 1)) / layout.tensor
        for kind, there in tensors.outside.items():
            ends = (
                (number == 0, kind in (EMBEDDINGS, OTHER)),
                (number == len(counts) - 1, kind not in (EMBEDDINGS, OTHER)),
            )
            if kind != DRAFT and any(all(each) for each in ends):
                size += there if kind in (OTHER, "norm") else there / layout.tensor
        stages.append({"layers": held, "bytes_per_gpu": round(size)})
        first += held
    return stages


def _table(shown: Mapping[str, Any], args: argparse.Namespace) -> Iterator[str]:
    size = "no weights beside it" if shown["bytes"] is None else f"{shown['bytes']} bytes of tensors"
    yield f"{shown['name']}: {size}; {shown['source']}, read {shown['date']}"
    for kind, held in shown["kinds"].items():
        yield f"  {kind:16}{held / 1e9:10.3f} GB"
    for run in shown["layers"]:
        layers = f"layer {run['first']}" if run["first"] == run["last"] else f"layers {run['first']} to {run['last']}"
        kinds = ", ".join(f"{kind} {held / 1e6:.1f}" for kind, held in run["kinds"].items())
        yield f"  {layers:16}{run['bytes'] / 1e9:10.3f} GB each: {kinds} MB"
    if shown["stages"]:
        yield f"weights of the files on one GPU at TP{args.tensor} PP{args.pipeline}"
    for number, stage in enumerate(shown["stages"]):
        yield f"  stage {number}: {stage['layers']} layers, {stage['bytes_per_gpu'] / 2**30:.2f} GiB"
    yield from (f"  {line}" for line in shown["layout_refusals"])
    if shown["facts"] is not None:
        yield f"computed by the planner: {shown['computed_bytes'] / 1e9:.3f} GB of files"
        yield f"KV cache: {shown['kv_bytes_per_token_and_layer']:g} bytes a token and layer"
        yield "understood"
        yield from (f"  {key}: {json.dumps(value)}" for key, value in shown["facts"].items())
