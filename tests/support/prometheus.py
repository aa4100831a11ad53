"""A real Prometheus for a test."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
import yaml

from local.api import wait_until
from local.control_plane import free_ports
from local.toolchain import ensure
from tests.support.patience import PATIENCE_SECONDS


@contextmanager
def running(folder: Path, config: Mapping[str, Any]) -> Iterator[str]:
    """Its URL, once it answers. Its files go to `folder`, its words to the file `log` there."""
    (port,) = free_ports(1)
    folder.joinpath("prometheus.yml").write_text(yaml.safe_dump(dict(config)))
    options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    options.append(f"--web.listen-address=127.0.0.1:{port}")
    program, url = ensure("prometheus")["prometheus"], f"http://127.0.0.1:{port}"
    with folder.joinpath("log").open("w") as log:
        process = subprocess.Popen([program, *options], stdout=log, stderr=log)

    def ready() -> bool:
        try:
            return requests.get(f"{url}/-/ready", timeout=PATIENCE_SECONDS).ok
        except requests.ConnectionError:
            return False

    try:
        wait_until(ready, PATIENCE_SECONDS, lambda: folder.joinpath("log").read_text()[-2000:])
        yield url
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)
