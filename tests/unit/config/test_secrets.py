"""Secrets of a stack file: none is empty, none is in plain text without a message, and none is repeated in output."""

from __future__ import annotations

import re

import pytest

from config.errors import ConfigError
from config.judge import parse
from config.secrets import SECRETS, warnings
from config.stack_file import StackFile, read
from tests.support.stack_files import TEXT
from tests.support.stack_files import StackFile as Committed

LOCAL = Committed("local")
HF, LTAI = f"hf_{'aB' * 17}", f"LTAI{'5t' * 10}"
# How the engine stores a secret that was set to "" (AES-256-GCM under a passphrase).
NOTHING = "v1:4WrlTU7NwKKg1oHV:D9mXxCvnt2G9uKTfD5yGXA=="
ENGINE = '{image: "vllm/vllm-openai:v0.19.0", version: "0.19.0", launcher: native, MORE}'
SERVICE = re.sub(r"(?<=engine: ){.*}", ENGINE, TEXT)


@pytest.fixture
def file(tmp_path):
    def made(text: str, engine: str = "env: {}") -> StackFile:
        path = tmp_path / "Pulumi.dev.yaml"
        path.write_text(SERVICE.replace("MORE", engine) + text)
        return read(path)

    return made


def lines(file: StackFile) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        file.config(with_cluster=False)
    return caught.value.lines


def said(file: StackFile) -> list[str]:
    config = file.config(with_cluster=False)
    return [*warnings(config.services, file.encrypted, file.plain)]


@pytest.mark.parametrize("key", SECRETS)
@pytest.mark.parametrize(
    "value",
    ['""', '" "', "null", "", "[]", "{}", '{secure: ""}', "{secure: null}", f"{{secure: '{NOTHING}'}}"],
)
def test_a_secret_that_holds_nothing_is_refused_in_one_line(file, key, value):
    pairs = {"accessKey": "secretKey", "syncAccessKey": "syncSecretKey"}
    pairs |= {other: one for one, other in pairs.items()}
    other = f"  modelserve:{pairs[key]}: {{secure: v1:x:y}}\n" if key in pairs else ""
    (line,) = lines(file(f"  modelserve:{key}: {value}\n{other}"))
    assert line.startswith(f"modelserve:{key}: (empty): ")
    assert line.endswith(f"run: pulumi config set --secret modelserve:{key}, or leave it out")


@pytest.mark.parametrize("value", ["sk-canary", "0", "false", "{a: canary}", "[{secure: canary}]"])
def test_a_secret_that_is_not_encrypted_itself_is_in_plain_text(file, value):
    (line,) = lines(file(f"  modelserve:apiKey: {value}\n"))
    assert line.startswith("modelserve:apiKey: (plain text): ") and "canary" not in line


def test_an_empty_key_opens_no_address_to_everybody():
    raw = LOCAL.changed(cloud={"kind": "acs", "region": "cn-hangzhou", "gpuSeries": "GU8TF"})
    raw["services"]["ds"]["expose"] = {"to": "private"}
    (line,) = LOCAL.lines(raw, empty_secrets=["apiKey"])
    assert line.startswith("modelserve:apiKey: (empty)")


def test_whoever_asks_nobody_for_a_key_is_told_so(file):
    (line,) = said(file(""))
    assert line.startswith("modelserve:apiKey: is missing: ds will answer anyone, without a key; run: pulumi")
    assert said(file("  modelserve:apiKey: {secure: v1:x:y}\n")) == []


@pytest.mark.parametrize(
    ("engine", "line"),
    [
        (
            f"env: {{HF_TOKEN: {HF}}}",
            "env.HF_TOKEN: looks like a token of Hugging Face, in plain text for whoever reads the file; leave it out, "
            "and run: pulumi config set --secret modelserve:hubToken",
        ),
        ("env: {HF_TOKEN: canary}", "env.HF_TOKEN: looks like a token of Hugging Face"),
        (f"env: {{NOTE: 'made by {LTAI}.'}}", "env.NOTE: looks like the id of an access key of Alibaba Cloud"),
        ("extraArgs: [--hf-token, canary]", "extraArgs[1]: looks like a token of Hugging Face"),
    ],
)
def test_an_engine_that_has_somebodys_key_in_plain_text_is_told_without_it(file, engine, line):
    (found,) = said(file("  modelserve:apiKey: {secure: v1:x:y}\n", engine))
    assert found.startswith(f"modelserve:services.ds.engine.{line}")
    assert not any(key in found for key in ("canary", HF, LTAI))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "alicloud:secretKey: canary",
            "alicloud:secretKey: looks like the secret of an access key, in plain text for whoever reads the file; "
            "run: pulumi config set --secret alicloud:secretKey",
        ),
        ("volcengine:secretKey: canary", "volcengine:secretKey: looks like the secret of an access key"),
        (
            f"aws:assumeRoles: [{{externalId: {LTAI}}}]",
            "aws:assumeRoles[0].externalId: looks like the id of an access key of Alibaba Cloud, in plain text for "
            "whoever reads the file; run: pulumi config set --secret --path aws:assumeRoles[0].externalId",
        ),
        ("any:proxy: http://user:canary@h.example", "any:proxy: looks like an address with a password"),
        ("any:pem: '-----BEGIN RSA PRIVATE KEY-----canary'", "any:pem: looks like a private key"),
    ],
)
def test_another_programs_key_in_plain_text_is_told_without_it(file, text, line):
    (found,) = said(file(f"  modelserve:apiKey: {{secure: v1:x:y}}\n  {text}\n"))
    assert found.startswith(line) and not any(key in found for key in ("canary", LTAI))


def test_other_programs_keys_that_are_encrypted_or_no_secrets_are_left_alone(file):
    more = "  alicloud:secretKey: {secure: v1:x:y}\n  alicloud:region: cn-hangzhou\n  any:a: [{b: {secure: canary}}]\n"
    assert said(file("  modelserve:apiKey: {secure: v1:x:y}\n" + more)) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("apikey", "canary"),
        ("hubTokn", HF),
        ("services/ds/apiKey", "canary"),
        ("services/ds/engine/env", {"HF_TOKEN": 1234567}),
        ("services/ds/engine/image", HF),
        ("services/ds/replicas", f"x {LTAI}"),
        ("cluster/namespace", "http://user:canary@h.example"),
    ],
)
def test_no_refusal_repeats_somebodys_key(path, value):
    (line,) = LOCAL.lines(LOCAL.changed(**{path: value}))
    assert not any(key in line for key in ("canary", HF, LTAI, "1234567"))


def test_the_committed_stack_files_have_nothing_that_looks_like_a_key():
    for stack in ("local", "acs", "volcengine"):
        raw = Committed(stack).whole
        plain = {f"modelserve:{key}": value for key, value in raw.items()}
        assert [*warnings(parse(raw).services, SECRETS, plain)] == []
