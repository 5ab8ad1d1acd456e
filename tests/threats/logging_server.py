"""A server that logs as the real program does: `python -m tests.threats.logging_server FOLDER
json|text on|off`. `off`: without what keeps a line one line. Ends when stdin does."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import structlog

from otaflux_policy.canonical import dumps
from otaflux_server import logs, requests
from otaflux_server.policies import PolicyStore
from otaflux_server.requests import Request
from otaflux_server.serving import UpdateServer
from tests.server.fleets import NAMESPACE, MemorySource, policy, settings

log = structlog.get_logger(__name__)

FORGED = "\r\nFORGED\x1b[31m\x1b]0;owned\x07\x85FORGED\u2028FORGED"
"""Ends lines for terminals and for readers of files, and says something to a terminal."""
OBEYED = "\x1b]0;owned\x07"
"""By terminals; no space in it, so that nobody puts it into quotes."""


def naive_line(_logger: Any, _method: str, event: structlog.typing.EventDict) -> str:
    """Texts as they are."""
    return " ".join(f"{key}={value}" for key, value in event.items())


def naive_json(request: Request) -> dict[str, Any]:
    """As it is tempting to write: a line for each request, with what it says."""
    content: dict[str, Any] = json.loads(request._body)
    log.info("asked", content=" ".join(map(str, content.values())))
    return content


def publish(policies: PolicyStore) -> None:
    """What somebody may write into a ConfigMap: the refusal names the field that is wrong."""
    content = {**json.loads(dumps(policy("x"))), FORGED: 1}
    assert not policies.apply_policy(NAMESPACE, "x", json.dumps(content))
    assert not policies.apply_policy(NAMESPACE, OBEYED, "{}")


async def serve(folder: Path, log_format: str) -> None:
    options = settings(folder, log_format=log_format)
    logs.configure(options)
    async with UpdateServer(options, artifact_source=MemorySource()) as server:
        server.policies.connected()
        publish(server.policies)
        sys.stdout.write(f"{server.device_url}\n")  # this is what its starter waits for
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    folder, log_format, mitigations = sys.argv[1:]
    if mitigations == "off":
        patch.object(logs, "one_line", lambda _logger, _method, event: event).start()
        patch.object(structlog.processors, "JSONRenderer", lambda: naive_line).start()
        patch.object(structlog.dev, "ConsoleRenderer", lambda: naive_line).start()
        patch.object(requests, "device_id", lambda text: text).start()
        patch.object(Request, "json", naive_json).start()
    asyncio.run(serve(Path(folder), log_format))


if __name__ == "__main__":
    main()
