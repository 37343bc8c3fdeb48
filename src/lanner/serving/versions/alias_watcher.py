"""Serves the versions named by the aliases: a new version is opened, verified and swapped in, or the old one stays."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol

from lanner.errors import BundleError, ConfigError, LannerError
from lanner.serving.versions.hot_swap import Deployments, Served
from lanner.serving.versions.registry import CHAMPION, version_of

POLL_SECONDS = 1.0
"""Polling interval of the aliases, in seconds."""
RETRY_SECONDS = 30.0
"""Seconds until a failed version is tried again."""
_log = logging.getLogger(__name__)


class Versions(Protocol):
    """Locates versions and names the ones to serve; ``Registry`` is an implementation."""

    def aliases(self) -> dict[str, str]:
        """Versions by alias; polled once a second."""

    def path(self, version: str) -> Path:
        """Path of a version's bundle."""


class OneBundle:
    """A single bundle as the champion; replacing the folder's bundle makes a new version."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def aliases(self) -> dict[str, str]:
        """Raises BundleError if the bundle is gone."""
        try:
            return {CHAMPION: version_of(self._path)}
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            problem = f"{self._path}: neither a bundle nor a registry with a champion ({reason})"
            raise BundleError(f"{problem}; see lanner bundles promote") from None

    def path(self, version: str) -> Path:
        """The only path."""
        return self._path


@dataclass(frozen=True)
class _Problem:
    """line: public, without paths. reason: for the log. version: the one that failed. retry_at: monotonic seconds."""

    line: str
    reason: str
    version: str | None
    retry_at: float


class AliasWatcher(Generic[Served]):
    """Keeps ``deployments`` in line with the aliases."""

    def __init__(
        self,
        versions: Versions,
        deployments: Deployments[Served],
        opening: Callable[[Path], Served],
        aliases: Sequence[str],
    ) -> None:
        """opening: blocking, called in a thread. aliases: those to serve."""
        self._versions, self._deployments, self._opening, self._aliases = versions, deployments, opening, aliases
        self._problems: dict[str, _Problem] = {}

    async def start(self) -> None:
        """Serve the champion, then the other aliases as far as possible.

        Raises:
            LannerError: there is no champion, or it cannot be served.
        """
        version = (await asyncio.to_thread(self._versions.aliases)).get(CHAMPION)
        if version is None:
            raise ConfigError(f"no version is the {CHAMPION}; set one: lanner bundles promote VERSION")
        await self._serve(CHAMPION, version)
        await self.follow()

    async def follow(self) -> None:
        """Apply alias changes; on failure the served versions stay and ``problems`` gets a line."""
        try:
            wanted = await asyncio.to_thread(self._versions.aliases)
        except LannerError as error:
            self._failed("", "the aliases cannot be read, served versions are unchanged; see the log", error, None)
            return
        self._problems.pop("", None)
        for alias in self._aliases:
            await self._follow(alias, wanted.get(alias))

    def problems(self) -> list[str]:
        """One line per alias with a problem; lines contain no paths."""
        return [one.line for one in self._problems.values()]

    async def _follow(self, alias: str, version: str | None) -> None:
        served = self._deployments.versions().get(alias)
        if version is not None and version == served:
            self._problems.pop(alias, None)
            return
        before = self._problems.get(alias)
        if before is not None and before.version == version and time.monotonic() < before.retry_at:
            return
        wanted = f"version {version} cannot be served" if version else "no version is set"
        stays = f"{served} is still served" if served else "none is served"
        try:
            if version is None:
                raise ConfigError(f"set one: lanner bundles promote VERSION --alias {alias}")
            await self._serve(alias, version)
        except LannerError as error:
            self._failed(alias, f"{alias}: {wanted}, {stays}; see the log", error, version)
            return
        self._problems.pop(alias, None)
        _log.info("%s is now version %s", alias, version)

    async def _serve(self, alias: str, version: str) -> None:
        await self._deployments.serve(alias, version, lambda: self._opening(self._versions.path(version)))

    def _failed(self, alias: str, line: str, error: LannerError, version: str | None) -> None:
        before = self._problems.get(alias)
        if before is None or (before.line, before.reason) != (line, str(error)):
            _log.error("%s (%s)", line, error)
        self._problems[alias] = _Problem(line, str(error), version, time.monotonic() + RETRY_SECONDS)
