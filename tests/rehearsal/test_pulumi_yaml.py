"""A check reads the same values from a stack file as the engine reads and passes to the program."""

from __future__ import annotations

import datetime
import json
import random
import re
import subprocess
from typing import Any

import pytest
import yaml

from config.judge import decoded
from config.pulumi_yaml import read
from config.stack_file import read as read_file
from tests.rehearsal.pulumi_stack import Stack
from tests.support.ways import WAYS
from tests.unit.config.test_mutations import FIELDS, NUMBERS, OTHERS, TEXTS, mutated

SCALARS = [
    *"""
yes no on off y n true True TRUE ~ null Null NULL nUll - . = 1:30 1e3 1.0e+5 1E3 0o100 0O17 0777 08 0x1F 0b11 -0b1 0b-1
0o-7 1_000 1_0.5 _1 +5 -0 +0 -0.0 8.0 1.50 .5 -.5 +.5 5. 1e400 1e-400 1e21 1e20 1e6 1234567.5 0.000001 0.0000001
9223372036854775807 9223372036854775808 18446744073709551615 18446744073709551616 +18446744073709551615
-9223372036854775808 -9223372036854775809 123456789012345678901234567890 0.30000000000000004 2026-11-01 2026-1-2
2026-02-30 2026-13-01 0001-01-01 2026-11-01T10:00:00Z 2026-11-01t1:2:3.50Z 2026-11-01T10:00:00+08:00
2026-11-01T10:00:00.123456789123-03:30 2026-11-01T10:00:00+00:00 2026-11-01T24:00:00Z 10:00 0.9.0 v0.9.0 1.2.3
""".split(),
    *("2026-11-01 10:00:00", "2026-11-01 10:00", "9" * 5000, "0" * 5000, "'yes'", '"8"', "!!str 8", ""),
]
MAPS = """
    {8: a, 0x10: b, "9": c, -1: d}
    {<<: {a: 1, b: 2}, b: 3}
    {<<: [{a: 1}, {a: 2, b: 2}]}
    [&x {a: 1.0}, *x, [1e3, [~]]]
    {memoryGib: {64: [512, 1024.0]}}
""".strip().splitlines()


def engines(stack: Stack, values: list[str]) -> list[Any]:
    """The values that the program would get, according to the engine itself."""
    stack.write()
    told = stack.file.read_text().replace("config:\n", "config:\n  modelserve:values:\n" + lines(values), 1)
    stack.file.write_text(told)
    found = json.loads(stack.run("config", "--json"))
    return decoded(found["modelserve:values"]["value"])


def lines(values: list[str]) -> str:
    return "".join(f"  - {value}\n" for value in values)


def ours(values: list[str]) -> list[Any]:
    document = read("config:\n  modelserve:values:\n" + lines(values))
    assert not document.problems
    return document.value["config"]["modelserve:values"]


def as_program(value: Any) -> str:
    """A value with its types, so that 1, 1.0 and true differ. The engine sorts keys."""
    return json.dumps(value, sort_keys=True)


def test_every_scalar_and_map_is_read_as_the_engine_reads_it(stack: Stack):
    values = [*SCALARS, *map(str.strip, MAPS)]
    by_engine = engines(stack, values)
    for text, theirs, own in zip(values, by_engine, ours(values), strict=True):
        assert as_program(own) == as_program(theirs), text


def test_texts_of_digits_and_signs_are_read_as_the_engine_reads_them(stack: Stack):
    dice = random.Random(7)
    made = {"".join(dice.choices("0123456789+-._eEoxbTZ:yn~", k=dice.randint(1, 8))) for _ in range(3000)}
    values = sorted(text for text in made if re.fullmatch(r"(?!-$|\.+$)[^:~]([^:]|:(?=\S))*", text))
    by_engine = engines(stack, values)
    for text, theirs, own in zip(values, by_engine, ours(values), strict=True):
        assert as_program(own) == as_program(theirs), text


