"""The stack file's services: engine, layout, resources, and the rules of each.

`config.judge` checks a service's name and rules across services; `config.plans` checks whether it fits.
"""

import contextlib
import re
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from config.abilities import CLOUDS
from config.clouds import context_of
from config.errors import plain, refuse, rule
from config.exposure import Autoscaling, Client, Exposure, Rollout, Routing, Schedule, balancer_annotations
from config.pods import EnginePod
from config.strict import Strict
from config.types import (
    AUTO,
    VARIABLE,
    BinaryQuantity,
    ConfigPath,
    Count,
    InSchema,
    ModelName,
    PinnedImage,
    PodAnnotations,
    PodLabels,
    Positive,
    Release,
    Repository,
    Seconds,
    ServedName,
    auto_schema,
    gibibytes,
    names,
)
from planning import addons, aibrix_features, flags, fleet, kubernetes_names, routes, timeouts
from planning.catalog import fact
from planning.problems import Unjudged
from planning.unknown import Described

_GPUS_DEFAULT = 8
_NONE = "none"
# Arguments that the program derives from other keys, and those keys. Every spelling of them counts.
_OWNED_FLAGS = {
    "--served-model-name": "servedModelName",
    "--port": "port",
    "--model": "model",
    "--tensor-parallel-size": "layout.tensor",
    "--pipeline-parallel-size": "layout.pipeline",
    "--data-parallel-size": "layout.data",
    "--data-parallel-size-local": "layout.data",
    "--data-parallel-rank": "layout.data",
    "--data-parallel-start-rank": "layout.data",
    "--data-parallel-address": "layout.data",
    "--data-parallel-rpc-port": "layout.data",
    "--data-parallel-hybrid-lb": "layout.data: one port serves all engines of a replica",
    "--data-parallel-external-lb": "layout.data: one port serves all engines of a replica",
    "--data-parallel-multi-port-external-lb": "layout.data: one port serves all engines of a replica",
    "--data-parallel-backend": "engine.launcher",
    "--enable-expert-parallel": "layout.expertParallel",
    "--decode-context-parallel-size": "layout.decodeContext",
    "--max-model-len": "maxModelLen",
    "--gpu-memory-utilization": "engine.gpuMemoryUtilization",
    "--distributed-executor-backend": "engine.launcher",
    "--api-key": "the secret modelserve:apiKey",
    "--host": "nothing: it listens on every address",
    "--shutdown-timeout": "drainSeconds",
    "--nnodes": "layout.nodes",
    "--node-rank": "engine.launcher",
    "--master-addr": "engine.launcher",
    "--master-port": "engine.launcher",
    "--headless": "engine.launcher",
    "--reasoning-parser": "engine.reasoningParser",
    "--enable-reasoning": "engine.reasoningParser",
}
# More than anybody asks for, and less than arithmetic breaks on.
_Amount = Annotated[float, Field(gt=0, le=10**9)]
_flags = re.sub(r"(?<=\w)-", "[-_]", "|".join(each for name in _OWNED_FLAGS for each in flags.spellings(name)))
_Argument = Annotated[str, InSchema({"not": {"pattern": f"^({_flags})([=.].*)?$"}})]
_FLAG_FIRST = InSchema({"allOf": [{"prefixItems": [{"pattern": r"^-(?![0-9]+([.][0-9]+)?$)[\s\S]"}]}]})
_OUR_VARIABLES = (*fact("engines", "vllm", "variablesWeSet"), "MODELSERVE_", "LWS_")


class _OfVllm(Strict):
    """A part of a service. People often write vLLM's argument names as its keys, so such a key gets a hint."""

    @classmethod
    def _elsewhere(cls, key: str) -> str | None:
        name = next((flag for flag in _OWNED_FLAGS if plain(flag) == plain(key)), None)
        if name is not None:
            section, _, key_here = _OWNED_FLAGS[name].rpartition(".")
            if " " in key_here:
                return None
            here = section == ("" if cls is Service else cls.__name__.lower())
            return key_here if here else f"the service's {_OWNED_FLAGS[name]}"
        flag = "--" + re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", "-", key).lower().strip("-")
        return f"{flag} into engine.extraArgs" if flags.is_known(flag) else None


