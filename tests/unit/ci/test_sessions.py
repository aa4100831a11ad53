"""A job's OIDC token becomes a role's keys, for the cloud and for the state's bucket, and is kept from programs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ci import sessions
from planning.problems import Refused
from tests.support import github


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch) -> Iterator[github.Repository]:
    with github.serve() as repository:
        for name, value in repository.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv(sessions.ROLE, "role")
        monkeypatch.setenv(sessions.PROVIDER, "acs:ram::1:oidc-provider/github")
        yield repository


@pytest.mark.parametrize(
    ("cloud", "keys", "role"),
    [
        ("acs", ("ALICLOUD_ACCESS_KEY", "ALICLOUD_SECRET_KEY", "ALICLOUD_SECURITY_TOKEN"), "RoleArn"),
        ("volcengine", ("VOLCENGINE_ACCESS_KEY", "VOLCENGINE_SECRET_KEY", "VOLCENGINE_SESSION_TOKEN"), "RoleTrn"),
    ],
)
def test_cloud_and_bucket_get_the_roles_keys_and_programs_none_of_the_jobs_tokens(
    repository: github.Repository, monkeypatch: pytest.MonkeyPatch, cloud: str, keys: tuple[str, ...], role: str
):
    monkeypatch.setenv(sessions.AUDIENCE, "sts.example")
    monkeypatch.setenv(sessions.SECONDS, "7200")
    said: list[str] = []
    found = sessions.environment(cloud, "prod", said.append)
    given = [found[name] for name in keys]
    assert given == [found[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")]
    assert said == [f"::add-mask::{value}" for value in given] and len(set(given)) == 3
    asked = repository.exchanged[0]
    assert (asked["Action"], asked[role], asked["OIDCToken"]) == ("AssumeRoleWithOIDC", "role", "jwt-for-sts.example")
    assert (asked["RoleSessionName"], asked["DurationSeconds"]) == ("modelserve-prod", "7200")
    for name in ("GITHUB_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_URL"):
        assert name not in found


def test_without_a_role_the_keys_that_are_there_are_used(
    repository: github.Repository, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv(sessions.ROLE)
    monkeypatch.setenv("ALICLOUD_ACCESS_KEY", "mine")
    found = sessions.environment("acs", "prod")
    assert found["ALICLOUD_ACCESS_KEY"] == "mine" and "GITHUB_TOKEN" not in found
    assert repository.exchanged == []


def test_elsewhere_than_on_github_the_token_is_given(repository: github.Repository, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_URL")
    monkeypatch.setenv(sessions.TOKEN, "jwt-of-gitlab")
    found = sessions.environment("volcengine", "prod", lambda _: None)
    assert repository.exchanged[0]["OIDCToken"] == "jwt-of-gitlab" and sessions.TOKEN not in found


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (sessions.PROVIDER, ""),
        (sessions.SECONDS, "60"),
        (sessions.SECONDS, "1h"),
        ("ACTIONS_ID_TOKEN_REQUEST_URL", ""),
        ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "wrong"),
        (sessions.STS, "http://127.0.0.1:9"),
    ],
)
def test_what_is_missing_or_wrong_is_one_line(
    repository: github.Repository, monkeypatch: pytest.MonkeyPatch, name: str, value: str
):
    monkeypatch.setenv(name, value)
    with pytest.raises(Refused) as refused:
        sessions.environment("acs", "prod")
    assert len(refused.value.lines) == 1 and refused.value.problems[0].instead


@pytest.mark.parametrize("cloud", ["acs", "volcengine"])
def test_a_role_that_does_not_trust_the_job_says_so_without_the_token(repository: github.Repository, cloud: str):
    repository.trusts = False
    with pytest.raises(Refused) as refused:
        sessions.environment(cloud, "prod")
    assert "NoPermission" in str(refused.value) and "jwt-for" not in str(refused.value)
