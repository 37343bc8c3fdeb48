"""Interpretation of events: positive feedback with a confidence, or negative feedback.

Ratings, counts and behaviours become one confidence per event. An event of confidence 0 is negative feedback: the item
is known to the user, so it is not recommended, but it is not part of the history and explains nothing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lanner.data.grouping import group
from lanner.data.interactions import Interactions
from lanner.errors import ConfigError, nearest

if TYPE_CHECKING:
    from lanner.data.interactions import Dataset

NEGATIVE_BEHAVIOURS = ("dislike", "thumbs_down", "downvote", "hide", "skip", "block", "not_interested", "report")
"""Behaviours of weight 0 unless the settings say otherwise; case-insensitive."""
_MIN_CONFIDENCE, _MAX_CONFIDENCE = 0.2, 5.0
"""Bounds of the confidence of a positive event, so that no single one dominates the others."""
_LARGEST_RATING = 10.0
_FEW = 0.01
"""Maximum share of weights beyond the scale of all others that count as outliers."""

Kind = Literal["ratings", "counts", "none"]
"""Kind of a dataset's weights; ``none``: there are none, or they are ignored."""


@dataclass(frozen=True)
class FeedbackConfig:
    """Which events are positive, and how much they count."""

    positive_threshold: float | Literal["auto", "none"] = "auto"
    """Smallest rating or count of a positive event. auto: the middle of the rating scale, any count above 0. none:
    every event is positive and weighs the same."""
    behaviour_weights: Mapping[str, float] = field(default_factory=dict)
    """Weight of each behaviour; 0: negative feedback. Default: 0 for dislike, hide, skip and the like, 1 for others."""

    def __post_init__(self) -> None:
        threshold, weights = self.positive_threshold, self.behaviour_weights
        if not (threshold in ("auto", "none") if isinstance(threshold, str) else _is_number(threshold)):
            problem = f"must be a number, 'auto' or 'none', received {threshold!r}"
            raise ConfigError(f"feedback.positive_threshold {problem}")
        if not isinstance(weights, Mapping) or not all(isinstance(name, str) for name in weights):
            raise ConfigError(f"feedback.behaviour_weights must name weights by behaviour, received {weights!r}")
        for name, weight in weights.items():
            if not _is_number(weight) or weight < 0:
                problem = f"must be at least 0 and finite, received {weight!r}"
                raise ConfigError(f"feedback.behaviour_weights.{name} {problem}")


