"""What kwok is told to do with objects, before any of it runs."""

from __future__ import annotations

import yaml

from local import control_plane


def test_the_last_stage_is_of_a_kind_that_kwok_has_heard_of_before():
    files = control_plane._OWN_STAGES
    kinds = [stage["spec"]["resourceRef"]["kind"] for file in files for stage in yaml.safe_load_all(file.read_text())]
    assert kinds[-1] in kinds[:-1]
