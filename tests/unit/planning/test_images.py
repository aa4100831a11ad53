"""Image references are judged as registries and container runtimes parse them."""

from __future__ import annotations

import pytest

from planning import images

_DIGEST = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    "reference",
    [
        "vllm/vllm-openai:v0.8.5",
        "rclone:1",
        "localhost/a:1",
        "reg:5000/a/b_c/d__e/f-.g:1".replace("-.", "--"),
        "REG.example.com/a.b:Tag_1.2-3",
        "10.0.0.1:80/a:1",
        "[2001:db8::1]:80/a:1",
        f"a/b@{_DIGEST}",
        f"a/b:1@{_DIGEST}",
        "a:" + "t" * 128,
        "a" * 255 + ":1",
    ],
)
def test_what_registries_take_is_taken(reference: str):
    assert images.problem(reference) is None and images.fixed(reference)


@pytest.mark.parametrize(
    ("reference", "why", "instead"),
    [
        ("https://r.example.com/a:1", "no scheme", "r.example.com/a:1"),
        ("docker://a:1", "no scheme", "a:1"),
        ("a:${TAG}", "a variable", None),
        ("a/{name}:1", "a variable", None),
        ("a b:1", "spaces", None),
        (" a:1\n", "spaces", "a:1"),
        ("Vllm/vllm:1", "capitals", "vllm/vllm:1"),
        ("r.example.com/Team/Vllm:V1", "capitals", "r.example.com/team/vllm:V1"),
        ("a@sha256:0a0a", "an incomplete digest", None),
        (f"a@{_DIGEST.upper()}", "an incomplete digest", None),
        ("a:1@", "an incomplete digest", None),
        ("a:" + "t" * 129, "a tag", None),
        ("a:-1", "a tag", None),
        ("a" * 256 + ":1", "256 characters", None),
        ("a/" + "b-" * 5000, "characters", None),
        *(
            (bad, "not an image reference", None)
            for bad in ("", ":1", "a//b:1", "/a:1", "a/:1", "a-:1", "a:1:2", "a..b:1")
        ),
    ],
)
def test_what_registries_refuse_is_refused_and_a_remedy_with_a_name_is_taken(reference, why, instead):
    said, remedy = images.problem(reference) or ("", "")
    assert why in said
    assert remedy == f"write {instead}" if instead else "such as" in remedy
    better = remedy.removeprefix("write ").rpartition("such as ")[2]
    assert images.problem(better) is None and images.fixed(better)


@pytest.mark.parametrize("reference", ["a", "r:5000/a", "a:latest", "r:5000/a:latest"])
def test_a_reference_without_a_tag_of_its_own_is_not_fixed(reference: str):
    assert images.problem(reference) is None and not images.fixed(reference)


def test_a_registry_is_a_host_with_or_without_a_folder():
    taken = ("r.example.com", "r.example.com/a/b", "r:5000", "localhost")
    refused = (
        "https://r.example.com",
        "r",
        "r.example.com/A",
        "r.example.com/",
        "r.example.com/a:1",
        "",
        "u@r.example.com",
    )
    assert not any(map(images.registry_problem, taken)) and all(map(images.registry_problem, refused))
