"""Model selection for the hybrid: settings, weights and recency by validation ndcg@10.

Settings of a part are searched one at a time, by the quality of that part alone. Weights are searched jointly on the
union of each part's top items, by coordinate search, since ndcg has no gradient. A part that does not help gets
weight 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numba
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged
from lanner.data.ranking import top_k
from lanner.data.split import HeldOut
from lanner.evaluation.protocol import narrow
from lanner.evaluation.rows import find_hits
from lanner.inference.sparse import aged, attribute_matrix, batch_matrix, shares_of
from lanner.models.hybrid.config import HybridConfig
from lanner.models.hybrid.material import Material
from lanner.models.hybrid.model import CLOSED, Choice, TrainedViews
from lanner.models.hybrid.parts import KINDS, SOFTMAX, Linear, Settings
from lanner.models.neural import ViewScores
from lanner.training.tasks import quality_of, some

_K = 10
_DISCOUNTS = 1 / np.log2(np.arange(2, _K + 2))
_DECAYS = (0.0, 0.1, 0.2, 0.35, 0.6, 1.0)
_FACTORS = (0.0, 0.03, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 5.0)
"""Trial weights, in units of the largest weight of another part."""
_NEARBY = (0.7, 0.85, 1.18, 1.4)
_ROUNDS = 4
_NUM_STARTS = 3
"""Number of starting points of each search: the best parts."""
_BAGS, _BAG_USERS = 8, 2_000
"""Number of searches that are averaged, and users sampled for each (bagging)."""
_PER_PART = 50
"""Candidate items per part."""
_USERS_AT_ONCE = 512
_OF_TEXT, _OF_ATTRIBUTES = "prior", ("smooth", "pairs")
"""Settings that have no effect without texts, and without user attributes."""


class Joiner:
    """Chooses by validation; see ``models.hybrid.model.Joiner``."""

    def __init__(self, progress: bool = True) -> None:
        self._console = Console(stderr=True, quiet=not progress)

    def __call__(self, material: Material, config: HybridConfig, views: TrainedViews, validation: HeldOut) -> Choice:
        """Settings, recency and weights for closed forms fitted on ``material`` and for trained ``views``."""
        recency, chosen, fitted = self._tuned(material, config, some(validation, config.tuning_users))
        weighed_on = some(validation, config.weighing_users)
        best: tuple[float, bool, dict[str, ViewScores], dict[str, float]] | None = None
        for sums in (False, True) if SOFTMAX in fitted else (False,):
            scores = {name: scores_of(linear, material, sums=sums) for name, linear in fitted.items()} | dict(views.own)
            found = Candidates.of(list(scores.values()), weighed_on, recency)
            searched, quality = found.search(config.minimum_gain)
            weights = dict(zip(scores, searched.tolist(), strict=True))
            self._report("joined sums" if sums else "joined", quality, weights, found.spread_V)
            if best is None or quality > best[0]:
                best = quality, sums, scores, weights
        assert best is not None
        quality, sums, scores, weights = best
        cold = self._cold_weights(scores, weights, views, weighed_on, recency)
        settings = {name: chosen[name] for name in chosen if weights[name]}
        return Choice(settings, weights, cold, recency, quality, sums)

    def _tuned(
        self, material: Material, config: HybridConfig, tuned_on: HeldOut
    ) -> tuple[float, dict[str, Settings], dict[str, Linear]]:
        """Recency, from the first closed form; the best settings of each form, and the forms fitted with them."""
        recency = 0.2 if material.has_order else 0.0
        chosen, fitted = dict[str, Settings](), dict[str, Linear]()
        for name, kind in KINDS.items():
            if name not in config.parts or not kind.suits(material, config):
                continue
            trial = _Trial(material, config, name, tuned_on)
            settings, linear, quality = trial.search(recency)
            if material.has_order and not fitted and len(tuned_on):
                recency, quality = trial.best_recency(linear, recency, quality)
            chosen[name], fitted[name] = settings, linear
            said = ", ".join(f"{key} {value:g}" for key, value in settings.items())
            found = f"tuned {name}: ndcg@10 {quality:.4f}" if len(tuned_on) else f"{name} at its defaults"
            self._console.print(f"{found} ({said}) · recency {recency:g}")
        return recency, chosen, fitted

    def _cold_weights(
        self,
        scores: Mapping[str, ViewScores],
        weights: Mapping[str, float],
        views: TrainedViews,
        held_out: HeldOut,
        recency: float,
    ) -> dict[str, float]:
        """Weights for unseen items: tuned on such items if validation has any, else as if all items were new."""
        lent_II = views.lent_II
        if lent_II is None:
            return {}

        def whole(users: UserBatch) -> NDArray[np.float32]:
            parts = [np.float32(weights[name]) * part(users) for name, part in scores.items() if weights[name]]
            total: NDArray[np.float32] = np.sum(parts, axis=0)
            return total

        def closed(users: UserBatch) -> NDArray[np.float32]:
            parts = [name for name in scores if name not in views.own and weights[name]]
            total = np.sum([np.float32(weights[name]) * scores[name](users) for name in parts], axis=0)
            transferred: NDArray[np.float32] = np.asarray((lent_II.T @ total.T).T, np.float32)
            return transferred

        parts: dict[str, ViewScores] = dict(views.borrowed)
        if any(name not in views.own and weight for name, weight in weights.items()):
            parts = {CLOSED: closed} | parts
        held_out_cold = _restrict_to_cold(held_out, views.is_cold_I)
        found = Candidates.of(list(parts.values()), held_out if held_out_cold is None else held_out_cold, recency)
        searched, quality = found.search(0.0)
        self._report("joined for new items", quality, dict(zip(parts, searched.tolist(), strict=True)), found.spread_V)
        # Scaled to the other scores by least squares, as if all were new, so that one list can rank both.
        with_whole = Candidates.of([*parts.values(), whole], held_out, recency)
        known = with_whole.values_BCV[with_whole.is_real_BC] * with_whole.spread_V
        new_N, whole_N = known[:, :-1] @ searched, known[:, -1]
        if not len(known) or new_N.std() < 1e-9:
            return dict.fromkeys(parts, 0.0)
        covariance = float(((new_N - new_N.mean()) * (whole_N - whole_N.mean())).mean())
        scale = max(covariance / float(new_N.var()), 0.0)
        return dict(zip(parts, (scale * searched).tolist(), strict=True))

    def _report(self, what: str, quality: float, weights: Mapping[str, float], spread_V: NDArray[np.float32]) -> None:
        listed = ", ".join(
            f"{name} {weight * spread:.2f}" for (name, weight), spread in zip(weights.items(), spread_V, strict=True)
        )
        self._console.print(f"{what}: ndcg@10 {quality:.4f} ({listed})")


def scores_of(linear: Linear, material: Material, *, sums: bool) -> ViewScores:
    """A closed form as a scoring function. sums: whether item-to-item weights are summed; see ``Choice``."""
    matrix = batch_matrix if sums and linear.items is not None else shares_of
    kind_A = material.people.kinds

    def score(users: UserBatch) -> NDArray[np.float32]:
        attributes = None
        if linear.reads_attributes and users.attributes is not None:
            attributes = attribute_matrix(users.attributes, kind_A)
        return linear.score(matrix(users, material.num_items), attributes)

    return score


class _Trial:
    """One kind of part, with the users on whom its settings are tuned."""

    def __init__(self, material: Material, config: HybridConfig, name: str, held_out: HeldOut) -> None:
        self._material, self._config, self._held_out = material, config, held_out
        self._name, self._kind = name, KINDS[name]

    def search(self, recency: float) -> tuple[Settings, Linear, float]:
        """The best settings, the part fitted with them, and its quality; defaults if there are no users to tune on."""
        best = dict(self._kind.start)
        if not len(self._held_out):
            return best, self._kind.fit(self._material, self._config, best), float("nan")
        linear = self._kind.fit(self._material, self._config, best)
        quality = self._quality(linear, recency)
        for key, values in self._kind.grid.items():
            if self._material.near is None and key == _OF_TEXT:
                continue
            if not len(self._material.people.kinds) and key in _OF_ATTRIBUTES:
                continue
            for value in values:
                other = best | {key: value}
                tried = self._kind.fit(self._material, self._config, other)
                found = self._quality(tried, recency)
                if found > quality:
                    best, linear, quality = other, tried, found
        return best, linear, quality

    def best_recency(self, linear: Linear, recency: float, quality: float) -> tuple[float, float]:
        """The best recency for this part, and its quality."""
        tried = {decay: self._quality(linear, decay) for decay in _DECAYS if decay != recency}
        found = max(tried, key=lambda decay: tried[decay])
        return (found, tried[found]) if tried[found] > quality else (recency, quality)

    def _quality(self, linear: Linear, recency: float) -> float:
        part = scores_of(linear, self._material, sums=self._name == SOFTMAX)
        return quality_of(_RecencyWeighted(part, recency), self._held_out)


@dataclass(frozen=True)
class _RecencyWeighted:
    """A part applied to histories weighted by age, as a ``Scorer`` for the evaluation."""

    part: ViewScores
    recency: float

    def score(self, users: UserBatch) -> NDArray[np.float32]:
        """Scores of every item, float32 ``[B, I]``."""
        return self.part(aged(users, self.recency))


@dataclass(frozen=True)
class Candidates:
    """Scores of V parts on each user's candidates: values_BCV, 0 where there is no candidate; is_hit, is_real_BC.

    lengths_B: number of positives per user. spread_V: standard deviation of each part's scores, by which ``values_BCV``
    are divided.
    """

    values_BCV: NDArray[np.float32]
    is_hit_BC: NDArray[np.bool_]
    is_real_BC: NDArray[np.bool_]
    lengths_B: NDArray[np.int64]
    spread_V: NDArray[np.float32]

    @classmethod
    def of(cls, parts: Sequence[ViewScores], held_out: HeldOut, recency: float) -> "Candidates":
        """The union of each part's top items for each user."""
        items, values = [], []
        for first in range(0, len(held_out), _USERS_AT_ONCE):
            rows = np.arange(first, min(first + _USERS_AT_ONCE, len(held_out)))
            users = held_out.users.take(rows)
            scored = [_RecencyWeighted(part, recency).score(users) for part in parts]
            for scores in scored:
                narrow(scores, held_out, rows)
            best = np.sort(np.concatenate([top_k(scores, _PER_PART)[0] for scores in scored], axis=1), axis=1)
            best[:, 1:][best[:, 1:] == best[:, :-1]] = -1
            items.append(best)
            values.append(np.stack([np.take_along_axis(scores, np.maximum(best, 0), 1) for scores in scored], axis=2))
        item_BC, value_BCV = np.concatenate(items), np.concatenate(values)
        real = (item_BC >= 0) & np.isfinite(value_BCV).all(axis=2)
        value_BCV[~real] = 0
        spread = np.array([value_BCV[:, :, part][real].std() for part in range(len(parts))], np.float32)
        spread[spread < 1e-12] = 1e12  # a part that gives all items the same score
        value_BCV /= spread
        positives = held_out.positives
        hits = find_hits(np.where(real, item_BC, -1), positives.indptr, positives.values)
        return cls(value_BCV, hits, real, positives.lengths, spread)

    def quality(self, weights: NDArray[np.float64]) -> float:
        """Mean ndcg@10 of the weighted sum. weights: in units of ``spread_V``, ``[V]``."""
        total = self.values_BCV @ weights.astype(np.float32)
        return float(self._qualities(total, total, [0.0])[0])

    def _qualities(
        self, base_BC: NDArray[np.float32], column_BC: NDArray[np.float32], weights: Sequence[float]
    ) -> NDArray[np.float64]:
        """Mean ndcg@10 of ``base + weight · column`` for each of T weights, ``[T]``; columns in C order."""
        best_B = np.cumsum(_DISCOUNTS)[np.minimum(self.lengths_B, _K) - 1]
        factors = np.array(weights, np.float32)
        sums = _sum_ndcg(base_BC, column_BC, factors, self.is_hit_BC, self.is_real_BC, _DISCOUNTS, best_B)
        return np.asarray(sums / max(len(best_B), 1))

    def search(self, minimum_gain: float) -> tuple[NDArray[np.float64], float]:
        """Weights ``[V]`` of the parts' raw scores, and their quality.

        The mean over searches on samples of the users, each normalised to sum 1: a single search overfits the noise of
        a few hundred users (docs/log.md). Parts whose removal hardly lowers the quality are then dropped.
        """
        random = np.random.default_rng(0)
        users = len(self.values_BCV)
        found = [self._take_users(random.integers(users, size=min(users, _BAG_USERS)))._best() for _ in range(_BAGS)]
        weights = np.mean([one / max(float(one.sum()), 1e-12) for one in found], axis=0)
        best = self.quality(weights)
        for part in np.argsort(weights):
            without = weights.copy()
            without[part] = 0
            if weights[part] and without.any() and (quality := self.quality(without)) >= best * (1 - minimum_gain):
                weights, best = without, quality
        return weights / self.spread_V, best

    def _take_users(self, rows: NDArray[np.integer]) -> "Candidates":
        """The candidates of some of the users."""
        return Candidates(
            self.values_BCV[rows], self.is_hit_BC[rows], self.is_real_BC[rows], self.lengths_B[rows], self.spread_V
        )

    def _best(self) -> NDArray[np.float64]:
        """The best weights over several hill climbs, in units of ``spread_V``."""
        parts = self.values_BCV.shape[2]
        alone = np.array([self.quality(one) for one in np.eye(parts)])
        # Several starting points: coordinate search stops at the first local maximum.
        climbed = [self._climb(np.eye(parts)[part], alone[part]) for part in np.argsort(-alone)[:_NUM_STARTS]]
        return max(climbed, key=lambda found: found[1])[0]

    def _climb(self, weights: NDArray[np.float64], best: float) -> tuple[NDArray[np.float64], float]:
        """Coordinate search from ``weights``."""
        weights = weights.copy()
        total = self.values_BCV @ weights.astype(np.float32)
        for _ in range(_ROUNDS):
            before = best
            for part in range(len(weights)):
                column = np.ascontiguousarray(self.values_BCV[:, :, part])
                base = total - np.float32(weights[part]) * column
                largest = max(np.abs(np.delete(weights, part)).max(initial=0), 1e-6)
                trials = {factor * largest for factor in _FACTORS} | {factor * weights[part] for factor in _NEARBY}
                tried = sorted(trials - {weights[part]})
                for weight, quality in zip(tried, self._qualities(base, column, tried).tolist(), strict=True):
                    if quality > best + 1e-6:
                        best, weights[part] = quality, weight
                total = base + np.float32(weights[part]) * column
            if best == before:
                break
        return weights, best


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _sum_ndcg(
    base_BC: NDArray[np.float32],
    column_BC: NDArray[np.float32],
    weights_T: NDArray[np.float32],
    is_hit_BC: NDArray[np.bool_],
    is_real_BC: NDArray[np.bool_],
    discounts_K: NDArray[np.float64],
    best_B: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Σ over users of ndcg@K by ``base + weight · column``, ``[T]``; ties go to the earlier candidate.

    Only the ranks of hits are computed, which takes a tenth of the time of ranking all candidates.
    """
    sums_T = np.zeros(len(weights_T))
    for row in range(len(base_BC)):
        real = np.flatnonzero(is_real_BC[row])
        hits = np.flatnonzero(is_hit_BC[row][real])
        if not len(hits):
            continue
        base_C, column_C = base_BC[row][real], column_BC[row][real]
        for trial in range(len(weights_T)):
            scores_C = base_C + weights_T[trial] * column_C
            for hit in hits:
                # Two branch-free loops, which compile to SIMD.
                place = np.int32(0)
                for score in scores_C[:hit]:
                    place += np.int32(score >= scores_C[hit])
                for score in scores_C[hit + 1 :]:
                    place += np.int32(score > scores_C[hit])
                if place < len(discounts_K):
                    sums_T[trial] += discounts_K[place] / best_B[row]
    return sums_T


def _restrict_to_cold(held_out: HeldOut, is_cold_I: NDArray[np.bool_]) -> HeldOut | None:
    """The users with positives among unseen items, restricted to such items; None if there are none."""
    positives = held_out.positives
    kept = is_cold_I[positives.values]
    if not kept.any():
        return None
    fewer = Ragged.from_pairs(positives.row_of_value[kept], positives.values[kept], len(positives))
    candidates = np.flatnonzero(is_cold_I).astype(np.int32)
    if isinstance(held_out.candidates, np.ndarray):
        candidates = np.intersect1d(candidates, held_out.candidates).astype(np.int32)
    narrowed = replace(held_out, positives=fewer, candidates=candidates, ratings=None, rated=None)
    return narrowed.take(np.flatnonzero(fewer.lengths))
