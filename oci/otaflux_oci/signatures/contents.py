"""What one signature says, and whether it is one of a digest by one of the keys. No I/O.

Sources: cosign's SIGNATURE_SPEC.md ("simple signing" payloads); the Sigstore bundle v0.3
(sigstore_bundle.proto); DSSE v1.0.2 (protocol.md, "PAE"); in-toto Statement v1.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from ..manifests import parse_json
from .keys import PublicKey

LEGACY_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
LEGACY_SIGNATURE = "dev.cosignproject.cosign/signature"
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PREDICATE_TYPE = "https://sigstore.dev/cosign/sign/v1"

_LEGACY_CONTENT = "cosign container image signature"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_SUBJECTS = 16
_SHA256 = "sha256:"


class Fault(IntEnum):
    """What a signature lacks; of several, the greatest tells most about what went wrong."""

    OTHER_KIND = 1
    """It is an attestation, as of an SBOM: no signature of the release."""

    MALFORMED = 2
    """It cannot be read, or does not say what a signature has to."""

    OTHER_KEY = 3
    """None of the keys made it, or it was changed since."""

    OTHER_DIGEST = 4
    """One of the keys made it, for other content."""


@dataclass(frozen=True)
class Judgement:
    """`key`: the name of the key that signed; None where there is a `fault`, in words `why`."""

    key: str | None = None
    fault: Fault | None = None
    why: str = ""


def judge_legacy(
    payload: bytes, signature: str, digest: str, keys: Sequence[PublicKey]
) -> Judgement:
    """A layer of the tag `sha256-<hex>.sig`: its bytes, and the annotation with the signature."""
    raw = _decoded(signature)
    if raw is None:
        return _malformed("its signature is not base64")
    key = _signer(keys, payload, raw)
    if key is None:
        return Judgement(fault=Fault.OTHER_KEY)
    critical = _object(_json(payload)).get("critical")
    if _object(critical).get("type") != _LEGACY_CONTENT:
        return _malformed(f"its critical.type is not {_LEGACY_CONTENT!r}")
    signed = _object(_object(critical).get("image")).get("docker-manifest-digest")
    if not isinstance(signed, str):
        return _malformed("it names no docker-manifest-digest")
    return _of(key, [signed], digest)


def judge_bundle(bundle: bytes, digest: str, keys: Sequence[PublicKey]) -> Judgement:
    """A Sigstore bundle with a DSSE envelope around an in-toto statement."""
    document = _object(_json(bundle))
    if document.get("mediaType") != BUNDLE_TYPE:
        return _malformed(f"it is not a bundle of the type {BUNDLE_TYPE}")
    envelope = _object(document.get("dsseEnvelope"))
    payload, signatures = _decoded(envelope.get("payload")), envelope.get("signatures")
    if envelope.get("payloadType") != _PAYLOAD_TYPE or payload is None:
        return _malformed(f"it is no DSSE envelope around {_PAYLOAD_TYPE}")
    if not isinstance(signatures, list) or len(signatures) != 1:
        return _malformed("it does not have exactly one signature")
    raw = _decoded(_object(signatures[0]).get("sig"))
    if raw is None:
        return _malformed("its signature is not base64")
    statement = _object(_json(payload))
    predicate = statement.get("predicateType")
    if isinstance(predicate, str) and predicate != PREDICATE_TYPE:
        return Judgement(fault=Fault.OTHER_KIND)
    if statement.get("_type") != _STATEMENT_TYPE or predicate != PREDICATE_TYPE:
        return _malformed(f"it is no statement {_STATEMENT_TYPE} about {PREDICATE_TYPE}")
    subjects = _subjects(statement.get("subject"))
    if subjects is None:
        return _malformed(f"it does not name from 1 to {_SUBJECTS} subjects by SHA-256")
    key = _signer(keys, pre_authentication_encoding(_PAYLOAD_TYPE, payload), raw)
    return Judgement(fault=Fault.OTHER_KEY) if key is None else _of(key, subjects, digest)


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """What a DSSE signature is over (DSSE protocol.md, "PAE")."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _of(key: str, signed: list[str], digest: str) -> Judgement:
    if digest in signed:
        return Judgement(key)
    return Judgement(fault=Fault.OTHER_DIGEST, why=f"{key} signed {signed[0][:80]!r}")


def _signer(keys: Sequence[PublicKey], message: bytes, signature: bytes) -> str | None:
    return next((key.name for key in keys if key.signed(message, signature)), None)


def _subjects(value: Any) -> list[str] | None:
    if not isinstance(value, list) or not 0 < len(value) <= _SUBJECTS:
        return None
    found = [_object(_object(entry).get("digest")).get("sha256") for entry in value]
    return [_SHA256 + text for text in found if isinstance(text, str)] or None


def _malformed(why: str) -> Judgement:
    return Judgement(fault=Fault.MALFORMED, why=why)


def _json(body: bytes) -> Any:
    try:
        return parse_json(body)
    except ValueError:
        return None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _decoded(text: Any) -> bytes | None:
    if not isinstance(text, str):
        return None
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:  # also of what is not ASCII
        return None
