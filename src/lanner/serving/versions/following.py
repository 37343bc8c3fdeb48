"""What is served follows the aliases: opened beside the requests, checked, then swapped in; else the old one stays."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol

from lanner.errors import BundleError, ConfigError, LannerError
from lanner.serving.versions.registry import CHAMPION, version_of
from lanner.serving.versions.swap import Live, Served

POLL_SECONDS = 1.0
"""Between two looks at the aliases."""
RETRY_SECONDS = 30.0
"""After which a version that failed is opened again: what it lacked may have come."""
_log = logging.getLogger(__name__)


class Versions(Protocol):
    """Where versions lie and which of them is to be served; ``Registry`` is one."""

    def aliases(self) -> dict[str, str]:
        """Versions by alias; asked once a second."""

    def path(self, version: str) -> Path:
        """The bundle of a version."""


class OneBundle:
    """A single bundle as the champion; another that takes its place in the folder is another version."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def aliases(self) -> dict[str, str]:
        """Raises BundleError where there is no bundle any more."""
        try:
            return {CHAMPION: version_of(self._path)}
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            problem = f"{self._path}: neither a bundle nor a folder of versions with a champion ({reason})"
            raise BundleError(f"{problem}; see lanner bundles promote") from None

    def path(self, version: str) -> Path:
        """The one there is."""
        return self._path


@dataclass(frozen=True)
class _Problem:
    """line: for everybody, without a path. reason: for the log. version: what failed. again: when to try it anew."""

    line: str
    reason: str
    version: str | None
    again: float


class Follower(Generic[Served]):
    """Brings ``live`` to what the aliases say; one thread at a time."""

    def __init__(
        self, versions: Versions, live: Live[Served], opening: Callable[[Path], Served], aliases: Sequence[str]
    ) -> None:
        """aliases: those that are served."""
        self._versions, self._live, self._opening, self._aliases = versions, live, opening, aliases
        self._problems: dict[str, _Problem] = {}
        self._renewed: dict[str, float] = {}
        """When what was worn was last opened anew, by alias."""

    def start(self) -> None:
        """Serve the champion, then the others as far as they can be.

        Raises:
            LannerError: there is no champion, or it cannot be served.
        """
        version = self._versions.aliases().get(CHAMPION)
        if version is None:
            raise ConfigError(f"no version is the {CHAMPION}; choose one: lanner bundles promote VERSION")
        self._serve(CHAMPION, version)
        self.follow()

    def follow(self) -> None:
        """Serve what the aliases say now; what cannot be served leaves what is, and is among the ``problems``."""
        try:
            wanted = self._versions.aliases()
        except LannerError as error:
            self._failed("", "the aliases cannot be read, what is served stays; see the log", error, None)
            return
        self._problems.pop("", None)
        for alias in self._aliases:
            self._follow(alias, wanted.get(alias))

    def problems(self) -> list[str]:
        """One line for each alias that is not served as it should be; they name no path."""
        return [one.line for one in list(self._problems.values())]

    def _follow(self, alias: str, version: str | None) -> None:
        served = self._live.versions().get(alias)
        if version is not None and version == served:
            if not self._live.is_worn(alias):
                self._problems.pop(alias, None)
                return
            # Where it wears out again at once, opening it over and over would take the cores from who still answers.
            if time.monotonic() < self._renewed.get(alias, -RETRY_SECONDS) + RETRY_SECONDS:
                return
            self._renewed[alias] = time.monotonic()
        before = self._problems.get(alias)
        if before is not None and before.version == version and time.monotonic() < before.again:
            return
        wish = f"version {version} cannot be served" if version else "no version is set"
        stands = f"{served} is served on" if served else "none is served"
        try:
            if version is None:
                raise ConfigError(f"choose one: lanner bundles promote VERSION --alias {alias}")
            self._serve(alias, version)
        except LannerError as error:
            self._failed(alias, f"{alias}: {wish}, {stands}; see the log", error, version)
            return
        self._problems.pop(alias, None)
        _log.info("%s is version %s now", alias, version)

    def _serve(self, alias: str, version: str) -> None:
        self._live.serve(alias, version, lambda: self._opening(self._versions.path(version)))

    def _failed(self, about: str, line: str, error: LannerError, version: str | None) -> None:
        before = self._problems.get(about)
        if before is None or (before.line, before.reason) != (line, str(error)):
            _log.error("%s (%s)", line, error)
        self._problems[about] = _Problem(line, str(error), version, time.monotonic() + RETRY_SECONDS)
