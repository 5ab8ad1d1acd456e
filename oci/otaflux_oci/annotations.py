"""What a manifest says about the devices that its firmware is for.

Annotations are part of what the digest is of, so whoever signs the digest signs them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from .errors import AnnotationInvalid
from .manifests import MIN_VERSION_ANNOTATION, MODELS_ANNOTATION
from .versions import semantic_version

MODELS, MODELS_LENGTH = 50, 1024
"""As many as spec.compatibility.models may name."""

_MODEL = re.compile(r"[!-~](?:[ -~]{0,126}[!-~])?")
_LONGEST = 128


def models(annotations: Mapping[str, str], where: str) -> tuple[str, ...]:
    """`io.otaflux.models`: models separated by commas; empty where there is no such annotation.

    Raises AnnotationInvalid; also where it names none, which might mean any or none at all.
    """
    text = annotations.get(MODELS_ANNOTATION)
    if text is None:
        return ()
    named = tuple(dict.fromkeys(model.strip(" ") for model in text.split(",")))
    fits = len(named) <= MODELS and len(text) <= MODELS_LENGTH
    if not fits or not all(_MODEL.fullmatch(model) for model in named):
        raise AnnotationInvalid(
            f"The annotation {MODELS_ANNOTATION} of {where} is no list of models: write from 1 to "
            f"{MODELS} models as devices report them, separated by commas; {MODELS_LENGTH} "
            "characters at most."
        )
    return named


def min_version(annotations: Mapping[str, str], where: str) -> str | None:
    """`io.otaflux.min-version`: a semantic version; None where there is no such annotation.

    Raises AnnotationInvalid.
    """
    text = annotations.get(MIN_VERSION_ANNOTATION)
    if text is not None and not _is_version(text):
        raise AnnotationInvalid(
            f"The annotation {MIN_VERSION_ANNOTATION} of {where} is no semantic version: write all "
            "three numbers, as 1.2.0."
        )
    return text


def _is_version(text: str) -> bool:
    # The library takes a line break at the end, and digits of other scripts.
    plain = text.isascii() and text.isprintable() and len(text) <= _LONGEST
    return plain and semantic_version(text) is not None
