"""The plain server as a process that is started, asked and stopped as TorchServe is; also that process itself."""

import argparse
import asyncio
import signal
import socket
import sys
from pathlib import Path

from serving.plain.app import APIS, make_app
from serving.torchserve.server import HOST, STARTED, TorchServe

_ROOT = Path(__file__).parents[2]


class PlainServer(TorchServe):
    """`with PlainServer(logs) as server:`, and then everything that a `TorchServe` can, without keys: it is asked and
    managed on loopback, whatever `host` is; that is where its metrics are."""

    _called = "the plain server"
    has_keys = False
    worker_log = "console.log"

    def _command(self) -> tuple[list[str], dict[str, str]]:
        if self._tokens:
            raise ValueError(f"the plain server is asked on {HOST} only and wants no key; elsewhere use TorchServe")
        ports = [part for api in APIS for part in (f"--{api}", str(self._ports[api]))]
        command = [sys.executable, "-m", "serving.plain.server", "--folder", str(self.folder), *ports]
        return [*command, "--metrics-host", self._host], {"PYTHONPATH": str(_ROOT)}

    def _asked_at(self) -> str:
        return HOST


async def serve(folder: Path, ports: dict[str, int], metrics_host: str) -> None:
    """Serve what is registered until SIGTERM."""
    import uvicorn

    hosts = {api: metrics_host if api == "metrics" else HOST for api in APIS}
    listening = [socket.create_server((hosts[api], ports[api]), backlog=1024) for api in APIS]
    config = uvicorn.Config(make_app(folder, ports), log_level="warning", access_log=False, timeout_keep_alive=75)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(listening))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    print(STARTED, flush=True)
    await serving


def main() -> None:
    import uvloop

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--metrics-host", default=HOST)
    for api in APIS:
        parser.add_argument(f"--{api}", type=int, required=True, metavar="PORT")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who has started it stops it
    uvloop.run(serve(options.folder, {api: getattr(options, api) for api in APIS}, options.metrics_host))


if __name__ == "__main__":
    main()
