"""The RecTools side of ``benchmarks.evaluation``; runs under its own Python, because RecTools needs NumPy 1.

    .venv-peers/bin/python benchmarks/rectools_peer.py FOLDER

FOLDER holds the arrays that ``benchmarks.evaluation`` writes. Prints JSON: seconds (ranking and metrics, without
imports and reading) and the metrics.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rectools import Columns
from rectools.metrics import MAP, MRR, NDCG, CatalogCoverage, HitRate, Precision, Recall, calc_metrics
from rectools.models.rank import Distance, ImplicitRanker
from scipy import sparse

KS = (10, 20)
METRICS = {
    "recall": Recall,
    "precision": Precision,
    "ndcg": lambda k: NDCG(k=k, divide_by_achievable=True),
    "hr": HitRate,
    "mrr": MRR,
    "map": MAP,
    "coverage": lambda k: CatalogCoverage(k=k, normalize=True),
}


def evaluate(arrays: dict[str, Any], test: pd.DataFrame) -> dict[str, float]:
    users, items = len(arrays["user_factors"]), len(arrays["item_factors"])
    seen = sparse.csr_matrix(
        (np.ones(len(arrays["train_user"]), np.float32), (arrays["train_user"], arrays["train_item"])), (users, items)
    )
    ranker = ImplicitRanker(Distance.DOT, arrays["user_factors"], arrays["item_factors"])
    user_ids, item_ids, scores = ranker.rank(np.arange(users), k=max(KS), filter_pairs_csr=seen)
    recommended = pd.DataFrame({Columns.User: user_ids, Columns.Item: item_ids, Columns.Score: scores})
    recommended[Columns.Rank] = recommended.groupby(Columns.User, sort=False).cumcount() + 1
    metrics = {f"{name}_at_{k}": make(k=k) for name, make in METRICS.items() for k in KS}
    return calc_metrics(metrics, recommended, test, catalog=np.arange(items))


def main() -> None:
    folder = Path(sys.argv[1])
    arrays = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    test = pd.DataFrame({Columns.User: arrays["test_user"], Columns.Item: arrays["test_item"]})
    begun = time.perf_counter()
    metrics = evaluate(arrays, test)
    print(json.dumps({"seconds": time.perf_counter() - begun, "metrics": metrics}))


if __name__ == "__main__":
    main()
