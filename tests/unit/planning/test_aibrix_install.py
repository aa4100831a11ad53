"""Where the images of an installation are pulled from."""

from __future__ import annotations

import pytest

from planning.aibrix_install import release
from planning.catalog import fact
from planning.images import Images, image_name


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("redis", "redis"),
        ("redis:7.4", "redis"),
        ("docker.io/library/redis:7.4", "redis"),
        ("localhost:5000/aibrix/runtime:v1@sha256:ab", "aibrix/runtime"),
        ("quay.io/kuberay/operator@sha256:ab", "kuberay/operator"),
        ("aibrix/controller-manager:v0.7.0", "aibrix/controller-manager"),
    ],
)
def test_an_image_is_called_without_registry_and_version(image, name):
    assert image_name(image) == name


@pytest.mark.parametrize(
    ("image", "pulled"),
    [
        ("aibrix/runtime:v0.7.0", "r.example/aibrix/runtime:v0.7.0"),
        ("quay.io:443/kuberay/operator:v1@sha256:ab", "r.example/kuberay/operator:v1@sha256:ab"),
        ("redis:latest", "r.example/redis:7.4"),
        ("nginx", "r.example/nginx"),
    ],
)
def test_a_registry_of_ones_own_has_images_under_their_own_names(image, pulled):
    assert Images(registry="r.example").of(image) == pulled


@pytest.mark.parametrize("host", fact("aibrix_install", "images", "mirrors")["hosts"])
def test_aibrixs_mirrors_have_others_images_in_their_own_folder_under_their_own_tags(host):
    images = Images(registry=host)
    assert images.of("redis:latest") == f"{host}/aibrix/redis:7.4"
    assert images.of("busybox:stable") == f"{host}/aibrix/busybox:stable"
    assert images.of("envoyproxy/envoy:v1.33.2") == f"{host}/aibrix/envoy:v1.33.2"
    assert images.of("aibrix/runtime:v0.7.0") == f"{host}/aibrix/runtime:v0.7.0"


def test_without_a_registry_only_what_has_no_version_changes():
    assert Images().of("quay.io/a/b:c") == "quay.io/a/b:c"
    assert Images().of("docker.io/library/busybox:stable") == "docker.io/library/busybox:1.37.0"


@pytest.mark.parametrize("version", ["0.2.1", "0.7.0"])
def test_each_manifest_is_the_releases_own(version):
    for url in release(version).manifests.values():
        assert url.startswith(f"https://github.com/vllm-project/aibrix/releases/download/v{version}/")
        assert url.endswith(f"-v{version}.yaml")
