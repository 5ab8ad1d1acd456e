"""The operator on Kubernetes, put together."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

from structlog import get_logger

from otaflux_operator.epochs import Epochs
from otaflux_operator.kubernetes.apis import Api
from otaflux_operator.kubernetes.leases import Lease, Taken
from otaflux_operator.kubernetes.notices import KubernetesNotices
from otaflux_operator.kubernetes.publications import KubernetesPublications
from otaflux_operator.kubernetes.resources import KubernetesResources
from otaflux_operator.kubernetes.secrets import KubernetesCredentialEntries, KubernetesSecrets
from otaflux_operator.kubernetes.signing import ListeningServers, SigningSecret
from otaflux_operator.kubernetes.watching import Watches
from otaflux_operator.operating import Operator
from otaflux_operator.ports import Ports, Unavailable, UpdateServers
from otaflux_operator.registries import RegistrySources
from otaflux_operator.servers import HttpUpdateServers
from otaflux_operator.settings import Settings
from otaflux_operator.signing import Signing
from otaflux_operator.timing import Timing

log = get_logger(__name__)

_RETRY_SECONDS = 1.0
_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class KubernetesOperator:
    """Runs as long as the async context is open: waits for the Lease, works while it holds it."""

    def __init__(self, settings: Settings, timing: Timing | None = None) -> None:
        self._settings = settings
        self._timing = timing
        self._stack = AsyncExitStack()
        self._ended: asyncio.Future[None] | None = None
        self._lease: Lease | None = None
        self.operator: Operator | None = None
        self.working = asyncio.Event()
        """Set once the Lease is held and `operator` is there."""

    async def __aenter__(self) -> "KubernetesOperator":
        settings = self._settings
        seconds = settings.lease_seconds
        try:
            leases = await self._stack.enter_async_context(
                Api(settings.kubeconfig, timeout=seconds / 3)
            )
            lease = self._lease = Lease(
                leases, self._namespace, settings.lease, _identity(), seconds
            )
            # Whatever writes, by whatever way: not without the Lease.
            api = await self._stack.enter_async_context(Api(settings.kubeconfig, lease.ensure))
            servers = await self._stack.enter_async_context(
                HttpUpdateServers(
                    settings.server_url,
                    token_file=settings.server_token_file,
                    ca=settings.server_ca,
                )
            )
            self._stack.push_async_callback(lease.release)
            self._ended = asyncio.ensure_future(self._run(lease, api, servers))
            self._stack.push_async_callback(_cancel, self._ended)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def seen_at(self) -> float | None:
        """When the Lease was last read or written (`time.monotonic`)."""
        return self._lease.seen_at if self._lease is not None else None

    async def ended(self) -> None:
        """Returns, or raises what happened, when it stops running by itself."""
        assert self._ended is not None
        await asyncio.shield(self._ended)

    async def _run(self, lease: Lease, api: Api, servers: UpdateServers) -> None:
        taken = await lease.take()
        await _first(lease.keep(), self._work(lease, taken, api, servers))

    async def _work(self, lease: Lease, taken: Taken, api: Api, servers: UpdateServers) -> None:
        settings = self._settings
        signing = Signing()
        entries = KubernetesCredentialEntries(
            api,
            settings.credentials_namespace or own_namespace(),
            settings.credentials_secret,
        )
        secret = SigningSecret(api, self._namespace, settings.signing_secret, entries, signing)
        await secret.start()
        epochs = Epochs(is_leader=lambda: lease.is_held)
        publications = KubernetesPublications(api, settings.watch_namespaces, signing, epochs)
        epochs.current = await _epoch(taken, publications)
        if not taken.given:
            # Who had the Lease before may write once more: what is published now comes after that.
            epochs.floor = epochs.current
        resources = KubernetesResources(api, settings.watch_namespaces)
        ports = Ports(
            resources=resources,
            publications=publications,
            notices=KubernetesNotices(api),
            secrets=KubernetesSecrets(api),
            entries=entries,
            servers=ListeningServers(servers, signing),
            sources=RegistrySources(settings.registries),
        )
        operator = self.operator = Operator(ports, self._timing, epochs=epochs)
        signing.subscribe(operator.mark_everything)
        watches = Watches(operator.mark_from_thread, api.configuration, settings.watch_namespaces)
        log.info("working", epoch=epochs.current, published_again=not taken.given)
        self.working.set()
        try:
            await _first(operator.run(), secret.run(), _watch(watches, resources))
        finally:
            await watches.stop()

    @property
    def _namespace(self) -> str:
        return self._settings.namespace or own_namespace()


async def _epoch(taken: Taken, publications: KubernetesPublications) -> int:
    """That of the operator that took the Lease now: above all that was ever published.

    The time keeps it above also where neither the Lease nor what was published is there any more.
    """
    while True:
        try:
            highest = await publications.highest_epoch()
        except Unavailable as error:
            log.warning("what is published cannot be read", why=str(error))
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            return max(taken.transitions, highest + 1, int(time.time()))


async def _watch(watches: Watches, resources: KubernetesResources) -> None:
    """Watches once there is something to watch; until then the operator says what is missing."""
    while True:
        with contextlib.suppress(Unavailable):
            if await resources.are_served():
                break
        await asyncio.sleep(_RETRY_SECONDS)
    watches.start()
    await asyncio.shield(asyncio.wrap_future(watches.ended))  # their thread sets it


async def _first(*parts: Awaitable[None]) -> None:
    """Until one of them ends; the others are ended then."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def _cancel(future: asyncio.Future[None]) -> None:
    future.cancel()
    await asyncio.gather(future, return_exceptions=True)


def _identity() -> str:
    """One that nobody else has, not even this process started again."""
    return f"{socket.gethostname()}_{uuid4()}"


def own_namespace() -> str:
    """That of the pod; `default` outside of one."""
    try:
        return _OWN_NAMESPACE.read_text().strip()
    except OSError:
        return "default"
