"""Experiments: which users see the challenger, what they were shown, and shadow traffic."""

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
_MOST_LETTERS = 128


@dataclass(frozen=True)
class Experiment:
    """Arms and the share of users that each has, by name; an arm of a served experiment is an alias of a version.

    A user is assigned by weighted rendezvous hashing (Schindelhauer and Schomaker, Weighted Distributed Hash Tables,
    SPAA 2005): when shares change, a user moves only from an arm to one whose share grew relative to it. Another name
    or salt assigns anew, independently.
    """

    name: str
    arms: Mapping[str, float]
    salt: str = ""

    def __post_init__(self) -> None:
        for what, text in (("name", self.name), *(("arm", arm) for arm in self.arms)):
            if not 0 < len(text) <= _MOST_LETTERS or not text.isprintable():
                raise ConfigError(f"experiment {what}: {text!r}, it must have 1 to {_MOST_LETTERS} printable letters")
        if "\0" in self.salt:
            raise ConfigError(f"experiment '{self.name}': the salt holds NUL; leave it out")
        check_shares(self.name, self.arms)

    def arm_of(self, user_id: str) -> str:
        """The user's arm; the same on every server."""
        key = "\0".join((self.salt, self.name, user_id, ""))
        return min(self.arms, key=lambda arm: (_exponential(key + arm) / self.arms[arm], arm))


def check_shares(name: str, shares: Mapping[str, float]) -> None:
    """Check the shares of an experiment's arms.

    Raises:
        ConfigError: fewer than two arms, a share that is not above 0, or a sum other than 1.
    """
    if len(shares) < 2:
        raise ConfigError(f"experiment '{name}' has {len(shares)} arm(s), it must have at least 2")
    for arm, share in shares.items():
        if not 0 < share < 1:
            raise ConfigError(f"experiment '{name}': the share of '{arm}' is {share}, it must lie between 0 and 1")
    if abs(math.fsum(shares.values()) - 1) > _TOLERANCE:
        raise ConfigError(f"experiment '{name}': shares add up to {math.fsum(shares.values()):g}, they must to 1")


def check_arms(experiment: Experiment) -> None:
    """Raises ConfigError where an arm of a served experiment is no alias."""
    for arm in experiment.arms:
        if arm not in ALIASES:
            raise ConfigError(f"experiment '{experiment.name}': no alias '{arm}'; arms are {CHAMPION} and {CHALLENGER}")


def _exponential(text: str) -> float:
    """Exponentially distributed over texts."""
    number = int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
    return -math.log((number + 1) / 2**64)


class Experiments:
    """An experiment, shadow traffic, both or neither. All but the constructor is called on the event loop."""

    def __init__(
        self,
        store: Store,
        experiment: Experiment | None,
        shadow_share: float,
        ask_challenger: Callable[[RecommendRequest], Awaitable[Sequence[str]]],
    ) -> None:
        """shadow_share: of the champion's requests that the challenger is asked, too.

        Raises:
            ConfigError: an arm that is no alias, or a share outside 0 … 1.
        """
        if experiment is not None:
            check_arms(experiment)
        self._experiment = experiment
        self._exposures = None if experiment is None else Exposures(store.expose)
        self._shadow = Shadow(ask_challenger, shadow_share) if shadow_share else None

    @property
    def aliases(self) -> tuple[str, ...]:
        """What must be served for them."""
        return (CHAMPION,) if self._experiment is None and self._shadow is None else ALIASES

    def start(self) -> None:
        """Start their tasks on the running loop."""
        for one in (self._exposures, self._shadow):
            if one is not None:
                one.start()

    def arm(self, user_id: str | None) -> str | None:
        """The user's arm; None for anonymous users and without an experiment."""
        return None if self._experiment is None or user_id is None else self._experiment.arm_of(user_id)

    def answered(
        self, request: RecommendRequest, answer: RecommendAnswer, arm: str | None, alias: str, seconds: float
    ) -> None:
        """Log what was shown and hand the request to the shadow; never waits. alias: whose version answered."""
        item_ids = [item.item_id for item in answer.items]
        # A user whose arm could not be served saw another's: an example of neither.
        if self._experiment is not None and self._exposures is not None and request.user_id and arm == alias:
            self._exposures.add(Exposure(self._experiment.name, alias, request.user_id, time.time(), item_ids))
        if self._shadow is not None and alias == CHAMPION and not answer.served.cached:
            self._shadow.offer(request, item_ids, seconds * 1e3)

    async def forget(self, user_id: str) -> None:
        """Drop what waits to be written of a user. Call it before ``store.delete_user``."""
        if self._exposures is not None:
            await self._exposures.forget(user_id)

    def shadow_figures(self) -> ShadowFigures | None:
        """What shadow traffic has found; None without any."""
        return None if self._shadow is None else self._shadow.figures()

    def figures(self) -> dict[str, float]:
        """For the metrics."""
        figures = {} if self._exposures is None else self._exposures.figures()
        if self._shadow is not None:
            found = self._shadow.figures()
            names = (name for name in found.__struct_fields__ if name != "problem")
            figures |= {f"shadow_{name}": value for name in names if (value := getattr(found, name)) is not None}
        return figures

    def problems(self) -> list[str]:
        """What is degraded, one line each, without a path."""
        if self._exposures is None or not self._exposures.problem:
            return []
        return [f"exposures of the experiment cannot be written; {self._exposures.waiting} wait"]

    async def close(self) -> None:
        """Write what waits and end the tasks."""
        for one in (self._shadow, self._exposures):
            if one is not None:
                await one.close()
