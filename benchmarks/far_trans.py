"""Financial assets: what customers buy next, and its return, by the protocol published with FAR-Trans.

``python -m benchmarks.far_trans`` reads ``LANNER_DATA/far-trans`` (``transactions.csv``, ``close_prices.csv``,
``customer_information.csv``, ``asset_information.csv``; doi 10.5525/gla.researchdata.1658) and writes
``results/far_trans.json``; without the files it says so and writes nothing.

Protocol (Sanz-Cruzado, Droukas and McCreadie, Fin-RecSys 2024; dates and filters as in the authors' code): 61 dates,
ten trading days apart, each with a horizon of 13 such steps, about six months. Transactions before the date train, with
the customer and asset data known then. Relevant are assets bought within the horizon that occur in training and with
which the customer had no transaction before. Ranked are assets with a price on both days, except those the customer
transacted before. Evaluated are customers of the training part with a transaction in another asset within the horizon.
ROI@10: mean return of the ten assets over the horizon; monthly: compounded to 30 days (the authors' code has both).

The blend adds the assets' return over the preceding 126 trading days to the hybrid's score, both standardised for each
customer. Its weight is chosen on earlier dates, whose horizons end before the first of the 61.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks import _record
from lanner import registry
from lanner.config import from_dict, with_seed
from lanner.data.feedback import Feedback
from lanner.data.interactions import Dataset
from lanner.data.ragged import Ragged
from lanner.data.sources import load
from lanner.evaluation.metrics import ndcg
from lanner.evaluation.rows import find_hits
from lanner.models.recommender import Recommender

SEED = 0
K = 10
TEST = (("2019-08-01", "2021-02-26", 28), ("2020-09-14", "2022-05-23", 31))
"""First and last trading day, and the number of steps on whose days recommendations are made (both ends count)."""
VALIDATION = (("2018-07-02", "2019-07-31", 13),)
AHEAD = 13
PAST_DAYS = 126
MODELS = ("random", "popularity", "item-knn", "ease", "hybrid")
SETTINGS: dict[str, Any] = {"feedback": {"positive_threshold": "none", "behaviour_weights": {"Sell": 0.0}}}
"""Purchases count equally, whatever their value; an asset that was only sold is known, but is no sign of interest."""
WEIGHTS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Weights of the past return in the blend."""
KEPT = 0.95
PUBLISHED = {
    "random": (0.0106, 0.0071),
    "popularity": (0.2710, 0.0006),
    "lightgcn": (0.3404, 0.0004),
    "random forest": (0.0237, 0.0259),
    "hybrid": (0.2313, 0.0063),
    "market": (None, 0.0079),
}
"""nDCG@10 and ROI@10 of the paper's Table 2: the best of each kind, and the baselines."""
TABLES = ("transactions", "close_prices", "customer_information", "asset_information")
METRICS = ("ndcg_at_10", "roi_at_10", "monthly_roi_at_10")
Figures = tuple[float, ...]  # values of METRICS


@dataclass(frozen=True)
class Moment:
    """customers: rows of the B evaluated; relevant: a list for each. candidates: rows of the assets that are ranked.
    roi, past: float64 ``[I]``, return over the horizon and before it, NaN if unknown. months: of 30 days."""

    dataset: Dataset
    customers: np.ndarray
    relevant: Ragged
    candidates: np.ndarray
    roi: np.ndarray
    past: np.ndarray
    months: float


def main() -> None:
    tables = read(Path(os.environ.get("LANNER_DATA", "nowhere")) / "far-trans")
    if missing := [f"{name}.csv" for name in TABLES if name not in tables]:
        print(f"far_trans: nothing was measured, for LANNER_DATA/far-trans lacks {', '.join(missing)}")
        return
    settings = {"models": MODELS, "weights": WEIGHTS, "kept": KEPT, "past_days": PAST_DAYS, **SETTINGS}
    print(_record.record("far_trans", seed=SEED, settings=settings, results=measure(tables)))


def read(folder: Path) -> dict[str, pl.DataFrame]:
    """The ``TABLES`` that exist, from CSV or Parquet; dates are ISO strings."""
    files = [folder / f"{name}{suffix}" for name in TABLES for suffix in (".parquet", ".csv")]
    return {
        file.stem: pl.read_parquet(file) if file.suffix == ".parquet" else pl.read_csv(file, infer_schema_length=None)
        for file in files
        if file.is_file()
    }


