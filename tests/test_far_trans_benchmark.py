"""``benchmarks.far_trans`` on small markets with the columns of FAR-Trans, and its reader on the local metadata."""

import datetime
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks import far_trans

CUSTOMERS = "customerID,customerType,riskLevel,investmentCapacity,lastQuestionnaireDate,timestamp\n"
ASSETS = "ISIN,assetName,assetShortName,assetCategory,assetSubCategory,marketID,sector,industry,timestamp\n"
TRANSACTIONS = "customerID,ISIN,transactionID,transactionType,timestamp,totalValue,units,channel,marketID\n"
PRICES = "ISIN,timestamp,closePrice\n"
DAYS = ("2020-01-01", "2020-01-03", "2020-01-04")
TYPES, RISKS = ("Mass", "Premium"), ("Income", "Aggressive")
QUICK = {
    "hybrid": {"parts": ["ridge", "text", "network"]},
    "neural": {"dimensions": 4, "language_dimensions": 4, "word_dimensions": 4, "encoder": {"device": "cpu"}},
    "training": {"epochs": 1, "device": "cpu"},
}


def weekdays(first, last):
    day, end = datetime.date.fromisoformat(first), datetime.date.fromisoformat(last)
    every = (day + datetime.timedelta(days) for days in range((end - day).days + 1))
    return [one.isoformat() for one in every if one.weekday() < 5]


@pytest.fixture
def folder(tmp_path):
    """Forty customers of two kinds, twenty assets, prices of five years."""
    random, days = np.random.default_rng(0), weekdays("2018-01-02", "2022-05-31")
    walks = 10 * np.exp(random.normal(0.0002, 0.01, (20, len(days))).cumsum(1))
    walks[19] = 0.0
    prices = [f"A{row},{day},{walks[row, place]:.4f}" for row in range(20) for place, day in enumerate(days)]
    traded = [
        f"C{customer},A{(asset + 10 * (customer % 2)) % 20},{customer * 12 + asset},{'Sell' if asset == 9 else 'Buy'}"
        f",{days[random.integers(len(days))]},100.0,3,Phone Banking,XATH"
        for customer in range(40)
        for asset in random.permutation(10)[:8]
    ]
    customers = [f"C{one},{TYPES[one % 2]},{RISKS[one % 2]},CAP_LT30K,2018-01-01,2018-01-02" for one in range(40)]
    assets = [f'A{one},"Fund, {one}",F{one},{("Stock", "Bond")[one // 10]},,XATH,,,2018-01-02' for one in range(20)]
    for name, header, rows in (
        ("customer_information", CUSTOMERS, customers),
        ("asset_information", ASSETS, assets),
        ("transactions", TRANSACTIONS, traded),
        ("close_prices", PRICES, prices),
    ):
        (tmp_path / "far-trans").mkdir(exist_ok=True)
        (tmp_path / "far-trans" / f"{name}.csv").write_text(header + "\n".join(rows) + "\n")
    return tmp_path / "far-trans"


@pytest.mark.slow
@pytest.mark.usefixtures("hashed_words")
def test_every_row_of_the_benchmark(folder, monkeypatch):
    monkeypatch.setenv("LANNER_DATA", str(folder.parent))
    monkeypatch.setattr(far_trans, "SETTINGS", {**far_trans.SETTINGS, **QUICK})
    monkeypatch.setattr(far_trans, "AHEAD", 2)
    monkeypatch.setattr(far_trans, "TEST", (("2020-01-01", "2021-01-01", 1),))
    monkeypatch.setattr(far_trans, "VALIDATION", (("2019-01-01", "2019-12-31", 0),))
    recorded = []
    monkeypatch.setattr(far_trans._record, "record", lambda name, **what: recorded.append((name, what)))
    far_trans.main()
    ((name, what),) = recorded
    found = what["results"]
    assert (name, len(found["dates"])) == ("far_trans", 2)
    assert found["rows"].keys() == {*far_trans.MODELS, "market", "blend"}
    assert all(np.isfinite(list(one.values())).all() for one in found["rows"].values())
    assert found["rows"]["market"].keys() == {"roi_at_10", "monthly_roi_at_10"}
    assert found["rows"]["hybrid"] == pytest.approx(found["curve"]["0.0"], abs=1e-6)
    assert found["rows"]["hybrid"]["ndcg_at_10"] == pytest.approx(
        np.mean([one["ndcg_at_10"] for one in found["by_date"]["hybrid"]]), abs=1e-6
    )
    validation = np.array([[*one.values()] for one in found["validation_curve"].values()])
    assert found["chosen_weight"] == far_trans.WEIGHTS[far_trans.choose(validation)]
    assert found["rows"]["blend"] == found["curve"][str(found["chosen_weight"])]
    assert set(found["pareto_weights"]) <= set(far_trans.WEIGHTS)


