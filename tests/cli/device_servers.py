"""A server for simulated devices that does one thing at a time: the tests' own, of few lines."""

import asyncio
import json
import zlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from urllib.parse import parse_qs, urlsplit

BLOCK = 4096


@dataclass
class DeviceServer:
    """Offers `image` as `version` to every device; records what came in.

    `cut` sends half of a download that is no resume and hangs up, `corrupt` flips a byte.
    """

    version: str
    image: bytes
    url: str = ""
    cut: bool = False
    corrupt: bool = False
    offering: bool = True
    requests: Counter[str] = field(default_factory=Counter)
    heads: list[str] = field(default_factory=list)
    reports: list[dict[str, str]] = field(default_factory=list)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            if head == "\r\n\r\n":
                head += (await reader.readuntil(b"\r\n\r\n")).decode()
            elif head.startswith("\r\n"):
                self.requests["leading CRLF"] += 1
            headers = dict(
                line.lower().split(": ", 1) for line in head.strip().split("\r\n")[1:] if line
            )
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            await self._route(head.strip(), headers, body, writer)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _route(
        self, head: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter
    ) -> None:
        self.heads.append(head)
        url = urlsplit(head.split(" ")[1])
        self.requests[url.path] += 1
        if url.path.endswith(("/firmware", "/artifacts")):
            self._send_image(headers.get("range", ""), writer)
        elif url.path.endswith("/version"):
            assert parse_qs(url.query)["device"]
            text = f"{self.version}\n{zlib.crc32(self.image)}\n{len(self.image)}"
            self._send(writer, 200 if self.offering else 404, text.encode())
        elif url.path.endswith("/api/v1/poll"):
            known = json.loads(body)
            update = self._update() if self.offering and known["version"] != self.version else None
            self._send(writer, 200, json.dumps({"update": update, "reason": "Offered"}).encode())
        elif url.path.endswith("/api/v1/report"):
            self.reports.append(json.loads(body))
            self._send(writer, 200, b"{}")
        else:
            self._send(writer, 404, b"")

    def _update(self) -> dict[str, object]:
        return {
            "version": self.version,
            "digest": "sha256:" + "0" * 64,
            "size": len(self.image),
            "sha256": sha256(self.image).hexdigest(),
            "crc32": zlib.crc32(self.image),
            "url": f"{self.url}/artifacts?device=x",
        }

    def _send_image(self, wanted: str, writer: asyncio.StreamWriter) -> None:
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        content = self.image[start:]
        if self.corrupt:
            content = bytes([content[0] ^ 1]) + content[1:]
        sent = content[: len(content) // 2] if self.cut and not wanted else content
        self._send(writer, 206 if wanted else 200, sent, length=len(content))

    def _send(
        self, writer: asyncio.StreamWriter, status: int, body: bytes, length: int | None = None
    ) -> None:
        size = len(body) if length is None else length
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {size}\r\n\r\n".encode() + body)


@asynccontextmanager
async def device_server(version: str, image: bytes, port: int = 0) -> AsyncIterator[DeviceServer]:
    made = DeviceServer(version, image)
    server = await asyncio.start_server(made.answer, "127.0.0.1", port)
    async with server:
        made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield made
