"""Which layer of a manifest is the firmware. Ambiguity is an error, never "first wins"."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .errors import AmbiguousLayers, NoFirmwareLayer, UnsupportedManifest
from .manifests import EMPTY_MEDIA_TYPE, Descriptor, Manifest

# `application/vnd.espressif.esp32.firmware.v1+binary` and its like.
_FIRMWARE_TYPE = re.compile(r"[a-z]+/(?:[a-z0-9.+_-]*[.+_-])?firmware(?:[.+_-][a-z0-9.+_-]*)?")
_ARCHIVE_TYPE = re.compile(r"application/vnd\.(?:oci|docker)\.image\..*(?:tar|diff).*")
_TAR_TYPES = frozenset(
    {
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
    }
)
_GZIP_TYPES = frozenset(
    {
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    }
)
_UNPACK_ANNOTATION = "io.deis.oras.content.unpack"


def firmware_layer(manifest: Manifest, *, media_type: str = "", title: str = "") -> Descriptor:
    """The one layer of a manifest that is the firmware, or holds it (`is_archive`).

    1. `media_type`, where given, must match exactly. So must `title`; only where no layer has
       it, it is a path in the archive of an image built `FROM scratch`. One left: that one.
    2. Several left and no `media_type` given: those whose media type speaks of firmware.
       One left: that one.
    3. Anything else is an error which lists the layers. So are several archives: what a file
       of an image is, all its layers together decide.

    Raises AmbiguousLayers, NoFirmwareLayer; UnsupportedManifest for an index, and for an
    archive that is not read.
    """
    where = f"The manifest {manifest.digest}"
    if manifest.is_index:
        raise UnsupportedManifest(f"{where} is an image index, not a manifest with layers.")
    layers = [layer for layer in manifest.layers if layer.media_type != EMPTY_MEDIA_TYPE]
    typed = [layer for layer in layers if media_type in ("", layer.media_type)]
    found = [layer for layer in typed if title in ("", layer.title)]
    found = found or [layer for layer in typed if is_archive(layer)]
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
    archives = [layer for layer in layers if is_archive(layer)]
    if len(archives) > 1 and any(layer in archives for layer in found):
        raise AmbiguousLayers(
            f"{where} is an image of {len(archives)} layers, which together say what a file is. "
            "Build it FROM scratch with one COPY, so that it has one layer."
        )
    if len(found) > 1:
        raise AmbiguousLayers(
            f"{where} has {len(found)} layers that could be the firmware: {_listed(found)}. "
            "Choose one with spec.artifact.layerSelector (mediaType, title)."
        )
    _require_read(found[0], where)
    return found[0]


def is_archive(layer: Descriptor) -> bool:
    """Whether the layer is that of an image: a tar archive with the firmware in it.

    `oras push` without a type calls every file a layer.v1.tar; what tells a file from an archive
    is the title.
    """
    return bool(_ARCHIVE_TYPE.fullmatch(layer.media_type)) and not layer.title


def is_gzip(archive: Descriptor) -> bool:
    return archive.media_type in _GZIP_TYPES


def _require_read(layer: Descriptor, where: str) -> None:
    if layer.annotations.get(_UNPACK_ANNOTATION) == "true":
        raise UnsupportedManifest(
            f"{where} holds the archive of a folder ({layer.title!r}), which is not read. Push the "
            "file itself with `oras push`."
        )
    if is_archive(layer) and layer.media_type not in _TAR_TYPES | _GZIP_TYPES:
        raise UnsupportedManifest(
            f"{where} holds an archive of the type {layer.media_type}, which is not read. Build "
            "the image with layers of gzip (`docker buildx build --output "
            "type=registry,compression=gzip,force-compression=true`), or push the file itself "
            "with `oras push`."
        )


def _listed(layers: Sequence[Descriptor]) -> str:
    shown = [f"{layer.media_type} {layer.title!r}" for layer in layers[:8]]
    return ", ".join([*shown, "…"] if len(layers) > 8 else shown)
