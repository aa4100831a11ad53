"""The JSON Schema of stack files, with which editors complete and check: the types, and those rules that a schema can
say.

It refuses nothing that `check` accepts, but for what a stack leaves to the project file, which an editor does not read.
A rule on one value stands beside the value's type (`config.types`); rules that join values stand here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from config.abilities import CLOUDS
from config.errors import NAMESPACE
from config.judge import PLACEHOLDER
from config.pods import KUBERNETES, json_schemas
from config.secrets import PAIRS, SECRETS
from config.stack import StackConfig
from config.stack_file import FILE_KEYS
from config.weights import FOREIGN
from planning import fleet
from planning.catalog import fact
from planning.names import API_KEY

Schema = dict[str, Any]

_SECRET: Schema = {
    "type": "object",
    "properties": {"secure": {"type": "string", "minLength": 1}},
    "required": ["secure"],
    "additionalProperties": False,
}
_NULL: Schema = {"type": "null"}
_IN_CONFIG = "#/properties/config/properties/"
_KUBERNETES = "kubernetes."
_FOREIGN = f"^(?!{NAMESPACE}:)[^:]+:"


def schema() -> Schema:
    """The schema of a whole stack file: our keys typed, our secrets encrypted, other programs' keys unchecked."""
    ours = _with_references(StackConfig.model_json_schema())
    definitions = ours.pop("$defs")
    definitions |= {f"{_KUBERNETES}{name}": _with_references(each) for name, each in json_schemas().items()}
    for name, rules in _rules_of_parts().items():
        definitions[name]["allOf"] = rules
    definitions["Filled"] = {
        "description": "No placeholder is left, at any depth.",
        "not": {"type": "string", "pattern": PLACEHOLDER},
        "additionalProperties": {"$ref": "#/$defs/Filled"},
        "items": {"$ref": "#/$defs/Filled"},
    }
    keys = ours["properties"]
    secrets = {key: {**_SECRET, "description": text} for key, text in SECRETS.items()}
    config = {
        "type": "object",
        "properties": {_full(key): value for key, value in (keys | secrets).items()},
        # A key without a namespace is also ours; another program's key has its own.
        "patternProperties": {f"^{key}$": {"$ref": _IN_CONFIG + _full(key)} for key in keys | secrets} | {_FOREIGN: {}},
        "additionalProperties": False,
        "allOf": [
            *map(_there, ours["required"]),
            *({"properties": {_full(key): {"$ref": "#/$defs/Filled"}}} for key in keys),
            *({"not": {"required": [key, _full(key)]}} for key in keys | secrets),
            *_joined(),
        ],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A stack file of modelserve",
        "type": "object",
        "properties": {key: {} for key in sorted(FILE_KEYS)} | {"config": config},
        "required": ["config"],
        "additionalProperties": False,
        "$defs": definitions,
    }


def _with_references(value: Any) -> Any:
    """`value`, with a reference wherever it names a Kubernetes type."""
    if isinstance(value, dict):
        if name := value.get(KUBERNETES):
            return {"$ref": f"#/$defs/{_KUBERNETES}{name}"}
        return {key: _with_references(below) for key, below in value.items()}
    return [_with_references(below) for below in value] if isinstance(value, list) else value


def _full(key: str) -> str:
    return f"{NAMESPACE}:{key}"


def _there(key: str) -> Schema:
    return {"anyOf": [{"required": [_full(key)]}, {"required": [key]}]}


def _has(**properties: object) -> Schema:
    """A map that has these keys, each by its schema or with exactly that value."""
    schemas = {key: value if isinstance(value, dict) else {"const": value} for key, value in properties.items()}
    return {"type": "object", "properties": schemas, "required": list(schemas)}


def _if(condition: Schema, then: Schema) -> Schema:
    return {"if": condition, "then": then}


def _unless(condition: Schema, then: Schema) -> Schema:
    return {"if": condition, "else": then}


def _at(*path: str, value: Schema) -> Schema:
    """`value` holds at a path, if anything is there; `*` is every key of a map."""
    for key in reversed(path):
        value = {"additionalProperties": value} if key == "*" else {"properties": {key: value}}
    return value


def _all(*schemas: Schema) -> Schema:
    return {"allOf": list(schemas)}


def _whole(regex: str) -> Schema:
    return {"pattern": f"^({regex})$"}


