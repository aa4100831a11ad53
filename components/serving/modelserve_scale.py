"""Runs in the pods of a schedule, with Python alone: sets the number of replicas of one workload, and ends.

Its service account may do nothing else. The cluster's controllers end the pods as in any scale-in: each gives its
running answers first.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

_ATTEMPTS = 5
_PAUSE_SECONDS = 2.0
_TIMEOUT_SECONDS = 10.0


def scale(url: str, identity: Path, replicas: int) -> None:
    """Asks the API server for `replicas` at `url`, the workload's scale. `identity` has the pod's token and the CA."""
    request = urllib.request.Request(
        url,
        json.dumps({"spec": {"replicas": replicas}}).encode(),
        {
            "Authorization": f"Bearer {(identity / 'token').read_text().strip()}",
            "Content-Type": "application/merge-patch+json",
        },
        method="PATCH",
    )
    trusted = ssl.create_default_context(cafile=str(identity / "ca.crt")) if url.startswith("https:") else None
    urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS, context=trusted).close()


def main() -> int:
    """Returns 0 once the API server has accepted the number, 1 if it did not in a few attempts."""
    workload, replicas = os.environ["MODELSERVE_WORKLOAD"], int(os.environ["MODELSERVE_REPLICAS"])
    url = f"{os.environ['MODELSERVE_API']}{workload}/scale?fieldManager=modelserve-schedule"
    for attempt in range(_ATTEMPTS):
        try:
            scale(url, Path(os.environ["MODELSERVE_IDENTITY"]), replicas)
        except OSError as error:  # a refusal or a broken connection; HTTPError is one too
            told = error.read().decode(errors="replace") if isinstance(error, urllib.error.HTTPError) else ""
            print(f"modelserve: schedule: failed: {error} {told}".rstrip(), flush=True)
            time.sleep(_PAUSE_SECONDS * (attempt < _ATTEMPTS - 1))
        else:
            print(f"modelserve: schedule: {workload} has {replicas} replicas from now on", flush=True)
            return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
