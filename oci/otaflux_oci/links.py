"""Lists that come in pages (RFC 8288; distribution-spec v1.1, "Listing Tags", "Referrers")."""

from __future__ import annotations

import re

import httpx

from .errors import RegistryError
from .exchanges import origin, parse_url
from .manifests import parse_json
from .references import is_tag

_LINK = re.compile(r"<([^<>]*)>([^<]*)")
_LINK_PARAMETER = re.compile(r';\s*([^\s=;,"]+)\s*=\s*(?:"([^"]*)"|([^\s;,"]*))')
_LINK_LENGTH = 16_384


def next_page(response: httpx.Response, url: httpx.URL, where: str) -> httpx.URL | None:
    """From the Link header (RFC 8288), followed as it is but never to another origin.

    Raises RegistryError.
    """
    for link, rest in _LINK.findall(", ".join(response.headers.get_list("link"))[:_LINK_LENGTH]):
        relations = [
            (quoted or bare).lower().split()
            for name, quoted, bare in _LINK_PARAMETER.findall(rest)
            if name.lower() == "rel"
        ]
        if relations and "next" in relations[0]:
            following = parse_url(link, base=url)
            if origin(following) != origin(url):
                raise RegistryError(
                    f"{where} continues on another host, {following.host}, which is not followed."
                )
            return following
    return None


def tag_page(body: bytes, where: str) -> list[str]:
    """The tags of one page. Raises RegistryError."""
    try:
        tags = parse_json(body)["tags"]
    except (ValueError, TypeError, KeyError):
        raise RegistryError(f"{where} is not what the specification says.") from None
    if tags is None:  # distribution, for a repository whose last tag was deleted
        return []
    if not isinstance(tags, list):
        raise RegistryError(f"{where} is not what the specification says.")
    return [tag for tag in tags if isinstance(tag, str) and is_tag(tag)]
