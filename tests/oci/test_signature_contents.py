"""What a signature has to say; and the bounds within which signatures are looked for."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st

from otaflux_oci import (
    KeyMismatch,
    Limits,
    RegistryClient,
    RegistryError,
    Repository,
    SignatureInvalid,
    SignatureMissing,
)
from otaflux_oci.manifests import OCI_INDEX
from otaflux_oci.signatures import PublicKey, verify
from otaflux_oci.signatures.contents import (
    BUNDLE_TYPE,
    LEGACY_SIGNATURE,
    LEGACY_TYPE,
    Fault,
    Judgement,
    judge_bundle,
    judge_legacy,
    pre_authentication_encoding,
)
from tests.fixtures.loopback_servers import Reply
from tests.fixtures.misbehaving_registries import MisbehavingRegistry, manifest_of, sha256
from tests.fixtures.oci_sources import NAME
from tests.fixtures.signers import KeyPair, statement

OWN, OTHER = KeyPair.make("p256"), KeyPair.make("p256")
KEYS = (PublicKey.load("own.pub", OWN.public),)
DIGEST = "sha256:" + "1" * 64


def signed(message: bytes, pair: KeyPair = OWN) -> str:
    key = load_pem_private_key(pair.private, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return base64.b64encode(key.sign(message, ec.ECDSA(hashes.SHA256()))).decode()


def payload(digest: str = DIGEST, kind: str = "cosign container image signature") -> bytes:
    image = {"docker-manifest-digest": digest}
    return json.dumps({"critical": {"type": kind, "image": image}, "optional": None}).encode()


def bundle(content: object, pair: KeyPair = OWN, **changes: Any) -> bytes:
    body = json.dumps(content).encode()
    kind = "application/vnd.in-toto+json"
    envelope = {
        "payloadType": kind,
        "payload": base64.b64encode(body).decode(),
        "signatures": [{"sig": signed(pre_authentication_encoding(kind, body), pair)}],
    }
    return json.dumps({"mediaType": BUNDLE_TYPE, "dsseEnvelope": envelope | changes}).encode()


def test_the_example_of_the_dsse_specification() -> None:
    encoded = pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_a_legacy_signature() -> None:
    assert judge_legacy(payload(), signed(payload()), DIGEST, KEYS) == Judgement("own.pub")


@pytest.mark.parametrize(
    ("content", "signature", "fault"),
    [
        (payload(), signed(payload(), OTHER), Fault.OTHER_KEY),
        (payload() + b" ", signed(payload()), Fault.OTHER_KEY),
        (payload(), "%", Fault.MALFORMED),
        (payload(), "", Fault.OTHER_KEY),
        (payload("sha256:" + "2" * 64), None, Fault.OTHER_DIGEST),
        (payload(kind="other"), None, Fault.MALFORMED),
        (b"{}", None, Fault.MALFORMED),
        (b"[]", None, Fault.MALFORMED),
        (b"no json", None, Fault.MALFORMED),
        (payload().replace(b'"critical"', b'"critical":{},"critical"', 1), None, Fault.MALFORMED),
    ],
    ids=range(10),  # not by signatures, which differ each time
)
def test_a_legacy_signature_that_is_none(
    content: bytes, signature: str | None, fault: Fault
) -> None:
    signature = signed(content) if signature is None else signature
    judgement = judge_legacy(content, signature, DIGEST, KEYS)
    assert (judgement.key, judgement.fault) == (None, fault)


def test_a_bundle() -> None:
    assert judge_bundle(bundle(statement(DIGEST)), DIGEST, KEYS) == Judgement("own.pub")
    subjects = [{"digest": {"sha256": "2" * 64}}, *statement(DIGEST)["subject"]]
    many = statement(DIGEST, subject=subjects)
    assert judge_bundle(bundle(many), DIGEST, KEYS) == Judgement("own.pub")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (bundle(statement(DIGEST), OTHER), Fault.OTHER_KEY),
        (bundle(statement("sha256:" + "2" * 64)), Fault.OTHER_DIGEST),
        (bundle(statement("sha256:" + "2" * 64), OTHER), Fault.OTHER_KEY),
        (bundle(statement(DIGEST, predicateType="https://spdx.dev/Document")), Fault.OTHER_KIND),
        (bundle(statement(DIGEST, predicateType=1)), Fault.MALFORMED),
        (bundle(statement(DIGEST, _type="other")), Fault.MALFORMED),
        (bundle(statement(DIGEST, subject=[])), Fault.MALFORMED),
        (bundle(statement(DIGEST, subject=[{}] * 17)), Fault.MALFORMED),
        (bundle(statement(DIGEST), signatures=[]), Fault.MALFORMED),
        (bundle(statement(DIGEST), signatures={}), Fault.MALFORMED),
        (bundle(statement(DIGEST), signatures=[{"sig": 1}]), Fault.MALFORMED),
        (bundle(statement(DIGEST), payload="%"), Fault.MALFORMED),
        (bundle(statement(DIGEST), payloadType="text/plain"), Fault.MALFORMED),
        (bundle("text"), Fault.MALFORMED),
        (b"{}", Fault.MALFORMED),
        (b'{"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json"}', Fault.MALFORMED),
        (b"\xff", Fault.MALFORMED),
        (b"[" * 100_000, Fault.MALFORMED),
    ],
)
def test_a_bundle_that_is_no_signature(content: bytes, fault: Fault) -> None:
    judgement = judge_bundle(content, DIGEST, KEYS)
    assert (judgement.key, judgement.fault) == (None, fault)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=9,
)


@given(JSON)
def test_whatever_is_in_the_place_of_a_field_is_a_fault(value: Any) -> None:
    for name in ("payload", "payloadType", "signatures"):
        assert judge_bundle(bundle(statement(DIGEST), **{name: value}), DIGEST, KEYS).key is None
    for name in ("_type", "predicateType", "subject"):
        content = bundle(statement(DIGEST, **{name: value}))
        assert judge_bundle(content, DIGEST, KEYS).key is None
    content = json.dumps({"critical": value}).encode()
    assert judge_legacy(content, signed(content), DIGEST, KEYS).key is None


def put_legacy(registry: MisbehavingRegistry, digest: str, *signatures: tuple[bytes, str]) -> None:
    layers = []
    for content, signature in signatures:
        registry.blobs[sha256(content)] = content
        layers.append(
            {
                "mediaType": LEGACY_TYPE,
                "digest": sha256(content),
                "size": len(content),
                "annotations": {LEGACY_SIGNATURE: signature},
            }
        )
    registry.put(NAME, digest.replace(":", "-") + ".sig", manifest_of(b"", layers=layers))


async def test_signatures_beyond_the_bound_are_not_looked_at(
    misbehaving: MisbehavingRegistry, client: RegistryClient, kitchen: Repository
) -> None:
    digest = await client.digest(kitchen, "1.4.0")
    content = payload(digest)
    wrong = [(content, signed(content, OTHER))] * 3
    put_legacy(misbehaving, digest, *wrong, (content, signed(content)))
    few, enough = Limits(signatures=3), Limits(signatures=4)
    with pytest.raises(KeyMismatch):
        await verify(client, kitchen, digest, KEYS, limits=few)
    assert (await verify(client, kitchen, digest, KEYS, limits=enough)).key == "own.pub"


async def test_a_signature_of_great_size_is_not_fetched(
    misbehaving: MisbehavingRegistry, client: RegistryClient, kitchen: Repository
) -> None:
    digest = await client.digest(kitchen, "1.4.0")
    content = payload(digest) + b" " * 300_000
    put_legacy(misbehaving, digest, (content, signed(content)))
    with pytest.raises(SignatureInvalid, match="larger than 262144 bytes"):
        await verify(client, kitchen, digest, KEYS)
    assert not misbehaving.asked("/blobs/")


async def test_a_signature_that_is_gone_does_not_hide_another(
    misbehaving: MisbehavingRegistry, client: RegistryClient, kitchen: Repository
) -> None:
    digest = await client.digest(kitchen, "1.4.0")
    content, gone = payload(digest), payload(digest) + b" "
    put_legacy(misbehaving, digest, (gone, signed(gone)), (content, signed(content)))
    del misbehaving.blobs[sha256(gone)]
    assert (await verify(client, kitchen, digest, KEYS)).key == "own.pub"


@pytest.mark.parametrize("path", [".sig", "/blobs/", "/referrers/"])
async def test_a_registry_that_fails_says_nothing_about_signatures(
    misbehaving: MisbehavingRegistry, client: RegistryClient, kitchen: Repository, path: str
) -> None:
    digest = await client.digest(kitchen, "1.4.0")
    content = payload(digest)
    put_legacy(misbehaving, digest, (content, signed(content, OTHER)))
    misbehaving.rules.append(lambda request: Reply(500) if path in request.path else None)
    with pytest.raises(RegistryError):
        await verify(client, kitchen, digest, KEYS)


async def test_what_is_under_the_tags_and_no_signature_is_passed_over(
    misbehaving: MisbehavingRegistry, client: RegistryClient, kitchen: Repository
) -> None:
    digest = await client.digest(kitchen, "1.4.0")
    name = digest.replace(":", "-")
    misbehaving.put(NAME, f"{name}.sig", manifest_of(b"firmware"))
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    misbehaving.put(NAME, name, json.dumps(index).encode(), OCI_INDEX)
    with pytest.raises(SignatureMissing):
        await verify(client, kitchen, digest, KEYS)
    misbehaving.put(NAME, f"{name}.sig", b"{}")
    with pytest.raises(SignatureMissing):
        await verify(client, kitchen, digest, KEYS)
