"""Finds the signatures of a manifest, and tries each with each key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from ..errors import (
    ContentError,
    KeyMismatch,
    NotFound,
    SignatureInvalid,
    SignatureMissing,
    SignatureOfOtherDigest,
)
from ..limits import Limits
from ..manifests import Descriptor
from ..references import Repository, require_digest
from ..sources import Source
from .contents import (
    BUNDLE_TYPE,
    LEGACY_SIGNATURE,
    LEGACY_TYPE,
    PREDICATE_TYPE,
    Fault,
    Judgement,
    judge_bundle,
    judge_legacy,
)
from .keys import PublicKey

_PREDICATE_ANNOTATION = "dev.sigstore.bundle.predicateType"


@dataclass(frozen=True)
class Proof:
    """A signature that holds. `key`: the name of the key that made it."""

    key: str


async def verify(
    source: Source,
    repository: Repository,
    digest: str,
    keys: Sequence[PublicKey],
    *,
    limits: Limits | None = None,
) -> Proof:
    """The first signature of `digest` that one of the keys made, of either form.

    The digest is the one asked about: what a tag says is not looked at here.

    Raises:
        SignatureMissing: there is none; attestations, as of an SBOM, are none.
        SignatureOfOtherDigest: one of the keys signed, but other content.
        KeyMismatch: there are signatures, by none of the keys.
        SignatureInvalid: those there are cannot be read.
        OciError: the source could not be read, so nothing is known.
    """
    require_digest(digest)
    worst: Judgement | None = None
    async for judgement in _judgements(source, repository, digest, keys, limits or Limits()):
        if judgement.key is not None:
            return Proof(judgement.key)
        if worst is None or (judgement.fault or 0) > (worst.fault or 0):
            worst = judgement
    raise _refusal(worst, f"{repository}@{digest}", keys)


async def _judgements(
    source: Source,
    repository: Repository,
    digest: str,
    keys: Sequence[PublicKey],
    limits: Limits,
) -> AsyncIterator[Judgement]:
    """Of one signature after the other; the cheaper form first."""
    left = limits.signatures
    for layer in await _layers(source, repository, digest.replace(":", "-") + ".sig"):
        signature = layer.annotations.get(LEGACY_SIGNATURE)
        if layer.media_type != LEGACY_TYPE or signature is None:
            continue
        if left == 0:
            return
        left -= 1
        payload = await _content(source, repository, layer, limits)
        yield (
            await asyncio.to_thread(judge_legacy, payload, signature, digest, keys)
            if isinstance(payload, bytes)
            else payload
        )
    referrers = [
        known
        for known in await source.referrers(repository, digest)
        if known.artifact_type in (None, BUNDLE_TYPE)
    ]
    # Only which come first within the bound is left to the annotation, which anybody writes.
    referrers.sort(key=lambda known: known.annotations.get(_PREDICATE_ANNOTATION) != PREDICATE_TYPE)
    for referrer in referrers:
        if left == 0:
            return
        left -= 1
        for layer in (await _layers(source, repository, referrer.digest))[:1]:
            if layer.media_type != BUNDLE_TYPE:
                continue
            bundle = await _content(source, repository, layer, limits)
            yield (
                await asyncio.to_thread(judge_bundle, bundle, digest, keys)
                if isinstance(bundle, bytes)
                else bundle
            )


async def _layers(source: Source, repository: Repository, reference: str) -> tuple[Descriptor, ...]:
    """Those of a manifest; none where there is no such manifest, or it is not readable."""
    try:
        return (await source.manifest(repository, reference)).layers
    except (NotFound, ContentError) as error:
        if error.retryable:
            raise
        return ()


async def _content(
    source: Source, repository: Repository, layer: Descriptor, limits: Limits
) -> bytes | Judgement:
    """The bytes of a signature; what cannot be had of it for good is a fault of this one."""
    if layer.size > limits.signature_bytes:
        why = f"it is larger than {limits.signature_bytes} bytes"
        return Judgement(fault=Fault.MALFORMED, why=why)
    try:
        async with source.blob(repository, layer) as parts:
            return b"".join([part async for part in parts])
    except (NotFound, ContentError) as error:
        if error.retryable:
            raise
        return Judgement(fault=Fault.MALFORMED, why="its content is not there")


def _refusal(
    worst: Judgement | None, what: str, keys: Sequence[PublicKey]
) -> SignatureMissing | SignatureInvalid | SignatureOfOtherDigest | KeyMismatch:
    names = ", ".join(key.name for key in keys)
    sign = f"Sign it by its digest: `cosign sign --key … {what}`."
    match worst.fault if worst is not None else None:
        case Fault.OTHER_DIGEST:
            assert worst is not None
            return SignatureOfOtherDigest(
                f"The signature of {what} is one of other content ({worst.why}). {sign}"
            )
        case Fault.OTHER_KEY:
            return KeyMismatch(
                f"{what} is signed by none of the keys {names}. Sign it with one of them, or add "
                "the key that signed, if you trust it."
            )
        case Fault.MALFORMED:
            assert worst is not None
            return SignatureInvalid(
                f"The signature of {what} cannot be used: {worst.why}. Sign it again with cosign."
            )
        case Fault.OTHER_KIND:
            return SignatureMissing(
                f"{what} has attestations, but no signature: these say something about it, and "
                f"release nothing. {sign}"
            )
    return SignatureMissing(f"{what} is not signed. {sign}")