def test_nothing_is_recorded_without_the_transactions(folder, monkeypatch, capsys):
    monkeypatch.setattr(far_trans._record, "record", lambda *_, **__: pytest.fail("recorded"))
    for name in ("transactions", "close_prices"):
        (folder / f"{name}.csv").unlink()
    monkeypatch.setenv("LANNER_DATA", str(folder.parent))
    far_trans.main()
    said = "far_trans: nothing was measured, for LANNER_DATA/far-trans lacks "
    assert capsys.readouterr().out == f"{said}transactions.csv, close_prices.csv\n"
    monkeypatch.delenv("LANNER_DATA")
    far_trans.main()
    assert capsys.readouterr().out.count("\n") == 1


def test_the_dates_are_those_of_the_protocol():
    days = weekdays("2018-01-02", "2022-11-29")
    test = [pair for period in far_trans.TEST for pair in far_trans.dates(days, *period)]
    assert len(test) == 61
    assert (test[0][1], test[28][2], test[60][2]) == ("2019-08-01", "2021-02-26", "2022-05-23")
    lengths = [np.datetime64(end) - np.datetime64(begin) for _, begin, end in test]
    assert 180 <= min(lengths).astype(int) <= max(lengths).astype(int) <= 205
    rows = [days.index(begin) for _, begin, _ in test]
    assert set(np.diff(rows[:28])) == set(np.diff(rows[29:60])) == {10}
    assert rows[0] - days.index(test[0][0]) == 126
    validation = [pair for period in far_trans.VALIDATION for pair in far_trans.dates(days, *period)]
    assert len(validation) > 10
    assert max(end for *_, end in validation) < test[0][1]


def table(header, *rows):
    return pl.read_csv((header + "\n".join(rows) + "\n").encode(), infer_schema_length=None)


def trade(customer, asset, day, kind="Buy"):
    return f"{customer},{asset},1,{kind},{day},1,1,Phone Banking,XATH"


@pytest.fixture
def market():
    """Four days. B has no last price; N is never traded before the third day."""
    closes = {"A": (1, 2, 4, 5), "B": (1, 1, 1), "N": (2, 2, 2, 3), "D": (10, 5, 10, 20)}
    rows = [f"{one},2020-01-0{1 + day},{price}" for one, prices in closes.items() for day, price in enumerate(prices)]
    return {
        "close_prices": table(PRICES, *rows),
        "customer_information": table(
            CUSTOMERS, "C1,Mass,Income,CAP_LT30K,,2020-01-01", "C1,Mass,Aggressive,CAP_LT30K,,2020-01-04"
        ),
        "asset_information": table(ASSETS, "A,Alpha,A,Stock,,X,,,2019-01-01", "N,New,N,Bond,,X,,,2020-01-03"),
        "transactions": table(
            TRANSACTIONS,
            trade("C1", "A", "2020-01-01"),
            trade("C1", "A", "2020-01-02", "Sell"),
            trade("C1", "D", "2020-01-02", "Sell"),
            trade("C2", "B", "2020-01-01"),
            trade("C2", "D", "2020-01-01"),
            trade("C4", "A", "2020-01-01"),
            trade("C4", "D", "2020-01-04"),
            trade("C2", "A", "2020-01-03"),  # on the date itself
            trade("C2", "D", "2020-01-03"),  # transacted before
            trade("C1", "B", "2020-01-04"),  # has no last price
            trade("C1", "N", "2020-01-04"),  # does not occur in training
            trade("C3", "A", "2020-01-04"),  # does not occur in training
        ),
    }


