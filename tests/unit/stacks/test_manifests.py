"""Manifests from a file or a URL: what is cached, what is used instead, and how errors read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from planning.problems import Refused
from stacks import manifests
from stacks.downloads import Pins

URL = "https://example.com/releases/v1/core-v1.yaml"
ADVICE = "write its path in addons.aibrix.manifests.core"
TEXT = """\
apiVersion: v1
kind: Namespace
metadata: {name: a}
---
---
apiVersion: v1
kind: Secret
metadata: {name: b}
"""
DOCUMENTS = [each for each in yaml.safe_load_all(TEXT) if each]


def load(reference: str, cache: Path, **options: Any) -> list[dict[str, Any]]:
    return manifests.load(reference, cache, Pins(cache / "lock.json"), **options)


Serve = Callable[..., list[str]]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Answers or refuses every request; returns the list of requests."""

    def serve(content: bytes = TEXT.encode(), status: int = 200, error: Exception | None = None) -> list[str]:
        asked: list[str] = []

        def send(self: Any, request: requests.PreparedRequest, **options: Any) -> requests.Response:
            asked.append(request.url or "")
            if error:
                raise error
            answer = requests.Response()
            answer.status_code, answer._content, answer.request, answer.url = status, content, request, request.url
            return answer

        monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
        return asked

    return serve


def refusal(*arguments: Any, **options: Any) -> str:
    with pytest.raises(Refused) as error:
        load(*arguments, **options, advice=ADVICE)
    assert str(error.value).endswith(f"; {ADVICE}") and "\n" not in str(error.value)
    return str(error.value)


def test_what_was_fetched_once_needs_no_network_again(serve: Serve, tmp_path: Path):
    asked = serve()
    assert load(URL, tmp_path, advice=ADVICE) == DOCUMENTS
    assert (tmp_path / "example.com/releases/v1/core-v1.yaml").read_text() == TEXT
    assert load(URL, tmp_path, advice=ADVICE) == DOCUMENTS
    assert asked == [URL]


def test_what_was_parsed_once_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    file = tmp_path / "own.yaml"
    file.write_text(TEXT)
    first = load(str(file), tmp_path / "cache", advice=ADVICE)
    monkeypatch.setattr(yaml, "load_all", lambda *given: pytest.fail("parsed again"))
    assert load(str(file), tmp_path / "cache", advice=ADVICE) == first == DOCUMENTS


def test_a_file_that_has_changed_is_read_anew(tmp_path: Path):
    file = tmp_path / "own.yaml"
    for name in ("a", "b"):
        file.write_text(f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n")
        (found,) = load(str(file), tmp_path / "cache", advice=ADVICE)
        assert found["metadata"]["name"] == name


def test_a_folder_of_files_goes_before_the_network_and_the_cache(serve: Serve, tmp_path: Path):
    asked = serve()
    instead = tmp_path / "instead"
    instead.mkdir()
    (instead / "core-v1.yaml").write_text("apiVersion: v1\nkind: Namespace\nmetadata: {name: rehearsed}\n")
    (found,) = load(URL, tmp_path / "cache", instead=instead, advice=ADVICE)
    assert found["metadata"]["name"] == "rehearsed" and not asked
    assert load(URL.replace("core", "other"), tmp_path / "cache", instead=instead, advice=ADVICE) == DOCUMENTS


@pytest.mark.parametrize("content", [b"<html>sign in</html>", b"a: [", b"", b"apiVersion: v1\nkind: Pod\n"])
def test_what_holds_no_objects_is_refused_and_not_kept(serve: Serve, tmp_path: Path, content: bytes):
    serve(content)
    assert refusal(URL, tmp_path).startswith(f"{URL}: ")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"status": 404}, "the server answers 404"),
        ({"error": requests.ConnectTimeout()}, "cannot be fetched (ConnectTimeout)"),
        ({"error": requests.ConnectionError()}, "cannot be fetched (ConnectionError)"),
    ],
)
def test_what_cannot_be_fetched_is_one_line_with_the_way_out(serve: Serve, tmp_path: Path, answer: Any, says: str):
    serve(**answer)
    assert refusal(URL, tmp_path) == f"{URL}: {says}; {ADVICE}"


@pytest.mark.parametrize("reference", ["http://example.com/a.yaml", "https://example.com", "https://a.com/x/../../b"])
def test_only_an_https_url_of_a_file_is_fetched(serve: Serve, tmp_path: Path, reference: str):
    asked = serve()
    assert "is not the https URL of a file" in refusal(reference, tmp_path)
    assert not asked


def test_a_file_that_is_not_there_is_refused(tmp_path: Path):
    assert "No such file" in refusal(str(tmp_path / "none.yaml"), tmp_path)
