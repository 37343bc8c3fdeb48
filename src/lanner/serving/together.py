"""Plain requests, several at a time: the engine's stages over arrays, each called once for all of them.

Of a request among 100,000 items half the time went into the calls of its stages rather than their work, and other
threads wait for the interpreter meanwhile. What texts, filters, diversity and reasons ask for is left to the engine.
"""

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lanner.data.ranking import top_k
from lanner.serving.engine import Answer, Engine
from lanner.serving.fixed_order import FixedOrder
from lanner.serving.item_index import retrieved


def answer_together(
    engine: Engine, histories: Sequence[NDArray[np.int64]], ks: Sequence[int], exclude_seen: Sequence[bool]
) -> list[Answer]:
    """For each of B users, the k best items, as ``Engine.answer`` has them.

    What was seen is passed over among the items retrieved rather than barred from the search, so an approximate index
    may name others at the end of a list.

    Raises:
        ValueError: a row lies outside the catalogue.
    """
    if isinstance(engine.index, FixedOrder):
        asked = zip(histories, ks, exclude_seen, strict=True)
        return [_of_order(engine.index, engine.num_items, *one) for one in asked]
    met, starts = _distinct_rows(histories, engine.num_items)
    mean_BD = _means(engine.tables.sources(met), starts)
    wanted_B = np.array([retrieved(engine.form, engine.candidates, k) for k in ks])
    seen_B = np.where(exclude_seen, np.diff(starts), 0)
    query_BD = np.hstack([mean_BD, np.ones((len(mean_BD), 1), np.float32)])
    rows_BC, scores_BC = engine.index.search(query_BD, int((wanted_B + seen_B).max()))
    _bar(rows_BC, scores_BC, met, starts, seen_B, wanted_B)
    head = engine.form.head
    if head is not None:
        hidden_BH = head.hidden(mean_BD, engine.form.view_sizes)
        scores_BC = scores_BC + engine.tables.corrections(rows_BC, hidden_BH, head.out_H)
    places_BK, best_BK = top_k(scores_BC, max(ks))
    answers = []
    for user, k in enumerate(ks):
        places = places_BK[user, :k]
        places = places[places >= 0]
        answers.append(Answer(rows_BC[user, places], best_BK[user, : len(places)]))
    return answers


def _of_order(order: FixedOrder, num_items: int, history: NDArray[np.int64], k: int, exclude_seen: bool) -> Answer:
    met = set(history.tolist())
    if met and not 0 <= min(met) <= max(met) < num_items:
        raise _misfit(min(met), max(met), num_items)
    return Answer(*order.best(met if exclude_seen else (), k))


def _misfit(first: int, last: int, num_items: int) -> ValueError:
    return ValueError(f"item rows {first} … {last} do not fit {num_items} items")


def _distinct_rows(
    histories: Sequence[NDArray[np.int64]], num_items: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct rows of each history, ascending, one after another, and where each begins, int64 ``[B + 1]``."""
    ends = np.cumsum([0, *map(len, histories)])
    rows = np.concatenate(histories)
    if len(rows) and not 0 <= rows.min() <= rows.max() < num_items:
        raise _misfit(int(rows.min()), int(rows.max()), num_items)
    kept: tuple[NDArray[np.int64], NDArray[np.int64]] = _distinct(rows, ends)
    return kept


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _distinct(rows: NDArray[np.int64], ends: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    starts, kept = np.zeros_like(ends), np.empty_like(rows)
    number = 0
    for user in range(len(ends) - 1):
        own = np.sort(rows[ends[user] : ends[user + 1]])
        for place in range(len(own)):
            if place == 0 or own[place] != own[place - 1]:
                kept[number] = own[place]
                number += 1
        starts[user + 1] = number
    return kept[:number], starts


@njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator]
def _means(sources_MD: NDArray[np.float32], starts: NDArray[np.int64]) -> NDArray[np.float32]:
    """The mean of each user's rows, float32 ``[B, D]``; zeros for nobody."""
    mean_BD = np.zeros((len(starts) - 1, sources_MD.shape[1]), np.float32)
    for user in range(len(starts) - 1):
        for row in range(starts[user], starts[user + 1]):
            for dimension in range(sources_MD.shape[1]):
                mean_BD[user, dimension] += sources_MD[row, dimension]
        mean_BD[user] /= np.float32(max(1, starts[user + 1] - starts[user]))
    return mean_BD


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _bar(
    rows_BC: NDArray[np.int64],
    scores_BC: NDArray[np.float32],
    met: NDArray[np.int64],
    starts: NDArray[np.int64],
    seen_B: NDArray[np.int64],
    wanted_B: NDArray[np.int64],
) -> None:
    """−inf for what was seen, where ``seen_B`` is above 0, and for what is beyond the best ``wanted_B`` of the rest."""
    for user in range(rows_BC.shape[0]):
        own = met[starts[user] : starts[user + 1]]
        left = wanted_B[user]
        for place in range(rows_BC.shape[1]):
            row = rows_BC[user, place]
            if row < 0 or left == 0:
                scores_BC[user, place] = -np.inf
                continue
            if seen_B[user] > 0:
                found = np.searchsorted(own, row)
                if found < len(own) and own[found] == row:
                    scores_BC[user, place] = -np.inf
                    continue
            left -= 1
