"""Says what `pulumi up` waits for while it waits, and at once why a pod or a load fails.

The Kubernetes provider says nothing about custom resources and ends only at its timeout. So hooks on an object's create
and update start a watch. It logs a status line whenever the status changes, a warning for each new problem, and, if the
wait fails, one error with the last status. It only reads; the provider still does the waiting. The `rollout` modules
know what each kind waits for.
"""

from __future__ import annotations

import asyncio
import pkgutil
import threading
from collections.abc import Callable, Mapping
from functools import partial

import pulumi
from pulumi.runtime.proto import engine_pb2
from pulumi.runtime.settings import get_engine

from config.services import Service
from watch.rollout import Reader, RolloutStatus, lost

# For a shorter wait, loading the Kubernetes library is not worth it.
_FIRST_LOOK_SECONDS = 3.0
_PERIOD_SECONDS = 2.0

Look = Callable[[Reader, str], RolloutStatus | None]


class Progress:
    """Watches what one stack waits for in its namespace. Loads and asks nothing until a wait takes a few seconds."""

    def __init__(self, context: str, namespace: str, kubeconfig: str | None) -> None:
        self._context, self._namespace, self._kubeconfig = context, namespace, kubeconfig
        self._reader: Reader | None = None
        self._lock = threading.Lock()
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._names: dict[str, str] = {}
        self._last: dict[str, RolloutStatus] = {}
        self._trouble: dict[str, str] = {}
        self._said: dict[str, set[str]] = {}
        self._bindings: dict[str, pulumi.ResourceHookBinding] = {}

    def group_hooks(self) -> pulumi.ResourceHookBinding | None:
        """The hooks of all LeaderWorkerSets; None in a preview, where nothing waits."""
        return self._hooks("group", "rollout_lws:look")

    def fleet_hooks(self) -> pulumi.ResourceHookBinding | None:
        """The hooks of a RayClusterFleet."""
        return self._hooks("fleet", "rollout_fleet:look")

    def sync_hooks(self) -> pulumi.ResourceHookBinding | None:
        """The hooks of a Job."""
        return self._hooks("sync", "rollout_job:look")

    def runtime_hooks(self) -> pulumi.ResourceHookBinding | None:
        """The hooks of a JindoRuntime."""
        return self._hooks("runtime", "rollout_cache:look_at_runtime")

    def load_hooks(self) -> pulumi.ResourceHookBinding | None:
        """The hooks of a DataLoad. A failed load also ends its wait, so the hooks report at the end what went wrong."""
        return self._hooks("load", "rollout_cache:look_at_load")

    def switch_hooks(
        self, name: str, model: str, service: Service, leaders: Mapping[str, str]
    ) -> pulumi.ResourceHookBinding | None:
        """The hooks of a Service or route that asks the `leaders` of a group for a completion before it switches to it,
        and of a route that gives it some of the requests first."""
        if pulumi.runtime.is_dry_run():
            return None
        from watch import switchover

        async def ask(args: pulumi.ResourceHookArgs) -> None:
            place = self._context, self._namespace, self._kubeconfig
            asks = partial(switchover.ask, place, name, model, service, leaders, stays=bool(args.old_inputs))
            await asyncio.to_thread(asks)
            rules = (args.new_inputs or {})["spec"].get("rules")
            if service.rollout.canary and args.old_inputs and rules:
                say = partial(_say, engine_pb2.INFO, args.urn)
                seconds = service.rollout.seconds_of_a_step
                shares = switchover.Shares(place, name, service.rollout.canary, seconds, asks, say)
                await asyncio.to_thread(shares.give, rules[0]["backendRefs"][0])

        asks = pulumi.ResourceHook(f"switch-{name}", ask)
        return pulumi.ResourceHookBinding(before_create=[asks], before_update=[asks])

    def _hooks(self, kind: str, looks: str) -> pulumi.ResourceHookBinding | None:
        """`looks` names the function in `watch` that looks; a preview does not import it, because nothing waits."""
        if pulumi.runtime.is_dry_run():
            return None
        if kind not in self._bindings:
            look: Look = pkgutil.resolve_name(f"watch.{looks}")

            async def begin(args: pulumi.ResourceHookArgs) -> None:
                await self._stop(args.urn)
                self._trouble.pop(args.urn, None)
                self._names[args.urn] = _object_name(args)
                self._said[args.urn] = set()
                self._watches[args.urn] = asyncio.create_task(self._watch(args.urn, look))

            async def end(args: pulumi.ResourceHookArgs) -> None:
                await self._stop(args.urn)
                status = (args.new_outputs or {}).get("status")
                if isinstance(status, dict) and status.get("phase") == "Failed":
                    await self._tell(args.urn, look)

            async def lose(args: pulumi.ErrorHookArgs) -> bool:
                await self._stop(args.urn)
                if args.urn in self._names and args.urn not in self._last:
                    await self._tell(args.urn, look)  # it failed before the first look
                return self._lost(args)

            ignore = pulumi.ResourceHookOptions(ignore_errors=True)  # a failed look must not fail a good rollout
            begins = pulumi.ResourceHook(f"progress-{kind}-begin", begin, ignore)
            ends = pulumi.ResourceHook(f"progress-{kind}-end", end, ignore)
            self._bindings[kind] = pulumi.ResourceHookBinding(
                before_create=[begins],
                before_update=[begins],
                after_create=[ends],
                after_update=[ends],
                on_error=[pulumi.ErrorHook(f"progress-{kind}-lost", lose)],
            )
        return self._bindings[kind]

    def _lost(self, args: pulumi.ErrorHookArgs) -> bool:
        standing = self._last.get(args.urn)
        if standing:
            why = lost(standing, self._trouble.get(args.urn))
            _say(engine_pb2.ERROR, args.urn, f"{args.name} is not ready: {why}")
        return False  # Pulumi does not retry: the next `up` waits again

    async def _stop(self, urn: str) -> None:
        watch = self._watches.pop(urn, None)
        if watch:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def _watch(self, urn: str, look: Look) -> None:
        await asyncio.sleep(_FIRST_LOOK_SECONDS)
        while True:
            await self._tell(urn, look)
            await asyncio.sleep(_PERIOD_SECONDS)

    async def _tell(self, urn: str, look: Look) -> None:
        standing = await asyncio.to_thread(lambda: look(self._connected(), self._names[urn]))
        if standing is None:
            return
        self._last[urn], said = standing, self._said[urn]
        if standing.problems:
            self._trouble[urn] = "; ".join(standing.problems)
        for problem in standing.problems:
            if problem not in said:
                _say(engine_pb2.WARNING, urn, problem)
        if standing.status not in said:
            _say(engine_pb2.INFO, urn, f"waiting: {standing.status}", ephemeral=True)
        said |= {standing.status, *standing.problems}

    def _connected(self) -> Reader:
        with self._lock:
            self._reader = self._reader or Reader(self._context, self._namespace, self._kubeconfig)
            return self._reader


def _object_name(args: pulumi.ResourceHookArgs) -> str:
    """The object's name in the cluster; the resource's name may have a suffix for one of a model's parts."""
    return (args.new_inputs or {}).get("metadata", {}).get("name") or args.name


def _say(severity: engine_pb2.LogSeverity, urn: str, text: str, *, ephemeral: bool = False) -> None:
    """Logs for the resource with this URN. `pulumi.log` needs the resource object, which a hook does not have."""
    log = get_engine()
    if log is not None:
        log.Log(engine_pb2.LogRequest(severity=severity, message=text, urn=urn, ephemeral=ephemeral))
