"""TLS of one port: the generation in use, replaced when files change, and who is refused."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from otaflux_server.lines import Lines
from otaflux_server.metrics import Metrics
from otaflux_server.settings import TlsSettings
from otaflux_server.stamps import Stamp, stamp_of
from otaflux_server.tls.generations import Generation, TlsUnusable, load, paths_of
from otaflux_server.tls.reasons import TlsRefusal

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0
"""How often files are looked at; what changed is used once it stayed the same for as long."""

_Signature = dict[str, Stamp | None]


class TlsPort:
    """`name` is the port's in metrics and log (`device`, `internal`). On the event loop only.

    Raises:
        TlsUnusable: the files cannot be used.
    """

    def __init__(
        self,
        name: str,
        settings: TlsSettings,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.settings = settings
        self.clock = clock
        self._metrics = metrics
        self._lines: Lines[TlsRefusal] = Lines(self._write)
        self._failure = ""
        self._used = self._signature()
        self.generation = load(settings)
        self._show(self.generation)

    def refused(self, reason: TlsRefusal, peer: str, detail: str = "") -> None:
        """Notes a connection of `peer` that was refused; `detail` is for whoever debugs."""
        self._metrics.tls_refused.labels(self.name, reason.value).inc()
        if reason is TlsRefusal.CLOSED:
            return
        self._lines.note(reason, peer)
        log.debug(
            "TLS connection refused", port=self.name, reason=reason.value, peer=peer, why=detail
        )

    async def run(self) -> None:
        """Uses files anew when they change, until cancelled."""
        seen = self._used
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = await asyncio.to_thread(self._signature)
            if now != seen:  # perhaps it is being written just now
                seen = now
            elif now != self._used:
                await self._replace(now)

    async def _replace(self, signature: _Signature) -> None:
        try:
            generation = await asyncio.to_thread(load, self.settings)
        except TlsUnusable as error:
            # Looked at again each time: not all that mends it changes a file.
            self._metrics.tls_reload_failing.labels(self.name).set(1)
            if str(error) != self._failure:
                log.error(
                    "TLS files changed and cannot be used: the ones before stay in use",
                    port=self.name,
                    why=str(error),
                )
            self._failure = str(error)
            return
        self._failure = ""
        self._used = signature
        self.generation = generation
        self._show(generation)
        self._metrics.tls_replaced.labels(self.name).inc()
        log.info("TLS files replaced", port=self.name, **_shown(generation))

    def _show(self, generation: Generation) -> None:
        self._metrics.tls_reload_failing.labels(self.name).set(0)
        now = datetime.fromtimestamp(self.clock(), UTC)
        for file, expiry in generation.expiries.items():
            self._metrics.tls_expiry.labels(self.name, file).set(expiry.timestamp())
            if expiry <= now:
                log.warning(
                    "a TLS file holds something whose time is over",
                    port=self.name,
                    file=file,
                    since=expiry.isoformat(),
                )

    def _signature(self) -> _Signature:
        """What changes whenever a file or what a link in its path points to does."""
        found: _Signature = {}
        for name, path in paths_of(self.settings).items():
            found[name] = None
            with contextlib.suppress(OSError):
                found[name] = stamp_of(path.stat())
        return found

    def _write(self, reason: TlsRefusal, peer: str, count: int) -> None:
        log.warning(
            "TLS connections refused", port=self.name, reason=reason.value, peer=peer, count=count
        )


def tls_port(name: str, settings: TlsSettings, metrics: Metrics) -> TlsPort | None:
    """The port's TLS; None: it has none. Raises TlsUnusable."""
    return None if settings.certificate is None else TlsPort(name, settings, metrics)


def _shown(generation: Generation) -> dict[str, str]:
    return {f"{file}_until": until.isoformat() for file, until in generation.expiries.items()}
