"""Atomic, verified file downloads: resumed by ``Range``, limited in size, checked against a checksum.

During the download the file is named ``FILE.part``; ``FILE.part.etag`` beside it records the server's version of the
file, so that a resumed download (``If-Range``) never mixes two versions.
"""

import hashlib
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from lanner.errors import DataError

Progress = Callable[[int, int | None], None]
"""Called with the bytes received, and the total if the server reports it."""
ATTEMPTS = 5
"""Consecutive attempts without progress before giving up; received bytes are kept."""
TIMEOUT_S = 60.0
_PIECE = 1 << 18
_PARTIAL, _RANGE_REFUSED = 206, 416


def download(
    url: str,
    path: Path,
    *,
    sha256: str = "",
    at_most: int,
    progress: Progress = lambda done, total: None,
    pause: Callable[[float], Any] = time.sleep,
) -> Path:
    """Download ``url`` to ``path``; an existing file is verified and kept.

    Args:
        url: https, or http if the list says so; redirects from https to http are rejected.
        path: the file; its folder must exist.
        sha256: expected checksum; empty: not verified.
        at_most: bytes; a larger file is rejected.
        progress: called after each chunk.
        pause: sleeps for the given seconds between attempts.

    Raises:
        DataError: the server refuses, the connection keeps breaking, the file is too long, or its checksum differs.
    """
    part = path.with_name(f"{path.name}.part")
    if not path.exists():
        failures = 0
        while True:
            before = _size(part)
            try:
                _receive(url, part, at_most, progress)
                break
            except urllib.error.HTTPError as error:
                if error.code < 500 and error.code not in (408, 429):
                    raise DataError(f"the server refused the request ({error.code} {error.reason})", path=url) from None
                problem: Exception = error
            except (OSError, HTTPException) as error:
                problem = error
            except DataError:  # not the expected file: discard it
                part.unlink(missing_ok=True)
                raise
            failures = 0 if _size(part) > before else failures + 1
            if failures == ATTEMPTS:
                kept = f"; {_size(part):,} bytes are kept, the same command resumes" if _size(part) else ""
                advice = f"check the network, or save the file by hand as {path}, and run the same command again"
                raise DataError(f"cannot be downloaded ({problem}){kept}; {advice}", path=url) from problem
            pause(min(2.0**failures, 30.0))
        part.replace(path)
        _etag(part).unlink(missing_ok=True)
    found = _digest(path) if sha256 else ""
    if found != sha256:
        path.unlink()
        raise DataError(
            f"the checksum is {found}, expected {sha256}; the file was removed: the publisher changed it, or it was "
            "changed in transit",
            path=url,
        )
    return path


def _receive(url: str, part: Path, at_most: int, progress: Progress) -> None:
    """Receive the missing bytes of ``part``; raises ``OSError`` or ``HTTPException`` if the connection breaks."""
    done, etag = _size(part), _etag(part)
    # Without a version tag, the received bytes may belong to another version.
    tag = etag.read_text(encoding="utf-8") if done and etag.exists() else ""
    headers = {"User-Agent": "lanner", "Accept-Encoding": "identity"}
    headers |= {"Range": f"bytes={done}-", "If-Range": tag} if tag else {}
    try:
        answer: HTTPResponse = _OPENER.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != _RANGE_REFUSED:
            raise
        part.unlink()  # longer than the current file: start over
        raise ConnectionError(str(error)) from None
    with answer:
        resumed = answer.status == _PARTIAL
        if resumed and not (answer.headers.get("Content-Range") or "").startswith(f"bytes {done}-"):
            part.unlink()
            raise ConnectionError("the server sent a different range than requested")
        done = done if resumed else 0
        etag.write_text(_version(answer), encoding="utf-8")
        content_length = answer.headers.get("Content-Length")
        total = None if content_length is None else done + int(content_length)
        _check_length(url, total or 0, at_most)
        with part.open("ab" if resumed else "wb") as file:
            while piece := answer.read(_PIECE):
                done += len(piece)
                _check_length(url, done, at_most)
                file.write(piece)
                progress(done, total)
        if total is not None and done < total:
            raise ConnectionError(f"the connection broke after {done:,} of {total:,} bytes")


def _version(answer: HTTPResponse) -> str:
    """The value for ``If-Range``: a strong ETag, else the file's date; empty if the server gives neither."""
    tag = answer.headers.get("ETag") or ""
    return tag if tag.startswith('"') else answer.headers.get("Last-Modified") or ""


def _check_length(url: str, length: int, at_most: int) -> None:
    if length > at_most:
        raise DataError(f"{length:,} bytes or more, expected at most {at_most:,}; not the expected file", path=url)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _etag(part: Path) -> Path:
    return part.with_name(f"{part.name}.etag")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Like the library's, but never from https to http."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise DataError("the server redirects from https to another protocol; refused", path=req.full_url)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_Redirects)