class Engine(_OfVllm):
    """The inference engine in the image."""

    image: PinnedImage = Field(description="the image, by tag or digest")
    version: Release = Field(description="the vLLM release inside the image, in quotes")
    launcher: Literal["ray", "native"] = Field(
        "ray", description="what joins the nodes of one replica: ray, or vLLM itself (native)"
    )
    image_has_ray: bool = Field(
        False, description="true if you added Ray to an image of a release that ships without it"
    )
    gpu_memory_utilization: float | None = Field(
        None, gt=0, lt=1, description="the share of a GPU's memory that vLLM may use, between 0 and 1"
    )
    extra_args: Annotated[tuple[_Argument, ...], _FLAG_FIRST] = Field(
        (), strict=False, description="a list of further arguments of vllm serve"
    )
    reasoning_parser: Annotated[str | None, AUTO] = Field(
        None,
        description="what splits reasoning from answers: a parser of vLLM, none, or auto for the model's own",
        json_schema_extra=auto_schema,
    )
    env: Annotated[dict[str, str], names(VARIABLE, never="|".join(_OUR_VARIABLES))] = Field(
        {}, description="a map of further environment variables, text to text"
    )

    @field_validator("image")
    @classmethod
    def _vllm_is_in_it(cls, value: str) -> str:
        parts = re.split(r"[/:@]", value.lower())
        other = next((name for word, name in fact("engines", "others", "images").items() if word in parts), None)
        if other:
            raise rule(value, f"is {other}, and only vLLM is started (`vllm serve`)", "write an image of vLLM")
        return value

    @field_validator("launcher")
    @classmethod
    def _engine_has_it(cls, value: str, info: ValidationInfo) -> str:
        version = info.data.get("version")
        if value == "native" and version and not flags.has("--nnodes", version):
            raise rule(value, f"vLLM {version} joins nodes by Ray only", "write ray, or take a newer engine")
        return value

    @field_validator("extra_args")
    @classmethod
    def _engine_knows_them_and_no_key_of_ours_says_them(
        cls, value: tuple[str, ...], info: ValidationInfo
    ) -> tuple[str, ...]:
        wrong: list[tuple[str, object, str, str]] = [
            (
                f"[{flag.index}]",
                flag.spelling,
                "is set by the program from another key",
                f"use {_OWNED_FLAGS[flags.canonical(flag.spelling)]}",
            )
            for flag in flags.parse(value)
            if flags.canonical(flag.spelling) in _OWNED_FLAGS
        ]
        wrong += [
            (
                f"[{i}]",
                word,
                "comes before the first flag, and the engine takes no positional argument",
                "write its flag before it",
            )
            for i, word in enumerate(value[: flags.first(value)])
        ]
        refused = {index for index, *_ in wrong}
        if "version" in info.data:
            beside = [each for each in _OWNED_FLAGS if flags.has(each, info.data["version"])]
            judged = flags.problems(value, info.data["version"], info.data.get("launcher"), beside)
            wrong += [(f"[{i}]", value[i], why, instead) for i, why, instead in judged if f"[{i}]" not in refused]
        refuse(*wrong)
        return value

    @field_validator("reasoning_parser")
    @classmethod
    def _the_release_has_the_parser(cls, value: str | None, info: ValidationInfo) -> str | None:
        version, flag = info.data.get("version"), "--reasoning-parser"
        # If the arguments are refused, it is unknown whether a plugin adds a parser.
        if value in (None, _NONE) or version is None or "extra_args" not in info.data:
            return value
        if not flags.has(flag, version):
            raise rule(value, f"vLLM {version} has no reasoning parser", "write none, or take a newer engine")
        if wrong := flags.value_problem(flag, str(value), version, info.data["extra_args"]):
            raise rule(value, *wrong)
        return value

    @field_validator("env")
    @classmethod
    def _sets_variables_that_are_none_of_ours(cls, value: dict[str, str]) -> dict[str, str]:
        refuse(
            *[
                (f".{name}", "", "is set by the program or LeaderWorkerSet", "leave it out")
                for name in value
                if name.startswith(_OUR_VARIABLES)
            ],
            *[(f".{name}", "", *wrong) for name in value if (wrong := kubernetes_names.variable_problem(name))],
        )
        return value


