"""Charts and files of releases: fetched once over TLS, pinned, and refused if their content differs."""

from __future__ import annotations

import hashlib
import io
import json
import ssl
import tarfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from config.errors import ConfigError
from config.judge import parse
from stacks import addon_charts, downloads
from stacks.downloads import DownloadError, Pins
from tests.support.http_server import running
from tests.support.stack_files import StackFile

ADVICE = "mirror it"


def archive(text: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as file:
        about = tarfile.TarInfo("lws/Chart.yaml")
        about.size = len(text)
        file.addfile(about, io.BytesIO(text.encode()))
    return packed.getvalue()


class Place:
    """A host with a chart repository, and a registry that gives a token to anybody who asks for one.

    They follow https://helm.sh/docs/topics/chart_repository and https://github.com/opencontainers/distribution-spec
    v1.1.0, with the media types of Helm's charts; both contain `chart`.
    """

    def __init__(self, port: int) -> None:
        self.host, self.chart, self.asked = f"localhost:{port}", archive("name: lws"), list[str]()

    def answer(self, path: str, token: bool) -> tuple[int, dict[str, str], bytes]:
        self.asked.append(path)
        digest = f"sha256:{hashlib.sha256(self.chart).hexdigest()}"
        layer = {"mediaType": "application/vnd.cncf.helm.chart.content.v1.tar+gzip", "digest": digest, "size": 1}
        manifest = {"schemaVersion": 2, "layers": [{"mediaType": "text/plain", "digest": "sha256:0"}, layer]}
        listed = {"lws": [{"version": "v0.8.0", "urls": ["old.tgz"]}, {"version": "0.9.0", "urls": ["lws-0.9.0.tgz"]}]}
        files = {
            "/charts/index.yaml": json.dumps({"entries": listed}).encode(),
            "/charts/lws-0.9.0.tgz": self.chart,
            "/token": json.dumps({"token": "t"}).encode(),
            "/v2/charts/lws/manifests/0.9.0": json.dumps(manifest).encode(),
            f"/v2/charts/lws/blobs/{digest}": self.chart,
        }
        if path.startswith("/v2/") and not token:
            realm = f'Bearer realm="https://{self.host}/token",service="here",scope="repository:charts/lws:pull"'
            return 401, {"WWW-Authenticate": realm}, b""
        content = files.get(path.partition("?")[0])
        return (200, {}, content) if content is not None else (404, {}, b"")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, content = served.answer(self.path, "Authorization" in self.headers)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *said: Any) -> None:
            pass

    server = ThreadingHTTPServer(("localhost", 0), Handler)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    served = Place(server.server_address[1])
    with running(server):
        yield served


@pytest.fixture
def pins(tmp_path: Path) -> Pins:
    return Pins(tmp_path / "modelserve.lock.json")


def fetch(place: Place, way: str, pins: Pins, version: str = "0.9.0") -> bytes:
    chart, repo = {
        "oci": (f"oci://{place.host}/charts/lws", None),
        "repository": ("lws", f"https://{place.host}/charts"),
        "file": (f"https://{place.host}/charts/lws-{version}.tgz", None),
    }[way]
    return downloads.chart(chart, repo, version, downloads.cache("charts"), pins, ADVICE)


ADDRESSES = {
    "oci": "oci://{host}/charts/lws:0.9.0",
    "repository": "https://{host}/charts/lws:0.9.0",
    "file": "https://{host}/charts/lws-0.9.0.tgz",
}
WAYS = pytest.mark.parametrize("way", ADDRESSES)


@WAYS
def test_a_chart_is_fetched_once_and_pinned(place: Place, pins: Pins, way: str):
    assert fetch(place, way, pins) == place.chart
    asked = len(place.asked)
    assert fetch(place, way, pins) == place.chart and len(place.asked) == asked
    [(address, digest)] = json.loads(pins.file.read_text()).items()
    assert address == ADDRESSES[way].format(host=place.host)
    assert digest == f"sha256:{hashlib.sha256(place.chart).hexdigest()}"


@WAYS
def test_a_chart_that_was_changed_is_refused_wherever_it_comes_from(
    place: Place, pins: Pins, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fetch(place, way, pins)
    place.chart = archive("name: another")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other-machine"))
    with pytest.raises(DownloadError, match="it has changed; if its publisher did that, delete its line there"):
        fetch(place, way, pins)
    [kept] = (tmp_path / "cache").rglob("*.tgz")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kept.write_bytes(place.chart)
    with pytest.raises(DownloadError, match=f"it has changed.* delete {kept}, to fetch it again"):
        fetch(place, way, pins)


@WAYS
def test_what_is_not_there_or_no_archive_is_one_line_and_not_kept(place: Place, pins: Pins, way: str, tmp_path: Path):
    with pytest.raises(DownloadError, match=r"charts/lws[:-]1.0.0.*: .*; mirror it") as error:
        fetch(place, way, pins, "1.0.0")
    assert "\n" not in str(error.value)
    place.chart = b"<html>sorry</html>"
    with pytest.raises(DownloadError, match="what was fetched is not an archive; mirror it"):
        fetch(place, way, pins)
    assert not pins.file.exists() and not list((tmp_path / "cache").rglob("*.tgz"))


def test_charts_lie_where_the_releases_name_them_before_the_plugin_looks(place: Place, pins: Pins, tmp_path: Path):
    own = {"install": True, "chart": f"oci://{place.host}/charts/lws", "chartVersion": "0.9.0"}
    config = parse(StackFile("acs").changed(addons__lws=own, addons__fluid={"install": "adopt"}))
    addon_charts.provide_charts(config, pins, tmp_path)
    assert (tmp_path / addon_charts.wanted(config)[0].chart).read_bytes() == place.chart


def test_every_chart_that_cannot_be_had_is_named_with_how_to_mirror_it(place: Place, pins: Pins, tmp_path: Path):
    config = parse(StackFile("acs").changed(addons__charts=f"https://{place.host}/none"))
    with pytest.raises(ConfigError) as refused:
        addon_charts.provide_charts(config, pins, tmp_path)
    lines = str(refused.value).splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["modelserve:addons.lws:", "modelserve:addons.fluid:"]
    assert all("the server answers 404; mirror it: helm pull " in line for line in lines)
