"""A server with TLS on its device port, whose files a test replaces, and clients of it."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.server.fleets import Answer, Served, serving, settings
from tests.server.tls.authorities import Authority, Issued

SECONDS = 30.0
_BODY = b'{"device": "kitchen-1"}'
POLL = b"POST /api/v1/poll HTTP/1.1\r\nHost: updates.test\r\nContent-Length: %d\r\n\r\n%s" % (
    len(_BODY),
    _BODY,
)
"""Answered with 200, on a connection that stays open."""


class Files:
    """What the server reads. `set(client_ca=…)` replaces files at once, as `mv` does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.pem"

    def set(self, **contents: bytes) -> None:
        for name, content in contents.items():
            part = self.folder / f".{name}"
            part.write_bytes(content)
            part.replace(self.path(name))

    def serve(self, issued: Issued) -> None:
        """Another server certificate with its key."""
        self.set(certificate=issued.pem, key=issued.key_pem)

    @property
    def settings(self) -> dict[str, Any]:
        """The `TlsSettings` of all files that are there."""
        names = ("certificate", "key", "client_ca", "crl")
        return {name: str(self.path(name)) for name in names if self.path(name).exists()}


class Port:
    """The running server's device port."""

    def __init__(self, served: Served, files: Files, authority: Authority) -> None:
        self.served = served
        self.files = files
        self._authority = authority

    def context(self, client: Issued | None = None) -> ssl.SSLContext:
        """A client's, which trusts the server's authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self._authority.pem.decode())
        if client is not None:
            pair = client.write(self.files.folder, f"client-{client.certificate.serial_number:x}")
            context.load_cert_chain(*pair)
        return context

    def plain(self) -> socket.socket:
        host, port = self.served.server.device_url.rpartition("/")[2].split(":")
        return socket.create_connection((host, int(port)), timeout=SECONDS)

    def connect(
        self, context: ssl.SSLContext, session: ssl.SSLSession | None = None
    ) -> ssl.SSLSocket:
        raw = self.plain()
        try:
            return context.wrap_socket(raw, server_hostname="127.0.0.1", session=session)
        except BaseException:
            raw.close()
            raise

    def metric(self, name: str, **labels: str) -> float:
        """A metric of the server; 0 where it does not exist."""
        value = self.served.server.metrics.registry.get_sample_value(name, labels)
        return 0.0 if value is None else value

    def refused(self, reason: str, port: str = "device") -> float:
        return self.metric("otaflux_tls_refused_total", port=port, reason=reason)

    @contextmanager
    def replaced(self) -> Iterator[None]:
        """Returns once the server uses the files that were changed within."""
        before = self.replacements
        yield
        self.served.wait(lambda: self.replacements > before)

    @property
    def replacements(self) -> float:
        return self.metric("otaflux_tls_files_replaced_total", port="device")

    def keeps(self) -> None:
        """Waits until the server says that it cannot use the files."""
        failing = "otaflux_tls_reload_failing"
        self.served.wait(lambda: self.metric(failing, port="device") == 1.0)


def ask(connection: ssl.SSLSocket, request: bytes = POLL) -> Answer | None:
    """The answer to a request; None: the connection is closed instead.

    Raises ssl.SSLError: by an alert.
    """
    try:
        connection.sendall(request)
        raw = b""
        while b"\r\n\r\n" not in raw:
            part = connection.recv(65536)
            if not part:
                return None
            raw += part
        answer = Answer(raw)
        while len(answer.body) < int(answer.headers.get("Content-Length", "0")):
            answer = Answer(answer.raw + connection.recv(65536))
    except (ConnectionError, ssl.SSLEOFError):
        return None
    return answer


def alert_of(port: Port, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> str:
    """The alert that the server refuses the client with (OpenSSL's name); it has to come."""
    try:
        with port.connect(context, session) as connection:
            answer = ask(connection)
    except ssl.SSLError as error:
        return error.reason or str(error)
    raise AssertionError(f"no alert: {answer and answer.raw!r}")


@contextmanager
def secured(
    folder: Path,
    files: Files,
    authority: Authority,
    *,
    loop: str = "uvloop",
    tls: dict[str, Any] | None = None,
    **more: Any,
) -> Iterator[Port]:
    """A server whose device port has TLS on these files."""
    more.setdefault("connections", {})
    more["connections"] |= {"requests_per_second": 1e6, "requests_burst": 1e6}
    options = settings(folder / "data", tls={**files.settings, **(tls or {})}, **more)
    with ExitStack() as stack:
        served = stack.enter_context(serving(options, loop=loop))
        yield Port(served, files, authority)


def swap_link(folder: Path, version: str, contents: dict[str, bytes]) -> None:
    """Replaces `..data` as kubelet does for a mounted Secret."""
    target = folder / f"..{version}"
    target.mkdir()
    for name, content in contents.items():
        (target / f"{name}.pem").write_bytes(content)
    (folder / "..data_tmp").symlink_to(target.name)
    (folder / "..data_tmp").replace(folder / "..data")
    for name in contents:
        link = folder / f"{name}.pem"
        if not link.is_symlink():
            link.symlink_to(Path("..data") / link.name)
