"""Health, readiness and metrics on a port and in a thread of their own, which no load of the service can starve."""

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import NamedTuple


class Page(NamedTuple):
    """An answer."""

    status: int
    kind: str
    body: bytes


class OperationServer:
    """Answers GET of the `pages`, by path, on `host:port` (0: a free one, see `port`)."""

    def __init__(self, pages: dict[str, Callable[[], Page]], host: str, port: int) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 5.0  # of one request: nobody keeps a thread for longer

            def do_GET(self) -> None:
                make = pages.get(self.path)
                told = ", ".join(pages)
                page = make() if make else Page(404, "application/json", b'{"detail": "there are %b"}' % told.encode())
                self.send_response(page.status)
                self.send_header("Content-Type", page.kind)
                self.send_header("Content-Length", str(len(page.body)))
                self.end_headers()
                self.wfile.write(page.body)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: a probe is no news."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = Thread(target=self._server.serve_forever, name="operation", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
