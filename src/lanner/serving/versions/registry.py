"""The model registry: a folder of immutable bundle versions, and aliases that name the versions to serve.

``FOLDER/<version>/`` is a bundle; a version is the first 12 hex digits of the manifest's checksum.
``FOLDER/aliases.json`` holds the aliases and their history. Writers take a lock that the kernel releases when the
process ends, and rename complete files into place, so that a kill leaves the old state.
"""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lanner.artifacts.bundle import CHECKSUM, read_bundle
from lanner.errors import BundleError, ConfigError, LannerError, StorageError

CHAMPION, CHALLENGER = "champion", "challenger"
ALIASES = (CHAMPION, CHALLENGER)
"""The served version, and the one tried by experiments and shadow traffic."""
MOST_MOVES = 200
"""Length of the alias history; rollback cannot go further back."""
_STATE, _LOCK, _DRAFT = "aliases.json", ".lock", ".draft-"
_SCHEMA = 1
_VERSION = re.compile(r"[0-9a-f]{12}")
_NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES}


class Move(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An alias was set to a version. before: None the first time. time: Unix time in seconds."""

    alias: str
    before: str | None
    version: str
    time: float
    rolled_back: bool = False


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: int
    aliases: dict[str, str]
    moves: list[Move]


@dataclass(frozen=True)
class Version:
    """One bundle of the registry."""

    version: str
    path: Path
    model: str
    created: str
    """Creation time of the bundle, ISO 8601."""
    aliases: tuple[str, ...]


class Registry:
    """The versions in one folder. Safe for concurrent processes."""

    def __init__(self, folder: Path) -> None:
        """folder: created when the first version is added."""
        self.folder = folder

    @property
    def has_aliases(self) -> bool:
        """Whether any alias was ever set; distinguishes a registry from a bundle."""
        return (self.folder / _STATE).is_file()

    def add(self, path: Path) -> str:
        """Add a bundle and return its version; files are hard-linked if possible.

        Adding an existing version has no effect.

        Raises:
            BundleError: a file is missing or damaged; nothing was changed. StorageError: the disk cannot be written.
        """
        version = check_bundle(path)
        place = self.folder / version
        with self._writing():
            if place.exists():
                return version
            draft = self.folder / f"{_DRAFT}{version}"
            with _storage_errors(self.folder):
                shutil.copytree(path, draft, copy_function=_link)
            check_bundle(draft)  # the source may have changed meanwhile
            with _storage_errors(self.folder):
                _sync(draft)
                draft.rename(place)
                _sync(self.folder)
        return version

    def versions(self) -> list[Version]:
        """All versions, newest bundle first.

        Raises:
            BundleError: a damaged manifest or alias file.
        """
        aliases = self.aliases()
        found = [self._version(place, aliases) for place in self._places()]
        return sorted(found, key=lambda one: (one.created, one.version), reverse=True)

    def aliases(self) -> dict[str, str]:
        """Versions by alias; unset aliases are missing. Cheap: reads one small file.

        Raises:
            BundleError: the file is damaged, or names a missing version.
        """
        return dict(self._read().aliases)

    def moves(self) -> list[Move]:
        """The alias history, oldest first."""
        return self._read().moves

    def path(self, version: str) -> Path:
        """Path of a version's bundle.

        Raises:
            ConfigError: unknown version.
        """
        place = self.folder / version
        if not _VERSION.fullmatch(version) or not place.is_dir():
            known = ", ".join(one.name for one in self._places()) or "none"
            raise ConfigError(f"no version '{version}' in {self.folder}; it has {known}")
        return place

    def set_alias(self, alias: str, version: str) -> None:
        """Point an alias to a version.

        Raises:
            ConfigError: unknown alias or version. BundleError: the version is damaged. StorageError: the disk failed.
        """
        _require_alias(alias)
        with self._writing():
            check_bundle(self.path(version))
            self._move(alias, version, rolled_back=False)

    def rollback(self, alias: str) -> str:
        """Point an alias to its previous version, and return that. Repeated calls go further back.

        Raises:
            ConfigError: no previous version, or it was removed. BundleError, StorageError: as ``set_alias``.
        """
        _require_alias(alias)
        with self._writing():
            before = _previous_version(alias, self._read().moves)
            if before is None:
                raise ConfigError(f"{alias} has no previous version in {self.folder}; promote one")
            check_bundle(self.path(before))
            self._move(alias, before, rolled_back=True)
        return before

    def remove(self, version: str) -> None:
        """Delete a version. A server that has it open continues to serve it from memory.

        Raises:
            ConfigError: unknown version, or an alias points to it. StorageError: the disk cannot be written.
        """
        with self._writing():
            place = self.path(version)
            if holders := [alias for alias, held in self.aliases().items() if held == version]:
                raise ConfigError(f"{' and '.join(holders)} is version {version}; promote another before removing it")
            doomed = self.folder / f"{_DRAFT}{version}"
            with _storage_errors(self.folder):
                place.rename(doomed)
                shutil.rmtree(doomed)

    def _places(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(one for one in self.folder.iterdir() if _VERSION.fullmatch(one.name))

    def _version(self, place: Path, aliases: Mapping[str, str]) -> Version:
        manifest = read_bundle(place).manifest
        names = tuple(alias for alias in ALIASES if aliases.get(alias) == place.name)
        return Version(place.name, place, manifest["model"]["name"], manifest["created"], names)

    def _move(self, alias: str, version: str, *, rolled_back: bool) -> None:
        state = self._read()
        before = state.aliases.get(alias)
        if before == version:
            return
        moves = [*state.moves, Move(alias, before, version, time.time(), rolled_back)][-MOST_MOVES:]
        self._write(_State(_SCHEMA, {**state.aliases, alias: version}, moves))

    def _read(self) -> _State:
        file = self.folder / _STATE
        try:
            state = msgspec.json.decode(file.read_bytes(), type=_State)
        except FileNotFoundError:
            return _State(_SCHEMA, {}, [])
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BundleError(f"{file}: damaged ({error}); delete it and promote a version again") from None
        if state.schema != _SCHEMA:
            raise BundleError(f"{file}: schema {state.schema}, this version of lanner reads {_SCHEMA}; update lanner")
        for alias, version in state.aliases.items():
            if alias not in ALIASES or not _VERSION.fullmatch(version) or not (self.folder / version).is_dir():
                raise BundleError(f"{file}: {alias} is version '{version}', which is missing; delete it and promote")
        return state

    def _write(self, state: _State) -> None:
        draft = self.folder / f"{_DRAFT}{_STATE}"
        with _storage_errors(self.folder):
            with draft.open("xb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(state), indent=1))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.folder / _STATE)
            _sync(self.folder)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """An exclusive lock across processes; the kernel releases it when its holder dies."""
        with contextlib.ExitStack() as stack:
            with _storage_errors(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context((self.folder / _LOCK).open("ab"))
                fcntl.flock(file, fcntl.LOCK_EX)
            self._sweep()
            try:
                yield
            finally:
                self._sweep()

    def _sweep(self) -> None:
        """Remove drafts left by a killed writer; only the lock's holder has any."""
        for left in self.folder.glob(f"{_DRAFT}*"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def version_of(path: Path) -> str:
    """The version of an intact bundle, as ``Bundle.version``."""
    return (path / CHECKSUM).read_text(encoding="ascii").strip()[:12]


def check_bundle(path: Path) -> str:
    """Verify a bundle's checksums and replay its golden requests on every variant; returns the version.

    Raises:
        BundleError: a file is missing, damaged, malformed or of another schema, or an answer differs.
    """
    try:
        bundle = read_bundle(path)
        bundle.verify()
        _ = bundle.text_files, bundle.item_reader
    except LannerError:
        raise
    except Exception as error:  # intact checksums: written so by another program, or maliciously
        raise BundleError(f"{path}: malformed ({type(error).__name__}); write the bundle again") from error
    return bundle.version


def _previous_version(alias: str, moves: list[Move]) -> str | None:
    """The version before the last move that was not rolled back."""
    trail: list[str | None] = []
    for move in (one for one in moves if one.alias == alias):
        if not move.rolled_back:
            trail.append(move.before)
        elif trail:
            trail.pop()
    return trail[-1] if trail else None


def _require_alias(alias: str) -> None:
    if alias not in ALIASES:
        raise ConfigError(f"no alias '{alias}'; choose one of {', '.join(ALIASES)}")


def _link(source: str, target: str) -> None:
    """Bundles are replaced by renaming, never overwritten, so both names can share the data."""
    try:
        Path(target).hardlink_to(Path(source).resolve())
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(source, target)
        _sync(Path(target))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _storage_errors(folder: Path) -> Iterator[None]:
    """Disk errors as one line."""
    try:
        yield
    except (OSError, shutil.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"{folder}: cannot be written ({reason}); no version was changed") from error
