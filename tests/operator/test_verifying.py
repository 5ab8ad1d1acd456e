"""`spec.verify`: what is not signed as it has to be is not released; what is released stays."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from otaflux_operator import verifying as verification
from otaflux_operator.engine import Proof
from otaflux_operator.ports import Unavailable
from tests.fixtures.loopback_servers import Reply
from tests.fixtures.signers import KeyPair
from tests.operator.fakes import QUICK, eventually, running
from tests.operator.signed_registries import (
    FIRST,
    SECOND,
    VERIFY,
    SignedRegistry,
    becomes,
    reason,
    retag,
    target,
    verifying,
    version,
    with_candidate,
)
from tests.operator.worlds import START, World, found


async def test_a_signed_release_goes_out_and_says_who_signed(registry: SignedRegistry) -> None:
    cluster, key = verifying(registry)
    async with running(cluster):
        await becomes(cluster, key, "True/Completed", "Completed")
        assert reason(cluster, key) == "True/Verified"
        assert "is signed by first.pub" in cluster.condition(key, "Verified")["message"]
        verification = cluster.status(key)["release"]["verification"]
        assert (verification["key"], set(verification)) == ("first.pub", {"key", "at"})


USUAL: dict[str, Any] = {"product": "thermostat", "version": None, "by": None, "of": ""}
CAUSES: dict[str, dict[str, Any]] = {
    "SignatureMissing": {},
    "KeyMismatch": {"by": SECOND},
    "SignatureOfOtherDigest": {"by": FIRST, "of": "sha256:" + "2" * 64},
    "VersionAnnotationMissing": {"by": FIRST, "version": ""},
    "VersionMismatch": {"by": FIRST, "version": "1.0.0"},
    "ProductMismatch": {"by": FIRST, "product": "oven"},
}


@pytest.mark.parametrize("cause", CAUSES)
async def test_a_new_tag_that_does_not_verify_leaves_the_last_release_served(
    registry: SignedRegistry, cause: str
) -> None:
    registry.sign(registry.firmware("1.0.0", product="thermostat"), FIRST)
    cluster, key = verifying(registry, product="thermostat")
    how = USUAL | CAUSES[cause]
    async with running(cluster) as operator:
        await becomes(cluster, key, "True/Completed", "Completed")
        digest = registry.firmware("1.1.0", version=how["version"], product=how["product"])
        if how["by"] is not None:
            registry.sign(digest, how["by"], of=how["of"])
        retag(operator, cluster, key, "1.1.0")
        await becomes(cluster, key, f"False/{cause}")
        assert reason(cluster, key, "Stalled") == f"True/{cause}"
        assert reason(cluster, key, "Ready") == f"False/{cause}"
        assert reason(cluster, key, "Completed").startswith("False/")
        assert cluster.condition(key, "Verified")["message"]
        policy = cluster.policy(key)
        assert policy is not None
        assert (target(cluster, key), policy.candidate) == ("1.0.0", None)
        retag(operator, cluster, key, "1.0.0")
        await becomes(cluster, key, "True/Verified")
        await becomes(cluster, key, "False/NotStalled", "Stalled")


async def test_the_same_tag_once_it_is_signed_is_released(registry: SignedRegistry) -> None:
    cluster, key = verifying(registry)
    async with running(cluster) as operator:
        await becomes(cluster, key, "True/Completed", "Completed")
        digest = registry.firmware("1.1.0")
        retag(operator, cluster, key, "1.1.0")
        await becomes(cluster, key, "False/SignatureMissing")
        assert reason(cluster, key, "ArtifactResolved") == "True/Resolved"
        registry.sign(digest, SECOND, FIRST)
        await eventually(lambda: target(cluster, key) == "1.1.0")
        await becomes(cluster, key, "True/Verified")


async def test_an_unsigned_first_release_is_none(registry: SignedRegistry) -> None:
    registry.firmware("2.0.0")
    cluster, key = verifying(registry, "2.0.0")
    async with running(cluster):
        await becomes(cluster, key, "False/SignatureMissing")
        assert reason(cluster, key, "Ready") == "False/SignatureMissing"
        policy = cluster.policy(key)
        assert policy is None or not policy.releases


SECRETS = {
    "KeySecretNotFound": None,
    "KeySecretInvalid": {"first.pub": b"no key"},
    "KeyUnsupported": {"first.pub": FIRST.public, "old.pub": KeyPair.make("ed25519").public},
}


@pytest.mark.parametrize("cause", SECRETS)
async def test_a_key_secret_that_cannot_be_used_releases_nothing_new(
    registry: SignedRegistry, cause: str
) -> None:
    registry.sign(registry.firmware("1.1.0"), FIRST)
    cluster, key = verifying(registry)
    async with running(cluster) as operator:
        await becomes(cluster, key, "True/Completed", "Completed")
        good = cluster.secrets.pop(("home", "signers"))
        if (data := SECRETS[cause]) is not None:
            cluster.secrets["home", "signers"] = data
        await becomes(cluster, key, f"False/{cause}")
        assert reason(cluster, key, "Stalled") == f"True/{cause}"
        assert "signers" in cluster.condition(key, "Verified")["message"]
        retag(operator, cluster, key, "1.1.0")
        await eventually(lambda: "1.1.0" in cluster.condition(key, "ArtifactResolved")["message"])
        assert reason(cluster, key) == f"False/{cause}"
        policy = cluster.policy(key)
        assert policy is not None
        assert (target(cluster, key), policy.candidate) == ("1.0.0", None)
        cluster.secrets["home", "signers"] = good
        await eventually(lambda: target(cluster, key) == "1.1.0")


async def test_keys_of_another_namespace_are_not_taken(registry: SignedRegistry) -> None:
    cluster, key = verifying(registry)
    cluster.secrets["other", "signers"] = cluster.secrets.pop(("home", "signers"))
    async with running(cluster):
        await becomes(cluster, key, "False/KeySecretNotFound")


async def test_a_secret_that_cannot_be_read_releases_nothing_and_stalls_nothing(
    registry: SignedRegistry,
) -> None:
    cluster, key = verifying(registry)
    cluster.troubles["secret"] = [Unavailable("answered with 403")] * 1000
    async with running(cluster):
        await becomes(cluster, key, "Unknown/SecretUnavailable")
        assert reason(cluster, key, "Stalled") == "False/NotStalled"
        assert target(cluster, key) is None
        cluster.troubles["secret"].clear()
        await becomes(cluster, key, "True/Completed", "Completed")


async def test_a_registry_that_fails_at_the_signatures_releases_nothing(
    registry: SignedRegistry,
) -> None:
    cluster, key = verifying(registry)
    async with running(cluster) as operator:
        await becomes(cluster, key, "True/Completed", "Completed")
        registry.sign(registry.firmware("1.1.0"), FIRST)
        registry.rules.append(lambda request: Reply(500) if ".sig" in request.path else None)
        retag(operator, cluster, key, "1.1.0")
        await becomes(cluster, key, "Unknown/RegistryError")
        assert reason(cluster, key, "Stalled") == "False/NotStalled"
        assert (target(cluster, key), cluster.status(key).get("candidate")) == ("1.0.0", None)
        registry.rules.clear()
        await eventually(lambda: target(cluster, key) == "1.1.0")


@pytest.mark.parametrize("reference", [{"tag": "1.0.0"}, {"semver": ">=1.0.0"}])
async def test_nothing_is_verified_twice_by_the_same_keys(
    registry: SignedRegistry, reference: dict[str, str]
) -> None:
    cluster, key = verifying(registry)
    artifact = cluster.objects[key]["spec"]["artifact"]
    del artifact["tag"]
    artifact |= reference
    async with running(cluster):
        await becomes(cluster, key, "True/Completed", "Completed")
        before = len(registry.asked(".sig"))
        asked = len(registry.asked("/manifests/1.0.0"))
        await eventually(lambda: len(registry.asked("/manifests/1.0.0")) > asked + 1)
        assert len(registry.asked(".sig")) == before
        cluster.secrets["home", "signers"] |= {"second.pub": SECOND.public}
        await eventually(lambda: len(registry.asked(".sig")) > before)
        assert reason(cluster, key) == "True/Verified"


async def test_turning_it_on_looks_at_what_is_released(registry: SignedRegistry) -> None:
    registry.firmware("1.2.0")
    cluster, key = verifying(registry, "1.2.0")
    verify = cluster.objects[key]["spec"].pop("verify")
    async with running(cluster) as operator:
        await becomes(cluster, key, "True/Completed", "Completed")
        assert reason(cluster, key) == "Unknown/NotConfigured"
        assert "verification" not in cluster.status(key)["release"]
        cluster.edit(key, verify=verify)
        operator.mark(key)
        await becomes(cluster, key, "False/SignatureMissing")
        assert (target(cluster, key), reason(cluster, key, "Stalled")) == (
            "1.2.0",
            "True/SignatureMissing",
        )


async def test_a_restart_verifies_anew_and_says_nothing_wrong(registry: SignedRegistry) -> None:
    cluster, key = verifying(registry)
    async with running(cluster):
        await becomes(cluster, key, "True/Completed", "Completed")
    seen: set[str] = set()

    async def written(_: str) -> None:
        seen.add(reason(cluster, key))

    cluster.written, before = written, len(registry.asked(".sig"))
    held = cluster.held["secret"] = asyncio.Event()
    async with running(cluster, replace(QUICK, sweep_every=3600.0)):
        await eventually(lambda: cluster.calls.count("served") > 1)
        assert reason(cluster, key) == "True/Verified"
        held.set()
        await eventually(lambda: len(registry.asked(".sig")) > before)
    assert seen <= {"True/Verified"}


def test_without_a_proof_nothing_is_released_whatever_was_found() -> None:
    world = World(verify=VERIFY)
    world.resolves(found("1.0.0"))
    world.settle()
    assert not world.policy.releases
    assert world.reason("Verified") == "Unknown/Verifying"
    world.resolves(replace(found("1.0.0"), proof=Proof("own.pub", START)))
    world.settle()
    assert version(world.policy.target) == "1.0.0"
    assert world.reason("Verified") == "True/Verified"


async def test_a_mistake_of_ours_while_verifying_releases_nothing(
    registry: SignedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with with_candidate(registry) as (cluster, key):
        failed: list[str] = []

        def mistake(*_: object) -> object:
            failed.append("")
            raise ZeroDivisionError

        monkeypatch.setattr(verification, "Signers", mistake)
        await eventually(lambda: len(failed) > 1)
        cluster.storing = True
        await eventually(lambda: len(failed) > 3)
        assert target(cluster, key) == "1.0.0"
        monkeypatch.undo()
        await eventually(lambda: target(cluster, key) == "1.1.0")


async def test_nothing_of_a_private_key_is_said(registry: SignedRegistry) -> None:
    cluster, key = verifying(registry)
    cluster.secrets["home", "signers"] = {"first.pub": FIRST.private}
    async with running(cluster):
        await becomes(cluster, key, "False/KeySecretInvalid")
    told = f"{cluster.objects} {cluster.notices} {cluster.published}"
    assert FIRST.private.splitlines()[1].decode() not in told
    assert "replace the key pair" in told
