"""Signatures of what is published, checked against the standards that they claim."""

import base64
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from otaflux_policy.canonical import dumps, loads_group
from otaflux_policy.contract import Policy
from otaflux_policy.groups import Group
from otaflux_policy.rejections import MEANINGS, RejectionReason
from otaflux_policy.signing import (
    InvalidKey,
    NotSigned,
    PublicKey,
    SigningKey,
    entry_key,
    is_entry_key,
    verify,
)

KEY, OTHER = SigningKey.generate(), SigningKey.generate()
TEXT = '{"name":"thermostat"}'


def refused(
    signature: str, *keys: PublicKey, kind: type[Policy] | type[Group] = Policy, text: str = TEXT
) -> RejectionReason:
    with pytest.raises(NotSigned) as caught:
        verify(kind, text, signature, keys)
    return caught.value.reason


def test_it_is_ed25519_over_the_dsse_encoding() -> None:
    """Made by hand, from RFC 8032 and DSSE 1.0.2 alone."""
    raw = bytes(range(32))
    private = Ed25519PrivateKey.from_private_bytes(raw)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    type_ = b"application/vnd.otaflux.policy.v1+json"
    encoded = b"DSSEv1 38 " + type_ + b" 21 " + TEXT.encode()
    expected = (
        f"{sha256(public).hexdigest()[:16]} {base64.b64encode(private.sign(encoded)).decode()}"
    )
    assert SigningKey.loads(pem).sign(Policy, TEXT) == expected


@given(st.text(), st.binary(min_size=32, max_size=32))
def test_what_is_signed_verifies_by_that_key_alone(text: str, seed: bytes) -> None:
    key = SigningKey(Ed25519PrivateKey.from_private_bytes(seed))
    for kind, other in ((Policy, Group), (Group, Policy)):
        signature = key.sign(kind, text)
        assert verify(kind, text, signature, [OTHER.public, key.public]) == key.public
        assert refused(signature, key.public, kind=other, text=text) == "BadSignature"
        assert refused(signature, key.public, kind=kind, text=text + " ") == "BadSignature"
        assert refused(signature, OTHER.public, kind=kind, text=text) == "UnknownKey"


def test_each_way_not_to_be_signed_has_its_reason() -> None:
    good = KEY.sign(Policy, TEXT)
    forged = f"{KEY.public.id} {OTHER.sign(Policy, TEXT).split()[1]}"
    assert refused(good) == "NoKeys"
    assert refused("", KEY.public) == "Unsigned"
    assert refused(forged, KEY.public, OTHER.public) == "BadSignature"
    assert set(MEANINGS) == set(RejectionReason)


@pytest.mark.parametrize(
    "damage",
    [
        lambda good: good[:-1],
        lambda good: good + "\n",
        lambda good: " " + good,
        lambda good: good.upper(),
        lambda good: good.replace(" ", "  "),
        lambda good: good.split()[0],
        lambda good: good.split()[1],
        lambda good: good[:-3] + "A==" if good[-3] != "A" else good[:-3] + "Q==",
        lambda good: good.split()[0] + " " + "A" * 86 + "==",
    ],
)
def test_a_damaged_signature_is_none(damage: object) -> None:
    assert callable(damage)
    assert refused(damage(KEY.sign(Policy, TEXT)), KEY.public) == "BadSignature"


def test_keys_are_read_as_they_are_written() -> None:
    assert PublicKey.loads(KEY.public.dumps().encode()) == KEY.public
    again = SigningKey.loads(KEY.dumps())
    assert again.sign(Policy, TEXT) == KEY.sign(Policy, TEXT)
    assert is_entry_key(entry_key(KEY.public.id))
    assert not is_entry_key(KEY.public.id + ".json")


def test_other_keys_are_refused_and_nothing_of_them_is_told() -> None:
    curve = generate_private_key(SECP256R1())
    ed25519 = Ed25519PrivateKey.generate()
    locked = BestAvailableEncryption(b"hunter2")
    private = [
        b"",
        b"-----BEGIN %s KEY-----\nc2VjcmV0\n-----END %s KEY-----\n" % ((b"PRIVATE",) * 2),
        curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        ed25519.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked),
        KEY.public.dumps().encode(),
    ]
    for pem in private:
        with pytest.raises(InvalidKey) as caught:
            SigningKey.loads(pem)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None
        assert "c2VjcmV0" not in str(caught.value)
    public = curve.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for pem in (b"", public, KEY.dumps()):
        with pytest.raises(InvalidKey):
            PublicKey.loads(pem)
    assert repr(KEY) == f"SigningKey({KEY.public.id})"
    assert vars(KEY).keys() == {"_key", "public"}


def test_a_group_without_epoch_is_read_and_one_with_it_hashes_differently() -> None:
    from otaflux_policy.canonical import revision, seal

    plain, later = Group(namespace="home", name="g"), Group(namespace="home", name="g", epoch=2)
    assert revision(plain) != revision(later)
    sealed = seal(later)
    assert loads_group(dumps(sealed), namespace="home", name="g") == sealed