class Layout(_OfVllm):
    """How one replica is split over GPUs. data x tensor x pipeline = nodes x gpusPerNode."""

    nodes: Positive = Field(description="the number of nodes (pods) of one replica")
    gpus_per_node: Positive = Field(_GPUS_DEFAULT, description="the number of GPUs of each node")
    data: Positive = Field(1, description="the data parallel size: engines that share the requests of one port")
    pipeline: Positive = Field(description="the pipeline parallel size: stages that split the layers")
    tensor: Positive = Field(description="the tensor parallel size: GPUs that split every layer")
    expert_parallel: bool = Field(
        False, description="true to give each of the tensor x data GPUs of a stage whole experts"
    )
    decode_context: Positive = Field(
        1, description="the decode context parallel size: tensor ranks that share one request's KV cache"
    )

    @property
    def gpus(self) -> int:
        """GPUs of one replica."""
        return self.nodes * self.gpus_per_node

    @field_validator("gpus_per_node")
    @classmethod
    def _a_pod_has_so_many(cls, value: int, info: ValidationInfo) -> int:
        around = context_of(info)
        allowed = around.pods.get("gpus") if around.pods else None
        if allowed and value not in allowed:
            whose = f"series {around.series} of {around.cloud}" if around.series else around.cloud
            raise rule(value, f"{whose} has no pod of {value} GPUs", f"write one of {', '.join(map(str, allowed))}")
        return value

    @field_validator("tensor")
    @classmethod
    def _ranks_fill_the_gpus(cls, tensor: int, info: ValidationInfo) -> int:
        if not {"nodes", "gpus_per_node", "pipeline", "data"} <= info.data.keys():
            return tensor
        nodes, per_node, pipeline, data = (info.data[key] for key in ("nodes", "gpus_per_node", "pipeline", "data"))
        ranks, gpus = data * tensor * pipeline, nodes * per_node
        if ranks != gpus:
            stages, remainder = divmod(gpus, data * tensor)
            instead = f"write pipeline: {stages}" if not remainder else f"write tensor: {per_node}, pipeline: {nodes}"
            if remainder and data > 1:
                instead = f"write tensor: 1, pipeline: 1, data: {gpus}"
            raise rule(
                tensor,
                f"{f'data {data} x ' if data > 1 else ''}tensor {tensor} x pipeline {pipeline} = {ranks} ranks, but "
                f"nodes {nodes} x gpusPerNode {per_node} = {gpus} GPUs",
                f"{instead}, or change nodes",
            )
        return tensor


class Resources(_OfVllm):
    """What each pod of a replica requests; its limits are the same."""

    cpu: Positive = Field(description="whole CPUs of each pod, such as 64")
    memory: BinaryQuantity = Field(description="memory of each pod, such as 512Gi")
    shm: BinaryQuantity = Field(
        "32Gi", validate_default=True, description="size of /dev/shm, such as 32Gi; it is part of memory"
    )
    ephemeral_storage: BinaryQuantity | None = Field(None, description="scratch disk of each pod, such as 30Gi")

    @model_validator(mode="before")
    @classmethod
    def _one_value_for_both(cls, given: Any) -> Any:
        if isinstance(given, dict) and {"requests", "limits"} & given.keys():
            raise rule(
                given,
                "requests equal limits: pods with GPUs are Guaranteed, and a cloud would raise the lower one",
                "write cpu and memory",
            )
        return given

    @field_validator("cpu")
    @classmethod
    def _the_series_has_such_cpus(cls, value: int, info: ValidationInfo) -> int:
        shapes, series = (context_of(info).pods or {}).get("memoryGib"), context_of(info).series
        if shapes and str(value) not in shapes:
            raise rule(
                value,
                f"series {series} has no pod of {value} vCPU, and a shape between two is refused or billed as the "
                "larger",
                f"write one of {', '.join(shapes)}",
            )
        return value

    @field_validator("cpu", "memory")
    @classmethod
    def _a_node_has_so_much(cls, value: Any, info: ValidationInfo) -> Any:
        node = (context_of(info).pods or {}).get("node")
        if node and info.field_name == "cpu" and value > node["vcpu"]:
            raise rule(value, f"a node of {node['type']} has {node['vcpu']}", f"write at most {node['vcpu']}")
        if node and info.field_name == "memory" and gibibytes(value) > node["memoryGib"]:
            most = f"{node['memoryGib']}Gi"
            raise rule(value, f"a node of {node['type']} has {most}", f"write at most {most}")
        return value

    @field_validator("memory")
    @classmethod
    def _the_series_has_such_pods(cls, value: str, info: ValidationInfo) -> str:
        shapes, cpu = (context_of(info).pods or {}).get("memoryGib"), info.data.get("cpu")
        if not shapes:
            return value
        # If the CPUs are refused, check against the pods of every CPU size.
        which = [str(cpu)] if cpu else list(shapes)
        sizes = list(dict.fromkeys(gib for vcpu in which for gib in shapes[vcpu]))
        if gibibytes(value) not in sizes:
            larger = [gib for gib in sizes if gib > gibibytes(value)]
            what = f"of {cpu} vCPU with" if cpu else "with"
            raise rule(
                value,
                f"series {context_of(info).series} has no pod {what} that memory, and it would be billed as the next "
                "larger",
                f"write {' or '.join(f'{gib}Gi' for gib in larger or sizes)}",
            )
        return value

    @field_validator("ephemeral_storage")
    @classmethod
    def _the_series_has_such_disks(cls, value: str | None, info: ValidationInfo) -> str | None:
        most = (context_of(info).pods or {}).get("ephemeralGib")
        if value and most and gibibytes(value) > most:
            raise rule(
                value, f"a pod of series {context_of(info).series} has at most {most}Gi", f"write at most {most}Gi"
            )
        return value

    @field_validator("shm")
    @classmethod
    def _shm_is_part_of_memory(cls, value: str, info: ValidationInfo) -> str:
        memory = info.data.get("memory")
        if memory and gibibytes(value) >= gibibytes(memory):
            raise rule(value, f"/dev/shm counts towards the pod's memory of {memory}", "write less than memory")
        return value


