"""Policies from a cluster: the ConfigMaps that the operator writes, and its one Secret."""

import asyncio
import base64
import binascii
from pathlib import Path

import structlog
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from otaflux_policy.contract import (
    GROUP_KEY,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    POLICY_KEY,
    group_object_name,
    policy_object_name,
)
from otaflux_policy.signing import GROUP_SIGNATURE_KEY, POLICY_SIGNATURE_KEY, PublicKey
from otaflux_server.policies import PolicyStore
from otaflux_server.policy_files import Key, Kind
from otaflux_server.policy_keys import (
    PolicyKeys,
    keys_of_entries,
    keys_of_texts,
    texts_of_files,
)
from otaflux_server.registries import PullCredentials
from otaflux_server.settings import Settings
from otaflux_server.watching import (
    Collection,
    KubernetesObject,
    follow,
    is_terminating,
    name_of,
)

log = structlog.get_logger(__name__)

_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_DEFAULT_NAMESPACE = "otaflux-system"
_RETRY_SECONDS = 5.0


class KubernetesSource:
    """A `PolicySource` that lists and watches through the API, and keeps `credentials` filled.

    What it gives is signed by keys of its own, which the same Secret holds, or `policy_keys`.
    """

    def __init__(self, settings: Settings, credentials: PullCredentials | None = None) -> None:
        self._settings = settings
        self._credentials = credentials or PullCredentials()
        self._lost: dict[str, str] = {}
        self._listing: list[asyncio.Event] = []
        self._keys = PolicyKeys()

    @property
    def keys(self) -> PolicyKeys | None:
        """See `PolicySource`."""
        return self._keys

    async def run(self, store: PolicyStore) -> None:
        """Feeds the store until cancelled. Raises ValueError unless its policies are signed."""
        path = self._settings.policy_keys
        # Also where they are not read yet: a store that asks for no signature is refused here.
        self._trust(store, self._keys.all if path is None else keys_of_texts(texts_of_files(path)))
        if self._settings.watch_namespaces:
            store.keep_only(self._settings.watch_namespaces)
        async with ApiClient(await self._configuration(store)) as api, asyncio.TaskGroup() as group:
            policies = [
                self._policies(store, namespace)
                for namespace in self._settings.watch_namespaces or (None,)
            ]
            self._lost = {collection.path: "not listed yet" for collection in policies}
            self._listing = [asyncio.Event() for _ in policies]
            for collection, again in zip(policies, self._listing, strict=True):
                group.create_task(self._follow(api, collection, again))
            idle = self._settings.watch_idle_seconds
            group.create_task(follow(api, self._secret(store), idle_seconds=idle))
            if path is not None:
                group.create_task(self._read_keys(store, path))

    async def _follow(self, api: ApiClient, collection: Collection, again: asyncio.Event) -> None:
        """Follows it, from a list on after each time that `again` is set."""
        idle = self._settings.watch_idle_seconds
        while True:
            again.clear()
            tasks = {
                asyncio.create_task(follow(api, collection, idle_seconds=idle)),
                asyncio.create_task(again.wait()),
            }
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
            for task in done:
                task.result()

    async def _read_keys(self, store: PolicyStore, path: Path) -> None:
        texts: dict[str, bytes] | None = None
        while True:
            found = await asyncio.to_thread(texts_of_files, path)
            if found != texts:
                texts = found
                self._trust(store, keys_of_texts(texts))
            await asyncio.sleep(_RETRY_SECONDS)

    def _trust(self, store: PolicyStore, keys: list[PublicKey]) -> None:
        if store.trust(keys):
            # What was refused so far is signed by one of them perhaps, and came before it.
            for again in self._listing:
                again.set()

    async def _configuration(self, store: PolicyStore) -> Configuration:
        """How to reach the cluster; waits until that can be read."""
        while True:
            try:
                return await cluster_configuration(self._settings.kubeconfig)
            except (config.ConfigException, OSError) as error:
                # Its text is left out: it may quote the file.
                where = self._settings.kubeconfig or "the pod's service account"
                store.disconnected(f"no cluster from {where} ({type(error).__name__})")
                await asyncio.sleep(_RETRY_SECONDS)

    def _policies(self, store: PolicyStore, namespace: str | None) -> Collection:
        path = "/api/v1/configmaps"
        if namespace is not None:
            path = f"/api/v1/namespaces/{namespace}/configmaps"

        def listed(objects: list[KubernetesObject]) -> None:
            texts: dict[Kind, dict[Key, str]] = {"policies": {}, "groups": {}}
            signatures: dict[tuple[Kind, Key], str] = {}
            unusable: list[tuple[Kind, Key]] = []
            for found in objects:
                kind, key = _identity(found)
                text = _text(found, kind) if kind is not None else None
                if kind is None or is_terminating(found):
                    continue
                if text is None:
                    unusable.append((kind, key))
                else:
                    texts[kind][key] = text
                    signatures[kind, key] = _signature(found, kind)
            store.replace(
                texts["policies"],
                texts["groups"],
                namespaces=None if namespace is None else [namespace],
                signatures=signatures,
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
                return
            if is_terminating(found):
                deleted(found)
                return
            text = _text(found, kind)
            if text is None:
                _reject(store, kind, key)
            elif kind == "policies":
                store.apply_policy(*key, text, _signature(found, kind))
            else:
                store.apply_group(*key, text, _signature(found, kind))

        def deleted(found: KubernetesObject) -> None:
            kind, key = _identity(found)
            if kind == "policies":
                store.remove_policy(*key)
            elif kind == "groups":
                store.remove_group(*key)

        def lost(why: str) -> None:
            self._lost[path] = why
            store.disconnected(why)

        def known() -> set[Key]:
            return {
                (owner, prefix + name)
                for kind, prefix in _PREFIXES.items()
                for owner, name in store.names(kind)
                if namespace in (None, owner)
            }

        return Collection(
            path,
            listed,
            changed,
            deleted,
            lost,
            label_selector=f"{MANAGED_BY_LABEL}={MANAGED_BY}",
            known=known,
        )

    def _secret(self, store: PolicyStore) -> Collection:
        namespace = self._settings.credentials_namespace or _own_namespace()
        name = self._settings.credentials_secret
        said = ""

        def replace(data: dict[str, str]) -> None:
            entries = _decoded(data)
            self._credentials.replace(entries)
            if self._settings.policy_keys is None:
                self._trust(store, keys_of_entries(entries))

        def changed(found: KubernetesObject) -> None:
            replace(found.get("data") or {})

        def listed(objects: list[KubernetesObject]) -> None:
            nonlocal said
            said = ""
            replace((objects[0].get("data") or {}) if objects else {})

        def deleted(_: KubernetesObject) -> None:
            replace({})

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


async def cluster_configuration(kubeconfig: Path | None) -> Configuration:
    """How to reach the cluster; None: by the pod's service account.

    Raises:
        ConfigException, OSError: that cannot be read.
    """
    configuration = Configuration()
    if kubeconfig is None:
        config.load_incluster_config(client_configuration=configuration)
    else:
        await config.load_kube_config(
            config_file=str(kubeconfig),
            client_configuration=configuration,
            persist_config=False,
        )
    return configuration


def _identity(found: KubernetesObject) -> tuple[Kind | None, Key]:
    """What the ConfigMap is for, by its name alone; kind None: nothing for us.

    Labels only find it: whoever may edit it can take them off, and changes nothing by that.
    """
    namespace, name = name_of(found)
    for kind, prefix in _PREFIXES.items():
        if name.startswith(prefix) and name != prefix:
            return kind, (namespace, name.removeprefix(prefix))
    log.warning("a ConfigMap with our labels holds nothing known", namespace=namespace, name=name)
    return None, (namespace, name)


_PREFIXES: dict[Kind, str] = {"policies": policy_object_name(""), "groups": group_object_name("")}
_KEYS: dict[Kind, str] = {"policies": POLICY_KEY, "groups": GROUP_KEY}
_SIGNATURE_KEYS: dict[Kind, str] = {
    "policies": POLICY_SIGNATURE_KEY,
    "groups": GROUP_SIGNATURE_KEY,
}


def _text(found: KubernetesObject, kind: Kind) -> str | None:
    text = (found.get("data") or {}).get(_KEYS[kind])
    return text if isinstance(text, str) else None


def _signature(found: KubernetesObject, kind: Kind) -> str:
    signature = (found.get("data") or {}).get(_SIGNATURE_KEYS[kind])
    return signature if isinstance(signature, str) else ""


def _reject(store: PolicyStore, kind: Kind, key: Key) -> None:
    why = f"the ConfigMap has no key {_KEYS[kind]}"
    if kind == "policies":
        store.reject_policy(*key, why)
    else:
        store.reject_group(*key, why)


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
