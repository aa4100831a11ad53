"""The proxy through which a controller reads pods at addresses that nobody has."""

from __future__ import annotations

import urllib3

from standins import pod_proxy
from standins.vllm import Engine
from standins.vllm_arguments import Arguments
from tests.support.simulator import Simulator


def test_a_pods_metrics_are_read_at_its_own_address_and_an_address_without_a_listener_fails():
    engine = Simulator(Engine(Arguments.parse(["m"]), "0.7.3"))
    ways = {("10.0.0.9", 8000): ("127.0.0.1", engine.port), ("10.0.0.8", 8000): ("127.0.0.1", 1)}
    proxy = urllib3.ProxyManager(pod_proxy.serve(lambda address, port: ways.get((address, port))), retries=False)
    try:
        found = proxy.request("GET", "http://10.0.0.9:8000/metrics")
        assert found.status == 200 and b"vllm:gpu_cache_usage_perc" in found.data
        for nobody in ("10.0.0.8:8000", "10.0.0.9:8001", "10.0.0.7:8000"):
            assert proxy.request("GET", f"http://{nobody}/metrics").status == 502
    finally:
        engine.stop()
