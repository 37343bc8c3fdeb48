"""uvicorn's HTTP protocol with a short way out: to turn somebody away costs no task, scope or reply of ASGI."""

import re

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lanner.serving.http.app import App

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d{1,9})\r\n", re.IGNORECASE)
_END = b"\r\n\r\n"


def protocol_of(app: App) -> type[HttpToolsProtocol]:
    """A protocol that asks the door of ``app`` before anything is read of a request that came whole and alone."""
    served = tuple(f"{method} {path} HTTP/1.1\r\n".encode() for method, path in app.behind_the_door)

    class Protocol(HttpToolsProtocol):  # type: ignore[misc]
        _is_between = True
        """Whether the last request came to its end."""

        def data_received(self, data: bytes) -> None:
            free = self._is_between and (self.cycle is None or self.cycle.response_complete)
            if free and app.is_full and data.startswith(served) and _is_whole(data):
                self.transport.write(app.turn_away(data))
            else:
                super().data_received(data)

        def on_message_begin(self) -> None:
            self._is_between = False
            super().on_message_begin()

        def on_message_complete(self) -> None:
            self._is_between = True
            super().on_message_complete()

    return Protocol


def _is_whole(data: bytes) -> bool:
    """Whether these bytes are one request with all of its body, and the connection is to stay."""
    head = data.find(_END)
    length = _LENGTH.search(data, 0, head + 2) if head >= 0 else None
    return length is not None and len(data) == head + len(_END) + int(length[1])
