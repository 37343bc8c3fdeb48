"""The errors that a caller can act on, with the ``exit_code`` of the command line."""

import difflib
import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class LannerError(Exception):
    """Base class of all errors that a caller can fix. The message is one line: what, where, what to do."""

    exit_code = 2


class DataError(LannerError):
    """Unusable rows, files or datasets."""

    def __init__(
        self, problem: str, *, path: Path | str | None = None, line: int | None = None, field: str | None = None
    ) -> None:
        place = [str(path)] if path is not None else []
        place += [f"line {line}"] if line is not None else []
        place += [f"field '{field}'"] if field is not None else []
        super().__init__(f"{', '.join(place)}: {problem}" if place else problem)
        self.path, self.line, self.field = path, line, field


class ConfigError(LannerError):
    """A setting that is unknown, of the wrong type, or out of range."""


class DivergedError(LannerError):
    """Training gave a loss, vectors or scores that are not finite."""


class BundleError(LannerError):
    """A bundle that is missing, damaged, or written by another schema version."""


class RequestError(LannerError):
    """An invalid request; the caller can correct it."""


class UnknownIdError(LannerError):
    """An unknown id, given without a history or text to compute it from."""


class MissingExtraError(LannerError):
    """An optional dependency is missing; the message contains the install command."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package '{package}'; install it with: pip install 'lanner[{extra}]'")
        self.package, self.extra = package, extra


def optional_module(module: str, package: str, extra: str, purpose: str) -> Any:
    """``module`` of an optional dependency; raises ``MissingExtraError`` if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as absence:
        raise MissingExtraError(package, extra, purpose) from absence


def nearest(name: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """The entry of ``known`` that ``name`` is probably a misspelling of, for error messages; None if none is close.

    likeness: minimum similarity; 1 is the same name.
    """
    return next(iter(difflib.get_close_matches(name, list(known), 1, likeness)), None)


class StorageError(LannerError):
    """A disk write failed; no partial file was left under the final name."""


class StoreUnavailableError(LannerError):
    """The event store is unavailable (gone, locked, full, overloaded); the same call may succeed later."""


class OverloadedError(LannerError):
    """Too much load for now; nothing was done, and the call may be retried."""

    def __init__(self, problem: str, retry_after_s: float) -> None:
        super().__init__(problem)
        self.retry_after_s = retry_after_s


class AcceleratorError(LannerError):
    """An accelerator that is unreachable or returned a wrong result; the CPU takes over."""


class ServerError(LannerError):
    """A server that is unreachable or failed to respond. status: None without a response."""

    def __init__(self, problem: str, status: int | None = None) -> None:
        super().__init__(problem)
        self.status = status


class RanksEndedError(LannerError):
    """Ranks of a distributed run ended for a reason that the first rank, or the launcher that lost it, reports."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"the ranks ended with exit code {exit_code}")
        self.exit_code = exit_code


class Interrupted(LannerError):
    """Stopped by Ctrl-C; the message says where the checkpoint is and how to resume."""

    exit_code = 130