class Load(Strict):
    """What clients will ask of all replicas together. Whether it makes sense is the planner's to say."""

    input: Positive = Field(description="tokens of a request, in the mean")
    output: Positive = Field(description="tokens of an answer, in the mean")
    rate: _Amount | None = Field(None, description="requests a second, over all replicas")
    concurrency: _Amount | None = Field(None, description="requests at once, over all replicas, in place of rate")
    ttft_seconds: _Amount | None = Field(None, description="what the mean time to the first token may be at most")
    tpot_seconds: _Amount | None = Field(None, description="what the mean time per output token may be at most")


def _launcher(info: ValidationInfo) -> str | None:
    """The launcher of a service's engine; None if the engine is refused."""
    with contextlib.suppress(Unjudged, KeyError):
        return info.data["engine"].launcher
    return None


class OwnModel(Strict):
    """A model that the catalog does not have. With a config.json that the program understands it is planned as any
    other; without, its service needs unproven: true, and only what follows from the bytes is planned."""

    repository: Repository = Field(description="its repository with owner, such as acme/Acme-70B")
    file_bytes: Annotated[int, Field(gt=0, le=10**18)] = Field(description="the bytes of its weights' files")
    context: Positive = Field(description="its longest context in tokens")
    config: ConfigPath | None = Field(None, description="the path of its config.json, from the project's folder")

    @property
    def described(self) -> Described:
        """The model, in the planner's terms."""
        return Described(self.repository, self.file_bytes, self.context, self.config)


# By its kind, so that what is no map is judged as a name.
_Model = Annotated[
    Annotated[ModelName, Tag("name")] | Annotated[OwnModel, Tag("map")],
    Discriminator(lambda value: "map" if isinstance(value, dict | OwnModel) else "name"),
]


