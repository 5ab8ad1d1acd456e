"""Images and indexes: what the operator asks a registry for, and what it publishes of them."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from otaflux_oci.manifests import OCI_INDEX, OCI_MANIFEST
from otaflux_operator.ports import Key, Ports
from otaflux_operator.registries import RegistrySources
from otaflux_policy.contract import Archive
from tests.fixtures.image_registries import OCI_GZIP_LAYER, packed
from tests.fixtures.misbehaving_registries import MisbehavingRegistry, manifest_of, sha256
from tests.fixtures.oci_sources import LOOPBACK, QUICK
from tests.operator.fakes import Cluster, eventually, rollout_key, running
from tests.operator.worlds import World, found, manifest

NAME = "firmware"
APP, LAMP = b"\xe9app" * 1000, b"\xe9lamp" * 1000
LAYER = packed({"README": b"read me", "fw/app.bin": APP})


class RegistryCluster(Cluster):
    """A cluster whose rollouts point to a registry on this machine."""

    @property
    def ports(self) -> Ports:
        return replace(super().ports, sources=RegistrySources(LOOPBACK, QUICK))


@pytest.fixture
async def registry() -> AsyncIterator[MisbehavingRegistry]:
    async with MisbehavingRegistry() as registry:
        yield registry


def image(registry: MisbehavingRegistry, tag: str, layer: bytes = LAYER) -> str:
    descriptor = {"mediaType": OCI_GZIP_LAYER, "digest": sha256(layer), "size": len(layer)}
    registry.blobs[sha256(layer)] = layer
    return registry.put(NAME, tag, manifest_of(b"", layers=[descriptor]))


def index(registry: MisbehavingRegistry, tag: str, **children: bytes) -> str:
    """Each child is for the model that it is named after."""
    listed = []
    for model, firmware in children.items():
        body = manifest_of(firmware, annotations={"io.otaflux.models": model})
        registry.put(NAME, sha256(body), body)
        listed.append({"mediaType": OCI_MANIFEST, "digest": sha256(body), "size": len(body)})
    body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}).encode()
    return registry.put(NAME, tag, body, OCI_INDEX)


def cluster_of(registry: MisbehavingRegistry, **spec: Any) -> tuple[Cluster, Key]:
    cluster, key = RegistryCluster(), rollout_key()
    artifact = {"repository": f"{registry.host}/{NAME}", "insecure": True, "interval": "1s"}
    cluster.put(key, manifest(**{**spec, "artifact": artifact | spec.get("artifact", {})}))
    return cluster, key


def released(cluster: Cluster, key: Key, digest: str) -> bool:
    policy = cluster.policy(key) if key in cluster.published else None
    return policy is not None and policy.target is not None and policy.target.digest == digest


def asked(registry: MisbehavingRegistry, path: str, times: int) -> bool:
    return len(registry.asked(path)) >= times


async def test_an_archive_is_read_once_not_every_interval(registry: MisbehavingRegistry) -> None:
    digest = image(registry, "1.4.0")
    cluster, key = cluster_of(
        registry, artifact={"semver": "^1.4.0", "layerSelector": {"title": "fw/app.bin"}}
    )
    async with running(cluster):
        await eventually(partial(released, cluster, key, digest))
        await eventually(partial(asked, registry, "tags", 3))
    assert len(registry.asked("blobs")) == 1
    policy = cluster.policy(key)
    assert policy is not None
    assert policy.target is not None
    firmware = policy.target.firmware
    assert (firmware.digest, firmware.size) == (sha256(APP), len(APP))
    assert firmware.archive == Archive(
        digest=sha256(LAYER), size=len(LAYER), media_type=OCI_GZIP_LAYER, path="fw/app.bin"
    )
    assert cluster.status(key)["release"]["artifact"]["archive"]["path"] == "fw/app.bin"
    assert cluster.status(key)["release"]["size"] == len(APP)


async def test_an_archive_that_cannot_be_used_is_said(registry: MisbehavingRegistry) -> None:
    image(registry, "1.4.0", LAYER[:-1])
    image(registry, "1.5.0")
    cluster, key = cluster_of(registry, artifact={"tag": "1.4.0"})

    def says(reason: str, text: str) -> bool:
        condition = cluster.condition(key, "ArtifactResolved")
        return condition["reason"] == reason and text in condition["message"]

    async with running(cluster) as operator:
        await eventually(partial(says, "InvalidArchive", "gzip stream does not end"))
        artifact = cluster.objects[key]["spec"]["artifact"]
        cluster.edit(key, artifact=artifact | {"tag": "1.5.0"})
        operator.mark(key)
        await eventually(partial(says, "AmbiguousLayers", "'README', 'fw/app.bin'"))
        selector = {"title": "fw/app.bin"}
        cluster.edit(key, artifact=artifact | {"tag": "1.5.0", "layerSelector": selector})
        operator.mark(key)
        await eventually(partial(says, "Resolved", ""))


async def test_the_models_of_the_rollout_choose_in_an_index(registry: MisbehavingRegistry) -> None:
    digest = index(registry, "1.4.0", thermostat=APP, lamp=LAMP)
    cluster, key = cluster_of(registry, artifact={"tag": "1.4.0"})

    def ambiguous() -> bool:
        return cluster.condition(key, "ArtifactResolved")["reason"] == "AmbiguousLayers"

    async with running(cluster) as operator:
        await eventually(ambiguous)
        cluster.edit(key, compatibility={"models": ["lamp"]})
        operator.mark(key)
        await eventually(partial(released, cluster, key, digest))
        policy = cluster.policy(key)
        assert policy is not None
        assert policy.target is not None
        assert policy.target.firmware.digest == sha256(LAMP)
        seen = len(registry.received)
        await eventually(lambda: len(registry.received) >= seen + 2)
        later = {request.method for request in registry.received[seen:]}
        assert later == {"HEAD"}, "the digest of the tag is that of the index, so nothing changed"


def test_a_policy_is_written_again_from_the_status() -> None:
    archive = Archive(digest=sha256(LAYER), size=9, media_type=OCI_GZIP_LAYER, path="fw/app.bin")
    world = World()
    world.release("1.0.0", archive=archive)
    world.published = None
    world.owner = ""
    world.settle()
    assert world.policy.stable is not None
    assert world.policy.stable.firmware == found("1.0.0", archive=archive).artifact
