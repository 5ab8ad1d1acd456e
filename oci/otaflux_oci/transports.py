"""The one place that opens connections to registries: an httpx transport on httpcore.

It is used directly and not through `httpx.AsyncClient`, which would keep cookies (a Harbor
session cookie turns the next request into that of a browser), log whole URLs (a signed
URL is a secret) and read proxies from the environment.

`network_backend` decides which addresses are connected to (`connections`). What it raises as
OciError passes through unchanged.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import certifi
import httpcore
import httpx

from .credentials import Tls
from .errors import InvalidCredentials, RegistryError, RegistryUnreachable, TlsFailed

FOREIGN = "otaflux_foreign"
"""Request extension: this is not the registry itself; no client certificate is shown."""


class RegistryTransport(httpx.AsyncBaseTransport):
    """Maps every failure of the network to RegistryUnreachable or TlsFailed."""

    def __init__(self, *, tls: Tls | None, network_backend: httpcore.AsyncNetworkBackend) -> None:
        logging.getLogger("httpcore.http11").addFilter(_without_response_headers)

        def pool(context: ssl.SSLContext) -> httpcore.AsyncConnectionPool:
            return httpcore.AsyncConnectionPool(
                ssl_context=context,
                max_connections=None,  # bounded per host by the caller
                max_keepalive_connections=16,
                keepalive_expiry=15.0,
                network_backend=network_backend,
            )

        self._pool = pool(ssl_context(tls))
        self._foreign_pool = (
            pool(ssl_context(Tls(ca=tls.ca))) if tls is not None and tls.cert else self._pool
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        pool = self._foreign_pool if request.extensions.get(FOREIGN) else self._pool
        host = request.url.netloc.decode("ascii")
        with _as_ours(host):
            response = await pool.handle_async_request(
                httpcore.Request(
                    method=request.method,
                    url=httpcore.URL(
                        scheme=request.url.raw_scheme,
                        host=request.url.raw_host,
                        port=request.url.port,
                        target=request.url.raw_path,
                    ),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        return httpx.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_Body(response, host),
            request=request,
        )

    async def aclose(self) -> None:
        await self._pool.aclose()
        await self._foreign_pool.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: httpcore.Response, host: str) -> None:
        self._response = response
        self._host = host

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_ours(self._host):
            async for part in self._response.aiter_stream():
                yield part

    async def aclose(self) -> None:
        await self._response.aclose()


@contextlib.contextmanager
def _as_ours(host: str) -> Iterator[None]:
    try:
        yield
    except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
        # OSError: httpcore lets TLS errors of reads and writes through as they are.
        raise _tls_failure(error, host) or RegistryUnreachable(
            f"No connection to {host}, or it broke off ({type(error).__name__}). "
            "Is the name right, and can this host be reached from here?"
        ) from error
    except httpcore.TimeoutException as error:
        raise RegistryUnreachable(
            f"{host} did not answer in time ({type(error).__name__})."
        ) from error
    except httpcore.UnsupportedProtocol as error:
        raise RegistryError(f"{host} was to be asked by neither http nor https.") from error


def _tls_failure(error: BaseException, host: str) -> TlsFailed | None:
    connecting = isinstance(error, httpcore.ConnectError)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return TlsFailed(
                f"The certificate of {host} is not trusted: {cause.verify_message}. For a private "
                "CA put its certificate as `ca.crt` into the Secret of spec.artifact.certSecretRef."
            )
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
            reason = str(cause.reason or "")
            if "ALERT" in reason:
                return TlsFailed(
                    f"{host} ended the TLS handshake: {reason}. Does it want a client "
                    "certificate (tls.crt and tls.key in spec.artifact.certSecretRef)?"
                )
            if connecting:
                return TlsFailed(
                    f"No TLS with {host}: {reason or 'handshake failed'}. If it speaks plain "
                    "http, set spec.artifact.insecure."
                )
        cause = cause.__cause__ or cause.__context__
    return None


def ssl_context(tls: Tls | None) -> ssl.SSLContext:
    """Public authorities, of the system and of certifi, plus what `tls` adds.

    The last few are kept: making one takes longer than a request. Nobody may change them.
    Raises InvalidCredentials for PEM that cannot be read.
    """
    return _context(tls or Tls())


@functools.lru_cache(maxsize=32)
def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    if tls.ca is not None:
        try:
            context.load_verify_locations(cadata=tls.ca.decode("ascii"))
        except (ssl.SSLError, ValueError):
            raise InvalidCredentials("`ca.crt` is not a certificate in PEM form.") from None
    if tls.cert is not None and tls.key is not None:
        _load_client_certificate(context, tls.cert, tls.key)
    return context


def _load_client_certificate(context: ssl.SSLContext, cert: bytes, key: bytes) -> None:
    # The ssl module reads these from files only; the folder is 0700 and gone at once.
    with tempfile.TemporaryDirectory(prefix="otaflux-tls-") as folder:
        cert_file, key_file = Path(folder, "tls.crt"), Path(folder, "tls.key")
        cert_file.write_bytes(cert)
        key_file.write_bytes(key)
        try:
            context.load_cert_chain(cert_file, key_file, password="")
        except (ssl.SSLError, ValueError):
            raise InvalidCredentials(
                "`tls.crt` and `tls.key` are not a certificate and its unencrypted key in PEM form."
            ) from None


def _without_response_headers(record: logging.LogRecord) -> bool:
    """httpcore writes them at DEBUG, and with them the signed URLs of redirects."""
    return "receive_response_headers.complete" not in str(record.msg)
