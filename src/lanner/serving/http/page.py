"""The web page's files, loaded into memory at startup: requests never touch the file system."""

import hashlib
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath

from lanner.serving.http.responses import Header, Reply, headers_of

KINDS = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".json": b"application/json",
    ".svg": b"image/svg+xml",
    ".png": b"image/png",
    ".ico": b"image/x-icon",
    ".woff2": b"font/woff2",
}
"""Content types by file suffix; other files are not served."""


class PageFile:
    """A file with its ETag; ``reply`` answers 304 if the client has it."""

    def __init__(self, content: bytes, kind: bytes) -> None:
        self._tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'.encode()
        tagged: Header = (b"etag", self._tag)
        self._full = Reply(200, headers_of(kind, tagged, cache=b"no-cache"), content)
        self._unchanged = Reply(304, headers_of(kind, tagged, cache=b"no-cache"), b"")

    def reply(self, has: bytes) -> Reply:
        """has: value of If-None-Match."""
        tags = [one.strip().removeprefix(b"W/") for one in has.split(b",")]
        return self._unchanged if self._tag in tags or tags == [b"*"] else self._full


def read_page() -> dict[bytes, PageFile]:
    """Every file of the page by URL path; ``/`` is ``index.html``."""
    found = _collect_files(files("lanner.serving").joinpath("page"), "/")
    found[b"/"] = found[b"/index.html"]
    return found


def _collect_files(folder: Traversable, path: str) -> dict[bytes, PageFile]:
    found: dict[bytes, PageFile] = {}
    for one in folder.iterdir():
        kind = KINDS.get(PurePosixPath(one.name).suffix)
        if one.is_dir():
            found |= _collect_files(one, f"{path}{one.name}/")
        elif kind is not None:
            found[f"{path}{one.name}".encode()] = PageFile(one.read_bytes(), kind)
    return found
