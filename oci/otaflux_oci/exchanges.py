"""Requests as registries need them: bounded per host, patient, redirected by our rules.

Knows nothing of repositories or credentials; the caller says what goes into a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from .errors import OciError, RateLimited, RegistryError, RegistryUnreachable, TooLarge
from .limits import KIB, Limits
from .transports import FOREIGN, RegistryTransport

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_ERROR_BYTES = 64 * KIB
_USER_AGENT = "otaflux"
_HOST = re.compile(r"[\w.:-]+")
_DEFAULT_PORTS = {"http": 80, "https": 443}

Origin = tuple[str, str, int]


def origin(url: httpx.URL) -> Origin:
    """Scheme, host and port (RFC 6454)."""
    return url.scheme, url.host, url.port or _DEFAULT_PORTS.get(url.scheme, 0)


def parse_url(text: str | httpx.URL, *, base: httpx.URL | None = None) -> httpx.URL:
    """An absolute http(s) URL without user info or fragment. Raises RegistryError.

    The text comes from the other side and is not repeated: it may be a signed URL.
    """
    with contextlib.suppress(httpx.InvalidURL, ValueError):
        url = base.join(text) if base is not None else httpx.URL(text)
        if (
            url.scheme in _DEFAULT_PORTS
            and _HOST.fullmatch(url.host)  # as text: this decodes, and refuses, xn-- labels
            and _HOST.fullmatch(url.raw_host.decode("ascii"))
            and 0 < (url.port or _DEFAULT_PORTS[url.scheme]) < 65536
            and not url.userinfo
        ):
            return url.copy_with(fragment=None)
    raise RegistryError("The registry gave a URL that cannot be used.")


class Exchanges:
    """Sends requests over one transport. Bodies are raw: no content coding is asked for."""

    def __init__(self, transport: RegistryTransport, limits: Limits) -> None:
        self._transport = transport
        self._limits = limits
        self._slots: OrderedDict[str, asyncio.Semaphore] = OrderedDict()

    @contextlib.asynccontextmanager
    async def following(
        self,
        method: str,
        url: httpx.URL,
        *,
        headers: Mapping[str, str],
        authorization: str | None,
    ) -> AsyncIterator[httpx.Response]:
        """The answer after redirects; its `.url` says where it came from.

        `authorization` is sent to the origin of `url` alone, and not any more once a redirect led
        elsewhere: what follows was chosen there. From https never to http.
        """
        target = url
        home = True
        for _ in range(self._limits.redirects + 1):
            home = home and origin(target) == origin(url)
            async with self.patient(
                method,
                target,
                headers=headers,
                authorization=authorization if home else None,
                foreign=target.host != url.host,
            ) as response:
                if response.status_code not in _REDIRECTS:
                    yield response
                    return
                location = response.headers.get("location")
                await self.read_error(response)
            if location is None:
                raise RegistryError(f"{target.host} redirects to nowhere.")
            previous, target = target, parse_url(location, base=target)
            if previous.scheme == "https" and target.scheme != "https":
                raise RegistryError(
                    f"{previous.host} redirects from https to plain http on {target.host}, which "
                    "is not followed. Correct the registry's storage or external address."
                )
        raise RegistryError(f"{url.host} redirects more than {self._limits.redirects} times.")

    @contextlib.asynccontextmanager
    async def patient(
        self,
        method: str,
        url: httpx.URL,
        *,
        headers: Mapping[str, str],
        authorization: str | None = None,
        content: bytes | None = None,
        foreign: bool = False,
    ) -> AsyncIterator[httpx.Response]:
        """One answer, redirects included as they are; 429 and 503 repeated within the budget.

        Raises RateLimited, RegistryUnreachable.
        """
        limits = self._limits
        budget = limits.retry_budget_seconds
        for attempt in range(limits.retries + 1):
            async with self._send(method, url, headers, authorization, content, foreign) as answer:
                if answer.status_code not in (429, 503):
                    yield answer
                    return
                status = answer.status_code
                asked = retry_after(answer.headers.get("retry-after"), limits)
                await self.read_error(answer)
            pause = backoff(attempt, limits) if asked is None else asked
            if attempt == limits.retries or pause > budget:
                break
            budget -= pause
            await asyncio.sleep(pause)
        if status == 503 and asked is None:
            raise RegistryUnreachable(f"{url.host} is not available for the moment (503).")
        wait = "later" if asked is None else f"in {asked:.0f} s"
        raise RateLimited(
            f"{url.host} limits the rate of requests ({status}): it is asked again {wait}. "
            "Pull with credentials or raise spec.artifact.interval if this lasts.",
            retry_after=asked,
        )

    @contextlib.asynccontextmanager
    async def _send(
        self,
        method: str,
        url: httpx.URL,
        headers: Mapping[str, str],
        authorization: str | None,
        content: bytes | None,
        foreign: bool,
    ) -> AsyncIterator[httpx.Response]:
        sent = {"User-Agent": _USER_AGENT, "Accept-Encoding": "identity", **headers}
        if authorization is not None:
            sent["Authorization"] = authorization
        limits = self._limits
        request = httpx.Request(
            method,
            url,
            headers=sent,
            content=content,
            extensions={
                "timeout": {
                    "connect": limits.connect_seconds,
                    "read": limits.read_seconds,
                    "write": limits.read_seconds,
                },
                FOREIGN: foreign,
            },
        )
        async with self._slot(url):
            try:
                # Of the whole: whoever sends a byte now and then is never silent.
                async with asyncio.timeout(limits.request_seconds):
                    response = await self._transport.handle_async_request(request)
            except TimeoutError:
                raise RegistryUnreachable(
                    f"{url.host} did not answer within {limits.request_seconds:.0f} s."
                ) from None
            try:
                yield response
            finally:
                await response.aclose()

    def _slot(self, url: httpx.URL) -> asyncio.Semaphore:
        slot = self._slots.setdefault(url.host, asyncio.Semaphore(self._limits.requests_per_host))
        self._slots.move_to_end(url.host)
        if len(self._slots) > 1024:  # redirects choose the hosts, so this is bounded too
            self._slots.popitem(last=False)
        return slot

    async def read(self, response: httpx.Response, limit: int, *, what: str) -> bytes:
        """The whole raw body. Raises TooLarge as soon as it passes `limit` bytes."""
        body = bytearray()
        async for part in response.aiter_raw():
            body += part
            if len(body) > limit:
                raise TooLarge(f"{what} is larger than {limit} bytes, the limit for it.")
        return bytes(body)

    async def read_error(self, response: httpx.Response) -> bytes:
        """The body of an answer whose status has said it all, or nothing.

        distribution 2.8.2 ends some of them with a wrong Content-Length.
        """
        try:
            async with asyncio.timeout(self._limits.read_seconds):
                return await self.read(response, _ERROR_BYTES, what="The answer")
        except (OciError, TimeoutError):
            return b""


def retry_after(header: str | None, limits: Limits) -> float | None:
    """Seconds from now (RFC 9110, section 10.2.3), capped; None for none or nonsense."""
    text = (header or "").strip()
    cap = limits.retry_after_cap_seconds
    if re.fullmatch(r"[0-9]+", text):
        # Anything with more digits is beyond the cap, and int() would refuse thousands of them.
        return cap if len(text) > 9 else min(float(text), cap)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max((moment - datetime.now(UTC)).total_seconds(), 0.0), cap)


def backoff(attempt: int, limits: Limits) -> float:
    """Pause before repetition number `attempt` (from 0), with jitter so that clients part."""
    return float(limits.backoff_seconds * 2**attempt * random.uniform(0.5, 1.0))


def deadline(seconds: float) -> float:
    """A moment of the monotonic clock."""
    return time.monotonic() + seconds
