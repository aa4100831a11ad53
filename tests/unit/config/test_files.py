"""A stack file or kubeconfig may contain anything: one line says what is wrong, with exit code 2, at once, and in JSON
too."""

from __future__ import annotations

import json
import random
import re
import time
from pathlib import Path

import pytest
import yaml

from config.kubeconfig import check_context
from config.plans import checked
from config.stack_file import RequestError, read
from local.paths import ROOT
from ops.__main__ import main
from planning.problems import Refused
from tests.support.stack_files import TEXT
from tests.support.ways import WAYS
from tests.unit.config.test_mutations import FIELDS, NUMBERS, OTHERS, TEXTS, mutated

GOOD = f"encryptionsalt: v1:x\n{TEXT}"
pytestmark = pytest.mark.usefixtures("kubeconfig")
SECONDS = 0.5  # of CPU time; a busy machine takes longer


def bomb(first: str, more: str) -> str:
    """Nine of nine of nine …, in some hundred bytes."""
    steps = zip("abcdefgh", "bcdefghi", strict=True)
    return f"a: &a {first}\n" + "".join(
        f"{here}: &{here} {more}\n".replace("*", ",".join([f"*{before}"] * 9)) for before, here in steps
    )


CHAIN = "".join(f"b{i}: &b{i} {'[' * 40}{f'*b{i - 1}' if i else ''}{']' * 40}\n" for i in range(40))
UNREADABLE = {
    "gbk": (GOOD.replace("here", "集群").encode("gbk"), "line 4: is not UTF-8 text; save it as UTF-8"),
    "latin-1": (GOOD.replace("here", "é").encode("latin-1"), "line 4: is not UTF-8 text; save it as UTF-8"),
    "utf-16": (GOOD.encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
    "utf-16-be": (GOOD.encode("utf-16-be"), "line 1: has the control character \\x00 in it; remove it"),
    "nul": (GOOD.replace("here", "he\0re"), "line 4: has the control character \\x00 in it; remove it"),
    "escape": (GOOD.replace("here", "he\x1b[31mre"), "line 4: has the control character \\x1b in it; remove it"),
    "aliases": (bomb("[x,x,x,x,x,x,x,x,x]", "[*]"), "has more than 20000 values, including those that aliases repeat"),
    "merges": (bomb("{x: 1}", "{<<: [*]}"), "has more than 20000 values, including those that aliases repeat"),
    "lists": (f"{GOOD}  modelserve:catalog: {'[' * 2000}{']' * 2000}\n", "line 12: nests deeper than 60 maps and"),
    "maps": (f"{GOOD}  modelserve:catalog: {'{a: ' * 2000}{'}' * 2000}\n", "line 12: nests deeper than 60 maps and"),
    "dashes": ("- " * 500_000, "line 1: nests deeper than 60 maps and lists"),
    "aliases of lists": (CHAIN, "line 1: nests deeper than 60 maps and lists"),
    "two documents": (f"{GOOD}---\na: 1\n", "line 12: is not YAML: but found another document"),
    "no anchor": ("config: *nowhere", "line 1: is not YAML: found undefined alias"),
    "tag": ("!!int abc", "has the YAML tag int; leave it out"),
    "list": ("- a", "is not a stack file: its top level is a map with `config:`"),
    "large": ("#" * 2**21, "is larger than 1 MiB"),
}
REFUSED = {
    "nothing": ("", "config: is missing; write a map with modelserve:cloud and so on"),
    "no config": ("config:\n", "config: is missing; write a map with modelserve:cloud and so on"),
    "config of a list": ("config: [1]\n", "config: [1]: is not a map; write a map with modelserve:cloud and so on"),
    "config twice": (f"{GOOD}config: {{}}\n", "config: is given twice, at lines 2 and 12; keep one"),
    "keys without config": (
        re.sub("(?m)^  ", "", GOOD.replace("config:\n", "")),
        "config: modelserve:cloud, modelserve:cluster, modelserve:weights, modelserve:services stand outside config; "
        "write them "
        "below `config:`, indented",
    ),
    "a key beside config": (
        f"modelserve:prices: {{}}\n{GOOD}",
        "config: modelserve:prices stand outside it; write them below `config:`, indented",
    ),
    "configs": (GOOD.replace("config:", "configs:"), "configs: unknown key; did you mean config?"),
    "modelserv": (
        GOOD.replace("modelserve:cloud", "modelserv:cloud"),
        "modelserv:cloud: unknown key; write modelserve:cloud",
    ),
    "upper case": (
        f"{GOOD}  MODELSERVE:cache: {{}}\n",
        "MODELSERVE:cache: unknown key; write modelserve:cache",
    ),
    "model-serving": (
        GOOD.replace("modelserve:cloud", "model-serving:cloud"),
        "model-serving:cloud: unknown key; write modelserve:cloud",
    ),
    "three parts": (
        f"{GOOD}  modelserve:a:b: 1\n",
        "modelserve:a:b: has more colons than the engine reads; write one, as in modelserve:cloud",
    ),
    "section": (
        GOOD.replace("modelserve:services", "modelserve:servces"),
        "modelserve:servces: {ds}: unknown key; did",
    ),
    "recursive": (
        f"{GOOD}  modelserve:catalog: &x {{models: *x}}\n",
        "modelserve:catalog.models: contains itself; write it out",
    ),
    "a tag": (f"{GOOD}  modelserve:catalog: !!int abc\n", "modelserve:catalog: has the YAML tag int; leave it out"),
    "a key of a list": (f"{GOOD}  ? [a, b]\n  : c\n", "config: has a key at line 12 that is not text; write a name"),
    "a root of a list": (f"? [a, b]\n: c\n{GOOD}", "the file: has a key at line 1 that is not text; write a name"),
    "a key of a number": (f"1: 2\n{GOOD}", "1: unknown key; known: config, encryptedkey, encryptionsalt,"),
    "impossible day": (
        f"{GOOD}  modelserve:prices: {{asOf: 2026-02-30}}\n",
        "modelserve:prices.asOf: 2026-02-30: is not a day; write it as 2026-11-01",
    ),
    "a tab in a name": (
        GOOD.replace("H20-96", r'"H20\t96"'),
        r"modelserve:cloud.gpu: H20\t96: is not in the catalog; write one of H20-96, H200-141, H20-141, or",
    ),
    "escaped": (
        GOOD.replace("here", r'"a\e[31mb\0"'),
        r"modelserve:cluster.context: a\x1b[31mb\x00: contains the control character \x1b; remove it",
    ),
}


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "Pulumi.odd.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("name", [*UNREADABLE, *REFUSED])
def test_a_file_of_any_kind_is_one_line_at_once(tmp_path, capsys, name):
    text, said = (UNREADABLE | REFUSED)[name]
    path = write(tmp_path, text)
    begun = time.process_time()
    assert main(["check", "--config", str(path), "--json"]) == 2
    assert time.process_time() - begun < SECONDS
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.startswith(f"{path}: {said}" if name in UNREADABLE else said) and line.isprintable()
    listed = json.loads(out)
    assert listed["ok"] is False and len(listed["refusals"]) == 1


def test_what_is_no_file_is_one_line(tmp_path):
    for path, said in ((tmp_path, "is not a file"), (tmp_path / "no", "no such file"), (Path("a\0b"), "no such file")):
        with pytest.raises(RequestError, match=said):
            read(path)


def test_a_byte_order_mark_of_utf_8_is_no_mistake(tmp_path):
    assert read(write(tmp_path, b"\xef\xbb\xbf" + GOOD.encode())).config().services


def test_other_namespaces_are_left_to_their_owners_whatever_they_look_like(tmp_path):
    text = f"{GOOD}  modelscope:x: 1\n  model:x: 1\n  server:x: 1\n  aws:config:region: x\n  pulumi:tags: {{a: b}}\n"
    assert read(write(tmp_path, text)).config().services


def test_the_engines_long_spelling_of_a_key_is_the_key(tmp_path):
    text = GOOD.replace("modelserve:cloud", "modelserve:config:cloud")
    assert read(write(tmp_path, text)).config().cloud.kind == "local"


def test_mistakes_of_the_root_come_first_and_hide_no_other(tmp_path, capsys):
    text = GOOD.replace("modelserve:services", "modelserv:services").replace("512Gi", "512G")
    assert main(["check", "--config", str(write(tmp_path, text + "  modelserve:cache: {engine: x}\n"))]) == 2
    keys = [line.split(": ")[0] for line in capsys.readouterr().err.splitlines()]
    assert keys == ["modelserv:services", "modelserve:cache.engine", "modelserve:services.ds.resources.memory"]


def test_a_secret_under_a_misspelt_namespace_is_not_repeated(tmp_path, capsys):
    assert main(["check", "--config", str(write(tmp_path, f"{GOOD}  MODELSERVE:apiKey: sk-canary\n")), "--json"]) == 2
    said = capsys.readouterr()
    assert "MODELSERVE:apiKey" in said.err and "canary" not in said.out + said.err


KUBECONFIGS: dict[str, str | bytes] = {
    "a list": "[]",
    "text": "hello",
    "contexts of text": "contexts: here",
    "contexts of a list of text": "contexts: [here]",
    "users of a number": "contexts: [{name: here}]\nusers: 5",
    "no yaml": "contexts: [",
    "nul": "contexts: [{name: he\0re}]",
    "gbk": "contexts: [{name: 集群}]".encode("gbk"),
    "aliases": bomb("[x,x,x,x,x,x,x,x,x]", "[*]"),
    "lists": "contexts: " + "[" * 2000,
}


@pytest.mark.parametrize("name", KUBECONFIGS)
def test_a_malformed_kubeconfig_is_one_line_at_once(tmp_path, capsys, kubeconfig, name):
    given = KUBECONFIGS[name]
    kubeconfig.write_bytes(given if isinstance(given, bytes) else given.encode())
    begun = time.process_time()
    assert main(["check", "--config", str(write(tmp_path, GOOD))]) == 2
    assert time.process_time() - begun < SECONDS
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"modelserve:cluster.context: {kubeconfig}") and line.isprintable()


