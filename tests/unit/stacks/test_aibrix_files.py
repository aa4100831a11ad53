"""AIBrix's manifests for a stack: which are read from where, how a missing one is refused, and the chart of kinds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import requests

from config.errors import ConfigError
from config.judge import parse
from config.stack import StackConfig
from planning import aibrix_install
from stacks import aibrix_files
from stacks.aibrix_files import chart, documents
from tests.support.stack_files import StackFile

FILE = StackFile("volcengine")
SERVICE = "services__deepseek-r1-671b"
MANIFESTS = "addons__aibrix__manifests"
ADVICE = "put the file on this machine and write its path as addons.aibrix.manifests"


ALONE = {
    f"{SERVICE}__workload": "lws",
    f"{SERVICE}__gateway": "none",
    f"{SERVICE}__routing": ...,
    "addons": ...,
    "monitoring": ...,
}


def config(**changes: Any) -> StackConfig:
    return parse(FILE.changed(**changes))


def write(file: Path, name: str) -> Path:
    """A manifest with one object of that name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n")
    return file


def found(stack: StackConfig) -> dict[str, list[str]]:
    """The names of the objects in each manifest."""
    return {name: [each["metadata"]["name"] for each in objects] for name, objects in documents(stack).items()}


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The requests to the network, which is unreachable; the cache of earlier runs is hidden too."""
    urls: list[str] = []

    def send(self: Any, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        urls.append(request.url or "")
        raise requests.ConnectionError

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MODELSERVE_MANIFESTS", raising=False)
    return urls


@pytest.fixture
def rehearsal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder with manifests that are used instead of fetched ones."""
    folder = tmp_path / "rehearsal"
    for part in ("core-v0.7.0", "core-crds-v0.7.0", "dependency-v0.7.0", "core-v0.2.1"):
        write(folder / f"aibrix-{part}.yaml", part)
    monkeypatch.setenv("MODELSERVE_MANIFESTS", str(folder))
    return folder


@pytest.mark.parametrize(
    ("version", "read"),
    [
        ("0.7.0", {"core": ["core-v0.7.0"], "crds": ["core-crds-v0.7.0"], "dependency": ["dependency-v0.7.0"]}),
        ("0.2.1", {"core": ["core-v0.2.1"]}),
    ],
)
def test_a_rehearsal_reads_the_releases_manifests_from_its_folder(
    rehearsal: Path, asked: list[str], version: str, read: dict[str, list[str]]
):
    assert found(config(addons__aibrix__version=version)) == read
    assert not asked


@pytest.mark.parametrize("install", [True, False])
def test_a_rehearsal_without_aibrix_is_refused_in_one_line_with_the_command_that_adds_it_and_nothing_is_fetched(
    monkeypatch: pytest.MonkeyPatch, asked: list[str], install: bool
):
    monkeypatch.setenv("MODELSERVE_MANIFESTS", "/no/manifests")
    # With AIBrix «there already», the fleet would wait for controllers that nobody has started.
    stack = config(addons__aibrix={"install": install, "version": "0.7.0"})
    with pytest.raises(ConfigError) as caught:
        documents(stack)
    assert str(caught.value) == (
        "modelserve:addons.aibrix: 0.7.0: this rehearsal has none yet (MODELSERVE_MANIFESTS names /no/manifests, which "
        "is not there); add it by `python -m local up --cloud volcengine`"
    )
    assert not asked
    assert documents(config(**ALONE)) == {}


def test_a_file_of_ones_own_goes_before_the_rehearsals_and_the_others_stay(rehearsal: Path, tmp_path: Path):
    # It has the name of the rehearsal's, but must not be mistaken for that.
    own = write(tmp_path / "own" / "aibrix-core-v0.7.0.yaml", "mine")
    assert found(config(**{MANIFESTS: {"core": str(own)}})) == {
        "core": ["mine"],
        "crds": ["core-crds-v0.7.0"],
        "dependency": ["dependency-v0.7.0"],
    }


def test_manifests_that_cannot_be_fetched_are_refused_all_at_once_each_with_its_key(asked: list[str]):
    with pytest.raises(ConfigError) as caught:
        documents(config())
    urls = aibrix_install.release("0.7.0").manifests
    assert str(caught.value).splitlines() == [
        f"modelserve:addons.aibrix.manifests.{name}: {url}: cannot be fetched (ConnectionError); {ADVICE}.{name}"
        for name, url in urls.items()
    ]
    assert asked == list(urls.values())


def test_a_url_of_ones_own_is_asked_instead_of_the_releases_and_refused_by_its_own_name(
    rehearsal: Path, asked: list[str]
):
    url = "https://mirror.example/aibrix-core-v0.7.0.yaml"
    with pytest.raises(ConfigError) as caught:
        documents(config(**{MANIFESTS: {"core": url}}))
    assert str(caught.value) == (
        f"modelserve:addons.aibrix.manifests.core: {url}: cannot be fetched (ConnectionError); {ADVICE}.core"
    )
    assert asked == [url]


def test_a_file_that_is_not_there_is_refused_with_its_key(rehearsal: Path, tmp_path: Path):
    missing = tmp_path / "none.yaml"
    with pytest.raises(ConfigError) as caught:
        documents(config(**{MANIFESTS: {"crds": str(missing)}}))
    assert str(caught.value) == (
        f"modelserve:addons.aibrix.manifests.crds: {missing}: No such file or directory; {ADVICE}.crds"
    )


def test_a_stack_file_that_does_not_mention_aibrix_gets_the_release_of_the_catalog(rehearsal: Path):
    assert found(config(addons=...)) == found(config())


@pytest.mark.parametrize(
    "stack",
    [
        config(addons__aibrix={"install": False}),
        config(**ALONE),
        parse(StackFile("acs").whole),
    ],
    ids=["there already", "neither fleet nor gateway", "another cloud"],
)
def test_where_aibrix_is_there_or_not_needed_nothing_is_read(
    stack: StackConfig, asked: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(aibrix_files, "load", lambda *given, **options: pytest.fail(f"read {given[0]}"))
    assert documents(stack) == {}
    assert not asked


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A project's folder, different from the working directory."""
    monkeypatch.setattr(aibrix_files, "PROJECT", tmp_path / "project")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "project"


FILES = {"Chart.yaml": '{"version": "0.7.0"}', "crds/a.yaml": "{}"}


def test_a_chart_is_written_below_the_project_and_named_by_its_path_from_there(project: Path):
    path = chart("0.7.0", FILES)
    assert path.startswith("./") and str(project) not in path
    written = {str(file.relative_to(project / path)): file for file in (project / path).rglob("*") if file.is_file()}
    assert {name: file.read_text() for name, file in written.items()} == FILES
    assert chart("0.2.1", FILES) != path


def test_a_chart_that_is_there_is_not_written_again_and_another_choice_has_a_folder_of_its_own(project: Path):
    path = chart("0.7.0", FILES)
    about = project / path / "Chart.yaml"
    os.utime(about, (1, 1))
    assert chart("0.7.0", FILES) == path and about.stat().st_mtime == 1
    fewer = chart("0.7.0", {"Chart.yaml": FILES["Chart.yaml"]})
    assert fewer != path and [file.name for file in (project / fewer).rglob("*")] == ["Chart.yaml"]
