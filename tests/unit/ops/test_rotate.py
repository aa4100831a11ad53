"""A rotation makes the new keys first and deletes the old last, waits for readers between, and goes on wherever it was
killed."""

from __future__ import annotations

import argparse
import json
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import pytest

from config.judge import parse
from config.stack_file import RequestError
from ops import rotate
from tests.support import volcengine
from tests.support.stack_files import StackFile
from tests.unit.config.test_bucket_auth import OIDC

ACS = StackFile("acs")


def resource(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {
        "urn": f"urn:pulumi:dev::modelserve::a$alicloud:ram/x:{kind}::{name}",
        "type": f"alicloud:ram/x:{kind}",
        **more,
    }


class Killed(Exception):
    """The command dies here."""


class World:
    """A stack: the generations in its file, the users and keys that there are, and the one that the Secret holds."""

    def __init__(self) -> None:
        self.file, self.users, self.keys, self.secret = [1], {1}, {1}, 1
        self.left_to_live, self.torn = 99, False
        self.reading = 0
        self.log: list[str] = []

    def step(self, what: str) -> None:
        if self.left_to_live == 0:
            raise Killed
        self.left_to_live -= 1
        self.log.append(what)
        assert self.secret in self.keys, "the Secret holds a key that is gone"

    def up(self, stack: str) -> None:
        for generation in self.file:
            if generation not in self.users:
                self.step(f"user {generation}")
                self.users.add(generation)
            if generation not in self.keys:
                self.step(f"key {generation}")
                self.keys.add(generation)
        self.step(f"secret {self.file[0]}")
        self.secret = self.file[0]
        for generation in sorted(self.users - set(self.file)):
            self.step(f"delete {generation}")
            assert self.reading != generation, "somebody reads by a key that goes"
            self.keys.discard(generation)
            self.users.discard(generation)

    def write(self, stack: str, keys: Any) -> None:
        self.step(f"file {list(keys)}")
        self.file = list(keys)

    def wait(self, *_: Any) -> list[str]:
        self.step("wait")
        self.reading = 0
        return []

    def make_readable(self, stack: str) -> None:
        self.torn = False

    def state(self, stack: str) -> dict[str, Any]:
        assert not self.torn, "Pulumi cannot read a state whose attributes a kill tore"

        def named(generation: int) -> str:
            return "weights-reader" if generation == 1 else f"weights-reader-{generation}"

        found = [resource("User", named(each)) for each in self.users]
        return {"deployment": {"resources": found + [resource("AccessKey", named(each)) for each in self.keys]}}

    def rotate(self) -> int:
        return rotate.run(argparse.Namespace(stack="dev", config=None, pause=0, limit=1))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    file = lambda args: SimpleNamespace(  # noqa: E731
        config=lambda: parse(ACS.changed(**{"weights/bucket/keys": made.file})), encrypted=frozenset({"apiKey"})
    )
    for name, value in {
        "stack_file": file,
        "_up": made.up,
        "_write": made.write,
        "_await_readers": made.wait,
        "_state": made.state,
        "_require_settled": lambda stack: made.step("settled"),
    }.items():
        monkeypatch.setattr(rotate, name, value)
    monkeypatch.setattr(rotate.recover, "repair", create_autospec(rotate.recover.repair, return_value=0))
    monkeypatch.setattr(rotate.recover, "make_readable", made.make_readable)
    return made


def test_the_old_key_goes_last_and_only_after_its_readers(world: World):
    assert world.rotate() == 0
    assert world.log == [
        "settled", "file [2, 1]", "user 2", "key 2", "secret 2", "wait", "file [2]", "secret 2", "delete 1",
    ]  # fmt: skip
    assert world.rotate() == 0 and world.keys == {3} and world.file == [3]


@pytest.mark.parametrize("steps", range(10))
def test_killed_at_any_step_it_goes_on_when_it_is_called_again(world: World, steps: int):
    world.left_to_live, world.reading = steps, 1
    try:
        world.rotate()
    except Killed:
        world.left_to_live, world.torn = 99, True
        assert world.rotate() == 0
    (left,) = world.file
    # A user without a key that is known is not built upon.
    assert left == (3 if steps == 3 else 2) and world.keys == world.users == {left} and world.secret == left


def test_a_new_key_that_nobody_knows_goes_with_its_user(world: World):
    world.file, world.users = [2, 1], {1, 2}
    assert world.rotate() == 0
    assert (world.users, world.keys, world.file) == ({3}, {3}, [3]) and "delete 2" in world.log


def test_with_readers_left_both_keys_stay(world: World, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(rotate, "_await_readers", lambda *_: ["ds-0"])
    assert world.rotate() == 1
    assert world.keys == {1, 2} and world.file == [2, 1]
    assert "ds-0 still load weights by the old key; both stay" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("raw", "given", "said"),
    [
        (StackFile("local").whole, (), "the stack makes no access keys"),
        (ACS.changed(**{"weights/sync": ...}), ("accessKey", "secretKey"), "the stack makes no access keys"),
        (ACS.changed(cache={"engine": "none"}), (), "the mounts of running pods keep the key"),
        (ACS.changed(**{"cache": {"engine": "none"}, "cluster/oidc": OIDC}), (), "the stack makes no access keys"),
    ],
)
def test_where_no_key_can_be_rotated_that_is_said(raw: dict[str, Any], given: tuple[str, ...], said: str):
    with pytest.raises(RequestError, match=said):
        rotate.generations(parse(raw, secrets=("apiKey", *given)), given)


def test_where_keys_are_made_they_can_be_rotated():
    for raw in (ACS.whole, volcengine.stack_file()):
        assert rotate.generations(parse(raw, secrets=("apiKey",)), ("apiKey",)) == (1,)


def pod(
    name: str, *, kind: str = "container", running: bool = True, ready: bool = False, owner: str = "", secret="keys"
):
    env = [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": secret, "key": "id"}}}]
    state = {"running": {}} if running else {"terminated": {}}
    return {
        "metadata": {"uid": name, "name": name, "ownerReferences": [{"kind": owner}] if owner else None},
        "spec": {f"{kind}s": [{"name": "c", "env": env}]},
        "status": {
            f"{kind}Statuses": [{"name": "c", "state": state}],
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


def test_who_reads_is_who_runs_on_what_the_secret_held():
    pods = [
        pod("downloads", kind="initContainer"),
        pod("has downloaded", kind="initContainer", running=False),
        pod("streams"),
        pod("serves", ready=True),
        pod("syncs", ready=True, owner="Job"),
        pod("reads another", secret="others"),
        {"metadata": {"uid": "new", "name": "new"}, "spec": {"containers": [{"name": "c"}]}, "status": {}},
    ]
    assert list(rotate.readers(pods, {"keys"}).values()) == ["downloads", "streams", "syncs"]


def test_only_secrets_with_keys_of_the_stacks_own_users_are_looked_at():
    def secret(name: str, *dependencies: str) -> dict[str, Any]:
        outputs = {"metadata": {"name": name}}
        return {"urn": "u", "type": "kubernetes:core/v1:Secret", "outputs": outputs, "dependencies": list(dependencies)}

    key = resource("AccessKey", "weights-reader")["urn"]
    state = {"deployment": {"resources": [secret("cache-key", key), secret("api-key", "urn:pulumi:a::b::c:User::d")]}}
    assert rotate.key_secrets(state) == {"cache-key"}


def test_both_generations_reach_the_file_in_one_write_and_no_key_an_argument_list(monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(rotate.recover, "pulumi", lambda *words: asked.append(words) or "")
    rotate._write("dev", (2, 1))
    rotate._write("dev", (2,))
    at = "modelserve:weights.bucket.keys"
    assert asked == [
        ("config", "set-all", "-s", "dev", "--path", "--plaintext", f"{at}[0]=2", "--plaintext", f"{at}[1]=1"),
        ("config", "rm", "-s", "dev", "--path", f"{at}[1]"),
    ]
    assert json.dumps(asked).count("secret") == 0
