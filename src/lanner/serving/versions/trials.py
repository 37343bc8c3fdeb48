"""What is tried beside the champion: an experiment, which shows some users the challenger, and shadow traffic."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

import msgspec

from lanner.errors import ConfigError
from lanner.serving.messages import RecommendAnswer, RecommendRequest, ShadowFigures
from lanner.serving.store import Exposure, Store
from lanner.serving.versions.experiment import Experiment
from lanner.serving.versions.exposures import Exposures
from lanner.serving.versions.registry import ALIASES, CHALLENGER, CHAMPION
from lanner.serving.versions.shadow import Shadow


class Trials:
    """Either, both or none of the two; their threads live until ``close``."""

    def __init__(
        self,
        store: Store,
        experiment: Experiment | None,
        shadow_share: float,
        ask_challenger: Callable[[RecommendRequest], Sequence[str]],
    ) -> None:
        """shadow_share: of the champion's requests that the challenger is asked, too.

        Raises:
            ConfigError: an arm that is no alias, or a share that is none.
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

    def arm(self, user_id: str | None) -> str | None:
        """The user's arm; None for strangers and where nothing is tried on users."""
        return None if self._experiment is None or user_id is None else self._experiment.arm_of(user_id)

    def answered(
        self, request: RecommendRequest, answer: RecommendAnswer, arm: str | None, alias: str, seconds: float
    ) -> None:
        """Log what was shown and hand the request to the shadow; never waits. alias: by which it was answered."""
        # Whose arm could not be served saw another's: they are no example of either.
        shown = request.user_id if arm == alias else None
        if self._exposures is not None and self._experiment is not None and shown is not None:
            self._exposures.add(Exposure(self._experiment.name, alias, shown, time.time(), _ids(answer)))
        if self._shadow is not None and alias == CHAMPION and not answer.served.cached:
            self._shadow.offer(request, _ids(answer), seconds * 1e3)

    def forget(self, user_id: str) -> None:
        """Drop what waits to be written of a person. Call it before ``store.forget_user``."""
        if self._exposures is not None:
            self._exposures.forget(user_id)

    def shadow_figures(self) -> ShadowFigures | None:
        """What shadow traffic has found; None without any."""
        if self._shadow is None:
            return None
        found = asdict(self._shadow.summary())
        return msgspec.convert({name: _or_none(value) for name, value in found.items()}, ShadowFigures)

    def figures(self) -> dict[str, float]:
        """For the metrics."""
        figures = {} if self._exposures is None else dict(self._exposures.figures())
        if self._shadow is not None:
            found = asdict(self._shadow.summary())
            del found["problem"]
            figures |= {f"shadow_{name}": float(value) for name, value in found.items()}
        return figures

    def problems(self) -> list[str]:
        """What works less well than it should, one line each, without a path."""
        if self._exposures is None or not self._exposures.problem:
            return []
        waiting = int(self._exposures.figures()["exposures_waiting"])
        return [f"what the experiment showed cannot be written; {waiting} exposures wait"]

    def close(self) -> None:
        """Write what waits and end the threads; the loop must still turn."""
        if self._shadow is not None:
            self._shadow.close()
        if self._exposures is not None:
            self._exposures.close()


def check_arms(experiment: Experiment) -> None:
    """Raises ConfigError where an arm of a served experiment is no alias."""
    for arm in experiment.arms:
        if arm not in ALIASES:
            raise ConfigError(f"experiment '{experiment.name}': no alias '{arm}'; arms are {CHAMPION} and {CHALLENGER}")


def _ids(answer: RecommendAnswer) -> list[str]:
    return [item.item_id for item in answer.items]


def _or_none(value: float | str) -> float | str | None:
    """JSON has no NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value
