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
    """Largest firmware; checked against the descriptor before anything is asked for. The same for
    an archive, packed and unpacked."""

    archive_ratio: int = 100
    """How many times its size an archive may unpack to, all its files together; never more than
    `blob_bytes`. Up to 16 MiB anything may: firmware with much padding packs well."""

    archive_members: int = 1000

    archive_header_bytes: int = 16 * KIB
    """One pax header or long name of a tar archive, which is kept while it is read."""

    archive_seconds: float = 600.0
    """Reading an archive through, to learn which file is in it."""

    tag_pages: int = 100
    """Pages of a tag list. A longer list is an error: the newest tag might be on the rest."""

    tag_page_bytes: int = 4 * MIB

    tags: int = 100_000
    """Tags of one list. A longer list is an error too."""

    referrer_pages: int = 20
    """Pages of the list of what refers to a manifest. A longer list is an error."""

    referrers: int = 10_000
    """Entries of that list. A longer list is an error too."""

    signatures: int = 64
    """Signatures of one manifest that are tried; what lies beyond is as good as not there."""

    signature_bytes: int = 256 * KIB
    """One signature, with all that it carries: a larger one is passed over."""

    token_bytes: int = 256 * KIB
    """Answer of a token server."""

    redirects: int = 5

    requests_per_host: int = 8
    """Requests of one client to one host at the same time; more of them wait."""

    connect_seconds: float = 10.0

    read_seconds: float = 30.0
    """Silence on a connection after which it is given up; and how long the body of an answer that
    is an error may take."""

    request_seconds: float = 60.0
    """One manifest, or one page of tags, with its redirects, tokens and waiting; of a blob, each
    request until its content begins."""

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
