"""Policies from a cluster: the ConfigMaps that the operator writes, and its one Secret."""

import asyncio
import base64
import binascii
from pathlib import Path

import structlog
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from otaflux_policy.contract import (
    COMPONENT_LABEL,
    GROUP_COMPONENT,
    GROUP_KEY,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    POLICY_COMPONENT,
    POLICY_KEY,
    group_object_name,
    policy_object_name,
)
from otaflux_server.policies import PolicyStore
from otaflux_server.policy_files import Key, Kind
from otaflux_server.registries import PullCredentials
from otaflux_server.settings import Settings
from otaflux_server.watching import Collection, KubernetesObject, follow

log = structlog.get_logger(__name__)

_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_DEFAULT_NAMESPACE = "otaflux-system"
_RETRY_SECONDS = 5.0


class KubernetesSource:
    """A `PolicySource` that lists and watches through the API, and keeps `credentials` filled."""

    def __init__(self, settings: Settings, credentials: PullCredentials | None = None) -> None:
        self._settings = settings
        self._credentials = credentials
        self._lost: dict[str, str] = {}

    async def run(self, store: PolicyStore) -> None:
        """Feeds the store until cancelled."""
        if self._settings.watch_namespaces:
            store.keep_only(self._settings.watch_namespaces)
        async with ApiClient(await self._configuration(store)) as api, asyncio.TaskGroup() as group:
            collections = [
                self._policies(store, namespace)
                for namespace in self._settings.watch_namespaces or (None,)
            ]
            self._lost = {collection.path: "not listed yet" for collection in collections}
            if self._credentials is not None:
                collections.append(self._secret(self._credentials))
            for collection in collections:
                group.create_task(
                    follow(api, collection, idle_seconds=self._settings.watch_idle_seconds)
                )

    async def _configuration(self, store: PolicyStore) -> Configuration:
        """How to reach the cluster; waits until that can be read."""
        while True:
            configuration = Configuration()
            try:
                if self._settings.kubeconfig is None:
                    config.load_incluster_config(client_configuration=configuration)
                else:
                    await config.load_kube_config(
                        config_file=str(self._settings.kubeconfig),
                        client_configuration=configuration,
                        persist_config=False,
                    )
            except (config.ConfigException, OSError) as error:
                # Its text is left out: it may quote the file.
                where = self._settings.kubeconfig or "the pod's service account"
                store.disconnected(f"no cluster from {where} ({type(error).__name__})")
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            return configuration

    def _policies(self, store: PolicyStore, namespace: str | None) -> Collection:
        path = "/api/v1/configmaps"
        if namespace is not None:
            path = f"/api/v1/namespaces/{namespace}/configmaps"

        def listed(objects: list[KubernetesObject]) -> None:
            texts: dict[Kind, dict[Key, str]] = {"policies": {}, "groups": {}}
            unusable: list[tuple[Kind, Key]] = []
            for found in objects:
                kind, key = _identity(found)
                text = _text(found, kind) if kind is not None else None
                if kind is None:
                    continue
                if text is None:
                    unusable.append((kind, key))
                else:
                    texts[kind][key] = text
            store.replace(
                texts["policies"],
                texts["groups"],
                namespaces=None if namespace is None else [namespace],
                unusable=unusable,
            )
            for kind, key in unusable:
                _reject(store, kind, key)
            self._lost.pop(path, None)
            if self._lost:
                store.disconnected(next(iter(self._lost.values())))
            else:
                store.connected()

        def changed(found: KubernetesObject) -> None:
            kind, key = _identity(found)
            if kind is None:
                _forget(store, *key)
                return
            text = _text(found, kind)
            if text is None:
                _reject(store, kind, key)
            elif kind == "policies":
                store.apply_policy(*key, text)
            else:
                store.apply_group(*key, text)

        def deleted(found: KubernetesObject) -> None:
            kind, key = _identity(found)
            if kind == "policies":
                store.remove_policy(*key)
            elif kind == "groups":
                store.remove_group(*key)

        def lost(why: str) -> None:
            self._lost[path] = why
            store.disconnected(why)

        return Collection(
            path, listed, changed, deleted, lost, label_selector=f"{MANAGED_BY_LABEL}={MANAGED_BY}"
        )

    def _secret(self, credentials: PullCredentials) -> Collection:
        namespace = self._settings.credentials_namespace or _own_namespace()
        name = self._settings.credentials_secret
        said = ""

        def changed(found: KubernetesObject) -> None:
            credentials.replace(_decoded(found.get("data") or {}))

        def listed(objects: list[KubernetesObject]) -> None:
            nonlocal said
            said = ""
            credentials.replace(_decoded(objects[0].get("data") or {}) if objects else {})

        def deleted(_: KubernetesObject) -> None:
            credentials.replace({})

        def lost(why: str) -> None:
            nonlocal said
            if why != said:
                log.warning(
                    "pull credentials cannot be read", secret=f"{namespace}/{name}", why=why
                )
            said = why

        return Collection(
            f"/api/v1/namespaces/{namespace}/secrets",
            listed,
            changed,
            deleted,
            lost,
            field_selector=f"metadata.name={name}",
        )


def _identity(found: KubernetesObject) -> tuple[Kind | None, Key]:
    """What the ConfigMap holds, by its label and name; kind None: nothing for us."""
    metadata = found.get("metadata") or {}
    namespace, name = str(metadata.get("namespace", "")), str(metadata.get("name", ""))
    component = (metadata.get("labels") or {}).get(COMPONENT_LABEL)
    for kind, label, prefix in _KINDS:
        if component == label and name.startswith(prefix) and name != prefix:
            return kind, (namespace, name.removeprefix(prefix))
    log.warning("a ConfigMap with our labels holds nothing known", namespace=namespace, name=name)
    return None, (namespace, name)


_KINDS: tuple[tuple[Kind, str, str], ...] = (
    ("policies", POLICY_COMPONENT, policy_object_name("")),
    ("groups", GROUP_COMPONENT, group_object_name("")),
)
_KEYS: dict[Kind, str] = {"policies": POLICY_KEY, "groups": GROUP_KEY}


def _text(found: KubernetesObject, kind: Kind) -> str | None:
    text = (found.get("data") or {}).get(_KEYS[kind])
    return text if isinstance(text, str) else None


def _reject(store: PolicyStore, kind: Kind, key: Key) -> None:
    why = f"the ConfigMap has no key {_KEYS[kind]}"
    if kind == "policies":
        store.reject_policy(*key, why)
    else:
        store.reject_group(*key, why)


def _forget(store: PolicyStore, namespace: str, name: str) -> None:
    """The ConfigMap may have been ours until its label was changed; no list would show it now."""
    for kind, _, prefix in _KINDS:
        if name.startswith(prefix):
            remove = store.remove_policy if kind == "policies" else store.remove_group
            remove(namespace, name.removeprefix(prefix))


def _decoded(data: dict[str, str]) -> dict[str, bytes]:
    found = {}
    for key, value in data.items():
        try:
            found[key] = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError, TypeError):
            log.warning("an entry of the pull credentials is not base64", key=key)
    return found


def _own_namespace() -> str:
    try:
        return _OWN_NAMESPACE.read_text().strip() or _DEFAULT_NAMESPACE
    except OSError:
        return _DEFAULT_NAMESPACE
