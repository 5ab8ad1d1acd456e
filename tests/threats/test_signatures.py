"""Whoever may push to the registry, but has no key, releases nothing.

Threats: "Old signed image under a new tag", "Registry compromise".
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from otaflux_oci import resolving
from otaflux_oci.manifests import OCI_INDEX
from otaflux_oci.signatures import PublicKey, contents
from otaflux_oci.signatures.contents import BUNDLE_TYPE, pre_authentication_encoding
from otaflux_operator import verifying as verification
from otaflux_operator.engine import Proof
from otaflux_operator.ports import Key
from tests.fixtures.misbehaving_registries import manifest_of, sha256
from tests.fixtures.oci_sources import NAME
from tests.fixtures.signers import statement
from tests.operator.fakes import Cluster, eventually, running
from tests.operator.signed_registries import (
    FIRST,
    SECOND,
    SignedRegistry,
    retag,
    signature,
    verifying,
)

BOTH = pytest.mark.parametrize("mitigated", [True, False])


@pytest.fixture
async def registry() -> AsyncIterator[SignedRegistry]:
    async with SignedRegistry() as registry:
        yield registry


def target(cluster: Cluster, key: Key) -> tuple[str, str] | None:
    """Version and digest of what devices may get."""
    policy = cluster.policy(key)
    release = policy.target if policy is not None else None
    return None if release is None else (release.version, release.digest)


async def attack(
    registry: SignedRegistry, digest: str, reason: str, *, mitigated: bool, product: str = ""
) -> None:
    """1.0.0 is released, then the tag 2.0.0 points to `digest`."""
    good = registry.firmware("1.0.0", product=product)
    registry.sign(good, FIRST)
    cluster, key = verifying(registry, product=product)
    async with running(cluster) as operator:
        await eventually(lambda: cluster.condition(key, "Completed")["status"] == "True")
        retag(operator, cluster, key, "2.0.0")
        if not mitigated:
            await eventually(lambda: (target(cluster, key) or ("", ""))[1] == digest)
            return
        await eventually(lambda: cluster.condition(key, "Verified")["reason"] == reason)
        assert cluster.condition(key, "Verified")["status"] == "False"
        assert cluster.condition(key, "Stalled")["status"] == "True"
        policy = cluster.policy(key)
        assert policy is not None
        assert (target(cluster, key), policy.candidate) == (("1.0.0", good), None)


@BOTH
async def test_an_old_signed_image_under_a_new_tag(
    registry: SignedRegistry, monkeypatch: pytest.MonkeyPatch, mitigated: bool
) -> None:
    if not mitigated:
        monkeypatch.setattr(resolving, "release_version", lambda tag, *_: tag)
        monkeypatch.setattr(verification, "require_identity", lambda *_: None)
    old = registry.firmware("2.0.0", version="0.9.0")
    registry.sign(old, FIRST)
    await attack(registry, old, "VersionMismatch", mitigated=mitigated)


UNFIT = {
    "no version": ({"version": ""}, "VersionAnnotationMissing", ""),
    "another build": ({"version": "2.0.0+test"}, "VersionMismatch", ""),
    "another product": ({"product": "oven"}, "ProductMismatch", "thermostat"),
}


@BOTH
@pytest.mark.parametrize(("said", "reason", "product"), UNFIT.values(), ids=UNFIT)
async def test_a_signed_image_that_does_not_fit(
    registry: SignedRegistry,
    monkeypatch: pytest.MonkeyPatch,
    said: dict[str, str],
    reason: str,
    product: str,
    mitigated: bool,
) -> None:
    if not mitigated:
        monkeypatch.setattr(verification, "require_identity", lambda *_: None)
    other = registry.firmware("2.0.0", **said)
    registry.sign(other, FIRST)
    await attack(registry, other, reason, mitigated=mitigated, product=product)


@BOTH
async def test_a_compromised_registry_with_an_unsigned_new_tag(
    registry: SignedRegistry, monkeypatch: pytest.MonkeyPatch, mitigated: bool
) -> None:
    if not mitigated:

        async def verify(*_: Any) -> Proof:
            return Proof("nobody", datetime.now(UTC))

        monkeypatch.setattr(verification.Verifier, "verify", verify)
    evil = registry.firmware("2.0.0")
    await attack(registry, evil, "SignatureMissing", mitigated=mitigated)


@BOTH
async def test_a_signature_by_a_key_of_the_attacker(
    registry: SignedRegistry, monkeypatch: pytest.MonkeyPatch, mitigated: bool
) -> None:
    if not mitigated:
        monkeypatch.setattr(PublicKey, "signed", lambda *_: True)
    evil = registry.firmware("2.0.0")
    registry.sign(evil, SECOND)
    await attack(registry, evil, "KeyMismatch", mitigated=mitigated)


@BOTH
async def test_a_good_signature_that_was_copied(
    registry: SignedRegistry, monkeypatch: pytest.MonkeyPatch, mitigated: bool
) -> None:
    if not mitigated:
        monkeypatch.setattr(contents, "_of", lambda key, *_: contents.Judgement(key))
    evil = registry.firmware("2.0.0")
    registry.sign(evil, FIRST, of=sha256(b"something else that was signed"))
    await attack(registry, evil, "SignatureOfOtherDigest", mitigated=mitigated)


@BOTH
async def test_an_attestation_in_the_place_of_a_signature(
    registry: SignedRegistry, monkeypatch: pytest.MonkeyPatch, mitigated: bool
) -> None:
    kind = "https://spdx.dev/Document"
    if not mitigated:
        monkeypatch.setattr(contents, "PREDICATE_TYPE", kind)
    evil = registry.firmware("2.0.0")
    refer(registry, evil, statement(evil, predicateType=kind))
    await attack(registry, evil, "SignatureMissing", mitigated=mitigated)


@BOTH
async def test_a_signed_payload_that_means_something_else(
    registry: SignedRegistry, monkeypatch: pytest.MonkeyPatch, mitigated: bool
) -> None:
    """What a key signed for another purpose happens to look like a statement."""
    kind = "application/vnd.something.else+json"
    if not mitigated:
        monkeypatch.setattr(contents, "_PAYLOAD_TYPE", kind)
    evil = registry.firmware("2.0.0")
    refer(registry, evil, statement(evil), kind)
    await attack(registry, evil, "SignatureInvalid", mitigated=mitigated)


def refer(
    registry: SignedRegistry,
    digest: str,
    content: dict[str, Any],
    kind: str = "application/vnd.in-toto+json",
) -> None:
    """A bundle by the right key, as cosign attaches it where there is no referrers API."""
    body = json.dumps(content).encode()
    envelope = {
        "payloadType": kind,
        "payload": base64.b64encode(body).decode(),
        "signatures": [{"sig": signature(pre_authentication_encoding(kind, body), FIRST)}],
    }
    bundle = json.dumps({"mediaType": BUNDLE_TYPE, "dsseEnvelope": envelope}).encode()
    registry.blobs[sha256(bundle)] = bundle
    layer = {"mediaType": BUNDLE_TYPE, "digest": sha256(bundle), "size": len(bundle)}
    manifest = manifest_of(b"", artifactType=BUNDLE_TYPE, layers=[layer])
    registry.put(NAME, "bundle", manifest)
    entry = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": sha256(manifest),
        "size": len(manifest),
    }
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
    registry.put(NAME, digest.replace(":", "-"), json.dumps(index).encode(), OCI_INDEX)
