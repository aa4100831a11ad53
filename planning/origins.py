"""Where weights come from, by what it is called: what is wrong with a name or an address, and what to write instead.

Pure, for rules that are checked before anything runs.
"""

from __future__ import annotations

import re

HUBS = ("modelscope", "huggingface")
Reason = tuple[str, str]
URL = r"https?://[^\s/@]+(/[^\s@]*)?"
"""Without credentials."""
SUFFIX = r"[A-Za-z0-9_][A-Za-z0-9_.]*"


def url_problem(url: str) -> Reason | None:
    """Why pods should not be given this URL. Everybody who may read pods reads it, so it has no credentials."""
    if re.fullmatch(URL, url):
        return None
    return "is not an http or https URL without credentials", "write one such as https://hf-mirror.com"


def hub_problem(source: str) -> Reason | None:
    """Why `source` is no hub: a known one by its name, or a mirror that speaks Hugging Face's protocol by its URL."""
    if source in HUBS or not url_problem(source):
        return None
    if "@" in source:
        return "has credentials in it, which everybody may read", "leave them out, and give the hub's token apart"
    return "is no hub", f"write {', '.join(HUBS)} or a mirror's URL"


def repository_problem(name: str) -> Reason | None:
    """Why a hub has no repository of this name."""
    return None if re.fullmatch(r"[\w.-]+/[\w.-]+", name) else ("is not owner/name", "write one such as Qwen/Qwen3-32B")


def suffix_problem(suffix: str) -> Reason | None:
    """Why AIBrix' downloader finds no file by this ending."""
    if re.fullmatch(SUFFIX, suffix):
        return None
    return "is not the end of a file's name", "write it without its dot, such as json"
