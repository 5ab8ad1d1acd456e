"""What a manifest says of devices narrows what the spec says (`io.otaflux.models` and so on)."""

from dataclasses import replace
from typing import Any

import pytest

from otaflux_operator.engine import Found
from otaflux_operator.registries import RegistrySources
from otaflux_policy.attempts import Evidence
from otaflux_policy.contract import Compatibility, Release
from otaflux_policy.decisions import Decision, decide
from otaflux_policy.devices import Device
from otaflux_policy.groups import Group, Groups
from otaflux_policy.reasons import DecisionReason
from tests.fixtures.misbehaving_registries import MisbehavingRegistry
from tests.fixtures.oci_sources import LOOPBACK, NAME, QUICK
from tests.operator.fakes import Cluster, eventually, rollout_key, running
from tests.operator.worlds import UNJUDGED, World, found, manifest


def says(version: str, *models: str, min_version: str | None = None) -> Found:
    return replace(found(version), models=models, min_version=min_version)


def released(says: Found, **compatibility: Any) -> World:
    world = World(compatibility=compatibility)
    world.resolves(says)
    world.settle()
    return world


def version(release: Release | None) -> str | None:
    return release.version if release is not None else None


@pytest.mark.parametrize(
    ("spec", "own", "expected"),
    [
        ((), (), ()),
        (("a", "b"), (), ("a", "b")),
        ((), ("b", "c"), ("b", "c")),
        (("a", "b"), ("b", "c"), ("b",)),
    ],
)
def test_models_are_those_that_both_name(
    spec: tuple[str, ...], own: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    world = released(says("1.0.0", *own), models=list(spec))
    assert version(world.policy.target) == "1.0.0"
    assert world.policy.compatibility == Compatibility(models=expected)
    assert world.reason("Completed") == "True/Completed"


@pytest.mark.parametrize(
    ("spec", "own", "expected"),
    [
        (None, "1.0.0", "1.0.0"),
        ("1.0.0", None, "1.0.0"),
        ("1.9.0", "1.10.0", "1.10.0"),
        ("2.0.0", "1.10.0", "2.0.0"),
    ],
)
def test_of_two_versions_the_higher_counts(
    spec: str | None, own: str | None, expected: str
) -> None:
    compatibility = {} if spec is None else {"minVersion": spec}
    world = released(says("2.0.0", min_version=own), **compatibility)
    assert world.policy.compatibility == Compatibility(min_version=expected)


def test_a_release_for_other_models_is_refused() -> None:
    world = released(says("1.0.0", "a"), models=["a"])
    world.resolves(says("1.1.0", "b", "c"))
    world.settle()
    assert (version(world.policy.target), world.policy.candidate) == ("1.0.0", None)
    assert world.reason("ArtifactResolved") == "False/ModelsExcluded"
    assert world.reason("Stalled") == "True/ModelsExcluded"
    assert "1.1.0 is for b, c" in world.status.message
    assert world.policy.compatibility.models == ("a",)


def test_it_is_that_of_the_target() -> None:
    world = World(rings=UNJUDGED)
    world.resolves(says("1.0.0", "a", "b"))
    world.settle()
    world.resolves(says("1.1.0", "b", "c"))
    world.look()
    world.serve(stored=False)
    world.look()
    assert version(world.policy.candidate) == "1.1.0"
    assert world.policy.compatibility.models == ("a", "b")
    world.serve()
    world.settle()
    assert version(world.policy.target) == "1.1.0"
    assert world.policy.compatibility.models == ("b", "c")


def test_a_restart_keeps_it() -> None:
    world = released(says("1.0.0", "a", min_version="0.9.0"))
    assert world.manifest["status"]["release"]["compatibility"] == {
        "models": "a",
        "minVersion": "0.9.0",
    }
    world.resolves(None)
    world.settle()
    assert world.policy.compatibility == Compatibility(models=("a",), min_version="0.9.0")


def test_a_lost_status_widens_nothing() -> None:
    world = released(says("1.0.0", "a", min_version="0.9.0"), models=["a", "b"])
    world.manifest["status"] = {}
    world.resolves(None)
    world.spec(compatibility={})
    world.look()
    assert world.policy.compatibility == Compatibility(models=("a",), min_version="0.9.0")
    world.resolves(says("1.0.0", "a"))
    world.settle()
    assert world.policy.compatibility == Compatibility(models=("a",))


def test_a_spec_that_shuts_the_release_out_lets_no_device_have_it() -> None:
    world = released(says("1.0.0", "a"))
    world.spec(compatibility={"models": ["b"]})
    world.settle()
    for model in ("a", "b", None):
        assert _decided(world, model).reason is DecisionReason.INCOMPATIBLE
    world.spec(compatibility={"models": ["b", "a"]})
    world.settle()
    assert _decided(world, "a").reason is DecisionReason.OFFERED
    assert _decided(world, "b").reason is DecisionReason.INCOMPATIBLE


def test_the_stable_release_is_not_given_to_whom_only_the_target_is_for() -> None:
    world = released(says("1.0.0", "a", min_version="0.9.0"))
    world.spec(rings=[{"name": "canary", "percent": 1}, {"name": "fleet"}])
    world.resolves(says("1.1.0", "a", "b"))
    world.settle()
    assert version(world.policy.target) == "1.1.0"
    world.published = world.policy.model_copy(update={"rings": ()})
    assert version(_decided(world, "a", "0.9.5").release) == "1.0.0"
    assert _decided(world, "a", "0.8.0").release is None
    assert _decided(world, "a").release is None
    assert _decided(world, "b", "0.9.5") == Decision(
        None, "thermostat", None, DecisionReason.INCOMPATIBLE, world.policy.run
    )


def test_the_model_may_be_that_of_a_group() -> None:
    world = released(says("1.0.0", "a"))
    groups = Groups([Group(namespace="home", name="g", names=("kitchen-1",), model="a")])
    assert _decided(world, None, groups=groups).reason is DecisionReason.OFFERED
    assert _decided(world, None).reason is DecisionReason.INCOMPATIBLE


def test_a_release_of_the_history_keeps_what_it_says() -> None:
    world = released(says("1.0.0", "a"))
    world.resolves(says("1.1.0", "a", "b"))
    world.settle()
    world.spec(rings=[{"name": "fleet"}])
    world.resolves(says("1.2.0", "a", "b"))
    world.settle()
    world.spec(rollback={"from": "1.2.0", "to": "1.0.0"})
    world.settle()
    assert (world.policy.rolling_back, version(world.policy.stable)) == (True, "1.0.0")
    assert world.policy.stable is not None
    assert world.policy.stable.firmware.models == ("a",)


def _decided(
    world: World, model: str | None, reports: str | None = None, *, groups: Groups | None = None
) -> Decision:
    device = Device(id="kitchen-1", namespace="home", model=model, version=reports)
    stored = frozenset({release.firmware.digest for release in world.policy.releases})
    return decide([world.policy], groups or Groups(), device, Evidence(stored=stored), world.now)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("io.otaflux.models", ""),
        ("io.otaflux.models", "a,,b"),
        ("io.otaflux.models", "a\nb"),
        ("io.otaflux.models", ",".join(map(str, range(51)))),
        ("io.otaflux.min-version", "1.2"),
        ("io.otaflux.min-version", "1.2.0\n"),
        ("io.otaflux.min-version", ""),
    ],
)
async def test_an_annotation_that_says_nothing_is_refused(name: str, text: str) -> None:
    async with MisbehavingRegistry() as registry:
        registry.push(NAME, "1.0.0", b"firmware", annotations={name: text})
        cluster, key = Cluster(), rollout_key()
        cluster.sources = RegistrySources(LOOPBACK, QUICK)
        artifact = {"repository": f"{registry.host}/{NAME}", "tag": "1.0.0", "insecure": True}
        cluster.put(key, manifest(artifact=artifact))
        async with running(cluster):
            await eventually(
                lambda: cluster.condition(key, "ArtifactResolved")["reason"] == "AnnotationInvalid"
            )
            assert cluster.condition(key, "Stalled")["status"] == "True"
            assert name in cluster.condition(key, "Stalled")["message"]
            policy = cluster.policy(key)
            assert policy is None or not policy.releases


async def test_what_the_manifest_says_is_read_without_verify_too() -> None:
    said = {"io.otaflux.models": "a, b", "io.otaflux.min-version": "v0.9.0"}
    async with MisbehavingRegistry() as registry:
        registry.push(NAME, "1.0.0", b"firmware", annotations=said)
        cluster, key = Cluster(), rollout_key()
        cluster.sources = RegistrySources(LOOPBACK, QUICK)
        artifact = {"repository": f"{registry.host}/{NAME}", "tag": "1.0.0", "insecure": True}
        cluster.put(key, manifest(artifact=artifact))
        async with running(cluster):
            await eventually(lambda: cluster.condition(key, "Completed")["status"] == "True")
        policy = cluster.policy(key)
    assert policy is not None
    assert policy.compatibility == Compatibility(models=("a", "b"), min_version="v0.9.0")
