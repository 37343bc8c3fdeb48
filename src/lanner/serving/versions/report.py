"""Experiment report: conversion rates per arm, and differences between arms with 95 % confidence intervals.

Users are the unit of randomisation and of analysis. Variances of means and ratios over users use the delta method
(Deng, Knoblich and Lu, Applying the Delta Method in Metric Analytics, KDD 2018).
"""

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from statistics import NormalDist
from tempfile import TemporaryFile
from typing import IO
from zlib import crc32

import msgspec
import numpy as np
from numpy.typing import NDArray

from lanner.errors import ConfigError
from lanner.serving.messages import MAX_HISTORY
from lanner.serving.store import Exposure, Store
from lanner.serving.versions.experiments import check_shares
from lanner.serving.versions.registry import CHAMPION

PER_USER, PER_EXPOSURE = "conversions per user", "conversions per exposure"
MISMATCH = 0.001
"""Significance level of the sample ratio test; below it the assignment, and the comparison, are invalid."""
_PARTS = 64
"""Number of user partitions; one is in memory at a time."""
_USERS_A_READ = 100
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Arm:
    """One arm. exposures: distinct (user, item) pairs, each from its first exposure on."""

    arm: str
    users: int
    exposures: int
    conversions: int
    """Exposures whose item the user interacted with within the horizon."""
    per_user: float
    per_exposure: float


@dataclass(frozen=True)
class Difference:
    """``difference``: rate of the arm minus rate of the control."""

    metric: str
    arm: str
    control: str
    difference: float
    ci95: tuple[float, float]
    p: float
    """Two-sided p-value; NaN, like the interval, if an arm has fewer than two users."""

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0."""
        return self.ci95[0] > 0 or self.ci95[1] < 0


@dataclass(frozen=True)
class ExperimentReport:
    """Arms (the control first), and each other arm compared with the control."""

    experiment: str
    horizon_s: float
    arms: tuple[Arm, ...]
    differences: tuple[Difference, ...]
    users_in_several_arms: int
    """Counted in their first arm; changed shares move users."""
    sample_ratio_p: float | None
    """p-value of the sample ratio test against the configured shares; None without shares."""

    @property
    def sample_ratio_mismatch(self) -> bool:
        """Sample ratio mismatch: observed traffic shares differ from the configured ones; find the cause first."""
        return self.sample_ratio_p is not None and self.sample_ratio_p < MISMATCH


@dataclass
class _UserExposures:
    """One user's exposures in their first arm: first time of each item."""

    arm: str
    first: dict[str, float] = field(default_factory=dict)
    moved: bool = False

    def take(self, exposure: Exposure) -> None:
        if exposure.arm != self.arm:
            self.moved = True
            return
        for item in exposure.item_ids:
            self.first[item] = min(exposure.timestamp, self.first.get(item, math.inf))


def experiment_report(
    store: Store, name: str, horizon_s: float, shares: Mapping[str, float] | None = None
) -> ExperimentReport:
    """Analyse the exposure log of an experiment and the users' later events.

    The log is read once, in bounded memory: rows are buffered in unnamed temporary files. For users with more than
    ``MAX_HISTORY`` events only the newest count.

    Args:
        store: exposures and events.
        name: name of the experiment.
        horizon_s: conversion window in seconds after an item's first exposure.
        shares: configured traffic shares by arm, for the sample ratio test.

    Raises:
        ConfigError: no exposures of that experiment; a horizon not above 0; invalid shares.
    """
    if not horizon_s > 0:
        raise ConfigError(f"horizon is {horizon_s} s, it must be above 0")
    if shares is not None:
        check_shares(name, shares)
    counts: dict[str, array[int]] = {arm: array("q") for arm in shares or ()}
    moved = 0
    for part in _parts(store.exposures(name)):
        shown = _exposures_by_user(part)
        moved += sum(one.moved for one in shown.values())
        for one, conversions in _conversions(store, shown, horizon_s):
            counts.setdefault(one.arm, array("q")).extend((conversions, len(one.first)))
    if not any(counts.values()):
        raise ConfigError(f"no exposures of an experiment '{name}' in this store; check its name")
    names = sorted(counts, key=lambda arm: (arm != CHAMPION, arm))
    users = {arm: np.array(counts[arm]).reshape(-1, 2) for arm in names}
    arms = tuple(_arm(arm, counts_U2) for arm, counts_U2 in users.items())
    found = None if shares is None else sample_ratio_p({one.arm: one.users for one in arms}, shares)
    return ExperimentReport(name, horizon_s, arms, tuple(_differences(users)), moved, found)


