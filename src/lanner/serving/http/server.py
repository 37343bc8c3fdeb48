"""The process that serves an application: uvicorn with a protocol of our own, on a loop of libuv."""

import contextlib
import gc
import signal
import sys
from typing import Any

import uvicorn

from lanner.serving.http.app import App
from lanner.serving.http.protocol import protocol_of

_BACKLOG = 4096
"""Connections that wait to be taken."""
_IDLE_SECONDS, _LAST_SECONDS = 75, 20
"""How long a connection may stay silent, and requests may take to end when the server stops."""
_SWITCH_S = 0.0005
"""What writes events or places items waits for the interpreter no longer than that, however busy the loop is."""
_OBJECTS_BETWEEN_COLLECTIONS = 10_000
_COLLECTIONS_BETWEEN_OLDER = 4
"""What outlived one is looked at after so many, and what outlived two after so many of these."""


class _Server(uvicorn.Server):  # type: ignore[misc]
    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        # The collector passes over what was read at the start: its walks through a catalogue held everybody up.
        gc.collect()
        gc.freeze()
        gc.collect()  # or it would wait for a fourth as many objects as there were before it walks through all again
        gc.enable()
        gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS, _COLLECTIONS_BETWEEN_OLDER, _COLLECTIONS_BETWEEN_OLDER)


def run(app: App, host: str, port: int) -> bool:
    """Serve until a signal ends it, in peace. Returns whether it ever started; its log says why it did not."""
    server = _Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            loop="uvloop",
            http=protocol_of(app),
            ws="none",
            backlog=_BACKLOG,
            access_log=False,
            log_level="warning",
            server_header=False,
            date_header=False,
            timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=_LAST_SECONDS,
        )
    )
    sys.setswitchinterval(_SWITCH_S)
    # uvicorn ends in peace and then raises the signal once more, which would make it look like a death.
    signal.signal(signal.SIGTERM, lambda *_: None)
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    return bool(server.started)
