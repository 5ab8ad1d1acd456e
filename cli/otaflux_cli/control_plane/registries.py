"""A real OCI registry on 127.0.0.1, and the real oras, for tests and the demo.

Two registries: distribution v3 (part ``registry``) and Debian's
``docker-registry``, distribution 2.8. Both take the same configuration.
"""

from __future__ import annotations

import json
import secrets
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from .certificates import ServerCertificate
from .finding import find_all
from .lifetimes import Lifetime
from .processes import Server, StartFailed, free_port, run_command

_START_ATTEMPTS = 3


class Registry(Lifetime):
    """One registry; an async context manager. ``host`` is ``127.0.0.1:<port>``.

    Anonymous over plain HTTP unless told otherwise. Blobs and manifests may be
    deleted. ``stop()`` and ``start()`` keep port and data.
    """

    def __init__(
        self,
        program: Path | None = None,
        *,
        folder: Path | None = None,
        certificate: ServerCertificate | None = None,
        users: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """``program``: distribution v3 unless given; raises PartMissing where it is missing.

        ``users`` (name to password) turns on Basic authentication.
        ``certificate`` turns on TLS. ``config`` is laid over the registry's own
        configuration, section by section: ``{"auth": {"token": {…}}}``.
        """
        self._program = find_all(("registry",))["registry"] if program is None else program
        super().__init__("registry", folder)
        self._certificate = certificate
        self._users = dict(users or {})
        self._config = dict(config or {})
        self._port = 0
        self._server: Server | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        return f"{'http' if self._certificate is None else 'https'}://{self.host}"

    @property
    def log(self) -> Path:
        """What the registry wrote, one line per request among it."""
        return self.folder / "registry.log"

    async def start(self) -> None:
        """Start, or start again on the same data and port after ``stop()``."""
        if self._server is not None:
            await self._server.start(self._answers)
            return
        self._make_folder()
        for attempt in range(1, _START_ATTEMPTS + 1):
            self._port = free_port()
            config = self.folder / "config.json"
            config.write_text(json.dumps(self._full_config(), indent=1))
            server = Server(
                "registry",
                [str(self._program), "serve", str(config)],
                self.log,
                environment={"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"},
            )
            try:
                await server.start(self._answers)
            except StartFailed as error:
                if attempt == _START_ATTEMPTS or "address already in use" not in str(error):
                    raise
            else:
                self._server = server
                return

    async def stop(self, *, kill: bool = False) -> None:
        """Stop and keep the data."""
        if self._server is not None:
            await self._server.stop(kill=kill)

    def _full_config(self) -> dict[str, Any]:
        http: dict[str, Any] = {"addr": self.host, "secret": secrets.token_hex(16)}
        if self._certificate is not None:
            http["tls"] = {
                "certificate": str(self._certificate.certificate),
                "key": str(self._certificate.key),
            }
        config: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "info"},
            "storage": {
                "filesystem": {"rootdirectory": str(self.folder / "data")},
                "delete": {"enabled": True},
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            "http": http,
        }
        if self._users:
            passwords = self.folder / "htpasswd"
            passwords.touch(mode=0o600)
            passwords.write_text(
                "".join(_htpasswd_line(name, password) for name, password in self._users.items())
            )
            config["auth"] = {"htpasswd": {"realm": "otaflux", "path": str(passwords)}}
        for section, value in self._config.items():
            own = config.get(section)
            if isinstance(own, dict) and isinstance(value, Mapping) and section != "auth":
                value = {**own, **value}
            config[section] = value
        return config

    async def _answers(self) -> bool:
        verify: ssl.SSLContext | bool = True
        if self._certificate is not None:
            verify = ssl.create_default_context(cafile=str(self._certificate.authority))
        try:
            async with httpx.AsyncClient(verify=verify, trust_env=False) as client:
                response = await client.get(f"{self.url}/v2/")
        except httpx.TransportError:
            return False
        return response.status_code in (200, 401)


class Oras:
    """The real oras with a Docker configuration of its own: ``await oras("push", …)``."""

    def __init__(self, folder: Path, program: Path | None = None) -> None:
        """Raises PartMissing where oras is not on this machine."""
        self._program = find_all(("oras",))["oras"] if program is None else program
        self._folder = folder

    async def __call__(
        self,
        *arguments: str,
        input: str | None = None,
        cwd: Path | None = None,
    ) -> str:
        """Run one oras command and return its standard output; raises CommandFailed.

        Push files by names relative to ``cwd``: the name becomes the layer's title.
        """
        return await run_command(
            [str(self._program), *arguments],
            input_text=input,
            environment={"DOCKER_CONFIG": str(self._folder)},
            cwd=cwd,
        )


def _htpasswd_line(user: str, password: str) -> str:
    import bcrypt  # only tests ask for users, and only they have it

    return f"{user}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(5)).decode()}\n"