def sample_ratio_p(users: Mapping[str, int], shares: Mapping[str, float]) -> float:
    """p-value of the user counts under the shares (Pearson's chi-square); 0 if an arm without share has users."""
    from scipy.special import chdtrc  # slow import, only needed for reports

    total = sum(users.values())
    if any(count for arm, count in users.items() if arm not in shares):
        return 0.0
    if not total:
        return 1.0
    apart = sum((users.get(arm, 0) - share * total) ** 2 / (share * total) for arm, share in shares.items())
    return float(chdtrc(len(shares) - 1, apart))


def _parts(exposures: Iterator[Exposure]) -> Iterator[Iterator[Exposure]]:
    """The log in partitions, each with all rows of its users, in order."""
    encode = msgspec.json.Encoder().encode
    with ExitStack() as stack:
        files: list[IO[bytes]] = [stack.enter_context(TemporaryFile()) for _ in range(_PARTS)]
        for exposure in exposures:
            place = crc32(exposure.user_id.encode("utf-8", "surrogatepass")) % _PARTS
            files[place].write(encode(exposure) + b"\n")
        for file in files:
            file.seek(0)
            yield map(msgspec.json.Decoder(Exposure).decode, file)


def _exposures_by_user(exposures: Iterator[Exposure]) -> dict[str, _UserExposures]:
    """Exposures by user."""
    shown: dict[str, _UserExposures] = {}
    for exposure in exposures:
        shown.setdefault(exposure.user_id, _UserExposures(exposure.arm)).take(exposure)
    return shown


def _conversions(
    store: Store, shown: Mapping[str, _UserExposures], horizon_s: float
) -> Iterator[tuple[_UserExposures, int]]:
    """Each user's exposures, and how many of them converted."""
    users = iter(shown)
    while some := list(islice(users, _USERS_A_READ)):
        for user, events in zip(some, store.histories(some, MAX_HISTORY), strict=True):
            first = shown[user].first
            taken = {
                event.item_id
                for event in events
                if event.item_id in first and 0 <= event.timestamp - first[event.item_id] <= horizon_s
            }
            yield shown[user], len(taken)


def _per_user(counts_U2: NDArray[np.int64]) -> tuple[float, float]:
    """Mean conversions per user and its variance; NaN for fewer than two users."""
    users = len(counts_U2)
    conversions_U = counts_U2[:, 0]
    mean = float(conversions_U.mean()) if users else math.nan
    return mean, float(conversions_U.var(ddof=1)) / users if users > 1 else math.nan


def _per_exposure(counts_U2: NDArray[np.int64]) -> tuple[float, float]:
    """Conversions per exposure and its variance: that of the users' c − ratio · e, over the squared mean of e."""
    users, (conversions, exposures) = len(counts_U2), counts_U2.sum(axis=0).tolist()
    if not exposures:
        return math.nan, math.nan
    ratio = conversions / exposures
    residual_U = counts_U2[:, 0] - ratio * counts_U2[:, 1]
    return ratio, float((residual_U**2).sum()) / (users - 1) * users / exposures**2 if users > 1 else math.nan


_METRICS = {PER_USER: _per_user, PER_EXPOSURE: _per_exposure}


def _arm(name: str, counts_U2: NDArray[np.int64]) -> Arm:
    conversions, exposures = counts_U2.sum(axis=0).tolist()
    return Arm(name, len(counts_U2), exposures, conversions, _per_user(counts_U2)[0], _per_exposure(counts_U2)[0])


def _differences(users: Mapping[str, NDArray[np.int64]]) -> Iterator[Difference]:
    control, *others = users
    for arm in others:
        for metric, estimate in _METRICS.items():
            yield _difference((metric, arm, control), estimate(users[arm]), estimate(users[control]))


def _difference(names: tuple[str, str, str], arm: Sequence[float], control: Sequence[float]) -> Difference:
    """Difference of two independent means with their variances; normal approximation."""
    apart, variance = arm[0] - control[0], arm[1] + control[1]
    error = math.sqrt(variance)
    width = _NORMAL.inv_cdf(0.975) * error
    return Difference(*names, apart, (apart - width, apart + width), _two_sided(apart, error))


def _two_sided(apart: float, error: float) -> float:
    if math.isnan(error):
        return math.nan
    if not error:
        return 1.0 if not apart else 0.0
    return math.erfc(abs(apart) / error / math.sqrt(2))
