"""JSON to and from an API server, over `kubernetes.aio`'s configuration and connections."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from otaflux_operator.ports import Conflict, Unavailable

FIELD_MANAGER = "otaflux-operator"
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
JSON = "application/json"
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_PAGE = 500
_TIMEOUT = 10.0


class NotFound(Exception):
    """The object does not exist."""


class Refused(Unavailable):
    """The API server was reached, and did not do it."""


class Invalid(Refused):
    """422: what was written is no such object, or may not be changed to it."""


class Api:
    """Requests as an async context manager. Raises NotFound, Conflict and Unavailable only.

    Entering raises Unavailable where nothing says which cluster to talk to. `guard` is called
    right before each request that writes, and raises Unavailable where it may not. `timeout`: for
    each request, in seconds.
    """

    def __init__(
        self,
        kubeconfig: Path | None = None,
        guard: Callable[[], None] = lambda: None,
        timeout: float = _TIMEOUT,
    ) -> None:
        self._kubeconfig = kubeconfig
        self._guard = guard
        self._timeout = timeout
        self._client: ApiClient | None = None
        self.configuration = Configuration()

    async def __aenter__(self) -> "Api":
        configuration = self.configuration
        configuration.connection_pool_maxsize = 32
        try:
            await self._configure(configuration)
        except (config.ConfigException, OSError) as error:
            raise Unavailable(
                "there is no cluster to work in: neither a pod's service account nor a usable "
                f"kubeconfig, set OTAFLUX_KUBECONFIG ({type(error).__name__})"
            ) from None
        self._client = ApiClient(configuration)
        return self

    async def _configure(self, configuration: Configuration) -> None:
        if self._kubeconfig is not None:
            await config.load_kube_config(
                config_file=str(self._kubeconfig), client_configuration=configuration
            )
            return
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException:
            await config.load_kube_config(client_configuration=configuration)

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.close()

    async def get(self, path: str, *, accept: str = JSON, **query: str) -> dict[str, Any]:
        """The object or list at `path`."""
        return await self._request("GET", path, query, accept=accept)

    async def pages(self, path: str, *, accept: str = JSON, **query: str) -> AsyncIterator[Any]:
        """The items of a list, read page by page."""
        following = ""
        while True:
            paging = {"limit": str(_PAGE)} | ({"continue": following} if following else {})
            try:
                page = await self.get(path, accept=accept, **query, **paging)
            except NotFound:
                raise Unavailable(f"{path} does not exist: apply the CRDs (deploy/crds)") from None
            for item in page.get("items") or ():  # an empty list may be null
                yield item
            following = page.get("metadata", {}).get("continue", "")
            if not following:
                return

    async def patch(
        self, path: str, body: Mapping[str, Any], *, kind: str, **query: str
    ) -> dict[str, Any]:
        """Patches with content type `kind`, as our field manager."""
        query = {"fieldManager": FIELD_MANAGER} | query
        return await self._request("PATCH", path, query, body=body, content_type=kind)

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Creates an object."""
        return await self._request("POST", path, {"fieldManager": FIELD_MANAGER}, body=body)

    async def delete(self, path: str, *, uid: str, version: str) -> None:
        """Deletes exactly the object that was read."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid, "resourceVersion": version},
        }
        await self._request("DELETE", path, {}, body=body)

    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        *,
        body: Mapping[str, Any] | None = None,
        accept: str = JSON,
        content_type: str = JSON,
    ) -> dict[str, Any]:
        if self._client is None:
            raise Unavailable("the API client is not open")
        try:
            request = await self._client.param_serialize(
                method,
                path,
                query_params=list(query.items()),
                header_params={"Accept": accept, "Content-Type": content_type},
                body=body,
                auth_settings=["BearerToken"],
            )
            if method != "GET":
                self._guard()
            response = await self._client.call_api(*request, _request_timeout=self._timeout)
            content = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unavailable(
                f"the API server cannot be reached: {method} {path} ({type(error).__name__})"
            ) from None
        if response.status in (200, 201, 202):
            return _object(content)
        if response.status == 404:
            raise NotFound(path)
        if response.status == 409:
            raise Conflict(path)
        refused = Invalid if response.status == 422 else Refused
        raise refused(
            f"{method} {path} was answered with {response.status}"
            + _why(path, response.status, content)
        )


def _object(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Unavailable("the API server answered with something else than an object")
    return value


def _why(path: str, status: int, content: bytes) -> str:
    # What the API server says of a Secret could repeat what is in it; that it may not be
    # touched (403) cannot.
    if "/secrets" in path and status != 403:
        return ""
    try:
        message = json.loads(content)["message"]
    except (ValueError, KeyError, TypeError):
        return ""
    return f": {message[:500]}" if isinstance(message, str) else ""
