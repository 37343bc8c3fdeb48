"""An engine process as its server sees it: started, told, asked, and known to have died."""

import asyncio
import contextlib
import logging
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from lanner.errors import BundleError
from lanner.models.request_form import ItemRows
from lanner.serving.beside.messages import (
    FILE_FOLLOWS,
    Answered,
    Failed,
    Fold,
    Frames,
    Open,
    Opened,
    Remove,
    Reply,
    Told,
    add_of,
    answers_of,
    ask_of,
    framed,
    read_reply,
)
from lanner.serving.engine import Answer
from lanner.serving.scheduling.profile import Times
from lanner.serving.shelf import Shelf

_ENDING_S = 5.0
"""How long a process may take to end once its socket is closed."""
_log = logging.getLogger(__name__)
Then = Callable[[Reply | None], None]
"""What to do with a reply; None: the process is gone, and will not answer."""


class EngineProcess(asyncio.Protocol):
    """``add``, ``remove`` and ``close`` come from other threads than the loop's, the rest from the loop's alone.

    Replies come in the order of what was told, so what is asked after a change is answered with it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Starts it at once, from any thread; it imports what it needs while its server opens the bundle."""
        self._loop = loop
        ours, its = socket.socketpair()
        self._socket = ours
        with its:
            command = [sys.executable, "-m", "lanner.serving.beside.process", str(its.fileno())]
            self._process = subprocess.Popen(command, pass_fds=(its.fileno(),), stdin=subprocess.DEVNULL)
        self._frames, self._then = Frames(), deque[Then]()
        self._transport: asyncio.Transport | None = None
        self._closing = False
        self.has_died = False

    @property
    def pending(self) -> int:
        """Messages that wait for their reply."""
        return len(self._then)

    def opened(self, message: Open, shelf: Shelf) -> dict[str, Times]:
        """Let it open a bundle; what it measured, by variant. Not to be called on the loop's thread.

        shelf: one with a file, which it will share.

        Raises:
            BundleError: it could not, or died.
        """
        assert shelf.file is not None
        with contextlib.suppress(OSError):  # it died already, of which the loop will hear
            socket.send_fds(self._socket, [FILE_FOLLOWS], [shelf.file.fileno()])
        connecting = self._loop.create_unix_connection(lambda: self, sock=self._socket)
        asyncio.run_coroutine_threadsafe(connecting, self._loop).result()
        reply = self._told(message)
        if not isinstance(reply, Opened):
            raise BundleError(f"{message.bundle}: an engine process could not open it ({_problem(reply)})")
        return cast(dict[str, Times], reply.times)

    def add(self, rows: ItemRows) -> None:
        """Items take the next rows there."""
        self._changed(add_of(rows))

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Items are found no more there."""
        self._changed(Remove(rows.astype(np.int64).tobytes()))

    def fold(self, place: int, folder: Path) -> None:
        """An index was built anew, and lies in a folder until this returns."""
        self._changed(Fold(place, str(folder)))

    def ask(
        self,
        variant: str,
        histories: Sequence[NDArray[np.int64]],
        ks: Sequence[int],
        exclude_seen: Sequence[bool],
        then: Callable[[list[Answer] | None], None],
    ) -> None:
        """Plain requests, see ``answer_together``. then: called on the loop; None where it could not answer."""
        self._tell(
            ask_of(variant, histories, ks, exclude_seen),
            lambda reply: then(answers_of(reply) if isinstance(reply, Answered) else None),
        )

    def close(self) -> None:
        """End it after what it was told."""
        self._closing = True
        self._loop.call_soon_threadsafe(self._hang_up)
        try:
            self._process.wait(_ENDING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    # --- on the loop -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        for content in self._frames.take(data):
            self._then.popleft()(read_reply(content))

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if not self._closing:
            self.has_died = True
            _log.error("an engine process ended unasked; threads answer instead until it is replaced")
        while self._then:
            self._then.popleft()(None)

    def _hang_up(self) -> None:
        if self._transport is not None:
            self._transport.close()
        else:
            self._socket.close()

    def _tell(self, message: Told, then: Then) -> None:
        if self._transport is None:
            then(None)
            return
        self._then.append(then)
        self._transport.write(framed(message))

    # --- beside the loop -------------------------------------------------------------------------------------------

    def _changed(self, message: Told) -> None:
        reply = self._told(message)
        if isinstance(reply, Failed):
            # It would answer from another catalogue than its server: better none.
            _log.error("an engine process could not take a change in (%s)", reply.problem)
            self._loop.call_soon_threadsafe(self._give_up)

    def _give_up(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _told(self, message: Told) -> Reply | None:
        async def reply() -> Reply | None:
            answered: asyncio.Future[Reply | None] = self._loop.create_future()
            self._tell(message, answered.set_result)
            return await answered

        return asyncio.run_coroutine_threadsafe(reply(), self._loop).result()


def _problem(reply: Reply | None) -> str:
    return reply.problem if isinstance(reply, Failed) else "it ended"
