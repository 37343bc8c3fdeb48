"""A process that answers plain requests: the engines of one version, and nothing of the server around them.

Python lets one thread run at a time. Where the engines work in threads of the server, its event loop and they hand that
right around, and batches take 1.7 times as long as alone. Here they have an interpreter, and a core, of their own. All
processes share the pages of tables and indexes, mapped from the bundle's files, and those of the server's shelf, where
rows of items that come are put.

Started with the number of a socket's descriptor; ends when the other end is closed, however the server ended.
"""

import contextlib
import os
import signal
import socket
import sys
from pathlib import Path
from typing import IO

import numpy as np

from lanner.artifacts.ladder import FOLDER, read_ladder
from lanner.serving.beside.messages import (
    FILE_FOLLOWS,
    Add,
    Answered,
    Ask,
    Changed,
    Failed,
    Fold,
    Frames,
    Open,
    Opened,
    Remove,
    Reply,
    Told,
    answered_of,
    framed,
    histories_of,
    read_told,
    rows_of,
)
from lanner.serving.cores import on_one_core
from lanner.serving.engine import Engine, add_items, indexes_of, remove_items
from lanner.serving.item_index import KeptIndexes
from lanner.serving.item_tables import ItemTables, growing_table
from lanner.serving.measuring import measured_times
from lanner.serving.retrieval import Index
from lanner.serving.shelf import Shelf
from lanner.serving.together import answer_together

_NICENESS = 5
"""Where cores are few, who reads requests and writes answers goes first: whom nobody computes an answer for in time
still gets the spare one."""
_AT_ONCE = 1 << 18
"""Bytes read from the socket at a time."""


class Worker:
    """Does what it is told, one thing after another."""

    def __init__(self, shelf: IO[bytes]) -> None:
        """shelf: the file of its server's."""
        self._engines: dict[str, Engine] = {}
        self._shelf = shelf

    def do(self, message: Told) -> Reply:
        """What came of it; whatever goes wrong is said, for a batch that fails must not end the others."""
        try:
            if isinstance(message, Ask):
                return self._answer(message)
            if isinstance(message, Open):
                return self._open(message)
            return self._change(message)
        except Exception as error:
            return Failed(f"{type(error).__name__}: {' '.join(str(error).split())}")

    def _open(self, message: Open) -> Opened:
        path = Path(message.bundle)
        ladder, indexes = read_ladder(path), KeptIndexes(path / FOLDER, message.candidates)
        shelf = Shelf(message.most_new_items, self._shelf)
        for name in message.variants:
            rung = ladder.rung(name)
            index = indexes.of(rung.form, lambda: None)
            tables = ItemTables(rung.form, name, shelf)
            self._engines[name] = Engine(rung, candidates=message.candidates, index=index, tables=tables)
        asked = [np.frombuffer(one, np.int64) for one in message.histories]
        return Opened({name: dict(measured_times(engine, asked)) for name, engine in self._engines.items()})

    def _answer(self, message: Ask) -> Answered:
        engine = self._engines[message.variant]
        return answered_of(answer_together(engine, histories_of(message), message.ks, message.exclude_seen))

    def _change(self, message: Add | Remove | Fold) -> Changed:
        engines = list(self._engines.values())
        if isinstance(message, Add):
            add_items(engines, rows_of(message))
        elif isinstance(message, Remove):
            remove_items(engines, np.frombuffer(message.rows, np.int64))
        else:
            index = indexes_of(engines)[message.place]
            assert isinstance(index, Index), "a fixed order is never built anew"
            index.adopt(Path(message.folder))
        return Changed()


def serve(connection: socket.socket) -> None:
    """Answer until the other end is closed."""
    _, files, _, _ = socket.recv_fds(connection, len(FILE_FOLLOWS), 1)
    if not files:
        return  # the server has found nothing to open
    worker, frames = Worker(os.fdopen(files[0], "r+b")), Frames()
    # One place for whatever comes: to ask for so much memory each time and keep little of it left a heap full of holes.
    room = memoryview(bytearray(_AT_ONCE))
    with on_one_core():
        while length := connection.recv_into(room):
            for content in frames.take(room[:length]):
                connection.sendall(framed(worker.do(read_told(content))))


def main() -> None:
    """Serve on the descriptor that the command line names."""
    # Ctrl-C in a terminal reaches every process of its group; this one ends with the server, after the last answer.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    # Numba gets itself ready, which takes a second, while the server reads its bundle.
    growing_table(np.zeros((1, 1), np.float32), "", Shelf(1)).take(np.zeros(1, np.int64))
    # A server that is gone wants no reply.
    with socket.socket(fileno=int(sys.argv[1])) as connection, contextlib.suppress(ConnectionError):
        serve(connection)


if __name__ == "__main__":
    main()
