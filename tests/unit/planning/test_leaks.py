"""The search finds what looks like a key, and always terminates."""

from __future__ import annotations

import time

import pytest

from planning import leaks


@pytest.mark.parametrize("unit", ["a", "a-", "A1_", "AK", "sk-", "https://x:", "a.b@", "-----BEGIN ", "hf_"])
def test_a_long_text_is_looked_through_in_a_moment(unit: str):
    begin = time.process_time()
    leaks.by_shape(unit * (2**17 // len(unit)))
    assert time.process_time() - begin < 1


def test_an_address_with_a_password_is_seen_wherever_it_stands():
    for text in ("https://u:canary@h", "x=postgres://u:canary@h/db", "a" * 99 + "https://u:canary@h"):
        assert leaks.by_shape(text) == "an address with a password"
    assert leaks.by_shape("https://h:8000/a@b") is None
