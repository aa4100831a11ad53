"""What a preview and the stack's outputs say of a plan."""

from __future__ import annotations

import pytest

from config.judge import parse
from config.plans import plan_services
from stacks.plan_summary import briefly, summary
from tests.support.stack_files import StackFile
from tests.unit.config.test_stack import GOOD, changed


def test_the_preview_says_fit_start_speed_cost_and_outage_in_a_line_each_and_unknown_stays_unknown():
    planned = plan_services(parse(GOOD))["ds"]
    [fit, start, speed, price, update] = briefly("ds", planned)
    minutes, seconds = divmod(planned.startup_seconds, 60)
    assert f"an update answers nothing for {minutes} min {seconds:02d} s" in update
    assert fit.startswith("ds: fits: DeepSeek-R1 on 2 x 8 H20-96, TP8 PP2; ") and "KV tokens" in fit
    assert speed.startswith("ds: a token takes ") and speed.endswith("carried over, not measured")
    assert "after an empty start, at best" in start and price == "ds: costs unknown: no price in the stack file"


def test_a_price_makes_the_hour_and_the_cold_start_known():
    raw = changed("prices", {"perGpuHour": 10.0, "currency": "CNY", "asOf": "2026-11-01"})
    planned = plan_services(parse(raw))["ds"]
    assert summary(planned)["costPerHour"] == 160.0
    line = briefly("ds", planned)[3]
    assert "costs 160.00 CNY an hour" in line and "(prices of 2026-11-01)" in line
    raw["services"]["ds"] |= {"rollout": {"strategy": "blueGreen"}, "replicas": 2}
    planned = plan_services(parse(raw))["ds"]
    update = briefly("ds", planned)[4]
    price = float(update.partition(", for ")[2].partition(" CNY")[0])
    assert "an update takes 64 GPUs instead of 32 for " in update
    assert price == pytest.approx(320 * planned.startup_seconds / 3600, rel=0.01)
    raw["services"]["ds"]["replicas"] = 0
    assert "an update" not in "".join(briefly("ds", plan_services(parse(raw))["ds"]))


def test_a_preview_says_which_shares_a_new_version_has_and_for_how_long():
    file = StackFile("volcengine")
    (name,) = file.whole["services"]
    for more, seconds in (({}, 60), ({"stepSeconds": 9}, 9)):
        rollout = {"strategy": "blueGreen", "canary": [10, 50], **more}
        planned = plan_services(parse(file.changed(**{f"services__{name}__rollout": rollout})))[name]
        told = f"{name}: before it has all of them, a new version has 10 and 50 % of the requests, for {seconds} s each"
        assert told in briefly(name, planned)
