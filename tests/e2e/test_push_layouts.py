"""Whatever way firmware was pushed, a device downloads its bytes: in a cluster, on a host.

From real registries, with the real oras where it can push that way. On a host also from an image
layout on disk.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from otaflux_cli.control_plane.api_servers import ControlPlane
from otaflux_cli.control_plane.registries import Oras, Registry
from otaflux_oci.manifests import OCI_INDEX
from tests.cli.places import Place
from tests.e2e.installations import Firmware, condition, eventually
from tests.e2e.sites import Object, Site, cluster, host
from tests.fixtures.image_registries import ImageRegistry, entry, packed

FIRMWARE = Firmware.make("1.4.0", 50_000)
OTHER = Firmware.make("0.0.1")
AT_ONCE = {"success": {"minUpdatedPercent": 0, "minDevices": 0}}
OCTETS = "application/octet-stream"


@pytest.fixture(params=["cluster", "host"])
async def site(
    request: pytest.FixtureRequest, control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> AsyncIterator[Site]:
    if request.param == "cluster":
        async with cluster(control_plane, namespace, tmp_path) as in_cluster:
            yield in_cluster
    else:
        async with host(tmp_path) as on_host:
            yield on_host


def rollout(
    repository: str, *, models: tuple[str, ...] = (), title: str = "", device: str = "kitchen-1"
) -> Object:
    """For one device, whose name it bears."""
    return {
        "apiVersion": "otaflux.io/v1alpha1",
        "kind": "FirmwareRollout",
        "metadata": {"name": device},
        "spec": {
            "artifact": {
                "repository": repository,
                "tag": "1.4.0",
                "insecure": True,
                "layerSelector": {"title": title},
            },
            "deviceSelector": {"names": [device]},
            "compatibility": {"models": list(models)},
            "rings": [{"name": "all", **AT_ONCE}],
        },
    }


async def downloads(site: Site, model: str = "", device: str = "kitchen-1") -> bytes:
    """What a device downloads once it is told of the version."""
    query = {"device": device, **({"model": model} if model else {})}
    async with httpx.AsyncClient(timeout=10, trust_env=False) as http:

        async def version() -> str:
            try:
                return (await http.get(f"{site.device_url}/version", params=query)).text
            except httpx.TransportError:
                return ""

        await eventually(version, lambda text: text == FIRMWARE.answer)
        return (await http.get(f"{site.device_url}/firmware", params=query)).content


Push = Callable[[ImageRegistry, Oras, str, Path], Awaitable[None]]


async def one_file(images: ImageRegistry, oras: Oras, target: str, folder: Path) -> None:
    (folder / "app.bin").write_bytes(FIRMWARE.data)
    await oras("push", "--plain-http", f"{target}:1.4.0", f"app.bin:{OCTETS}", cwd=folder)


async def many_files(images: ImageRegistry, oras: Oras, target: str, folder: Path) -> None:
    (folder / "app.bin").write_bytes(FIRMWARE.data)
    (folder / "README.md").write_bytes(b"read me")
    files = ("README.md:text/markdown", f"app.bin:{OCTETS}")
    await oras("push", "--plain-http", f"{target}:1.4.0", *files, cwd=folder)


async def oci_image(images: ImageRegistry, oras: Oras, target: str, folder: Path) -> None:
    await images.image(packed({"app.bin": FIRMWARE.data, "README": b"x"}), tag="1.4.0")


async def docker_image(images: ImageRegistry, oras: Oras, target: str, folder: Path) -> None:
    await images.image(packed({"app.bin": FIRMWARE.data}), tag="1.4.0", docker=True)


async def index_of_oras(images: ImageRegistry, oras: Oras, target: str, folder: Path) -> None:
    for model, firmware in (("thermostat", FIRMWARE), ("lamp", OTHER)):
        (folder / "app.bin").write_bytes(firmware.data)
        said = f"io.otaflux.models={model}"
        name = f"{target}:1.4.0-{model}"
        file = f"app.bin:{OCTETS}"
        await oras("push", "--plain-http", "--annotation", said, name, file, cwd=folder)
    index = ("manifest", "index", "create", "--plain-http", f"{target}:1.4.0")
    await oras(*index, "1.4.0-thermostat", "1.4.0-lamp", cwd=folder)


async def index_of_images(images: ImageRegistry, oras: Oras, target: str, folder: Path) -> None:
    image = await images.image(packed({"app.bin": FIRMWARE.data}))
    other = await images.image(packed({"app.bin": OTHER.data}))
    attestation = await images.artifact(b"provenance")
    said = {"vnd_docker_reference_type": "attestation-manifest"}
    await images.index(
        entry(other, "linux/amd64", io_otaflux_models="lamp"),
        entry(image, "linux/arm64", io_otaflux_models="thermostat,thermostat-v2"),
        entry(attestation, "unknown/unknown", **said),
        tag="1.4.0",
        media_type=OCI_INDEX,
    )


LAYOUTS: dict[str, tuple[Push, tuple[str, ...], str]] = {
    "one-file": (one_file, (), ""),
    "many-files": (many_files, (), "app.bin"),
    "oci-image": (oci_image, (), "app.bin"),
    "docker-image": (docker_image, (), ""),
    "index-of-oras": (index_of_oras, ("thermostat",), ""),
    "index-of-images": (index_of_images, ("thermostat",), ""),
}
"""What is pushed, and the models and title that the rollout of it names."""


async def test_a_device_downloads_what_was_pushed(
    site: Site, registry: Registry, oras: Oras, repository: str, tmp_path: Path
) -> None:
    for device, (push, models, title) in LAYOUTS.items():
        name = f"{repository}/{device}"
        target = f"{registry.host}/{name}"
        folder = tmp_path / device
        folder.mkdir()
        await push(ImageRegistry(registry.host, name), oras, target, folder)
        await site.apply(rollout(target, models=models, title=title, device=device))
    for device, (_, models, _) in LAYOUTS.items():
        model = models[0] if models else ""
        assert await downloads(site, model, device) == FIRMWARE.data, device


async def test_what_is_ambiguous_is_said_and_nothing_is_offered(
    site: Site, registry_v3: Registry, oras: Oras, repository: str, tmp_path: Path
) -> None:
    target = f"{registry_v3.host}/{repository}"
    folder = tmp_path / "push"
    folder.mkdir()
    await index_of_oras(ImageRegistry(registry_v3.host, repository), oras, target, folder)
    await site.apply(rollout(target))

    async def why() -> dict[str, Any]:
        return condition((await site.rollout("kitchen-1")).get("status", {}), "ArtifactResolved")

    said = await eventually(why, lambda found: found.get("reason") == "AmbiguousLayers")
    assert "'io.otaflux.models': 'lamp'" in said["message"]
    async with httpx.AsyncClient(trust_env=False) as http:
        url = f"{site.device_url}/version"
        assert (await http.get(url, params={"device": "kitchen-1"})).status_code == 404
    await site.apply(rollout(target, models=("thermostat",)))
    assert await downloads(site, "thermostat") == FIRMWARE.data


@pytest.mark.parametrize("push", [docker_image, oci_image, index_of_images])
async def test_standalone_reads_an_image_layout_on_disk(
    registry_v3: Registry, oras: Oras, repository: str, tmp_path: Path, push: Push
) -> None:
    """Copied there by the real oras."""
    source = f"{registry_v3.host}/{repository}"
    await push(ImageRegistry(registry_v3.host, repository), oras, source, tmp_path)
    place = Place(tmp_path)
    copied = ("--from-plain-http", "--to-oci-layout", f"{source}:1.4.0")
    await oras("cp", *copied, f"{tmp_path / 'firmware'}:1.4.0")
    index = json.loads((tmp_path / "firmware" / "index.json").read_text())
    name = "org.opencontainers.image.ref.name"
    for listed in index["manifests"]:  # the layout of standalone holds many repositories
        if listed.get("annotations", {}).get(name) == "1.4.0":
            listed["annotations"][name] = "localhost/fw:1.4.0"
    (tmp_path / "firmware" / "index.json").write_text(json.dumps(index))
    models = ("thermostat",) if push is index_of_images else ()
    place.file.write_text(json.dumps(rollout("localhost/fw", models=models, title="app.bin")))
    async with place.running() as running:
        query = {"device": "kitchen-1", **({"model": models[0]} if models else {})}
        async with httpx.AsyncClient(trust_env=False) as http:

            async def version() -> str:
                return (await http.get(f"{running.device_url}/version", params=query)).text

            await eventually(version, lambda text: text == FIRMWARE.answer)
            reply = await http.get(f"{running.device_url}/firmware", params=query)
    assert reply.content == FIRMWARE.data