def test_a_check_and_the_program_get_the_same_config_of_the_same_files(stack: Stack):
    """Stack files with any value at any place, written as JSON, which is valid YAML."""
    dice, texts = random.Random(7), []
    for _ in range(60):
        changes = [(path, dice.choice(dice.choice((TEXTS, NUMBERS, OTHERS)))) for path, _ in dice.choices(FIELDS, k=3)]
        text = json.dumps(mutated(dice.choice(list(WAYS.values())), changes))
        if '"secure"' not in text:
            texts.append(text)
    for text, theirs, own in zip(texts, engines(stack, texts), ours(texts), strict=True):
        assert as_program(own) == as_program(theirs), text


@pytest.mark.parametrize("wrong", [".nan", "-.inf", "{a: 1, a: 2}", "{8: 1, 8: 2}", "!!int yes"])
def test_what_the_engine_cannot_hand_over_is_refused(stack: Stack, wrong: str):
    assert read(f"config:\n  modelserve:x: {{y: {wrong}}}\n").problems
    with pytest.raises((AssertionError, subprocess.SubprocessError)):
        engines(stack, [wrong])


@pytest.mark.parametrize("wrong", ["8: {}", "2026-11-01: {}"])
def test_a_key_of_the_config_that_is_no_text_is_refused_as_by_the_engine(stack: Stack, wrong: str):
    assert read(f"config:\n  {wrong}\n").problems
    stack.write()
    stack.file.write_text(stack.file.read_text().replace("config:\n", f"config:\n  {wrong}\n", 1))
    with pytest.raises(AssertionError):
        stack.run("config", "--json")


def test_what_the_project_says_for_all_stacks_reaches_a_check_as_it_reaches_the_program(stack: Stack):
    """`stack.file` has a cloud, a cluster and services of its own, and no prices, registry or monitoring."""
    shared = {
        "modelserve:registry": {"value": "registry.example.com/models"},
        "modelserve:prices": {"default": {"perGpuHour": 20.5, "asOf": "2026-11-01"}},
        "monitoring": {"value": {"enabled": True}},
        "modelserve:cluster": {"type": "object", "value": {"context": "not-this-one"}},
        "modelserve:cluster.context": {"value": "not-this-one"},
        "modelserve:services.ds.port": {"value": "8001"},
        "modelserve:services.ds.servedModelName": {"value": "08"},
        "modelserve:services.ds.unproven": {"value": "true"},
        "modelserve:services.ds.paths[0]": {"value": "/tokenize"},
        'modelserve:services.ds.podLabels["example.com/team"]': {"value": "search"},
        "modelserve:catalog.regions": ["cn-new-1"],
        "alicloud:region": "cn-hangzhou",
        "pulumi:tags": {"value": {"owner": "search"}},
    }
    stack.config["modelserve:cluster"].pop("namespace", None)
    stack.write()
    project = stack.folder / "Pulumi.yaml"
    whole = yaml.safe_load(project.read_text())
    project.unlink()
    whole["config"] = {"modelserve:services": {"type": "object"}, **shared}
    project.write_text(yaml.safe_dump(whole))
    found = json.loads(stack.run("config", "--json"))
    by_engine = {key: decoded(entry["value"]) for key, entry in found.items() if not entry["secret"]}
    ours = read_file(stack.file).plain
    assert by_engine["modelserve:services"]["ds"]["port"] == 8001
    assert as_program(ours) == as_program(by_engine)


def test_an_unquoted_date_deletes_no_service(stack: Stack):
    day = datetime.date(2026, 11, 1)
    stack.config["modelserve:prices"] = {"currency": "CNY", "perGpuHour": 10.0, "asOf": day}
    said = stack.preview()
    assert yaml.safe_load(stack.file.read_text())["config"]["modelserve:prices"]["asOf"] == day
    assert "LeaderWorkerSet" in said and "prices of 2026-11-01" in said
    assert read_file(stack.file).config(with_cluster=False).prices.as_of == "2026-11-01"


def test_a_refusal_whose_value_has_a_colon_ends_the_program(stack: Stack):
    stack.config["modelserve:cloud"]["gpu"] = "H20-96:abc"
    said = stack.preview(ok=False)
    assert "modelserve:cloud.gpu: H20-96:abc: abc is not a memory size; write GiB" in said
