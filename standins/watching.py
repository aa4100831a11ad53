"""Follows all objects of one kind on the rehearsal's API server: one list, then the changes.

Also holds what the processes that play a controller share: their command line, and the loop that calls them.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

import urllib3
import yaml

from local.api import Api, ApiError

# If the API server does not answer for this long, somebody killed it without stopping us.
_LOST_SECONDS = 30


class WatchingApi(Api):
    """The API client, with watches."""

    @classmethod
    def of(cls, kubeconfig: Path, folder: Path) -> WatchingApi:
        """The client of the control plane in `folder`."""
        server = yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
        return cls(server, folder / "pki")

    def watch(self, path: str, version: str) -> Iterator[dict[str, Any]]:
        """Yields events after `version` until the server ends the stream. Raises ApiError if `version` is too old."""
        query = f"?watch=true&resourceVersion={version}&allowWatchBookmarks=true&timeoutSeconds=240"
        timeout = urllib3.Timeout(connect=5, read=300)
        answer = self._pool.request("GET", self.server + path + query, preload_content=False, timeout=timeout)
        try:
            if answer.status >= 400:
                raise ApiError(answer.status, answer.data.decode(errors="replace"))
            rest = b""
            for part in answer.stream(65536):
                *lines, rest = (rest + part).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise ApiError(event["object"].get("code", 500), event["object"].get("message", ""))
                    yield event
        finally:
            # A half-read stream must not go back to the connection pool.
            answer.close()


class Sink(Protocol):
    """Receives the objects that `follow` reports."""

    def see(self, item: dict[str, Any], /) -> None:
        """Records the current state of an object."""

    def forget(self, uid: str, /) -> None:
        """Removes an object that is gone."""

    def keep_only(self, items: list[dict[str, Any]], /) -> None:
        """Removes every object that is not among `items`."""


class Things:
    """The objects of one kind as last observed, by uid."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self.things: dict[str, dict[str, Any]] = {}
        # Whether the first complete list has arrived.
        self.listed = False

    def see(self, thing: dict[str, Any]) -> None:
        """Records an object, unless a newer state of it is known."""
        uid = thing["metadata"]["uid"]
        with self._lock:
            known = self.things.get(uid)
            if known is None or _version(known) <= _version(thing):
                self.things[uid] = thing

    def forget(self, uid: str) -> None:
        """Removes an object that is gone."""
        with self._lock:
            self.things.pop(uid, None)

    def keep_only(self, items: Sequence[Mapping[str, Any]]) -> None:
        """Removes every object that is not among `items`."""
        for uid in self.things.keys() - {item["metadata"]["uid"] for item in items}:
            self.forget(uid)
        self.listed = True

    def named(self, like: Mapping[str, Any], name: str | None = None) -> dict[str, Any] | None:
        """The object in the namespace of `like`, with the same name or with `name`."""
        return self.at(like["metadata"].get("namespace"), name or like["metadata"]["name"])

    def at(self, namespace: str | None, name: str) -> dict[str, Any] | None:
        """The object with that name; `namespace` is None for cluster-scoped objects."""
        for each in list(self.things.values()):
            if (each["metadata"].get("namespace"), each["metadata"]["name"]) == (namespace, name):
                return each
        return None


def place_of(thing: Mapping[str, Any]) -> tuple[str, str]:
    """The namespace and name of a namespaced object."""
    return thing["metadata"]["namespace"], thing["metadata"]["name"]


def deleting(thing: Mapping[str, Any]) -> bool:
    """Whether its deletion has been requested."""
    return bool(thing["metadata"].get("deletionTimestamp"))


def now() -> str:
    """The current time in Kubernetes' format."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _version(thing: Mapping[str, Any]) -> int:
    return int(thing["metadata"]["resourceVersion"])


def follow(api: WatchingApi, path: str, sink: Sink, folder: Path) -> None:
    """Reports every object at `path` to `sink` until the control plane in `folder` is gone.

    Raises SystemExit if the API server stops answering.
    """
    away = 0.0
    while folder.exists():
        try:
            listed = api.get(path)
            away = 0.0
            for item in listed["items"]:
                sink.see(item)
            sink.keep_only(listed["items"])
            for event in api.watch(path, listed["metadata"]["resourceVersion"]):
                if event["type"] == "DELETED":
                    sink.forget(event["object"]["metadata"]["uid"])
                elif event["type"] != "BOOKMARK":
                    sink.see(event["object"])
        except (ApiError, urllib3.exceptions.HTTPError) as error:
            print(f"{datetime.now():%H:%M:%S} {error}", flush=True)
            away = away or time.monotonic()
            if time.monotonic() - away > _LOST_SECONDS:
                raise SystemExit(f"the API server has been away for {_LOST_SECONDS} s") from None
            time.sleep(0.5)


def play(api: WatchingApi, folder: Path, sinks: Mapping[str, Sink], tick: Callable[[], None], seconds: float) -> None:
    """Reports objects to `sinks`, which maps a path to the sink of its objects; calls `tick` every `seconds` seconds.

    Returns when the control plane in `folder` is gone or its API server stops answering.
    """
    followers = [
        threading.Thread(target=follow, args=(api, path, sink, folder), daemon=True) for path, sink in sinks.items()
    ]
    for each in followers:
        each.start()
    while all(each.is_alive() for each in followers):
        try:
            tick()
        except urllib3.exceptions.HTTPError as error:
            print(f"{datetime.now():%H:%M:%S} {error}", flush=True)
        time.sleep(seconds)


def parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    """The command line of a process that runs beside one control plane."""
    made = argparse.ArgumentParser(prog=prog, description=description)
    made.add_argument("--kubeconfig", type=Path, required=True)
    made.add_argument("--folder", type=Path, required=True, help="the control plane's folder")
    return made
