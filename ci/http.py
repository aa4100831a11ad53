"""An HTTP session that asks a busy or stumbling server again, and waits as long as the server says."""

from __future__ import annotations

from collections.abc import Collection

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

_BUSY = (429, 500, 502, 503, 504)


def session(repeatable: Collection[str]) -> requests.Session:
    """`repeatable` are the methods that have no effect the second time: only they are sent again."""
    retry = Retry(5, connect=2, backoff_factor=0.2, status_forcelist=_BUSY, allowed_methods=repeatable)
    session_ = requests.Session()
    for scheme in ("http://", "https://"):
        session_.mount(scheme, HTTPAdapter(max_retries=retry))
    return session_
