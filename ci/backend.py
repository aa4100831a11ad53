"""Whether Pulumi can keep its state at a URL, in the object store of either cloud.

Both stores want the bucket in the host name, and refuse a chunked body: the URL and the engine must suit that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from planning.catalog import fact
from planning.problems import Problem

_KEY = "backend"
_NO = ("false", "0", "f")


def problems(url: str, engine: str | None = None) -> list[Problem]:
    """Everything that prevents an engine of version `engine`, such as 3.272.0, from keeping state at `url`.

    Judges only `s3://` URLs. If `engine` is None, judges the URL alone.
    """
    parts = urlsplit(url)
    if parts.scheme != "s3":
        return []
    wrong = list(_of_url(parts))
    least = fact("ci", "backend", "newerThan")
    if engine is not None and _numbers(engine) <= _numbers(least):
        why = "sends bodies or checksums that the object store refuses"
        wrong.append(Problem("pulumi version", engine, why, f"install a release after {least}"))
    return wrong


def _of_url(parts: SplitResult) -> Iterator[Problem]:
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    endpoint = query.get("endpoint", "")
    store, region = _store(endpoint)
    if store is None:
        wanted = " or ".join(f"https://{each['endpoint']}" for each in _stores().values())
        why = "is not the S3 endpoint of OSS or TOS" if endpoint else "is missing, so the bucket is sought at AWS"
        yield Problem(f"{_KEY}: endpoint", endpoint, why, f"write endpoint={wanted}")
    elif not endpoint.startswith("https://"):
        yield Problem(f"{_KEY}: endpoint", endpoint, "is without https://", f"write https://{_host(endpoint)}")
    for name in fact("ci", "backend", "pathStyle"):
        if query.get(name, "false").lower() not in _NO:
            why = "puts the bucket into the path, which "
            why += f"{store['name']} answers with {store['pathStyleAnswer']}" if store else "OSS and TOS refuse"
            yield Problem(f"{_KEY}: {name}", query[name], why, f"leave {name} out: the bucket goes into the host name")
    if not re.fullmatch(fact("oss", "bucket", "namePattern"), parts.netloc):
        why = "is no bucket's name: 3 to 63 of lowercase letters, digits and hyphens"
        yield Problem(f"{_KEY}: bucket", parts.netloc, why, "write s3://BUCKET?region=…&endpoint=…")
    if not query.get("region") or (region and query["region"] != region):
        why = f"is not that of the endpoint, {region}" if query.get("region") else "is missing, and signs every request"
        yield Problem(f"{_KEY}: region", query.get("region", ""), why, f"write region={region or 'cn-hangzhou'}")
    for name in sorted(query.keys() - set(fact("ci", "backend", "known"))):
        yield Problem(f"{_KEY}: {name}", query[name], "is a parameter that Pulumi does not know", "leave it out")


def _store(endpoint: str) -> tuple[Mapping[str, Any] | None, str]:
    """The store behind an endpoint, and its region; None if it is neither OSS nor TOS."""
    for store in _stores().values():
        if host := re.fullmatch(store["hosts"], _host(endpoint)):
            return store, host["region"]
    return None, ""


def _stores() -> dict[str, Mapping[str, Any]]:
    return fact("ci", "backend", "stores")


def _host(endpoint: str) -> str:
    return endpoint.rpartition("://")[2].partition("/")[0].partition(":")[0]


def _numbers(version: str) -> tuple[int, ...]:
    numbers = re.search(r"(\d+)\.(\d+)\.(\d+)", version)
    return tuple(map(int, numbers.groups())) if numbers else ()
