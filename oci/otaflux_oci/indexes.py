"""Which manifest of an image index holds the firmware. Ambiguity is an error here too."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from .annotations import models as models_of
from .errors import AmbiguousLayers, NoFirmwareLayer, OciError, TooLarge, UnsupportedManifest
from .layouts import firmware_layer
from .manifests import MANIFEST_TYPES, MODELS_ANNOTATION, Descriptor, Manifest
from .references import Repository
from .sources import Source

_ATTESTATION_ANNOTATION = "vnd.docker.reference.type"
_UNKNOWN_PLATFORM = "unknown/unknown"
# When each was made: `oras push` writes it into every manifest.
_OWN_ANNOTATION = "org.opencontainers.image.created"
_DEPTH = 2
_MOST = 32
_MOST_ANNOTATIONS = 512
_SHOWN = 8


@dataclass(frozen=True)
class Chosen:
    """The manifest that holds the firmware, its layer, and what is said of it on the way down."""

    layer: Descriptor
    annotations: Mapping[str, str]


@dataclass(frozen=True)
class _Child:
    """`levels`: the annotations of the index, of the entry in it, and so on to the manifest."""

    descriptor: Descriptor
    levels: tuple[Mapping[str, str], ...]
    layer: Descriptor | OciError

    def is_for(self, models: Collection[str]) -> bool:
        where = self.descriptor.digest
        named = [models_of(level, where) for level in self.levels]
        said = [set(known) for known in named if known]
        return bool(said) and all(set(models) <= known for known in said)


async def firmware_of(
    source: Source,
    repository: Repository,
    top: Manifest,
    *,
    media_type: str = "",
    title: str = "",
    models: Collection[str] = (),
) -> Chosen:
    """The firmware of a manifest, or of the one child of an index that has it.

    Children that have a layer which `media_type` and `title` admit are candidates; of several,
    those whose annotation `io.otaflux.models` (of descriptor or manifest) has all `models`.
    Attestations are passed over, indexes within an index read, but none within those.

    Raises AmbiguousLayers, NoFirmwareLayer; UnsupportedManifest where an annotation has two
    values on the way; AnnotationInvalid, TooLarge; and what the source raises.
    """
    if not top.is_index:
        return Chosen(firmware_layer(top, media_type=media_type, title=title), top.annotations)
    where = f"The image index {repository}@{top.digest}"
    children: list[_Child] = []
    inside = _inside(top, where)
    pending: list[tuple[list[Descriptor], tuple[Mapping[str, str], ...], int]] = [
        (inside, (top.annotations,), 1)
    ]
    count = len(inside)
    require_few(count, where)
    while pending:
        descriptors, above, depth = pending.pop()
        for descriptor in descriptors:
            manifest = await source.manifest(repository, descriptor.digest)
            levels = (*above, descriptor.annotations, manifest.annotations)
            require_few_annotations(sum(map(len, levels)), where)
            if manifest.is_index:
                require_shallow(depth, where)
                inside = _inside(manifest, where)
                count += len(inside)
                require_few(count, where)
                pending.append((inside, levels, depth + 1))
                continue
            layer: Descriptor | OciError
            try:
                layer = firmware_layer(manifest, media_type=media_type, title=title)
            except NoFirmwareLayer:
                continue
            except OciError as error:  # counts only if it is this child that is meant
                layer = error
            children.append(_Child(descriptor, levels, layer))
    child = _one(children, models, where)
    if isinstance(child.layer, OciError):
        raise child.layer
    return Chosen(child.layer, _merged(child.levels, where))


def require_few(count: int, where: str) -> None:
    """Raises TooLarge, before any of those is fetched."""
    if count > _MOST:
        raise TooLarge(f"{where} has more than {_MOST} manifests, the limit. Name one by digest.")


def require_few_annotations(count: int, where: str) -> None:
    """Raises TooLarge: those of all that leads to a manifest are kept for each."""
    if count > _MOST_ANNOTATIONS:
        raise TooLarge(
            f"{where} and a manifest in it have more than {_MOST_ANNOTATIONS} annotations."
        )


def require_shallow(depth: int, where: str) -> None:
    """Raises UnsupportedManifest for an index below an index below an index, or a ring of them."""
    if depth >= _DEPTH:
        raise UnsupportedManifest(f"{where} holds indexes within indexes: name one by digest.")


def _inside(index: Manifest, where: str) -> list[Descriptor]:
    found = list(filter(_may_hold_firmware, index.manifests))
    for descriptor in found:
        require_few_annotations(len(descriptor.annotations), where)
    return found


def _may_hold_firmware(child: Descriptor) -> bool:
    return (
        child.media_type in MANIFEST_TYPES
        and _ATTESTATION_ANNOTATION not in child.annotations
        and child.platform != _UNKNOWN_PLATFORM
    )


def _one(children: list[_Child], models: Collection[str], where: str) -> _Child:
    if not children:
        raise NoFirmwareLayer(
            f"{where} has no manifest with a layer that could be the firmware. Correct "
            "spec.artifact.layerSelector, or name the digest of a manifest."
        )
    # The same manifest twice, for two platforms, is one firmware.
    distinct: list[_Child] = []
    for child in children:
        same = (child.descriptor.digest, child.levels)
        if all((known.descriptor.digest, known.levels) != same for known in distinct):
            distinct.append(child)
    fitting = [child for child in distinct if child.is_for(models)] if models else distinct
    if len(distinct) == 1:
        return distinct[0]
    if len(fitting) == 1:
        return fitting[0]
    wanted = f" for {', '.join(sorted(models)[:_SHOWN])}" if models else ""
    raise AmbiguousLayers(
        f"{where} has {len(distinct)} manifests with firmware, of which "
        f"{len(fitting)} fit{wanted}: {_listed(fitting or distinct)}. Name one by its digest, "
        f"or say in its annotation {MODELS_ANNOTATION} and in spec.compatibility.models for "
        "which models it is."
    )


def _listed(children: list[_Child]) -> str:
    shown = []
    for child in children[:_SHOWN]:
        platform = child.descriptor.platform[:64] or "no platform"
        own = {key: value for level in child.levels[1:] for key, value in level.items()}
        said = [f"{key[:64]!r}: {value[:64]!r}" for key, value in sorted(own.items())[:4]]
        shown.append(f"{child.descriptor.digest} ({', '.join([repr(platform), *said])})")
    return ", ".join([*shown, "…"] if len(children) > _SHOWN else shown)


def _merged(levels: tuple[Mapping[str, str], ...], where: str) -> dict[str, str]:
    merged: dict[str, str] = {}
    for level in levels:
        for key, value in level.items():
            if key != _OWN_ANNOTATION:
                require_one_value(key, merged.get(key, value), value, where)
            merged[key] = value
    return merged


def require_one_value(key: str, value: str, other: str, where: str) -> None:
    """Raises UnsupportedManifest where index and manifest contradict each other."""
    if value != other:
        raise UnsupportedManifest(
            f"{where} and what it points to say different things of {key[:128]!r}: "
            f"{value[:64]!r} and {other[:64]!r}. Push it with one value."
        )
