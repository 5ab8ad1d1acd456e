"""Following a collection without an API server: pauses, and objects that stop being ours."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from kubernetes.aio.client import ApiClient

from otaflux_policy.contract import COMPONENT_LABEL
from otaflux_server import watching
from otaflux_server.kubernetes import KubernetesSource
from otaflux_server.settings import Settings
from otaflux_server.watching import Collection, WatchExpired, WatchLost
from tests.server.fleets import NAMESPACE, group, policy, until
from tests.server.signatures import apply, config_map, signed_store


class Enough(Exception):
    """Ends `follow`."""


def nothing(_: object) -> None:
    """Told of what does not matter here."""


@pytest.mark.parametrize("ending", [WatchLost("403"), WatchExpired("410"), None])
async def test_a_watch_that_ends_at_once_is_not_opened_all_the_time(
    monkeypatch: pytest.MonkeyPatch, ending: Exception | None
) -> None:
    """As where watching is forbidden but listing is not."""
    pauses: list[float] = []

    async def lists(*_: object) -> tuple[list[Any], str]:
        return [], "1"

    async def watches(*_: object) -> str:
        if ending is not None:
            raise ending
        return "1"

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 10:
            raise Enough

    monkeypatch.setattr(watching, "_list", lists)
    monkeypatch.setattr(watching, "_watch", watches)
    monkeypatch.setattr(asyncio, "sleep", pause)
    collection = Collection("/x", nothing, nothing, nothing, nothing)
    async with ApiClient() as api:
        with pytest.raises(Enough):
            await watching.follow(api, collection, idle_seconds=1)
    assert pauses[0] < 0.3
    assert pauses[-1] > 2


@pytest.mark.parametrize("item", [policy(), group("g")])
def test_labels_decide_nothing(item: Any) -> None:
    """Whoever may edit an object can take them off, or put others on."""
    store = signed_store()
    collection = KubernetesSource(Settings())._policies(store, None)
    found = config_map(item)
    collection.changed(found)
    assert store.policies() or store._in_use("groups").get(NAMESPACE)
    found["metadata"]["labels"][COMPONENT_LABEL] = "other"
    collection.changed(found)
    assert store.policies() or store._in_use("groups").get(NAMESPACE)
    del found["metadata"]["labels"]
    collection.changed(found)
    assert store.policies() or store._in_use("groups").get(NAMESPACE)
    found["metadata"]["deletionTimestamp"] = "2026-11-24T12:00:00Z"
    collection.changed(found)
    assert not store.policies()
    assert not store._in_use("groups").get(NAMESPACE)


async def test_namespaces_that_are_not_watched_any_more_are_not_served(tmp_path: Path) -> None:
    """Their last known policies are on disk still; nobody would tell of their end."""
    store = signed_store()
    for namespace in (NAMESPACE, "office"):
        apply(store, policy(namespace=namespace))
    options = Settings(kubeconfig=tmp_path / "none", watch_namespaces=(NAMESPACE,))
    following = asyncio.create_task(KubernetesSource(options).run(store))
    await until(lambda: [found.namespace for found in store.policies()] == [NAMESPACE])
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