def test_what_a_date_knows_and_what_is_relevant(market):
    moment = far_trans.moment_at(market, *DAYS)
    data = moment.dataset
    assert set(data.items.external) == {"A", "B", "D", "N"}, "an asset that is listed can be ranked"
    history = {one: {data.items.external[row] for row in data.histories[data.users.row(one)]} for one in ("C1", "C2")}
    assert history == {"C1": {"A"}, "C2": {"B", "D"}}, (
        "an asset that was sold after it was bought is one that was bought"
    )
    assert {data.items.external[row] for row in data.seen[data.users.row("C1")]} == {"A", "D"}
    texts = dict(zip(data.users.external, data.user_catalogue.texts, strict=True))
    assert "Risk level: Income." in texts["C1"], "what was known on the date"
    assert [data.users.external[row] for row in moment.customers] == ["C1", "C2", "C4"]
    relevant = [[data.items.external[row] for row in moment.relevant[one]] for one in range(3)]
    assert relevant == [[], ["A"], ["D"]]
    assert {data.items.external[row] for row in moment.candidates} == {"A", "D", "N"}
    named = dict(zip(data.items.external, zip(moment.roi, moment.past, strict=True), strict=True))
    assert named["A"] == (pytest.approx(0.25), pytest.approx(3.0))
    assert named["D"] == (pytest.approx(1.0), pytest.approx(0.0))
    assert np.isnan(named["B"][0])


def test_figures_by_hand(market):
    moment = far_trans.moment_at(market, *DAYS)
    a, d, n = moment.dataset.items.rows(["A", "D", "N"])
    items = np.full((3, 10), -1, np.int32)
    items[0, :1], items[1, :2], items[2, :1] = n, (n, a), d
    found = far_trans.figures(moment, items)
    assert found[0] == pytest.approx((0 + 1 / np.log2(3) + 1) / 3)
    assert found[1] == pytest.approx((0.5 + (0.5 + 0.25) / 2 + 1) / 3)
    assert found[2] == pytest.approx((1.5**30 - 1 + (1.5**30 - 1 + 1.25**30 - 1) / 2 + 2**30 - 1) / 3)
    assert far_trans.figures(moment, np.array([[a, d, n]]))[1] == pytest.approx((0.25 + 1 + 0.5) / 3)


def test_a_blend_of_much_weight_ranks_by_the_past_return(market):
    class ByPopularity:
        def score(self, users):
            return np.zeros((len(users), 4), np.float32)

    moment = far_trans.moment_at(market, *DAYS)
    *_, last = far_trans.blends(ByPopularity(), moment)
    names = [[moment.dataset.items.external[row] for row in one if row >= 0] for one in last]
    assert names == [["N"], ["A", "N"], ["D", "N"]], (
        "the assets transacted before and those without a price are left out"
    )


def test_the_weight_that_earns_most_and_keeps_the_interest():
    curve = np.array([(0.40, 0.01, 0.0), (0.39, 0.02, 0.0), (0.385, 0.03, 0.0), (0.30, 0.09, 0.0), (0.2, 0.05, 0.0)])
    assert far_trans.choose(curve) == 2
    assert far_trans.pareto(curve) == [0, 1, 2, 3]


@pytest.mark.skipif("LANNER_DATA" not in os.environ, reason="LANNER_DATA is not set: no real FAR-Trans metadata")
def test_the_metadata_at_hand():
    tables = far_trans.read(Path(os.environ["LANNER_DATA"]) / "far-trans-metadata")
    if tables.keys() < {"asset_information", "customer_information"}:
        pytest.skip("LANNER_DATA has no far-trans-metadata")
    customer, asset = tables["customer_information"]["customerID"][0], tables["asset_information"]["ISIN"][0]
    tables["transactions"] = table(TRANSACTIONS, trade(customer, asset, "2018-01-02"))
    data = far_trans._dataset(tables, "2022-12-31")
    assert (data.num_users, data.num_items) == (29_090, 806)
    assert 0 < far_trans._dataset(tables, "2019-08-01").num_users < 29_090, "not those that came later"
    assert data.histories.lengths.sum() == 1
    assert len(data.item_catalogue.texts[data.items.row(asset)]) > 10
