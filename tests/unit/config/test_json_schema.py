"""The schema for editors: it accepts what a check accepts, and of what a check refuses, it refuses what a schema can
express."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest

from config import pulumi_yaml
from config.errors import ConfigError
from config.json_schema import schema
from config.judge import parse
from config.plans import checked, plan_services
from config.stack_file import RequestError, read
from local.paths import ROOT
from planning.catalog import fact
from planning.problems import Refused
from tests.support.stack_files import StackFile, whole_file, with_values
from tests.support.ways import WAYS, secrets
from tests.unit.config import (
    test_acs_config,
    test_facts,
    test_mutations,
    test_refused_later,
    test_stack,
    test_volcengine_config,
)

SCHEMA = jsonschema.Draft202012Validator(schema())
TEXT = (ROOT / "Pulumi.local.yaml").read_text()
Table = tuple[Callable[..., None], Callable[..., dict[str, Any]]]
# Tests with tables of refused files, and how each builds a file from a row.
TABLES: list[Table] = [
    (test_stack.test_bad_input_is_one_line_with_key_value_why_and_remedy, lambda *row: test_stack.changed(*row[:2])),
    (test_stack.test_a_missing_key_is_named_with_what_to_write, lambda path: test_stack.changed(path, ...)),
    (test_acs_config.test_what_is_wrong_is_one_line_with_its_remedy, lambda row, _: test_acs_config.changed(**row)),
    (
        test_volcengine_config.test_what_is_wrong_is_one_line_with_its_remedy,
        lambda row, _: test_volcengine_config.FILE.changed(**row),
    ),
    (
        test_mutations.test_a_rule_of_a_component_is_one_of_the_stack_file_too,
        lambda file, values, _: file.changed(**values),
    ),
    (
        test_refused_later.test_what_would_be_refused_later_is_one_line_at_its_key,
        lambda file, values, _: file.changed(**values),
    ),
    (test_facts.test_a_wrong_fact_is_one_line_at_its_key, lambda raw, _: raw),
]


def refused_files() -> Iterator[tuple[str, dict[str, Any]]]:
    """The files from the tests' tables that a check refuses, each under a name."""
    for test, made in TABLES:
        (rows,) = (mark.args[1] for mark in test.pytestmark if mark.name == "parametrize")
        for row in rows:
            raw = made(*row) if isinstance(row, tuple) else made(row)
            with pytest.raises(Refused):
                plan_services(parse(raw))
            yield f"{test.__module__}: {row[-1] if isinstance(row, tuple) else row}", raw


def test_it_is_a_schema_and_refuses_seven_in_ten_of_the_refused_files_of_our_tests():
    jsonschema.Draft202012Validator.check_schema(SCHEMA.schema)
    files = [*refused_files()]
    missed = [name for name, raw in files if SCHEMA.is_valid(whole_file(raw))]
    # The rest would require arithmetic, or knowledge of what a release has.
    assert len(missed) <= 0.3 * len(files), "\n".join(missed)


@pytest.mark.parametrize("way", WAYS)
def test_it_accepts_a_file_of_each_way_through_the_builders(way):
    assert [error.message for error in SCHEMA.iter_errors(whole_file(WAYS[way], secrets(way)))] == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("config:", "configs:"),
        ("encryptionsalt:", "encryptionSalt:"),
        ("encryptionsalt:", "modelserve:cloud: {}\nencryptionsalt:"),
        ("modelserve:weights:", "modelserve:weihgts:"),
        ("modelserve:weights:", "weihgts:"),
        ("  modelserve:apiKey:", "  apiKey: {secure: 'v1:x:y'}\n  modelserve:apiKey:"),
        ("  modelserve:apiKey:", "  modelserve:hubToken: null\n  modelserve:apiKey:"),
        ("  modelserve:apiKey:", "  modelserve:hubToken: ''\n  modelserve:apiKey:"),
        ("  modelserve:apiKey:", "  modelserve:hubToken: {secure: ''}\n  modelserve:apiKey:"),
        ("  modelserve:apiKey:", "  modelserve:hubToken: hf_canary\n  modelserve:apiKey:"),
        ("  modelserve:apiKey:", "  modelserve:accessKey: {secure: 'v1:x:y'}\n  modelserve:apiKey:"),
        ("  modelserve:apiKey:", "  modelserve:prices: {currency: CNY, perGpuHour: 9}\n  modelserve:apiKey:"),
        ("  modelserve:apiKey:", "  modelserve:prices: {asOf: 2026-13-01}\n  modelserve:apiKey:"),
        ("model: DeepSeek-R1", "model: {secure: 'v1:x:y'}"),
        ("context: rehearsal", "context: <yours>"),
    ],
)
def test_mistakes_at_the_root_are_refused_by_both(tmp_path, old, new):
    assert TEXT.count(old) == 1
    path = tmp_path / "Pulumi.dev.yaml"
    path.write_text(TEXT.replace(old, new))
    assert not SCHEMA.is_valid(pulumi_yaml.read(path.read_text()).value)
    with pytest.raises((ConfigError, RequestError)):
        checked(read(path), with_cluster=False)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("modelserve:weights:", "weights:"),
        ("  modelserve:apiKey:", "  apiKey:"),
        ("  modelserve:apiKey:", "  aws:region: <any>\n  modelserve:apiKey:"),
        ("encryptionsalt:", "environment: [ours]\nencryptionsalt:"),
        ("  modelserve:apiKey:", "  modelserve:prices: {asOf: 2026-11-1}\n  modelserve:apiKey:"),
        ("  modelserve:apiKey:", "  modelserve:prices: {asOf: 2026-11-01T10:00:00Z}\n  modelserve:apiKey:"),
        ("maxModelLen: auto", "maxModelLen: null"),
    ],
)
def test_what_a_check_takes_at_the_root_is_taken_by_both(tmp_path, old, new):
    assert TEXT.count(old) == 1
    path = tmp_path / "Pulumi.dev.yaml"
    path.write_text(TEXT.replace(old, new))
    assert [error.message for error in SCHEMA.iter_errors(pulumi_yaml.read(path.read_text()).value)] == []
    assert checked(read(path), with_cluster=False)


