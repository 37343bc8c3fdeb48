"""The hot path: sparse rows times a dense matrix, multi-threaded.

``out[r] = Σ_e values[e] · features[indices[e]]`` over the edges e of row r. Each row is summed by one thread in edge
order, so the result is bit-identical for any number of threads.
"""

from typing import Any

import numpy as np
from numba import njit, prange


@njit(parallel=True, cache=True, fastmath={"contract"}, error_model="numpy")  # type: ignore[untyped-decorator]
def multiply(chunks: Any, indptr: Any, indices: Any, values: Any, features: Any, out: Any) -> None:
    """Write ``out`` ``[rows, D]`` = CSR ``[rows, columns]`` times ``features`` ``[columns, D]``.

    features and out are C-contiguous and of one type, float32 or float64. values: float32 ``[E]``. chunks: int64, first
    row of each thread's chunk. indices: unsigned, since a signed index would be tested for wraparound at every read.
    """
    width = features.shape[1]
    for chunk in prange(len(chunks) - 1):
        total = np.empty(width, features.dtype)
        for row in range(chunks[chunk], chunks[chunk + 1]):
            total[:] = 0
            edge, last = indptr[row], indptr[row + 1]
            # Four edges at a time: every pass reads and writes the whole sum.
            while edge + 4 <= last:
                a, b, c, d = indices[edge], indices[edge + 1], indices[edge + 2], indices[edge + 3]
                of_a, of_b, of_c, of_d = values[edge], values[edge + 1], values[edge + 2], values[edge + 3]
                for k in range(width):
                    first = total[k] + of_a * features[a, k] + of_b * features[b, k]
                    total[k] = first + of_c * features[c, k] + of_d * features[d, k]
                edge += 4
            while edge < last:
                for k in range(width):
                    total[k] += values[edge] * features[indices[edge], k]
                edge += 1
            out[row] = total
