"""How published protocols choose held-out users, and metrics that the library does not have."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import _insurance
from lanner.config import SplitConfig
from lanner.data.interactions import Dataset
from lanner.data.narrowing import rated_only, sampled_negatives
from lanner.data.ragged import Ragged
from lanner.data.split import HeldOut, Split
from lanner.evaluation.protocol import Scorer, evaluate
from lanner.evaluation.report import Report
from lanner.registry import SPLITS

_LIKED = 4.0
_USERS_AT_ONCE = 512


def split_of(dataset: Dataset, asked: str, config: SplitConfig) -> Split:
    """The split of a cell, its held-out users restricted as ``asked`` says."""
    if asked == "insurance":
        return _insurance.whole_split(dataset, config.seed)
    if asked == "ncf":
        dataset = _with_ncf_test(dataset)
    return ASKED[asked](SPLITS[config.name](dataset, config), dataset, config.seed)


def _all(split: Split, dataset: Dataset, seed: int) -> Split:
    return split


def _rated(split: Split, dataset: Dataset, seed: int) -> Split:
    """Models are chosen by whether items rated 4 or more come first among a user's rated items."""
    return replace(split, validation=rated_only(split.validation, _LIKED))


def _ncf(split: Split, dataset: Dataset, seed: int) -> Split:
    """The true last event of each user among the 99 published negatives (He et al., WWW 2017)."""
    import polars as pl

    file = Path(os.environ["LANNER_DATA"]) / "ml-1m" / "ncf_leave_one_out_test.parquet"
    published = pl.read_parquet(file)
    row_of_item = {item: row for row, item in enumerate(dataset.items.external)}
    negatives = {
        str(user): [row_of_item[str(item)] for item in items if str(item) in row_of_item]
        for user, items in published.select("user_id", "negatives").iter_rows()
    }
    test = split.test
    asked = Ragged.from_lists([np.array(negatives[str(dataset.users.external[row])], np.int32) for row in test.rows])
    nothing = Ragged.empty(len(test))
    # Negatives are items without an event; one list in a few thousand repeats the positive, as in the published file.
    test = replace(test, candidates=test.positives.join(asked), excluded=nothing)
    return replace(split, validation=sampled_negatives(split.validation, dataset.num_items, 99, seed), test=test)


def _diffnet(split: Split, dataset: Dataset, seed: int) -> Split:
    """A user's positives among 1,000 items without events (Wu et al., SIGIR 2019)."""
    validation, test = (sampled_negatives(one, dataset.num_items, 1000, seed) for one in (split.validation, split.test))
    return replace(split, validation=validation, test=test)


ASKED: dict[str, Callable[[Split, Dataset, int], Split]] = {
    "all": _all,
    "rated": _rated,
    "ncf": _ncf,
    "diffnet": _diffnet,
}


def _with_ncf_test(dataset: Dataset) -> Dataset:
    """The dataset in the order of its known timestamps, with each user's published last event as its test part.

    Two ratings in five have a timestamp, all of them 4 or 5. These follow the others, oldest first; each user's last
    one is for validation, since the test also asks for a last event.
    """
    import polars as pl

    folder = Path(os.environ["LANNER_DATA"]) / "ml-1m"
    pair = [pl.col("user_id").cast(pl.String), pl.col("movie_id").cast(pl.String)]
    times = pl.read_parquet(folder / "ratings.parquet").select(*pair, "timestamp")
    asked = pl.read_parquet(folder / "ncf_leave_one_out_test.parquet").select(*pair, is_test=True)
    facts = times.join(asked, ["user_id", "movie_id"], how="left").rows()
    fact_of = {(user, item): (time, is_test) for user, item, time, is_test in facts}
    events, users, items = dataset.interactions, dataset.users.external, dataset.items.external
    known = [fact_of[users[user], items[item]] for user, item in zip(events.user, events.item, strict=True)]
    time_E = np.array([-1 if time is None else time for time, _ in known], np.int64)
    order = np.argsort(time_E, kind="stable")
    events, time_E = events.take(order), time_E[order]
    part_E = 2 * np.array([bool(is_test) for _, is_test in known], np.uint8)[order]
    last_U = np.full(dataset.num_users, -1)
    timed = np.flatnonzero((part_E == 0) & (time_E >= 0))
    last_U[events.user[timed]] = timed  # of several the last one wins
    part_E[last_U[last_U >= 0]] = 1
    events = replace(events, partition=part_E, partitions=("train", "validation", "test"))
    return replace(dataset, interactions=events, has_order=True)


def report_of(scorer: Scorer, split: Split, asked: str, ks: tuple[int, ...], name: str) -> Report:
    """The metrics of the test users, including those that the protocol defines itself."""
    if asked == "rated":
        begun = time.perf_counter()
        values = {"graded_ndcg_at_10": graded_ndcg(scorer, split.test)}
        return Report(name, split.test.rows, values, {}, None, time.perf_counter() - begun)
    report = evaluate(scorer, split, ks=ks, name=name)
    if asked == "diffnet":
        # This protocol's hit rate: hits over the number possible.
        possible = np.minimum(split.test.positives.lengths, 10)
        report.per_user["capped_recall_at_10"] = report.per_user["precision_at_10"] * 10 / possible
    return report


def graded_ndcg(scorer: Scorer, held_out: HeldOut, k: int = 10) -> NDArray[np.float64]:
    """ndcg@k of each user's rated test items, ranked against each other, gain 2^rating − 1; float64 ``[U]``."""
    assert held_out.ratings is not None
    discounts, values = 1 / np.log2(np.arange(2, k + 2)), np.empty(len(held_out))
    rated, ratings = held_out.rated_items, held_out.ratings
    for first in range(0, len(held_out), _USERS_AT_ONCE):
        rows = np.arange(first, min(first + _USERS_AT_ONCE, len(held_out)))
        for row, scores_I in zip(rows, scorer.score(held_out.users.take(rows)), strict=True):
            gains = 2.0 ** ratings[rated.indptr[row] : rated.indptr[row + 1]] - 1
            ranked = gains[np.argsort(-scores_I[rated[int(row)]], kind="stable")][:k]
            best = np.sort(gains)[::-1][:k]
            values[row] = ranked @ discounts[: len(ranked)] / (best @ discounts[: len(best)])
    return values
