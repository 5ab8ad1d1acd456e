"""Signatures of what the operator publishes: detached, Ed25519 (RFC 8032) over the DSSE encoding.

A signature is the text `<key id> <base64>`; it stands beside what it signs, in a data key of its
own. What is signed is the pre-authentication encoding (DSSE protocol 1.0.2, "Signature
Definition") of the payload type and the canonical text, so that no group passes for a policy. A
key id is the first 16 hex digits of the SHA-256 of the raw public key. Nothing here shows a
private key: not by `repr`, not in an exception.
"""

import base64
import binascii
import re
from collections.abc import Iterable
from hashlib import sha256

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from otaflux_policy.canonical import InvalidPolicy
from otaflux_policy.contract import GROUP_KEY, POLICY_KEY, Policy
from otaflux_policy.groups import Group
from otaflux_policy.rejections import RejectionReason

SIGNATURE_SUFFIX = ".sig"
POLICY_SIGNATURE_KEY = POLICY_KEY + SIGNATURE_SUFFIX
GROUP_SIGNATURE_KEY = GROUP_KEY + SIGNATURE_SUFFIX
PRIVATE_SUFFIX = ".key"
"""Of the data keys of the signing Secret that hold private keys."""

_PAYLOAD_TYPES: dict[type[Policy] | type[Group], bytes] = {
    Policy: b"application/vnd.otaflux.policy.v1+json",
    Group: b"application/vnd.otaflux.group.v1+json",
}
_ENTRY_PREFIX, _ENTRY_SUFFIX = "policy-key-", ".pub"
_ENTRY = re.compile(r"policy-key-[0-9a-f]{16}\.pub")
_SIGNATURE = re.compile(r"(?P<id>[0-9a-f]{16}) (?P<signature>[A-Za-z0-9+/]{86}==)")


class InvalidKey(ValueError):
    """The text is no key of this kind; the message holds nothing of it."""


class NotSigned(InvalidPolicy):
    """Nobody who may is known to have signed the text."""


class PublicKey:
    """One key that signatures are checked by."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key
        self.id = sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]

    def __repr__(self) -> str:
        return f"PublicKey({self.id})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self.id)

    @classmethod
    def loads(cls, pem: bytes) -> "PublicKey":
        """The key in a PEM text (SubjectPublicKeyInfo). Raises InvalidKey."""
        try:
            key = load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm):
            raise InvalidKey("it is no public key in PEM") from None
        if not isinstance(key, Ed25519PublicKey):
            raise InvalidKey("it is a public key of another kind than Ed25519")
        return cls(key)

    def dumps(self) -> str:
        """The inverse of `loads`."""
        return self._key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def has_signed(self, kind: type[Policy] | type[Group], text: str, signature: bytes) -> bool:
        """Whether `signature` is that of `text` by this key."""
        try:
            self._key.verify(signature, _encoded(kind, text))
        except InvalidSignature:
            return False
        return True


class SigningKey:
    """One private key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key())

    def __repr__(self) -> str:
        return f"SigningKey({self.public.id})"

    @classmethod
    def generate(cls) -> "SigningKey":
        """A fresh one."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def loads(cls, pem: bytes) -> "SigningKey":
        """The key in a PEM text (PKCS #8, without a password). Raises InvalidKey."""
        problem = "it is no private key in PEM without a password"
        try:
            key = load_pem_private_key(pem, password=None)
            if isinstance(key, Ed25519PrivateKey):
                return cls(key)
            problem = "it is a private key of another kind than Ed25519"
        except (ValueError, TypeError, UnsupportedAlgorithm):
            pass
        # Raised out here: nothing of what was parsed may hang on it.
        raise InvalidKey(problem)

    def dumps(self) -> bytes:
        """The inverse of `loads`."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def sign(self, kind: type[Policy] | type[Group], text: str) -> str:
        """The signature of the canonical text of a policy or a group."""
        signature = base64.b64encode(self._key.sign(_encoded(kind, text))).decode()
        return f"{self.public.id} {signature}"


def verify(
    kind: type[Policy] | type[Group], text: str, signature: str, keys: Iterable[PublicKey]
) -> PublicKey:
    """The one of `keys` by which `text` is signed.

    Raises:
        NotSigned: there is none; its `reason` and message say why.
    """
    known = {key.id: key for key in keys}
    word = kind.__name__.lower()
    if not known:
        raise NotSigned(
            f"no key is known that the {word} could be signed with", RejectionReason.NO_KEYS
        )
    if not signature:
        raise NotSigned(f"the {word} is not signed", RejectionReason.UNSIGNED)
    found = _SIGNATURE.fullmatch(signature)
    if found is None:
        raise NotSigned(f"the {word}'s signature is none", RejectionReason.BAD_SIGNATURE)
    key = known.get(found["id"])
    if key is None:
        raise NotSigned(
            f"the {word} is signed with the key {found['id']}, which is not known",
            RejectionReason.UNKNOWN_KEY,
        )
    try:
        raw = base64.b64decode(found["signature"], validate=True)
    except binascii.Error:
        raw = b""
    if not key.has_signed(kind, text, raw):
        raise NotSigned(
            f"the {word}'s signature is not that of its text", RejectionReason.BAD_SIGNATURE
        )
    return key


def entry_key(key_id: str) -> str:
    """The data key of the credentials Secret under which a public key is given to servers."""
    return f"{_ENTRY_PREFIX}{key_id}{_ENTRY_SUFFIX}"


def is_entry_key(data_key: str) -> bool:
    """Whether the data key is of the form that `entry_key` gives."""
    return _ENTRY.fullmatch(data_key) is not None


def _encoded(kind: type[Policy] | type[Group], text: str) -> bytes:
    payload_type, payload = _PAYLOAD_TYPES[kind], text.encode(errors="surrogatepass")
    return b"DSSEv1 %d %b %d %b" % (len(payload_type), payload_type, len(payload), payload)
