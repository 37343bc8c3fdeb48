"""A worker process that serves the application: uvicorn on uvloop and httptools, with ``LimitedProtocol``."""

import asyncio
import contextlib
import functools
import gc
import resource
import signal
import socket
import sys
from typing import Any

import uvicorn

from lanner.serving.http.app import App
from lanner.serving.http.connections import LimitedProtocol

_BACKLOG = 4096
"""Listen backlog."""
_IDLE_SECONDS, _STOP_SECONDS = 75, 20
"""Keep-alive timeout, and grace period for requests at shutdown, in seconds."""
_SWITCH_S = 0.0005
"""Maximum wait of other threads for the interpreter lock while the loop is busy, in seconds."""
_GC_THRESHOLDS = (10_000, 4, 4)
_OTHER_FILES = 256
"""File descriptors reserved besides connections."""


class _Server(uvicorn.Server):  # type: ignore[misc]
    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        # Startup objects are frozen: scanning a catalog in the garbage collector would stall every request.
        gc.collect()
        gc.freeze()
        gc.collect()  # resets the threshold of full collections, a quarter of the objects scanned last
        gc.enable()
        gc.set_threshold(*_GC_THRESHOLDS)

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # once a second
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                connection.close_if_late(now)
        return bool(await super().on_tick(counter))

    async def shutdown(self, sockets: Any = None) -> None:
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()  # a task waiting for a slow client would keep the process alive


def run_worker(app: App, sockets: list[socket.socket]) -> bool:
    """Serve an application on bound sockets until SIGTERM or SIGINT, then finish pending requests.

    Returns whether it started; the log says why it did not.
    """
    server = _Server(config_of(app))
    _allow_files(app.limits.connections + _OTHER_FILES)
    sys.setswitchinterval(_SWITCH_S)
    # After a graceful stop uvicorn raises the signal again, which would look like a crash.
    signal.signal(signal.SIGTERM, lambda *_: None)
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        server.run(sockets=sockets)
    return bool(server.started)


def config_of(app: App) -> uvicorn.Config:
    """uvicorn's configuration of a worker."""
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=functools.partial(LimitedProtocol, limits=app.limits),
        ws="none",
        backlog=_BACKLOG,
        access_log=False,
        log_level="error",
        server_header=False,
        date_header=False,
        proxy_headers=bool(app.limits.proxies),
        forwarded_allow_ips=list(app.limits.proxies),
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )


def _allow_files(number: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < number:
        wanted = number if hard == resource.RLIM_INFINITY else min(number, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
