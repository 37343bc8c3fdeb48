"""What an experiment found: per arm how often what was shown was taken, and how sure the difference of two arms is.

Users are the unit: they were drawn, their events were not. Means and ratios over users, their variances and those of
differences by the delta method (Deng, Knoblich and Lu, Applying the Delta Method in Metric Analytics, KDD 2018).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from statistics import NormalDist
from tempfile import TemporaryFile
from typing import IO
from zlib import crc32

import msgspec

from lanner.errors import ConfigError
from lanner.serving.messages import MAX_HISTORY
from lanner.serving.store.contract import Exposure, Store
from lanner.serving.versions.experiment import check_shares
from lanner.serving.versions.registry import CHAMPION

PER_USER, PER_EXPOSURE = "conversions per user", "conversions per exposure"
MISMATCH = 0.001
"""Below this probability of the users' counts the assignment is broken, and with it the comparison."""
_PARTS = 64
"""Users are looked at in so many parts, one in memory at a time."""
_USERS_A_READ = 100
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Arm:
    """One arm. exposures: different items a user was shown, summed over users, each from its first time on."""

    arm: str
    users: int
    exposures: int
    conversions: int
    """Exposures whose item the user met within the horizon."""
    per_user: float
    per_exposure: float


@dataclass(frozen=True)
class Difference:
    """How an arm differs from the control: ``difference`` is the arm's rate − the control's."""

    metric: str
    arm: str
    control: str
    difference: float
    ci95: tuple[float, float]
    p: float
    """Two-sided; NaN, as the interval, where an arm has fewer than two users."""

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0."""
        return self.ci95[0] > 0 or self.ci95[1] < 0


@dataclass(frozen=True)
class ExperimentReport:
    """Arms (the control first), and every other arm against the control."""

    experiment: str
    horizon_s: float
    arms: tuple[Arm, ...]
    differences: tuple[Difference, ...]
    users_in_several_arms: int
    """They count in the arm that they were in first; shares that changed move users."""
    sample_ratio_p: float | None
    """How probable counts as uneven as these are under the configured shares; None where none were given."""

    @property
    def sample_ratio_mismatch(self) -> bool:
        """Whether the arms have other shares of the users than configured: look for the fault before the result."""
        return self.sample_ratio_p is not None and self.sample_ratio_p < MISMATCH


@dataclass
class _Sums:
    """Over the users of one arm: of conversions c and exposures e."""

    users: int = 0
    c: int = 0
    e: int = 0
    cc: int = 0
    ee: int = 0
    ce: int = 0

    def add(self, conversions: int, exposures: int) -> None:
        self.users += 1
        self.c += conversions
        self.e += exposures
        self.cc += conversions * conversions
        self.ee += exposures * exposures
        self.ce += conversions * exposures

    def per_user(self) -> tuple[float, float]:
        """Mean and its variance."""
        if self.users < 2:
            return self.c / self.users if self.users else math.nan, math.nan
        mean = self.c / self.users
        return mean, (self.cc - self.users * mean * mean) / (self.users - 1) / self.users

    def per_exposure(self) -> tuple[float, float]:
        """Ratio and its variance: that of the users' c − ratio × e, over the squared mean of e."""
        if not self.e:
            return math.nan, math.nan
        ratio = self.c / self.e
        if self.users < 2:
            return ratio, math.nan
        apart = self.cc - 2 * ratio * self.ce + ratio * ratio * self.ee
        return ratio, apart / (self.users - 1) * self.users / self.e**2


