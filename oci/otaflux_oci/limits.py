"""Bounds of everything a registry can make us spend. Bytes and seconds."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True)
class Limits:
    manifest_bytes: int = 4 * MIB
    """What registries accept at least (distribution-spec, "Pushing Manifests")."""

    blob_bytes: int = 512 * MIB
    """Largest firmware; checked against the descriptor before anything is asked for."""

    tag_pages: int = 100
    """Pages of a tag list. A longer list is an error: the newest tag might be on the rest."""

    tag_page_bytes: int = 4 * MIB

    token_bytes: int = 256 * KIB
    """Answer of a token server."""

    redirects: int = 5

    requests_per_host: int = 8
    """Requests of one client to one host at the same time; more of them wait."""

    connect_seconds: float = 10.0

    read_seconds: float = 30.0
    """Silence on a connection after which it is given up."""

    request_seconds: float = 60.0
    """One manifest, or one page of tags, with its redirects, tokens and waiting."""

    blob_seconds: float = 3600.0
    """One blob with all its resumptions."""

    blob_attempts: int = 5
    """Requests for one blob: the first, and resumptions of broken transfers."""

    retries: int = 2
    """How often a request answered with 429 or 503 is repeated here, before the caller hears."""

    retry_budget_seconds: float = 10.0
    """Sum of the waiting for those repetitions; a longer Retry-After goes to the caller."""

    retry_after_cap_seconds: float = 300.0

    backoff_seconds: float = 0.5
    """First pause where the registry names none; doubled each time, with jitter."""
