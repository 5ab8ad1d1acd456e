"""Watches by kopf: every event does nothing but mark an object.

kopf cancels what runs in its event loop when it ends, so it gets a loop and a thread of its own.
It registers `on.event` only: no finalizers, timers, daemons, annotations or Events of its own.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Thread
from typing import Any

import kopf
from kubernetes.aio.client import Configuration

from otaflux_operator.kubernetes.outages import forward_kopf
from otaflux_operator.kubernetes.publications import SELECTOR, key_of
from otaflux_operator.kubernetes.resources import PLURALS
from otaflux_operator.ports import Key, Kind
from otaflux_operator.resources import API_GROUP, VERSION

_CONFIG_MAPS = ("", "v1", "configmaps")
_STOP_SECONDS = 30.0
_CLOSING_SECONDS = 0.25


class Watches:
    """Marks objects from the events of an API server, from `start` until `stop`.

    The kinds have to be served already (`KubernetesResources.are_served`), as kopf looks for them
    once. `mark` is called in another thread. `ended` is done when the watches end, with what ended
    them where that was no `stop`.
    """

    def __init__(
        self, mark: Callable[[Key], None], configuration: Configuration, namespaces: Sequence[str]
    ) -> None:
        self._mark = mark
        self._configuration = configuration
        self._namespaces = namespaces
        self._stop: Callable[[], None] | None = None
        self._started: Future[None] = Future()
        self._thread = Thread(target=self._run, name="otaflux-watches", daemon=True)
        self.ended: Future[None] = Future()

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    async def stop(self) -> None:
        """Ends the watches, if they were started, and waits for it."""
        if self._thread.ident is None:
            return
        await asyncio.wrap_future(self._started)
        if self._stop is not None:
            self._stop()
        await asyncio.to_thread(self._thread.join, _STOP_SECONDS)

    def _run(self) -> None:
        try:
            asyncio.run(self._watch())
        except BaseException as error:
            # Whoever waits for `ended` raises it again.
            self.ended.set_exception(error)
        else:
            self.ended.set_result(None)
        finally:
            if not self._started.done():
                self._started.set_result(None)

    async def _watch(self) -> None:
        loop, flag = asyncio.get_running_loop(), asyncio.Event()

        def stop() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(flag.set)

        self._stop = stop
        self._started.set_result(None)
        forward_kopf()
        watching = asyncio.create_task(
            kopf.operator(
                registry=self._registry(),
                settings=_settings(),
                standalone=True,
                clusterwide=not self._namespaces,
                namespaces=list(self._namespaces),
            )
        )
        stopping = asyncio.create_task(flag.wait())
        await asyncio.wait({watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        # By a stop flag it would wait 5 s for requests whose connections it has closed.
        watching.cancel()
        await asyncio.wait({watching})
        if not watching.cancelled():
            watching.result()
        # TLS connections end after the session that was closed (aiohttp, "Graceful shutdown").
        await asyncio.sleep(_CLOSING_SECONDS)

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(self._login)
        for kind in Kind:
            kopf.on.event(API_GROUP, VERSION, PLURALS[kind], registry=registry, id=kind.lower())(
                self._marker(kind)
            )
        kopf.on.event(*_CONFIG_MAPS, registry=registry, id="configmap")(self._mark_published)
        return registry

    def _marker(self, kind: Kind) -> Callable[..., Any]:
        async def mark(namespace: str | None, name: str | None, **_: Any) -> None:
            if namespace and name:
                self._mark(Key(kind, namespace, name))

        return mark

    async def _mark_published(self, body: kopf.Body, **_: Any) -> None:
        if (key := key_of(dict(body))) is not None:
            self._mark(key)

    async def _login(self, **kwargs: Any) -> kopf.ConnectionInfo | None:
        if self._configuration.refresh_api_key_hook is not None and not (
            self._configuration.cert_file
        ):
            # In a pod: the token is exchanged under the running process.
            account: kopf.ConnectionInfo | None = kopf.login_with_service_account(**kwargs)
            if account is not None:
                return account
        known = self._configuration
        _, _, token = (known.api_key.get("BearerToken") or "").rpartition(" ")
        return kopf.ConnectionInfo(
            server=known.host,
            ca_path=known.ssl_ca_cert,
            insecure=not known.verify_ssl,
            certificate_path=known.cert_file,
            private_key_path=known.key_file,
            token=token or None,
        )


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    # It would watch all CustomResourceDefinitions and namespaces, which takes rights for nothing.
    settings.scanning.disabled = True
    settings.queueing.idle_timeout = 0.2  # an idle worker per object is memory for nothing
    settings.watching.label_selectors[_CONFIG_MAPS] = SELECTOR
    return settings
