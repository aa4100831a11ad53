"""The recorder fails where a test would otherwise see nothing."""

from __future__ import annotations

import pulumi
import pytest

from tests.support.recorder import Recorder


def test_a_look_up_fails_the_run(engine: Recorder):
    with pytest.raises(Exception, match="an unexpected look-up: cloud:index:getZones"):
        engine.run(lambda: pulumi.runtime.invoke("cloud:index:getZones", {}).value)


def test_an_output_inside_text_fails_the_run(engine: Recorder):
    def program() -> None:
        bucket = pulumi.CustomResource("cloud:index:Bucket", "b", {})
        pulumi.CustomResource("cloud:index:Object", "o", {"path": f"{bucket.id}/x"})

    with pytest.raises(Exception, match="Calling __str__ on an Output"):
        engine.run(program)


def test_two_resources_of_one_type_and_name_fail_the_run(engine: Recorder):
    def program() -> None:
        pulumi.CustomResource("cloud:index:Bucket", "b", {})
        pulumi.CustomResource("cloud:index:Bucket", "b", {})

    with pytest.raises(Exception, match="two resources of one type and name"):
        engine.run(program)


def test_a_read_fails_the_run_unless_the_test_says_what_is_there(engine: Recorder):
    got: list[str] = []

    def program() -> None:
        bucket = pulumi.CustomResource("cloud:index:Bucket", "b", {"size": None}, pulumi.ResourceOptions(id="there"))
        pulumi.get(bucket, "size").apply(got.append)

    with pytest.raises(Exception, match="an unexpected read: cloud:index:Bucket b"):
        engine.run(program)
    engine.found["cloud:index:Bucket"] = {"size": "large"}
    engine.run(program)
    assert engine.reads["cloud:index:Bucket", "b"].id == "there" and got == ["large"]


@pytest.mark.preview_too
def test_what_only_the_maker_knows_is_known_after_an_up_alone(engine: Recorder):
    engine.made["cloud:index:Key"] = {"secret": "s"}
    got: list[str] = []
    engine.run(
        lambda: pulumi.get(pulumi.CustomResource("cloud:index:Key", "k", {"secret": None}), "secret").apply(got.append)
    )
    assert got == ([] if engine.preview else ["s"])