def test_a_context_whose_name_is_no_text_is_none(kubeconfig):
    kubeconfig.write_text("contexts: [{name: 8}, {name: [a]}, {other: here}, {name: here}]")
    check_context("here")
    with pytest.raises(Refused, match="write one of here"):
        check_context("8")


_BYTES = [*b" \n\t:{}[]-#&*!|>'\"%@`,?~<.0aZ_=\\", 0, 1, 27, 127, 128, 0xBF, 0xC3, 0xE9, 0xFF]
_PIECES = [
    b"<<: *a",
    b"&a ",
    b"*a",
    b"!!int ",
    b"? ",
    b"{a: ",
    b"[",
    b"]",
    b"}",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"---\n",
]
_PIECES += [b"modelserve:", b"config:", b"9" * 400, b"1e400", b"2026-02-30", b'"\\0"', "é".encode(), b"\r\n", b"|\n"]


def spoilt(text: bytes, chance: random.Random) -> bytes:
    """The text with a few bytes, words or lines removed, inserted, moved or repeated."""
    lines = text.split(b"\n")
    for _ in range(chance.randint(1, 3)):
        at, other = chance.randrange(len(lines)), chance.randrange(len(lines))
        line = lines[at]
        where = chance.randrange(len(line) + 1)
        length = chance.randint(1, 6)
        lines[at] = chance.choice(
            (
                line[:where] + bytes([chance.choice(_BYTES)]) + line[where:],
                line[:where] + chance.choice(_PIECES) + line[where:],
                line[:where] + line[where + length :],
                line[:where],
                b"  " + line,
                line[2:],
                line + b"\n" + line,
                lines[other],
                line.swapcase(),
            )
        )
    return b"\n".join(lines)


