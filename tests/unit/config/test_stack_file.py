"""Reading a stack file without Pulumi gives the same values as Pulumi, and detects what YAML hides."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.errors import ConfigError
from config.stack_file import RequestError, path_of, read
from tests.support.stack_files import TEXT

pytestmark = pytest.mark.usefixtures("kubeconfig")


@pytest.fixture
def stack(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "Pulumi.dev.yaml"
        path.write_text(text)
        return path

    return write


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read(path).config()
    return str(caught.value)


def test_a_good_file_gives_its_config(stack):
    assert read(stack(TEXT)).config().services["ds"].layout.gpus == 16


def test_the_same_service_twice_is_refused_with_both_lines(stack):
    twice = TEXT + TEXT[TEXT.index("    ds:") :]
    assert refused(stack(twice)) == "modelserve:services.ds: is given twice, at lines 6 and 11; keep one"


def test_an_encrypted_api_key_is_fine_and_a_plain_one_is_refused_unsaid(stack):
    assert read(stack(TEXT + "  modelserve:apiKey: {secure: v1:abc}\n")).config()
    text = refused(stack(TEXT + "  modelserve:apiKey: sk-canary\n"))
    assert text.startswith("modelserve:apiKey: (plain text): ") and "sk-canary" not in text


def test_an_encrypted_value_in_place_of_a_plain_one_is_refused(stack):
    assert "modelserve:cluster" in refused(stack(TEXT.replace("{context: here}", "{secure: v1:abc}")))


def test_a_context_that_is_not_there_is_refused_with_those_that_are(stack, kubeconfig):
    text = refused(stack(TEXT.replace("context: here", "context: nowhere")))
    assert text == f"modelserve:cluster.context: nowhere: no such context in {kubeconfig}; write one of here, there"


def test_without_any_kubeconfig_the_remedy_is_to_name_one(stack, kubeconfig):
    kubeconfig.unlink()
    assert "set KUBECONFIG to the file that has it" in refused(stack(TEXT))


def test_a_context_inside_a_secret_kubeconfig_is_left_to_pulumi(stack):
    text = TEXT.replace("context: here", "context: nowhere") + "  modelserve:kubeconfig: {secure: v1:abc}\n"
    assert read(stack(text)).config().cluster.context == "nowhere"


def test_config_and_context_are_refused_together(stack):
    text = refused(stack(TEXT.replace("context: here", "context: nowhere").replace("512Gi", "512G")))
    assert len(text.splitlines()) == 2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            TEXT.replace("modelserve:services", "modelserv:services"),
            "modelserv:services: unknown key; write modelserve:services",
        ),
        (TEXT.replace("config:", "cofnig:", 1), "did you mean config?"),
    ],
)
def test_a_misspelt_namespace_or_top_level_key_is_refused(stack, wrong, said):
    assert said in refused(stack(wrong))


def test_other_providers_keys_are_left_to_them(stack):
    assert read(
        stack(TEXT + "  pulumi:disable-default-providers: [kubernetes]\n  alicloud:region: cn-hangzhou\n")
    ).config()


def test_what_is_no_yaml_is_one_line_with_its_line_number(stack):
    with pytest.raises(RequestError, match=r"Pulumi.dev.yaml: line 3: is not YAML"):
        read(stack("config:\n  a: [1\n  b: 2\n"))


def test_a_stack_without_a_file_is_told_with_those_there_are(stack, tmp_path):
    stack(TEXT)
    (tmp_path / "Pulumi.team.eu.yaml").touch()
    with pytest.raises(RequestError, match=r"stack prod: .* does not exist; stacks here: dev, team.eu$"):
        path_of("prod", tmp_path)


PRICED = TEXT + "  modelserve:prices: {currency: CNY, perGpuHour: 10.0, asOf: DAY}\n"


@pytest.mark.parametrize("day", ["2026-11-01", "2026-11-1", "'2026-11-01'", "2026-11-01T10:00:00+08:00"])
def test_a_day_is_taken_in_every_spelling_of_yaml(stack, day):
    assert read(stack(PRICED.replace("DAY", day))).config().prices.as_of == "2026-11-01"


@pytest.mark.parametrize("day", ["2026-02-30", "'2026-11-01T00:00:00Z'", "soon"])
def test_what_is_no_day_is_refused(stack, day):
    assert "modelserve:prices.asOf: " in refused(stack(PRICED.replace("DAY", day)))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("yes", "modelserve:services.ds.unproven: yes: is neither true nor false"),
        ("1:30", "modelserve:services.ds.unproven: 1:30: is neither true nor false"),
        ("9" * 5000, f"modelserve:services.ds.unproven: {'9' * 59}…: is neither true nor false"),
        (".nan", "modelserve:services.ds.unproven: .nan: is not a number that the engine can hand over; write another"),
        ("!!bool yes", "modelserve:services.ds.unproven: has the YAML tag bool; leave it out"),
        ("{a: 1, 0x1: 2, 1: 3}", "modelserve:services.ds.unproven.1: is given twice, at lines 11 and 11; keep one"),
        ("{1.5: 2}", "modelserve:services.ds.unproven.1.5: is not text; put it in quotes"),
        ("&x [*x]", "modelserve:services.ds.unproven: contains itself; write it out"),
    ],
)
def test_what_the_engine_reads_otherwise_or_not_at_all_is_refused(stack, value, said):
    lines = refused(stack(TEXT + f"      unproven: {value}\n")).splitlines()
    assert any(line.startswith(said) for line in lines)


def test_a_number_with_a_point_and_nothing_behind_it_is_a_whole_one(stack):
    """The engine passes 8.0 and 8 on as the same value."""
    assert read(stack(TEXT.replace("tensor: 8", "tensor: 8.0"))).config().services["ds"].layout.tensor == 8


def test_keys_that_are_numbers_are_text_as_the_engine_makes_them(stack):
    file = read(stack(TEXT + "  modelserve:catalog: {gpuPods: {X: {memoryGib: {64: [512]}}}}\n"))
    assert file.raw["catalog"]["gpuPods"]["X"]["memoryGib"] == {"64": [512]} and not file.problems


@pytest.mark.parametrize(
    "key", ["cluster: {context: {secure: v1:abc}}", "catalog: {models: {a: {b: {secure: v1:abc}}}}"]
)
def test_what_is_no_secret_is_refused_where_it_is_encrypted(stack, key):
    name = key.partition(":")[0]
    text = refused(
        stack(TEXT.replace("  modelserve:cluster: {context: here}\n", "").replace("config:", f"config:\n  {key}"))
    )
    assert f"modelserve:{name}: (encrypted): only secrets are encrypted" in text


def test_a_section_with_and_without_its_namespace_is_refused(stack):
    assert "modelserve:cluster: is given twice" in refused(stack(TEXT + "  cluster: {context: here}\n"))
