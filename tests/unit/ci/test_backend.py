"""A state URL that the object store would refuse is refused before any run, and says why."""

from __future__ import annotations

import pytest

from ci.backend import problems

OSS = "s3://team-state?region=cn-hangzhou&endpoint=https://s3.oss-cn-hangzhou.aliyuncs.com"
TOS = "s3://team-state/prod?region=cn-beijing&endpoint=https://tos-s3-cn-beijing.volces.com"


@pytest.mark.parametrize(
    "url",
    [
        OSS,
        OSS.replace("s3.oss", "oss"),
        OSS.replace("hangzhou.", "hangzhou-internal."),
        TOS,
        TOS.replace("volces", "ivolces"),
        f"{OSS}&s3ForcePathStyle=false&awssdk=v2",
        "file:///state",
        "https://api.pulumi.com",
    ],
)
def test_a_url_that_puts_the_bucket_into_the_host_name_is_taken(url: str):
    assert problems(url, "3.272.0") == []


@pytest.mark.parametrize(
    ("url", "keys"),
    [
        (f"{OSS}&s3ForcePathStyle=true", ["s3ForcePathStyle"]),
        (f"{TOS}&use_path_style=1", ["use_path_style"]),
        (f"{OSS}&hostname_immutable=true", ["hostname_immutable"]),
        (OSS.replace("https://", ""), ["endpoint"]),
        (OSS.replace("https://", "http://"), ["endpoint"]),
        ("s3://team-state?region=cn-hangzhou", ["endpoint"]),
        (TOS.replace("tos-s3-", "tos-"), ["endpoint"]),
        (OSS.replace("team-state", "team.state"), ["bucket"]),
        (OSS.replace("region=cn-hangzhou&", ""), ["region"]),
        (OSS.replace("region=cn-hangzhou", "region=cn-beijing"), ["region"]),
        (f"{OSS}&forcePathStyle=true", ["forcePathStyle"]),
        (
            "s3://Team?endpoint=http://oss-cn-hangzhou.aliyuncs.com&s3ForcePathStyle=true",
            ["endpoint", "s3ForcePathStyle", "bucket", "region"],
        ),
    ],
)
def test_everything_that_is_wrong_is_said_at_once(url: str, keys: list[str]):
    found = problems(url)
    assert [each.key for each in found] == [f"backend: {key}" for key in keys]
    assert all(each.why and each.instead for each in found)


def test_path_style_is_refused_with_what_the_store_would_answer():
    (found,) = problems(f"{OSS}&s3ForcePathStyle=true")
    assert "403 SecondLevelDomainForbidden" in found.why


@pytest.mark.parametrize(
    ("version", "refused"), [("v3.250.0", True), ("3.256.0", True), ("3.256.1", False), ("3.272.0", False), ("", True)]
)
def test_an_engine_that_sends_what_the_store_refuses_is_refused(version: str, refused: bool):
    assert [each.key for each in problems(OSS, version)] == ["pulumi version"] * refused
    assert problems("file:///state", version) == []