def measure(tables: dict[str, pl.DataFrame]) -> dict[str, Any]:
    """All rows, the curve of the blend on both kinds of dates, and the chosen weight."""
    # An asset with a price of 0 was not collected properly; of two prices on one day the last counts.
    closes = tables["close_prices"].filter((pl.col("closePrice") > 0).all().over("ISIN"))
    tables = {**tables, "close_prices": closes.unique(["ISIN", "timestamp"], keep="last")}
    days = closes["timestamp"].unique().sort().to_list()
    curves: dict[str, list[list[Figures]]] = {"validation": [], "test": []}
    by_date: dict[str, list[Figures]] = {name: [] for name in (*MODELS, "market")}
    for kind, periods in (("validation", VALIDATION), ("test", TEST)):
        for past, day, until in (one for period in periods for one in dates(days, *period)):
            moment = moment_at(tables, past, day, until)
            print(f"{kind} {day}: {len(moment.customers)} customers, {len(moment.candidates)} assets", flush=True)
            models = {name: fitted(name, moment.dataset) for name in (MODELS if kind == "test" else ("hybrid",))}
            curves[kind].append([figures(moment, items) for items in blends(models["hybrid"], moment)])
            if kind == "test":
                by_date["market"].append(figures(moment, moment.candidates[None]))
                for name, recommender in models.items():
                    by_date[name].append(figures(moment, ranked(recommender, moment)))
    validation, test = (np.mean(curves[kind], 0) for kind in curves)
    chosen = choose(validation)
    rows = {name: _named(np.mean(found, 0)) for name, found in by_date.items()} | {"blend": _named(test[chosen])}
    rows["market"].pop(METRICS[0])
    return {
        "rows": rows,
        "chosen_weight": WEIGHTS[chosen],
        "pareto_weights": [WEIGHTS[place] for place in pareto(test)],
        "curve": {str(weight): _named(one) for weight, one in zip(WEIGHTS, test, strict=True)},
        "validation_curve": {str(weight): _named(one) for weight, one in zip(WEIGHTS, validation, strict=True)},
        "dates": [day for period in TEST for _, day, _ in dates(days, *period)],
        "by_date": {name: [_named(one) for one in found] for name, found in by_date.items() if name != "market"},
        "published": PUBLISHED,
    }


