"""An internal API that answers what a test says, for what a real one never would."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class Answering:
    """Every request gets `body` with `status`, or the next of `pages`; `paths` came in."""

    def __init__(self) -> None:
        self.status = 200
        self.body = b"{}"
        self.pages: list[object] = []
        self.paths: list[str] = []
        self.url = ""


@contextmanager
def answering_server() -> Iterator[Answering]:
    made = Answering()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.paths.append(self.path)
            body = json.dumps(made.pages.pop(0)).encode() if made.pages else made.body
            self.send_response(made.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
