"""`python -m ops`: exit codes, one-line refusals, JSON; as a script calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

import jsonschema
import pytest
import yaml

from local.paths import ROOT
from ops.__main__ import main
from tests.support.patience import PATIENCE_SECONDS


@dataclass
class Done:
    """How a command ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def ops(tmp_path, monkeypatch, capsys):
    """Runs a command as `python -m ops` does, but in this process."""
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text("contexts: [{name: rehearsal}]")
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    monkeypatch.chdir(ROOT)

    def run(*args: str) -> Done:
        code = main(args)
        said = capsys.readouterr()
        return Done(code, said.out, said.err)

    return run


def as_a_script_calls_it(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS)


@pytest.fixture
def bad(tmp_path):
    path = tmp_path / "Pulumi.bad.yaml"
    text = (ROOT / "Pulumi.local.yaml").read_text()
    path.write_text(text.replace("tensor: 8", "tensor: 4").replace("memory: 512Gi", "memory: 512G"))
    return path


def test_check_accepts_the_local_stack_and_counts_its_gpus(ops):
    done = ops("check", "local", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found.pop("plans")["ds"]["fits"]) == (0, True)
    assert {each["severity"] for each in found.pop("policy")} == {"advisory"}
    counted = {"services": ["ds"], "gpus": 16, "mostGpus": 16}
    (holes,) = found.pop("warnings")
    assert holes.startswith("ds: vLLM 0.7.3 has 16 known holes (advisories to 2")
    assert found == counted | {"ok": True, "refusals": [], "fits": True}


def test_check_loads_neither_pulumi_nor_a_cluster_client():
    done = as_a_script_calls_it(
        "-c",
        "import sys; from ops.__main__ import main; main(['check', 'nowhere']); "
        "import ops.check; print(sorted({'pulumi', 'kubernetes', 'grpc'} & set(sys.modules)))",
    )
    assert done.stdout.strip() == "[]"


def test_check_refuses_with_every_line_and_exit_code_2_without_a_traceback(ops, bad):
    done = ops("check", "bad", "--config", str(bad))
    assert done.returncode == 2
    assert [line.split(": ")[0] for line in done.stderr.splitlines()] == [
        "modelserve:services.ds.layout.tensor",
        "modelserve:services.ds.resources.memory",
    ]
    listed = json.loads(ops("check", "bad", "--config", str(bad), "--json").stdout)
    assert [refusal["key"] for refusal in listed["refusals"]] == [
        "modelserve:services.ds.layout.tensor",
        "modelserve:services.ds.resources.memory",
    ]


def test_render_refuses_as_check_does(ops, bad):
    done = ops("render", "bad", "--config", str(bad))
    assert (done.returncode, done.stdout) == (2, "") and "Traceback" not in done.stderr


def test_a_stack_that_is_not_there_is_one_line(ops):
    done = ops("render", "nowhere")
    assert done.returncode == 2
    assert done.stderr.startswith("stack nowhere: ") and len(done.stderr.splitlines()) == 1


def test_render_gives_every_object_the_same_twice_with_placeholders_for_secrets(ops):
    done = ops("render", "local")
    objects = list(yaml.safe_load_all(done.stdout))
    assert [(o["kind"], o["metadata"]["name"].partition("-launch-")[0]) for o in objects] == [
        ("ConfigMap", "ds"),
        ("NetworkPolicy", "ds"),
        ("Secret", "ds-api-key"),
        ("Service", "ds-leader"),
        ("LeaderWorkerSet", "ds"),
    ]
    assert objects[2]["stringData"] == {"apiKey": "<apiKey>"}
    assert as_a_script_calls_it("-m", "ops", "render", "local").stdout == done.stdout
    assert json.loads(ops("render", "local", "--json").stdout) == objects