_S3 = {"name": "team-weights", "store": "s3"}
_NATIVE = {"image": "vllm/vllm-openai:v0.19.0", "version": "0.19.0", "launcher": "native"}


@pytest.mark.parametrize(
    ("stack", "values", "right"),
    [
        (
            "volcengine",
            {"weights": {"source": "bucket", "bucket": _S3 | {"create": True}}},
            {"weights/bucket/create": ...},
        ),
        (
            "volcengine",
            {"weights": {"source": "bucket", "bucket": _S3, "sync": {"from": "modelscope"}}},
            {"weights/sync": ...},
        ),
        ("local", {"services/ds/engine": _NATIVE, "services/ds/port": 29501}, {"services/ds/port": 6379}),
        ("local", {"services/ds/startupPolicy": "LeaderReady"}, {"services/ds/readinessProbe": False}),
        ("acs", {"cache/compile": {"nodePath": "/mnt/nvme0"}}, {"cache/compile": {"claim": "kernels"}}),
        ("local", {"cache": {"compile": {"claim": "a", "nodePath": "/mnt/nvme0"}}}, {"cache/compile/claim": ...}),
        (
            "acs",
            {"services/ds/replicas": 0, "services/ds/autoscaling": None, "services/ds/port": 6379},
            {"services/ds/port": 1},
        ),
    ],
)
def test_a_joined_rule_is_said_and_no_more_than_it(stack, values, right):
    keys = () if stack == "local" else ("accessKey", "secretKey")
    wrong = with_values(StackFile(stack).whole, values)
    assert not SCHEMA.is_valid(whole_file(wrong, keys))
    with pytest.raises(Refused):
        plan_services(parse(wrong, secrets=keys))
    mended = with_values(wrong, right)
    assert [error.message for error in SCHEMA.iter_errors(whole_file(mended, keys))] == []
    assert plan_services(parse(mended, secrets=keys))


@pytest.mark.parametrize("path", ["addons/aibrix", "cache/compile", "weights/sync", "cluster/oidc", "registry"])
def test_a_part_that_is_null_has_none_of_the_keys_that_a_rule_asks_for(path):
    raw = with_values(StackFile("acs").whole, {path: None})
    assert parse(raw)
    assert [error.message for error in SCHEMA.iter_errors(whole_file(raw))] == []


@pytest.mark.parametrize(("cloud", "store"), [("acs", "oss"), ("volcengine", "tos")])
def test_regions_are_those_of_the_catalog_unless_the_file_has_one_of_its_own(cloud, store):
    file = StackFile(cloud)
    for region in fact(store, "regions", "known"):
        assert SCHEMA.is_valid(whole_file(file.changed(cloud__region=region)))
    unknown = file.changed(cloud__region="cn-nowhere")
    assert not SCHEMA.is_valid(whole_file(unknown))
    assert SCHEMA.is_valid(whole_file(unknown | {"catalog": {}}))


def _patterns(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key == "pattern" and isinstance(value, str))
    for below in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _patterns(below)


def test_no_pattern_takes_ever_longer_over_a_text_that_it_refuses():
    """A key's rule has the same pattern, so such a pattern would make a check run forever."""
    for pattern in {*_patterns(SCHEMA.schema)}:
        begin = time.process_time()
        for unit in ("a", "a-", "a.", "9", "A", "-", "a/", "a:", "x--", "[", "a_"):
            re.search(pattern, unit * 22 + "!")
        assert time.process_time() - begin < 0.2, pattern
