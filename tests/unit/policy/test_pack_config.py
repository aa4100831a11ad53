"""The pack's config: what it may say, and how it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from planning.problems import Refused
from policy import pack_config
from policy.rules import RULES


def test_the_packs_own_config_is_right_and_without_it_each_rule_has_its_own_level():
    pack_config.read()
    told = pack_config.parse({})
    assert told.levels == {name: rule.severity for name, rule in RULES.items()}


def test_a_level_may_be_told_of_one_rule_and_of_all():
    told = pack_config.parse({"all": "advisory", "price-at-most": {"enforcementLevel": "mandatory", "most": 5.0}})
    assert {name for name, level in told.levels.items() if level == "mandatory"} == {"price-at-most"}
    assert told.values["price-at-most"] == {"most": 5, "currency": None}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "is not a map"),
        ({"ray-open": {}}, "policy config: ray-open: unknown key"),
        ({"price-at-most": {"mst": 1}}, "policy config: price-at-most.mst: unknown key; did you mean most?"),
        ({"all": {"most": 1}}, "policy config: all.most: unknown key"),
        ({"tagged": "loud"}, "policy config: tagged loud: is no level; write advisory or mandatory or disabled"),
        ({"tagged": {"enforcementLevel": 3}}, "policy config: tagged 3: is no level"),
        ({"tagged": 1}, "policy config: tagged 1: is neither a level nor a map"),
        ({"price-at-most": {"most": "much"}}, 'price-at-most.most "much": is no number or null'),
        ({"price-at-most": {"most": True}}, "is no number or null"),
        ({"price-at-most": {"most": -1}}, "is too small"),
        ({"expires-soon": {"days": 1.5}}, "is no integer"),
        ({"tagged": {"keys": ["colour"]}}, "is none of owner, expires"),
        ({"image-registry": {"allowed": [1]}}, "is no string"),
        ({"image-digest": {"tagged": {"a": ""}}}, "is empty"),
    ],
)
def test_a_config_that_says_what_no_rule_reads_is_refused(given: Any, said: str):
    with pytest.raises(Refused) as refused:
        pack_config.parse(given)
    assert said in "\n".join(refused.value.lines)


def test_everything_wrong_is_said_at_once():
    with pytest.raises(Refused) as refused:
        pack_config.parse({"ray-open": {}, "tagged": "loud", "price-at-most": {"most": -1, "mst": 1}})
    assert len(refused.value.problems) == 4


@pytest.mark.parametrize(("text", "said"), [(None, "No such file"), ("{", "is no JSON"), ("[" * 100_000, "is no JSON")])
def test_a_config_that_cannot_be_read_is_one_line(tmp_path: Path, text: str | None, said: str):
    path = tmp_path / "pack.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(Refused, match=said):
        pack_config.read(path)


def test_the_schemas_defaults_fit_their_own_schema():
    given = {name: rule.defaults() for name, rule in RULES.items() if rule.settings}
    assert pack_config.parse(given).values == pack_config.parse({}).values
