"""The RecTools side of ``benchmarks.export``; runs under its own Python, because RecTools needs NumPy 1.

    .venv-peers/bin/python benchmarks/_rectools_recommend.py FOLDER K USERS

FOLDER holds the arrays that ``benchmarks.export`` writes. Recommends to the first USERS users, seen items filtered, and
prints JSON: seconds (ranking and the frame that ``recommend`` returns, without imports and reading) and the items of
the first users.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from rectools import Columns
from rectools.models.rank import Distance, ImplicitRanker
from scipy import sparse

SHOWN = 50


def main() -> None:
    folder, k, users = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    arrays = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    shape = len(arrays["user_factors"]), len(arrays["item_factors"])
    ones = np.ones(len(arrays["seen_items"]), np.float32)
    seen = sparse.csr_matrix((ones, arrays["seen_items"], arrays["seen_indptr"]), shape)
    begun = time.perf_counter()
    ranker = ImplicitRanker(Distance.DOT, arrays["user_factors"], arrays["item_factors"])
    user_ids, item_ids, scores = ranker.rank(np.arange(users), k=k, filter_pairs_csr=seen[:users])
    found = pd.DataFrame({Columns.User: user_ids, Columns.Item: item_ids, Columns.Score: scores})
    found[Columns.Rank] = found.groupby(Columns.User, sort=False).cumcount() + 1
    seconds = time.perf_counter() - begun
    shown = found[found[Columns.User] < SHOWN].groupby(Columns.User)[Columns.Item].apply(list)
    print(json.dumps({"seconds": seconds, "items": [shown[user] for user in range(min(SHOWN, users))]}))


if __name__ == "__main__":
    main()
