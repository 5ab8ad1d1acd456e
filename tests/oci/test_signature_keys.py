"""Which public keys may sign, and which are refused, each for its own reason."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import dh, ed448, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from otaflux_oci import KeySecretInvalid, KeyUnsupported
from otaflux_oci.signatures import PublicKey, public_keys
from tests.fixtures.signers import KeyPair

P256 = KeyPair.make("p256")


def pem(key: x25519.X25519PublicKey | ed448.Ed448PublicKey | dh.DHPublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("kind", ["p256", "p384", "p521", "rsa2048", "rsa4096"])
def test_keys_that_may_sign(kind: str) -> None:
    (key,) = public_keys({"release.pub": KeyPair.make(kind).public, "README": b"not a key"})
    assert key.name == "release.pub"


def test_they_are_tried_by_name() -> None:
    names = [key.name for key in public_keys({"b.pub": P256.public, "a.pub": P256.public})]
    assert names == ["a.pub", "b.pub"]


@pytest.mark.parametrize(
    ("public", "words"),
    [
        (KeyPair.make("ed25519").public, "Ed25519ph"),
        (pem(ed448.Ed448PrivateKey.generate().public_key()), "Edwards"),
        (KeyPair.make("k256").public, "secp256k1"),
        (KeyPair.make("rsa1024").public, "1024 bits"),
        (pem(x25519.X25519PrivateKey.generate().public_key()), "does not sign"),
    ],
    ids=["ed25519", "ed448", "secp256k1", "rsa1024", "x25519"],
)
def test_keys_of_other_kinds_are_refused(public: bytes, words: str) -> None:
    with pytest.raises(KeyUnsupported, match=rf"release\.pub .*{words}"):
        PublicKey.load("release.pub", public)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "exactly one public key"),
        (b"no pem", "exactly one public key"),
        (P256.public + P256.public, "exactly one public key"),
        (P256.public[:-40], "not a public key"),
        (P256.public.replace(b"MFkw", b"MFkx"), "not a public key"),
        (b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "not a public key"),
        (P256.private, "replace the key pair"),
        (b"x" * 20_000, "larger than"),
    ],
)
def test_what_is_no_public_key_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(KeySecretInvalid, match=rf"release\.pub .*{words}") as caught:
        PublicKey.load("release.pub", content)
    assert caught.value.__cause__ is None
    assert P256.private.splitlines()[1].decode() not in str(caught.value)


def test_one_that_cannot_be_used_spoils_all() -> None:
    with pytest.raises(KeyUnsupported, match=r"b\.pub"):
        public_keys({"a.pub": P256.public, "b.pub": KeyPair.make("ed25519").public})


def test_there_are_some_but_not_any_number() -> None:
    with pytest.raises(KeySecretInvalid, match=r"no entry \*\.pub"):
        public_keys({"cosign.key": P256.private})
    with pytest.raises(KeySecretInvalid, match="17 entries"):
        public_keys({f"{index}.pub": P256.public for index in range(17)})


def test_a_key_shows_no_bytes() -> None:
    assert repr(PublicKey.load("a.pub", P256.public)) == "PublicKey(name='a.pub')"
