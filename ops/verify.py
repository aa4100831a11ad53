"""`verify STACK | --url URL`: asks served models for a real, streamed chat completion, and reports how fast it came.

The API key comes from the cluster's Secret or from an environment variable, never from the command line. It is never
printed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import urllib.parse
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from components.serving.modelserve_verify import Answer, Expected, NoAnswer, ask
from config.plans import checked
from config.services import Service
from config.stack import StackConfig
from config.stack_file import RequestError
from ops.arguments import add_stack, count, positive, stack_file
from ops.load import Load, Measured, Sample, measure, told
from planning.names import API_KEY, api_key_secret, coloured, service_object, workload
from planning.problems import Refused
from planning.throughput import LOADED, Point

_LOAD = {"concurrency": 1, "input": 1024, "output": 128, "seed": 0}
_SHOWN = 100  # characters of an answer
_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Outcome:
    """The result for one service: an answer, or the reason why there is none. `paused`: it is to have no replica."""

    service: str
    answer: Answer | None = None
    reason: str | None = None
    paused: bool = False
    load: Measured | None = None

    @property
    def good(self) -> bool:
        """Whether the service does what it is to do."""
        return self.paused or (self.answer is not None and (self.load is None or not self.load.errors))

    def to_json(self) -> dict[str, Any]:
        """The outcome as plain data, its load under GuideLLM's names."""
        return vars(self) | {
            "answer": self.answer and asdict(self.answer),
            "load": self.load and {"benchmarks": [self.load.to_json()]},
        }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_stack(parser)
    parser.add_argument("--service", metavar="NAME", help="ask this service only, not all of the stack")
    parser.add_argument("--url", help="ask this endpoint instead of a stack's, with or without /v1")
    parser.add_argument("--model", help="with --url: the model's name; the first that is served if absent")
    parser.add_argument("--api-key-env", metavar="VAR", help="with --url: the environment variable with the API key")
    parser.add_argument(
        "--timeout", metavar="S", type=positive, default=_TIMEOUT_SECONDS, help="seconds for one answer (default 60)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    load = parser.add_argument_group("load, after the first answer")
    load.add_argument("--load", metavar="N", type=count, help="send N requests, and say how fast their answers came")
    load.add_argument("--concurrency", metavar="C", type=count, help="requests at once (default 1)")
    load.add_argument("--input", metavar="N", type=count, help="tokens of a request (default 1024)")
    load.add_argument("--output", metavar="N", type=count, help="tokens of an answer (default 128)")
    load.add_argument("--seed", metavar="N", type=int, help="another seed sends other requests (default 0)")


def run(args: argparse.Namespace) -> int:
    """Returns 0 if every model answered or is paused, else 1. Raises RequestError or ConfigError."""
    load = _load(args)
    outcomes = [_outcome_of_url(args, load)] if args.url else list(_outcomes_of_stack(args, load))
    good = all(outcome.good for outcome in outcomes)
    if args.json:
        print(json.dumps({"ok": good, "services": [outcome.to_json() for outcome in outcomes]}))
    else:
        for outcome in outcomes:
            print(_told(outcome), file=sys.stdout if outcome.good else sys.stderr)
            if outcome.load:
                plan = _planned(args, outcome.service, outcome.load.load)
                print("\n".join(told(outcome.service, outcome.load, plan)))
    return 0 if good else 1


def _load(args: argparse.Namespace) -> Load | None:
    given = {key: value for key in _LOAD if (value := getattr(args, key)) is not None}
    if args.load is None:
        if given:
            raise RequestError(f"--{next(iter(given))} is of a load; write --load N too")
        return None
    load = Load(requests=args.load, **(_LOAD | given))
    if found := load.problems():
        raise Refused(*found)
    return load


def _under_load(url: str, answer: Answer, key: str | None, timeout: float, load: Load | None) -> Measured | None:
    """What the load finds at an endpoint that has given its first answer."""
    if load is None:
        return None

    def one(prompt: str) -> Sample:
        # Answers of one length, as the plan has them: the engine goes on where the model would end.
        found = ask(url, answer.model, key, timeout, prompt, {"max_tokens": load.output, "ignore_eos": True})
        return Sample(found.first_token_seconds, found.seconds, found.prompt_tokens or load.input, found.tokens)

    return measure(load, one, NoAnswer)


def _outcome_of_url(args: argparse.Namespace, load: Load | None) -> Outcome:
    if args.stack or args.config or args.service:
        raise RequestError("--url asks one endpoint: leave out STACK, --config and --service, or leave out --url")
    key = None
    if args.api_key_env:
        key = os.environ.get(args.api_key_env)
        if not key:
            raise RequestError(f"--api-key-env {args.api_key_env}: is not set; export the API key in it")
    if not _is_http(args.url):
        raise RequestError(f"--url {args.url}: is not an http or https URL; write one such as http://127.0.0.1:8000")

    def answer() -> tuple[Answer, Measured | None]:
        first = ask(args.url, args.model, key, args.timeout)
        return first, _under_load(args.url, first, key, args.timeout, load)

    return _outcome(args.url, answer)


def _is_http(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is not a number
        return False


def _outcomes_of_stack(args: argparse.Namespace, load: Load | None) -> Iterator[Outcome]:
    if not args.stack and not args.config:
        raise RequestError("name a STACK, or an endpoint with --url")
    if args.model or args.api_key_env:
        raise RequestError("--model and --api-key-env go with --url; a stack's own are in its file and its cluster")
    file = stack_file(args)
    stack = file.config()
    if args.service and args.service not in stack.services:
        raise RequestError(f"--service {args.service}: the stack has {', '.join(stack.services)}")
    if "kubeconfig" in file.encrypted:
        where = f"taking context {stack.cluster.context} of KUBECONFIG"
        print(f"the secret modelserve:kubeconfig cannot be read here: {where}", file=sys.stderr)
    from watch.port_forward import Cluster, ClusterError

    def answer(name: str) -> tuple[Answer, Measured | None]:
        return _ask_service(Cluster(stack.cluster.context, stack.cluster.namespace), stack, name, args.timeout, load)

    for name in [args.service] if args.service else stack.services:
        yield _outcome(name, lambda name=name: answer(name), ClusterError)


def _ask_service(
    cluster: Any, stack: StackConfig, name: str, timeout: float, load: Load | None
) -> tuple[Answer, Measured | None]:
    from watch.port_forward import ClusterError

    key = cluster.secret(api_key_secret(name), API_KEY)
    service = stack.services[name]
    try:
        leader = cluster.leader(_front(stack, name))
    except ClusterError:
        group = workload(name, service.workload, gateway=service.gateway == "aibrix")
        # A blue-green group has its version's colour in its name.
        if service.replicas == 0 or cluster.replicas(*group) == 0:
            raise _Paused(_why_paused(service)) from None
        raise
    with cluster.forwarded(leader) as url:
        expected = Expected(service.reasoning_tags)
        first = ask(url, service.served_model_name or name, key, timeout, expected=expected)
        return first, _under_load(url, first, key, timeout, load)


def _front(stack: StackConfig, name: str) -> str:
    """The Service in front of what serves; behind AIBrix's gateway it has the model's name, or a colour's."""
    if stack.services[name].gateway != "aibrix":
        return service_object(name)
    if stack.services[name].rollout.strategy != "blueGreen":
        return name
    from watch import switchover

    live = switchover.live(stack, None, [name])[0].get(name)
    return coloured(name, live.colour) if live and live.colour else name


class _Paused(Exception):
    """The service is to have no replica; `str()` says why."""


def _why_paused(service: Service) -> str:
    if service.schedule:
        return f"its schedule has it on {service.schedule.planned}"
    return "replicas is 0" if service.replicas == 0 else "something else has scaled it to 0"


def _outcome(service: str, answer: Any, *errors: type[Exception]) -> Outcome:
    known: tuple[type[Exception], ...] = (NoAnswer, *errors)
    try:
        first, load = answer()
        return Outcome(service, first, load=load)
    except _Paused as error:
        return Outcome(service, reason=str(error), paused=True)
    except known as error:
        return Outcome(service, reason=str(error))


def _planned(args: argparse.Namespace, service: str, load: Load) -> Point | None:
    """What the plan says of one replica under this load; None where it says nothing, and of an endpoint without one."""
    if args.url:
        return None
    file = stack_file(args)
    asked = {"input": load.input, "output": load.output, "concurrency": load.concurrency}
    # The port-forward reaches one replica, so all of the load is that one's.
    one = file.raw["services"][service] | {"load": asked, "replicas": 1}
    alone = {key: value for key, value in one.items() if key not in ("autoscaling", "schedule")}
    changed = {**file.raw, "services": {service: alone}}
    _, plans = checked(replace(file, raw=changed), with_cluster=False, refuse_misfits=False)
    return plans[service].plan.throughput.point(LOADED)


def _told(outcome: Outcome) -> str:
    answer = outcome.answer
    if outcome.paused:
        return f"{outcome.service}: paused: {outcome.reason}"
    if answer is None:
        return f"{outcome.service}: did not answer: {outcome.reason}"
    text = " ".join(answer.text.split())
    shown = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
    rate = f"{answer.tokens_per_second:.1f} tokens/s" if answer.tokens_per_second else "too short for a rate"
    return (
        f"{outcome.service}: {answer.model} answered: first token after {answer.first_token_seconds:.2f} s, "
        f"{answer.tokens} tokens, {rate}: {shown}"
    )
