"""Whether a model that is updated without training keeps up with one that is retrained: chronological windows.

The first half of the events, in time, is the training data; the rest is cut into five windows of equally many events.
Before each window there are three models: the first one unchanged, the first one after an ``update`` with the events
since the previous window, and one fitted from scratch on all earlier events, its settings chosen again. Only the last
four windows tell them apart: before the first there is nothing to update with. Texts of earlier items are in the cache,
as they are in practice; encoding those of new items is part of both times, and is shown beside them.

Each user who is active in a window is evaluated at two moments, always ranking all items that the user has not seen:

- halfway: after the first half of the user's events in the window, to predict the second half; includes new users;
- at its start: with the events before the window alone, to predict those in it; only users who had any.

Events of a user before that moment are the history, for every model: they count at once, without an update. Items
without an event before the window are in no model and are not relevant.

Datasets with real timestamps:

- ml-latest-small: all ratings. Its tags are left out of the texts: they were given later.
- ml-1m: ratings of 4 and 5 whose timestamps the local copy has, 390,057 of 575,281. The share is the same for all
  users and all parts of their histories (0.68), so it is a sample of their likes; ratings below 4 have no timestamps.
- lastfm-tags: which artists a user has tagged, with the month of the first tag. The tags are not used as texts here.
"""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks._quality_settings import MOMENTS
from lanner.config import RunConfig, from_dict, with_seed
from lanner.data.extension import extended
from lanner.data.interactions import Dataset, UserBatch
from lanner.data.ragged import Ragged
from lanner.data.sources import bundled
from lanner.data.split import HeldOut
from lanner.evaluation.intervals import paired
from lanner.evaluation.protocol import evaluate
from lanner.models.language import LanguageEncoder
from lanner.models.recommender import Recommender
from lanner.models.text_cache import CACHE_VARIABLE
from lanner.registry import MODELS

Made = TypeVar("Made")

WINDOWS = 5
K = 10
_METRIC = f"ndcg_at_{K}"


@dataclass(frozen=True)
class Source:
    """events: user, item and time, sorted by time. items: with ``text`` and ``attributes`` by separator."""

    events: pl.DataFrame
    items: pl.DataFrame
    text: tuple[str, ...]
    attributes: dict[str, str]

    def dataset(self, first: int, end: int) -> Dataset:
        """Events by position, with the items that occur in them."""
        events = self.events.slice(first, end - first)
        return Dataset.from_frames(
            events,
            items=self.items.join(events, on="item", how="semi"),
            text=self.text,
            attributes=self.attributes,
            positive_threshold="none",
        )


@dataclass(frozen=True)
class Window:
    """before: all earlier events. new: those of the window. asked: its users by moment, in rows of ``before``."""

    before: Dataset
    new: Dataset
    asked: dict[str, HeldOut]


def measure(dataset: str, seed: int) -> dict[str, Any]:
    """ndcg@10 of the three models per window, the share of the retrained one's kept by the update, and both times."""
    with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, {CACHE_VARIABLE: cache}):
        return _measured(windows_of(SOURCES[dataset]()), seed)


def _measured(windows: list[Window], seed: int) -> dict[str, Any]:
    encoder = LanguageEncoder(from_dict({"model": "hybrid"}).neural.encoder)
    _compile(windows[0].before)
    kept_model, _ = _timed(partial(_fitted, windows[0].before, seed))
    found = [
        {moment: {"none": _ndcg(kept_model, asked)} for moment, asked in window.asked.items()} for window in windows
    ]
    seconds: list[dict[str, Any]] = []
    for window, of_window in zip(windows, found, strict=True):
        _, of_encoding = _timed(partial(encoder.encode, window.before.item_catalogue.texts))
        updated, of_update = _timed(partial(_updated, kept_model, window.before))
        retrained, of_retraining = _timed(partial(_fitted, window.before, seed))
        spent = {"update": of_update, "retrain": of_retraining}
        # Both read new texts' vectors from the cache, and both would have encoded them.
        seconds.append({name: _sum(one, of_encoding) for name, one in spent.items()} | {"encoding": of_encoding})
        for moment, asked in window.asked.items():
            of_window[moment] |= {"update": _ndcg(updated, asked), "retrain": _ndcg(retrained, asked)}
    rows = [
        {
            "events_before": len(window.before.interactions),
            "items": window.before.num_items,
            "users": {moment: len(asked) for moment, asked in window.asked.items()},
            _METRIC: {
                moment: {name: float(one.mean()) for name, one in of.items()} for moment, of in of_window.items()
            },
            **spent,
        }
        for window, of_window, spent in zip(windows, found, seconds, strict=True)
    ]
    return {"windows": rows, **_summary(found[1:], seconds[1:])}