class Service(_OfVllm):
    """One model, served under one name."""

    named: _Model = Field(
        alias="model",
        description="the model's public repository name without its owner, such as DeepSeek-R1; or a map of "
        "repository, fileBytes and context for one that the catalog does not have",
    )
    served_model_name: ServedName | None = Field(
        None, description="the model's name in requests; the service's name if absent"
    )
    engine: Engine = Field(description="a map with image and version")
    layout: Annotated[Layout | None, AUTO] = Field(
        None,
        description="a map with nodes, tensor and pipeline, or auto for the cheapest layout that fits",
        json_schema_extra=auto_schema,
    )
    resources: Resources = Field(description="a map with cpu and memory")
    startup_seconds: Seconds | None = Field(
        None, description="seconds of a cold start, from pod to first answer, if you know better than the plan"
    )
    max_model_len: Annotated[Positive | None, AUTO] = Field(
        None,
        description="the longest context in tokens, or auto for the longest that fits",
        json_schema_extra=auto_schema,
    )
    unproven: bool = Field(
        False, description="true to deploy although the plan says that it does not fit, or does not know the model"
    )
    replicas: Count = Field(1, description="the number of copies of the model, 0 or more")
    load: Load | None = Field(None, description="a map with input, output and rate: what clients will ask for")
    workload: Annotated[Literal["lws", "fleet"] | None, AUTO] = Field(
        None,
        validate_default=True,
        description="lws is a LeaderWorkerSet, fleet a RayClusterFleet of AIBrix; auto for the cloud's usual one",
        json_schema_extra=auto_schema,
    )
    gateway: Annotated[Literal["aibrix", "none"] | None, AUTO] = Field(
        None,
        validate_default=True,
        description="aibrix routes through its gateway, none serves by a Service alone; auto is aibrix for fleets",
        json_schema_extra=auto_schema,
    )
    routing: Routing = Field(Routing.model_construct(), description="a map with requestSeconds")
    autoscaling: Autoscaling | None = Field(None, description="a map with maximum; replicas stay fixed without it")
    schedule: Schedule | None = Field(
        None, description="a map with timezone and on: when its replicas run; always if absent"
    )
    verify_after_up: bool = Field(
        False,
        description="true to end an up that changes the service by asking it, from inside the cluster, for an answer",
    )
    rollout: Rollout = Field(Rollout.model_construct(), description="a map with strategy")
    port: Annotated[int, Field(gt=0, lt=65536)] = Field(8000, description="the port that serves HTTP, 1 to 65535")
    paths: tuple[str, ...] = Field(
        (), strict=False, description="a list of further vLLM paths that clients may call, such as /tokenize"
    )
    drain_seconds: Seconds | None = Field(
        None,
        description="seconds that a stopping pod waits for its answers; the plan's longest if absent",
    )
    expose: Exposure = Field(Exposure.model_construct(to="cluster", allow_list=None), description="a map with to")
    clients: tuple[Client, ...] | None = Field(
        None,
        strict=False,
        description="a list of who reaches the port besides gateway and Prometheus; the namespace if absent",
    )
    readiness_probe: bool = Field(True, description="true, unless something else decides when the leader is ready")
    startup_policy: Literal["LeaderCreated", "LeaderReady"] = Field(
        "LeaderCreated", description="when a group's workers are created"
    )
    restart_policy: Literal["RecreateGroupOnPodRestart", "RecreateGroupAfterStart", "None"] = Field(
        "RecreateGroupOnPodRestart", description="what the death of one pod does to its group"
    )
    pod_labels: PodLabels = Field({}, description="a map of further labels of every pod, text to text")
    pod_annotations: PodAnnotations = Field({}, description="a map of further annotations of every pod, text to text")
    service_annotations: PodAnnotations = Field(
        {}, description="a map of further annotations of the Kubernetes Service, text to text"
    )
    pod: EnginePod | None = Field(None, description="a map of what your cluster requires of the pods")

    @property
    def first_replicas(self) -> int:
        """The number of replicas at the start, and always if nothing scales them."""
        return self.autoscaling.minimum if self.autoscaling else self.replicas

    @property
    def parser(self) -> str | None:
        """The reasoning parser that the engine gets: the file's, or the model's own."""
        engine = self.engine
        parser = engine.reasoning_parser or fact("models", "reasoning", "parsers").get(self.model, _NONE)
        return parser if parser != _NONE and flags.has("--reasoning-parser", engine.version) else None

    @property
    def reasoning_tags(self) -> tuple[str, ...]:
        """What that parser keeps out of an answer's text; nothing where that is unknown."""
        return tuple(fact("models", "reasoning", "tags").get(self.parser or _NONE, ()))

    @property
    def most_replicas(self) -> int:
        """The largest number of replicas, not counting an update's surge."""
        return self.autoscaling.maximum if self.autoscaling else self.replicas

    @field_validator("workload")
    @classmethod
    def _the_cloud_runs_it(cls, value: str | None, info: ValidationInfo) -> str:
        cloud = context_of(info).cloud
        can = CLOUDS.get(cloud or "")
        usual = can.workloads[0] if can else "lws"
        if can and value and value not in can.workloads:
            raise rule(value, f"AIBrix, which runs fleets, is not installed on {cloud}", "write lws")
        if (value or usual) == "fleet" and _launcher(info) == "native":
            raise rule(value or "auto", "a fleet is a Ray cluster", "write lws, or engine.launcher: ray")
        return value or usual

    @field_validator("gateway")
    @classmethod
    def _the_cloud_has_it(cls, value: str | None, info: ValidationInfo) -> str:
        workload, around = info.data.get("workload"), context_of(info)
        can = CLOUDS.get(around.cloud or "")
        if can and value and value not in can.gateways:
            raise rule(value, f"AIBrix is not installed on {around.cloud}", "write none")
        problem = aibrix_features.lws_problem(around.aibrix) if around.aibrix and workload == "lws" else None
        if value == "aibrix" and problem:
            raise rule(value, *problem)
        if value is None and workload is None:
            raise Unjudged
        return value or ("aibrix" if workload == "fleet" and can and "aibrix" in can.gateways else "none")

    @field_validator("routing")
    @classmethod
    def _a_gateway_routes(cls, value: Routing, info: ValidationInfo) -> Routing:
        if info.data.get("gateway") == "none":
            can = CLOUDS.get(context_of(info).cloud or "")
            instead = "leave it out" + (", or write gateway: aibrix" if can and "aibrix" in can.gateways else "")
            raise rule("", "only a Kubernetes Service routes this service's requests", instead)
        return value

    @field_validator("startup_policy", "restart_policy")
    @classmethod
    def _the_workload_has_it(cls, value: Any, info: ValidationInfo) -> Any:
        if info.data.get("workload") == "fleet":
            raise rule(value, "a fleet has no such setting", "leave it out")
        return value

    @field_validator("rollout")
    @classmethod
    def _the_workload_rolls_so(cls, value: Rollout, info: ValidationInfo) -> Rollout:
        strategy, gateway, routing = value.strategy, info.data.get("gateway"), info.data.get("routing")
        if value.canary and gateway == "none":
            can = CLOUDS.get(context_of(info).cloud or "")
            instead = "leave it out" + (", or write gateway: aibrix" if can and "aibrix" in can.gateways else "")
            refuse((".canary", list(value.canary), "a Service sends to all its pods alike", instead))
        if strategy == "blueGreen" and routing and routing.strategy:
            why = f"with routing.strategy {routing.strategy} AIBrix sends requests to every ready pod of a model"
            key, given = ("canary", list(value.canary)) if value.canary else ("strategy", strategy)
            refuse((f".{key}", given, why, "leave one of the two out"))
        for key, does in (("schedule", "starts and stops"), ("autoscaling", "scales")):
            if strategy == "blueGreen" and info.data.get(key):
                why = f"the {key} {does} one group by its name, and blueGreen gives each version another"
                refuse((".strategy", strategy, why, "leave one of the two out"))
        return value

    @field_validator("autoscaling")
    @classmethod
    def _the_release_scales_so(cls, value: Autoscaling | None, info: ValidationInfo) -> Autoscaling | None:
        around, engine = context_of(info), info.data.get("engine")
        if value is None:
            return None
        kind = {"fleet": "RayClusterFleet", "lws": "LeaderWorkerSet"}.get(info.data.get("workload") or "")
        by_aibrix = value.engine == "aibrix"
        if by_aibrix and around.aibrix and kind and (problem := aibrix_features.target_problem(around.aibrix, kind)):
            refuse((".engine", value.engine, *problem))
        if not by_aibrix and kind == "RayClusterFleet":
            refuse((".engine", value.engine, "only AIBrix scales a fleet here", "leave it out, or write workload: lws"))
        if info.data.get("replicas", 1) != 1:
            raise rule(
                "",
                "the autoscaler sets the number of replicas",
                "write autoscaling.minimum, and leave replicas out",
            )
        if engine:
            wrong = value.problems(around.aibrix, engine.version, None)
            refuse(*[(f".{key}", setting, why, instead) for key, setting, why, instead in wrong])
        return value

    @field_validator("schedule")
    @classmethod
    def _it_has_replicas_to_start(cls, value: Schedule | None, info: ValidationInfo) -> Schedule | None:
        if value is None:
            return None
        if info.data.get("autoscaling"):
            why = "the autoscaler sets the number of replicas too, and would start what the schedule has stopped"
            raise rule("", why, "leave one of the two out")
        if info.data.get("replicas") == 0:
            raise rule("", "replicas is 0, so it starts nothing", "write replicas: 1, or leave it out")
        return value

    @field_validator("verify_after_up")
    @classmethod
    def _somebody_is_there(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("schedule"):
            why = "an up at an hour at which the schedule has stopped it would find nobody"
            raise rule(value, why, "leave one of the two out, and run python -m ops verify")
        return value

    @field_validator("port")
    @classmethod
    def _port_is_free(cls, value: int, info: ValidationInfo) -> int:
        cloud = context_of(info).cloud
        reserved = fact("clouds", cloud, "reservedPorts") if cloud else {}
        launcher = _launcher(info)
        inside = fact("engines", launcher, "ports") if launcher else {}
        taken = {
            **{port: f"{cloud} reserves it for {what}" for port, what in reserved.items()},
            **{port: f"the same pod uses it for {what}" for port, what in inside.items()},
        }
        if str(value) in taken:
            raise rule(value, taken[str(value)], "write 8000")
        if info.data.get("workload") == "fleet" and (problem := fleet.ray_port(value)):
            raise rule(value, *problem)
        version = context_of(info).aibrix if info.data.get("gateway") == "aibrix" else None
        if version and (problem := aibrix_features.port_problem(version, value)):
            raise rule(value, *problem)
        return value

    @field_validator("paths")
    @classmethod
    def _the_release_answers_there(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if "engine" in info.data:
            judged = [(i, path, routes.problem(path, info.data["engine"].version)) for i, path in enumerate(value)]
            refuse(*[(f"[{i}]", path, *problem) for i, path, problem in judged if problem])
        return value

    @property
    def model(self) -> str:
        """The model's name, without its owner."""
        return self.named if isinstance(self.named, str) else self.named.described.name

    @property
    def described(self) -> Described | None:
        """What the file says of a model that the catalog does not have."""
        return None if isinstance(self.named, str) else self.named.described

    @field_validator("clients")
    @classmethod
    def _somebody_reaches_it(cls, value: tuple[Client, ...] | None, info: ValidationInfo) -> tuple[Client, ...] | None:
        if value is not None and not value:
            raise rule("[]", "names no client", "write one client, or leave it out")
        exposed = "expose" in info.data and info.data["expose"].to != "cluster"
        if value is not None and exposed and not any(client.cidr for client in value):
            raise rule("", "clients of the load balancer have addresses outside the cluster", "add one with cidr")
        return value

    @field_validator("drain_seconds")
    @classmethod
    def _the_platform_waits_so_long(cls, value: int | None, info: ValidationInfo) -> int | None:
        notice = context_of(info).notice
        if value and notice and value > (most := timeouts.longest_drain(notice)):
            raise rule(value, f"an evicted pod has {notice} s in all", f"write at most {most}")
        return value

    @field_validator("startup_policy")
    @classmethod
    def _group_can_start(cls, value: str, info: ValidationInfo) -> str:
        if value == "LeaderReady" and info.data.get("readiness_probe"):
            raise rule(
                value,
                "workers would wait for a leader whose readiness probe passes only when the workers have "
                "joined: a deadlock",
                "write LeaderCreated",
            )
        return value

    @field_validator("restart_policy")
    @classmethod
    def _lws_has_it(cls, value: str, info: ValidationInfo) -> str:
        lws = context_of(info).lws
        if value == "RecreateGroupAfterStart" and lws and not addons.has("lws", lws, value):
            raise rule(value, f"LeaderWorkerSet {lws} does not have it", "write RecreateGroupOnPodRestart")
        return value

    @field_validator("service_annotations")
    @classmethod
    def _no_load_balancer_of_ours(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        ours = balancer_annotations(context_of(info).cloud)
        refuse(
            *(
                (f".{key}", text, "is set by the program from expose", "write expose")
                for key, text in value.items()
                if key in ours
            )
        )
        return value
