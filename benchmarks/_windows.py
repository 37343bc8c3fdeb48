"""Whether a model that takes in events without training keeps up with one that is trained anew: chronological windows.

The first half of the events in time is learned from. The rest is cut into five windows of equally many events. Before
each, three models stand: (a) the first one as it is, (b) the first one after ``update`` with all events before the
window, (c) one fitted on all of them from nothing, its settings chosen anew. Each user is asked halfway through their
events of the window: what came before is their history, what follows is to be found.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lanner.data.extension import extended
from lanner.data.interactions import Dataset, UserBatch
from lanner.data.ragged import Ragged
from lanner.data.split import HeldOut
from lanner.evaluation.protocol import evaluate
from lanner.models.recommender import Recommender

WINDOWS = 5
K = 10


def _folder(name: str) -> Path:
    import os

    return Path(os.environ["LANNER_DATA"]) / name


def _ml_latest_small() -> Dataset:
    folder = _folder("ml-latest-small")
    events = pl.read_parquet(folder / "ratings.parquet").select(user="userId", item="movieId", time="timestamp")
    items = pl.read_parquet(folder / "movies.parquet").select(
        "title", item="movieId", genres=pl.col("genres").replace("(no genres listed)", "")
    )
    return _dataset(events, items, ("title", "genres"), {"genres": "|"})


def _ml_1m() -> Dataset:
    folder = _folder("ml-1m")
    events = pl.read_parquet(folder / "ratings.parquet").filter(
        pl.col("timestamp").is_not_null(), pl.col("rating") >= 4
    )
    items = pl.read_parquet(folder / "movies.parquet").rename({"movie_id": "item"})
    return _dataset(
        events.select(user="user_id", item="movie_id", time="timestamp"),
        items,
        ("title", "genres", "directors", "actors", "plot"),
        {"genres": "|", "directors": ",", "actors": ","},
    )


def _lastfm_tags() -> Dataset:
    folder = _folder("lastfm-hetrec2011")
    tagged = pl.read_parquet(folder / "user_taggedartists.parquet").with_columns(
        time=pl.datetime("year", "month", "day")
    )
    events = tagged.group_by(user="user_id", item="artist_id").agg(pl.col("time").min()).sort("time", "user", "item")
    items = pl.read_parquet(folder / "artists.parquet").select("name", "llm_description", item="artist_id")
    return _dataset(events, items, ("name", "llm_description"), {})


def _dataset(events: pl.DataFrame, items: pl.DataFrame, text: tuple[str, ...], attributes: dict[str, str]) -> Dataset:
    items = items.join(events.select("item").unique(), on="item", how="semi")
    return Dataset.from_frames(
        events,
        items=items,
        user="user",
        item="item",
        time="time",
        text=text,
        attributes=attributes,
        positive_threshold="none",
    )


DATASETS = {"ml-latest-small": _ml_latest_small, "ml-1m": _ml_1m, "lastfm-tags": _lastfm_tags}


@dataclass(frozen=True)
class Window:
    """known: all events before. asked: the users active in it, halfway."""

    known: Dataset
    new: Dataset
    asked: HeldOut


def _cut(dataset: Dataset, chosen: Any) -> Dataset:
    """The chosen events with the users and items that occur in them alone, as a file of them would be read."""
    events = dataset.interactions.take(chosen)
    users, user = np.unique(events.user, return_inverse=True)
    items, item = np.unique(events.item, return_inverse=True)
    from dataclasses import replace

    from lanner.data.catalogue import Attribute, Catalogue
    from lanner.data.ids import IdMap

    def part(catalogue: Catalogue, rows: Any) -> Catalogue:
        return Catalogue(
            tuple(catalogue.texts[r] for r in rows),
            tuple(catalogue.titles[r] for r in rows),
            {n: Attribute(a.names, a.codes.take(rows)) for n, a in catalogue.attributes.items()},
        )

    return replace(
        dataset,
        interactions=replace(events, user=user.astype(np.int32), item=item.astype(np.int32)),
        users=IdMap(
            dataset.users.ids(users) if dataset.users.kind == "str" else [dataset.users.external[r] for r in users],
            dataset.users.kind,
            of="user",
        ),
        items=IdMap([dataset.items.external[r] for r in items], dataset.items.kind, of="item"),
        item_catalogue=part(dataset.item_catalogue, items),
        user_catalogue=part(dataset.user_catalogue, users),
    )


def windows(dataset: Dataset) -> tuple[Dataset, list[Window]]:
    times = dataset.interactions.timestamp
    bounds = [
        np.searchsorted(times, times[min(int(len(times) * (0.5 + 0.5 * w / WINDOWS)), len(times) - 1)])
        for w in range(WINDOWS + 1)
    ]
    bounds[-1] = len(times)
    known = _cut(dataset, slice(0, bounds[0]))
    first = known
    made = []
    for start, end in zip(bounds[:-1], bounds[1:]):
        new = _cut(dataset, slice(start, end))
        made.append(Window(known, new, _asked(known, new)))
        known = extended(known, new)
    return first, made


def _asked(known: Dataset, new: Dataset) -> HeldOut:
    item = np.array([known.items._row.get(one, -1) for one in new.items.external], np.int32)
    rows, history, excluded, positives, at_start = [], [], [], [], []
    for user, name in enumerate(new.users.external):
        mine = item[new.histories[user]]
        row = known.users._row.get(name, -1)
        before = known.histories[row] if row >= 0 else np.empty(0, np.int32)
        half = len(mine) // 2
        seen = np.concatenate([before, mine[:half]])
        seen = seen[seen >= 0]
        found = np.setdiff1d(mine[half:], np.append(seen, -1))
        if len(seen) and len(found):
            rows.append(row)
            history.append(seen)
            positives.append(found.astype(np.int32))
    h = Ragged.from_lists(history)
    return HeldOut(np.array(rows), UserBatch(h), Ragged.from_lists(positives), h)


def ndcg(model: Recommender, asked: HeldOut) -> np.ndarray:
    """A model of fewer items cannot find the others."""
    n = model.num_items
    h = asked.users.history
    kept = h.values < n
    cut = Ragged.from_pairs(h.row_of_value[kept], h.values[kept], len(h))
    held = HeldOut(asked.rows, UserBatch(cut), asked.positives, cut)
    return evaluate(model, held, (K,), ("ndcg",)).per_user["ndcg_at_10"]