def _summary(found: list[dict[str, dict[str, NDArray[np.float64]]]], seconds: list[dict[str, Any]]) -> dict[str, Any]:
    """Over the windows before which there was something to update with."""
    report: dict[str, Any] = {}
    for moment in MOMENTS:
        by_model = {name: [window[moment][name] for window in found] for name in ("none", "update", "retrain")}
        means = {name: float(np.mean([one.mean() for one in values])) for name, values in by_model.items()}
        compared = paired(_METRIC, np.concatenate(by_model["update"]), np.concatenate(by_model["retrain"]))
        report[moment] = {
            _METRIC: means,
            "kept": means["update"] / means["retrain"],
            "kept_without_update": means["none"] / means["retrain"],
            "update_over_retrain": compared.difference,
            "ci95": list(compared.ci95),
        }
    for kind in ("seconds", "cpu_seconds"):
        spent = {name: sum(one[name][kind] for one in seconds) for name in ("update", "retrain", "encoding")}
        report[f"share_of_{kind}"] = spent["update"] / spent["retrain"]
        without = [spent[name] - spent["encoding"] for name in ("update", "retrain")]
        report[f"share_of_{kind}_without_encoding"] = without[0] / without[1]
    kept = min(report[moment]["kept"] for moment in MOMENTS)
    return report | {"kept": kept, "time_share": report["share_of_cpu_seconds"]}


# --- models ----------------------------------------------------------------------------------------------------------


def _fitted(dataset: Dataset, seed: int) -> Recommender:
    """As ``lanner train`` does: settings are chosen on a tenth of each user's items, then all data are used."""
    config: RunConfig = with_seed(from_dict({"model": "hybrid"}), seed)
    recommender = MODELS["hybrid"](config, None).fit(dataset)
    recommender.refit(dataset)
    return _ready(recommender)


def _updated(recommender: Recommender, dataset: Dataset) -> Recommender:
    return _ready(recommender.update(dataset))


def _ready(recommender: Recommender) -> Recommender:
    """The exported model, as it is served."""
    _ = recommender.ranker
    return recommender


def _compile(dataset: Dataset) -> None:
    """Kernels are compiled at their first use, which must not be timed."""
    few = dataset.with_interactions(dataset.interactions.take(np.arange(min(5_000, len(dataset.interactions)))))
    config = from_dict({"model": "hybrid", "training": {"epochs": 1}})
    recommender = MODELS["hybrid"](config, None).fit(few)
    _updated(recommender, dataset)


