"""Case 10: signatures by the real cosign and by npm's @sigstore/sign, on real registries."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from otaflux_cli.control_plane.registries import Oras, Registry
from otaflux_oci import (
    KeyMismatch,
    RegistryClient,
    Repository,
    SignatureInvalid,
    SignatureMissing,
    SignatureOfOtherDigest,
)
from otaflux_oci.signatures import public_keys, verify
from otaflux_oci.signatures.contents import BUNDLE_TYPE
from tests.fixtures.oci_sources import push
from tests.fixtures.signers import Cosign, Form, KeyPair, Sigstore, statement

KINDS = ["p256", "p384", "p521", "rsa2048", "rsa4096"]


@dataclass
class Store:
    """A repository of a real registry."""

    client: RegistryClient
    repository: Repository
    oras: Oras
    folder: Path

    async def push(self, tag: str, *options: str) -> str:
        """The digest of new firmware."""
        target = f"{self.repository}:{tag}"
        await push(self.oras, self.folder, target, "--plain-http", *options)
        return await self.client.digest(self.repository, tag)

    async def attach(self, digest: str, bundle: str) -> None:
        """As cosign attaches its bundles, by oras."""
        (self.folder / "bundle.json").write_text(bundle)
        await self.oras(
            "attach", "--plain-http", "--artifact-type", BUNDLE_TYPE, self.at(digest),
            f"bundle.json:{BUNDLE_TYPE}", cwd=self.folder,
        )  # fmt: skip

    def at(self, digest: str) -> str:
        return f"{self.repository}@{digest}"

    async def signer(self, digest: str, **keys: KeyPair) -> str:
        """The name of the key that signed it."""
        known = public_keys({f"{name}.pub": pair.public for name, pair in keys.items()})
        return (await verify(self.client, self.repository, digest, known)).key


@pytest.fixture
def store(
    registry: Registry, client: RegistryClient, oras: Oras, repository: str, tmp_path: Path
) -> Store:
    return Store(client, Repository(registry.host, repository), oras, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", list(Form))
async def test_what_cosign_signs_is_verified(
    store: Store, cosign: Cosign, kind: str, form: Form
) -> None:
    digest = await store.push("1.4.0")
    with pytest.raises(SignatureMissing, match="cosign sign"):
        await store.signer(digest, own=cosign.key(kind))
    await cosign.sign(store.at(digest), cosign.key(kind), form)
    assert await store.signer(digest, own=cosign.key(kind)) == "own.pub"
    other = cosign.key(f"other {kind}", kind)
    with pytest.raises(KeyMismatch, match=r"none of the keys other\.pub"):
        await store.signer(digest, other=other)
    assert await store.signer(digest, other=other, own=cosign.key(kind)) == "own.pub"


@pytest.mark.parametrize("form", list(Form))
async def test_all_signatures_are_tried_with_all_keys(
    store: Store, cosign: Cosign, form: Form
) -> None:
    digest = await store.push("1.4.0")
    for name in ("first", "second"):
        await cosign.sign(store.at(digest), cosign.key(name, "p256"), form)
    for name in ("first", "second"):
        assert await store.signer(digest, key=cosign.key(name, "p256")) == "key.pub"


async def test_both_forms_at_once(store: Store, cosign: Cosign) -> None:
    digest = await store.push("1.4.0")
    old, new = cosign.key("old", "p256"), cosign.key("new", "rsa2048")
    await cosign.sign(store.at(digest), old, Form.LEGACY)
    await cosign.sign(store.at(digest), new, Form.BUNDLE)
    assert await store.signer(digest, old=old) == "old.pub"
    assert await store.signer(digest, new=new) == "new.pub"


@pytest.mark.parametrize("form", list(Form))
async def test_an_sbom_attestation_by_the_right_key_is_no_signature(
    store: Store, cosign: Cosign, form: Form
) -> None:
    digest, key = await store.push("1.4.0"), cosign.key("p256")
    await cosign.attest(store.at(digest), key, form)
    with pytest.raises(SignatureMissing):
        await store.signer(digest, own=key)
    await cosign.sign(store.at(digest), key)
    assert await store.signer(digest, own=key) == "own.pub"


@pytest.mark.parametrize("form", list(Form))
async def test_a_signature_of_another_digest_is_none(
    store: Store, cosign: Cosign, form: Form
) -> None:
    key = cosign.key("p256")
    signed = await store.push("1.4.0", "--annotation", "which=signed")
    digest = await store.push("1.5.0", "--annotation", "which=other")
    await cosign.sign(store.at(signed), key, form)
    if form is Form.LEGACY:
        old, new = (f"{store.repository}:{name.replace(':', '-')}.sig" for name in (signed, digest))
        await store.oras("cp", "--from-plain-http", "--to-plain-http", old, new)
    else:
        (referrer,) = await store.client.referrers(store.repository, signed)
        manifest = await store.client.manifest(store.repository, referrer.digest)
        async with store.client.blob(store.repository, manifest.layers[0]) as parts:
            await store.attach(digest, b"".join([part async for part in parts]).decode())
    with pytest.raises(SignatureOfOtherDigest, match=signed):
        await store.signer(digest, own=key)


@pytest.mark.parametrize("form", list(Form))
async def test_a_signed_image_index(store: Store, cosign: Cosign, form: Form) -> None:
    key = cosign.key("p256")
    child = await store.push("child")
    await store.oras(
        "manifest", "index", "create", "--plain-http", f"{store.repository}:1.4.0", "child"
    )
    index = await store.client.digest(store.repository, "1.4.0")
    await cosign.sign(store.at(index), key, form)
    assert await store.signer(index, own=key) == "own.pub"
    with pytest.raises(SignatureMissing):
        await store.signer(child, own=key)


@pytest.mark.parametrize(
    ("kind", "hash_name"),
    [
        ("p256", "sha256"),
        ("p384", "sha384"),
        ("p384", "sha256"),
        ("p521", "sha512"),
        ("p521", "sha256"),
        ("rsa2048", "sha256"),
    ],
)
async def test_what_the_second_implementation_signs_is_verified(
    store: Store, sigstore: Sigstore, cosign: Cosign, kind: str, hash_name: str
) -> None:
    digest, key = await store.push("1.4.0"), cosign.key(kind)
    await store.attach(digest, await sigstore.bundle(statement(digest), key, hash_name))
    assert await store.signer(digest, own=key) == "own.pub"
    with pytest.raises(KeyMismatch):
        await store.signer(digest, other=cosign.key("other", "p256"))


@pytest.mark.parametrize(
    ("changes", "payload_type", "error"),
    [
        ({"predicateType": "https://spdx.dev/Document"}, None, SignatureMissing),
        ({"predicateType": None}, None, SignatureInvalid),
        ({"_type": "https://in-toto.io/Statement/v0.1"}, None, SignatureInvalid),
        ({"subject": []}, None, SignatureInvalid),
        ({"subject": [{"digest": {"sha512": "00"}}]}, None, SignatureInvalid),
        ({"subject": [{"digest": {"sha256": "00"}}]}, None, SignatureOfOtherDigest),
        ({}, "application/vnd.other+json", SignatureInvalid),
    ],
)
async def test_what_the_right_key_signed_has_to_say_what_it_is(
    store: Store,
    sigstore: Sigstore,
    cosign: Cosign,
    changes: dict[str, Any],
    payload_type: str | None,
    error: type[Exception],
) -> None:
    digest, key = await store.push("1.4.0"), cosign.key("p256")
    kind = payload_type or "application/vnd.in-toto+json"
    bundle = await sigstore.bundle(statement(digest, **changes), key, payload_type=kind)
    await store.attach(digest, bundle)
    with pytest.raises(error):
        await store.signer(digest, own=key)


async def test_exactly_one_signature_is_asked_for(
    store: Store, sigstore: Sigstore, cosign: Cosign
) -> None:
    digest, key = await store.push("1.4.0"), cosign.key("p256")
    bundle = json.loads(await sigstore.bundle(statement(digest), key))
    envelope = bundle["dsseEnvelope"]
    envelope["signatures"] *= 2
    await store.attach(digest, json.dumps(bundle))
    with pytest.raises(SignatureInvalid, match="exactly one signature"):
        await store.signer(digest, own=key)