def test_render_knows_a_bucket_that_is_there_and_the_claim_of_its_volume(ops, tmp_path):
    path = tmp_path / "Pulumi.there.yaml"
    text = (ROOT / "Pulumi.acs.yaml").read_text()
    path.write_text(
        text.replace("create: true", "create: false").replace("engine: fluid, workers: auto", "engine: none")
    )
    done = ops("render", "there", "--config", str(path))
    assert done.stderr == ""
    objects = {made["kind"]: made for made in yaml.safe_load_all(done.stdout)}
    assert objects["PersistentVolume"]["spec"]["csi"]["volumeAttributes"]["bucket"] == "modelserve-llm-weights"
    (volume,) = (
        volume["persistentVolumeClaim"]["claimName"]
        for volume in objects["LeaderWorkerSet"]["spec"]["leaderWorkerTemplate"]["leaderTemplate"]["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    )
    assert volume == objects["PersistentVolumeClaim"]["metadata"]["name"]


def test_the_committed_schema_is_the_generated_one(ops):
    assert (ROOT / "stack.schema.json").read_text() == ops("schema").stdout, "run: python -m ops schema --write"


def test_the_schema_accepts_our_stack_files_and_refuses_a_misspelt_key(bad):
    schema = jsonschema.Draft202012Validator(json.loads((ROOT / "stack.schema.json").read_text()))
    for path in ROOT.glob("Pulumi.*.yaml"):
        schema.validate(yaml.safe_load(path.read_text()))
    wrong = yaml.safe_load((ROOT / "Pulumi.local.yaml").read_text())
    wrong["config"]["modelserve:services"]["ds"]["layout"]["tenser"] = 8
    with pytest.raises(jsonschema.ValidationError, match="tenser"):
        schema.validate(wrong)


def test_plan_of_a_stack_is_a_table_json_and_a_page(ops, tmp_path):
    table = ops("plan", "local")
    assert table.returncode == 0 and table.stdout.startswith("ds: DeepSeek-R1 on 2 x 8 GPUs as TP8 PP2 of H20-96")
    found = json.loads(ops("plan", "local", "--json").stdout)
    assert found["fits"] is True and found["services"]["ds"]["kv_tokens"] > 0
    page = tmp_path / "plan.html"
    assert ops("plan", "local", "--html", str(page)).stdout == f"{page}: fits\n"
    assert page.read_text().startswith("<!DOCTYPE html>") and "DeepSeek-R1" in page.read_text()
    lost = ops("plan", "local", "--html", str(tmp_path / "no" / "plan.html"))
    assert lost.returncode == 2 and len(lost.stderr.splitlines()) == 1


def test_plan_shows_a_misfit_that_check_refuses(ops, tmp_path):
    path = tmp_path / "Pulumi.small.yaml"
    path.write_text((ROOT / "Pulumi.local.yaml").read_text().replace("gpu: H20-96", "gpu: L20-48"))
    assert ops("check", "small", "--config", str(path)).returncode == 2
    shown = ops("plan", "small", "--config", str(path))
    assert shown.returncode == 1 and "does not fit" in shown.stdout and "nearest that fit" in shown.stdout


@pytest.mark.parametrize("command", ["check", "render", "plan", "verify", "recover"])
def test_every_command_on_a_stack_takes_its_file_alone(ops, bad, command):
    done = ops(command, "--config", str(bad))
    assert done.returncode == 2
    assert [line.split(": ")[0] for line in done.stderr.splitlines()] == [
        "modelserve:services.ds.layout.tensor",
        "modelserve:services.ds.resources.memory",
    ]
    assert len(ops(command).stderr.splitlines()) == 1


def test_a_stack_without_its_name_has_that_of_its_file(ops, tmp_path):
    path = tmp_path / "Pulumi.other.yaml"
    path.write_text((ROOT / "Pulumi.local.yaml").read_text())
    assert ops("check", "--config", str(path)).stdout.startswith("other: 1 service, ")
    local = ops("render", "local").stdout.replace("stack: local", "stack: other")
    assert ops("render", "--config", str(path)).stdout == local


@pytest.mark.parametrize(
    "words",
    [
        ("check", "nowhere"),
        ("check", "--config", "/nowhere"),
        ("check",),
        ("check", "a", "b"),
        ("render", "nowhere"),
        ("plan", "nowhere"),
        ("plan", "--model", "Nope", "--gpu", "H20-96"),
        ("plan", "--model", "DeepSeek-R1", "--gpu", "H20-96", "--nodes", "x"),
        ("verify", "nowhere"),
    ],
)
def test_whatever_is_wrong_json_is_printed_where_it_is_asked_for(ops, words):
    done = ops(*words, "--json")
    assert done.returncode == 2 and done.stderr
    assert json.loads(done.stdout)["fits"] is False and json.loads(done.stdout)["refusals"]


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0", "1e999", "x"])
@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--link-gbit", ("plan", "--model", "Qwen3-8B", "--gpu", "H20-96")),
        ("--utilization", ("plan", "--model", "Qwen3-8B", "--gpu", "H20-96")),
        ("--nodes", ("plan", "--model", "Qwen3-8B", "--gpu", "H20-96")),
        ("--timeout", ("verify", "local")),
    ],
)
def test_a_number_that_is_none_is_one_line(ops, option, words, value):
    done = ops(*words, option, value)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert f"{option}: {value}: is not a" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--tensor", "7"), "--tensor and a stack"),
        (("--data", "1", "--storage", "mount"), "--data and --storage and a stack"),
        (("--enforce-eager",), "--enforce-eager and a stack"),
        (("--gpu", "H20-96"), "--gpu and a stack"),
    ],
)
def test_a_plan_of_a_stack_takes_no_request_beside(ops, words, said):
    done = ops("plan", "local", *words)
    assert (done.returncode, done.stderr) == (
        2,
        f"plan: {said} do not go together: its file says it; leave one out\n",
    )


def test_a_schema_that_cannot_be_written_is_one_line(ops, tmp_path, monkeypatch):
    (tmp_path / "stack.schema.json").mkdir()
    monkeypatch.chdir(tmp_path)
    done = ops("schema", "--write")
    assert (done.returncode, done.stderr) == (2, "stack.schema.json: cannot be written (Is a directory)\n")


def test_plan_wants_a_stack_or_a_model_with_a_gpu(ops):
    for args in ((), ("--model", "DeepSeek-R1"), ("local", "--model", "DeepSeek-R1", "--gpu", "H20-96")):
        done = ops("plan", *args)
        assert (done.returncode, done.stderr) == (2, "plan: write a STACK, or --model M with --gpu G\n")
