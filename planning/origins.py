"""Where weights come from: what is wrong with the name or URL of a source, and what to write instead.

Pure: rules use it before anything runs.
"""

from __future__ import annotations

import re

HUBS = ("modelscope", "huggingface")
Reason = tuple[str, str]
URL = r"https?://[^\s/@]+(/[^\s@]*)?"
"""An http or https URL without credentials."""
REPOSITORY = r"[\w.-]+/[A-Za-z0-9][\w.-]*"
SUFFIX = r"[A-Za-z0-9_][A-Za-z0-9_.]*"


def url_problem(url: str) -> Reason | None:
    """Why a pod must not get this URL. Whoever may read pods can read it, so it must not contain credentials."""
    if re.fullmatch(URL, url):
        return None
    return "is not an http or https URL without credentials", "write one such as https://host.example"


def hub_problem(source: str) -> Reason | None:
    """Why `source` is not a hub. A hub is a known name, or the URL of a mirror that speaks Hugging Face's protocol."""
    if source in HUBS or not url_problem(source):
        return None
    if "@" in source:
        return "contains credentials, which everybody may read", "leave them out, and set the hub's token as a secret"
    return "is not a hub", f"write {', '.join(HUBS)} or a mirror's URL"


def repository_problem(name: str) -> Reason | None:
    """Why a hub cannot have a repository of this name."""
    return None if re.fullmatch(REPOSITORY, name) else ("is not owner/name", "write one such as Qwen/Qwen3-32B")


def suffix_problem(suffix: str) -> Reason | None:
    """Why AIBrix's downloader finds no file with this suffix."""
    if re.fullmatch(SUFFIX, suffix):
        return None
    return "is not a file name's suffix", "write it without its dot, such as json"