def _rules_of_parts() -> dict[str, list[Schema]]:
    """Rules that join the keys of one part, by the part's name."""
    given: Schema = {"not": _NULL}
    foreign = fact("weights", "foreign", "names")
    prices = ({"required": [name], "properties": {name: given}} for name in _prices())
    return {
        "AcsCloud": [_if(_has(computeClass="gpu-hpn"), _at("computeQos", value={"const": "default"}))],
        "VolcengineCloud": [_if(_has(rdmaDevices=given), _has(rdma=True))],
        "AddonChoice": [
            _unless(
                _has(install={"enum": [False, "adopt"]}),
                _all(
                    _if(_has(repo=given), _has(chart={"type": "string", "not": {"pattern": "://"}})),
                    _if(_has(chart={"type": "string", "pattern": r"^(?![./])(?![\s\S]*://)"}), _has(repo=given)),
                ),
            )
        ],
        "Bucket": [
            _if(_has(store={"enum": list(FOREIGN)}), _at("create", value={"const": False})),
            *(_if(_has(store=store), _at("name", value=_whole(name))) for store, name in foreign.items()),
            _unless(
                _has(store={"enum": list(FOREIGN)}), _at("name", value=_whole(fact("oss", "bucket", "namePattern")))
            ),
        ],
        "PvcWeights": [_if(_has(create=given), _has(sync=given))],
        "CompileCache": [{"oneOf": [_has(nodePath=given), _has(claim=given)]}],
        "NvmeWeights": [_if(_has(sync=given), _has(bucket=given))],
        "Prices": [_if({"anyOf": list(prices)}, _has(asOf=given, currency=given))],
        "Exposure": [
            _if(_has(to="public"), _has(allowList={"type": "string"})),
            _if(_has(to="cluster"), _at("allowList", value=_NULL)),
        ],
        "Autoscaling": [
            _if(_has(engine="keda"), _has(prometheus={"type": "string"})),
            _unless(_has(engine="keda"), _at("prometheus", value=_NULL)),
        ],
        "Rollout": [
            _unless(_has(strategy="RollingUpdate"), _at("maxSurge", value={"const": 0})),
            _unless(_has(strategy="blueGreen"), _at("canary", value=_NULL)),
            _if(_has(stepSeconds={"type": "integer"}), _has(canary={"type": "array"})),
        ],
        "Service": [
            _if(_has(startupPolicy="LeaderReady"), _has(readinessProbe=False)),
            *(
                _if(_has(rollout=_has(strategy="blueGreen")), _at(key, value=_NULL))
                for key in ("schedule", "autoscaling")
            ),
            _if(_has(rollout=_has(strategy="blueGreen")), _at("routing", "strategy", value=_NULL)),
            _if(_has(gateway="none"), _at("rollout", "canary", value=_NULL)),
            _if(_has(autoscaling=given), _at("replicas", value={"const": 1})),
            _if(_has(workload="fleet"), _at("engine", "launcher", value={"const": "ray"})),
            *_ports(),
        ],
    }


def _prices() -> list[str]:
    return ["perGpuHour", "perCacheWorkerHour", "perGibMonth"]


def _ports() -> Iterator[Schema]:
    """A service's port must differ from what else listens in the same pod."""
    ray, native = (_at("port", value=_none_of(fact("engines", kind, "ports"))) for kind in ("ray", "native"))
    yield {"if": _has(engine=_has(launcher="native")), "then": native, "else": ray}


def _none_of(ports: Iterable[int | str]) -> Schema:
    return {"not": {"enum": sorted(map(int, ports))}}


def _joined() -> Iterator[Schema]:
    """Rules that join sections."""
    services, weights, cloud, cache = map(_full, ("services", "weights", "cloud", "cache"))
    inside = _at(services, "*", "expose", "to", value={"const": "cluster"})
    public = _has(**{_full("addons"): _has(aibrix=_has(address="public"))})
    for asks in ({"not": inside}, public):
        yield _if(asks, _there(API_KEY))
    foreign = _has(**{weights: _has(bucket=_has(store={"enum": list(FOREIGN)}))})
    yield _if(foreign, _all(_there("accessKey"), _at(weights, "sync", value=_NULL)))
    for pair in PAIRS:
        for one, other in (pair, pair[::-1]):
            yield _if(_there(one), _there(other))
    cached = {"source": {"const": "bucket"}, "read": {"not": {"const": "stream"}}}
    yield _if(_has(**{cache: _has(engine="fluid")}), _at(weights, value={"properties": cached}))
    for kind in CLOUDS:
        yield _if(_has(**{cloud: _has(kind=kind)}), _all(*_of_cloud(kind)))


