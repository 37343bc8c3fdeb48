"""The errors that a caller can act on; ``exit_code`` is that of the command line."""

import difflib
import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class LannerError(Exception):
    """Root of every error that a caller can mend. Its text is one line: what, where, what to do."""

    exit_code = 2


class DataError(LannerError):
    """Rows, files or datasets that cannot be used."""

    def __init__(
        self, problem: str, *, path: Path | str | None = None, line: int | None = None, field: str | None = None
    ) -> None:
        place = [str(path)] if path is not None else []
        place += [f"line {line}"] if line is not None else []
        place += [f"field '{field}'"] if field is not None else []
        super().__init__(f"{', '.join(place)}: {problem}" if place else problem)
        self.path, self.line, self.field = path, line, field


class ConfigError(LannerError):
    """A setting that is unknown, of a wrong type, or out of range."""


class BundleError(LannerError):
    """A bundle that is missing, damaged, or written by another schema version."""


class RequestError(LannerError):
    """A request that cannot be answered as it was asked; the caller can correct it."""


class UnknownIdError(LannerError):
    """An id that was never seen, given without a history or a text to compute it from."""


class MissingExtraError(LannerError):
    """An optional dependency is absent; the message carries the line that installs it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package '{package}'; install it with: pip install 'lanner[{extra}]'")
        self.package, self.extra = package, extra


def optional_module(module: str, package: str, extra: str, purpose: str) -> Any:
    """``module`` of an optional dependency; raises ``MissingExtraError`` where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as absence:
        raise MissingExtraError(package, extra, purpose) from absence


def nearest(name: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """The one of ``known`` that ``name`` may be a misspelling of, for advice in a message; None where none is near.

    likeness: from which on it is near; 1 is the same name.
    """
    return next(iter(difflib.get_close_matches(name, list(known), 1, likeness)), None)


class StorageError(LannerError):
    """The disk refused a write; nothing half-written was left under the final name."""


class StoreUnavailableError(LannerError):
    """The event store cannot answer now (gone, locked, full, too much waiting); the same call may succeed later."""


class OverloadedError(LannerError):
    """More is asked than can be answered now; nothing was done, and it may be asked again."""

    def __init__(self, problem: str, retry_after_s: float) -> None:
        super().__init__(problem)
        self.retry_after_s = retry_after_s


class AcceleratorError(LannerError):
    """An accelerator that cannot be reached, or that answered wrongly; the processor answers in its place."""


class ServerError(LannerError):
    """A server that cannot be reached, or that failed to answer. status: None where no answer came."""

    def __init__(self, problem: str, status: int | None = None) -> None:
        super().__init__(problem)
        self.status = status


class Interrupted(LannerError):
    """Stopped by Ctrl-C; the message says where the checkpoint lies and how to resume."""

    exit_code = 130
