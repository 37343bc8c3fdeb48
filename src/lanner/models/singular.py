"""The leading right singular vectors of a sparse matrix of any size, even one row or one column."""

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import svds


def right_singular(matrix_NM: sp.csr_matrix, rank: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Singular values, largest first, ``[K]`` and their right vectors ``[M, K]``, K = min(rank, N, M).

    Reproducible: what the iterative solver draws, to begin from and wherever it gets stuck, is seeded.
    """
    # The iterative solver cannot give all directions; where so many are asked for, the short side is short.
    if rank >= min(matrix_NM.shape):
        return _by_gram_matrix(matrix_NM.astype(np.float64))
    _, values, right = svds(matrix_NM, k=rank, rng=0, return_singular_vectors="vh")
    return values[::-1], right[::-1].T


def _by_gram_matrix(matrix_NM: sp.csr_matrix) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """All of them, from the eigenvectors of the smaller of M Mᵀ and Mᵀ M."""
    is_wide = matrix_NM.shape[0] < matrix_NM.shape[1]
    gram = (matrix_NM @ matrix_NM.T if is_wide else matrix_NM.T @ matrix_NM).toarray()
    squares, vectors = (part[..., ::-1] for part in np.linalg.eigh(gram))
    values = np.sqrt(np.maximum(squares, 0))
    if is_wide:
        vectors = matrix_NM.T @ vectors / np.where(values > 1e-9, values, np.inf)
    return values, np.ascontiguousarray(vectors)
