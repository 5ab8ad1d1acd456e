"""Public keys that may sign, and what their signatures look like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from ..errors import KeySecretInvalid, KeyUnsupported

KEYS = 16
"""Most keys that are tried; each costs up to two verifications per signature."""

SUFFIX = ".pub"
_KEY_BYTES = 16_384
_RSA_BITS = range(2048, 8193)

# Tried in this order: cosign hashes by the curve, other signers often with SHA-256.
_CURVES: dict[str, tuple[hashes.HashAlgorithm, ...]] = {
    "secp256r1": (hashes.SHA256(),),
    "secp384r1": (hashes.SHA384(), hashes.SHA256()),
    "secp521r1": (hashes.SHA512(), hashes.SHA256()),
}
_ACCEPTED = "P-256, P-384, P-521 and RSA from 2048 to 8192 bits are read"


@dataclass(frozen=True)
class PublicKey:
    """`name`: that of the file it was in. `der`: SubjectPublicKeyInfo (RFC 5280, 4.1.2.7)."""

    name: str
    der: bytes = field(repr=False)
    _key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey = field(repr=False, compare=False)

    @classmethod
    def load(cls, name: str, pem: bytes) -> PublicKey:
        """The one key in a PEM file (RFC 7468, section 13).

        Raises KeySecretInvalid, KeyUnsupported.
        """
        if len(pem) > _KEY_BYTES:
            raise KeySecretInvalid(f"{name} is larger than {_KEY_BYTES} bytes: no public key is.")
        if b"PRIVATE KEY-----" in pem:
            raise KeySecretInvalid(
                f"{name} holds a private key. Put only the public key there (cosign.pub), and "
                "replace the key pair: whoever could read this can sign."
            )
        if pem.count(b"-----BEGIN ") != 1:
            raise KeySecretInvalid(
                f"{name} does not hold exactly one public key in PEM form. Write one key per file, "
                "as `cosign generate-key-pair` makes it."
            )
        try:
            key = load_pem_public_key(pem)
        except UnsupportedAlgorithm:
            raise KeyUnsupported(f"{name} is a key of an unknown kind: {_ACCEPTED}.") from None
        except ValueError:
            raise KeySecretInvalid(
                f"{name} is not a public key in PEM form, as `cosign generate-key-pair` makes it."
            ) from None
        if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
            raise KeyUnsupported(
                f"{name} is an Edwards-curve key. cosign signs with Ed25519 in a variant "
                "(Ed25519ph) that cannot be checked here: sign with a key on P-256, as `cosign "
                "generate-key-pair` makes it."
            )
        if isinstance(key, ec.EllipticCurvePublicKey):
            if key.curve.name not in _CURVES:
                raise KeyUnsupported(f"{name} is a key on {key.curve.name}: {_ACCEPTED}.")
        elif not isinstance(key, rsa.RSAPublicKey):
            raise KeyUnsupported(f"{name} is a key of a kind that does not sign: {_ACCEPTED}.")
        elif key.key_size not in _RSA_BITS:
            raise KeyUnsupported(f"{name} is an RSA key of {key.key_size} bits: {_ACCEPTED}.")
        der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return cls(name, der, key)

    def signed(self, message: bytes, signature: bytes) -> bool:
        """Whether this is the key's signature: ECDSA (DER), or RSA PKCS #1 v1.5 with SHA-256."""
        key = self._key
        if isinstance(key, rsa.RSAPublicKey):
            try:
                key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
            except InvalidSignature:
                return False
            return True
        return any(_signed(key, message, signature, used) for used in _CURVES[key.curve.name])


def public_keys(files: Mapping[str, bytes]) -> tuple[PublicKey, ...]:
    """The keys in the entries `*.pub`, by name; every one of them has to be usable.

    Raises KeySecretInvalid (also where there is none, or more than 16) and KeyUnsupported.
    """
    names = sorted(name for name in files if name.endswith(SUFFIX))
    if not names:
        raise KeySecretInvalid(
            f"There is no entry *{SUFFIX}: put the public keys there, one per entry."
        )
    if len(names) > KEYS:
        raise KeySecretInvalid(
            f"There are {len(names)} entries *{SUFFIX}; at most {KEYS} are read."
        )
    return tuple(PublicKey.load(name, files[name]) for name in names)


def _signed(
    key: ec.EllipticCurvePublicKey, message: bytes, signature: bytes, used: hashes.HashAlgorithm
) -> bool:
    try:
        key.verify(signature, message, ec.ECDSA(used))
    except InvalidSignature:
        return False
    return True