@dataclass(frozen=True)
class Feedback:
    """The interpretation chosen for one dataset; by default every event is positive and weighs 1.

    kind: kind of the weights. threshold: weights below are negative. floor: zero point of the scale.
    mean: average worth of a positive weight, so that confidences are about 1. ceiling: the largest rating of the
    scale, to which larger ones are clipped; None: there are none. outliers: how many are larger, in words.
    """

    kind: Kind = "none"
    threshold: float | None = None
    floor: float = 0.0
    mean: float = 1.0
    behaviour_weights: Mapping[str, float] = field(default_factory=dict)
    ceiling: float | None = None
    outliers: str = ""

    @classmethod
    def decide(cls, interactions: Interactions, config: FeedbackConfig | None = None) -> Self:
        """Inspect the weights of a dataset, and decide according to the settings."""
        config = config or FeedbackConfig()
        named = {name.lower(): float(weight) for name, weight in config.behaviour_weights.items()}
        undecided = cls(behaviour_weights=dict.fromkeys(NEGATIVE_BEHAVIOURS, 0.0) | named)
        weights = np.empty(0, np.float32) if interactions.weight is None else interactions.weight
        weights = weights[np.isfinite(weights)]
        values, times = np.unique(weights, return_counts=True)
        says_nothing = config.positive_threshold == "auto" and len(values) == 1 and values[0] > 0
        if not len(values) or says_nothing or config.positive_threshold == "none":
            return undecided
        kind: Kind
        threshold: float | None
        if are_ratings(values, times):
            within = _within_scale(values, times)
            if len(within) < len(values):
                undecided = replace(undecided, **_ceiling(within, values, times))
                values, times = within, times[: len(within)]
            kind, floor, threshold = "ratings", min(float(values[0]), 0.0), _middle(values)
        else:
            kind, floor, threshold = "counts", 0.0, None
        if config.positive_threshold != "auto":
            threshold = float(config.positive_threshold)
        decided = replace(undecided, kind=kind, floor=floor, threshold=threshold)
        positive = values[decided._are_positive(values)]
        worth = (
            np.average(decided._strength(positive), weights=times[np.isin(values, positive)]) if len(positive) else 1.0
        )
        return replace(decided, mean=max(float(worth), 1e-6))

    def confidence(self, behaviour: str | None, weight: float | None) -> float:
        """Confidence of one event; 0: negative feedback."""
        factor = self.behaviour_weights.get((behaviour or "").lower(), 1.0)
        return factor * float(self._of_weights(np.array([np.nan if weight is None else weight], np.float32))[0])

    def confidences(self, interactions: Interactions) -> NDArray[np.float32] | None:
        """The same for every event, float32 ``[E]``; None if each is 1."""
        found = np.ones(len(interactions), np.float32)
        if interactions.weight is not None:
            found = self._of_weights(interactions.weight)
        factors = np.array([self.behaviour_weights.get(name.lower(), 1.0) for name in interactions.behaviours])
        if interactions.behaviour is not None:
            found *= factors.astype(np.float32)[interactions.behaviour]
        elif len(factors):
            found *= np.float32(factors[0])
        return None if (found == 1).all() else found

    def apply(self, dataset: "Dataset") -> "Dataset":
        """The same dataset, with confidences for its events and a reference to this feedback.

        The latest event of a user with an item decides: if it is negative, the earlier ones no longer count. Latest
        means among these events: a subset cut off in time needs it applied again.
        """
        events, confidence = dataset.interactions, self.confidences(dataset.interactions)
        if self.ceiling is not None and events.weight is not None:
            events = replace(events, weight=np.minimum(events.weight, np.float32(self.ceiling)))
        if confidence is not None and (confidence <= 0).any():
            every = np.arange(len(events), dtype=np.int32)
            indptr, events_of_user = group(events.user, every, dataset.num_users)
            _apply_latest_feedback(indptr, events_of_user, events.item, dataset.num_items, confidence)
        return replace(dataset, interactions=replace(events, confidence=confidence), feedback=self)

    def describe(self, interactions: Interactions) -> str:
        """The decision and how many events it affects, in one line."""
        said = []
        held = interactions.weight
        weights = np.empty(0, np.float32) if held is None else held[np.isfinite(held)]
        if self.kind != "none" and len(weights):
            low, high = weights.min(), weights.max() if self.ceiling is None else self.ceiling
            scale = f"{self.kind} of {low:g}–{high:g}" if low < high else f"every weight is {low:g}"
            if self.threshold is None and high <= 0:
                said.append(f"{scale}: none is above 0, as a positive count must be")
            else:
                whole = self.threshold is not None and self.threshold % 1 == 0
                least = self.threshold if whole else weights[self._are_positive(weights)].min(initial=high)
                weigh = "in proportion to their size" if self.kind == "ratings" else "1 + log(count)"
                said.append(f"{scale}: {least:g} or more are positive and weigh {weigh}")
            if unrated := len(interactions) - len(weights):
                said.append(f"{unrated:,} without a value weigh 1")
        said += [self.outliers] if self.outliers else []
        for name in interactions.behaviours:
            factor = self.behaviour_weights.get(name.lower(), 1.0)
            said += [f"'{name}' {f'weighs {factor:g}' if factor else 'is negative'}"] if factor != 1 else []
        found = self.confidences(interactions)
        negative = 0 if found is None else int((found <= 0).sum())
        events = f"{negative:,} of {len(interactions):,} events are negative feedback"
        said.append(f"{events}: excluded from lists, never a reason" if negative else "every event is positive")
        return "; ".join(said)

    def _of_weights(self, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.kind == "none":
            return np.ones(len(weights), np.float32)
        confidences = np.clip(self._strength(weights) / self.mean, _MIN_CONFIDENCE, _MAX_CONFIDENCE)
        confidences[~self._are_positive(weights)] = 0
        confidences[np.isnan(weights)] = 1
        return confidences.astype(np.float32)

    def _are_positive(self, weights: NDArray[np.float32]) -> NDArray[np.bool_]:
        return weights > 0 if self.threshold is None else weights >= self.threshold

    def _strength(self, weights: NDArray[np.float32]) -> NDArray[np.float64]:
        exact = np.minimum(weights.astype(np.float64), np.inf if self.ceiling is None else self.ceiling)
        return exact - self.floor if self.kind == "ratings" else 1 + np.log(np.maximum(exact, 1))


def absent_behaviours(interactions: Interactions, config: FeedbackConfig) -> list[str]:
    """A warning for each weighted behaviour that no event has: later events may have it, or it is misspelt."""
    present = {name.lower(): name for name in interactions.behaviours}
    found = []
    for name in config.behaviour_weights:
        if name.lower() not in present:
            near = nearest(name.lower(), present)
            advice = f"; did you mean '{present[near]}'?" if near else f"; they have {', '.join(present.values())}"
            found.append(f"behaviour_weights: no event has the behaviour '{name}'{advice}")
    return found


def _is_number(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)


@njit(cache=True)  # type: ignore[untyped-decorator]
def _apply_latest_feedback(
    indptr: NDArray[np.int64],
    events_of_user: NDArray[np.int32],
    item: NDArray[np.int32],
    num_items: int,
    confidence: NDArray[np.float32],
) -> None:
    """Set the earlier events of a user and item to 0 if the last one is negative."""
    decided_for, is_negative = np.full(num_items, -1, np.int64), np.zeros(num_items, np.bool_)
    for user in range(len(indptr) - 1):
        for place in range(indptr[user + 1] - 1, indptr[user] - 1, -1):
            event = events_of_user[place]
            one = item[event]
            if decided_for[one] != user:
                decided_for[one], is_negative[one] = user, confidence[event] <= 0
            elif is_negative[one]:
                confidence[event] = 0


def are_ratings(values: NDArray[np.float32], times: NDArray[np.int64]) -> bool:
    """Whether distinct weights, and how often each occurs, are those of a small scale rather than counts.

    Counts start at 1, which is by far the most frequent, and the next most frequent is 2. A few weights far beyond all
    others do not decide.
    """
    values = _within_scale(values, times)
    if len(values) < 2 or values[-1] > _LARGEST_RATING:
        return False
    if not (values[:2] == (1, 2)).all() or (values % 1 != 0).any():
        return True
    return bool(len(values) > 2 and (times[0] <= 1.2 * times[1] or times[1] < times[2:].max()))


def _within_scale(values: NDArray[np.float32], times: NDArray[np.int64]) -> NDArray[np.float32]:
    """The distinct weights without a few beyond any scale, too far off to be a tail of counts."""
    size = int(np.searchsorted(values, _LARGEST_RATING, side="right"))
    if size in (0, len(values)) or times[size:].sum() > _FEW * times.sum() or values[size] < 2 * values[size - 1]:
        return values
    return values[:size]


def _ceiling(within: NDArray[np.float32], values: NDArray[np.float32], times: NDArray[np.int64]) -> dict[str, Any]:
    """The fields of ``Feedback`` about weights beyond the scale."""
    count, top = int(times[len(within) :].sum()), float(within[-1])
    larger = f"{count:,} {'rating' if count == 1 else 'ratings'} above {top:g} (up to {values[-1]:g})"
    return {"ceiling": top, "outliers": f"{larger} {'is' if count == 1 else 'are'} read as {top:g}"}


def _middle(values: NDArray[np.float32]) -> float:
    """The middle of the scale of the weights, even if its ends do not occur: 3 for 1 … 5."""
    low, high = min(float(values[0]), 1.0), float(values[-1])
    if low < 0:
        return (low + high) / 2
    for whole in (3.0, 5.0, _LARGEST_RATING):
        if high <= whole:
            return (low + (whole if high > 1 else high)) / 2
    return (low + high) / 2
