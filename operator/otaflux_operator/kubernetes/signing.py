"""The Secret with the keys that policies are signed with; what servers get of it."""

import asyncio
import base64
from collections.abc import Mapping
from datetime import UTC, datetime

from structlog import get_logger

from otaflux_operator.kubernetes.apis import (
    APPLY_PATCH,
    FIELD_MANAGER,
    Api,
    NotFound,
    Refused,
)
from otaflux_operator.kubernetes.secrets import KubernetesCredentialEntries, KubernetesSecrets
from otaflux_operator.ports import Conflict, Unavailable, UpdateServers
from otaflux_operator.signing import Signing, read_keys
from otaflux_policy.contract import MANAGED_BY, MANAGED_BY_LABEL
from otaflux_policy.served import ServedRollout
from otaflux_policy.signing import PRIVATE_SUFFIX, InvalidKey, SigningKey

log = get_logger(__name__)

EVERY = 5.0
"""Seconds between two looks at the Secret."""


class SigningSecret:
    """Keeps `signing` as the Secret says, and its public keys in `entries`.

    The Secret is made with a fresh key where there is none; one that is there is never written to.
    """

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        entries: KubernetesCredentialEntries,
        signing: Signing,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._secrets = KubernetesSecrets(api)
        self._entries = entries
        self._signing = signing
        self._told = ""

    async def start(self) -> None:
        """Looks until it was answered once."""
        while True:
            if await self.look():
                return
            await asyncio.sleep(1)

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            await self.look()

    async def look(self) -> bool:
        """Takes the Secret as it is now; False: there is no answer."""
        where = f"the Secret {self._namespace}/{self._name}"
        try:
            self._signing.replace(read_keys(await self._read()))
        except Refused as error:
            self._signing.fail(f"{where} cannot be read: {error}")
        except (Unavailable, Conflict) as error:
            self._tell(f"{where} was not looked at: {error}")
            return False
        except InvalidKey as error:
            self._signing.fail(f"{where} cannot be used: {error}")
        if self._signing.problem:
            return True
        try:
            await self._entries.keep(self._signing.public_keys)
        except (Unavailable, Conflict) as error:
            self._tell(f"servers were not given the public keys of policies: {error}")
        else:
            self._told = ""
        return True

    async def _read(self) -> Mapping[str, bytes]:
        found = await self._secrets.secret(self._namespace, self._name)
        if found is not None:
            return found
        name = f"{datetime.now(UTC):%Y%m%d}{PRIVATE_SUFFIX}"
        key = SigningKey.generate()
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": self._name, "labels": {MANAGED_BY_LABEL: MANAGED_BY}},
            "data": {name: base64.b64encode(key.dumps()).decode()},
        }
        path = f"/api/v1/namespaces/{self._namespace}/secrets/{self._name}"
        # By apply, which unlike POST names what it creates: RBAC allows it for this one alone. As
        # a manager of its own and not by force, so that another's key is a conflict.
        manager = f"{FIELD_MANAGER}-{key.public.id}"
        try:
            await self._api.patch(path, body, kind=APPLY_PATCH, fieldManager=manager)
        except NotFound:
            raise Refused(f"the namespace {self._namespace} does not exist") from None
        except Conflict:
            pass  # somebody else made it meanwhile
        else:
            log.info("signing key made", secret=f"{self._namespace}/{self._name}", key=name)
        return await self._secrets.secret(self._namespace, self._name) or {}

    def _tell(self, why: str) -> None:
        if why != self._told:
            log.warning(why)
        self._told = why


class ListeningServers:
    """`ports.UpdateServers` that also tells `signing` which keys the servers know."""

    def __init__(self, servers: UpdateServers, signing: Signing) -> None:
        self._servers = servers
        self._signing = signing

    async def served(self, namespace: str, name: str) -> ServedRollout:
        """See `ports.UpdateServers`."""
        said = await self._servers.served(namespace, name)
        self._signing.trust(said.policy_keys)
        return said