def _of_cloud(kind: str) -> Iterator[Schema]:
    """Rules for one cloud: what it has, and what it does not have."""
    services, weights, cloud = map(_full, ("services", "weights", "cloud"))
    can = CLOUDS[kind]
    yield _at(weights, "source", value={"enum": list(can.sources)})
    if can.reads:
        yield _at(weights, "read", value={"enum": [*can.reads, "auto", None]})
        yield _at(weights, "bucket", "store", value={"enum": [*can.stores, None]})
    yield _at(services, "*", "workload", value={"enum": [*can.workloads, "auto", None]})
    yield _at(services, "*", "gateway", value={"enum": [*can.gateways, "auto", None]})
    yield _at(services, "*", "expose", "to", value={"enum": list(can.exposes)})
    yield _at(_full("cache"), "engine", value={"enum": list(can.caches)})
    if not can.node_disks:
        yield _at(_full("cache"), "compile", "nodePath", value=_NULL)
    monitoring = _full("monitoring")
    yield _at(monitoring, "prometheus", value={"enum": [*(can.prometheus if len(can.prometheus) > 1 else ()), None]})
    if can.prometheus[0] != "operator":
        by_operator = _has(**{monitoring: _has(prometheus="operator")})
        yield _unless(by_operator, _at(monitoring, "alerts", value=_has(enabled=False)))
    yield _at(services, "*", value=_if(_has(gateway="none"), _at("routing", value=_NULL)))
    if "pvc" not in can.filled:
        yield _if(_has(**{weights: _has(source="pvc")}), _at(weights, "sync", value=_NULL))
    if "pvc" not in can.made:
        yield _at(weights, "create", value=_NULL)
    if "download" not in can.reads:
        yield _at(weights, "download", value=_NULL)
    if "aibrix" not in can.scalers:
        scaled = _has(autoscaling=_has(engine={"enum": list(can.scalers)}))
        yield _at(services, "*", value=_if(_has(autoscaling={"type": "object"}), scaled))
    if can.gateways == ("none",):
        yield _at(services, "*", "routing", value=_NULL)
    for name in ("fluid", "aibrix"):
        if name not in can.installs:
            yield _at(_full("addons"), name, value=_NULL)
    beside = {"anyOf": [_NULL, _has(strategy="blueGreen")]}
    if "fleet" not in can.workloads:
        yield _at(services, "*", "rollout", value=_all(beside, _at("canary", value=_NULL)))
    else:
        yield _at(services, "*", value=_if(_has(workload="lws"), _at("rollout", value=beside)))
        routed = {"anyOf": [_has(gateway="aibrix"), {"not": _has(workload="lws")}]}
        yield _at(services, "*", value=_unless(routed, _at("rollout", "canary", value=_NULL)))
        yield _at(services, value={"patternProperties": {f"^.{{{fleet.name_limit() + 1},}}$": _has(workload="lws")}})
        yield _at(services, "*", value=_unless(_has(workload="lws"), _at("port", value=_none_of(fleet.ray_ports()))))
    if kind == "local":
        yield _at(services, "*", "layout", "gpusPerNode", value={"enum": fact("clouds", "local", "gpusPerPod")})
    yield _at(services, "*", "port", value=_none_of(fact("clouds", kind, "reservedPorts")))
    # A catalog section may add to the catalog's lists: check them only without it.
    alone = [] if kind == "local" else [*_LISTS[kind]()]
    if can.stores:
        alone.append(_at(cloud, "region", value={"enum": fact(can.stores[0], "regions", "known")}))
    if alone:
        yield _unless(_there("catalog"), _all(*alone))


def _of_acs() -> Iterator[Schema]:
    known: Mapping[str, Mapping[str, Any]] = fact("clouds", "acs", "gpuPods")
    services, cloud = _full("services"), _full("cloud")
    yield _at(cloud, "gpuSeries", value={"enum": list(known)})
    for series, pods in known.items():
        rules: list[Schema] = []
        if pods["rdma"] is False:
            rules.append(_at(cloud, "rdma", value={"const": False}))
        if pods["gpus"]:
            # A missing gpusPerNode is 8.
            value = {"properties": {"gpusPerNode": {"enum": pods["gpus"]}}}
            rules.append(_at(services, "*", "layout", value=value))
        if shapes := pods["memoryGib"]:
            resources = [_at("cpu", value={"enum": [int(cpu) for cpu in shapes]})]
            resources += [
                _if(_has(cpu=int(cpu)), _at("memory", value={"enum": [text for gib in sizes for text in _spelt(gib)]}))
                for cpu, sizes in shapes.items()
            ]
            rules.append(_at(services, "*", "resources", value=_all(*resources)))
        if rules:
            yield _if(_has(**{cloud: _has(gpuSeries=series)}), _all(*rules))


def _spelt(gib: int) -> list[str]:
    return [f"{gib}Gi", f"{gib * 1024}Mi", *([] if gib % 1024 else [f"{gib // 1024}Ti"])]


def _of_volcengine() -> Iterator[Schema]:
    known: Mapping[str, Mapping[str, Any]] = fact("clouds", "volcengine", "gpuNodes")
    services, cloud = _full("services"), _full("cloud")
    yield _at(cloud, value=_unless(_has(instanceType={"enum": list(known)}), _has(gpu={"type": "string"})))
    for instance_type, node in known.items():
        rules = [_at(services, "*", "layout", "gpusPerNode", value={"maximum": node["gpus"]})]
        rules.append(_at(services, "*", "resources", "cpu", value={"maximum": node["vcpu"]}))
        if not node["rdmaGbitPerSecond"]:
            rules.append(_at(cloud, "rdma", value={"const": False}))
        yield _if(_has(**{cloud: _has(instanceType=instance_type)}), _all(*rules))


_LISTS = {"acs": _of_acs, "volcengine": _of_volcengine}
