"""ConfigMaps as the operator signs them, and servers that know its key."""

from pathlib import Path
from typing import Any

from otaflux_policy.canonical import dumps
from otaflux_policy.contract import (
    COMPONENT_LABEL,
    GROUP_COMPONENT,
    GROUP_KEY,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    POLICY_COMPONENT,
    POLICY_KEY,
    Policy,
    group_object_name,
    policy_object_name,
)
from otaflux_policy.groups import Group
from otaflux_policy.signing import SIGNATURE_SUFFIX, SigningKey
from otaflux_server.metrics import Metrics
from otaflux_server.policies import PolicyStore
from otaflux_server.policy_files import PolicyFiles
from otaflux_server.policy_keys import PolicyKeys

KEY = SigningKey.generate()
OTHER_KEY = SigningKey.generate()


def public_file(folder: Path, *keys: SigningKey) -> Path:
    """A folder with the public keys, as `policy_keys` wants it."""
    folder.mkdir(parents=True, exist_ok=True)
    for key in keys or (KEY,):
        (folder / f"{key.public.id}.pub").write_text(key.public.dumps())
    return folder


def signed_store(files: PolicyFiles | None = None, *keys: SigningKey) -> PolicyStore:
    """A store of signed policies that knows the keys (none given: `KEY`)."""
    store = PolicyStore(Metrics(), files, keys=PolicyKeys())
    store.load()
    store.trust([key.public for key in keys or (KEY,)])
    return store


def apply(
    store: PolicyStore,
    item: Policy | Group,
    *,
    text: str | None = None,
    signature: str | None = None,
    key: SigningKey = KEY,
    name: str | None = None,
) -> bool:
    """The item given to the store, signed unless told otherwise."""
    given = dumps(item) if text is None else text
    made = key.sign(type(item), given) if signature is None else signature
    put = store.apply_policy if isinstance(item, Policy) else store.apply_group
    return put(item.namespace, name or item.name, given, made)


def config_map(
    item: Policy | Group, text: str | None = None, *, key: SigningKey | None = KEY
) -> dict[str, Any]:
    """The ConfigMap of the item; `key` None: not signed. A `text` of its own is not signed anew."""
    if isinstance(item, Policy):
        name, component, data = policy_object_name(item.name), POLICY_COMPONENT, POLICY_KEY
    else:
        name, component, data = group_object_name(item.name), GROUP_COMPONENT, GROUP_KEY
    content = {data: dumps(item) if text is None else text}
    if key is not None:
        content[data + SIGNATURE_SUFFIX] = key.sign(type(item), dumps(item))
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name,
            "namespace": item.namespace,
            "labels": {MANAGED_BY_LABEL: MANAGED_BY, COMPONENT_LABEL: component},
        },
        "data": content,
    }