def survived(folder: Path, chance: random.Random) -> None:
    """A file with damaged structure or text is soon either accepted or refused, line by line."""
    if chance.random() < 0.5:
        text = (ROOT / f"Pulumi.{chance.choice(('local', 'acs', 'volcengine'))}.yaml").read_bytes()
    else:
        path, named = chance.choice(FIELDS)
        value = chance.choice(chance.choice([named or TEXTS, TEXTS, NUMBERS, OTHERS]))
        file = {
            f"modelserve:{key}": value
            for key, value in mutated(chance.choice(list(WAYS.values())), [(path, value)]).items()
        }
        text = yaml.dump({"config": file}, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)).encode()
    if chance.random() < 0.6:
        text = spoilt(text, chance)
    path_of_file = write(folder, text)
    begun = time.process_time()
    try:
        config, plans = checked(read(path_of_file), with_cluster=False)
        assert config.services.keys() == plans.keys()
    except (Refused, RequestError) as error:
        assert str(error) and all(line.isprintable() and len(line) < 2000 for line in str(error).splitlines())
    except Exception as error:
        raise AssertionError(f"no refusal of this file, but {error!r}:\n{text!r}") from error
    assert time.process_time() - begun < 1, text


def test_no_spoilt_file_raises_or_hangs(tmp_path):
    chance = random.Random(11)
    for _ in range(250):
        survived(tmp_path, chance)


@pytest.mark.soak
def test_ten_thousand_spoilt_files_raise_or_hang_nowhere(tmp_path, dice, budget):
    """In a minute; longer where the run is given more."""
    end, done = time.monotonic() + budget, 0
    while done < 10_000 or time.monotonic() < end:
        survived(tmp_path, dice)
        done += 1
