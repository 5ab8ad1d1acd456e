"""The registry client (OCI distribution-spec v1.1, "Pull" and "Content Discovery")."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from types import TracebackType

import httpx

from .authorizations import Authorizations
from .blobs import BlobStream, Verification, require_size
from .challenges import parse_challenges
from .connections import AllowedConnections
from .credentials import Credentials, Tls
from .errors import (
    DigestMismatch,
    Forbidden,
    InvalidReference,
    ManifestNotFound,
    NotFound,
    RateLimited,
    RegistryError,
    RegistryUnreachable,
    TooLarge,
    Unauthorized,
)
from .exchanges import Exchanges, backoff, deadline, origin
from .limits import Limits
from .links import next_page, tag_page
from .manifests import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    parse_json,
    parse_manifest,
    require_manifest_type,
)
from .networks import RegistrySettings
from .ranges import first_byte
from .references import DOCKER_HUB, Repository, is_digest, is_tag, require_digest, require_tag
from .referrers import by_api, by_tag, referrers_tag
from .transports import RegistryTransport

# All four, always: without them distribution 2.8.2 answers 404, or schema 1 under another digest.
_ACCEPT = {"Accept": ", ".join((OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST))}
_RETRIED_ERRORS = frozenset({"invalid_token", "insufficient_scope"})
_TAGS_PER_PAGE = 1000
_ERROR_CODE = re.compile(r"[A-Z][A-Z_]{0,63}")


class RegistryClient:
    """A `Source` on registries. One client may serve any number of repositories.

    `credentials`: for whichever registries they fit; `tls`: a private CA and a client
    certificate; `insecure`: plain http instead of https, for all requests of this client;
    `settings`: which addresses may be connected to, by whatever name or redirect, and which
    token servers on other hosts than their registry may get the credentials. Close it, or use
    it as an async context manager.
    """

    def __init__(
        self,
        *,
        settings: RegistrySettings | None = None,
        credentials: Credentials | None = None,
        tls: Tls | None = None,
        insecure: bool = False,
        limits: Limits | None = None,
    ) -> None:
        settings = settings or RegistrySettings()
        self._limits = limits or Limits()
        self._scheme = "http" if insecure else "https"
        self._transport = RegistryTransport(
            tls=tls, network_backend=AllowedConnections(settings.allowed_networks)
        )
        self._exchanges = Exchanges(self._transport, self._limits)
        self._authorizations = Authorizations(
            self._exchanges,
            credentials=credentials,
            trusted_realm_hosts=settings.trusted_realm_hosts,
            limits=self._limits,
        )

    async def __aenter__(self) -> RegistryClient:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def manifest(self, repository: Repository, reference: str) -> Manifest:
        where, url = self._manifest_url(repository, reference)
        async with (
            self._bounded(where),
            self._answer("GET", repository, url, where=where, headers=_ACCEPT) as response,
        ):
            require_manifest_type(response.headers.get("content-type"), where=where)
            expected = self._expected_digest(response, reference, where)
            body = await self._exchanges.read(response, self._limits.manifest_bytes, what=where)
            return parse_manifest(
                body,
                content_type=response.headers.get("content-type"),
                expected_digest=expected,
                where=where,
            )

    async def digest(self, repository: Repository, tag: str) -> str:
        """By HEAD, which registries do not count as a pull; by GET where that says nothing."""
        where, url = self._manifest_url(repository, require_tag(tag))
        async with self._bounded(where):
            try:
                async with self._answer(
                    "HEAD", repository, url, where=where, headers=_ACCEPT
                ) as response:
                    announced = response.headers.get("docker-content-digest", "")
                    content_type = response.headers.get("content-type")
                    if is_digest(announced):
                        require_manifest_type(content_type, where=where)
                        return str(announced)
            except _MethodNotAllowed:
                pass
        return (await self.manifest(repository, tag)).digest

    async def tags(self, repository: Repository) -> list[str]:
        """Raises TooLarge when the list does not end within the limits."""
        where = f"The tag list of {repository}"
        url: httpx.URL | None = self._url(repository, f"tags/list?n={_TAGS_PER_PAGE}")
        found: dict[str, None] = {}
        for _ in range(self._limits.tag_pages):
            assert url is not None
            async with (
                self._bounded(where),
                self._answer("GET", repository, url, where=where, kind="tags") as response,
            ):
                body = await self._exchanges.read(response, self._limits.tag_page_bytes, what=where)
                following = next_page(response, url, where)
            known = len(found)
            found.update(dict.fromkeys(tag_page(body, where)))
            if len(found) > self._limits.tags:
                break
            # distribution 2.8.2 ignores n and last: no news means that this was the last page.
            if following is None or len(found) == known:
                return list(found)
            url = following
        raise TooLarge(
            f"{where} has more than {self._limits.tag_pages} pages or {self._limits.tags} tags. "
            "Delete old tags, or name one tag instead of a range."
        )

    async def referrers(self, repository: Repository, digest: str) -> list[Descriptor]:
        """By the referrers API, else by the tag `sha256-<hex>` (distribution-spec v1.1).

        The tag is taken where the API is not there (404, 405), answers 429, or redirects. Raises
        TooLarge where the list does not end within the limits.
        """
        url = self._url(repository, f"referrers/{require_digest(digest)}")
        where = f"The list of what refers to {repository}@{digest}"
        try:
            return await self._referrers(repository, url, where)
        except (NotFound, _MethodNotAllowed, _Redirected, RateLimited) as error:
            refused = error
        try:
            return by_tag(await self.manifest(repository, referrers_tag(digest)))
        except ManifestNotFound:
            if isinstance(refused, RateLimited):
                raise refused from None  # there may be some that it did not tell
            return []

    async def _referrers(
        self, repository: Repository, url: httpx.URL, where: str
    ) -> list[Descriptor]:
        found: dict[str, Descriptor] = {}
        for _ in range(self._limits.referrer_pages):
            async with (
                self._bounded(where),
                self._answer("GET", repository, url, where=where, follow=False) as response,
            ):
                body = await self._exchanges.read(response, self._limits.manifest_bytes, what=where)
                content_type = response.headers.get("content-type")
                following = next_page(response, url, where)
            page = by_api(body, content_type, where)
            found.update((known.digest, known) for known in page)
            if len(found) > self._limits.referrers:
                break
            if following is None:
                return list(found.values())
            url = following
        raise TooLarge(
            f"{where} has more than {self._limits.referrer_pages} pages or "
            f"{self._limits.referrers} entries. Delete what is not needed."
        )

    def blob(
        self, repository: Repository, descriptor: Descriptor, *, offset: int = 0
    ) -> BlobStream:
        require_digest(descriptor.digest)
        where = f"{repository}@{descriptor.digest}"
        require_size(descriptor, self._limits.blob_bytes, where=where)
        check = Verification(descriptor, offset=offset, where=where)
        return BlobStream(self._parts(repository, descriptor, check, where))

    async def _parts(
        self, repository: Repository, descriptor: Descriptor, check: Verification, where: str
    ) -> AsyncGenerator[bytes, None]:
        limits = self._limits
        url = self._url(repository, f"blobs/{descriptor.digest}")
        end = deadline(limits.blob_seconds)
        by_range = True
        attempt = 0
        if check.complete and check.received:
            return  # from its end on: no registry can satisfy that range
        while True:
            try:
                start = check.received if by_range else 0
                headers = {"Range": f"bytes={start}-"} if start else {}
                async with self._answer(
                    "GET", repository, url, where=where, headers=headers
                ) as response:
                    surplus = check.received - first_byte(response, start, descriptor, where)
                    async for part in response.aiter_raw():
                        if time.monotonic() > end:
                            raise RegistryError(
                                f"{where} took longer than {limits.blob_seconds:.0f} s.",
                                retryable=True,
                            )
                        fresh = part[surplus:] if surplus else part
                        surplus = max(surplus - len(part), 0)
                        if fresh:
                            check.update(fresh)
                            yield fresh
                if not check.complete:
                    raise RegistryUnreachable(
                        f"{where} ended after {check.received} of {descriptor.size} bytes."
                    )
            except _RangeNotSatisfiable:
                by_range = False
                failure: RegistryError = RegistryError(
                    f"{where} is shorter at the registry than its descriptor says.", retryable=True
                )
            except RateLimited:
                raise
            except RegistryError as error:
                failure = error
            else:
                break
            if check.complete and check.received:
                break  # it broke after the last byte
            attempt += 1
            if not failure.retryable or attempt >= limits.blob_attempts or time.monotonic() > end:
                raise failure
            await asyncio.sleep(backoff(attempt - 1, limits))
        check.finish()

    def _url(self, repository: Repository, path: str) -> httpx.URL:
        host = "registry-1.docker.io" if repository.registry == DOCKER_HUB else repository.registry
        try:
            return httpx.URL(f"{self._scheme}://{host}/v2/{repository.name}/{path}")
        except httpx.InvalidURL:
            raise InvalidReference(f"{host} is not the name or address of a registry.") from None

    def _manifest_url(self, repository: Repository, reference: str) -> tuple[str, httpx.URL]:
        if not is_digest(reference):
            require_tag(reference)
        mark = ":" if is_tag(reference) else "@"
        return f"{repository}{mark}{reference}", self._url(repository, f"manifests/{reference}")

    @contextlib.asynccontextmanager
    async def _bounded(self, where: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._limits.request_seconds):
                yield
        except TimeoutError:
            raise RegistryUnreachable(
                f"{where} did not come within {self._limits.request_seconds:.0f} s."
            ) from None

    @contextlib.asynccontextmanager
    async def _answer(
        self,
        method: str,
        repository: Repository,
        url: httpx.URL,
        *,
        where: str,
        headers: Mapping[str, str] | None = None,
        kind: str = "pull",
        follow: bool = True,
    ) -> AsyncIterator[httpx.Response]:
        """The answer with 200 or 206, after whatever logins it takes; else the fitting error.

        `follow`: redirects are followed; else one is an error too.
        """
        ask = self._exchanges.following if follow else self._exchanges.patient
        authorization = await self._authorizations.first(repository, kind, url)
        renewed = 0
        while True:
            async with ask(
                method, url, headers=headers or {}, authorization=authorization
            ) as response:
                if response.status_code in (200, 206):
                    yield response
                    return
                body = await self._exchanges.read_error(response)
            status = response.status_code
            if status != 401 or origin(response.url) != origin(url):
                raise _failure(response, body, where, asked=url)
            challenges = parse_challenges(response.headers.get_list("www-authenticate"))
            refused = {challenge.parameters.get("error", "") for challenge in challenges}
            if renewed == 2 or (renewed == 1 and refused.isdisjoint(_RETRIED_ERRORS)):
                raise Unauthorized(self._authorizations.refusal(repository))
            renewed += 1
            answer = await self._authorizations.answer(
                repository, kind, url, challenges, refused=authorization
            )
            if answer == authorization:
                raise Unauthorized(self._authorizations.refusal(repository))
            authorization = answer

    def _expected_digest(self, response: httpx.Response, reference: str, where: str) -> str | None:
        announced = response.headers.get("docker-content-digest", "")
        asked = reference if is_digest(reference) else None
        if not is_digest(announced):
            return asked
        if asked is not None and announced != asked:
            raise DigestMismatch(f"{where} was asked for, but the registry announces {announced}.")
        return str(announced)


class _MethodNotAllowed(RegistryError):
    """405."""


class _Redirected(RegistryError):
    """3xx, where it is not followed."""


class _RangeNotSatisfiable(RegistryError):
    """416."""


def _failure(
    response: httpx.Response, body: bytes, where: str, *, asked: httpx.URL
) -> RegistryError:
    status = response.status_code
    host = response.url.netloc.decode("ascii")
    if origin(response.url) != origin(asked):
        return RegistryError(
            f"{where}: {asked.host} redirects to {host}, which answers {status}.",
            retryable=status >= 500 or status in (401, 403, 404),  # signed URLs expire
        )
    codes = _error_codes(body)
    detail = f"{status} {', '.join(codes)}" if codes else str(status)
    if status == 403:
        return Forbidden(
            f"{host} forbids reading {where} ({detail}). May this user pull there, and is the "
            "Secret in spec.artifact.secretRef still valid?"
        )
    if status == 404:
        if "/manifests/" in asked.path and "NAME_UNKNOWN" not in codes:
            return ManifestNotFound(f"{where} does not exist ({detail}). Push it, or correct it.")
        return NotFound(f"{where} does not exist at {host} ({detail}). Is the repository right?")
    if 300 <= status < 400:
        return _Redirected(f"{host} sends elsewhere for {where} ({detail}).")
    if status == 405:
        return _MethodNotAllowed(f"{host} does not allow reading {where} ({detail}).")
    if status == 416:
        return _RangeNotSatisfiable(f"{where} has no such range ({detail}).")
    return RegistryError(f"{host} answers {detail} for {where}.", retryable=status >= 500)


def _error_codes(body: bytes) -> list[str]:
    """Codes of the spec's error document. Its messages are not repeated: they are free text."""
    try:
        errors = parse_json(body)["errors"]
        codes = [error["code"] for error in errors[:3]]
    except (ValueError, TypeError, KeyError):
        return []
    return [code for code in codes if isinstance(code, str) and _ERROR_CODE.fullmatch(code)]
