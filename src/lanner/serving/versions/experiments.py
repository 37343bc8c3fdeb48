"""A/B experiments (assignment of users to arms, exposure logging) and shadow traffic."""

import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from lanner.errors import ConfigError
from lanner.serving.messages import RecommendAnswer, RecommendRequest, ShadowFigures
from lanner.serving.store import Exposure, Store
from lanner.serving.versions.exposures import Exposures
from lanner.serving.versions.registry import ALIASES, CHALLENGER, CHAMPION
from lanner.serving.versions.shadow import Shadow

_TOLERANCE = 1e-9
_MAX_LENGTH = 128


@dataclass(frozen=True)
class Experiment:
    """Arms and their traffic shares by name; in a served experiment an arm is an alias.

    Users are assigned by weighted rendezvous hashing (Schindelhauer and Schomaker, Weighted Distributed Hash Tables,
    SPAA 2005): when shares change, a user moves only to an arm whose share grew relative to their own. Another name or
    salt gives an independent assignment.
    """

    name: str
    """Name of the experiment, recorded with every exposure."""
    arms: Mapping[str, float]
    """Traffic share of each alias (``champion``, ``challenger``); the shares sum to 1."""
    salt: str = ""
    """Changes the assignment of users to arms."""

    def __post_init__(self) -> None:
        for what, text in (("name", self.name), *(("arm", arm) for arm in self.arms)):
            if not 0 < len(text) <= _MAX_LENGTH or not text.isprintable():
                raise ConfigError(f"experiment {what}: {text!r}, expected 1 to {_MAX_LENGTH} printable characters")
        if "\0" in self.salt:
            raise ConfigError(f"experiment '{self.name}': the salt contains NUL; remove it")
        check_shares(self.name, self.arms)

    def arm_of(self, user_id: str) -> str:
        """The user's arm, equal on every server."""
        key = "\0".join((self.salt, self.name, user_id, ""))
        return min(self.arms, key=lambda arm: (_exponential(key + arm) / self.arms[arm], arm))


def check_shares(name: str, shares: Mapping[str, float]) -> None:
    """Validate the traffic shares of an experiment.

    Raises:
        ConfigError: fewer than two arms, a share not above 0, or a sum other than 1.
    """
    if len(shares) < 2:
        raise ConfigError(f"experiment '{name}' has {len(shares)} arm(s), it must have at least 2")
    for arm, share in shares.items():
        if not 0 < share < 1:
            raise ConfigError(f"experiment '{name}': the share of '{arm}' is {share}, it must be between 0 and 1")
    if abs(math.fsum(shares.values()) - 1) > _TOLERANCE:
        raise ConfigError(f"experiment '{name}': shares sum to {math.fsum(shares.values()):g}, they must sum to 1")


def check_arms(experiment: Experiment) -> None:
    """Raises ConfigError if an arm of a served experiment is not an alias."""
    for arm in experiment.arms:
        if arm not in ALIASES:
            raise ConfigError(f"experiment '{experiment.name}': no alias '{arm}'; use {CHAMPION} and {CHALLENGER}")


def _exponential(text: str) -> float:
    """A hash with an exponential distribution."""
    number = int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
    return -math.log((number + 1) / 2**64)


class Experiments:
    """An experiment, shadow traffic, both or neither. Used on the event loop after construction."""

    def __init__(
        self,
        store: Store,
        experiment: Experiment | None,
        shadow_share: float,
        ask_challenger: Callable[[RecommendRequest], Awaitable[Sequence[str]]],
    ) -> None:
        """shadow_share: share of champion requests that are mirrored to the challenger.

        Raises:
            ConfigError: an arm that is not an alias, or a share outside 0 … 1.
        """
        if experiment is not None:
            check_arms(experiment)
        self._experiment = experiment
        self._exposures = None if experiment is None else Exposures(store.expose)
        self._shadow = Shadow(ask_challenger, shadow_share) if shadow_share else None

    @property
    def aliases(self) -> tuple[str, ...]:
        """Aliases that must be served."""
        return (CHAMPION,) if self._experiment is None and self._shadow is None else ALIASES

    def start(self) -> None:
        """Start the background tasks on the running loop."""
        for one in (self._exposures, self._shadow):
            if one is not None:
                one.start()

    def arm(self, user_id: str | None) -> str | None:
        """The user's arm; None for anonymous users or without an experiment."""
        return None if self._experiment is None or user_id is None else self._experiment.arm_of(user_id)

    def answered(
        self, request: RecommendRequest, answer: RecommendAnswer, arm: str | None, alias: str, seconds: float
    ) -> None:
        """Log the exposure and mirror the request; never waits. alias: of the version that answered."""
        item_ids = [item.item_id for item in answer.items]
        # If the user's arm could not be served, the answer counts for no arm.
        if self._experiment is not None and self._exposures is not None and request.user_id and arm == alias:
            self._exposures.add(Exposure(self._experiment.name, alias, request.user_id, time.time(), item_ids))
        if self._shadow is not None and alias == CHAMPION and not answer.served.cached:
            self._shadow.offer(request, item_ids, seconds * 1e3)

    async def forget(self, user_id: str) -> None:
        """Drop queued records of a user. Call it before ``store.delete_user``."""
        if self._exposures is not None:
            await self._exposures.forget(user_id)

    def shadow_figures(self) -> ShadowFigures | None:
        """Results of shadow traffic; None without it."""
        return None if self._shadow is None else self._shadow.figures()

    def figures(self) -> dict[str, float]:
        """Statistics for the metrics."""
        figures = {} if self._exposures is None else self._exposures.figures()
        if self._shadow is not None:
            found = self._shadow.figures()
            names = (name for name in found.__struct_fields__ if name != "problem")
            figures |= {f"shadow_{name}": value for name in names if (value := getattr(found, name)) is not None}
        return figures

    def problems(self) -> list[str]:
        """Current problems, one line each, without paths."""
        if self._exposures is None or not self._exposures.problem:
            return []
        return [f"experiment exposures cannot be written; {self._exposures.waiting} queued"]

    async def close(self) -> None:
        """Flush queued exposures and end the tasks."""
        for one in (self._shadow, self._exposures):
            if one is not None:
                await one.close()