def dates(days: Sequence[str], first: str, last: str, steps: int) -> Iterator[tuple[str, str, str]]:
    """Days ``PAST_DAYS`` before a date, the date, and the end of its horizon; dates are equally many ``days`` apart."""
    rows = [row for row, day in enumerate(days) if first <= day <= last]
    marks = rows[:: len(rows) // (steps + AHEAD)][: steps + AHEAD] + rows[-1:]
    for row, end in zip(marks, marks[AHEAD:], strict=False):
        yield days[max(row - PAST_DAYS, 0)], days[row], days[end]


def moment_at(tables: dict[str, pl.DataFrame], past: str, day: str, until: str) -> Moment:
    """Data known on a date, with the return since the day ``past``, and the outcome until the day ``until``."""
    made, is_buy, pair = tables["transactions"], pl.col("transactionType") == "Buy", ["customerID", "ISIN"]
    # A pair is represented by its last purchase, or its last sale if there was none.
    known = made.filter(pl.col("timestamp") < day).sort(is_buy, "timestamp").unique(pair, keep="last")
    later = made.filter(pl.col("timestamp").is_between(pl.lit(day), pl.lit(until))).group_by(pair).agg(is_buy.any())
    later = later.join(known, on=pair, how="anti")
    later = later.join(known, on="customerID", how="semi").join(known, on="ISIN", how="semi")
    dataset = _dataset({**tables, "transactions": known.sort("timestamp", *pair)}, day)
    roi = returns(tables["close_prices"], day, until, dataset.items.external)
    customers = later["customerID"].unique().sort().to_list()
    bought = later.filter(pl.col("transactionType")).sort(pair)
    items = dataset.items.rows(bought["ISIN"])
    rows, priced = np.searchsorted(customers, bought["customerID"].to_list()), np.isfinite(roi[items])
    return Moment(
        dataset,
        dataset.users.rows(customers),
        Ragged.from_pairs(rows[priced], items[priced], len(customers)),
        np.flatnonzero(np.isfinite(roi)).astype(np.int32),
        roi,
        returns(tables["close_prices"], past, day, dataset.items.external),
        months=int((np.datetime64(until) - np.datetime64(day)).astype(int)) / 30,
    )


def returns(closes: pl.DataFrame, first: str, last: str, assets: Sequence[str]) -> np.ndarray:
    """Relative change of the assets' prices from one day to another, float64 ``[I]``, NaN without a price on both."""
    begin, end = (closes.filter(timestamp=day).select("ISIN", "closePrice") for day in (first, last))
    both = begin.join(end, on="ISIN").select("ISIN", pl.col("closePrice_right") / pl.col("closePrice") - 1)
    found: dict[str, float] = dict(both.iter_rows())
    return np.array([found.get(asset, np.nan) for asset in assets])


def _dataset(tables: dict[str, pl.DataFrame], day: str) -> Dataset:
    """The output of Lanner's FAR-Trans reader for these transactions and these customer and asset tables."""
    with tempfile.TemporaryDirectory() as folder:
        tables["transactions"].with_columns(totalValue=1.0).write_csv(Path(folder) / "transactions.csv")
        for name in TABLES[2:]:
            tables[name].filter(pl.col("timestamp") <= day).write_csv(Path(folder) / f"{name}.csv")
        dataset = load(Path(folder))
    return Feedback.decide(dataset.interactions, from_dict(SETTINGS).feedback).apply(dataset)


def fitted(name: str, dataset: Dataset) -> Recommender:
    """Fitted on all transactions; the hybrid's choices are made on the latest tenth of them."""
    recommender = registry.MODELS[name](with_seed(from_dict({"model": name, **SETTINGS}), SEED), None)
    if name in registry.CLOSED_FORMS:
        return recommender.fit(dataset)
    split = dataset.split("global-time", test=0.1, validation=0.0)
    return recommender.fit(split.train, split.test).refit(dataset)


def ranked(recommender: Recommender, moment: Moment) -> np.ndarray:
    """Rows of the best ``K`` candidates of each customer, ``[B, K]``, padded with −1."""
    users = moment.dataset.user_batch(moment.customers)
    return recommender.rank(users, K, moment.dataset.seen.take(moment.customers), moment.candidates)


def blends(recommender: Recommender, moment: Moment) -> Iterator[np.ndarray]:
    """The best ``K`` for each of ``WEIGHTS``, as in ``ranked``."""
    scores = recommender.score(moment.dataset.user_batch(moment.customers)).astype(np.float64)
    seen = moment.dataset.seen.take(moment.customers)
    allowed = np.zeros(scores.shape, np.bool_)
    allowed[:, moment.candidates] = True
    allowed[seen.row_of_value, seen.values] = False
    interest = _standardised(scores, allowed)
    earned = _standardised(np.broadcast_to(moment.past, scores.shape), allowed & np.isfinite(moment.past))
    for weight in WEIGHTS:
        # In float64: for assets unknown to the model, the differences that order them are a millionth of the rest.
        blended = np.where(allowed, interest + weight * earned, -np.inf)
        best = np.argsort(-blended, axis=1, kind="stable")[:, :K]
        yield np.where(np.isfinite(np.take_along_axis(blended, best, 1)), best, -1)


def _standardised(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Mean 0 and standard deviation 1 over the known values of each row; 0 for the others."""
    masked = np.ma.array(values, mask=~known)
    deviation = masked.std(1, keepdims=True).filled(0.0)
    centred: np.ndarray = (masked - masked.mean(1, keepdims=True)).filled(0.0)
    return centred / np.where(deviation > 0, deviation, 1.0)


def figures(moment: Moment, items: np.ndarray) -> Figures:
    """``METRICS`` of lists ``[B, K]``, or of one list for all; a customer without a relevant asset has nDCG 0."""
    earned = np.where(items >= 0, moment.roi[items], np.nan)
    monthly = (1 + earned) ** (1 / moment.months) - 1
    gains = np.zeros(1)
    if len(items) == len(moment.relevant):
        hits = find_hits(items, moment.relevant.indptr, moment.relevant.values)
        gains = ndcg(hits, np.maximum(moment.relevant.lengths, 1), K)
    return (float(gains.mean()), *(float(np.nanmean(np.nanmean(one, 1))) for one in (earned, monthly)))


def choose(curve: np.ndarray) -> int:
    """Index of the weight with the highest return among those that keep the share ``KEPT`` of the nDCG of weight 0."""
    return int(np.argmax(np.where(curve[:, 0] >= KEPT * curve[0, 0], curve[:, 1], -np.inf)))


def pareto(curve: np.ndarray) -> list[int]:
    """Indices of the Pareto-optimal weights for nDCG and ROI."""
    pairs = curve[:, :2]
    beaten = [((pairs >= one).all(1) & (pairs > one).any(1)).any() for one in pairs]
    return [place for place, lost in enumerate(beaten) if not lost]


def _named(values: Sequence[float]) -> dict[str, float]:
    return {name: round(float(value), 6) for name, value in zip(METRICS, values, strict=True)}


if __name__ == "__main__":
    main()
