"""docs/security.md is true: the tests that it names are there, and every finding that stays has one reason."""

from __future__ import annotations

import re

from local.paths import ROOT
from tests.findings import PAGE, accepted

TEXT = PAGE.read_text()


def test_every_test_that_the_page_names_is_there():
    named = re.findall(r"`((?:tests|\.github)/[^`]*)`", TEXT)
    assert named and [path for path in named if not (ROOT / path).exists()] == []


def test_every_finding_that_stays_is_there_once_with_its_reason():
    rows = re.findall(r"^\| `CKV\S+` \| (.*?) \| (.*) \|$", TEXT, re.MULTILINE)
    found = accepted(TEXT)
    assert len(found) == sum(kinds.count(",") + 1 for kinds, _ in rows) > 0
    assert all(len(reason.split()) > 3 for reason in found.values())


def test_the_page_is_one_page():
    assert len(TEXT.splitlines()) < 100
