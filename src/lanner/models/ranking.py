"""Top-k of score rows."""

import numpy as np
from numpy.typing import NDArray


def top_k(scores: NDArray[np.float32], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Best k columns of each row: items int32 ``[B, k]``, scores float32 ``[B, k]``, best first.

    Ties go to the lower column. Columns scored −inf or NaN are never returned; where a row runs out, items are −1
    and scores −inf.
    """
    scores = np.where(np.isnan(scores), -np.inf, scores).astype(np.float32, copy=False)
    width = min(k, scores.shape[1])
    # A stable sort on the negated scores keeps the lower column first among equals.
    best = np.argsort(-scores, axis=1, kind="stable")[:, :width] if width else np.empty((len(scores), 0), np.int64)
    values = np.take_along_axis(scores, best, axis=1)
    items = np.where(np.isneginf(values), -1, best).astype(np.int32)
    pad = k - width
    return (
        np.pad(items, ((0, 0), (0, pad)), constant_values=-1),
        np.pad(values, ((0, 0), (0, pad)), constant_values=-np.inf),
    )
