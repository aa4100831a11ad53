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
