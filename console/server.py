"""The console's web server, which ends soon after it is told to, whatever is being made."""

import os
import threading
from types import FrameType

import uvicorn

LAST_SECONDS = 2.0


class EndingServer(uvicorn.Server):
    """Pages that are being made have some seconds more; a thread that reads cannot be stopped, so the process is."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        late = threading.Timer(LAST_SECONDS, os._exit, [0])
        late.daemon = True
        late.start()
