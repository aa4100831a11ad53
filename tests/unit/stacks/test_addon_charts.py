"""`addons.charts`: every chart of the catalog comes from one place, and missing ones are reported before a preview."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from config.errors import ConfigError
from config.judge import parse
from config.stack import StackConfig
from stacks.addon_charts import require_charts, wanted
from tests.support.stack_files import StackFile


def config(stack: str, **values: Any) -> StackConfig:
    return parse(StackFile(stack).changed(**values))


@pytest.mark.parametrize(
    ("charts", "found"),
    [
        ("charts", [("./charts/lws-0.9.0.tgz", None), ("./charts/ack-fluid-1.0.13.tgz", None)]),
        ("/srv/charts/", [("/srv/charts/lws-0.9.0.tgz", None), ("/srv/charts/ack-fluid-1.0.13.tgz", None)]),
        *(
            (
                f"{scheme}://a.example/x",
                [
                    ("./.modelserve/charts/a.example/x/lws-0.9.0.tgz", None),
                    ("./.modelserve/charts/a.example/x/ack-fluid-1.0.13.tgz", None),
                ],
            )
            for scheme in ("oci", "https")
        ),
    ],
)
def test_every_chart_comes_from_a_folder_a_registry_or_a_repository(charts: str, found: list[tuple[str, str | None]]):
    mirrored, own = (wanted(config("acs", **values)) for values in ({"addons__charts": charts}, {}))
    assert [(addon.chart, addon.repo) for addon in mirrored] == found
    assert [(addon.version, addon.values) for addon in mirrored] == [(addon.version, addon.values) for addon in own]


def test_envoy_gateways_chart_is_among_them():
    [addon] = wanted(config("volcengine", addons__charts="./charts"))
    assert addon.chart == "./charts/gateway-helm-v1.2.8.tgz"


def test_a_chart_of_the_users_own_and_an_adopted_release_are_left_alone():
    own = {"install": True, "chart": "oci://b.example/lws"}
    found = wanted(config("acs", addons__charts="charts", addons__lws=own, addons__fluid={"install": "adopt"}))
    assert found[0].chart == "./.modelserve/charts/b.example/lws-0.10.0.tgz" and not found[1].chart.startswith("./")


def test_what_a_folder_lacks_is_refused_with_how_to_get_it(tmp_path: Path):
    (tmp_path / "charts").mkdir()
    (tmp_path / "charts" / "lws-0.9.0.tgz").touch()
    acs = config("acs", addons__charts="charts")
    with pytest.raises(ConfigError) as refused:
        require_charts(acs, tmp_path)
    [line] = str(refused.value).splitlines()
    assert line.startswith("modelserve:addons.charts: charts: has no ack-fluid-1.0.13.tgz; run: helm pull https://")
    (tmp_path / "charts" / "ack-fluid-1.0.13.tgz").touch()
    require_charts(acs, tmp_path)
    require_charts(config("acs", addons__charts="oci://a.example/charts"), tmp_path)


@pytest.mark.parametrize(
    ("charts", "why"),
    [
        ("", "is empty or contains spaces"),
        ("my charts", "is empty or contains spaces"),
        ("~/charts", "is a home folder"),
        ("oci:/host/path", "is neither a folder nor a URL"),
        ("ftp://a.example", "uses ftp"),
        ("OCI://a.example", "uses OCI"),
        ("https://", "is a URL without a host"),
        ("https://user:word@a.example", "contains credentials or a query"),
    ],
)
def test_what_is_no_place_for_charts_is_refused_in_one_line(charts: str, why: str):
    with pytest.raises(ConfigError) as refused:
        config("acs", addons__charts=charts)
    [line] = str(refused.value).splitlines()
    assert line.startswith("modelserve:addons.charts: ") and why in line and "write a folder, an oci:// URL" in line


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path):
    with pytest.raises(ConfigError, match="addons.charts: charts: is not a folder on this machine; create it"):
        require_charts(config("acs", addons__charts="charts"), tmp_path)
