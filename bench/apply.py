"""Server-side apply, or deletion, of a file of objects: what kubectl does, for machines that have none."""

from __future__ import annotations

import argparse
import os
import sys

import yaml
from kubernetes import config
from kubernetes.dynamic import DynamicClient


def main(argv: list[str]) -> int:
    """Apply or delete the objects of a file on the cluster of KUBECONFIG."""
    parser = argparse.ArgumentParser(prog="python -m bench.apply", description=__doc__)
    parser.add_argument("file")
    parser.add_argument("--delete", action="store_true")
    args = parser.parse_args(argv)
    cluster = DynamicClient(config.new_client_from_config(os.environ["KUBECONFIG"]))
    with open(args.file) as file:
        for manifest in yaml.safe_load_all(file):
            kind = cluster.resources.get(api_version=manifest["apiVersion"], kind=manifest["kind"])
            name, namespace = manifest["metadata"]["name"], manifest["metadata"]["namespace"]
            if args.delete:
                kind.delete(name=name, namespace=namespace)
            else:
                kind.server_side_apply(manifest, name=name, namespace=namespace, field_manager="bench")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
