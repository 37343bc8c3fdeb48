"""The accelerator's request on one thread of a processor: the whole of it, and only its costliest steps."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._fpga_exactness import DIMENSIONS, K, movielens
from lanner.inference.scoring_model import ScoringModel
from lanner.inference.tables import Int8Rows

TIMES, WARM_UP = 1000, 50
Work = Callable[[], NDArray[Any]]


def processor() -> dict[str, Any]:
    """Microseconds of each of ``works`` for a user of ml-1m with a history of mean length."""
    model, users = movielens()
    length = round(float(np.mean(users.history.lengths)))
    longest = max((users.history[user] for user in range(100)), key=len)
    found: dict[str, Any] = {"tag": "measured", "items": len(model.bias_I), "dimensions": DIMENSIONS, "history": length}
    for name, work in works(model, np.resize(longest, length)).items():
        times = _times(work)
        found[name] = {"us_p50": np.percentile(times, 50), "us_p99": np.percentile(times, 99)}
        print(f"  {name}: {found[name]['us_p50']:.1f} µs", flush=True)
    return found


def works(model: ScoringModel, rows: NDArray[np.int64]) -> dict[str, Work]:
    """By name, a call that answers a user with a history of rows of the model's one INT8 table.

    numpy, faiss: the accelerator's request in float32, the ten best rows after gather, mean, scores and exclusion;
    FAISS filters by id, with a filter built per call. faiss_unfiltered: the same without exclusion. product: the scores
    alone, without bias, of a given user vector. faiss_int8: scores and list alone, over the stored codes without their
    scales and bias, of a user vector given in INT8 (FAISS multiplies codes with no wider one).
    """
    import faiss

    assert isinstance(model.source_ID, Int8Rows)
    faiss.omp_set_num_threads(1)
    codes = model.source_ID.codes.astype(np.float32)
    table = codes * model.source_ID.scale[:, None]
    index = faiss.IndexFlatIP(table.shape[1] + 1)
    index.add(np.column_stack([table, model.bias_I]).astype(np.float32))  # the bias as a dimension
    of_codes = faiss.IndexScalarQuantizer(
        table.shape[1], faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT
    )
    of_codes.train(codes)
    of_codes.add(codes)
    given = table[rows].mean(axis=0)
    integers = np.rint(given / np.abs(given).max() * 127).astype(np.float32)[None]

    def in_numpy() -> NDArray[Any]:
        scores = table @ table[rows].mean(axis=0) + model.bias_I
        scores[rows] = -np.inf
        best = np.argpartition(-scores, K)[:K]
        return best[np.argsort(-scores[best])]

    def in_faiss() -> NDArray[Any]:
        unseen = faiss.IDSelectorNot(faiss.IDSelectorBatch(rows))
        user = np.append(table[rows].mean(axis=0), np.float32(1))[None]
        return np.asarray(index.search(user, K, params=faiss.SearchParameters(sel=unseen))[1][0])

    def unfiltered() -> NDArray[Any]:
        user = np.append(table[rows].mean(axis=0), np.float32(1))[None]
        return np.asarray(index.search(user, K)[1][0])

    return {
        "numpy": in_numpy,
        "faiss": in_faiss,
        "faiss_unfiltered": unfiltered,
        "product": lambda: table @ given,
        "faiss_int8": lambda: np.asarray(of_codes.search(integers, K)[1][0]),
    }


def _times(work: Work) -> list[float]:
    """Microseconds."""
    times = []
    for _ in range(WARM_UP + TIMES):
        begun = time.perf_counter()
        work()
        times.append(1e6 * (time.perf_counter() - begun))
    return times[WARM_UP:]
