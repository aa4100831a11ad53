"""Known vulnerabilities of vLLM's releases."""

from __future__ import annotations

import pytest

from planning import advisories


@pytest.mark.parametrize(
    ("version", "hole", "there"),
    [
        ("0.6.4", "GHSA-hj4w-hm2g-p6w5", False),
        ("0.6.5", "GHSA-hj4w-hm2g-p6w5", True),
        ("0.8.4", "GHSA-hj4w-hm2g-p6w5", True),
        ("0.8.5", "GHSA-hj4w-hm2g-p6w5", False),
        ("0.8.5.post1", "GHSA-hj4w-hm2g-p6w5", False),
        ("0.7.3.self.post1", "GHSA-hj4w-hm2g-p6w5", True),
        # The fourth number counts, and a release candidate may predate the fix.
        ("0.10.1", "GHSA-79j6-g2m3-jgfw", True),
        ("0.10.1.1", "GHSA-79j6-g2m3-jgfw", False),
        ("0.24.0rc1", "GHSA-rwxx-mrjm-wc2m", True),
        ("v0.24.0", "GHSA-rwxx-mrjm-wc2m", False),
        # An advisory that names the last affected release, but no fix.
        ("0.8.1", "GHSA-pgr7-mhp5-fgjp", True),
        ("0.8.2", "GHSA-pgr7-mhp5-fgjp", False),
    ],
)
def test_a_release_has_the_holes_from_the_first_to_before_the_fix(version, hole, there):
    found = advisories.holes(version)
    assert found is not None
    assert (hole in {each.id for each in found}) is there


def test_a_version_without_a_number_is_unknown_and_not_sound():
    assert advisories.holes("nightly") is None
    assert advisories.holes("99.0.0") == ()


def test_the_release_to_take_has_none_of_the_holes():
    found = advisories.holes("0.7.2")
    assert found
    better = advisories.first_without(found)
    assert better and not {each.id for each in found} & {each.id for each in advisories.holes(better) or ()}
