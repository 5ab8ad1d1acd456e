"""Following a collection of Kubernetes objects: list, then watch, from the start on every loss.

Semantics: Kubernetes API concepts, "Efficient detection of changes".
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import structlog
from kubernetes.aio.client import ApiClient

log = structlog.get_logger(__name__)

KubernetesObject = dict[str, Any]

_PAGE = 500
_WATCH_SECONDS = 300
_UNLABELLED_SECONDS = 5
_LIST_TIMEOUT = aiohttp.ClientTimeout(total=60, sock_connect=10)
_MAX_LINE = 8 * 1024 * 1024
_MAX_LIST = 512 * 1024 * 1024
_BACKOFF_SECONDS = 0.2
_MAX_BACKOFF_SECONDS = 5.0


class WatchLost(Exception):
    """The API server gave no answer that can be used; the message says what it gave."""


class WatchExpired(WatchLost):
    """410: what was seen last is too old to go on from."""


class _StillThere(Exception):
    """Something left the collection that was not deleted."""


Name = tuple[str, str]
"""Namespace and name of an object."""


@dataclass(frozen=True, slots=True)
class Collection:
    """What to follow, and whom to tell. All callbacks are synchronous.

    `path` is the API path. `listed` gets all objects, after each list; `changed` one that was
    added or modified; `deleted` one that is gone; `lost` why the collection is not followed now.
    `known` names the objects in use: one of them that a list or an event leaves out is asked for
    by its own path, and counts as listed where it merely lost its labels.
    """

    path: str
    listed: Callable[[list[KubernetesObject]], None]
    changed: Callable[[KubernetesObject], None]
    deleted: Callable[[KubernetesObject], None]
    lost: Callable[[str], None]
    label_selector: str = ""
    field_selector: str = ""
    known: Callable[[], Set[Name]] = frozenset

    @property
    def selectors(self) -> dict[str, str]:
        """As a query."""
        return {"labelSelector": self.label_selector, "fieldSelector": self.field_selector}


async def follow(api: ApiClient, collection: Collection, *, idle_seconds: float) -> None:
    """Follows the collection until cancelled.

    Whatever fails, a list follows, after a pause that doubles from 0.1–0.2 to 2.5–5 s until a
    watch lasted for longer than that. A watch on which nothing comes for `idle_seconds` is given
    up: the API server sends bookmarks each minute, so the connection is dead. While an object in
    use is there without its labels, which no watch tells of, a list follows every 5 s.
    """
    loop = asyncio.get_running_loop()
    attempt = 0
    began = loop.time()
    while True:
        try:
            objects, version = await _list(api, collection)
            unlabelled = await _unlabelled(api, collection, objects)
            collection.listed(objects + unlabelled)
            while True:
                began = loop.time()
                version = await _watch(
                    api,
                    collection,
                    version,
                    idle_seconds,
                    _UNLABELLED_SECONDS if unlabelled else _WATCH_SECONDS,
                )
                if unlabelled:
                    break
                if loop.time() - began < _MAX_BACKOFF_SECONDS:
                    await asyncio.sleep(_pause(attempt))
                    attempt += 1
                else:
                    attempt = 0
        except _StillThere:
            log.warning("an object in use lost its labels", path=collection.path)
        except WatchExpired:
            log.info("watch expired, listing again", path=collection.path)
        except WatchLost as error:
            collection.lost(str(error))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            collection.lost(f"the API server is unreachable ({type(error).__name__})")
        if loop.time() - began > _MAX_BACKOFF_SECONDS:
            attempt = 0
        await asyncio.sleep(_pause(attempt))
        attempt += 1
        began = loop.time()


def _pause(attempt: int) -> float:
    longest: float = min(_BACKOFF_SECONDS * 2 ** min(attempt, 10), _MAX_BACKOFF_SECONDS)
    return longest * random.uniform(0.5, 1.0)


async def _list(api: ApiClient, collection: Collection) -> tuple[list[KubernetesObject], str]:
    objects: list[KubernetesObject] = []
    token = ""
    while True:
        query = collection.selectors | {"limit": str(_PAGE), "continue": token}
        async with _get(api, collection.path, query, _LIST_TIMEOUT) as response:
            content = _parse(await _read(response))
        metadata = content.get("metadata") or {}
        objects += content.get("items") or []
        token = metadata.get("continue") or ""
        if not token:
            return objects, str(metadata.get("resourceVersion", ""))


async def _unlabelled(
    api: ApiClient, collection: Collection, objects: list[KubernetesObject]
) -> list[KubernetesObject]:
    """Objects in use that were not listed, and are there nevertheless."""
    listed = {name_of(found) for found in objects}
    missing = [name for name in collection.known() if name not in listed]
    found = [await _object(api, collection, name) for name in missing]
    return [there for there in found if there is not None]


async def _object(api: ApiClient, collection: Collection, name: Name) -> KubernetesObject | None:
    kind = collection.path.rpartition("/")[2]
    path = f"/api/v1/namespaces/{name[0]}/{kind}/{name[1]}"
    async with _get(api, path, {}, _LIST_TIMEOUT, missing=True) as response:
        found = _parse(await _read(response)) if response.status == 200 else None
    return None if found is None or is_terminating(found) else found


def is_terminating(found: KubernetesObject) -> bool:
    """Whether it was deleted, and is there only because a finalizer keeps it."""
    return (found.get("metadata") or {}).get("deletionTimestamp") is not None


def name_of(found: KubernetesObject) -> Name:
    """Its namespace and name."""
    metadata = found.get("metadata") or {}
    return str(metadata.get("namespace", "")), str(metadata.get("name", ""))


def _is_same(there: KubernetesObject, found: KubernetesObject) -> bool:
    """Whether it is that very object, not one that somebody made in its place."""
    return bool(there["metadata"]["uid"] == found["metadata"]["uid"])


async def _watch(
    api: ApiClient, collection: Collection, version: str, idle_seconds: float, seconds: float
) -> str:
    """Tells of changes after `version` until the server ends the watch; the last version seen.

    That is after 1 to 1.5 times `seconds`.
    """
    query = collection.selectors | {
        "watch": "true",
        "allowWatchBookmarks": "true",
        "resourceVersion": version,
        "timeoutSeconds": str(round(seconds * random.uniform(1.0, 1.5))),
    }
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=idle_seconds)
    async with _get(api, collection.path, query, timeout) as response:
        async for line in _lines(response):
            event = _parse(line)
            found = event.get("object") or {}
            kind = event.get("type")
            if kind == "ERROR":
                if found.get("code") == 410:
                    raise WatchExpired("the watch is too old")
                raise WatchLost(f"the watch failed: {found.get('reason') or found.get('code')}")
            if kind in ("ADDED", "MODIFIED"):
                collection.changed(found)
            elif kind == "DELETED":
                # Also told of one that does not fit the selector any more.
                if name_of(found) in collection.known():
                    there = await _object(api, collection, name_of(found))
                    if there is not None and _is_same(there, found):
                        collection.changed(there)
                        raise _StillThere
                collection.deleted(found)
            version = str((found.get("metadata") or {}).get("resourceVersion") or version)
    return version


@asynccontextmanager
async def _get(
    api: ApiClient,
    path: str,
    query: dict[str, str],
    timeout: aiohttp.ClientTimeout,
    *,
    missing: bool = False,
) -> AsyncIterator[aiohttp.ClientResponse]:
    """`missing`: 404 is an answer."""
    parameters = [(name, value) for name, value in query.items() if value]
    request = await api.param_serialize(
        method="GET",
        resource_path=path,
        query_params=parameters,
        header_params={"Accept": "application/json"},
        auth_settings=["BearerToken"],
    )
    # Not the generated methods: they parse every object and allow no timeout but for the whole.
    answer = await api.call_api(*request, _request_timeout=timeout)
    response: aiohttp.ClientResponse = answer.response
    try:
        if response.status == 410:
            raise WatchExpired("what was listed is too old")
        if response.status != 200 and not (missing and response.status == 404):
            raise WatchLost(f"the API server answers {response.status} for {path}")
        yield response
    finally:
        response.close()


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for part in response.content.iter_any():
        body += part
        if len(body) > _MAX_LIST:
            raise WatchLost("the API server's list is too large")
    return bytes(body)


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    rest = b""
    while part := await response.content.readany():
        *lines, rest = (rest + part).split(b"\n")
        if len(rest) > _MAX_LINE:
            raise WatchLost("the API server sends a line without end")
        for line in lines:
            if line:
                yield line


def _parse(text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        raise WatchLost("the API server's answer is not JSON") from None
    if not isinstance(content, dict):
        raise WatchLost("the API server's answer is not an object")
    return content
