"""Cloud keys for one job: exchanges its OIDC token for a role's keys (AssumeRoleWithOIDC of either cloud).

The same keys open the cloud's provider and the state's bucket. Programs get them only through their environment.
The providers' own `assumeRoleWithOidc` is not used: as an argument, the token would end up in the state; and the
state's bucket needs keys before any provider runs.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

import requests

from ci import http
from planning.catalog import entries, fact
from planning.problems import Problem, Refused, printable

ROLE = "MODELSERVE_ROLE"
PROVIDER = "MODELSERVE_OIDC_PROVIDER"
TOKEN = "MODELSERVE_OIDC_TOKEN"
AUDIENCE = "MODELSERVE_OIDC_AUDIENCE"
SECONDS = "MODELSERVE_SESSION_SECONDS"
STS = "MODELSERVE_STS"
_REQUEST = ("ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN")
_KEPT_BACK = (*_REQUEST, TOKEN, "GITHUB_TOKEN")
_WAIT = 30
# Stacks without an account of a cloud: a file that names no cloud, and the rehearsal.
_NO_CLOUD = ("", "local")
_BUCKET = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def environment(cloud: str, stack: str, say: Callable[[str], None] = print) -> dict[str, str]:
    """The environment of the programs that a job runs for a stack: this one's, without the job's own tokens.

    With MODELSERVE_ROLE set, it has that role's keys, which the runner is told to mask; otherwise the keys that are
    already there. Raises Refused if the role's keys cannot be had.
    """
    kept = {name: value for name, value in os.environ.items() if name not in _KEPT_BACK}
    role = os.environ.get(ROLE)
    if not role or cloud in _NO_CLOUD:
        return kept
    if cloud not in entries("ci")["roles"]:
        instead = f"leave {ROLE} out, and give the job keys"
        raise Refused(Problem("cloud.kind", printable(cloud), "jobs get no role's keys there", instead))
    spelt = fact("ci", "roles", cloud)
    keys = _assume(spelt, role, stack)
    for key in keys:
        say(f"::add-mask::{key}")
    return kept | dict(zip(spelt["variables"], keys, strict=True)) | dict(zip(_BUCKET, keys, strict=True))


def _assume(spelt: Mapping[str, Any], role: str, stack: str) -> list[str]:
    query = {"Action": "AssumeRoleWithOIDC", "Version": spelt["version"]}
    form = {
        spelt["role"]: role,
        "OIDCToken": _token(),
        "RoleSessionName": f"modelserve-{stack}"[:64],
        "DurationSeconds": str(_seconds()),
    }
    if spelt["rpcStyle"]:
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        query |= {"Format": "JSON", "Timestamp": now, "SignatureNonce": uuid.uuid4().hex}
    if spelt["provider"]:
        form["OIDCProviderArn"] = _required(PROVIDER, f"write {spelt['provider']}")
    found: Any = _answer(ROLE, "POST", os.environ.get(STS) or spelt["url"], params=query, data=form)
    for key in (*spelt["under"], "Credentials"):
        found = found.get(key) if isinstance(found, Mapping) else None
    said = [found.get(key) for key in spelt["keys"]] if isinstance(found, Mapping) else []
    keys = [key for key in said if isinstance(key, str) and key]
    if not keys or len(keys) < len(said):
        raise Refused(Problem(ROLE, role, "was not given: the answer has no keys", "look at the role's trust policy"))
    return keys


def _token() -> str:
    if given := os.environ.get(TOKEN):
        return given
    url, bearer = (os.environ.get(name) for name in _REQUEST)
    if not url or not bearer:
        instead = f"give the job `permissions: id-token: write`; elsewhere than on GitHub set {TOKEN}"
        raise Refused(Problem(_REQUEST[0], "", "is not set", instead))
    audience = {"audience": os.environ[AUDIENCE]} if os.environ.get(AUDIENCE) else {}
    answer = _answer(_REQUEST[0], "GET", url, params=audience, headers={"Authorization": f"Bearer {bearer}"})
    if not answer.get("value"):
        raise Refused(Problem(_REQUEST[0], "", "the answer has no token", "run the job again"))
    return str(answer["value"])


def _seconds() -> int:
    seconds = os.environ.get(SECONDS) or "3600"
    least, most = (fact("ci", "sessions", name) for name in ("shortestSeconds", "longestSeconds"))
    if not (seconds.isascii() and seconds.isdigit() and least <= int(seconds) <= most):
        raise Refused(Problem(SECONDS, seconds, "is no length of a session", f"write a number from {least} to {most}"))
    return int(seconds)


def _required(name: str, instead: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise Refused(Problem(name, "", "is not set", instead))
    return value


def _answer(key: str, method: str, url: str, **options: Any) -> Mapping[str, Any]:
    """The answer, a JSON object. If it is an error, the refusal gives its code and never the token."""
    try:
        with http.session(("GET", "POST")) as session:
            answer = session.request(method, url, timeout=_WAIT, **options)
        body = answer.json()
    except (requests.RequestException, ValueError) as error:
        raise Refused(Problem(key, "", f"no answer ({type(error).__name__})", "run the job again")) from None
    if not isinstance(body, Mapping):
        raise Refused(Problem(key, "", "no answer (no JSON object)", "run the job again"))
    told = body.get("ResponseMetadata")
    wrong = told.get("Error") if isinstance(told, Mapping) else None
    # Volcengine may answer an error with status 200.
    if answer.ok and not wrong:
        return body
    wrong = wrong if isinstance(wrong, Mapping) else body
    said = f"{wrong.get('Code', answer.status_code)}: {wrong.get('Message', answer.reason)}"
    raise Refused(Problem(key, "", printable(said), "look at the role's trust policy: issuer, audience and subject"))
