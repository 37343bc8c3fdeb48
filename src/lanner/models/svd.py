"""The leading right singular vectors of a sparse matrix of any size, even one row or one column."""

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh


def right_singular(matrix_NM: sp.csr_matrix, rank: int) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Singular values, largest first, ``[K]`` and their right vectors ``[M, K]``, K = min(rank, N, M).

    From the eigenvectors of the smaller of M Mᵀ and Mᵀ M. Reproducible: the iterative solver draws random vectors to
    start from and to restart with; these are seeded here, unlike in ``scipy.sparse.linalg.svds``.
    """
    is_wide = matrix_NM.shape[0] < matrix_NM.shape[1]
    short = matrix_NM.T.tocsr() if is_wide else matrix_NM
    size = short.shape[1]
    if rank < size:
        gram = LinearOperator((size, size), matvec=lambda x: short.T @ (short @ x), dtype=short.dtype)
        basis = np.linalg.qr(eigsh(gram, k=rank, rng=0)[1])[0]
    else:  # the iterative solver cannot find all; but if all are wanted, the short side is small
        basis = np.linalg.eigh((short.T @ short).toarray())[1]
    left, values, turn = np.linalg.svd(short @ basis, full_matrices=False)
    return values, left[:, : len(values)] if is_wide else basis @ turn.T
