"""The servers' internal API."""

import httpx
from pydantic import ValidationError

from otaflux_operator.ports import Unavailable
from otaflux_policy.served import ServedRollout

TIMEOUT = 2.0
_ANSWER_LIMIT = 1024 * 1024


class HttpUpdateServers:
    """Asks `url` (the base of the internal API); an async context manager."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        # The address is configured, not found: no proxy of the environment stands between.
        self._client = httpx.AsyncClient(timeout=TIMEOUT, trust_env=False)

    async def __aenter__(self) -> "HttpUpdateServers":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def served(self, namespace: str, name: str) -> ServedRollout:
        """What the servers say of a rollout. Raises Unavailable."""
        if not self._url:
            raise Unavailable("no server is configured: set OTAFLUX_SERVER_URL")
        url = f"{self._url}/internal/v1/rollouts/{namespace}/{name}"
        try:
            async with self._client.stream("GET", url) as response:
                body = bytearray()
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > _ANSWER_LIMIT:
                        raise Unavailable(f"{url} answers with more than 1 MiB")
        except httpx.TimeoutException:
            raise Unavailable(f"{url} does not answer within {TIMEOUT:.0f} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable(f"{url} cannot be reached ({type(error).__name__})") from None
        if response.status_code != httpx.codes.OK:
            raise Unavailable(f"{url} answers with status {response.status_code}")
        try:
            said = ServedRollout.model_validate_json(bytes(body))
        except ValidationError:
            raise Unavailable(f"{url} answers with something else than a served rollout") from None
        if (said.namespace, said.name) != (namespace, name):
            raise Unavailable(f"{url} answers for another rollout")
        return said