def _timed(work: Callable[[], Made]) -> tuple[Made, dict[str, float]]:
    """The result of ``work``, and its cost; CPU seconds, because the machine may have other work."""
    begun, begun_cpu = time.perf_counter(), time.process_time()
    made = work()
    spent = {"seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - begun_cpu}
    return made, {name: round(value, 3) for name, value in spent.items()}


def _sum(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    return {kind: round(one[kind] + other[kind], 3) for kind in one}


def _ndcg(recommender: Recommender, asked: HeldOut) -> NDArray[np.float64]:
    """For each user; a model that does not know an item yet cannot find it."""
    history = asked.users.history
    is_known = history.values < recommender.num_items
    known = Ragged.from_pairs(history.row_of_value[is_known], history.values[is_known], len(history))
    held_out = HeldOut(asked.rows, UserBatch(known), asked.positives, known)
    return evaluate(recommender, held_out, (K,), ("ndcg",)).per_user[_METRIC]


# --- windows ---------------------------------------------------------------------------------------------------------


def windows_of(source: Source) -> list[Window]:
    """Cut where the time changes, so that no window starts with events of the moment at which the last one ended."""
    times = source.events["time"].to_numpy()
    shares = 0.5 + 0.5 * np.arange(WINDOWS) / WINDOWS
    bounds = [*np.searchsorted(times, times[(shares * len(times)).astype(int)]).tolist(), len(times)]
    before, windows = source.dataset(0, bounds[0]), list[Window]()
    for first, end in pairwise(bounds):
        new = source.dataset(first, end)
        windows.append(Window(before, new, {moment: _asked(before, new, moment) for moment in MOMENTS}))
        before = extended(before, new)
    return windows


def _asked(before: Dataset, new: Dataset, moment: str) -> HeldOut:
    """The users of a window who have a history at the moment, and the items they should be recommended."""
    item_of = np.array([before.items.row(one) if one in before.items else -1 for one in new.items.external], np.int32)
    rows, histories, positives = list[int](), list[NDArray[np.int32]](), list[NDArray[np.int32]]()
    for user, name in enumerate(new.users.external):
        mine = item_of[new.histories[user]]
        row = before.users.row(name) if name in before.users else -1
        earlier = before.histories[row] if row >= 0 else mine[:0]
        cut = len(mine) // 2 if moment == "halfway" else 0
        history = np.concatenate([earlier, mine[:cut]])
        history, wanted = history[history >= 0], np.setdiff1d(mine[cut:], [-1, *history])
        if len(history) and len(wanted):
            rows.append(row)
            histories.append(history)
            positives.append(wanted)
    history_of = Ragged.from_lists(histories)
    return HeldOut(np.array(rows, np.int64), UserBatch(history_of), Ragged.from_lists(positives), history_of)


# --- datasets --------------------------------------------------------------------------------------------------------


def _folder(name: str) -> Path:
    return Path(os.environ["LANNER_DATA"]) / name


def _ml_latest_small() -> Source:
    folder = bundled("ml-latest-small").parent
    events = pl.read_parquet(folder / "ratings.parquet").select(user="userId", item="movieId", time="timestamp")
    genres = pl.col("genres").replace("(no genres listed)", "")
    items = pl.read_parquet(folder / "movies.parquet").select("title", genres, item="movieId")
    return Source(events.sort("time", maintain_order=True), items, ("title", "genres"), {"genres": "|"})


def _ml_1m() -> Source:
    folder = _folder("ml-1m")
    liked = pl.read_parquet(folder / "ratings.parquet").filter(pl.col("rating") >= 4, pl.col("timestamp").is_not_null())
    events = liked.select(user="user_id", item="movie_id", time="timestamp")
    items = pl.read_parquet(folder / "movies.parquet").rename({"movie_id": "item"})
    text = ("title", "genres", "directors", "actors", "plot")
    return Source(
        events.sort("time", maintain_order=True), items, text, {"genres": "|", "directors": ",", "actors": ","}
    )


def _lastfm_tags() -> Source:
    folder = _folder("lastfm-hetrec2011")
    tagged = pl.read_parquet(folder / "user_taggedartists.parquet")
    month = pl.datetime("year", "month", "day").min()
    events = tagged.group_by(user="user_id", item="artist_id").agg(time=month).sort("time", "user", "item")
    items = pl.read_parquet(folder / "artists.parquet").select("name", "llm_description", item="artist_id")
    return Source(events, items, ("name", "llm_description"), {})


SOURCES: dict[str, Callable[[], Source]] = {
    "ml-latest-small": _ml_latest_small,
    "ml-1m": _ml_1m,
    "lastfm-tags": _lastfm_tags,
}
