"""No secret gets into a report, whoever wrote it where."""

from __future__ import annotations

import json

import pytest

from report import drift_report, judgement, pages, run_file
from tests.support.reports import preview, step

KEY = "canary-5f1d"
TOKEN = "hf_" + "A" * 34
_MARKED = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270"}
_LWS = "kubernetes:leaderworkerset.x-k8s.io/v1:LeaderWorkerSet"


def _args(*words):
    container = {"name": "vllm", "args": ["serve", *words]}
    return {"spec": {"leaderWorkerTemplate": {"leaderTemplate": {"spec": {"containers": [container]}}}}}


def _env(name, value):
    return {"spec": {"template": {"spec": {"containers": [{"name": "a", "env": [{"name": name, "value": value}]}]}}}}


PLACES = {
    "marked by the engine": (
        "kubernetes:core/v1:ConfigMap",
        lambda n: {"data": {**_MARKED, "plaintext": f'"{KEY}{n}"'}},
    ),
    "marked, with a value beside": (
        "kubernetes:core/v1:ConfigMap",
        lambda n: {"data": {**_MARKED, "value": f"{KEY}{n}"}},
    ),
    "a secret output": (
        "kubernetes:core/v1:ConfigMap",
        lambda n: {
            "data": {next(iter(_MARKED)): "d0e6a833031e9bbcd3f4e8bde6ca49a4", "secret": True, "value": f"{KEY}{n}"}
        },
    ),
    "a Secret's data": ("kubernetes:core/v1:Secret", lambda n: {"kind": "Secret", "data": {"a": f"{KEY}{n}"}}),
    "a Secret's text": ("kubernetes:core/v1:Secret", lambda n: {"stringData": {"a": f"{KEY}{n}"}}),
    "a whole object in an annotation": (
        "kubernetes:core/v1:ConfigMap",
        lambda n: {
            "metadata": {
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": json.dumps({"data": f"{KEY}{n}"})}
            }
        },
    ),
    "a Secret in a list": (
        "kubernetes:core/v1:List",
        lambda n: {"items": [{"kind": "Secret", "data": {"a": f"{KEY}{n}"}}]},
    ),
    "a variable": ("kubernetes:apps/v1:Deployment", lambda n: _env("HF_TOKEN", f"{KEY}{n}")),
    "a variable's name as a key": ("kubernetes:core/v1:ConfigMap", lambda n: {"data": {"MY_API_KEY": f"{KEY}{n}"}}),
    "an argument": (_LWS, lambda n: _args("--api-key", f"{KEY}{n}")),
    "an argument with =": (_LWS, lambda n: _args(f"--api-key={KEY}{n}")),
    "a token by its shape": (
        "kubernetes:core/v1:ConfigMap",
        lambda n: {"data": {"note": f"{TOKEN[:-1]}{'ab'[n - 1]}"}},
    ),
    "a cloud's key": ("alicloud:ram/accessKey:AccessKey", lambda n: {"userName": f"u{n}", "secret": f"{KEY}{n}"}),
}
_SHOWN = {
    "markdown": pages.markdown,
    "text": pages.text,
    "json": lambda judged: json.dumps(pages.to_json(judged)),
    "drift": lambda judged: "".join(
        [drift_report.markdown(drift_report.look(judged.run)), drift_report.text(drift_report.look(judged.run))]
    ),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("shown", _SHOWN)
def test_a_secret_is_shown_in_no_form(place, shown):
    kind, made = PLACES[place]
    text = preview(step(kind, "x", "update", made(1), made(2)))
    assert KEY in text or TOKEN[:-1] in text
    said = _SHOWN[shown](judgement.judge(run_file.read(text, "f"), after={}))
    assert KEY not in said and TOKEN[:-1] not in said


MESSAGES = {
    "by its shape": f"bad: {TOKEN}",
    "of many lines": f"-----BEGIN RSA PRIVATE KEY-----\n{KEY}\n{KEY}\n-----END RSA PRIVATE KEY-----",
    "by the name before it": f"HF_TOKEN={KEY} is not known",
    "by a name in JSON": f'{{"password": "{KEY}"}}',
    "by an argument's name": f"unrecognized arguments: --api-key={KEY}",
}


@pytest.mark.parametrize("case", MESSAGES)
def test_a_secret_in_a_message_is_not_repeated(case):
    message = f"{MESSAGES[case]}\nnext line, apiKey: is missing"
    said = [{"severity": severity, "message": message} for severity in ("error", "warning")]
    finding = judgement.Finding("a", "error", "b", message, message)
    run = run_file.read(preview(diagnostics=said), "f")
    judged = judgement.judge(run, after={}, findings=[finding], unplanned=message)
    for shown in (pages.markdown(judged), pages.text(judged), json.dumps(pages.to_json(judged))):
        assert TOKEN not in shown and KEY not in shown and "next line, apiKey: is missing" in shown


def test_what_is_no_secret_stays():
    new = _env("NCCL_DEBUG", "INFO")
    judged = judgement.judge(
        run_file.read(
            preview(step("kubernetes:apps/v1:Deployment", "x", "update", _env("NCCL_DEBUG", "WARN"), new)), "f"
        ),
        after={},
    )
    assert "INFO" in pages.markdown(judged) and "WARN" in pages.markdown(judged)