@dataclass
class _Shown:
    """What one user was shown in the arm they were in first: the first time of each item."""

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
    """Read the log of an experiment and the users' events after it.

    The log is read once, in bounded memory: its rows wait in nameless temporary files, which end with the process.
    Of a user with more than ``MAX_HISTORY`` events the newest count.

    Args:
        store: the log and the events.
        name: the experiment.
        horizon_s: an event counts so long after the item was first shown.
        shares: configured, by arm; where given, the counts of users are held against them.

    Raises:
        ConfigError: nothing was shown in that experiment; a horizon that is not above 0; shares that are none.
    """
    if not horizon_s > 0:
        raise ConfigError(f"horizon is {horizon_s} s, it must be above 0")
    if shares is not None:
        check_shares(name, shares)
    sums: dict[str, _Sums] = {arm: _Sums() for arm in shares or ()}
    moved = 0
    for part in _parts(store.exposures(name)):
        shown = _shown(part)
        moved += sum(one.moved for one in shown.values())
        for one, conversions in _conversions(store, shown, horizon_s):
            sums.setdefault(one.arm, _Sums()).add(conversions, len(one.first))
    if not any(one.users for one in sums.values()):
        raise ConfigError(f"nothing was shown in an experiment '{name}' of this store; check its name")
    ordered = dict(sorted(sums.items(), key=lambda pair: (pair[0] != CHAMPION, pair[0])))
    arms = tuple(_arm(arm, one) for arm, one in ordered.items())
    found = None if shares is None else sample_ratio_p({one.arm: one.users for one in arms}, shares)
    return ExperimentReport(name, horizon_s, arms, tuple(_differences(ordered)), moved, found)


def sample_ratio_p(users: Mapping[str, int], shares: Mapping[str, float]) -> float:
    """Probability of counts as uneven as these, by Pearson's chi-square; 0 where users are in an arm without share."""
    from scipy.special import chdtrc  # only reports pay for it

    total = sum(users.values())
    if any(count for arm, count in users.items() if arm not in shares):
        return 0.0
    if not total:
        return 1.0
    apart = sum((users.get(arm, 0) - share * total) ** 2 / (share * total) for arm, share in shares.items())
    return float(chdtrc(len(shares) - 1, apart))


def _parts(exposures: Iterator[Exposure]) -> Iterator[Iterator[Exposure]]:
    """The log in parts, each with all rows of its users, in their order."""
    encode = msgspec.json.Encoder().encode
    with ExitStack() as stack:
        files: list[IO[bytes]] = [stack.enter_context(TemporaryFile()) for _ in range(_PARTS)]
        for exposure in exposures:
            place = crc32(exposure.user_id.encode("utf-8", "surrogatepass")) % _PARTS
            files[place].write(encode(exposure) + b"\n")
        for file in files:
            file.seek(0)
            yield map(msgspec.json.Decoder(Exposure).decode, file)


def _shown(exposures: Iterator[Exposure]) -> dict[str, _Shown]:
    """By user."""
    shown: dict[str, _Shown] = {}
    for exposure in exposures:
        shown.setdefault(exposure.user_id, _Shown(exposure.arm)).take(exposure)
    return shown


def _conversions(store: Store, shown: Mapping[str, _Shown], horizon_s: float) -> Iterator[tuple[_Shown, int]]:
    """Each user's exposures, and how many of them their events convert."""
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


def _arm(name: str, sums: _Sums) -> Arm:
    return Arm(name, sums.users, sums.e, sums.c, sums.per_user()[0], sums.per_exposure()[0])


def _differences(sums: Mapping[str, _Sums]) -> Iterator[Difference]:
    control, *others = sums
    for arm in others:
        for metric, pick in ((PER_USER, _Sums.per_user), (PER_EXPOSURE, _Sums.per_exposure)):
            yield _difference((metric, arm, control), pick(sums[arm]), pick(sums[control]))


def _difference(names: tuple[str, str, str], arm: Sequence[float], control: Sequence[float]) -> Difference:
    """Of two independent means with their variances, normal for many users."""
    apart, variance = arm[0] - control[0], arm[1] + control[1]
    error = math.sqrt(0.0 if variance < 0 else variance)  # rounding may leave less than 0, and NaN must stay
    width = _NORMAL.inv_cdf(0.975) * error
    return Difference(*names, apart, (apart - width, apart + width), _two_sided(apart, error))


def _two_sided(apart: float, error: float) -> float:
    if math.isnan(error):
        return math.nan
    if not error:
        return 1.0 if not apart else 0.0
    return math.erfc(abs(apart) / error / math.sqrt(2))
