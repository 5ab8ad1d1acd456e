"""Which Authorization header a request gets.

Source: distribution's "Token Authentication Specification" and "OAuth2 Token
Authentication", RFC 7617, RFC 6750. Everything starts with an unauthenticated request; the
challenge on that URL says the rest.

Where credentials may go: Basic to the registry itself; to a token server only on the host
of the registry, on the one that belongs to a known registry, or on one that is named in
`trusted_realm_hosts`. The realm of an https registry has to be https. Token servers do not
redirect. Configured credentials are always used: a refusal is never answered by trying
without them.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlencode

import httpx

from .challenges import Challenge
from .credentials import Basic, Credentials, IdentityToken
from .errors import Forbidden, RealmRefused, RegistryError, Unauthorized
from .exchanges import Exchanges, parse_url
from .limits import Limits
from .manifests import parse_json
from .references import Repository

# Registries of the public world whose token server has another host.
_KNOWN_REALM_HOSTS = {
    "registry-1.docker.io": frozenset({"auth.docker.io"}),
    "registry.gitlab.com": frozenset({"gitlab.com"}),
}
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")  # RFC 6750, b64token
_DEFAULT_EXPIRY = 60.0
_MAX_EXPIRY = 3600.0
_MAX_ENTRIES = 1024

Credential = Basic | IdentityToken | None
_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(frozen=True)
class _Bearer:
    realm: str
    service: str
    scope: str


@dataclass(frozen=True)
class _TokenKey:
    registry: str
    credential: Credential
    bearer: _Bearer


@dataclass(frozen=True)
class _Token:
    header: str = field(repr=False)
    expires: float


class Authorizations:
    """Remembers challenges and tokens for one client. `clock`: monotonic seconds."""

    def __init__(
        self,
        exchanges: Exchanges,
        *,
        credentials: Credentials | None,
        trusted_realm_hosts: Iterable[str],
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._exchanges = exchanges
        self._credentials = credentials
        self._trusted = frozenset(host.lower() for host in trusted_realm_hosts)
        self._limits = limits
        self._clock = clock
        # What a repository asked for, per kind of request: some registries want another
        # scope for tags than for manifests.
        self._asked: OrderedDict[tuple[Repository, str], _Bearer | None] = OrderedDict()
        self._tokens: OrderedDict[_TokenKey, _Token] = OrderedDict()

    async def first(self, repository: Repository, kind: str, registry_url: httpx.URL) -> str | None:
        """The header for a first try: what this repository wanted the last time, or none."""
        key = (repository, kind)
        if key not in self._asked:
            return None
        self._asked.move_to_end(key)
        bearer = self._asked[key]
        if bearer is None:
            credential = self._credential(repository)
            return credential.header if isinstance(credential, Basic) else None
        return await self._token(repository, bearer, registry_url, refused=None)

    async def answer(
        self,
        repository: Repository,
        kind: str,
        registry_url: httpx.URL,
        challenges: list[Challenge],
        *,
        refused: str | None,
    ) -> str:
        """The header that answers a 401 to a request with the header `refused`.

        Raises RegistryError, most often Unauthorized or RealmRefused.
        """
        by_scheme = {challenge.scheme: challenge for challenge in reversed(challenges)}
        if "bearer" in by_scheme:
            parameters = by_scheme["bearer"].parameters
            bearer = _Bearer(
                realm=parameters.get("realm", ""),
                service=parameters.get("service", ""),
                scope=parameters.get("scope") or f"repository:{repository.name}:pull",
            )
            header = await self._token(repository, bearer, registry_url, refused=refused)
            _remember(self._asked, (repository, kind), bearer)
            return header
        if "basic" in by_scheme:
            credential = self._credential(repository)
            if not isinstance(credential, Basic):
                raise Unauthorized(f"{repository} {self._wanting(repository)}")
            _remember(self._asked, (repository, kind), None)
            return credential.header
        raise Unauthorized(
            f"{repository.registry} asks for a login that is neither Basic nor Bearer."
        )

    def refusal(self, repository: Repository) -> str:
        """Words for a 401 that stays."""
        if self._credential(repository) is None:
            return f"{repository} {self._wanting(repository)}"
        return (
            f"{repository.registry} refuses the credentials for {repository} (401). "
            "Correct the Secret in spec.artifact.secretRef."
        )

    def _credential(self, repository: Repository) -> Credential:
        return self._credentials.for_repository(repository) if self._credentials else None

    def _wanting(self, repository: Repository) -> str:
        if self._credentials is None:
            return (
                "cannot be read without credentials (401), or does not exist. Name a Secret of "
                "type kubernetes.io/dockerconfigjson in spec.artifact.secretRef."
            )
        if self._credential(repository) is not None:
            return "wants user name and password, but the pull secret has an identity token (401)."
        return (
            "cannot be read without credentials (401), and the pull secret has none for "
            f"{repository.registry}; it has some for: {', '.join(self._credentials.registries)}."
        )

    async def _token(
        self,
        repository: Repository,
        bearer: _Bearer,
        registry_url: httpx.URL,
        *,
        refused: str | None,
    ) -> str:
        credential = self._credential(repository)
        key = _TokenKey(repository.registry, credential, bearer)
        known = self._tokens.get(key)
        if known is not None and known.header != refused and known.expires > self._clock():
            self._tokens.move_to_end(key)
            return known.header
        self._tokens.pop(key, None)
        asked_at = self._clock()
        document = await self._ask(repository, credential, bearer, registry_url)
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise RegistryError(f"The token server for {repository} gave no usable token.")
        expiry = document.get("expires_in", _DEFAULT_EXPIRY)
        if isinstance(expiry, bool) or not isinstance(expiry, int | float) or not expiry > 0:
            expiry = _DEFAULT_EXPIRY
        # Counted from before the request and shortened, so that it does not end on the way.
        lifetime = min(expiry, _MAX_EXPIRY) * 0.9
        header = f"Bearer {token}"
        _remember(self._tokens, key, _Token(header, asked_at + lifetime))
        return header

    async def _ask(
        self,
        repository: Repository,
        credential: Credential,
        bearer: _Bearer,
        registry_url: httpx.URL,
    ) -> dict[str, Any]:
        realm = self._realm(bearer, registry_url, with_credentials=credential is not None)
        where = f"The token server {realm.netloc.decode('ascii')} for {repository}"
        pairs = [("service", bearer.service)] if bearer.service else []
        if isinstance(credential, IdentityToken):
            form = [
                ("grant_type", "refresh_token"),
                *pairs,
                ("client_id", "otaflux"),
                ("scope", bearer.scope),
                ("refresh_token", credential.token),
            ]
            request = self._exchanges.patient(
                "POST",
                realm,
                headers={
                    "Accept": "application/json",
                    "Content-Type": "application/x-www-form-urlencoded",
                },
                content=urlencode(form).encode("ascii"),
                foreign=realm.host != registry_url.host,
            )
        else:
            pairs += [("scope", scope) for scope in bearer.scope.split()]
            query = "&".join(filter(None, [realm.query.decode("ascii"), urlencode(pairs)]))
            request = self._exchanges.patient(
                "GET",
                realm.copy_with(query=query.encode("ascii")),
                headers={"Accept": "application/json"},
                authorization=credential.header if credential is not None else None,
                foreign=realm.host != registry_url.host,
            )
        async with request as response:
            status = response.status_code
            if status != 200:
                await self._exchanges.read_error(response)
                raise _token_error(status, where, credential)
            body = await self._exchanges.read(
                response, self._limits.token_bytes, what=f"{where}: its answer"
            )
        try:
            document = parse_json(body)
        except ValueError:
            document = None  # not raised from here: a JSON error carries the body, and so a token
        if not isinstance(document, dict):
            raise RegistryError(f"{where} did not answer with a JSON object.")
        return document

    def _realm(
        self, bearer: _Bearer, registry_url: httpx.URL, *, with_credentials: bool
    ) -> httpx.URL:
        realm = parse_url(bearer.realm)
        host = realm.netloc.decode("ascii").lower()
        if registry_url.scheme == "https" and realm.scheme != "https":
            raise RealmRefused(
                f"{registry_url.host} names a token server by plain http ({host}), which is not "
                "asked. Correct the realm in the registry's configuration."
            )
        known = _KNOWN_REALM_HOSTS.get(registry_url.host, frozenset())
        trusted = (
            realm.host == registry_url.host
            or realm.host in known
            or not self._trusted.isdisjoint({host, realm.host})
        )
        if with_credentials and not trusted:
            raise RealmRefused(
                f"{registry_url.host} wants the credentials to be sent to {host}. If that is its "
                "token server, add it to the trusted realm hosts of the settings."
            )
        return realm


def _token_error(status: int, where: str, credential: Credential) -> RegistryError:
    if status == 401:
        return Unauthorized(
            f"{where} refuses the credentials (401). Correct the Secret in spec.artifact.secretRef."
            if credential is not None
            else f"{where} gives no token without credentials (401). Name a Secret in "
            "spec.artifact.secretRef."
        )
    if status == 403:
        return Forbidden(f"{where} forbids it (403). May this user pull there?")
    if 300 <= status < 400:
        return RealmRefused(f"{where} redirects ({status}), which a token server must not.")
    if status == 400 and isinstance(credential, IdentityToken):
        return Unauthorized(f"{where} refuses the identity token (400). Log in again.")
    return RegistryError(f"{where} answers {status}.", retryable=status >= 500)


def _remember(entries: OrderedDict[_K, _V], key: _K, value: _V) -> None:
    entries[key] = value
    entries.move_to_end(key)
    if len(entries) > _MAX_ENTRIES:
        entries.popitem(last=False)
