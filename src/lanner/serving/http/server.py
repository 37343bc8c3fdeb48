"""A worker process that serves the application: stock uvicorn on uvloop and httptools, with ``LimitedProtocol``."""

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
"""Connections that wait to be accepted."""
_IDLE_SECONDS, _STOP_SECONDS = 75, 20
"""How long a connection may stay idle, and requests may take to end when the server stops."""
_SWITCH_S = 0.0005
"""Other threads wait for the interpreter no longer than that, however busy the loop is."""
_GC_THRESHOLDS = (10_000, 4, 4)
_OTHER_FILES = 256
"""Open files besides connections."""


class _Server(uvicorn.Server):  # type: ignore[misc]
    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        # The collector skips what was read at the start: walking through a catalog would stall every request.
        gc.collect()
        gc.freeze()
        gc.collect()  # or it would wait for a fourth as many objects as there were before it walks through all again
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
            connection.transport.abort()  # or a task that waits for a client to read would keep the process alive


def run_worker(app: App, sockets: list[socket.socket]) -> bool:
    """Serve an application on bound sockets until SIGTERM or SIGINT, then let the last requests end.

    Returns whether it ever started; its log says why it did not.
    """
    server = _Server(config_of(app))
    _allow_files(app.limits.connections + _OTHER_FILES)
    sys.setswitchinterval(_SWITCH_S)
    # uvicorn stops gracefully and then raises the signal once more, which would make it look like a crash.
    signal.signal(signal.SIGTERM, lambda *_: None)
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        server.run(sockets=sockets)
    return bool(server.started)


def config_of(app: App) -> uvicorn.Config:
    """uvicorn's settings for a worker."""
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
