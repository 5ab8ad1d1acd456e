"""The least that uvicorn can do: one fixed reply to every request, from a plain ASGI function.

python -m benchmarks.programs.bare_uvicorn CORE PORT BODY_SIZE
"""

from __future__ import annotations

import sys
from typing import Any

import uvicorn

from benchmarks.machines import stay_on


def main() -> None:
    """Runs until SIGTERM."""
    core, port, size = map(int, sys.argv[1:])
    stay_on(core)
    body = b"x" * size
    start = {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"content-type", b"text/plain"), (b"content-length", b"%d" % size)],
    }
    end = {"type": "http.response.body", "body": body}

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send(start)
        await send(end)

    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_level="warning",
        server_header=False,
        date_header=False,
    )


if __name__ == "__main__":
    main()
