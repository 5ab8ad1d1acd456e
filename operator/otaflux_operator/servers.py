"""The servers' internal API."""

import asyncio
import ssl
from pathlib import Path

import httpx
from pydantic import ValidationError

from otaflux_operator.ports import Unavailable
from otaflux_policy.served import ServedRollout

TIMEOUT = 2.0
_ANSWER_SECONDS = 10.0
_ANSWER_LIMIT = 1024 * 1024
_TOKEN_LIMIT = 8192

_Stat = tuple[int, int, int] | None


class HttpUpdateServers:
    """Asks `url` (the base of the internal API); an async context manager.

    `token_file`: with the bearer token that is sent, where the file exists. `ca`: authorities of
    the servers' certificate; None: the system's. Both are read again when they change.
    """

    def __init__(self, url: str, *, token_file: Path | None = None, ca: Path | None = None) -> None:
        self._url = url.rstrip("/")
        self._token_file = token_file
        self._ca = ca
        self._client: httpx.AsyncClient | None = None
        self._trusted: _Stat = None

    async def __aenter__(self) -> "HttpUpdateServers":
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def served(self, namespace: str, name: str) -> ServedRollout:
        """What the servers say of a rollout. Raises Unavailable."""
        if not self._url:
            raise Unavailable("no server is configured: set OTAFLUX_SERVER_URL")
        url = f"{self._url}/internal/v1/rollouts/{namespace}/{name}"
        client = await self._connected()
        try:
            # `TIMEOUT` is for each piece of the answer. They stay as they are: unpacked they might
            # be of any size.
            async with (
                asyncio.timeout(_ANSWER_SECONDS),
                client.stream("GET", url, headers=self._headers()) as response,
            ):
                body = bytearray()
                async for part in response.aiter_raw():
                    body += part
                    if len(body) > _ANSWER_LIMIT:
                        raise Unavailable(f"{url} answers with more than 1 MiB")
        except httpx.TimeoutException:
            raise Unavailable(f"{url} does not answer within {TIMEOUT:.0f} s") from None
        except TimeoutError:
            raise Unavailable(f"{url} takes longer than {_ANSWER_SECONDS:.0f} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable(f"{url} cannot be reached ({_why(error)})") from None
        if response.status_code != httpx.codes.OK:
            raise Unavailable(
                f"{url} answers with status {response.status_code}"
                f"{_ADVICE.get(response.status_code, '')}"
            )
        try:
            said = ServedRollout.model_validate_json(bytes(body))
        except ValidationError:
            raise Unavailable(f"{url} answers with something else than a served rollout") from None
        if (said.namespace, said.name) != (namespace, name):
            raise Unavailable(f"{url} answers for another rollout")
        return said

    async def _connected(self) -> httpx.AsyncClient:
        """The client, made anew when `ca` changed. Raises Unavailable."""
        trusted = _stat(self._ca)
        if self._client is None or trusted != self._trusted:
            try:
                context = ssl.create_default_context(cafile=self._ca and str(self._ca))
            except OSError as error:
                raise Unavailable(
                    f"OTAFLUX_SERVER_CA {self._ca} cannot be used ({_why(error)})"
                ) from None
            before, self._trusted = self._client, trusted
            # The address is configured, not found: no proxy of the environment stands between.
            self._client = httpx.AsyncClient(timeout=TIMEOUT, trust_env=False, verify=context)
            if before is not None:
                await before.aclose()
        return self._client

    def _headers(self) -> dict[str, str]:
        """With the token, if there is one. Raises Unavailable."""
        plain = {"Accept-Encoding": "identity"}
        if self._token_file is None:
            return plain
        try:
            with self._token_file.open("rb") as file:
                token = file.read(_TOKEN_LIMIT).strip().decode("ascii")
        except FileNotFoundError:
            return plain
        except (OSError, UnicodeDecodeError) as error:
            raise Unavailable(
                f"OTAFLUX_SERVER_TOKEN_FILE {self._token_file} cannot be read ({_why(error)})"
            ) from None
        if not token or not token.isprintable():
            return plain
        return plain | {"Authorization": f"Bearer {token}"}


_ADVICE = {
    401: ": it does not take the token of OTAFLUX_SERVER_TOKEN_FILE, or there is none; it must be "
    "of the servers' OTAFLUX_INTERNAL__AUDIENCE, or theirs of OTAFLUX_INTERNAL__TOKEN_FILE",
    403: ": the operator's ServiceAccount is none of the servers' "
    "OTAFLUX_INTERNAL__SERVICE_ACCOUNTS",
    503: ": the servers cannot check tokens now, or are not ready; their log says why",
}


def _stat(path: Path | None) -> _Stat:
    """What changes whenever the file does, also behind links; None: there is none."""
    if path is None:
        return None
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _why(error: BaseException) -> str:
    """The kind of error; of one in TLS what is wrong."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {cause.verify_message}; see OTAFLUX_SERVER_CA"
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__
