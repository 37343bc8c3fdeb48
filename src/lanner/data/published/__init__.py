"""Published datasets: where each is, under what terms, and how to download it."""

import json
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from lanner.data.published.transfer import Progress, download
from lanner.data.published.unpacking import unpack
from lanner.data.sources.recipe import data_root
from lanner.errors import ConfigError, DataError, Interrupted, StorageError, nearest
from lanner.settings import build, read_toml

MARKER = ".lanner-fetched"
"""Provenance file of a downloaded folder: what, from where, when, as JSON. No reader mistakes it for data."""
_MB = 1_000_000


@dataclass(frozen=True)
class PublishedFile:
    """A file of a dataset. sha256: empty if none is published. at_most_mb: larger files are rejected.

    unpacked_at_most_mb: size limit of an unpacked archive; 0: not an archive.
    """

    url: str
    at_most_mb: int
    sha256: str = ""
    unpacked_at_most_mb: int = 0

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class PublishedDataset:
    """One entry of the list.

    format: which of ``SOURCES`` reads its folder; empty: a recipe does. files: empty if the terms or the
    publisher's page do not let a program download it; by_hand then gives the manual steps.
    """

    name: str
    title: str
    page: str
    events: str
    licence: str
    terms: str
    citation: str
    format: str = ""
    by_hand: str = ""
    bundled: bool = False
    files: tuple[PublishedFile, ...] = ()

    @property
    def way(self) -> str:
        """How to get it: bundled, download, or by hand."""
        return "bundled" if self.bundled else "download" if self.files else "by hand"

    @property
    def folder(self) -> Path:
        """Default folder: in ``LANNER_DATA``, else in the user's data directory."""
        return data_root() / self.name


def published() -> dict[str, PublishedDataset]:
    """All entries by name."""
    path = Path(__file__).with_name("datasets.toml")
    found = {}
    for name, entry in read_toml(path).items():
        files = tuple(build(PublishedFile, one, f"{path}: {name}.files.") for one in entry.pop("files", ()))
        found[name] = build(PublishedDataset, {**entry, "name": name, "files": files}, f"{path}: {name}.")
    return found


def published_dataset(name: str) -> PublishedDataset:
    """One entry. Raises ``ConfigError`` for a name that is not on the list."""
    known = published()
    if name not in known:
        near = nearest(name, known)
        advice = f"did you mean '{near}'?" if near else f"known: {', '.join(known)}"
        raise ConfigError(f"unknown dataset '{name}'; {advice}")
    return known[name]


def is_fetched(dataset: PublishedDataset, folder: Path) -> bool:
    """Whether the folder holds this dataset already, as ``fetch`` left it."""
    try:
        marker = json.loads((folder / MARKER).read_bytes())
        return bool(marker["name"] == dataset.name)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def fetch(
    dataset: PublishedDataset,
    folder: Path,
    progress: Callable[[str], Progress] = lambda name: lambda done, total: None,
) -> Path:
    """Download a dataset into ``folder``, which appears once everything in it is verified.

    A partial download is kept in ``.NAME.download`` beside the folder, for the next call; a failed one without a byte
    is not.

    Args:
        dataset: one with downloadable files.
        folder: must not exist, or be empty, or hold this dataset already.
        progress: returns a file's progress callback, given its name.

    Raises:
        ConfigError: no program may download it. StorageError: the folder holds something else, or the disk is too
            small. DataError: the network, a wrong checksum, or an archive that cannot be trusted. Interrupted: Ctrl-C.
    """
    if not dataset.files:
        raise ConfigError(f"{dataset.name} cannot be downloaded by a program: {dataset.by_hand} Page: {dataset.page}")
    if is_fetched(dataset, folder):
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StorageError(f"{folder}: holds something other than a fetched {dataset.name}; give another --out")
    work = folder.absolute().with_name(f".{folder.name}.download")
    draft = work / "unpacked"
    try:
        work.mkdir(parents=True, exist_ok=True)
        _check_space(dataset, work)
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        for one in dataset.files:
            path = work / one.name
            download(one.url, path, sha256=one.sha256, at_most=one.at_most_mb * _MB, progress=progress(one.name))
            if one.unpacked_at_most_mb:
                _unpack(path, draft, one.unpacked_at_most_mb * _MB)
            else:
                shutil.copyfile(path, draft / one.name)
        marker = {**asdict(dataset), "fetched": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        (draft / MARKER).write_text(json.dumps(marker, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        draft.replace(folder)
    except KeyboardInterrupt:
        raise Interrupted(
            f"{folder}: stopped; the partial download is kept in {work}; run the same command to resume"
        ) from None
    except DataError:
        _remove_useless(work)
        raise
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written ({error.strerror or error})") from error
    shutil.rmtree(work, ignore_errors=True)
    return folder


def _remove_useless(work: Path) -> None:
    """Remove what a failed download cannot resume from, and the folder if that was all."""
    shutil.rmtree(work / "unpacked", ignore_errors=True)
    for part in work.glob("*.part"):
        if not part.stat().st_size:
            part.unlink()
    for tag in work.glob("*.part.etag"):
        if not tag.with_suffix("").exists():
            tag.unlink()
    with suppress(OSError):  # it holds what the next call needs
        work.rmdir()


def _unpack(archive: Path, draft: Path, at_most: int) -> None:
    """Unpack an archive; an untrusted one is not kept for the next call."""
    try:
        unpack(archive, draft, at_most=at_most)
    except DataError:
        archive.unlink(missing_ok=True)
        raise


def _check_space(dataset: PublishedDataset, work: Path) -> None:
    """Raises ``StorageError`` if the disk cannot hold what the limits allow."""
    needed = sum(one.at_most_mb + (one.unpacked_at_most_mb or one.at_most_mb) for one in dataset.files) * _MB
    free = shutil.disk_usage(work).free
    if free < needed:
        raise StorageError(f"{work}: {free // _MB:,} MB are free, {dataset.name} may take {needed // _MB:,}; free some")
