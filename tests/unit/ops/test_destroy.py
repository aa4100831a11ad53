"""What `ops destroy` says while Pulumi waits for a deletion that does not end."""

from __future__ import annotations

import sys
from pathlib import Path

from ops import destroy


def test_what_is_waited_for_is_said_once_while_the_destroy_goes_on_and_its_exit_code_is_kept(
    monkeypatch, capfd, tmp_path: Path
):
    monkeypatch.setattr(destroy, "_LOOK_SECONDS", 0.01)
    end = tmp_path / "end"
    program = f"import os, time\nwhile not os.path.exists({str(end)!r}): time.sleep(0.01)\nraise SystemExit(3)"
    looks = iter([[], ["a"], ["a", "b"], ["b"]])

    def late() -> list[str]:
        found = next(looks, None)
        if found is None:
            end.touch()
        return found or []

    assert destroy._run([sys.executable, "-c", program], "trial", late) == 3
    assert capfd.readouterr().err.splitlines() == ["trial: waiting: a", "trial: waiting: b"]
