"""Safely unpack an untrusted archive: nothing outside the folder, no links, a size limit."""

import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from lanner.errors import DataError

MOST_FILES = 10_000
_PIECE = 1 << 18


def unpack(archive: Path, folder: Path, *, at_most: int) -> list[Path]:
    """The files of a zip archive, written into ``folder``; a single top-level folder is stripped.

    Args:
        archive: the zip file.
        folder: must exist.
        at_most: bytes of all files together, counted as they are written, as an archive's own sizes are not trusted.

    Returns:
        The files.

    Raises:
        DataError: not a zip file, damaged, encrypted, or one with links, with names that lead out of the folder, or
            larger than allowed. The caller removes what was already written.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [one for one in opened.infolist() if not one.is_dir()]
            if len(members) > MOST_FILES:
                raise DataError(f"{len(members):,} files, expected at most {MOST_FILES:,}; not unpacked", path=archive)
            names = [_checked(one, archive) for one in members]
            if len(set(names)) < len(names):
                raise DataError("contains a name twice; not unpacked", path=archive)
            tops = {name.parts[0] for name in names}
            inner = [PurePosixPath(*name.parts[1:]) for name in names]
            stripped = inner if len(tops) == 1 and all(name.parts for name in inner) else names
            left = at_most
            for member, name in zip(members, stripped, strict=True):
                left = _extract(opened, member, folder / name, archive, left)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"cannot be unpacked ({error}); download it again", path=archive) from error
    return [folder / name for name in stripped]


def _checked(member: zipfile.ZipInfo, archive: Path) -> PurePosixPath:
    """The member's name; raises ``DataError`` for one outside the folder, and for anything but a regular file."""
    name, mode = PurePosixPath(member.filename), member.external_attr >> 16
    if name.is_absolute() or ".." in name.parts or any(one in member.filename for one in ("\\", ":", "\0")):
        raise DataError(
            f"contains the name '{member.filename}', which points outside the folder; not unpacked", path=archive
        )
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"'{member.filename}' is packed in an unusual way; not unpacked", path=archive)
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise DataError(f"'{member.filename}' is a link or a device; not unpacked", path=archive)
    return name


def _extract(opened: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, archive: Path, left: int) -> int:
    """Write one file; returns the remaining byte budget."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened.open(member) as source, path.open("xb") as file:
        while piece := source.read(_PIECE):
            left -= len(piece)
            if left < 0:
                raise DataError("contains more bytes than expected; not unpacked", path=archive)
            file.write(piece)
    return left
