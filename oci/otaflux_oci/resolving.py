"""From what a rollout names (tag, range or digest) to one release: a manifest digest."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from .annotations import min_version
from .annotations import models as models_of
from .errors import (
    InvalidReference,
    NoMatchingVersion,
    UnsupportedManifest,
    VersionMismatch,
)
from .indexes import firmware_of
from .manifests import VERSION_ANNOTATION, Descriptor
from .references import Repository, require_digest, require_tag
from .sources import Source
from .versions import semantic_range, semantic_version

_COMPANION = re.compile(r"sha256-[0-9a-f]{64}(\.(sig|att|sbom))?")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,127}")
_MAX_RANGE = 256


@dataclass(frozen=True)
class Resolved:
    """`reference`: the tag that was resolved, or the digest.

    `digest`: of the manifest that it points to, which may be an index. `layer`: the firmware, or
    the archive with it (`is_archive`). `annotations`: those of the manifest with the layer and of
    all that leads to it. `models` and `min_version`: what they say of the devices it is for.
    """

    repository: Repository
    reference: str
    version: str
    digest: str
    layer: Descriptor
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    models: tuple[str, ...] = ()
    min_version: str | None = None


async def resolve(
    source: Source,
    repository: Repository,
    *,
    tag: str | None = None,
    semver: str | None = None,
    digest: str | None = None,
    version: str = "",
    media_type: str = "",
    title: str = "",
    models: Collection[str] = (),
) -> Resolved:
    """Exactly one of `tag`, `semver`, `digest`; the others as in the spec of a rollout.

    The version is, in order: `version`; the annotation org.opencontainers.image.version;
    the tag where it is a semantic version (a leading `v` is dropped); else
    `<tag>-<first 12 hex of the digest>`, and for a digest those 12 alone. A tag that is a
    semantic version and an annotation that says another are refused, whatever `version`
    says: that is how an old image under a new tag looks.

    Everything but the tag is read by digest, so a tag that moves meanwhile changes nothing.
    Raises OciError.
    """
    if sum(item is not None for item in (tag, semver, digest)) != 1:
        raise InvalidReference("Name exactly one of tag, semver and digest.")
    if digest is not None:
        reference, tag = require_digest(digest), None
    elif semver is not None:
        # In a thread: of a hundred thousand tags it takes seconds.
        tags = await source.tags(repository)
        reference = tag = await asyncio.to_thread(newest_tag, tags, semver, repository)
    else:
        assert tag is not None
        reference = require_tag(tag)
    manifest = await source.manifest(repository, reference)
    chosen = await firmware_of(
        source, repository, manifest, media_type=media_type, title=title, models=models
    )
    return Resolved(
        repository=repository,
        reference=reference,
        version=release_version(
            tag, manifest.digest, chosen.annotations.get(VERSION_ANNOTATION), version
        ),
        digest=manifest.digest,
        layer=chosen.layer,
        annotations=chosen.annotations,
        models=models_of(chosen.annotations, manifest.digest),
        min_version=min_version(chosen.annotations, manifest.digest),
    )


def newest_tag(tags: list[str], semver: str, repository: Repository) -> str:
    """The tag with the highest version in an npm-style range.

    Signatures and the like (`sha256-…`) and tags that are no semantic version do not
    count; prereleases only where the range names one of the same version. Of `1.2.3` and
    `v1.2.3` the former is taken. Raises InvalidReference, NoMatchingVersion.
    """
    wanted = semantic_range(semver) if len(semver) <= _MAX_RANGE else None
    if wanted is None:
        raise InvalidReference(
            f"{semver[:80]!r} is not a range of versions. Write for instance ^1.4.0, ~1.4 or "
            ">=1.4.0 <2.0.0."
        )
    candidates = {
        tag: parsed
        for tag in tags
        if not _COMPANION.fullmatch(tag) and (parsed := semantic_version(tag)) is not None
    }
    matching = [tag for tag, parsed in candidates.items() if wanted.match(parsed)]
    if not matching:
        newest = max(candidates, key=lambda tag: candidates[tag], default=None)
        hint = f"the newest version there is {newest}" if newest else "there is none"
        raise NoMatchingVersion(
            f"Of {len(tags)} tags of {repository}, none is a version in {semver!r}; {hint}."
        )
    return max(matching, key=lambda tag: (candidates[tag], not tag.startswith("v")))


def release_version(tag: str | None, digest: str, annotation: str | None, version: str) -> str:
    """The rule of `resolve`; `annotation` None where there is none.

    Raises VersionMismatch, UnsupportedManifest, InvalidReference."""
    of_tag = semantic_version(tag) if tag is not None else None
    if annotation is not None and not _VERSION.fullmatch(annotation):
        raise UnsupportedManifest(
            f"The annotation {VERSION_ANNOTATION} of {digest} is not a version: letters, digits "
            "and `.`, `_`, `+`, `~`, `-`, at most 128."
        )
    if of_tag is not None and annotation is not None:
        annotated = semantic_version(annotation)
        # Build metadata does not count: a tag cannot hold its `+`.
        if annotated is None or of_tag.precedence_key[:-1] != annotated.precedence_key[:-1]:
            raise VersionMismatch(
                f"The tag {tag} holds a manifest that says it is {annotation} "
                f"({VERSION_ANNOTATION}). Push it under its own version, or name its digest."
            )
    if version:
        if not _VERSION.fullmatch(version):
            raise InvalidReference(
                "spec.version is not a version: letters, digits and `.`, `_`, `+`, `~`, `-`, "
                "at most 128."
            )
        return version
    if annotation is not None:
        return annotation
    if of_tag is not None:
        return str(of_tag)
    short = digest.removeprefix("sha256:")[:12]
    return f"{tag}-{short}" if tag is not None else short
