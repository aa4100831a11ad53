"""The loopback hub: both protocols, and faults that do what their names say."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
import requests

from standins.hub import Fault, Hub, made_up

NAME = "owner/model"
FILES = {".git/x": b"g", "a.safetensors": b"a" * 50_000, "b/c.json": b"{}", "d": b"", "e": b"e"}


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub({NAME: FILES})
    yield made
    made.stop()


def test_modelscope_lists_files_with_sizes_and_hashes_and_folders_as_trees(hub: Hub):
    answer = requests.get(f"{hub.url}/api/v1/models/{NAME}/repo/files?Revision=master&Recursive=true").json()
    files = {each["Path"]: each for each in answer["Data"]["Files"] if each["Type"] == "blob"}
    assert answer["Success"] and {path: each["Size"] for path, each in files.items()} == {
        path: len(data) for path, data in FILES.items()
    }
    assert files["a.safetensors"]["Sha256"] == hashlib.sha256(FILES["a.safetensors"]).hexdigest()
    assert {each["Path"] for each in answer["Data"]["Files"] if each["Type"] == "tree"} == {".git", "b"}


def test_hugging_face_lists_in_pages_and_hashes_small_files_as_git_does(hub: Hub):
    url, found, pages = f"{hub.url}/api/models/{NAME}/tree/main?recursive=true", [], 0
    while url:
        answer = requests.get(url)
        found += answer.json()
        url, pages = answer.links.get("next", {}).get("url"), pages + 1
    files = {each["path"]: each for each in found if each["type"] == "file"}
    assert pages > 1 and files.keys() == FILES.keys()
    assert files["a.safetensors"]["lfs"]["oid"] == hashlib.sha256(FILES["a.safetensors"]).hexdigest()
    assert files["b/c.json"]["oid"] == hashlib.sha1(b"blob 2\0{}").hexdigest() and "lfs" not in files["b/c.json"]


@pytest.mark.parametrize("start", ["/models", ""], ids=["modelscope", "huggingface"])
def test_a_file_lies_behind_a_redirect_to_another_host_and_can_be_had_in_part(hub: Hub, start: str):
    url = f"{hub.url}{start}/{NAME}/resolve/main/a.safetensors"
    assert requests.get(url, allow_redirects=False).headers["Location"].startswith("http://localhost:")
    assert requests.get(url).content == FILES["a.safetensors"]
    part = requests.get(url, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content, part.headers["Content-Range"]) == (206, b"a" * 10, "bytes 10-19/50000")


def test_what_is_not_there_is_not_found(hub: Hub):
    for path in ("api/v1/models/owner/other/repo/files", f"models/{NAME}/resolve/master/nothing", "else"):
        assert requests.get(f"{hub.url}/{path}").status_code == 404


def test_a_throttled_request_says_when_to_come_back_and_the_next_one_passes(hub: Hub):
    hub.faults.append(Fault("resolve", status=429, retry_after=7))
    url = f"{hub.url}/{NAME}/resolve/main/e"
    assert requests.get(url).headers["Retry-After"] == "7"
    assert requests.get(url).content == b"e"


@pytest.mark.parametrize(
    "fault", [Fault("safetensors", cut=100), Fault("safetensors", reset=100)], ids=["cut", "reset"]
)
def test_a_body_that_breaks_off_is_an_error_of_the_connection(hub: Hub, fault: Fault):
    hub.faults.append(fault)
    with pytest.raises((requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        _ = requests.get(f"{hub.url}/{NAME}/resolve/main/a.safetensors").content


def test_a_corrupt_body_is_as_long_as_the_right_one(hub: Hub):
    hub.faults.append(Fault("safetensors", corrupt=True))
    body = requests.get(f"{hub.url}/{NAME}/resolve/main/a.safetensors").content
    assert body != FILES["a.safetensors"] and len(body) == len(FILES["a.safetensors"])


def test_every_repository_has_a_small_model_that_is_always_the_same():
    first, other = made_up("a/b"), made_up("a/c")
    assert first == made_up("a/b") != other
    assert any(path.startswith(".git/") for path in first) and any(path.endswith(".safetensors") for path in first)
    assert sum(map(len, first.values())) < 1 << 20
