"""The reconciler's status over HTTP, for probes: `/ready` is 200 or 503, `/health` is 200 while it lives."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from serving.torchserve.reconciler import Status


@contextmanager
def served(status: Callable[[], Status], *, host: str, port: int) -> Iterator[int]:
    """Answer while the context lasts; gives the port (a free one for 0). Raises `OSError` where it is taken."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = status()
            code = {"/ready": 200 if found.ready else 503, "/health": 200}.get(self.path, 404)
            body = json.dumps(found.to_json() if self.path == "/ready" else {}).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """A probe each second is no news."""

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
