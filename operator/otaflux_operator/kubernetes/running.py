"""The operator on Kubernetes, put together."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from otaflux_operator.kubernetes.apis import Api
from otaflux_operator.kubernetes.notices import KubernetesNotices
from otaflux_operator.kubernetes.publications import KubernetesPublications
from otaflux_operator.kubernetes.resources import KubernetesResources
from otaflux_operator.kubernetes.secrets import KubernetesCredentialEntries, KubernetesSecrets
from otaflux_operator.kubernetes.watching import Watches
from otaflux_operator.operating import Operator
from otaflux_operator.ports import Ports
from otaflux_operator.registries import RegistrySources
from otaflux_operator.servers import HttpUpdateServers
from otaflux_operator.settings import Settings
from otaflux_operator.timing import Timing

EPOCH = 1
"""Of all policies, until a Lease counts who wrote them."""

_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class KubernetesOperator:
    """Runs as long as the async context is open."""

    def __init__(self, settings: Settings, timing: Timing | None = None) -> None:
        self._settings = settings
        self._timing = timing
        self._stack = AsyncExitStack()
        self._ended: asyncio.Future[None] | None = None
        self.operator: Operator | None = None

    async def __aenter__(self) -> "KubernetesOperator":
        settings = self._settings
        try:
            api = await self._stack.enter_async_context(Api(settings.kubeconfig))
            servers = await self._stack.enter_async_context(HttpUpdateServers(settings.server_url))
            ports = Ports(
                resources=KubernetesResources(api, settings.watch_namespaces),
                publications=KubernetesPublications(api, settings.watch_namespaces),
                notices=KubernetesNotices(api),
                secrets=KubernetesSecrets(api),
                entries=KubernetesCredentialEntries(
                    api,
                    settings.credentials_namespace or _own_namespace(),
                    settings.credentials_secret,
                ),
                servers=servers,
                sources=RegistrySources(),
            )
            self.operator = Operator(ports, self._timing, epoch=EPOCH)
            watches = Watches(
                self.operator.mark_from_thread, api.configuration, settings.watch_namespaces
            )
            running = asyncio.create_task(self.operator.run())
            self._stack.push_async_callback(_cancel, running)
            watches.start()
            self._stack.push_async_callback(watches.stop)
            self._ended = asyncio.ensure_future(_first(running, asyncio.wrap_future(watches.ended)))
            self._stack.push_async_callback(_cancel, self._ended)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def ended(self) -> None:
        """Returns, or raises what happened, when it stops running by itself."""
        assert self._ended is not None
        await asyncio.shield(self._ended)


async def _first(*parts: asyncio.Future[None]) -> None:
    done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
    for part in done:
        part.result()


async def _cancel(future: asyncio.Future[None]) -> None:
    future.cancel()
    await asyncio.gather(future, return_exceptions=True)


def _own_namespace() -> str:
    try:
        return _OWN_NAMESPACE.read_text().strip()
    except OSError:
        return "default"
