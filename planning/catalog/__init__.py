"""Facts from outside the program: each is data beside this file, with its source and the day it was read.

`fact("clouds", "local", "gpusPerPod")` gives the value; an absent fact is a programming error (KeyError), because
the program never guesses one.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent


@cache
def entries(file: str) -> dict[str, Any]:
    """One catalog file, whole: sections of entries, each `{value, source, date}`."""
    return json.loads((_FOLDER / f"{file}.json").read_text())


def fact(file: str, section: str, name: str) -> Any:
    """The value of one entry. Raises KeyError when the catalog has none."""
    return entries(file)[section][name]["value"]
