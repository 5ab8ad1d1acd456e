"""Which layer of a manifest is the firmware. Ambiguity is an error, never "first wins"."""

from __future__ import annotations

import re

from .errors import AmbiguousLayers, NoFirmwareLayer, UnsupportedManifest
from .manifests import EMPTY_MEDIA_TYPE, Descriptor, Manifest

# `application/vnd.espressif.esp32.firmware.v1+binary` and its like.
_FIRMWARE_TYPE = re.compile(r"[a-z]+/(?:[a-z0-9.+_-]*[.+_-])?firmware(?:[.+_-][a-z0-9.+_-]*)?")
_ARCHIVE_TYPE = re.compile(r"application/vnd\.(?:oci|docker)\.image\..*(?:tar|diff).*")
_UNPACK_ANNOTATION = "io.deis.oras.content.unpack"


def firmware_layer(manifest: Manifest, *, media_type: str = "", title: str = "") -> Descriptor:
    """The one firmware layer of an `oras push`.

    1. `media_type` and `title`, where given, must match exactly. One left: that one.
    2. Several left and no `media_type` given: those whose media type speaks of firmware.
       One left: that one.
    3. Anything else is an error which lists the layers.

    Raises AmbiguousLayers, NoFirmwareLayer; UnsupportedManifest for image indexes and for
    container images, whose layers are archives.
    """
    where = f"The manifest {manifest.digest}"
    if manifest.is_index:
        raise UnsupportedManifest(
            f"{where} is an image index with {len(manifest.manifests)} entries; these are not "
            "read yet. Push the firmware itself, or name the digest of its manifest."
        )
    layers = [layer for layer in manifest.layers if layer.media_type != EMPTY_MEDIA_TYPE]
    found = [
        layer
        for layer in layers
        if media_type in ("", layer.media_type) and title in ("", layer.title)
    ]
    if not found:
        wanted = " and ".join(
            f"{name} {value!r}" for name, value in (("type", media_type), ("title", title)) if value
        )
        raise NoFirmwareLayer(
            f"{where} has no layer with {wanted}: {_listed(layers)}. Correct "
            "spec.artifact.layerSelector."
            if wanted and layers
            else f"{where} has no layer. Push the firmware with `oras push`."
        )
    if len(found) > 1 and not media_type:
        found = [layer for layer in found if _FIRMWARE_TYPE.fullmatch(layer.media_type)] or found
    if len(found) > 1:
        raise AmbiguousLayers(
            f"{where} has {len(found)} layers that could be the firmware: {_listed(found)}. "
            "Choose one with spec.artifact.layerSelector (mediaType, title)."
        )
    return _raw(found[0], where)


def _raw(layer: Descriptor, where: str) -> Descriptor:
    # `oras push` without a type calls every file a layer.v1.tar; what tells a file from an
    # archive is the title, and the mark of a pushed folder.
    archive = _ARCHIVE_TYPE.fullmatch(layer.media_type) and not layer.title
    if archive or layer.annotations.get(_UNPACK_ANNOTATION) == "true":
        raise UnsupportedManifest(
            f"{where} holds an archive ({layer.media_type}), not the firmware itself; these are "
            "not read yet. Push the file with `oras push`."
        )
    return layer


def _listed(layers: list[Descriptor]) -> str:
    shown = [f"{layer.media_type} {layer.title!r}" for layer in layers[:8]]
    return ", ".join([*shown, "…"] if len(layers) > 8 else shown)
